//! Class rasters read at points: one file, a VRT, or a mosaic of tiles, each block decoded once.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use gdal::raster::ResampleAlg;
use gdal::spatial_ref::{AxisMappingStrategy, CoordTransform, SpatialRef};
use gdal::{Dataset, GeoTransformEx};
use rayon::prelude::*;

use super::grid::Point;
use super::pictures::Land;

/// What a raster says of a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// No tile reaches there.
    Outside,
    Nodata,
    Class(i32),
}

/// Where a value was read, for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pixel {
    pub path: PathBuf,
    pub row: usize,
    pub column: usize,
}

/// One file of a mosaic.
struct Tile {
    path: PathBuf,
    /// From the tile's coordinates to pixels: GDAL's six numbers, inverted.
    to_pixel: [f64; 6],
    /// Columns and rows.
    size: (usize, usize),
    block: (usize, usize),
    nodata: Option<f64>,
    /// Well-known text of its system where that is not longitude and latitude.
    projection: Option<String>,
    /// West, south, east, north in degrees.
    bounds: [f64; 4],
}

/// Tiles that cover an area together; of tiles that overlap the first by name counts.
pub struct Mosaic {
    tiles: Vec<Tile>,
    /// Lines to tell the user: projections, missing nodata values.
    pub notes: Vec<String>,
}

/// A point's pixel: tile, block in the tile, pixel in the block.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Address {
    tile: u32,
    block: u32,
    pixel: u32,
    point: u32,
}

impl Mosaic {
    /// Opens a raster, every `.tif`, `.tiff` or `.vrt` of a folder, or the files that a pattern with `*` or `?` in its last part names.
    pub fn open(spec: &Path) -> Result<Mosaic> {
        let paths = expand(spec)?;
        let mut notes = Vec::new();
        let tiles = paths.iter().map(|path| Tile::open(path, &mut notes)).collect::<Result<Vec<_>>>()?;
        notes.dedup();
        Ok(Mosaic { tiles, notes })
    }

    /// The files, for the manifest.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.tiles.iter().map(|t| t.path.as_path())
    }

    /// The nearest pixel of every point, by blocks over rayon's threads. Also returns how many blocks were read.
    pub fn read(&self, points: &[Point]) -> Result<(Vec<Value>, usize)> {
        let mut addresses = self.addresses(points)?;
        addresses.par_sort_unstable();
        let mut values = vec![Value::Outside; points.len()];
        let blocks: Vec<&[Address]> = addresses.chunk_by(|a, b| (a.tile, a.block) == (b.tile, b.block)).collect();
        // A thread opens a tile once for its run of blocks.
        let run = blocks.len().div_ceil(rayon::current_num_threads() * 4).max(1);
        let read = blocks.par_chunks(run).map(|blocks| self.read_blocks(blocks)).collect::<Result<Vec<_>>>()?;
        for (point, value) in read.into_iter().flatten() {
            values[point as usize] = value;
        }
        Ok((values, blocks.len()))
    }

    /// Where it has a class other than 0, for the coast lines of a map.
    pub fn land(&self) -> Result<Land> {
        let points: Vec<Point> = Land::centres().map(|(lat, lon)| Point { lat, lon }).collect();
        let values = self.read(&points)?.0;
        Ok(Land::new(values.into_iter().map(|v| matches!(v, Value::Class(c) if c != 0)).collect()))
    }

    /// Where a point is read.
    pub fn pixel(&self, point: Point) -> Result<Option<Pixel>> {
        Ok(self.addresses(&[point])?.first().map(|a| {
            let tile = &self.tiles[a.tile as usize];
            let across = tile.size.0.div_ceil(tile.block.0);
            let (by, bx) = (a.block as usize / across, a.block as usize % across);
            let (py, px) = (a.pixel as usize / tile.block.0, a.pixel as usize % tile.block.0);
            Pixel { path: tile.path.clone(), row: by * tile.block.1 + py, column: bx * tile.block.0 + px }
        }))
    }

    fn addresses(&self, points: &[Point]) -> Result<Vec<Address>> {
        let index = BucketIndex::new(&self.tiles);
        let chunk = points.len().div_ceil(rayon::current_num_threads() * 4).max(1);
        let found = points
            .par_chunks(chunk)
            .enumerate()
            .map(|(c, points)| {
                let mut transforms: Vec<Option<CoordTransform>> = Vec::new();
                transforms.resize_with(self.tiles.len(), || None);
                let mut found = Vec::with_capacity(points.len());
                for (i, point) in points.iter().enumerate() {
                    for &t in index.candidates(*point) {
                        let tile = &self.tiles[t as usize];
                        if let Some((block, pixel)) = tile.locate(*point, &mut transforms[t as usize])? {
                            found.push(Address { tile: t, block, pixel, point: (c * chunk + i) as u32 });
                            break;
                        }
                    }
                }
                Ok(found)
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(found.concat())
    }

    fn read_blocks(&self, blocks: &[&[Address]]) -> Result<Vec<(u32, Value)>> {
        let mut found = Vec::new();
        let mut open: Option<(u32, Dataset)> = None;
        for block in blocks {
            let t = block[0].tile;
            let tile = &self.tiles[t as usize];
            if open.as_ref().is_none_or(|o| o.0 != t) {
                open = Some((t, dataset(&tile.path)?));
            }
            let Some((_, dataset)) = &open else { continue };
            tile.read_block(dataset, block, &mut found)?;
        }
        Ok(found)
    }
}

impl Tile {
    fn open(path: &Path, notes: &mut Vec<String>) -> Result<Tile> {
        let shown = path.display();
        let raster = dataset(path)?;
        ensure!(raster.raster_count() >= 1, "{shown}: no raster band in it");
        let transform = raster.geo_transform().with_context(|| {
            format!("{shown}: no geotransform, so its pixels have no place: georeference it (gdal_edit -a_ullr)")
        })?;
        let to_pixel = transform.invert().with_context(|| format!("{shown}: its geotransform cannot be inverted"))?;
        let size = raster.raster_size();
        let band = raster.rasterband(1)?;
        let nodata = band.no_data_value();
        if nodata.is_none() {
            notes.push(format!("{shown}: no nodata value: only the class table tells what is no data"));
        }
        if transform[2] != 0.0 || transform[4] != 0.0 {
            notes.push(format!("{shown}: rotated: read through its full geotransform"));
        }
        let corners = [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0)];
        let corners = corners.map(|(x, y)| transform.apply(x * size.0 as f64, y * size.1 as f64));
        let fold = |f: fn(f64, f64) -> f64, of: fn(&(f64, f64)) -> f64| corners.iter().map(of).reduce(f).unwrap_or(0.0);
        let own = [fold(f64::min, |c| c.0), fold(f64::min, |c| c.1), fold(f64::max, |c| c.0), fold(f64::max, |c| c.1)];
        let (projection, bounds) = match raster.spatial_ref() {
            Ok(system) if system.is_geographic() => (None, own),
            Ok(mut system) => {
                system.set_axis_mapping_strategy(AxisMappingStrategy::TraditionalGisOrder);
                let name = system.name().unwrap_or_default();
                notes.push(format!("{shown}: in {name}, not in degrees: the points are projected into it"));
                let back = CoordTransform::new(&system, &degrees()?)?;
                let bounds = back.transform_bounds(&own, 21).unwrap_or([-180.0, -90.0, 180.0, 90.0]);
                // Over a pole or the date line a box of degrees means nothing.
                let whole = bounds[0] > bounds[2] || bounds[3] > 85.0 || bounds[1] < -85.0;
                (Some(system.to_wkt()?), if whole { [-180.0, -90.0, 180.0, 90.0] } else { bounds })
            }
            Err(_) if own[0] >= -180.5 && own[2] <= 360.5 && own[1] >= -90.5 && own[3] <= 90.5 => {
                notes.push(format!("{shown}: no coordinate system: taken as degrees"));
                (None, own)
            }
            Err(_) => {
                bail!("{shown}: no coordinate system, and its extent is not in degrees: assign one (gdal_edit -a_srs)")
            }
        };
        Ok(Tile { path: path.to_path_buf(), to_pixel, size, block: band.block_size(), nodata, projection, bounds })
    }

    /// The block and the pixel in it that hold a point.
    fn locate(&self, point: Point, transform: &mut Option<CoordTransform>) -> Result<Option<(u32, u32)>> {
        let (mut x, mut y) = ([point.lon], [point.lat]);
        if let Some(wkt) = &self.projection {
            if transform.is_none() {
                let mut system = SpatialRef::from_wkt(wkt)?;
                system.set_axis_mapping_strategy(AxisMappingStrategy::TraditionalGisOrder);
                *transform = Some(CoordTransform::new(&degrees()?, &system)?);
            }
            // A point that has no image in the projection is outside.
            if transform.as_ref().is_none_or(|t| t.transform_coords(&mut x, &mut y, &mut [0.0]).is_err()) {
                return Ok(None);
            }
        }
        let place = |x: f64, y: f64| {
            let (column, row) = self.to_pixel.apply(x, y);
            let inside = column >= 0.0 && row >= 0.0 && column < self.size.0 as f64 && row < self.size.1 as f64;
            inside.then_some((column as usize, row as usize))
        };
        // Some global rasters run from 0 to 360 degrees.
        let pixel =
            place(x[0], y[0]).or_else(|| if self.projection.is_none() { place(x[0] + 360.0, y[0]) } else { None });
        Ok(pixel.map(|(column, row)| {
            let across = self.size.0.div_ceil(self.block.0);
            let block = row / self.block.1 * across + column / self.block.0;
            let pixel = row % self.block.1 * self.block.0 + column % self.block.0;
            (block as u32, pixel as u32)
        }))
    }

    fn read_block(&self, dataset: &Dataset, points: &[Address], found: &mut Vec<(u32, Value)>) -> Result<()> {
        let across = self.size.0.div_ceil(self.block.0);
        let (by, bx) = (points[0].block as usize / across, points[0].block as usize % across);
        let (x, y) = (bx * self.block.0, by * self.block.1);
        let (w, h) = (self.block.0.min(self.size.0 - x), self.block.1.min(self.size.1 - y));
        let pixels = dataset
            .rasterband(1)?
            .read_as::<f64>((x as isize, y as isize), (w, h), (w, h), Some(ResampleAlg::NearestNeighbour))
            .with_context(|| {
                format!("{}: row {y}, column {x}: this block cannot be read (damaged file?)", self.path.display())
            })?;
        for address in points {
            let (py, px) = (address.pixel as usize / self.block.0, address.pixel as usize % self.block.0);
            let value = pixels.data()[py * w + px];
            let class = if value.is_nan() || Some(value) == self.nodata {
                Value::Nodata
            } else {
                let (row, column) = (y + py, x + px);
                let whole = value.fract() == 0.0 && value.abs() < 2_147_483_648.0;
                ensure!(
                    whole,
                    "{}: row {row}, column {column}: value {value}: expected whole class numbers",
                    self.path.display()
                );
                Value::Class(value as i32)
            };
            found.push((address.point, class));
        }
        Ok(())
    }
}

fn dataset(path: &Path) -> Result<Dataset> {
    Dataset::open(path).with_context(|| format!("{}: not a raster that GDAL can open", path.display()))
}

/// Longitude and latitude on WGS 84, in this order.
fn degrees() -> Result<SpatialRef> {
    let mut system = SpatialRef::from_epsg(4326)?;
    system.set_axis_mapping_strategy(AxisMappingStrategy::TraditionalGisOrder);
    Ok(system)
}

/// Tiles by squares of one degree.
struct BucketIndex {
    buckets: Vec<Vec<u32>>,
}

impl BucketIndex {
    fn new(tiles: &[Tile]) -> BucketIndex {
        let mut buckets = vec![Vec::new(); 360 * 180];
        for (t, tile) in tiles.iter().enumerate() {
            let [west, south, east, north] = tile.bounds;
            for lat in bucket(south, 90.0, 179)..=bucket(north, 90.0, 179) {
                let (first, last) = ((west + 180.0).floor() as i64, (east + 180.0).floor() as i64);
                for lon in first..=last.min(first + 359) {
                    buckets[lat * 360 + lon.rem_euclid(360) as usize].push(t as u32);
                }
            }
        }
        BucketIndex { buckets }
    }

    fn candidates(&self, p: Point) -> &[u32] {
        &self.buckets[bucket(p.lat, 90.0, 179) * 360 + bucket(p.lon, 180.0, 359)]
    }
}

fn bucket(degrees: f64, origin: f64, last: usize) -> usize {
    ((degrees + origin).floor().max(0.0) as usize).min(last)
}

/// The files that a path, a folder or a pattern names, sorted.
fn expand(spec: &Path) -> Result<Vec<PathBuf>> {
    let shown = spec.display();
    let name = spec.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let pattern = name.contains(['*', '?']);
    if !pattern && !spec.is_dir() {
        return Ok(vec![spec.to_path_buf()]);
    }
    let folder =
        if pattern { spec.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")) } else { spec };
    let wanted = |path: &Path| {
        let file = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if pattern {
            matches(name.as_bytes(), file.as_bytes())
        } else {
            ["tif", "tiff", "vrt"].contains(&super::table::extension(path).as_str())
        }
    };
    let entries = std::fs::read_dir(folder).with_context(|| format!("{}: cannot be listed", folder.display()))?;
    let mut paths: Vec<PathBuf> =
        entries.filter_map(|e| e.ok().map(|e| e.path())).filter(|p| p.is_file() && wanted(p)).collect();
    paths.sort();
    ensure!(!paths.is_empty(), "{shown}: no raster there: expected .tif, .tiff or .vrt files");
    Ok(paths)
}

/// Whether a name matches a pattern of `*` and `?`.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern.first(), name.first()) {
        (None, None) => true,
        (Some(b'*'), _) => matches(&pattern[1..], name) || (!name.is_empty() && matches(pattern, &name[1..])),
        (Some(b'?'), Some(_)) => matches(&pattern[1..], &name[1..]),
        (Some(a), Some(b)) => a == b && matches(&pattern[1..], &name[1..]),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
