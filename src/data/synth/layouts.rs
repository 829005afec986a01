//! The procedural archive in the layouts of others: Major TOM Core, BigEarthNet v2, GEO-Bench 1.0.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, DoubleType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use rayon::prelude::*;

use super::super::archive::big_earth_net::CLASSES as BEN_CLASSES;
use super::super::export::write_atomic;
use super::super::geotiff::write::{geotiff, geotiff_bytes};
use super::super::{Error, Geo, Pair, PairSource, Result, S1_BANDS, S2_BANDS};
use super::Synth;

/// A cell of Major TOM's grid.
#[derive(Debug, Clone, PartialEq)]
pub struct CellPlace {
    /// `454U_120R`.
    pub name: String,
    pub row: i64,
    pub col: i64,
    /// Centre in degrees.
    pub lat: f64,
    pub lon: f64,
    /// `EPSG:32633`.
    pub crs: String,
    /// West edge of the footprint in metres.
    pub left: f64,
    /// North edge of the footprint in metres.
    pub top: f64,
}

/// Cells one below the other, for archives of small tiles.
#[cfg(any(test, fuzzing))]
pub fn some_cells(n: usize) -> Vec<CellPlace> {
    let cell = |i: usize| CellPlace {
        name: format!("{i}U_7R"),
        row: i as i64,
        col: 7,
        lat: 1.0,
        lon: 2.0,
        crs: "EPSG:32631".into(),
        left: 500_000.0 + i as f64,
        top: 1e6,
    };
    (0..n).map(cell).collect()
}

/// Rows in one file of images.
const ROWS: usize = 500;

/// The bands of one sensor, each a whole file.
pub type Tiffs = Vec<Vec<u8>>;

type Group<'a, W> = SerializedRowGroupWriter<'a, W>;

fn failed(path: &Path) -> impl Fn(ParquetError) -> Error {
    move |e| Error::new(path.display(), format!("cannot be written: {e}"), "check the folder's free space and rights")
}

/// Writes one column of a row group.
fn column<T: DataType, W: Write + Send>(
    group: &mut Group<W>,
    values: &[T::T],
    levels: Option<(&[i16], &[i16])>,
) -> std::result::Result<(), ParquetError> {
    let mut column =
        group.next_column()?.ok_or_else(|| ParquetError::General("more columns than the schema".into()))?;
    column.typed::<T>().write_batch(values, levels.map(|l| l.0), levels.map(|l| l.1))?;
    column.close()
}

fn texts(values: impl Iterator<Item = impl AsRef<str>>) -> Vec<ByteArray> {
    values.map(|v| ByteArray::from(v.as_ref())).collect()
}

/// A Parquet file with `schema`; `fill` writes its row groups.
fn parquet(
    path: &Path,
    schema: &str,
    fill: impl FnOnce(&mut SerializedFileWriter<&mut (dyn Write + Send)>) -> std::result::Result<(), ParquetError>,
) -> Result<()> {
    let schema = Arc::new(parse_message_type(schema).map_err(failed(path))?);
    let properties = Arc::new(WriterProperties::builder().set_compression(Compression::SNAPPY).build());
    write_atomic(path, |file| {
        let write = || {
            let mut writer = SerializedFileWriter::new(file, schema, properties)?;
            fill(&mut writer)?;
            writer.close().map(drop)
        };
        write().map_err(std::io::Error::other)
    })
}

/// A 20 m band of repeated pixels at its own size.
fn thin<T: Copy>(pixels: &[T], px: usize, step: usize) -> Vec<T> {
    pixels.chunks_exact(step * px).flat_map(|rows| rows[..px].iter().step_by(step).copied()).collect()
}

fn at_step(geo: &Geo, px: usize, step: usize) -> Geo {
    let mut t = geo.transform;
    [1, 2, 4, 5].into_iter().for_each(|i| t[i] *= step as f64);
    Geo::new(t, geo.crs.clone(), px / step, px / step)
}

/// Metres of one pixel over ten.
fn step(band: &str) -> usize {
    if ["B02", "B03", "B04", "B08"].contains(&band) { 1 } else { 2 }
}

/// Writes `Core-S2L2A` and `Core-S1RTC`: one pair a cell of `cells`, baseline N0509 with its offset of 1000, radar as
/// linear backscatter. `tiffs` gives a cell's bands, `done` hears of every pair.
pub fn major_tom(
    folder: &Path,
    cells: &[CellPlace],
    tiffs: impl Fn(usize) -> Result<[Tiffs; 2]> + Sync,
    done: impl Fn(usize) + Sync,
) -> Result<()> {
    let product = |sensor: &str, i: usize| match sensor {
        "S1" => format!("S1A_IW_GRDH_1SDV_20220706T050000_20220706T050025_{i:06}_SYNTH_rtc"),
        _ => format!("S2A_MSIL2A_20220706T100000_N0509_R007_T{:05}_{i:06}", 10_000 + i % 90_000),
    };
    for part in (0..cells.len()).step_by(ROWS) {
        let rows = part..(part + ROWS).min(cells.len());
        let file = format!("part_{:05}.parquet", part / ROWS + 1);
        let s2_columns: String = S2_BANDS.iter().map(|b| format!("optional binary {b}; ")).collect();
        let head = "required binary product_id (STRING); required binary grid_cell (STRING); required binary timestamp (STRING);";
        let paths = ["Core-S1RTC", "Core-S2L2A"].map(|core| folder.join(core).join("images").join(&file));
        // Both files grow together, a few pairs at a time: a pair is drawn once and memory stays small.
        let schemas = [
            format!("message schema {{ {head} optional binary vv; optional binary vh; }}"),
            format!("message schema {{ {head} {s2_columns} }}"),
        ];
        let batch = rayon::current_num_threads().max(1) * 2;
        parquet(&paths[0], &schemas[0], |s1_file| {
            parquet(&paths[1], &schemas[1], |s2_file| {
                for start in rows.clone().step_by(batch) {
                    let indices: Vec<usize> = (start..(start + batch).min(rows.end)).collect();
                    let tiles = indices.par_iter().map(|i| tiffs(*i));
                    let tiles = tiles.collect::<Result<Vec<_>>>().map_err(|e| ParquetError::General(e.to_string()))?;
                    for (i, [s1, s2]) in indices.into_iter().zip(tiles) {
                        write_row(s1_file, &product("S1", i), &cells[i].name, s1)?;
                        write_row(s2_file, &product("S2", i), &cells[i].name, s2)?;
                        done(i);
                    }
                }
                Ok(())
            })
            .map_err(|e| ParquetError::General(e.to_string()))
        })?;
    }
    for (core, sensor) in [("Core-S1RTC", "S1"), ("Core-S2L2A", "S2")] {
        let (extra, s2) = if sensor == "S2" { ("required double cloud_cover;", true) } else { ("", false) };
        let schema = format!(
            "message schema {{ required binary grid_cell (STRING); required int64 grid_row_u; required int64 grid_col_r;
               required binary product_id (STRING); required binary timestamp (STRING); {extra} required double nodata;
               required double centre_lat; required double centre_lon; required binary crs (STRING);
               required binary parquet_url (STRING); required int64 parquet_row; }}"
        );
        parquet(&folder.join(core).join("metadata.parquet"), &schema, |file| {
            let mut g = file.next_row_group()?;
            let n = cells.len();
            column::<ByteArrayType, _>(&mut g, &texts(cells.iter().map(|c| &c.name)), None)?;
            column::<Int64Type, _>(&mut g, &cells.iter().map(|c| c.row).collect::<Vec<_>>(), None)?;
            column::<Int64Type, _>(&mut g, &cells.iter().map(|c| c.col).collect::<Vec<_>>(), None)?;
            column::<ByteArrayType, _>(&mut g, &texts((0..n).map(|i| product(sensor, i))), None)?;
            column::<ByteArrayType, _>(&mut g, &texts((0..n).map(|_| "20220706T100000")), None)?;
            if s2 {
                column::<DoubleType, _>(&mut g, &vec![0.0; n], None)?;
            }
            column::<DoubleType, _>(&mut g, &vec![0.0; n], None)?;
            column::<DoubleType, _>(&mut g, &cells.iter().map(|c| c.lat).collect::<Vec<_>>(), None)?;
            column::<DoubleType, _>(&mut g, &cells.iter().map(|c| c.lon).collect::<Vec<_>>(), None)?;
            column::<ByteArrayType, _>(&mut g, &texts(cells.iter().map(|c| &c.crs)), None)?;
            let url = |i: usize| format!("images/part_{:05}.parquet", i / ROWS + 1);
            column::<ByteArrayType, _>(&mut g, &texts((0..n).map(url)), None)?;
            column::<Int64Type, _>(&mut g, &(0..n).map(|i| (i % ROWS) as i64).collect::<Vec<_>>(), None)?;
            g.close().map(drop)
        })?;
    }
    Ok(())
}

impl Synth {
    fn even(&self, folder: &Path, what: &str) -> Result<()> {
        match self.px.is_multiple_of(2) {
            true => Ok(()),
            false => {
                let problem = format!("{what} has 20 m bands: {} px cannot be halved", self.px);
                Err(Error::new(folder.display(), problem, "take an even --tile-px"))
            }
        }
    }

    /// [`major_tom`] of one pair a cell of `cells`. `done` hears of every pair.
    pub fn write_major_tom(&self, folder: &Path, cells: &[CellPlace], done: impl Fn(usize) + Sync) -> Result<()> {
        self.even(folder, "Major TOM")?;
        major_tom(folder, cells, |i| self.tiffs(i, &cells[i]), done)
    }

    /// A pair's GeoTIFFs at a cell: radar, optical.
    fn tiffs(&self, index: usize, cell: &CellPlace) -> Result<[Tiffs; 2]> {
        let (px, pair) = (self.px, self.pair(index)?);
        let geo = Geo::new([cell.left, 10.0, 0.0, cell.top, 0.0, -10.0], cell.crs.clone(), px, px);
        let planes = pair.s1.chunks_exact(px * px);
        let linear = |plane: &[f32]| plane.iter().map(|db| 10f32.powf(db / 10.0)).collect::<Vec<f32>>();
        let s1 = planes.map(|plane| geotiff_bytes(px, &linear(plane), &geo, Some(-32_768.0))).collect::<Result<_>>()?;
        let bands = S2_BANDS.iter().zip(pair.s2.chunks_exact(px * px));
        let s2 = bands.map(|(name, plane)| {
            let numbers: Vec<u16> = plane.iter().map(|x| *x as u16 + 1000).collect();
            let step = step(name);
            geotiff_bytes(px / step, &thin(&numbers, px, step), &at_step(&geo, px, step), None)
        });
        Ok([s1, s2.collect::<Result<_>>()?])
    }

    /// Writes `BigEarthNet-S1`, `BigEarthNet-S2`, `Reference_Maps` and `metadata.parquet`. `done` hears of every pair.
    pub fn write_big_earth_net(&self, folder: &Path, done: impl Fn(usize) + Sync) -> Result<()> {
        self.even(folder, "BigEarthNet")?;
        let px = self.px;
        let names = |i: usize| {
            let (col, row) = (i % 90, i / 90 % 90);
            let tile = format!("{:02}UUP", 1 + i / 8100 % 60);
            let s1 = format!("S1A_IW_GRDH_1SDV_20170613T165043_{tile}_{col:02}_{row:02}");
            (s1, format!("S2A_MSIL2A_20170613T101031_N9999_R022_T{tile}_{col:02}_{row:02}"))
        };
        let write = |index: usize| -> Result<u32> {
            let Pair { s1, s2, geo, label, mask, .. } = self.pair(index)?;
            let (name1, name2) = names(index);
            let geo = geo.unwrap_or_else(|| Geo::new([0.0, 10.0, 0.0, 0.0, 0.0, -10.0], "EPSG:32633", px, px));
            let parent = |name: &str, n: usize| name.rsplitn(n + 1, '_').last().unwrap_or(name).to_string();
            let place = |group: &str, name: &str, n: usize| folder.join(group).join(parent(name, n)).join(name);
            for (band, plane) in S1_BANDS.iter().zip(s1.chunks_exact(px * px)) {
                let path = place("BigEarthNet-S1", &name1, 3).join(format!("{name1}_{band}.tif"));
                geotiff(&path, &[band], px, plane, Some(&geo))?;
            }
            for (band, plane) in S2_BANDS.iter().zip(s2.chunks_exact(px * px)) {
                let numbers: Vec<u16> = plane.iter().map(|x| *x as u16).collect();
                let (step, path) = (step(band), place("BigEarthNet-S2", &name2, 2).join(format!("{name2}_{band}.tif")));
                let numbers = thin(&numbers, px, step);
                geotiff(&path, &[band], px / step, &numbers, Some(&at_step(&geo, px, step)))?;
            }
            let corine: Vec<u16> = mask.iter().flatten().map(|c| CORINE[*c as usize % CORINE.len()].0).collect();
            let path = place("Reference_Maps", &name2, 2).join(format!("{name2}_reference_map.tif"));
            geotiff(&path, &["class"], px, &corine, Some(&geo))?;
            done(index);
            Ok(label.unwrap_or(0))
        };
        let labels = (0..self.pairs).into_par_iter().map(write).collect::<Result<Vec<_>>>()?;
        let schema = "message schema { required binary patch_id (STRING);
            required group labels (LIST) { repeated group list { required binary element (STRING); } }
            required binary split (STRING); required binary country (STRING); required binary s1_name (STRING);
            required binary s2v1_name (STRING); required boolean contains_seasonal_snow;
            required boolean contains_cloud_or_shadow; }";
        parquet(&folder.join("metadata.parquet"), schema, |file| {
            let mut g = file.next_row_group()?;
            let all = || 0..self.pairs;
            column::<ByteArrayType, _>(&mut g, &texts(all().map(|i| names(i).1)), None)?;
            let classes = labels.iter().map(|l| BEN_CLASSES[CORINE[*l as usize % CORINE.len()].1]);
            column::<ByteArrayType, _>(&mut g, &texts(classes), Some((&vec![1; self.pairs], &vec![0; self.pairs])))?;
            // Eight of ten train, one validates, one tests.
            let part = |i: usize| ["validation", "test", "train"][(i % 10).min(2)];
            column::<ByteArrayType, _>(&mut g, &texts(all().map(part)), None)?;
            column::<ByteArrayType, _>(&mut g, &texts(all().map(|_| "Nowhere")), None)?;
            column::<ByteArrayType, _>(&mut g, &texts(all().map(|i| names(i).0)), None)?;
            column::<ByteArrayType, _>(&mut g, &texts(all().map(|i| names(i).1)), None)?;
            column::<BoolType, _>(&mut g, &vec![false; self.pairs], None)?;
            column::<BoolType, _>(&mut g, &vec![false; self.pairs], None)?;
            g.close().map(drop)
        })
    }
}

/// CORINE code and BigEarthNet class of each of our classes.
const CORINE: [(u16, usize); 8] = [(512, 8), (311, 3), (321, 14), (211, 1), (112, 18), (331, 2), (411, 9), (322, 13)];

fn write_row<W: Write + Send>(
    file: &mut SerializedFileWriter<W>,
    product: &str,
    cell: &str,
    tiffs: Vec<Vec<u8>>,
) -> std::result::Result<(), ParquetError> {
    let mut group = file.next_row_group()?;
    for text in [product, cell, "20220706T100000"] {
        column::<ByteArrayType, _>(&mut group, &[ByteArray::from(text)], None)?;
    }
    for tiff in tiffs {
        column::<ByteArrayType, _>(&mut group, &[ByteArray::from(tiff)], Some((&[1], &[0])))?;
    }
    group.close().map(drop)
}

#[cfg(feature = "hdf5")]
impl Synth {
    /// Writes one HDF5 file a pair, and the parts, labels and statistics as JSON. `done` hears of every pair.
    pub fn write_geo_bench(&self, folder: &Path, done: impl Fn(usize) + Sync) -> Result<()> {
        use super::CLASSES;
        use hdf5_metno as hdf5;
        const NAMES: [&str; 12] = [
            "06 - VV.LEE Filtered",
            "05 - VH.LEE Filtered",
            "02 - Blue",
            "03 - Green",
            "04 - Red",
            "08 - NIR",
            "05 - Vegetation Red Edge",
            "06 - Vegetation Red Edge",
            "07 - Vegetation Red Edge",
            "11 - SWIR",
            "12 - SWIR",
            "08A - Vegetation Red Edge",
        ];
        let px = self.px;
        let name = |i: usize| format!("id_{i:06}");
        let write = |index: usize| -> Result<u32> {
            let pair = self.pair(index)?;
            super::super::export::replace(&folder.join(format!("{}.hdf5", name(index))), |part| {
                let failed =
                    |e: hdf5::Error| Error::new(part.display(), format!("cannot be written: {e}"), "check the disk");
                let file = hdf5::File::create(part).map_err(failed)?;
                let planes = pair.s1.chunks_exact(px * px).chain(pair.s2.chunks_exact(px * px));
                for (number, (dataset, plane)) in NAMES.iter().zip(planes).enumerate() {
                    let made = match number {
                        // The benchmark's radar is linear.
                        0 | 1 => {
                            let linear: Vec<f32> = plane.iter().map(|db| 10f32.powf(db / 10.0)).collect();
                            let made = file.new_dataset::<f32>().shape((px, px)).create(*dataset);
                            made.and_then(|d| d.write_raw(&linear))
                        }
                        _ => {
                            let numbers: Vec<u16> = plane.iter().map(|x| *x as u16).collect();
                            let made = file.new_dataset::<u16>().shape((px, px)).create(*dataset);
                            made.and_then(|d| d.write_raw(&numbers))
                        }
                    };
                    made.map_err(failed)?;
                }
                file.close().map_err(failed)
            })?;
            done(index);
            Ok(pair.label.unwrap_or(0))
        };
        let labels = (0..self.pairs).into_par_iter().map(write).collect::<Result<Vec<_>>>()?;
        let of = |keep: &dyn Fn(usize) -> bool| (0..self.pairs).filter(|i| keep(*i)).map(name).collect::<Vec<_>>();
        let parts = serde_json::json!({
            "train": of(&|i| i % 10 > 1), "valid": of(&|i| i % 10 == 0), "test": of(&|i| i % 10 == 1),
        });
        let classes: serde_json::Map<_, _> =
            (0..CLASSES.len()).map(|c| (CLASSES[c].to_string(), of(&|i| labels[i] as usize == c).into())).collect();
        let statistics = super::super::stats::measure(self, &(0..self.pairs as u32).collect::<Vec<_>>(), |_| {})?;
        let band_stats: serde_json::Map<_, _> = NAMES
            .iter()
            .enumerate()
            .map(|(c, name)| {
                let stats = if c < 2 { &statistics.s1 } else { &statistics.s2 };
                let c = if c < 2 { c } else { c - 2 };
                (name.to_string(), serde_json::json!({"mean": stats.mean[c], "std": stats.std[c]}))
            })
            .collect();
        let texts = [
            ("default_partition.json", parts),
            ("label_map.json", classes.into()),
            ("band_stats.json", band_stats.into()),
        ];
        texts.into_iter().try_for_each(|(file, value)| {
            write_atomic(&folder.join(file), |f| f.write_all(value.to_string().as_bytes()))
        })
    }
}
