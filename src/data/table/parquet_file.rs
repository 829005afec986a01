//! Tables as Parquet; points are written as GeoParquet 1.1 (WKB).

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use parquet::basic::{Compression, ConvertedType, LogicalType, Repetition, TimeUnit, Type as Physical, ZstdLevel};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::column::writer::ColumnWriter;
use parquet::data_type::{ByteArray, DataType};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::{ColumnDescriptor, Type};

use super::{BATCH_ROWS, Batch, Column, Field, Kind};
use crate::data::export::Replace;
use crate::data::pages::{self, Pages};

fn open(path: &Path) -> Result<SerializedFileReader<Pages>> {
    let file = File::open(path).with_context(|| format!("{}: cannot be read", path.display()))?;
    pages::open(file).with_context(|| format!("{}: not a whole Parquet file (cut off?)", path.display()))
}

/// The column of points that GeoParquet's metadata names, else `geometry`.
fn geometry(reader: &SerializedFileReader<Pages>) -> String {
    let pairs = reader.metadata().file_metadata().key_value_metadata();
    let geo = pairs.and_then(|p| p.iter().find(|kv| kv.key == "geo")?.value.clone());
    let geo = geo.and_then(|text| serde_json::from_str::<serde_json::Value>(&text).ok());
    geo.and_then(|g| Some(g["primary_column"].as_str()?.to_string())).unwrap_or_else(|| "geometry".into())
}

/// The kind of a flat column; None for what has no place in a table of cells.
fn kind(column: &ColumnDescriptor, geometry: &str) -> Option<Kind> {
    if column.max_rep_level() > 0 || column.path().parts().len() > 1 {
        return None;
    }
    match column.physical_type() {
        Physical::INT96 => Some(Kind::Text),
        Physical::INT32 | Physical::INT64 if unit(column).is_some() => Some(Kind::Text),
        Physical::BOOLEAN | Physical::INT32 | Physical::INT64 => Some(Kind::Int),
        Physical::FLOAT | Physical::DOUBLE => Some(Kind::Float),
        Physical::BYTE_ARRAY if column.name() == geometry => Some(Kind::Geometry),
        Physical::BYTE_ARRAY => Some(Kind::Text),
        Physical::FIXED_LEN_BYTE_ARRAY => None,
    }
}

/// Units per second of a timestamp; 0 for a date in days.
fn unit(column: &ColumnDescriptor) -> Option<i64> {
    match (column.logical_type_ref(), column.converted_type()) {
        (Some(LogicalType::Timestamp(t)), _) => Some(match t.unit {
            TimeUnit::MILLIS => 1_000,
            TimeUnit::MICROS => 1_000_000,
            TimeUnit::NANOS => 1_000_000_000,
        }),
        (Some(LogicalType::Date), _) | (_, ConvertedType::DATE) => Some(0),
        (_, ConvertedType::TIMESTAMP_MILLIS) => Some(1_000),
        (_, ConvertedType::TIMESTAMP_MICROS) => Some(1_000_000),
        _ => None,
    }
}

/// The flat columns, in the file's order.
pub fn fields(path: &Path) -> Result<Vec<Field>> {
    let reader = open(path)?;
    let schema = reader.metadata().file_metadata().schema_descr();
    let geometry = geometry(&reader);
    Ok(schema.columns().iter().filter_map(|c| Some(Field::new(c.name(), kind(c, &geometry)?))).collect())
}

/// Reads the columns with these indices (of `fields`).
pub fn read(path: &Path, fields: &[Field], columns: &[usize], each: &mut dyn FnMut(Batch) -> Result<()>) -> Result<()> {
    let reader = open(path)?;
    let schema = reader.metadata().file_metadata().schema_descr_ptr();
    let geometry = geometry(&reader);
    let leaf =
        |&c: &usize| schema.columns().iter().position(|d| d.name() == fields[c].name && kind(d, &geometry).is_some());
    let leaves: Vec<usize> = columns.iter().filter_map(leaf).collect();
    ensure!(leaves.len() == columns.len(), "{}: changed while it was read", path.display());
    let mut first_row = 0;
    for g in 0..reader.num_row_groups() {
        let broken = || format!("{}: row group {g} cannot be read (damaged file?)", path.display());
        let group = reader.get_row_group(g).with_context(broken)?;
        let total = usize::try_from(group.metadata().num_rows()).with_context(broken)?;
        let mut readers = Vec::new();
        for &l in &leaves {
            readers.push((pages::caught(|| group.get_column_reader(l))?.with_context(broken)?, schema.column(l)));
        }
        let mut done = 0;
        while done < total {
            let rows = BATCH_ROWS.min(total - done);
            let columns = readers
                .iter_mut()
                .map(|(r, d)| {
                    pages::caught(|| values(r, d, rows, &geometry)).with_context(broken)?.with_context(broken)
                })
                .collect::<Result<_>>()?;
            each(Batch { first_row, rows, columns })?;
            (done, first_row) = (done + rows, first_row + rows);
        }
    }
    Ok(())
}

/// The next `rows` values of a column.
fn raw<T: DataType>(
    reader: &mut ColumnReaderImpl<T>,
    column: &ColumnDescriptor,
    rows: usize,
) -> Result<Vec<Option<T::T>>> {
    // Without room made ahead: the header's number of rows may be a lie.
    let (mut values, mut levels) = (Vec::new(), Vec::new());
    let nullable = column.max_def_level() > 0;
    let mut read = 0;
    while read < rows {
        let (records, _, _) = reader.read_records(rows - read, nullable.then_some(&mut levels), None, &mut values)?;
        ensure!(records > 0, "column `{}` ends after {read} of {rows} rows", column.name());
        read += records;
    }
    let mut values = values.into_iter();
    if nullable {
        Ok(levels.into_iter().map(|l| if l == column.max_def_level() { values.next() } else { None }).collect())
    } else {
        Ok(values.map(Some).collect())
    }
}

fn values(reader: &mut ColumnReader, column: &ColumnDescriptor, rows: usize, geometry: &str) -> Result<Column> {
    fn to<A, B>(values: Vec<Option<A>>, f: impl Fn(A) -> B) -> Vec<Option<B>> {
        values.into_iter().map(|v| v.map(&f)).collect()
    }
    let ints = |v: Vec<Option<i64>>| match unit(column) {
        None => Column::Int(v),
        Some(0) => Column::Text(to(v, |d| iso(d * 86_400)[..10].into())),
        Some(unit) => Column::Text(to(v, |t| iso(t.div_euclid(unit)).into())),
    };
    Ok(match reader {
        ColumnReader::BoolColumnReader(r) => Column::Int(to(raw(r, column, rows)?, i64::from)),
        ColumnReader::Int32ColumnReader(r) => ints(to(raw(r, column, rows)?, i64::from)),
        ColumnReader::Int64ColumnReader(r) => ints(raw(r, column, rows)?),
        ColumnReader::Int96ColumnReader(r) => Column::Text(to(raw(r, column, rows)?, |t| iso(t.to_seconds()).into())),
        ColumnReader::FloatColumnReader(r) => Column::Float(to(raw(r, column, rows)?, f64::from)),
        ColumnReader::DoubleColumnReader(r) => Column::Float(raw(r, column, rows)?),
        ColumnReader::ByteArrayColumnReader(r) if column.name() == geometry => {
            Column::Geometry(raw(r, column, rows)?.into_iter().map(|v| point(v?.data())).collect())
        }
        ColumnReader::ByteArrayColumnReader(r) => {
            Column::Text(to(raw(r, column, rows)?, |v: ByteArray| String::from_utf8_lossy(v.data()).into()))
        }
        ColumnReader::FixedLenByteArrayColumnReader(_) => {
            bail!("column `{}` has no place in a table of cells", column.name())
        }
    })
}

/// (lat, lon) of a WKB point of either byte order; None for other geometries.
fn point(wkb: &[u8]) -> Option<(f64, f64)> {
    let little = *wkb.first()? == 1;
    let word: [u8; 4] = wkb.get(1..5)?.try_into().ok()?;
    let code = if little { u32::from_le_bytes(word) } else { u32::from_be_bytes(word) };
    // EWKB marks an SRID, which stands before the position.
    let at = if code & 0x2000_0000 != 0 { 9 } else { 5 };
    let number = |k: usize| {
        let bytes: [u8; 8] = wkb.get(k..k + 8)?.try_into().ok()?;
        Some(if little { f64::from_le_bytes(bytes) } else { f64::from_be_bytes(bytes) })
    };
    if (code & 0x0FFF_FFFF) % 1000 == 1 { Some((number(at + 8)?, number(at)?)) } else { None }
}

/// Seconds since 1970 as `2020-01-31T12:00:00Z` (days to the civil calendar after Hinnant).
fn iso(seconds: i64) -> String {
    let (days, time) = (seconds.div_euclid(86_400) + 719_468, seconds.rem_euclid(86_400));
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let shifted = (5 * day + 2) / 153;
    let (month, day) = ((shifted + 2) % 12 + 1, day - (153 * shifted + 2) / 5 + 1);
    let year = year + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", time / 3600, time / 60 % 60, time % 60)
}

/// A Parquet file under way; each call of `write` makes one row group.
pub struct Writer {
    path: PathBuf,
    file: SerializedFileWriter<Replace>,
}

impl Writer {
    pub fn create(path: &Path, fields: Vec<Field>) -> Result<Writer> {
        let node = |f: &Field| {
            let (physical, logical) = match f.kind {
                Kind::Int => (Physical::INT64, None),
                Kind::Float => (Physical::DOUBLE, None),
                Kind::Text => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
                Kind::Geometry => (Physical::BYTE_ARRAY, None),
            };
            let builder = Type::primitive_type_builder(&f.name, physical).with_repetition(Repetition::OPTIONAL);
            builder.with_logical_type(logical).build().map(Arc::new)
        };
        let nodes = fields.iter().map(node).collect::<Result<_, _>>()?;
        let schema = Arc::new(Type::group_type_builder("schema").with_fields(nodes).build()?);
        let mut properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
            .set_created_by(concat!("csmoe ", env!("CARGO_PKG_VERSION")).to_string());
        for field in &fields {
            if matches!(field.kind, Kind::Float | Kind::Geometry) || field.name == "grid_cell" {
                properties = properties.set_column_dictionary_enabled(field.name.as_str().into(), false);
            }
            if field.kind == Kind::Geometry {
                let geo = serde_json::json!({
                    "version": "1.1.0",
                    "primary_column": field.name,
                    "columns": { &field.name: { "encoding": "WKB", "geometry_types": ["Point"] } },
                });
                properties =
                    properties.set_key_value_metadata(Some(vec![KeyValue::new("geo".to_string(), geo.to_string())]));
            }
        }
        let file = SerializedFileWriter::new(Replace::create(path)?, schema, Arc::new(properties.build()))?;
        Ok(Writer { path: path.to_path_buf(), file })
    }

    pub fn write(&mut self, columns: &[Column]) -> Result<()> {
        if columns.first().is_none_or(Column::is_empty) {
            return Ok(());
        }
        write_group(&mut self.file, columns).with_context(|| format!("{}: cannot be written", self.path.display()))
    }

    pub fn finish(self) -> Result<()> {
        let failed = || format!("{}: cannot be written", self.path.display());
        Ok(self.file.into_inner().with_context(failed)?.finish()?)
    }
}

fn write_group(file: &mut SerializedFileWriter<Replace>, columns: &[Column]) -> Result<()> {
    let mut group = file.next_row_group()?;
    for column in columns {
        let mut writer = group.next_column()?.context("more columns than the schema")?;
        match (writer.untyped(), column) {
            (ColumnWriter::Int64ColumnWriter(w), Column::Int(v)) => {
                let (values, levels) = split(v, |&a| a);
                w.write_batch(&values, Some(&levels), None)?;
            }
            (ColumnWriter::DoubleColumnWriter(w), Column::Float(v)) => {
                let (values, levels) = split(v, |&a| a);
                w.write_batch(&values, Some(&levels), None)?;
            }
            (ColumnWriter::ByteArrayColumnWriter(w), Column::Text(v)) => {
                let (values, levels) = split(v, |a| ByteArray::from(&**a));
                w.write_batch(&values, Some(&levels), None)?;
            }
            (ColumnWriter::ByteArrayColumnWriter(w), Column::Geometry(v)) => {
                let (values, levels) = split(v, |&(lat, lon)| {
                    let mut wkb = vec![1, 1, 0, 0, 0];
                    wkb.extend(lon.to_le_bytes());
                    wkb.extend(lat.to_le_bytes());
                    ByteArray::from(wkb)
                });
                w.write_batch(&values, Some(&levels), None)?;
            }
            _ => bail!("a column of another kind than the schema's"),
        }
        writer.close()?;
    }
    group.close()?;
    Ok(())
}

/// The values that are not null, and 1 or 0 for each.
fn split<A, B>(values: &[Option<A>], f: impl Fn(&A) -> B) -> (Vec<B>, Vec<i16>) {
    (values.iter().flatten().map(f).collect(), values.iter().map(|v| i16::from(v.is_some())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_civil() {
        // from `date -u -d @...`
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (-1, "1969-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(iso(seconds), text);
        }
    }

    #[test]
    fn points_of_both_byte_orders() {
        let mut little = vec![1, 1, 0, 0, 0];
        little.extend([5.5f64.to_le_bytes(), (-3.25f64).to_le_bytes()].concat());
        let mut big = vec![0, 0, 0, 0, 1];
        big.extend([5.5f64.to_be_bytes(), (-3.25f64).to_be_bytes()].concat());
        let mut srid = vec![1, 1, 0, 0, 0x20, 0xE6, 0x10, 0, 0];
        srid.extend(&little[5..]);
        for wkb in [&little, &big, &srid] {
            assert_eq!(point(wkb), Some((-3.25, 5.5)));
        }
        assert_eq!(point(&little[..20]), None);
        assert_eq!(point(&[1, 3, 0, 0, 0]), None);
    }
}
