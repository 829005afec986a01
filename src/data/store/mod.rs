//! The patch store: what an archive was cut into, ready for training.
//!
//! A folder of shards, each a safetensors file of some hundred patches ([`shard`]), and one small `index.json` that says what
//! was cut and what came out. Opening reads the index alone; a shard is mapped into memory when one of its patches is asked
//! for, and every patch is checked against its checksum when it is read.

pub mod encode;
pub mod shard;
pub mod write;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use super::archive::BoaOffset;
use super::{Error, Image, ImageSource, Normalisation, Pair, PairSource, Placed, Report, Result, Sensor};
use shard::{Record, Shard};

/// File that makes a folder a store.
pub const INDEX: &str = "index.json";
/// Mean and standard deviation of every band over the store's patches.
pub const STATISTICS: &str = "statistics.json";
const FORMAT: &str = "csmoe patch store, version 1";

/// What is cut: the same plan gives the same bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The archive's format, in the field's words.
    pub archive: String,
    /// Its folder.
    pub source: String,
    /// Which sensors every patch has.
    pub sensors: Vec<Sensor>,
    /// Side of a patch in pixels.
    pub tile_px: usize,
    /// What was asked about Sentinel-2's offset.
    pub boa_offset: BoaOffset,
    /// Scenes in the archive (in the sample, if there was one).
    pub scenes: usize,
    /// Scenes in a shard; the last has fewer.
    pub scenes_per_shard: usize,
    /// Checksum of the scenes' names in order.
    pub scene_list: u32,
    /// Names of the classes, by label.
    pub classes: Vec<String>,
}

impl Plan {
    /// Number of shards.
    pub fn shards(&self) -> usize {
        self.scenes.div_ceil(self.scenes_per_shard)
    }

    /// The scenes of a shard.
    pub fn scenes_of(&self, shard: usize) -> std::ops::Range<usize> {
        let first = shard * self.scenes_per_shard;
        first..(first + self.scenes_per_shard).min(self.scenes)
    }
}

/// `index.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Index {
    format: String,
    /// What was cut.
    pub plan: Plan,
    /// Dropped patches by reason.
    pub dropped: BTreeMap<String, usize>,
    /// Scenes that were not read, by reason.
    pub left_out: BTreeMap<String, usize>,
    /// What was done to how many scenes.
    pub notes: BTreeMap<String, usize>,
    /// Patches in each shard; empty until all of them stand.
    pub patches: Vec<u32>,
}

/// The name of a shard's file.
pub fn shard_name(shard: usize) -> String {
    format!("shard-{shard:05}.safetensors")
}

/// Whether `path` is a store, finished or not.
pub fn is_store(path: &Path) -> bool {
    path.join(INDEX).is_file()
}

impl Index {
    /// Reads the index of the store in `root`.
    pub fn read(root: &Path) -> Result<Self> {
        let path = root.join(INDEX);
        let wrong = |problem: String| {
            Error::new(path.display(), problem, "cut the archive again with csmoe patches into another folder")
        };
        let text = std::fs::read(&path).map_err(|e| wrong(format!("cannot be read: {e}")))?;
        let index: Index =
            serde_json::from_slice(&text).map_err(|e| wrong(format!("not the index of a patch store: {e}")))?;
        if index.format != FORMAT {
            return Err(wrong(format!("{:?}, expected {FORMAT:?}", index.format)));
        }
        let plan = &index.plan;
        let sane = plan.scenes_per_shard > 0 && (8..=4096).contains(&plan.tile_px) && !plan.sensors.is_empty();
        if !sane || !index.patches.is_empty() && index.patches.len() != plan.shards() {
            return Err(wrong("its numbers contradict each other".into()));
        }
        Ok(index)
    }
}

/// A finished store.
pub struct Store {
    root: PathBuf,
    index: Index,
    report: Report,
    /// Number of patches before each shard, and in all.
    starts: Vec<usize>,
    shards: Vec<OnceLock<Shard>>,
}

impl Store {
    /// Opens a store; takes no longer for a million patches than reading `index.json`.
    pub fn open(root: &Path) -> Result<Self> {
        let index = Index::read(root)?;
        let plan = &index.plan;
        if index.patches.is_empty() {
            let there = (0..plan.shards()).filter(|s| root.join(shard_name(*s)).is_file()).count();
            let problem = format!("{there} of {} shards are written", plan.shards());
            return Err(Error::new(
                root.display(),
                problem,
                "run the same csmoe patches again: it goes on where it stopped",
            ));
        }
        let mut starts = vec![0];
        index.patches.iter().for_each(|n| starts.push(starts.last().copied().unwrap_or(0) + *n as usize));
        let pairs = starts.last().copied().unwrap_or(0);
        if pairs == 0 {
            let reasons: Vec<String> = index.dropped.iter().map(|(reason, n)| format!("{n} x {reason}")).collect();
            let problem = format!("no whole patch: {}", reasons.join(", "));
            return Err(Error::new(root.display(), problem, "look at the archive with csmoe inspect"));
        }
        let own = |s: &Sensor| (*s, s.bands().iter().map(|b| b.to_string()).collect());
        let counted = |(what, n): (&String, &usize)| format!("{what} ({n} scenes)");
        let report = Report {
            name: root.display().to_string(),
            pairs,
            tile_px: plan.tile_px,
            dropped: index.dropped.clone(),
            bands: plan.sensors.iter().map(own).collect(),
            classes: plan.classes.clone(),
            notes: index.left_out.iter().chain(&index.notes).map(counted).collect(),
            ..Report::default()
        };
        let shards = index.patches.iter().map(|_| OnceLock::new()).collect();
        Ok(Self { root: root.into(), index, report, starts, shards })
    }

    /// What was cut and what came out.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Side of a patch in pixels.
    pub fn describe_px(&self) -> usize {
        self.index.plan.tile_px
    }

    /// Mean and standard deviation of every band over all patches, in one pass; `done` hears of every patch.
    pub fn measure(&self, done: impl Fn() + Sync) -> Result<Normalisation> {
        use super::stats::Moments;
        use rayon::prelude::*;
        let plane = self.report.tile_px.pow(2);
        let sensors = &self.index.plan.sensors;
        let bands: usize = sensors.iter().map(|s| s.channels()).sum();
        let merge = |sum: Vec<Moments>, one: Vec<Moments>| sum.iter().zip(one).map(|(a, b)| a.merge(b)).collect();
        let of_shard = |number: usize| -> Result<Vec<Moments>> {
            let shard = self.shard(number)?;
            let mut sum = vec![Moments::default(); bands];
            let has = |sensor| sensors.contains(&sensor);
            let room = |sensor: Sensor| vec![0.0; if has(sensor) { sensor.channels() * plane } else { 0 }];
            let (mut s1, mut s2) = (room(Sensor::S1), room(Sensor::S2));
            for i in 0..shard.len() {
                let (one, two) = (has(Sensor::S1).then_some(&mut s1[..]), has(Sensor::S2).then_some(&mut s2[..]));
                shard.fill(i, one, two)?;
                sum = merge(sum, s1.chunks_exact(plane).chain(s2.chunks_exact(plane)).map(Moments::of).collect());
                done();
            }
            Ok(sum)
        };
        let each = (0..self.shards()).into_par_iter().map(of_shard).collect::<Result<Vec<_>>>()?;
        // In the shards' order, so that rounding is the same on every run.
        let total = each.into_iter().fold(vec![Moments::default(); bands], merge);
        let measured = write::normalisation(sensors, &total);
        for sensor in sensors {
            measured.of(*sensor).check_measured(*sensor, &self.root.display().to_string())?;
        }
        Ok(measured)
    }

    /// Writes statistics where `pretrain` picks them up.
    pub fn save_statistics(&self, statistics: &Normalisation) -> Result<()> {
        let path = self.root.join(STATISTICS);
        let text = serde_json::to_string_pretty(statistics)
            .map_err(|e| Error::new(path.display(), e, "this is a bug, report it"))?;
        super::export::write_atomic(&path, |file| file.write_all(text.as_bytes()))
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Shard `number`, mapped when first asked for.
    pub fn shard(&self, number: usize) -> Result<&Shard> {
        if let Some(shard) = self.shards[number].get() {
            return Ok(shard);
        }
        let opened = Shard::open(&self.root.join(shard_name(number)), &self.index.plan)?;
        if opened.len() != self.index.patches[number] as usize {
            let problem = format!("{} patches, the index says {}", opened.len(), self.index.patches[number]);
            return Err(Error::new(opened.path().display(), problem, "delete the shard and run csmoe patches again"));
        }
        Ok(self.shards[number].get_or_init(|| opened))
    }

    /// Number of shards.
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// The shard and the place in it of patch `index`.
    fn locate(&self, index: usize) -> Result<(&Shard, usize)> {
        let number = self.starts.partition_point(|start| *start <= index) - 1;
        Ok((self.shard(number)?, index - self.starts[number]))
    }

    /// Mean and standard deviation as `csmoe patches` or `csmoe stats-bands` left them; None where neither did.
    pub fn statistics(&self) -> Result<Option<Normalisation>> {
        let path = self.root.join(STATISTICS);
        if !path.exists() {
            return Ok(None);
        }
        let wrong = |e: String| Error::new(path.display(), e, "measure again with csmoe stats-bands");
        let text = std::fs::read(&path).map_err(|e| wrong(format!("cannot be read: {e}")))?;
        let read: Normalisation =
            serde_json::from_slice(&text).map_err(|e| wrong(format!("not band statistics: {e}")))?;
        for sensor in &self.index.plan.sensors {
            read.of(*sensor).check_measured(*sensor, &path.display().to_string())?;
        }
        Ok(Some(read))
    }

    /// Reads patch `index` and checks its bytes, no more.
    pub fn check(&self, index: usize) -> Result<()> {
        let (shard, at) = self.locate(index)?;
        shard.fill(at, None, None)
    }

    /// Every shard's own account.
    pub fn records(&self) -> Result<Vec<&Record>> {
        (0..self.shards()).map(|s| self.shard(s).map(Shard::record)).collect()
    }

    /// Error unless both sensors are here.
    fn both(&self) -> Result<()> {
        match self.index.plan.sensors[..] {
            [Sensor::S1, Sensor::S2] => Ok(()),
            _ => {
                let only = self.index.plan.sensors[0];
                Err(Error::new(self.root.display(), format!("holds {only} alone"), "bring pairs of both sensors"))
            }
        }
    }

    /// The store as a source of pairs.
    pub fn pairs(self) -> Result<Self> {
        self.both().map(|()| self)
    }
}

impl PairSource for Store {
    fn len(&self) -> usize {
        self.report.pairs
    }
    fn tile_px(&self) -> usize {
        self.report.tile_px
    }
    fn describe(&self) -> &Report {
        &self.report
    }
    fn id(&self, index: usize) -> Result<String> {
        self.locate(index).map(|(shard, at)| shard.id(at))
    }
    fn group(&self, index: usize) -> usize {
        // A shard that cannot be read fails when its pixels are asked for; until then each patch is its own scene.
        self.locate(index).map_or(index, |(shard, at)| shard.group(at))
    }
    fn label(&self, index: usize) -> Option<u32> {
        self.locate(index).ok().and_then(|(shard, at)| shard.label(at))
    }
    fn pair(&self, index: usize) -> Result<Pair> {
        let plane = self.tile_px().pow(2);
        let (mut s1, mut s2) = (vec![0.0; 2 * plane], vec![0.0; 10 * plane]);
        let (shard, at) = self.locate(index)?;
        shard.fill(at, Some(&mut s1), Some(&mut s2))?;
        Ok(Pair { id: shard.id(at), s1, s2, geo: shard.geo(at), label: shard.label(at), mask: shard.mask(at) })
    }
    fn fill(&self, index: usize, s1: &mut [f32], s2: &mut [f32]) -> Result<Placed> {
        let (shard, at) = self.locate(index)?;
        shard.fill(at, Some(s1), Some(s2))?;
        Ok(Placed { id: shard.id(at), label: shard.label(at) })
    }
    fn mapped(&self) -> bool {
        true
    }
}

/// One sensor's tiles of a store.
pub struct StoreImages {
    store: Store,
    sensor: Sensor,
}

impl StoreImages {
    /// The tiles of `sensor`, which the store must have.
    pub fn new(store: Store, sensor: Sensor) -> Result<Self> {
        if !store.index.plan.sensors.contains(&sensor) {
            let problem = format!("holds no {sensor} patches");
            return Err(Error::new(store.root.display(), problem, "name the other --sensor"));
        }
        Ok(Self { store, sensor })
    }
}

impl ImageSource for StoreImages {
    fn sensor(&self) -> Sensor {
        self.sensor
    }
    fn len(&self) -> usize {
        self.store.report.pairs
    }
    fn tile_px(&self) -> usize {
        self.store.report.tile_px
    }
    fn describe(&self) -> &Report {
        &self.store.report
    }
    fn image(&self, index: usize) -> Result<Image> {
        let mut pixels = vec![0.0; self.sensor.channels() * self.store.report.tile_px.pow(2)];
        let (shard, at) = self.store.locate(index)?;
        match self.sensor {
            Sensor::S1 => shard.fill(at, Some(&mut pixels), None)?,
            Sensor::S2 => shard.fill(at, None, Some(&mut pixels))?,
        }
        Ok(Image { id: shard.id(at), pixels, geo: shard.geo(at), label: shard.label(at) })
    }
}

#[cfg(test)]
mod tests;
