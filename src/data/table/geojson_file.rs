//! Tables as a GeoJSON FeatureCollection of points (RFC 7946).

use std::io::Write;
use std::path::Path;

use anyhow::{Result, ensure};
use serde_json::{Map, Value, json};

use super::{Column, Field, Kind};
use crate::data::export::Replace;

/// A GeoJSON file under way.
pub struct Writer {
    out: Replace,
    fields: Vec<Field>,
    any: bool,
}

impl Writer {
    pub fn create(path: &Path, fields: Vec<Field>) -> Result<Writer> {
        ensure!(fields.iter().any(|f| f.kind == Kind::Geometry), "{}: no points to write as GeoJSON", path.display());
        let mut out = Replace::create(path)?;
        out.write_all(b"{\"type\":\"FeatureCollection\",\"features\":[")?;
        Ok(Writer { out, fields, any: false })
    }

    pub fn write(&mut self, columns: &[Column]) -> Result<()> {
        for row in 0..columns.first().map_or(0, Column::len) {
            let (mut properties, mut geometry) = (Map::new(), Value::Null);
            for (field, column) in self.fields.iter().zip(columns) {
                let value = match column {
                    Column::Int(v) => json!(v[row]),
                    Column::Float(v) => json!(v[row]),
                    Column::Text(v) => json!(v[row].as_deref()),
                    Column::Geometry(v) => {
                        geometry = v[row]
                            .map_or(Value::Null, |(lat, lon)| json!({"type": "Point", "coordinates": [lon, lat]}));
                        continue;
                    }
                };
                properties.insert(field.name.clone(), value);
            }
            self.out.write_all(if self.any { b",\n" } else { b"\n" })?;
            self.any = true;
            serde_json::to_writer(
                &mut self.out,
                &json!({"type": "Feature", "geometry": geometry, "properties": properties}),
            )?;
        }
        Ok(())
    }

    pub fn finish(mut self) -> Result<()> {
        self.out.write_all(b"\n]}\n")?;
        Ok(self.out.finish()?)
    }
}
