//! Embeddings as GeoParquet: id, embedding, and the tile's outline in longitude and latitude.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, FloatType};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use super::export::write_atomic;
use super::{Error, Geo, Result};

/// Rows in a row group: some megabytes of embeddings.
const GROUP: usize = 4096;

/// Writes one row a tile: `id` (string), `embedding` (list of float), and `geometry` (WKB polygon, null where the coordinate
/// system is unknown; the column is left out when no tile has one). `values` is [rows, columns].
pub fn embeddings(path: &Path, ids: &[String], values: &[f32], columns: usize, places: &[Option<Geo>]) -> Result<()> {
    if columns == 0 || ids.len() != places.len() || values.len() != ids.len() * columns {
        let problem =
            format!("{} ids, {} places, {} values in rows of {columns}", ids.len(), places.len(), values.len());
        return Err(Error::new(path.display(), problem, "this is a bug, report it"));
    }
    let outlines: Vec<Option<Vec<u8>>> =
        places.iter().map(|geo| geo.as_ref().and_then(Geo::lon_lat).map(polygon)).collect();
    let located = outlines.iter().any(Option::is_some);
    write_atomic(path, |file| {
        write(file, ids, values, columns, located.then_some(&outlines[..])).map_err(io::Error::other)
    })
}

fn write(
    file: &mut (dyn Write + Send),
    ids: &[String],
    values: &[f32],
    columns: usize,
    outlines: Option<&[Option<Vec<u8>>]>,
) -> std::result::Result<(), ParquetError> {
    let geometry = if outlines.is_some() { "optional binary geometry;" } else { "" };
    let schema = format!(
        "message embeddings {{ required binary id (STRING);
           required group embedding (LIST) {{ repeated group list {{ required float element; }} }} {geometry} }}"
    );
    let geo = KeyValue::new(
        "geo".into(),
        r#"{"version":"1.1.0","primary_column":"geometry","columns":{"geometry":{"encoding":"WKB","geometry_types":["Polygon"]}}}"#.to_string(),
    );
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        // Embeddings never repeat: a dictionary would only cost time.
        .set_dictionary_enabled(false)
        .set_key_value_metadata(outlines.map(|_| vec![geo]))
        .build();
    let mut writer = SerializedFileWriter::new(file, Arc::new(parse_message_type(&schema)?), Arc::new(properties))?;
    for start in (0..ids.len()).step_by(GROUP) {
        let rows = start..(start + GROUP).min(ids.len());
        let mut group = writer.next_row_group()?;
        if let Some(mut column) = group.next_column()? {
            let ids: Vec<ByteArray> = ids[rows.clone()].iter().map(|id| id.as_str().into()).collect();
            column.typed::<ByteArrayType>().write_batch(&ids, None, None)?;
            column.close()?;
        }
        if let Some(mut column) = group.next_column()? {
            // Repetition 0 begins a row's list; definition 1: the list has an element here.
            let repetition: Vec<i16> = (0..rows.len() * columns).map(|i| (i % columns != 0) as i16).collect();
            let chunk = &values[rows.start * columns..rows.end * columns];
            column.typed::<FloatType>().write_batch(chunk, Some(&vec![1; chunk.len()]), Some(&repetition))?;
            column.close()?;
        }
        if let (Some(outlines), Some(mut column)) = (outlines, group.next_column()?) {
            let present: Vec<ByteArray> =
                outlines[rows.clone()].iter().flatten().map(|wkb| wkb.clone().into()).collect();
            let definition: Vec<i16> = outlines[rows].iter().map(|outline| outline.is_some() as i16).collect();
            column.typed::<ByteArrayType>().write_batch(&present, Some(&definition), None)?;
            column.close()?;
        }
        group.close()?;
    }
    writer.close().map(drop)
}

/// A closed ring as little-endian well-known binary.
fn polygon(corners: [(f64, f64); 4]) -> Vec<u8> {
    let mut wkb = vec![1];
    // Type polygon, one ring, five points.
    [3u32, 1, 5].iter().for_each(|n| wkb.extend(n.to_le_bytes()));
    for (lon, lat) in corners.iter().chain(&corners[..1]) {
        wkb.extend(lon.to_le_bytes());
        wkb.extend(lat.to_le_bytes());
    }
    wkb
}

#[cfg(test)]
mod tests {
    use super::*;
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::{Field, RowAccessor};

    #[test]
    fn rows_come_back_over_several_groups() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("e.parquet");
        let (rows, columns) = (GROUP + 3, 3);
        let ids: Vec<String> = (0..rows).map(|i| format!("tile_{i}")).collect();
        let values: Vec<f32> = (0..rows * columns).map(|i| i as f32 * 0.25).collect();
        let geo = Geo::new([600_000.0, 10.0, 0.0, 5_000_000.0, 0.0, -10.0], "EPSG:32633", 120, 120);
        let places: Vec<Option<Geo>> = (0..rows).map(|i| (i % 2 == 0).then(|| geo.clone())).collect();
        embeddings(&path, &ids, &values, columns, &places).unwrap();
        let reader = SerializedFileReader::new(std::fs::File::open(&path).unwrap()).unwrap();
        assert_eq!(reader.num_row_groups(), 2);
        for (index, row) in reader.get_row_iter(None).unwrap().enumerate() {
            let row = row.unwrap();
            assert_eq!(*row.get_string(0).unwrap(), ids[index]);
            let list: Vec<Field> = row.get_list(1).unwrap().elements().to_vec();
            let want: Vec<Field> =
                values[index * columns..(index + 1) * columns].iter().map(|x| Field::Float(*x)).collect();
            assert_eq!(list, want);
            // 1 byte of order, type, rings, points, and five pairs of doubles.
            assert_eq!(row.get_bytes(2).map_or(0, |wkb| wkb.data().len()), if index % 2 == 0 { 93 } else { 0 });
        }
        let metadata = reader.metadata().file_metadata().key_value_metadata().unwrap();
        assert!(metadata.iter().any(|kv| kv.key == "geo" && kv.value.as_ref().unwrap().contains("WKB")));
        embeddings(&path, &ids[..2], &values[..6], 3, &[None, None]).unwrap();
        let plain = SerializedFileReader::new(std::fs::File::open(&path).unwrap()).unwrap();
        assert_eq!(plain.metadata().file_metadata().schema_descr().num_columns(), 2);
        assert!(embeddings(&path, &ids[..2], &values[..5], 3, &[None, None]).is_err());
    }
}
