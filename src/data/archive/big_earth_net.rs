//! BigEarthNet v2: folders of GeoTIFFs, or LMDB with safetensors values; `metadata.parquet` beside either says which S1
//! patch belongs to which S2 patch and what grows there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};

use super::super::geotiff::find::band_name;
use super::super::{Error, NO_CLASS, Result, Sensor};
use super::lmdb::{self, Entry};
use super::unpacked::{folders, together};
use super::{About, ArchiveOptions, Band, BoaOffset, Reader, Scene, decode};

/// The 19 classes, alphabetically.
pub const CLASSES: [&str; 19] = [
    "Agro-forestry areas",
    "Arable land",
    "Beaches, dunes, sands",
    "Broad-leaved forest",
    "Coastal wetlands",
    "Complex cultivation patterns",
    "Coniferous forest",
    "Industrial or commercial units",
    "Inland waters",
    "Inland wetlands",
    "Land principally occupied by agriculture, with significant areas of natural vegetation",
    "Marine waters",
    "Mixed forest",
    "Moors, heathland and sclerophyllous vegetation",
    "Natural grassland and sparsely vegetated areas",
    "Pastures",
    "Permanent crops",
    "Transitional woodland, shrub",
    "Urban fabric",
];

/// Class of a CORINE code of the reference maps (BigEarthNet-19 nomenclature); [`NO_CLASS`] for those it leaves out.
pub fn class_of_corine(code: u32) -> u8 {
    match code {
        244 => 0,
        211..=213 => 1,
        331 => 2,
        311 => 3,
        421 | 422 => 4,
        242 => 5,
        312 => 6,
        121 => 7,
        511 | 512 => 8,
        411 | 412 => 9,
        243 => 10,
        521..=523 => 11,
        313 => 12,
        322 | 323 => 13,
        321 | 333 => 14,
        231 => 15,
        221..=223 | 241 => 16,
        324 => 17,
        111 | 112 => 18,
        _ => NO_CLASS,
    }
}

enum Files {
    Folders(PathBuf),
    Lmdb { path: PathBuf, map: Mmap, entries: Vec<Entry> },
}

/// Patches of both sensors, or of one.
pub struct BigEarthNet {
    about: About,
    files: Files,
    /// Name of the place, and of each sensor's patch.
    places: Vec<(String, BTreeMap<Sensor, String>)>,
    labels: BTreeMap<String, Vec<u32>>,
    boa: BoaOffset,
}

/// `33UUP_70_48` at the end of a patch's name.
fn place(name: &str) -> Option<String> {
    let mut parts = name.rsplit('_');
    let (row, col, tile) = (parts.next()?, parts.next()?, parts.next()?);
    [row, col].iter().all(|n| n.parse::<u32>().is_ok()).then(|| format!("{}_{col}_{row}", tile.trim_start_matches('T')))
}

fn sensor_of(name: &str) -> Option<Sensor> {
    [Sensor::S1, Sensor::S2].into_iter().find(|s| name.starts_with(&s.to_string().to_uppercase()))
}

/// A name without its last `n` parts: the folder that holds it.
fn parent(name: &str, n: usize) -> &str {
    name.rsplitn(n + 1, '_').last().unwrap_or(name)
}

impl BigEarthNet {
    /// Opens `root` if it holds `BigEarthNet-S1` or `-S2`, or a file of LMDB; None otherwise.
    pub fn find(root: &Path, options: &ArchiveOptions) -> Result<Option<Self>> {
        let mut about = About { name: root.display().to_string(), ..About::default() };
        let mdb = [root.join("data.mdb"), root.into()];
        let mdb = mdb.iter().find(|p| p.is_file() && p.extension().is_some_and(|e| e == "mdb"));
        let (files, names): (Files, Vec<String>) = if let Some(path) = mdb {
            let wrong = |e| Error::new(path.display(), format!("cannot be opened: {e}"), "fetch the file again");
            let file = std::fs::File::open(path).map_err(wrong)?;
            // SAFETY: the archive is read-only while it is cut.
            let map = unsafe { Mmap::map(&file) }.map_err(wrong)?;
            let entries = lmdb::entries(&map, &path.display().to_string())?;
            let names = entries.iter().map(|e| e.key.clone()).collect();
            about.format = "BigEarthNet v2, LMDB".into();
            (Files::Lmdb { path: path.clone(), map, entries }, names)
        } else {
            let groups = ["BigEarthNet-S1", "BigEarthNet-S2"].map(|n| root.join(n)).into_iter().filter(|p| p.is_dir());
            let mut names = vec![];
            for group in groups {
                for (_, scene) in folders(&group)? {
                    names.extend(folders(&scene)?.into_iter().map(|(name, _)| name));
                }
            }
            about.format = "BigEarthNet v2".into();
            (Files::Folders(root.into()), names)
        };
        if names.is_empty() {
            return Ok(None);
        }
        let listed =
            [root.to_path_buf(), root.parent().unwrap_or(root).to_path_buf()].map(|d| d.join("metadata.parquet"));
        let metadata = match listed.iter().find(|p| p.is_file()) {
            Some(path) => read_metadata(path)?,
            None => Metadata::default(),
        };
        if !metadata.labels.is_empty() {
            about.classes = CLASSES.map(String::from).into();
        }
        let mut places = BTreeMap::<String, BTreeMap<Sensor, String>>::new();
        for name in names {
            let Some(sensor) = sensor_of(&name) else { continue };
            let known = if sensor == Sensor::S1 { metadata.s2_of.get(&name).cloned() } else { Some(name.clone()) };
            // Without metadata the numbers at the end of both names tell.
            let key = if metadata.s2_of.is_empty() { place(&name) } else { known };
            places.entry(key.unwrap_or_else(|| name.clone())).or_default().insert(sensor, name);
        }
        let places = options.select(places.into_iter().collect(), |(place, _)| place, &mut about)?;
        let places = together(places, &mut about);
        if places.is_empty() {
            let problem = "none of its patches is named as one of Sentinel-1 or Sentinel-2";
            return Err(Error::new(&about.name, problem, "name the folder or file of BigEarthNet v2"));
        }
        // 1200 m: what every patch covers.
        about.tile_px = options.tile_px.unwrap_or(120);
        about.patches_per_scene = (120 / about.tile_px).pow(2).max(1);
        Ok(Some(Self { about, files, places, labels: metadata.labels, boa: options.boa_offset }))
    }

    fn read(&self, sensor: Sensor, name: &str, bands: &mut Vec<Band>) -> Result<()> {
        let missing = sensor == Sensor::S2;
        match &self.files {
            Files::Folders(root) => {
                let folder = match sensor {
                    Sensor::S1 => root.join("BigEarthNet-S1").join(parent(name, 3)).join(name),
                    Sensor::S2 => root.join("BigEarthNet-S2").join(parent(name, 2)).join(name),
                };
                for band in sensor.bands() {
                    bands.push(decode::file(&folder.join(format!("{name}_{band}.tif")), band, missing)?);
                }
                Ok(())
            }
            Files::Lmdb { path, map, entries } => {
                let from = format!("{}: key {name}", path.display());
                let wrong = |problem: String| Error::new(&from, problem, "fetch the file again");
                let entry = entries.binary_search_by(|e| e.key.as_str().cmp(name));
                let entry = entry.map_err(|_| wrong("no such key".into())).map(|i| &entries[i])?;
                let tensors = SafeTensors::deserialize(&map[entry.value.clone()]).map_err(|e| {
                    wrong(format!("its value (from byte {}) is not safetensors: {e}", entry.value.start))
                })?;
                for (tensor_name, tensor) in tensors.iter() {
                    let Some(band) = band_name(tensor_name).filter(|b| sensor.bands().contains(&b.as_str())) else {
                        continue;
                    };
                    let [height, width] = *tensor.shape() else {
                        return Err(wrong(format!("{tensor_name} has the shape {:?}", tensor.shape())));
                    };
                    let mut values: Vec<f32> = match tensor.dtype() {
                        Dtype::U16 => {
                            tensor.data().as_chunks().0.iter().map(|b| u16::from_le_bytes(*b).into()).collect()
                        }
                        Dtype::F32 => tensor.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
                        other => return Err(wrong(format!("{tensor_name} is of type {other:?}"))),
                    };
                    values.iter_mut().for_each(|x| {
                        if !x.is_finite() || missing && *x == 0.0 {
                            *x = f32::NAN;
                        }
                    });
                    let dtype = if tensor.dtype() == Dtype::U16 { "uint16" } else { "float32" };
                    let from = from.clone();
                    bands.push(Band { name: band, dtype: dtype.into(), values, width, height, geo: None, from });
                }
                if !bands.iter().any(|band| sensor.bands().contains(&band.name.as_str())) {
                    return Err(wrong(format!("no tensor is a band of {sensor}")));
                }
                Ok(())
            }
        }
    }

    /// Class of each pixel, if the reference map is there.
    fn mask(&self, name: &str, side: usize) -> Result<Option<Vec<u8>>> {
        let Files::Folders(root) = &self.files else { return Ok(None) };
        let file = format!("{name}_reference_map.tif");
        let path = root.join("Reference_Maps").join(parent(name, 2)).join(name).join(file);
        if !path.is_file() {
            return Ok(None);
        }
        let map = decode::file(&path, "class", false)?;
        let class = |x: &f32| if x.is_nan() { NO_CLASS } else { class_of_corine(*x as u32) };
        Ok(Some(map.values.iter().map(class).collect()).filter(|_| map.width == side))
    }
}

impl Reader for BigEarthNet {
    fn about(&self) -> &About {
        &self.about
    }
    fn len(&self) -> usize {
        self.places.len()
    }
    fn id(&self, index: usize) -> String {
        self.places[index].0.clone()
    }
    fn scene(&self, index: usize) -> Result<Scene> {
        let (id, names) = &self.places[index];
        let mut scene = Scene { id: id.clone(), ..Scene::default() };
        for (sensor, name) in names {
            self.read(*sensor, name, &mut scene.bands)?;
        }
        if let Some(name) = names.get(&Sensor::S2) {
            scene.offset = self.boa.of(name);
            scene.labels = self.labels.get(name).cloned().unwrap_or_default();
            let side = scene.bands.iter().map(|b| b.width).max().unwrap_or(0);
            scene.mask = self.mask(name, side)?;
        }
        Ok(scene)
    }
}

#[derive(Default)]
struct Metadata {
    /// S2 patch by S1 patch.
    s2_of: BTreeMap<String, String>,
    /// Classes by S2 patch.
    labels: BTreeMap<String, Vec<u32>>,
}

#[cfg(not(feature = "parquet"))]
fn read_metadata(path: &Path) -> Result<Metadata> {
    Err(Error::new(path.display(), "this build reads no Parquet", "build with --features parquet"))
}

#[cfg(feature = "parquet")]
fn read_metadata(path: &Path) -> Result<Metadata> {
    use super::super::pages::{caught, open};
    use parquet::file::reader::FileReader;
    use parquet::record::Field;
    use parquet::schema::types::Type;

    let wrong =
        |row: usize, e: String| Error::new(path.display(), format!("row {row}: {e}"), "fetch metadata.parquet again");
    let file = std::fs::File::open(path).map_err(|e| wrong(0, e.to_string()))?;
    let reader = open(file).map_err(|e| wrong(0, e.to_string()))?;
    // The other columns are not read.
    let schema = reader.metadata().file_metadata().schema();
    let used = schema.get_fields().iter().filter(|f| ["patch_id", "s1_name", "labels"].contains(&f.name()));
    let used = Type::group_type_builder(schema.name()).with_fields(used.cloned().collect()).build();
    let rows = used.and_then(|used| caught(|| reader.get_row_iter(Some(used)))?);
    let mut rows = rows.map_err(|e| wrong(0, e.to_string()))?;
    let mut found = Metadata::default();
    for number in 0.. {
        let Some(row) = caught(|| rows.next()).map_err(|e| wrong(number, e.to_string()))? else { break };
        let row = row.map_err(|e| wrong(number, e.to_string()))?;
        let (mut patch, mut s1, mut labels) = (None, None, vec![]);
        for (name, field) in row.get_column_iter() {
            match (name.as_str(), field) {
                ("patch_id", Field::Str(text)) => patch = Some(text.clone()),
                ("s1_name", Field::Str(text)) => s1 = Some(text.clone()),
                ("labels", Field::ListInternal(list)) => {
                    for label in list.elements() {
                        let Field::Str(text) = label else { continue };
                        let class = CLASSES.iter().position(|c| c == text);
                        labels
                            .push(class.ok_or_else(|| wrong(number, format!("{text:?} is none of the 19 classes")))?
                                as u32);
                    }
                }
                _ => {}
            }
        }
        let patch = patch.ok_or_else(|| wrong(number, "no patch_id".into()))?;
        if let Some(s1) = s1 {
            found.s2_of.insert(s1, patch.clone());
        }
        found.labels.insert(patch, labels);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_folders_and_partners() {
        let (s1, s2) =
            ("S1A_IW_GRDH_1SDV_20170613T165043_33UUP_70_48", "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_70_48");
        assert_eq!((place(s1), place(s2)), (Some("33UUP_70_48".into()), Some("33UUP_70_48".into())));
        assert_eq!(parent(s1, 3), "S1A_IW_GRDH_1SDV_20170613T165043");
        assert_eq!(parent(s2, 2), "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP");
        assert!(CLASSES.is_sorted() && (0..19).all(|c| (111..=523).any(|code| class_of_corine(code) == c)));
        assert_eq!(CLASSES[class_of_corine(312) as usize], "Coniferous forest");
    }
}
