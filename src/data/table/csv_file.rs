//! Tables as CSV with a header line.

use std::path::Path;

use anyhow::{Context, Result};

use super::{BATCH_ROWS, Batch, Column, Field, Kind};
use crate::data::export::Replace;

/// Columns read as whole numbers; every other is text, but for those below.
const INTS: [&str; 6] = ["grid_row_u", "grid_col_r", "parquet_row", "climate", "thematic", "n_g"];
/// Columns read as numbers.
const FLOATS: [&str; 8] = ["centre_lat", "centre_lon", "lat", "lon", "latitude", "longitude", "cloud_cover", "nodata"];

fn open(path: &Path) -> Result<csv::Reader<std::fs::File>> {
    csv::Reader::from_path(path).with_context(|| format!("{}: cannot be read", path.display()))
}

/// The columns of the header; kinds go by name.
pub fn fields(path: &Path) -> Result<Vec<Field>> {
    let mut reader = open(path)?;
    let header = reader.headers().with_context(|| format!("{}: no header line", path.display()))?;
    let kind = |name: &str| {
        if INTS.contains(&name) {
            Kind::Int
        } else if FLOATS.contains(&name) {
            Kind::Float
        } else {
            Kind::Text
        }
    };
    Ok(header.iter().map(|name| Field::new(name.trim_start_matches('\u{feff}'), kind(name))).collect())
}

fn empty(kind: Kind) -> Column {
    match kind {
        Kind::Int => Column::Int(Vec::new()),
        Kind::Float => Column::Float(Vec::new()),
        Kind::Text | Kind::Geometry => Column::Text(Vec::new()),
    }
}

/// Reads the columns with these indices.
pub fn read(path: &Path, fields: &[Field], columns: &[usize], each: &mut dyn FnMut(Batch) -> Result<()>) -> Result<()> {
    let mut reader = open(path)?;
    let fresh = || columns.iter().map(|&c| empty(fields[c].kind)).collect::<Vec<_>>();
    let (mut batch, mut first_row, mut rows) = (fresh(), 0, 0);
    let mut record = csv::StringRecord::new();
    loop {
        let more = reader.read_record(&mut record).with_context(|| {
            format!("{}: row {}: not a line of CSV with {} columns", path.display(), first_row + rows, fields.len())
        })?;
        if rows == BATCH_ROWS || (!more && rows > 0) {
            each(Batch { first_row, rows, columns: std::mem::replace(&mut batch, fresh()) })?;
            (first_row, rows) = (first_row + rows, 0);
        }
        if !more {
            return Ok(());
        }
        for (column, &index) in batch.iter_mut().zip(columns) {
            let text = record.get(index).unwrap_or_default();
            let trimmed = text.trim();
            let bad = |expected: &str| {
                let (row, name) = (first_row + rows, &fields[index].name);
                format!("{}: row {row}, column `{name}`: `{text}`: expected {expected}", path.display())
            };
            match column {
                _ if trimmed.is_empty() => match column {
                    Column::Int(v) => v.push(None),
                    Column::Float(v) => v.push(None),
                    Column::Text(v) => v.push(None),
                    Column::Geometry(v) => v.push(None),
                },
                Column::Int(v) => v.push(Some(trimmed.parse().with_context(|| bad("a whole number"))?)),
                Column::Float(v) => v.push(Some(trimmed.parse().with_context(|| bad("a number"))?)),
                Column::Text(v) => v.push(Some(text.into())),
                Column::Geometry(v) => v.push(None),
            }
        }
        rows += 1;
    }
}

/// A CSV file under way.
pub struct Writer {
    csv: csv::Writer<Replace>,
}

impl Writer {
    pub fn create(path: &Path, fields: Vec<Field>) -> Result<Writer> {
        let mut csv = csv::Writer::from_writer(Replace::create(path)?);
        csv.write_record(fields.iter().filter(|f| f.kind != Kind::Geometry).map(|f| &f.name))?;
        Ok(Writer { csv })
    }

    pub fn write(&mut self, columns: &[Column]) -> Result<()> {
        let columns: Vec<&Column> = columns.iter().filter(|c| !matches!(c, Column::Geometry(_))).collect();
        for row in 0..columns.first().map_or(0, |c| c.len()) {
            for column in &columns {
                match column {
                    Column::Text(v) => self.csv.write_field(v[row].as_deref().unwrap_or_default())?,
                    other => self.csv.write_field(other.text(row))?,
                }
            }
            self.csv.write_record(None::<&[u8]>)?;
        }
        Ok(())
    }

    pub fn finish(self) -> Result<()> {
        Ok(self.csv.into_inner().map_err(|e| e.into_error()).context("writing CSV")?.finish()?)
    }
}
