//! What an archive or a store holds, in numbers and as a contact sheet.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::Serialize;

use super::archive::cut::{Cut, Patch, cut};
use super::archive::{About, ArchiveOptions, open};
use super::picture::{Rgb, Sheet, mosaic};
use super::stats::Moments;
use super::store::{Store, is_store};
use super::{Result, Sensor};

/// Scenes on a contact sheet, at most.
const PICTURES: usize = 6;

/// What was found. Vectors over bands are in the order of `bands`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Inspection {
    /// What this is.
    pub format: String,
    /// The folder.
    pub name: String,
    /// Scenes in it.
    pub scenes: usize,
    /// Scenes whose pixels were looked at; an archive's counts and statistics are of these alone.
    pub scenes_read: usize,
    /// Whole patches.
    pub pairs: usize,
    /// Dropped patches by reason.
    pub dropped: BTreeMap<String, usize>,
    /// Scenes that are not read, by reason.
    pub left_out: BTreeMap<String, usize>,
    /// Side of a patch in pixels.
    pub tile_px: usize,
    /// Band names, radar first.
    pub bands: Vec<String>,
    /// Unit of each band in a patch.
    pub units: Vec<&'static str>,
    /// Type of each band's stored numbers.
    pub dtype: Vec<String>,
    /// Mean over whole patches.
    pub mean: Vec<f64>,
    /// Standard deviation over whole patches.
    pub std: Vec<f64>,
    /// Smallest number in the whole patches looked at.
    pub min: Vec<f32>,
    /// Largest number in the whole patches looked at.
    pub max: Vec<f32>,
    /// Share of pixels that are missing, as stored; 0 in a store.
    pub nodata_share: Vec<f64>,
    /// Patches of each class, by name.
    pub labels: BTreeMap<String, usize>,
    /// What was decided on the way.
    pub notes: Vec<String>,
}

/// Looks at up to `scenes` scenes and draws some of them.
pub fn inspect(spec: &str, options: &ArchiveOptions, scenes: usize) -> Result<(Inspection, Sheet)> {
    if is_store(Path::new(spec)) { of_store(spec, scenes) } else { of_archive(spec, options, scenes) }
}

/// Reads every patch of a store, checking it; gives their number.
pub fn verify(spec: &str) -> Result<usize> {
    use rayon::prelude::*;
    let store = Store::open(Path::new(spec))?;
    let check = |number: usize| {
        let shard = store.shard(number)?;
        (0..shard.len()).try_for_each(|i| shard.fill(i, None, None)).map(|()| shard.len())
    };
    (0..store.shards()).into_par_iter().map(check).sum()
}

/// `n` of 0..len, evenly.
fn evenly(len: usize, n: usize) -> Vec<usize> {
    let n = n.min(len);
    (0..n).map(|i| i * len / n).collect()
}

/// Sums over the bands of whole patches.
struct Sums {
    moments: Vec<Moments>,
    range: Vec<(f32, f32)>,
}

impl Sums {
    fn new(bands: usize) -> Self {
        Self { moments: vec![Moments::default(); bands], range: vec![(f32::INFINITY, f32::NEG_INFINITY); bands] }
    }
    fn add(&mut self, patch: &Patch, plane: usize) {
        let bands = patch.s1.chunks_exact(plane).chain(patch.s2.chunks_exact(plane));
        for ((moments, range), band) in self.moments.iter_mut().zip(&mut self.range).zip(bands) {
            *moments = moments.merge(Moments::of(band));
            *range = band.iter().fold(*range, |(low, high), x| (low.min(*x), high.max(*x)));
        }
    }
}

impl Inspection {
    fn of(about: &About) -> Self {
        let bands = about.sensors.iter().flat_map(|s| s.bands().iter().map(|b| b.to_string())).collect();
        let unit = |s: &Sensor| vec![if *s == Sensor::S1 { "dB" } else { "digital number" }; s.channels()];
        Self {
            format: about.format.clone(),
            name: about.name.clone(),
            dropped: about.dropped.clone(),
            left_out: about.left_out.clone(),
            tile_px: about.tile_px,
            bands,
            units: about.sensors.iter().flat_map(unit).collect(),
            notes: about.notes.clone(),
            ..Self::default()
        }
    }
    fn finish(&mut self, sums: &Sums) {
        (self.min, self.max) = sums.range.iter().filter(|_| self.pairs > 0).copied().unzip();
        if self.mean.is_empty() && self.pairs > 0 {
            (self.mean, self.std) = sums.moments.iter().map(|m| m.finish()).unzip();
        }
    }
}

fn of_archive(spec: &str, options: &ArchiveOptions, scenes: usize) -> Result<(Inspection, Sheet)> {
    let reader = open(spec, options)?;
    let about = reader.about();
    let mut found = Inspection { scenes: reader.len(), ..Inspection::of(about) };
    let (px, plane) = (about.tile_px, about.tile_px.pow(2));
    let mut sums = Sums::new(found.bands.len());
    let mut missing = vec![(0usize, 0usize); found.bands.len()];
    found.dtype = vec![String::new(); found.bands.len()];
    let mut notes = BTreeMap::<&str, usize>::new();
    let mut sheet = Sheet::new(titles(&about.sensors), 1);
    for index in evenly(reader.len(), scenes) {
        let scene = reader.scene(index)?;
        let cut = cut(&scene, px, true)?;
        for (c, name) in found.bands.iter().enumerate() {
            let Some(band) = scene.bands.iter().find(|b| b.name == *name) else { continue };
            missing[c].0 += band.values.iter().filter(|x| x.is_nan()).count();
            missing[c].1 += band.values.len();
            found.dtype[c].clone_from(&band.dtype);
        }
        let whole = cut.patches.iter().filter(|p| p.dropped.is_none());
        whole.clone().for_each(|patch| sums.add(patch, plane));
        let whole = whole.count();
        found.pairs += whole;
        cut.dropped().into_iter().for_each(|(reason, n)| *found.dropped.entry(reason.into()).or_default() += n);
        cut.notes.iter().for_each(|note| *notes.entry(note).or_default() += 1);
        let name = |l: &u32| about.classes.get(*l as usize).cloned().unwrap_or_else(|| l.to_string());
        scene.labels.iter().for_each(|l| *found.labels.entry(name(l)).or_default() += whole);
        if found.scenes_read < PICTURES {
            sheet.row(&scene.id, pictures(&cut, &about.sensors, px));
        }
        found.scenes_read += 1;
    }
    found.notes.extend(notes.into_iter().map(|(note, n)| format!("{note} ({n} scenes)")));
    found.nodata_share = missing.iter().map(|(gone, all)| *gone as f64 / (*all).max(1) as f64).collect();
    found.finish(&sums);
    Ok((found, sheet))
}

fn of_store(spec: &str, scenes: usize) -> Result<(Inspection, Sheet)> {
    let store = Store::open(Path::new(spec))?;
    let index = store.index();
    let plan = &index.plan;
    let about = About {
        format: format!("csmoe patch store of {}", plan.archive),
        name: spec.into(),
        sensors: plan.sensors.clone(),
        tile_px: plan.tile_px,
        left_out: index.left_out.clone(),
        ..About::default()
    };
    let mut found = Inspection { scenes: plan.scenes, ..Inspection::of(&about) };
    found.pairs = crate::data::PairSource::len(&store);
    found.dropped.clone_from(&index.dropped);
    found.notes = index.notes.iter().map(|(note, n)| format!("{note} ({n} scenes)")).collect();
    found.nodata_share = vec![0.0; found.bands.len()];
    if let Some(statistics) = store.statistics()? {
        let all = |of: fn(&super::BandStats) -> &Vec<f32>| {
            plan.sensors.iter().flat_map(|s| of(statistics.of(*s)).iter().map(|x| f64::from(*x))).collect()
        };
        (found.mean, found.std) = (all(|s| &s.mean), all(|s| &s.std));
    }
    let (px, plane) = (plan.tile_px, plan.tile_px.pow(2));
    let mut sums = Sums::new(found.bands.len());
    let mut sheet = Sheet::new(titles(&about.sensors), 1);
    for number in 0..store.shards() {
        let shard = store.shard(number)?;
        if !plan.classes.is_empty() {
            let all = (0..shard.len()).flat_map(|i| shard.labels(i));
            all.for_each(|l| *found.labels.entry(plan.classes[l as usize].clone()).or_default() += 1);
        }
    }
    for number in evenly(store.shards(), scenes) {
        let shard = store.shard(number)?;
        if found.dtype.is_empty() {
            let own = |(group, sensor, range): &(&str, Sensor, std::ops::Range<usize>)| {
                let dtype = if shard.dtype(group)? == safetensors::Dtype::U16 { "uint16" } else { "float32" };
                plan.sensors.contains(sensor).then(|| vec![dtype.to_string(); range.len()])
            };
            found.dtype = super::store::shard::GROUPS.iter().filter_map(own).flatten().collect();
        }
        // One scene of each shard looked at: its first.
        let Some(group) = (!shard.is_empty()).then(|| shard.group(0)) else { continue };
        let mut patches = vec![];
        for i in (0..shard.len()).take_while(|i| shard.group(*i) == group) {
            let has = |sensor: Sensor| if plan.sensors.contains(&sensor) { sensor.channels() * plane } else { 0 };
            let (mut s1, mut s2) = (vec![0.0; has(Sensor::S1)], vec![0.0; has(Sensor::S2)]);
            shard.fill(i, (!s1.is_empty()).then_some(&mut s1), (!s2.is_empty()).then_some(&mut s2))?;
            let patch = Patch { at: shard.at(i), s1, s2, geo: None, mask: None, dropped: None };
            sums.add(&patch, plane);
            patches.push(patch);
        }
        for (_, at, _) in shard.dropped().filter(|(scene, ..)| *scene == group) {
            patches.push(Patch { at, s1: vec![], s2: vec![], geo: None, mask: None, dropped: Some("dropped") });
        }
        let extent = |axis: fn(&Patch) -> usize| patches.iter().map(axis).max().unwrap_or(0) + 1;
        let shape = (extent(|p| p.at.0), extent(|p| p.at.1));
        if found.scenes_read < PICTURES {
            let id = shard.id(0);
            let id = if shape == (1, 1) { &id } else { id.rsplitn(3, '_').last().unwrap_or(&id) };
            sheet.row(id, pictures(&Cut { shape, patches, notes: vec![] }, &plan.sensors, px));
        }
        found.scenes_read += 1;
    }
    found.finish(&sums);
    Ok((found, sheet))
}

fn pictures(cut: &Cut, sensors: &[Sensor], px: usize) -> Vec<Rgb> {
    sensors.iter().rev().map(|sensor| mosaic(*sensor, cut.shape, px, &tiles(cut, *sensor))).collect()
}

/// Place, pixels and whether it is dropped.
fn tiles(cut: &Cut, sensor: Sensor) -> Vec<((usize, usize), &[f32], bool)> {
    cut.patches
        .iter()
        .map(|p| (p.at, if sensor == Sensor::S1 { &p.s1[..] } else { &p.s2[..] }, p.dropped.is_some()))
        .collect()
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        writeln!(f, "{}: {}, {} scenes ({} looked at)", self.name, self.format, self.scenes, self.scenes_read)?;
        writeln!(f, "{} whole patches of {} px", self.pairs, self.tile_px)?;
        self.dropped.iter().try_for_each(|(reason, n)| writeln!(f, "  {n} dropped: {reason}"))?;
        self.left_out.iter().try_for_each(|(reason, n)| writeln!(f, "  {n} left out: {reason}"))?;
        self.notes.iter().try_for_each(|note| writeln!(f, "  {note}"))?;
        writeln!(f, "band type            mean          std          min          max   missing  unit")?;
        for (c, band) in self.bands.iter().enumerate() {
            let number = |list: &[f64]| list.get(c).map_or("-".into(), |x| format!("{x:.3}"));
            let single = |list: &[f32]| list.get(c).map_or("-".into(), |x| format!("{x:.3}"));
            writeln!(
                f,
                "{band:4} {:8} {:>12} {:>12} {:>12} {:>12} {:>8.3}%  {}",
                self.dtype.get(c).map_or("", String::as_str),
                number(&self.mean),
                number(&self.std),
                single(&self.min),
                single(&self.max),
                100.0 * self.nodata_share.get(c).copied().unwrap_or(0.0),
                self.units[c]
            )?;
        }
        self.labels.iter().try_for_each(|(class, n)| writeln!(f, "{n:8} {class}"))
    }
}

/// Over the columns of a contact sheet, optical first.
fn titles(sensors: &[Sensor]) -> &'static [&'static str] {
    match sensors {
        [Sensor::S1] => &["S1: VV, VV+VH, VH"],
        [Sensor::S2] => &["S2: B04, B03, B02"],
        _ => &["S2: B04, B03, B02", "S1: VV, VV+VH, VH"],
    }
}
