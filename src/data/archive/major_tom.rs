//! Major TOM Core: `metadata.parquet` says in which Parquet file and row group each cell's product lies, every band of
//! which is a complete GeoTIFF in a column of its own.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use parquet::column::reader::ColumnReader;
use parquet::data_type::ByteArray;
use parquet::file::reader::{FileReader, SerializedFileReader};

use super::super::geotiff::find::band_name;
use super::super::pages::{self, Pages};
use super::super::table::{Column, Table};
use super::super::{DEFAULT_TILE_PX, Error, Result, Sensor};
use super::unpacked::together;
use super::{About, ArchiveOptions, Reader, Scene, TILE_PX, decode};

/// One row of a `metadata.parquet`.
struct Product {
    /// To be subtracted: all that its name is needed for.
    offset: f32,
    /// Shared by the 500 products in it.
    file: Arc<Path>,
    group: usize,
}

/// Both sensors' Core archives, joined on the cell, or one alone.
pub struct MajorTom {
    about: About,
    cells: Vec<(String, BTreeMap<Sensor, Product>)>,
}

impl MajorTom {
    /// Opens `root` (the folder of `Core-S2L2A` and `Core-S1RTC`, or one of these) if it has this layout; None otherwise.
    pub fn find(root: &Path, options: &ArchiveOptions) -> Result<Option<Self>> {
        let mut folders: Vec<PathBuf> = std::fs::read_dir(root)
            .map(|entries| entries.filter_map(|e| Some(e.ok()?.path())).collect())
            .unwrap_or_default();
        folders.push(root.into());
        folders.sort();
        let core = |folder: &PathBuf| {
            let name = folder.file_name()?.to_string_lossy().to_ascii_uppercase();
            let sensor = [Sensor::S1, Sensor::S2].into_iter().find(|s| name.contains(&s.to_string().to_uppercase()))?;
            let metadata = folder.join("metadata.parquet");
            (metadata.is_file() && folder.join("images").is_dir()).then_some((sensor, folder.clone(), metadata))
        };
        let found: Vec<_> = folders.iter().filter_map(core).collect();
        if found.is_empty() {
            return Ok(None);
        }
        let mut about = About { name: root.display().to_string(), format: "Major TOM Core".into(), ..About::default() };
        about.tile_px = options.tile_px.unwrap_or(DEFAULT_TILE_PX);
        about.patches_per_scene = (TILE_PX / about.tile_px).pow(2).max(1);
        let mut cells = BTreeMap::<String, BTreeMap<Sensor, Product>>::new();
        for (sensor, folder, metadata) in found {
            let twice = read_metadata(&folder, &metadata, options, &mut |cell, product| {
                let here = cells.entry(cell).or_default();
                if here.contains_key(&sensor) {
                    return false;
                }
                here.insert(sensor, product);
                true
            })?;
            if twice > 0 {
                *about.left_out.entry("products of a cell that has one".into()).or_default() += twice;
            }
        }
        let cells = options.select(cells.into_iter().collect(), |(cell, _)| cell, &mut about)?;
        let mut cells = together(cells, &mut about);
        if cells.is_empty() {
            return Err(Error::new(root.display(), "its metadata lists no product", "fetch metadata.parquet again"));
        }
        // Neighbours in a file are read one after another, so that its footer is parsed once.
        cells.sort_by(|(a, x), (b, y)| {
            let place = |p: &BTreeMap<Sensor, Product>| p.values().next_back().map(|p| (p.file.clone(), p.group));
            (place(x), a).cmp(&(place(y), b))
        });
        Ok(Some(Self { about, cells }))
    }
}

/// Hands each row of the metadata to `each`, which says whether it takes it; gives the number of those not taken.
fn read_metadata(
    folder: &Path,
    path: &Path,
    options: &ArchiveOptions,
    each: &mut dyn FnMut(String, Product) -> bool,
) -> Result<usize> {
    let wrong = |e: anyhow::Error| Error::new(path.display(), format!("{e:#}"), "fetch metadata.parquet again");
    let table = Table::open(path).map_err(wrong)?;
    let names = ["grid_cell", "product_id", "parquet_url", "parquet_row"];
    let columns = names.iter().map(|n| table.require(n)).collect::<anyhow::Result<Vec<_>>>().map_err(wrong)?;
    let mut twice = 0;
    let mut files = HashMap::<String, Arc<Path>>::new();
    let mut damage = None;
    table
        .read(&columns, &mut |batch| {
            for row in 0..batch.rows {
                let cell = batch.columns[0].text(row);
                if options.only.as_ref().is_some_and(|only| !only.contains(&cell)) {
                    continue;
                }
                let number = match &batch.columns[3] {
                    Column::Int(v) => v[row].and_then(|n| usize::try_from(n).ok()),
                    _ => None,
                };
                let url = batch.columns[2].text(row);
                let (Some(group), Some(inside)) = (number, inside(&url)) else {
                    let place = table.place(batch.first_row + row, if number.is_none() { names[3] } else { names[2] });
                    let found = if number.is_none() { batch.columns[3].text(row) } else { url };
                    damage = Some(Error::new(
                        place,
                        format!("{found:?} names no row group of a file below this folder"),
                        "fetch metadata.parquet again",
                    ));
                    anyhow::bail!("damaged");
                };
                let file = files.entry(url).or_insert_with(|| folder.join(inside).into()).clone();
                let offset = options.boa_offset.of(&batch.columns[1].text(row));
                let product = Product { offset, file, group };
                twice += usize::from(!each(cell, product));
            }
            Ok(())
        })
        .map_err(|e| damage.take().unwrap_or_else(|| wrong(e)))?;
    Ok(twice)
}

/// A file's place below the archive's folder, from a path or a download address; None for paths that leave it.
fn inside(url: &str) -> Option<PathBuf> {
    // Addresses of the hub read .../resolve/REVISION/images/part_00001.parquet.
    let path = match url.split_once("://") {
        Some((_, rest)) => match rest.split_once("/resolve/") {
            Some((_, rest)) => rest.split_once('/')?.1.to_string(),
            None => format!("images/{}", rest.rsplit('/').next()?),
        },
        None => url.to_string(),
    };
    let path = PathBuf::from(path.split(['?', '#']).next()?);
    let plain = path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    (plain && path.file_name().is_some()).then_some(path)
}

type Images = Rc<SerializedFileReader<Pages>>;

/// The Parquet file that this thread read last: 500 scenes lie in one, and its footer is long.
fn images(path: &Path) -> Result<Images> {
    thread_local!(static LAST: RefCell<Vec<(PathBuf, Images)>> = const { RefCell::new(vec![]) });
    LAST.with_borrow_mut(|last| {
        if let Some((_, reader)) = last.iter().find(|(known, _)| known == path) {
            return Ok(reader.clone());
        }
        let file = File::open(path)
            .map_err(|e| Error::new(path.display(), format!("cannot be opened: {e}"), "fetch the file of images"))?;
        let reader = Rc::new(pages::open(file).map_err(|e| damaged(path.display().to_string(), e))?);
        // One for each sensor.
        last.truncate(1);
        last.insert(0, (path.into(), reader.clone()));
        Ok(reader)
    })
}

fn damaged(place: String, e: impl std::fmt::Display) -> Error {
    Error::new(place, format!("not readable as Parquet: {e}"), "the file is damaged or cut short, fetch it again")
}

/// The GeoTIFFs of one product, by band.
fn read_group(path: &Path, group: usize, sensor: Sensor) -> Result<Vec<(String, ByteArray)>> {
    let place = || format!("{}: row group {group}", path.display());
    let file = images(path)?;
    if group >= file.num_row_groups() {
        let problem = format!("the file has only {} row groups", file.num_row_groups());
        return Err(Error::new(place(), problem, "metadata and images are of different downloads: fetch both again"));
    }
    let group = file.get_row_group(group).map_err(|e| damaged(place(), e))?;
    if group.metadata().num_rows() != 1 {
        let problem = format!("{} rows, one is expected", group.metadata().num_rows());
        return Err(Error::new(place(), problem, "this is not a file of Major TOM's images"));
    }
    let mut found = vec![];
    for (index, column) in group.metadata().columns().iter().enumerate() {
        let parts = column.column_descr().path().parts();
        let [name] = parts else { continue };
        let Some(name) = band_name(name).filter(|n| sensor.bands().contains(&n.as_str())) else { continue };
        let here = || format!("{}, column {}", place(), parts[0]);
        let ColumnReader::ByteArrayColumnReader(mut reader) =
            pages::caught(|| group.get_column_reader(index)).flatten().map_err(|e| damaged(here(), e))?
        else {
            return Err(Error::new(here(), "not a column of bytes", "GeoTIFFs are expected in every band's column"));
        };
        let (mut values, mut levels) = (vec![], vec![]);
        let nullable = column.column_descr().max_def_level() > 0;
        pages::caught(|| reader.read_records(1, nullable.then_some(&mut levels), None, &mut values))
            .flatten()
            .map_err(|e| damaged(here(), e))?;
        match values.pop() {
            Some(value) => found.push((name, value)),
            None => return Err(Error::new(here(), "is empty", "fetch the file of images again")),
        }
    }
    Ok(found)
}

impl Reader for MajorTom {
    fn about(&self) -> &About {
        &self.about
    }
    fn len(&self) -> usize {
        self.cells.len()
    }
    fn id(&self, index: usize) -> String {
        self.cells[index].0.clone()
    }
    fn scene(&self, index: usize) -> Result<Scene> {
        let (cell, products) = &self.cells[index];
        let mut scene = Scene { id: cell.clone(), linear: products.contains_key(&Sensor::S1), ..Scene::default() };
        for (sensor, product) in products {
            for (name, tiff) in read_group(&product.file, product.group, *sensor)? {
                let from = format!("{}: row group {}, column {name}", product.file.display(), product.group);
                scene.bands.push(decode::bytes(tiff.data().to_vec(), &name, *sensor == Sensor::S2, &from)?);
            }
            if *sensor == Sensor::S2 {
                scene.offset = product.offset;
            }
            if !scene.bands.iter().any(|b| sensor.bands().contains(&b.name.as_str())) {
                let place = format!("{}: row group {}", product.file.display(), product.group);
                return Err(Error::new(place, format!("no column of a {sensor} band"), "fetch the file again"));
            }
        }
        Ok(scene)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_lead_into_the_folder_and_nowhere_else() {
        let hub = "https://huggingface.co/datasets/Major-TOM/Core-S2L2A/resolve/main/images/part_00001.parquet";
        for url in [hub, "images/part_00001.parquet", "https://example.org/x/part_00001.parquet?download=true"] {
            assert_eq!(inside(url), Some("images/part_00001.parquet".into()), "{url}");
        }
        assert!(
            ["/etc/passwd", "../x.parquet", "images/../../x", "", "https://a/resolve/main/../../x"]
                .iter()
                .all(|url| inside(url).is_none())
        );
    }
}
