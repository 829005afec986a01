//! Which files belong together: scenes of one sensor, and the scenes of one place.
//!
//! A folder or a file name that begins with S1 or S2 tells the sensor; what is left of the path tells the place.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::super::{Error, Result, Sensor};

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Pixels of a sensor.
    Of(Sensor),
    /// Class of each pixel.
    Mask,
}

/// The files of one scene of one kind.
#[derive(Debug, Clone, PartialEq)]
pub struct SceneFiles {
    /// None when nothing in the path says so.
    pub kind: Option<Kind>,
    /// Folders below the root.
    dirs: Vec<String>,
    /// File name without extension and band, or the folder that holds one file per band.
    pub name: String,
    /// Each file, with its band where there is one file per band.
    pub files: Vec<(Option<String>, PathBuf)>,
}

impl SceneFiles {
    /// The first file: what errors name.
    pub fn path(&self) -> &Path {
        &self.files[0].1
    }

    /// Folders and name, without those that tell the sensor: unique among the scenes of one.
    pub fn place(&self) -> String {
        self.keys()[0].clone().unwrap_or_else(|| self.name.clone())
    }

    /// The folder directly above a file, below the root: a class name in archives sorted by class.
    pub fn folder(&self) -> Option<&str> {
        self.dirs.last().map(String::as_str).filter(|dir| kind_of(dir).is_none())
    }

    /// What two sensors' scenes of one place may have in common, most telling first: path, name, parent folders, and the
    /// `tile_column_row` at the end of BigEarthNet's names. None where there is nothing.
    fn keys(&self) -> [Option<String>; 4] {
        let dirs: Vec<&str> = self.dirs.iter().map(String::as_str).filter(|dir| kind_of(dir).is_none()).collect();
        let tokens: Vec<&str> = self.name.split('_').filter(|token| kind_of(token).is_none()).collect();
        let name = tokens.join("_");
        let some = |text: String| Some(text).filter(|t| !t.is_empty());
        let patch = match tokens[..] {
            [.., tile, col, row] if [col, row].iter().all(|n| n.parse::<u32>().is_ok()) => {
                some(format!("{}_{col}_{row}", tile.trim_start_matches('T')))
            }
            _ => None,
        };
        [
            some([&dirs[..], &[&name]].concat().join("/")).filter(|_| !name.is_empty()),
            some(name),
            some(dirs.join("/")),
            patch,
        ]
    }
}

/// `B2`, `b02`, `B08A`, `VV - polarisation` -> the usual name; None for anything else.
pub fn band_name(text: &str) -> Option<String> {
    let word = text.split(|c: char| !c.is_ascii_alphanumeric()).next()?.to_ascii_uppercase();
    match word.as_str() {
        "VV" | "VH" => Some(word),
        "B8A" | "B08A" => Some("B8A".into()),
        _ => {
            let number: u32 = word.strip_prefix('B').filter(|n| n.len() <= 2)?.parse().ok()?;
            (1..=12).contains(&number).then(|| format!("B{number:02}"))
        }
    }
}

/// What a folder or a part of a file name says about its contents.
fn kind_of(part: &str) -> Option<Kind> {
    let part = part.to_ascii_uppercase();
    let begins =
        |mark: &str| part.strip_prefix(mark).is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()));
    let ends = |mark: &str| part.ends_with(&format!("-{mark}")) || part.ends_with(&format!("_{mark}"));
    if ["MASK", "LABEL", "LULC", "REFERENCE"].iter().any(|mark| part.starts_with(mark)) {
        return Some(Kind::Mask);
    }
    [("S1", Sensor::S1), ("S2", Sensor::S2)]
        .into_iter()
        .find(|(mark, _)| begins(mark) || ends(mark))
        .map(|(_, sensor)| Kind::Of(sensor))
}

/// Every GeoTIFF below `root`, grouped into scenes, in order of path.
pub fn scenes(root: &Path) -> Result<Vec<SceneFiles>> {
    let mut files = vec![];
    walk(root, 0, &mut files)?;
    files.sort();
    if files.is_empty() {
        return Err(Error::new(
            root.display(),
            "no GeoTIFF (.tif) in this folder",
            "name a folder that holds S1*/ and S2*/ images, or use synth:PAIRS",
        ));
    }
    let mut groups = BTreeMap::<(Vec<String>, String, bool), SceneFiles>::new();
    let mut folders_of_bands = BTreeSet::new();
    for path in files {
        let relative = path.strip_prefix(root).unwrap_or(&path);
        let mut dirs: Vec<String> =
            relative.parent().into_iter().flatten().map(|part| part.to_string_lossy().into_owned()).collect();
        let stem = relative.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let (rest, last) = stem.rsplit_once('_').unwrap_or(("", &stem));
        let band = band_name(last);
        let kind = dirs.iter().map(String::as_str).chain(stem.split('_')).find_map(kind_of);
        let mut name = stem.clone();
        if band.is_some() {
            folders_of_bands.insert(dirs.clone());
            name = if rest.is_empty() { dirs.pop().unwrap_or_default() } else { rest.into() };
        }
        let scene = groups.entry((dirs.clone(), name.clone(), band.is_some())).or_insert(SceneFiles {
            kind,
            dirs,
            name,
            files: vec![],
        });
        scene.files.push((band, path.clone()));
    }
    // Beside one file per band, other rasters (cloud masks, quick looks) are no scenes.
    let beside = |scene: &SceneFiles| scene.files[0].0.is_none() && folders_of_bands.contains(&scene.dirs);
    Ok(groups.into_values().filter(|scene| !beside(scene)).collect())
}

fn hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'))
}

/// Whether a file is a GeoTIFF by its name, and not hidden.
pub fn is_tiff(path: &Path) -> bool {
    let tiff = |e: &std::ffi::OsStr| e.eq_ignore_ascii_case("tif") || e.eq_ignore_ascii_case("tiff");
    !hidden(path) && path.extension().is_some_and(tiff)
}

fn walk(dir: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<()> {
    // Deep enough for every known archive, and an end to circular links.
    const DEEPEST: usize = 12;
    let unreadable = |e: std::io::Error| {
        Error::new(dir.display(), format!("cannot list the folder: {e}"), "check that it exists and may be read")
    };
    for entry in std::fs::read_dir(dir).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        match path.is_dir() {
            true if !hidden(&path) && depth < DEEPEST => walk(&path, depth + 1, files)?,
            false if is_tiff(&path) => files.push(path),
            _ => {}
        }
    }
    Ok(())
}

/// The scenes of one place.
pub struct Place {
    /// What its scenes have in common; unique.
    pub id: String,
    /// Radar.
    pub s1: SceneFiles,
    /// Optical.
    pub s2: SceneFiles,
    /// Class of each pixel.
    pub mask: Option<SceneFiles>,
}

/// Whether scenes of both sensors belong together below `root`.
pub fn has_pairs(root: &Path) -> bool {
    scenes(root).and_then(|found| places(root, found, &mut BTreeMap::new())).is_ok()
}

/// Brings the scenes of both sensors together, and counts those left alone by reason.
pub fn places(root: &Path, scenes: Vec<SceneFiles>, dropped: &mut BTreeMap<String, usize>) -> Result<Vec<Place>> {
    let of = |kind| scenes.iter().filter(|s| s.kind == Some(kind)).collect::<Vec<_>>();
    let (s1, s2, masks) = (of(Kind::Of(Sensor::S1)), of(Kind::Of(Sensor::S2)), of(Kind::Mask));
    for (found, sensor) in [(&s1, "S1"), (&s2, "S2")] {
        if found.is_empty() {
            let problem = format!("no {sensor} images among its {} scenes", scenes.len());
            return Err(Error::new(
                root.display(),
                problem,
                format!("put them in a folder, or under names, beginning with {sensor}"),
            ));
        }
    }
    // The kind of key that brings the most scenes together; the more telling one if several do.
    let shared = |key: usize| {
        let set = |scenes: &[&SceneFiles]| scenes.iter().filter_map(|s| s.keys()[key].clone()).collect::<BTreeSet<_>>();
        set(&s1).intersection(&set(&s2)).count()
    };
    let key = (0..4).rev().max_by_key(|key| shared(*key)).unwrap_or(0);
    if shared(key) == 0 {
        let problem = format!("no S1 image has a partner, for example {}", s1[0].path().display());
        return Err(Error::new(
            root.display(),
            problem,
            "give both images of a place the same name, apart from parts beginning with S1 or S2",
        ));
    }
    let mut by_key = |scenes: &[&SceneFiles], count: bool| {
        let mut chosen = BTreeMap::<String, SceneFiles>::new();
        let mut ordered: Vec<&&SceneFiles> = scenes.iter().collect();
        ordered.sort_by_key(|s| !preferred(s.path()));
        for scene in ordered {
            match scene.keys()[key].clone() {
                Some(key) if !chosen.contains_key(&key) => drop(chosen.insert(key, (*scene).clone())),
                _ if count => *dropped.entry("scenes of a place that has a better one".into()).or_default() += 1,
                _ => {}
            }
        }
        chosen
    };
    let (mut s1, s2, mut masks) = (by_key(&s1, true), by_key(&s2, true), by_key(&masks, false));
    let mut places = vec![];
    for (id, s2) in s2 {
        match s1.remove(&id) {
            Some(s1) => places.push(Place { mask: masks.remove(&id), id, s1, s2 }),
            None => *dropped.entry("S2 scenes without S1".into()).or_default() += 1,
        }
    }
    if !s1.is_empty() {
        dropped.insert("S1 scenes without S2".into(), s1.len());
    }
    Ok(places)
}

/// Terrain-corrected radar and surface reflectance are what the model is trained on.
fn preferred(path: &Path) -> bool {
    let text = path.to_string_lossy().to_ascii_uppercase();
    ["RTC", "L2A"].iter().any(|mark| text.contains(mark))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[&str]) -> (Vec<Place>, BTreeMap<String, usize>) {
        let root = tempfile::tempdir().unwrap();
        for file in files {
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let mut dropped = BTreeMap::new();
        let places = places(root.path(), scenes(root.path()).unwrap(), &mut dropped).unwrap();
        (places, dropped)
    }

    fn ids(files: &[&str]) -> Vec<String> {
        found(files).0.into_iter().map(|p| p.id).collect()
    }

    #[test]
    fn known_layouts_pair_up() {
        assert_eq!(ids(&["S1RTC/a_1.tif", "S2L2A/a_1.tif", "LULC/a_1.tif"]), ["a_1"]);
        assert_eq!(
            ids(&["S1/Spain_7_S1Hand.tif", "S2/Spain_7_S2Hand.tif", "Labels/Spain_7_LabelHand.tif"]),
            ["Spain_7"]
        );
        assert_eq!(ids(&["x/S1/a.tif", "x/S2/a.tif", "y/S1/a.tif", "y/S2/a.tif"]), ["x/a", "y/a"]);
        assert_eq!(ids(&["ROI_spring_s1_1_p30.tif", "ROI_spring_s2_1_p30.tif"]), ["ROI_spring_1_p30"]);
        let ben = |s: &str, scene: &str, patch: &str, band: &str| {
            format!("BigEarthNet-{s}/{scene}/{patch}/{patch}_{band}.tif")
        };
        let (vv, vh) = (ben("S1", "S1A_X", "S1A_X_33UUP_70_48", "VV"), ben("S1", "S1A_X", "S1A_X_33UUP_70_48", "VH"));
        assert_eq!(ids(&[&vv, &vh, &ben("S2", "S2A_Y", "S2A_Y_T33UUP_70_48", "B02")]), ["33UUP_70_48"]);
        let (places, _) = found(&[
            "S2L2A/0U/0U_1R/S2A_P/B02.tif",
            "S2L2A/0U/0U_1R/S2A_P/cloud_mask.tif",
            "S1RTC/0U/0U_1R/S1A_Q/vv.tif",
        ]);
        assert_eq!((places[0].id.as_str(), places[0].s2.files.len()), ("0U/0U_1R", 1));
    }

    #[test]
    fn the_lonely_and_the_double_are_counted() {
        let (places, dropped) =
            found(&["S1GRD/a.tif", "S1RTC/a.tif", "S2L1C/a.tif", "S2L2A/a.tif", "S2L2A/b.tif", "S1RTC/c.tif"]);
        assert_eq!(places.len(), 1);
        assert!(preferred(places[0].s1.path()) && preferred(places[0].s2.path()));
        assert_eq!(dropped.into_values().collect::<Vec<_>>(), [1, 1, 2]);
    }

    #[test]
    fn bands_have_one_name() {
        for (text, name) in [("B2", "B02"), ("b08a", "B8A"), ("B12", "B12"), ("vv", "VV"), ("B8, near infrared", "B08")]
        {
            assert_eq!(band_name(text).as_deref(), Some(name));
        }
        assert!(["bands", "", "B13", "B0", "blue", "3"].iter().all(|text| band_name(text).is_none()));
    }
}
