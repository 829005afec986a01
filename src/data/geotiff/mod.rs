//! Folders of GeoTIFFs: scenes of one or both sensors, cut into square tiles, the invalid ones dropped and counted.
//!
//! Opening reads every pixel once (in parallel) to know which tiles are whole; tiles are then read window by window.

pub mod export;
pub(super) mod find;
pub(super) mod keys;
pub(super) mod raster;
pub mod write;

use std::collections::BTreeMap;
use std::path::Path;

use rayon::prelude::*;

use super::geo::shifted;
use super::{
    DEFAULT_TILE_PX, Error, Geo, Image, ImageSource, NO_CLASS, OnError, OpenOptions, Pair, PairSource, Report, Result,
    Sensor, UNREADABLE,
};
use find::{Kind, SceneFiles};
use raster::{Raster, Unit};

/// Co-registered pairs in a folder.
pub struct Pairs(Archive);

/// Tiles of one sensor, in a folder or one file.
pub struct Images(Archive, Sensor);

/// Scenes cut into tiles: what pairs and single images share.
struct Archive {
    scenes: Vec<Scene>,
    tiles: Vec<Tile>,
    report: Report,
}

struct Scene {
    id: String,
    s1: Option<Raster>,
    s2: Option<Raster>,
    mask: Option<Raster>,
    label: Option<u32>,
}

#[derive(Clone, Copy)]
struct Tile {
    scene: u32,
    col: u32,
    row: u32,
}

impl Pairs {
    /// Finds, checks and indexes the pairs below `root`.
    pub fn open(root: &Path, options: &OpenOptions) -> Result<Self> {
        let mut report = Report { name: root.display().to_string(), ..Default::default() };
        let places = find::places(root, find::scenes(root)?, &mut report.dropped)?;
        let labels = Labels::read(root)?;
        let build = |place: find::Place| {
            let s1 = Raster::of_sensor(&place.s1, Sensor::S1, options.s1_bands.as_deref())?;
            let s2 = Raster::of_sensor(&place.s2, Sensor::S2, options.s2_bands.as_deref())?;
            s2.check_agrees(&s1)?;
            let mask = place.mask.as_ref().map(Raster::of_mask).transpose()?;
            mask.as_ref().map_or(Ok(()), |mask| mask.check_agrees(&s2))?;
            let label = labels.by_id.get(&place.id).copied();
            Ok(Scene { id: place.id, s1: Some(s1), s2: Some(s2), mask, label })
        };
        let scenes = readable(places.into_par_iter().map(build).collect(), options, &mut report)?;
        report.classes = labels.classes;
        Archive::index(scenes, report, options).map(Self)
    }
}

impl PairSource for Pairs {
    fn len(&self) -> usize {
        self.0.tiles.len()
    }
    fn tile_px(&self) -> usize {
        self.0.report.tile_px
    }
    fn describe(&self) -> &Report {
        &self.0.report
    }
    fn id(&self, index: usize) -> Result<String> {
        Ok(self.0.id(index))
    }
    fn group(&self, index: usize) -> usize {
        self.0.tiles[index].scene as usize
    }
    fn pair(&self, index: usize) -> Result<Pair> {
        let archive = &self.0;
        let scene = archive.scene(index);
        let [s1, s2] = [&scene.s1, &scene.s2].map(|raster| archive.pixels(index, raster));
        let class = |x: f32| if (0.0..NO_CLASS as f32).contains(&x) { x as u8 } else { NO_CLASS };
        let mask = match &scene.mask {
            Some(_) => Some(archive.pixels(index, &scene.mask)?.into_iter().map(class).collect()),
            None => None,
        };
        Ok(Pair { id: archive.id(index), s1: s1?, s2: s2?, geo: archive.geo(index), label: scene.label, mask })
    }
}

impl Images {
    /// Finds, checks and indexes the images of `sensor` below the folder `root`, or in the file `root`.
    pub fn open(root: &Path, sensor: Sensor, options: &OpenOptions) -> Result<Self> {
        let mut report = Report { name: root.display().to_string(), ..Default::default() };
        let folder = if root.is_file() {
            root.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
        } else {
            root
        };
        if root.is_file() && !find::is_tiff(root) {
            let remedy = "give a .tif file or a folder of them";
            return Err(Error::new(root.display(), "not a GeoTIFF by its name", remedy));
        }
        let mut found = find::scenes(folder)?;
        if root.is_file() {
            let same = |path: &Path| path.file_name() == root.file_name() && path.parent() == Some(folder);
            found.retain(|scene| scene.files.iter().any(|(_, path)| same(path)));
        } else if found.iter().any(|scene| scene.kind == Some(Kind::Of(sensor))) {
            found.retain(|scene| scene.kind == Some(Kind::Of(sensor)));
        } else {
            found.retain(|scene| scene.kind.is_none());
            if found.is_empty() {
                return Err(Error::new(
                    root.display(),
                    format!("no {sensor} images"),
                    format!("name a folder or file of {sensor} images, or the other --sensor"),
                ));
            }
        }
        let labels = Labels::read(folder)?.or_folders(&found);
        let order = if sensor == Sensor::S1 { &options.s1_bands } else { &options.s2_bands };
        let build = |files: &SceneFiles| {
            let raster = Some(Raster::of_sensor(files, sensor, order.as_deref())?);
            let (s1, s2) = if sensor == Sensor::S1 { (raster, None) } else { (None, raster) };
            let label = labels.by_id.get(&files.place()).copied();
            Ok(Scene { id: files.place(), s1, s2, mask: None, label })
        };
        let scenes = readable(found.par_iter().map(build).collect(), options, &mut report)?;
        report.classes = labels.classes.clone();
        Archive::index(scenes, report, options).map(|archive| Self(archive, sensor))
    }
}

impl ImageSource for Images {
    fn sensor(&self) -> Sensor {
        self.1
    }
    fn len(&self) -> usize {
        self.0.tiles.len()
    }
    fn tile_px(&self) -> usize {
        self.0.report.tile_px
    }
    fn describe(&self) -> &Report {
        &self.0.report
    }
    fn image(&self, index: usize) -> Result<Image> {
        let archive = &self.0;
        let scene = archive.scene(index);
        let pixels = archive.pixels(index, if self.1 == Sensor::S1 { &scene.s1 } else { &scene.s2 })?;
        Ok(Image { id: archive.id(index), pixels, geo: archive.geo(index), label: scene.label })
    }
}

impl Archive {
    /// Decides units, cuts the scenes into tiles, and drops the tiles with a missing pixel.
    fn index(scenes: Vec<Scene>, mut report: Report, options: &OpenOptions) -> Result<Self> {
        let smallest = scenes.iter().map(|s| s.size().0.min(s.size().1)).min().unwrap_or(0);
        let px = options.tile_px.unwrap_or(DEFAULT_TILE_PX.min(smallest));
        let scan = |mut scene: Scene| scene.scan(px).map(|outcomes| (scene, outcomes));
        let scans = readable(scenes.into_par_iter().map(scan).collect(), options, &mut report)?;
        let (mut scenes, mut tiles) = (vec![], vec![]);
        for (scene, outcomes) in scans {
            if outcomes.is_empty() {
                *report.dropped.entry(format!("scenes smaller than {px} px")).or_default() += 1;
            }
            for ((row, col), outcome) in outcomes {
                match outcome {
                    Some(reason) => *report.dropped.entry(reason.into()).or_default() += 1,
                    None => tiles.push(Tile { scene: scenes.len() as u32, col: col as u32, row: row as u32 }),
                }
            }
            scenes.push(scene);
        }
        let mut notes = BTreeMap::<String, usize>::new();
        for (sensor, raster) in scenes.iter().flat_map(Scene::sensors) {
            report.bands.entry(sensor).or_insert_with(|| sensor.bands().iter().map(|b| b.to_string()).collect());
            report.dtype.entry(sensor).or_insert_with(|| raster.dtype.into());
            let unit = match raster.unit {
                Unit::Linear => Some("S1 linear, converted to decibels"),
                Unit::Reflectance => Some("S2 reflectance, multiplied by 10000"),
                Unit::AsStored => None,
            };
            let missing = raster.transform.is_none().then_some("without georeference");
            let all = [raster.note.as_deref(), unit, missing];
            all.into_iter().flatten().for_each(|note| *notes.entry(note.into()).or_default() += 1);
        }
        report.notes = notes.into_iter().map(|(note, count)| format!("{note} ({count} scenes)")).collect();
        (report.pairs, report.tile_px) = (tiles.len(), px);
        if tiles.is_empty() {
            let reasons: Vec<String> =
                report.dropped.iter().map(|(reason, count)| format!("{count} x {reason}")).collect();
            return Err(Error::new(
                &report.name,
                format!("no whole tile of {px} px: {}", reasons.join(", ")),
                "bring images without gaps, or a smaller --tile-px",
            ));
        }
        Ok(Self { scenes, tiles, report })
    }

    fn scene(&self, index: usize) -> &Scene {
        &self.scenes[self.tiles[index].scene as usize]
    }

    /// The scene's name, with the tile's row and column where a scene has several.
    fn id(&self, index: usize) -> String {
        let (tile, scene, px) = (self.tiles[index], self.scene(index), self.report.tile_px);
        let (width, height) = scene.size();
        match (width / px) * (height / px) {
            1 => scene.id.clone(),
            _ => format!("{}_{}_{}", scene.id, tile.row as usize / px, tile.col as usize / px),
        }
    }

    fn geo(&self, index: usize) -> Option<Geo> {
        let (tile, px) = (self.tiles[index], self.report.tile_px);
        let (_, raster) = self.scene(index).sensors().next_back()?;
        let transform = shifted(&raster.transform?, tile.col as usize, tile.row as usize);
        Some(Geo::new(transform, raster.crs.clone(), px, px))
    }

    fn pixels(&self, index: usize, raster: &Option<Raster>) -> Result<Vec<f32>> {
        let (tile, px) = (self.tiles[index], self.report.tile_px);
        let Some(raster) = raster else { return Ok(vec![]) };
        raster.reader()?.window((tile.col as usize, tile.row as usize), (px, px))
    }
}

/// The scenes that can be read. Those that cannot are skipped and counted, where that is wished and any are left.
fn readable<T>(scenes: Vec<Result<T>>, options: &OpenOptions, report: &mut Report) -> Result<Vec<T>> {
    let any = scenes.iter().any(Result::is_ok);
    let mut kept = vec![];
    for scene in scenes {
        match scene {
            Err(why) if any && options.on_error == OnError::Skip => {
                report.skipped.push(why.to_string());
                *report.dropped.entry(UNREADABLE.into()).or_default() += 1;
            }
            scene => kept.push(scene?),
        }
    }
    Ok(kept)
}

/// A tile's first row and column, and why it is dropped.
type Outcome = ((usize, usize), Option<&'static str>);

impl Scene {
    /// Rasters by sensor, S2 last.
    fn sensors(&self) -> impl DoubleEndedIterator<Item = (Sensor, &Raster)> {
        [(Sensor::S1, &self.s1), (Sensor::S2, &self.s2)]
            .into_iter()
            .filter_map(|(sensor, raster)| Some((sensor, raster.as_ref()?)))
    }

    fn size(&self) -> (usize, usize) {
        self.sensors().next().map_or((0, 0), |(_, raster)| (raster.width, raster.height))
    }

    /// Reads every pixel once: sets units and judges each tile.
    fn scan(&mut self, px: usize) -> Result<Vec<Outcome>> {
        let mut outcomes = BTreeMap::new();
        for (sensor, raster) in [(Sensor::S1, &mut self.s1), (Sensor::S2, &mut self.s2)] {
            let Some(raster) = raster else { continue };
            let (unit, tiles) = survey(raster, sensor, px)?;
            raster.unit = unit;
            for (corner, gap, not_positive) in tiles {
                let reason = match (sensor, gap, not_positive && unit == Unit::Linear) {
                    (Sensor::S1, true, _) => Some("S1 has missing pixels"),
                    (Sensor::S1, _, true) => Some("S1 is not above 0 before the logarithm"),
                    (Sensor::S2, true, _) => Some("S2 has missing pixels"),
                    _ => None,
                };
                let outcome = outcomes.entry(corner).or_insert(None);
                *outcome = outcome.or(reason);
            }
        }
        Ok(outcomes.into_iter().collect())
    }
}

/// Unit of a scene's numbers; for each tile its first row and column, whether a pixel is missing, whether one is not above 0.
type Survey = (Unit, Vec<((usize, usize), bool, bool)>);

fn survey(raster: &Raster, sensor: Sensor, px: usize) -> Result<Survey> {
    let reader = raster.reader()?;
    let (width, rows, cols) = (raster.width, raster.height / px, raster.width / px);
    let (mut valid, mut not_negative, mut highest) = (0usize, 0usize, f32::NEG_INFINITY);
    let mut tiles = vec![];
    for row in 0..rows {
        // A strip of tiles at a time bounds memory for scenes of any height.
        let strip = reader.stored((0, row * px), (width, px))?;
        let (mut gaps, mut lows) = (vec![false; cols], vec![false; cols]);
        for line in strip.chunks_exact(width) {
            for (tile, values) in line.chunks_exact(px).enumerate() {
                for x in values {
                    if x.is_nan() {
                        gaps[tile] = true;
                    } else {
                        valid += 1;
                        not_negative += (*x >= 0.0) as usize;
                        lows[tile] |= *x <= 0.0;
                        highest = highest.max(*x);
                    }
                }
            }
        }
        tiles.extend((0..cols).map(|col| ((row * px, col * px), gaps[col], lows[col])));
    }
    let unit = match sensor {
        // Decibels of land and sea are nearly all negative; a few stray negatives do not make linear values decibels.
        Sensor::S1 if valid > 0 && not_negative as f64 >= 0.99 * valid as f64 => Unit::Linear,
        Sensor::S2 if raster.is_float() && valid > 0 && highest < 5.0 => Unit::Reflectance,
        _ => Unit::AsStored,
    };
    Ok((unit, tiles))
}

/// Scene classes, from `labels.csv` (id,label,class) or from folders named by class.
#[derive(Default)]
struct Labels {
    by_id: BTreeMap<String, u32>,
    classes: Vec<String>,
}

impl Labels {
    fn read(root: &Path) -> Result<Self> {
        let path = root.join("labels.csv");
        if !path.is_file() {
            return Ok(Self::default());
        }
        let wrong = |problem: String| {
            Error::new(path.display(), problem, "write lines of id,label,class with whole labels below 4096")
        };
        let text = std::fs::read_to_string(&path).map_err(|e| wrong(format!("cannot be read: {e}")))?;
        // Every class below the highest has a name: one line must not make millions.
        let known = |label: &str| label.parse::<u16>().ok().filter(|label| *label < 4096);
        let mut labels = Self::default();
        for (number, line) in text.lines().enumerate().skip(1).filter(|(_, line)| !line.trim().is_empty()) {
            let mut fields = line.split(',').map(str::trim);
            let (id, label, class) = (fields.next(), fields.next().and_then(known), fields.next());
            let (Some(id), Some(label)) = (id, label) else {
                return Err(wrong(format!("line {}: {line:?}", number + 1)));
            };
            labels.by_id.insert(id.into(), label as u32);
            if labels.classes.len() <= label as usize {
                let unnamed = labels.classes.len()..label as usize + 1;
                labels.classes.extend(unnamed.map(|label| label.to_string()));
            }
            labels.classes[label as usize] = class.map_or_else(|| label.to_string(), Into::into);
        }
        Ok(labels)
    }

    /// Where there is no list, and every image lies in one of several folders, the folders are the classes.
    fn or_folders(mut self, scenes: &[SceneFiles]) -> Self {
        let single = |scene: &SceneFiles| scene.files[0].0.is_none();
        let folders: Option<Vec<&str>> = scenes.iter().map(|s| s.folder().filter(|_| single(s))).collect();
        let Some(folders) = folders.filter(|_| self.by_id.is_empty()) else { return self };
        self.classes =
            folders.iter().map(|f| f.to_string()).collect::<std::collections::BTreeSet<_>>().into_iter().collect();
        if self.classes.len() < 2 {
            return Self::default();
        }
        let label = |folder: &str| self.classes.iter().position(|class| class == folder).unwrap_or(0) as u32;
        self.by_id = scenes.iter().zip(folders).map(|(scene, folder)| (scene.place(), label(folder))).collect();
        self
    }
}

#[cfg(test)]
mod tests;
