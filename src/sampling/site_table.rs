//! Grid cells as a table.

use std::sync::Arc;

use rayon::prelude::*;

use super::grid::{Cell, Site};
use super::table::{Column, Field, Kind};

/// The columns of grid cells, as Major TOM's metadata names them.
pub fn fields() -> Vec<Field> {
    vec![
        Field::new("grid_cell", Kind::Text),
        Field::new("grid_row_u", Kind::Int),
        Field::new("grid_col_r", Kind::Int),
        Field::new("centre_lat", Kind::Float),
        Field::new("centre_lon", Kind::Float),
        Field::new("crs", Kind::Text),
        Field::new("geometry", Kind::Geometry),
    ]
}

/// The values of [`fields`].
pub fn columns(sites: &[Site]) -> Vec<Column> {
    let crs: Vec<Arc<str>> = (0..200).map(|i| format!("EPSG:{}", 32_600 + i).into()).collect();
    let code = |cell: Cell| Some(crs[cell.zone().epsg() as usize - 32_600].clone());
    vec![
        Column::Text(sites.par_iter().map(|s| Some(s.cell.name().into())).collect()),
        Column::Int(sites.iter().map(|s| Some(i64::from(s.cell.row))).collect()),
        Column::Int(sites.iter().map(|s| Some(i64::from(s.cell.col))).collect()),
        Column::Float(sites.iter().map(|s| Some(s.centre.lat)).collect()),
        Column::Float(sites.iter().map(|s| Some(s.centre.lon)).collect()),
        Column::Text(sites.iter().map(|s| code(s.cell)).collect()),
        Column::Geometry(sites.iter().map(|s| Some((s.centre.lat, s.centre.lon))).collect()),
    ]
}
