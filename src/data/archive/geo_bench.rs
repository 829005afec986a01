//! GEO-Bench 1.0: one HDF5 file a sample, bands as datasets, parts and labels as JSON. The pickle beside them is not opened.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use serde_json::Value;

use super::super::{DEFAULT_TILE_PX, Error, NO_CLASS, Result, Sensor};
use super::{About, ArchiveOptions, Band, Reader, Scene, hdf5_file};

/// Sides beyond this are no sample, but a header that lies.
const LARGEST: usize = 4096;

/// One task's samples.
pub struct GeoBench {
    about: About,
    root: PathBuf,
    samples: Vec<String>,
    labels: Labels,
}

/// The usual name of a dataset: `02 - Blue` is B02, `08A - Vegetation Red Edge` B8A, `05 - VH.LEE Filtered` VH.
pub fn band(dataset: &str) -> Option<String> {
    if let Some(name) = ["VV", "VH"].into_iter().find(|n| dataset.contains(n)) {
        // Of one polarisation's forms the model's input is the filtered intensity.
        return (!dataset.contains("Real") && !dataset.contains("Imaginary")).then(|| name.to_string());
    }
    let number = dataset.split(" - ").next()?.trim();
    let digits = number.trim_end_matches(['A', 'a']);
    let n: u32 = digits.parse().ok().filter(|n| (1..=12).contains(n))?;
    match number.len() - digits.len() {
        0 => Some(format!("B{n:02}")),
        _ if n == 8 => Some("B8A".into()),
        _ => None,
    }
}

fn json(path: &Path) -> Result<Value> {
    let wrong = |e: String| Error::new(path.display(), e, "fetch the file again");
    let text = std::fs::read(path).map_err(|e| wrong(format!("cannot be read: {e}")))?;
    serde_json::from_slice(&text).map_err(|e| wrong(format!("not JSON: {e}")))
}

impl GeoBench {
    /// Opens `root` if it holds `default_partition.json`; None otherwise.
    pub fn find(root: &Path, options: &ArchiveOptions) -> Result<Option<Self>> {
        let partition = root.join("default_partition.json");
        if !partition.is_file() {
            return Ok(None);
        }
        let mut about = About { name: root.display().to_string(), format: "GEO-Bench 1.0".into(), ..About::default() };
        let parts = json(&partition)?;
        let mut samples = vec![];
        for (part, names) in parts.as_object().into_iter().flatten() {
            let names: Vec<&str> = names.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            about.notes.push(format!("{part}: {} samples", names.len()));
            for name in names {
                if name.is_empty() || name.contains(['/', '\\']) || name.starts_with('.') {
                    let problem = format!("the sample {name:?} leaves the folder");
                    return Err(Error::new(partition.display(), problem, "fetch the file again"));
                }
                samples.push(name.to_string());
            }
        }
        if samples.is_empty() {
            return Err(Error::new(partition.display(), "lists no samples", "fetch the file again"));
        }
        let (classes, labels) = labels(root)?;
        about.classes = classes;
        let samples = options.select(samples, |s| s, &mut about)?;
        let mut found = Self { about, root: root.into(), samples, labels };
        let first = found.scene(0)?;
        let has = |s: &Sensor| first.bands.iter().any(|b| s.bands().contains(&b.name.as_str()));
        found.about.sensors = [Sensor::S1, Sensor::S2].into_iter().filter(has).collect();
        let side = first.bands.iter().map(|b| b.width.min(b.height)).max().unwrap_or(DEFAULT_TILE_PX);
        found.about.tile_px = options.tile_px.unwrap_or(DEFAULT_TILE_PX.min(side));
        found.about.patches_per_scene = (side / found.about.tile_px).pow(2).max(1);
        Ok(Some(found))
    }
}

/// Classes by sample.
type Labels = BTreeMap<String, Vec<u32>>;

/// Class names, and the classes of each sample: from `label_map.json` (one a sample) or `label_stats.json` (several).
fn labels(root: &Path) -> Result<(Vec<String>, Labels)> {
    let (map, stats) = (root.join("label_map.json"), root.join("label_stats.json"));
    let mut labels = Labels::new();
    if map.is_file() {
        let value = json(&map)?;
        let mut classes: Vec<&String> = value.as_object().into_iter().flatten().map(|(class, _)| class).collect();
        // Numbers in their order, names alphabetically.
        classes.sort_by_key(|c| (c.parse::<u32>().unwrap_or(u32::MAX), c.to_string()));
        for (label, class) in classes.iter().enumerate() {
            for name in value[class.as_str()].as_array().into_iter().flatten().filter_map(Value::as_str) {
                labels.entry(name.into()).or_default().push(label as u32);
            }
        }
        return Ok((classes.into_iter().cloned().collect(), labels));
    }
    if stats.is_file() {
        let value = json(&stats)?;
        let mut classes = 0;
        for (name, vector) in value.as_object().into_iter().flatten() {
            let vector = vector.as_array().map_or(&[][..], Vec::as_slice);
            classes = classes.max(vector.len());
            let set = vector.iter().enumerate().filter(|(_, x)| x.as_f64().is_some_and(|x| x > 0.0));
            labels.insert(name.clone(), set.map(|(i, _)| i as u32).collect());
        }
        return Ok(((0..classes).map(|c| c.to_string()).collect(), labels));
    }
    Ok((vec![], labels))
}

impl Reader for GeoBench {
    fn about(&self) -> &About {
        &self.about
    }
    fn len(&self) -> usize {
        self.samples.len()
    }
    fn id(&self, index: usize) -> String {
        self.samples[index].clone()
    }
    fn scene(&self, index: usize) -> Result<Scene> {
        let name = &self.samples[index];
        let path = self.root.join(format!("{name}.hdf5"));
        let wrong = |e: String| {
            let problem = format!("cannot be read as HDF5: {e}");
            Error::new(path.display(), problem, "the file is damaged or cut short, fetch it again")
        };
        let opened = std::fs::File::open(&path).map_err(|e| wrong(e.to_string()))?;
        // SAFETY: the archive is read-only while it is cut.
        let map = unsafe { Mmap::map(&opened) }.map_err(|e| wrong(e.to_string()))?;
        let file = hdf5_file::File::new(&map).map_err(wrong)?;
        let mut scene = Scene { id: name.clone(), ..Scene::default() };
        scene.labels = self.labels.get(name).cloned().unwrap_or_default();
        for (dataset, address) in file.members().map_err(wrong)? {
            let known = band(&dataset).filter(|b| !scene.bands.iter().any(|have| have.name == *b));
            if known.is_none() && dataset != "label" {
                continue;
            }
            let wrong = |e: String| wrong(format!("dataset {dataset:?}: {e}"));
            let from = format!("{}: dataset {dataset:?}", path.display());
            let data = file.dataset(address).map_err(wrong)?;
            let [height, width] = data.shape[..] else {
                // A label that is no map: classes are told by JSON.
                if known.is_none() {
                    continue;
                }
                return Err(wrong(format!("the shape {:?}, rows and columns expected", data.shape)));
            };
            if width.max(height) > LARGEST || width.min(height) == 0 {
                return Err(wrong(format!("{height} x {width} pixels, a size that no sample has")));
            }
            let (kind, mut values) = (data.dtype, data.read().map_err(wrong)?);
            match known {
                Some(band) => {
                    let optical = Sensor::S2.bands().contains(&band.as_str());
                    values.iter_mut().for_each(|x| {
                        if !x.is_finite() || optical && *x == 0.0 {
                            *x = f32::NAN;
                        }
                    });
                    scene.bands.push(Band { name: band, dtype: kind.into(), values, width, height, geo: None, from });
                }
                None => {
                    let class = |x: &f32| if (0.0..f32::from(NO_CLASS)).contains(x) { *x as u8 } else { NO_CLASS };
                    scene.mask = Some(values.iter().map(class).collect());
                }
            }
        }
        if scene.bands.is_empty() {
            return Err(wrong("none of its datasets is a band".into()));
        }
        units(&mut scene);
        Ok(scene)
    }
}

/// Reflectance 0..1 to digital numbers; linear backscatter is told by having no negative numbers.
fn units(scene: &mut Scene) {
    let of = |sensor: Sensor| move |b: &&Band| sensor.bands().contains(&b.name.as_str());
    let values = |scene: &Scene, sensor| -> Vec<f32> {
        scene.bands.iter().filter(of(sensor)).flat_map(|b| b.values.iter().copied()).collect()
    };
    let optical = values(scene, Sensor::S2);
    let floats = scene.bands.iter().filter(of(Sensor::S2)).all(|b| b.dtype.starts_with("float"));
    if floats && !optical.is_empty() && optical.iter().all(|x| x.is_nan() || *x < 5.0) {
        for band in scene.bands.iter_mut().filter(|b| Sensor::S2.bands().contains(&b.name.as_str())) {
            band.values.iter_mut().for_each(|x| *x *= 10_000.0);
        }
    }
    let radar = values(scene, Sensor::S1);
    scene.linear = !radar.is_empty() && radar.iter().filter(|x| **x >= 0.0).count() * 100 >= radar.len() * 99;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datasets_have_usual_names() {
        for (dataset, name) in [
            ("02 - Blue", Some("B02")),
            ("08A - Vegetation Red Edge", Some("B8A")),
            ("12 - SWIR_2018-01-02", Some("B12")),
            ("05 - VH.LEE Filtered", Some("VH")),
            ("01 - VH.Real", None),
            ("label", None),
            ("13 - X", None),
            ("07A - X", None),
        ] {
            assert_eq!(band(dataset).as_deref(), name, "{dataset}");
        }
    }
}
