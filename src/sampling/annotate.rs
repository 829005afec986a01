//! Descriptors (the paper's Algorithm 1): the climate and the thematic class at every cell's centre.
//!
//! Two passes over the cells: the first keeps coordinates only, so that every raster block is read once, whatever the
//! order of the rows; the second copies the rows that have both classes. Memory is about 40 bytes a row.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};

use super::area::Area;
use super::classes::ClassTable;
use super::filter::Filter;
use super::grid::{self, Point, Site};
use super::raster::{Mosaic, Value};
use super::site_table;
use super::table::{BATCH_ROWS, Column, Coordinates, Field, Kind, Table, Writer};

/// A raster and what its values mean.
pub struct Layer {
    pub mosaic: Mosaic,
    pub classes: ClassTable,
}

/// What to describe and where to write it.
pub struct Request<'a> {
    /// None: the whole grid.
    pub table: Option<PathBuf>,
    pub area: Area,
    pub filters: Vec<Filter>,
    pub climate: &'a Layer,
    pub thematic: &'a Layer,
    /// Pass over values that are in no class table, instead of stopping.
    pub skip_unknown: bool,
    pub out: PathBuf,
}

/// How many rows went which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    pub read: usize,
    /// Fell to a filter or lie outside the area.
    pub filtered: usize,
    pub outside_climate: usize,
    pub outside_thematic: usize,
    pub nodata_climate: usize,
    pub nodata_thematic: usize,
    /// Values in no class table, passed over on request.
    pub unknown: usize,
    pub written: usize,
    /// Raster blocks decoded, of both layers.
    pub blocks: usize,
}

/// The columns that every annotated table has after the columns it brings along.
const CLASS_FIELDS: [(&str, Kind); 4] =
    [("climate", Kind::Int), ("climate_name", Kind::Text), ("thematic", Kind::Int), ("thematic_name", Kind::Text)];

/// Reads the descriptors and writes the annotated table.
pub fn annotate(request: &Request) -> Result<Counts> {
    match &request.table {
        None => annotate_grid(request),
        Some(path) => annotate_table(request, path),
    }
}

fn annotate_grid(request: &Request) -> Result<Counts> {
    let sites = grid::sites(&request.area);
    let points: Vec<Point> = sites.iter().map(|s| s.centre).collect();
    let mut counts = Counts { read: sites.len(), ..Counts::default() };
    let classes = describe(request, &points, &mut counts)?;
    drop(points);
    let kept: Vec<(Site, Classes)> = sites.into_iter().zip(classes).filter_map(|(s, c)| c.map(|c| (s, c))).collect();
    let mut writer = Writer::create(&request.out, with_classes(site_table::fields()))?;
    for part in kept.chunks(BATCH_ROWS) {
        let mut columns = site_table::columns(&part.iter().map(|p| p.0).collect::<Vec<_>>());
        append_classes(&mut columns, part.iter().map(|p| p.1), request);
        move_geometry_last(&mut columns);
        writer.write(&columns)?;
    }
    writer.finish()?;
    Ok(counts)
}

fn annotate_table(request: &Request, path: &Path) -> Result<Counts> {
    let table = Table::open(path)?;
    let coordinates = Coordinates::find(&table)?;
    let mut wanted = coordinates.columns();
    let first_filter = wanted.len();
    for filter in &request.filters {
        wanted.push(filter.index(&table)?);
    }
    let mut counts = Counts::default();
    let (mut points, mut kept) = (Vec::new(), Vec::new());
    table.read(&wanted, &mut |batch| {
        for row in 0..batch.rows {
            let mut keep = true;
            for (filter, column) in request.filters.iter().zip(&batch.columns[first_filter..]) {
                keep = keep && filter.passes(column, row, || table.place(batch.first_row + row, &filter.column))?;
            }
            if keep {
                let (lat, lon) = coordinates.at(&table, &batch, row)?;
                let point = Point { lat, lon };
                keep = request.area.contains(point);
                if keep {
                    points.push(point);
                }
            }
            kept.push(keep);
        }
        Ok(())
    })?;
    counts.read = kept.len();
    counts.filtered = kept.len() - points.len();
    let classes = describe(request, &points, &mut counts)?;
    drop(points);
    copy_rows(request, &table, &coordinates, &kept, &classes)?;
    Ok(counts)
}

/// The second pass: the table's own columns, its classes and its points.
fn copy_rows(
    request: &Request,
    table: &Table,
    coordinates: &Coordinates,
    kept: &[bool],
    classes: &[Option<Classes>],
) -> Result<()> {
    let own = |f: &Field| f.kind != Kind::Geometry && CLASS_FIELDS.iter().all(|c| c.0 != f.name);
    let brought: Vec<usize> = (0..table.fields.len()).filter(|&i| own(&table.fields[i])).collect();
    let mut fields: Vec<Field> = brought.iter().map(|&i| table.fields[i].clone()).collect();
    if matches!(coordinates, Coordinates::Geometry(_)) {
        fields.extend([Field::new("centre_lat", Kind::Float), Field::new("centre_lon", Kind::Float)]);
    }
    fields.push(Field::new("geometry", Kind::Geometry));
    let mut writer = Writer::create(&request.out, with_classes(fields))?;
    let first_own = coordinates.columns().len();
    let wanted: Vec<usize> = coordinates.columns().into_iter().chain(brought).collect();
    let mut classes = classes.iter();
    table.read(&wanted, &mut |batch| {
        let mut chosen = Vec::with_capacity(batch.rows);
        let mut found = Vec::new();
        for row in 0..batch.rows {
            let class =
                if kept.get(batch.first_row + row) == Some(&true) { classes.next().copied().flatten() } else { None };
            chosen.push(class.is_some());
            found.extend(class);
        }
        let mut places = Vec::with_capacity(found.len());
        for row in (0..batch.rows).filter(|&r| chosen[r]) {
            places.push(coordinates.at(table, &batch, row)?);
        }
        let mut columns: Vec<Column> = batch.columns[first_own..].iter().map(|c| c.select(&chosen)).collect();
        if matches!(coordinates, Coordinates::Geometry(_)) {
            columns.push(Column::Float(places.iter().map(|p| Some(p.0)).collect()));
            columns.push(Column::Float(places.iter().map(|p| Some(p.1)).collect()));
        }
        columns.push(Column::Geometry(places.into_iter().map(Some).collect()));
        append_classes(&mut columns, found.into_iter(), request);
        move_geometry_last(&mut columns);
        writer.write(&columns)
    })?;
    writer.finish()
}

/// Climate and thematic class of a cell.
type Classes = (i32, i32);

/// Both classes of every point that has them.
fn describe(request: &Request, points: &[Point], counts: &mut Counts) -> Result<Vec<Option<Classes>>> {
    ensure!(
        points.len() < u32::MAX as usize,
        "{} cells: more than one run can describe; split the table",
        points.len()
    );
    let (climate, climate_blocks) = request.climate.mosaic.read(points)?;
    let (thematic, thematic_blocks) = request.thematic.mosaic.read(points)?;
    counts.blocks = climate_blocks + thematic_blocks;
    let mut classes = Vec::with_capacity(points.len());
    for ((&point, &u), &v) in points.iter().zip(&climate).zip(&thematic) {
        let nodata = |layer: &Layer, value: Value| match value {
            Value::Class(c) if layer.classes.is_nodata(c) => Value::Nodata,
            other => other,
        };
        let class = match (nodata(request.climate, u), nodata(request.thematic, v)) {
            (Value::Outside, _) => Err(&mut counts.outside_climate),
            (_, Value::Outside) => Err(&mut counts.outside_thematic),
            (Value::Nodata, _) => Err(&mut counts.nodata_climate),
            (_, Value::Nodata) => Err(&mut counts.nodata_thematic),
            (Value::Class(u), Value::Class(v)) => {
                let unknown =
                    [(request.climate, u), (request.thematic, v)].into_iter().find(|(l, c)| !l.classes.has(*c));
                match unknown {
                    None => Ok((u, v)),
                    Some(_) if request.skip_unknown => Err(&mut counts.unknown),
                    Some((layer, class)) => return Err(unknown_class(layer, class, point)?),
                }
            }
        };
        classes.push(match class {
            Ok(class) => Some(class),
            Err(counter) => {
                *counter += 1;
                None
            }
        });
    }
    counts.written = classes.iter().flatten().count();
    ensure!(
        counts.written > 0,
        "no cell is left of {}: {} filtered, {} outside a raster, {} without data; check --where, the area and the rasters",
        counts.read,
        counts.filtered,
        counts.outside_climate + counts.outside_thematic,
        counts.nodata_climate + counts.nodata_thematic
    );
    Ok(classes)
}

fn unknown_class(layer: &Layer, class: i32, point: Point) -> Result<anyhow::Error> {
    let pixel = layer.mosaic.pixel(point)?.context("a class was read outside the raster")?;
    let (path, row, column) = (pixel.path.display(), pixel.row, pixel.column);
    let (source, values) = (&layer.classes.source, layer.classes.values());
    Ok(anyhow::anyhow!(
        "{path}: row {row}, column {column}: class {class} is not in the table `{source}` ({values}): add it there, or pass --skip-unknown"
    ))
}

fn with_classes(mut fields: Vec<Field>) -> Vec<Field> {
    let geometry = fields.pop();
    fields.extend(CLASS_FIELDS.iter().map(|(name, kind)| Field::new(name, *kind)));
    fields.extend(geometry);
    fields
}

/// The class columns were appended after the geometry, which readers expect last.
fn move_geometry_last(columns: &mut Vec<Column>) {
    let at = columns.len() - 1 - CLASS_FIELDS.len();
    let geometry = columns.remove(at);
    columns.push(geometry);
}

fn append_classes(columns: &mut Vec<Column>, classes: impl Iterator<Item = Classes> + Clone, request: &Request) {
    let mut push = |layer: &Layer, of: fn(Classes) -> i32| {
        let mut names = std::collections::HashMap::<i32, Arc<str>>::new();
        let values: Vec<i32> = classes.clone().map(of).collect();
        let name = |&c: &i32| Some(names.entry(c).or_insert_with(|| layer.classes.name(c)).clone());
        let names: Vec<Option<Arc<str>>> = values.iter().map(name).collect();
        columns.push(Column::Int(values.into_iter().map(|c| Some(i64::from(c))).collect()));
        columns.push(Column::Text(names));
    };
    push(request.climate, |c| c.0);
    push(request.thematic, |c| c.1);
}
