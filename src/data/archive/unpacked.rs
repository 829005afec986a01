//! Major TOM as its downloader unpacks it: `{source}/{row}/{cell}/{product_id}/{band}.tif`.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};

use super::super::geotiff::find::band_name;
use super::super::{DEFAULT_TILE_PX, Error, Result, Sensor};
use super::{About, ArchiveOptions, BoaOffset, Reader, Scene, decode};

/// One product of a cell.
#[derive(Debug, Clone)]
struct Product {
    id: String,
    folder: PathBuf,
}

/// The unpacked form of an archive.
pub struct Unpacked {
    about: About,
    cells: Vec<(String, BTreeMap<Sensor, Product>)>,
    boa: BoaOffset,
}

/// `454U_120R` and the like.
pub fn is_cell(name: &str) -> bool {
    let part = |text: &str, ends: [char; 2]| {
        text.strip_suffix(ends).is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    name.split_once('_').is_some_and(|(row, col)| part(row, ['U', 'D']) && part(col, ['R', 'L']))
}

pub(super) fn folders(dir: &Path) -> Result<Vec<(String, PathBuf)>> {
    let wrong = |e| Error::new(dir.display(), format!("cannot list the folder: {e}"), "check its rights");
    let mut found = vec![];
    for entry in std::fs::read_dir(dir).map_err(wrong)? {
        let path = entry.map_err(wrong)?.path();
        if path.is_dir() {
            found.push((path.file_name().unwrap_or_default().to_string_lossy().into_owned(), path));
        }
    }
    found.sort();
    Ok(found)
}

impl Unpacked {
    /// Opens `root` (the folder that holds `S2L2A`, `S1RTC`, or one of these) if it has this layout; None otherwise.
    pub fn find(root: &Path, options: &ArchiveOptions) -> Result<Option<Self>> {
        if !root.is_dir() {
            return Ok(None);
        }
        let of = |name: &str| match name.to_ascii_uppercase() {
            n if n.contains("S1") => Some(Sensor::S1),
            n if n.contains("S2") => Some(Sensor::S2),
            _ => None,
        };
        let own = root.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut sources: Vec<(String, PathBuf)> = folders(root)?.into_iter().filter(|(n, _)| of(n).is_some()).collect();
        if sources.is_empty() && of(&own).is_some() {
            sources.push((own, root.into()));
        }
        let mut about = About { name: root.display().to_string(), ..About::default() };
        about.format = "Major TOM, unpacked".into();
        let mut cells = BTreeMap::<String, BTreeMap<Sensor, Product>>::new();
        for (source, path) in sources {
            let Some(sensor) = of(&source) else { continue };
            for (_, row) in folders(&path)? {
                for (cell, path) in folders(&row)?.into_iter().filter(|(cell, _)| is_cell(cell)) {
                    for (id, folder) in folders(&path)? {
                        let here = cells.entry(cell.clone()).or_default();
                        match here.entry(sensor) {
                            Entry::Vacant(free) => drop(free.insert(Product { id, folder })),
                            Entry::Occupied(_) => {
                                *about.left_out.entry("products of a cell that has one".into()).or_default() += 1;
                            }
                        }
                    }
                }
            }
        }
        if cells.is_empty() {
            return Ok(None);
        }
        let cells = options.select(cells.into_iter().collect(), |(cell, _)| cell, &mut about)?;
        let cells = together(cells, &mut about);
        let boa = options.boa_offset;
        about.tile_px = options.tile_px.unwrap_or(DEFAULT_TILE_PX);
        about.patches_per_scene = (super::TILE_PX / about.tile_px).pow(2).max(1);
        Ok(Some(Self { about, cells, boa }))
    }
}

/// Keeps the cells with both sensors if any cell has both, else all; counts the others.
pub(super) fn together<T>(
    cells: Vec<(String, BTreeMap<Sensor, T>)>,
    about: &mut About,
) -> Vec<(String, BTreeMap<Sensor, T>)> {
    let sensors: Vec<Sensor> = match cells.iter().max_by_key(|(_, found)| found.len()) {
        Some((_, found)) => found.keys().copied().collect(),
        None => vec![],
    };
    let (kept, lonely): (Vec<_>, Vec<_>) = cells.into_iter().partition(|(_, f)| f.keys().eq(sensors.iter()));
    for (_, found) in &lonely {
        let reason = if found.contains_key(&Sensor::S2) { "S2 scenes without S1" } else { "S1 scenes without S2" };
        *about.left_out.entry(reason.into()).or_default() += 1;
    }
    about.sensors = sensors;
    kept
}

impl Reader for Unpacked {
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
        let mut scene = Scene { id: cell.clone(), ..Scene::default() };
        for (sensor, product) in products {
            let unlisted = |e| Error::new(product.folder.display(), format!("cannot be listed: {e}"), "fetch it again");
            let entries = std::fs::read_dir(&product.folder).map_err(unlisted)?;
            let mut files: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
            files.sort();
            for path in files.iter().filter(|p| p.extension().is_some_and(|e| e == "tif")) {
                let name = band_name(&path.file_stem().unwrap_or_default().to_string_lossy());
                if let Some(name) = name.filter(|n| sensor.bands().contains(&n.as_str())) {
                    scene.bands.push(decode::file(path, &name, *sensor == Sensor::S2)?);
                }
            }
            match sensor {
                Sensor::S1 => scene.linear = true,
                Sensor::S2 => scene.offset = self.boa.of(&product.id),
            }
            if !scene.bands.iter().any(|b| sensor.bands().contains(&b.name.as_str())) {
                return Err(Error::new(product.folder.display(), "holds no band", "fetch the product again"));
            }
        }
        Ok(scene)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_told_from_other_folders() {
        assert!(["454U_120R", "0U_199R", "922D_249L"].iter().all(|c| is_cell(c)));
        assert!(["454_120", "U_R", "454U", "images", "12X_3R", "1U_2R_3"].iter().all(|c| !is_cell(c)));
    }
}
