//! Tables of cells, read and written in batches, so that memory does not grow with the file.
//!
//! Read: Parquet (also GeoParquet) and CSV. Written: GeoParquet, CSV, GeoJSON and a plain list for the downloader.

mod csv_file;
mod geojson_file;
#[cfg(feature = "parquet")]
mod parquet_file;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};

/// Rows of a batch.
pub const BATCH_ROWS: usize = 131_072;

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Int,
    Float,
    Text,
    /// Points as WKB.
    Geometry,
}

/// A column's name and kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    pub name: String,
    pub kind: Kind,
}

impl Field {
    pub fn new(name: &str, kind: Kind) -> Field {
        Field { name: name.to_string(), kind }
    }
}

/// The values of one column in a batch; None is null.
#[derive(Clone, Debug, PartialEq)]
pub enum Column {
    Int(Vec<Option<i64>>),
    Float(Vec<Option<f64>>),
    Text(Vec<Option<Arc<str>>>),
    /// (lat, lon), degrees.
    Geometry(Vec<Option<(f64, f64)>>),
}

impl Column {
    /// How many values.
    pub fn len(&self) -> usize {
        match self {
            Column::Int(v) => v.len(),
            Column::Float(v) => v.len(),
            Column::Text(v) => v.len(),
            Column::Geometry(v) => v.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The values where `keep` says so.
    pub fn select(&self, keep: &[bool]) -> Column {
        fn chosen<T: Clone>(values: &[T], keep: &[bool]) -> Vec<T> {
            values.iter().zip(keep).filter(|(_, k)| **k).map(|(v, _)| v.clone()).collect()
        }
        match self {
            Column::Int(v) => Column::Int(chosen(v, keep)),
            Column::Float(v) => Column::Float(chosen(v, keep)),
            Column::Text(v) => Column::Text(chosen(v, keep)),
            Column::Geometry(v) => Column::Geometry(chosen(v, keep)),
        }
    }

    /// A number, from whatever the column holds.
    pub fn number(&self, row: usize) -> Option<f64> {
        match self {
            Column::Int(v) => v[row].map(|a| a as f64),
            Column::Float(v) => v[row],
            Column::Text(v) => v[row].as_deref().and_then(|t| t.trim().parse().ok()),
            Column::Geometry(_) => None,
        }
    }

    /// The text of a value, as CSV shows it; empty for null.
    pub fn text(&self, row: usize) -> String {
        match self {
            Column::Int(v) => v[row].map(|a| a.to_string()).unwrap_or_default(),
            Column::Float(v) => v[row].map(|a| a.to_string()).unwrap_or_default(),
            Column::Text(v) => v[row].as_deref().unwrap_or_default().to_string(),
            Column::Geometry(v) => v[row].map(|(lat, lon)| format!("POINT ({lon} {lat})")).unwrap_or_default(),
        }
    }
}

/// Some rows of a table.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Index of its first row in the table.
    pub first_row: usize,
    pub rows: usize,
    /// The columns that were asked for, in that order.
    pub columns: Vec<Column>,
}

/// A table that can be read, any number of times.
#[derive(Debug)]
pub struct Table {
    pub path: PathBuf,
    pub fields: Vec<Field>,
}

impl Table {
    /// Opens a `.parquet` or `.csv` file.
    pub fn open(path: &Path) -> Result<Table> {
        let fields = match extension(path).as_str() {
            "parquet" | "geoparquet" => parquet_fields(path)?,
            "csv" => csv_file::fields(path)?,
            other => bail!("{}: cannot read tables of type `{other}`: expected .parquet or .csv", path.display()),
        };
        Ok(Table { path: path.to_path_buf(), fields })
    }

    /// The index of a column.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.fields.iter().position(|f| f.name == name)
    }

    /// The index of a column that must be there.
    pub fn require(&self, name: &str) -> Result<usize> {
        let names = || self.fields.iter().map(|f| f.name.as_str()).collect::<Vec<_>>().join(", ");
        self.find(name).with_context(|| format!("{}: no column `{name}`: it has {}", self.path.display(), names()))
    }

    /// Reads the columns with these indices, batch by batch.
    pub fn read(&self, columns: &[usize], each: &mut dyn FnMut(Batch) -> Result<()>) -> Result<()> {
        match extension(&self.path).as_str() {
            "csv" => csv_file::read(&self.path, &self.fields, columns, each),
            _ => parquet_read(&self.path, &self.fields, columns, each),
        }
    }

    /// `file: row r, column c`, rows from 0 after the header, for messages.
    pub fn place(&self, row: usize, column: &str) -> String {
        format!("{}: row {row}, column `{column}`", self.path.display())
    }
}

/// Where the rows' coordinates stand.
#[derive(Clone, Debug)]
pub enum Coordinates {
    /// Two number columns, latitude and longitude.
    Columns(usize, usize),
    /// A geometry of points.
    Geometry(usize),
}

impl Coordinates {
    /// Finds them: `centre_lat` and `centre_lon` (or `lat`/`lon`, `latitude`/`longitude`), else a point geometry.
    pub fn find(table: &Table) -> Result<Coordinates> {
        for (lat, lon) in [("centre_lat", "centre_lon"), ("lat", "lon"), ("latitude", "longitude")] {
            if let (Some(lat), Some(lon)) = (table.find(lat), table.find(lon)) {
                return Ok(Coordinates::Columns(lat, lon));
            }
        }
        let geometry = table.fields.iter().position(|f| f.kind == Kind::Geometry);
        geometry.map(Coordinates::Geometry).with_context(|| {
            format!(
                "{}: no coordinates: expected columns centre_lat and centre_lon, or a geometry of points",
                table.path.display()
            )
        })
    }

    /// The columns to read.
    pub fn columns(&self) -> Vec<usize> {
        match *self {
            Coordinates::Columns(lat, lon) => vec![lat, lon],
            Coordinates::Geometry(g) => vec![g],
        }
    }

    /// (lat, lon) of a row of a batch whose first columns are [`Coordinates::columns`]; checked.
    pub fn at(&self, table: &Table, batch: &Batch, row: usize) -> Result<(f64, f64)> {
        let (lat, lon) = match self {
            Coordinates::Columns(..) => (batch.columns[0].number(row), batch.columns[1].number(row)),
            Coordinates::Geometry(_) => match &batch.columns[0] {
                Column::Geometry(v) => (v[row].map(|p| p.0), v[row].map(|p| p.1)),
                _ => (None, None),
            },
        };
        if let (Coordinates::Geometry(g), None) = (self, lat) {
            let place = table.place(batch.first_row + row, &table.fields[*g].name);
            bail!("{place}: not a point in WKB: expected points, or columns centre_lat and centre_lon");
        }
        let names = self.columns();
        let check = |value: Option<f64>, column: usize, limit: f64| {
            let name = &table.fields[names[column.min(names.len() - 1)]].name;
            let value = value.filter(|v| v.is_finite() && v.abs() <= limit);
            value.with_context(|| {
                let text = if column < batch.columns.len() { batch.columns[column].text(row) } else { String::new() };
                let place = table.place(batch.first_row + row, name);
                format!(
                    "{place}: `{text}`: expected a number of degrees in -{limit}..{limit}; correct it or drop the row"
                )
            })
        };
        Ok((check(lat, 0, 90.0)?, check(lon, 1, 180.0)?))
    }
}

/// A table being written; the file appears only when it is finished.
pub enum Writer {
    #[cfg(feature = "parquet")]
    Parquet(Box<parquet_file::Writer>),
    Csv(Box<csv_file::Writer>),
    GeoJson(geojson_file::Writer),
}

impl Writer {
    /// Begins a `.parquet`, `.csv` or `.geojson`/`.json` file with these columns.
    pub fn create(path: &Path, fields: Vec<Field>) -> Result<Writer> {
        writable(path)?;
        match extension(path).as_str() {
            "csv" => Ok(Writer::Csv(Box::new(csv_file::Writer::create(path, fields)?))),
            "geojson" | "json" => Ok(Writer::GeoJson(geojson_file::Writer::create(path, fields)?)),
            #[cfg(feature = "parquet")]
            _ => Ok(Writer::Parquet(Box::new(parquet_file::Writer::create(path, fields)?))),
            #[cfg(not(feature = "parquet"))]
            other => bail!("{}: no writer for `{other}`", path.display()),
        }
    }

    /// Appends rows; the columns are all of the table's.
    pub fn write(&mut self, columns: &[Column]) -> Result<()> {
        let rows = columns.first().map_or(0, Column::len);
        ensure!(columns.iter().all(|c| c.len() == rows), "columns of different lengths");
        match self {
            #[cfg(feature = "parquet")]
            Writer::Parquet(w) => w.write(columns),
            Writer::Csv(w) => w.write(columns),
            Writer::GeoJson(w) => w.write(columns),
        }
    }

    /// Completes the file and gives it its name.
    pub fn finish(self) -> Result<()> {
        match self {
            #[cfg(feature = "parquet")]
            Writer::Parquet(w) => w.finish(),
            Writer::Csv(w) => w.finish(),
            Writer::GeoJson(w) => w.finish(),
        }
    }
}

/// Whether the path's type can be written.
pub fn writable(path: &Path) -> Result<()> {
    match extension(path).as_str() {
        "parquet" | "geoparquet" if cfg!(feature = "parquet") => Ok(()),
        "parquet" | "geoparquet" => {
            bail!("{}: built without the feature `parquet`: write .csv or .geojson", path.display())
        }
        "csv" | "geojson" | "json" => Ok(()),
        other => {
            bail!("{}: cannot write tables of type `{other}`: expected .parquet, .csv or .geojson", path.display())
        }
    }
}

/// A path's extension in lower case.
pub fn extension(path: &Path) -> String {
    path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default()
}

#[cfg(feature = "parquet")]
use parquet_file::{fields as parquet_fields, read as parquet_read};

#[cfg(not(feature = "parquet"))]
fn parquet_fields(path: &Path) -> Result<Vec<Field>> {
    bail!("{}: built without the feature `parquet`: convert it to .csv", path.display())
}

#[cfg(not(feature = "parquet"))]
fn parquet_read(path: &Path, _: &[Field], _: &[usize], _: &mut dyn FnMut(Batch) -> Result<()>) -> Result<()> {
    parquet_fields(path).map(drop)
}

#[cfg(test)]
mod tests;
