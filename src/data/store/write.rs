//! Cutting an archive into a store: shard by shard, scenes in parallel, the same bytes however often it is interrupted.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Serialize;

use super::super::archive::cut::cut;
use super::super::archive::{ArchiveOptions, Reader};
use super::super::export::write_atomic;
use super::super::stats::Moments;
use super::super::{BandStats, Error, Normalisation, OnError, Result, Sensor, UNREADABLE};
use super::shard::{self, Dropped, Entry, Record, Shard};
use super::{FORMAT, INDEX, Index, Plan, STATISTICS, shard_name};

/// Patches a shard is meant to have: some 140 MB, which a process cutting it holds in memory.
const SHARD_PATCHES: usize = 512;

/// One `csmoe patches`.
pub struct Job<'a> {
    pub reader: &'a dyn Reader,
    pub options: &'a ArchiveOptions,
    pub out: &'a Path,
    /// This process's share (i of n): every n-th shard from the i-th, i from 0.
    pub share: (usize, usize),
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// Shards written now.
    pub written: usize,
    /// Shards that stood already.
    pub found: usize,
    /// Shards of other shares that are not there yet; the store can be used when there are none.
    pub missing: usize,
    /// Patches in the finished store.
    pub pairs: usize,
    /// Dropped patches by reason, in the finished store.
    pub dropped: BTreeMap<String, usize>,
    /// Scenes that were not read, by reason.
    pub left_out: BTreeMap<String, usize>,
    /// What was done to how many scenes.
    pub notes: BTreeMap<String, usize>,
}

/// Who watches.
pub trait Watch: Sync {
    /// A scene is done: patches kept and dropped.
    fn scene(&self, kept: usize, dropped: usize);
    /// A scene was skipped.
    fn skipped(&self, why: &Error);
}

impl Job<'_> {
    fn plan(&self) -> Plan {
        let about = self.reader.about();
        let list =
            |crc, index| crc32c::crc32c_append(crc32c::crc32c_append(crc, self.reader.id(index).as_bytes()), b"\n");
        Plan {
            archive: about.format.clone(),
            source: about.name.clone(),
            sensors: about.sensors.clone(),
            tile_px: about.tile_px,
            boa_offset: self.options.boa_offset,
            scenes: self.reader.len(),
            scenes_per_shard: (SHARD_PATCHES / about.patches_per_scene).max(1),
            scene_list: (0..self.reader.len()).fold(0, list),
            classes: about.classes.clone(),
        }
    }

    /// Cuts what is not cut yet, and finishes the store when every shard stands.
    pub fn run(&self, watch: &dyn Watch) -> Result<Outcome> {
        let plan = self.plan();
        self.begin(&plan)?;
        let (share, of) = self.share;
        let mine: Vec<usize> = (0..plan.shards()).filter(|s| s % of == share).collect();
        let (found, todo): (Vec<usize>, Vec<usize>) = mine.into_iter().partition(|s| self.path(*s).is_file());
        found.iter().for_each(|s| plan.scenes_of(*s).for_each(|_| watch.scene(0, 0)));
        // Enough scenes under way for every core, and no more shards in memory than that takes.
        let together = (2 * rayon::current_num_threads()).div_ceil(plan.scenes_per_shard);
        for shards in todo.chunks(together) {
            shards.par_iter().try_for_each(|s| self.cut_shard(*s, &plan, watch))?;
        }
        let missing = (0..plan.shards()).filter(|s| !self.path(*s).is_file()).count();
        let mut outcome = Outcome {
            written: todo.len(),
            found: found.len(),
            missing,
            pairs: 0,
            dropped: BTreeMap::new(),
            left_out: BTreeMap::new(),
            notes: BTreeMap::new(),
        };
        if missing == 0 {
            let index = self.finish(&plan)?;
            outcome.pairs = index.patches.iter().map(|n| *n as usize).sum();
            (outcome.dropped, outcome.left_out, outcome.notes) = (index.dropped, index.left_out, index.notes);
        }
        Ok(outcome)
    }

    fn path(&self, shard: usize) -> PathBuf {
        self.out.join(shard_name(shard))
    }

    /// Writes the plan, or checks that it is the one already there; clears what a killed process left of our shards.
    fn begin(&self, plan: &Plan) -> Result<()> {
        let path = self.out.join(INDEX);
        if path.exists() {
            let known = Index::read(self.out)?;
            if known.plan != *plan {
                let problem = format!(
                    "holds other patches (of {}, {} scenes, {} px)",
                    known.plan.source, known.plan.scenes, known.plan.tile_px
                );
                return Err(Error::new(self.out.display(), problem, "name another --out, or delete it"));
            }
        } else {
            let listed = std::fs::read_dir(self.out).map(|mut entries| entries.next().is_some());
            if listed.unwrap_or(false) {
                let problem = "is neither empty nor a store";
                return Err(Error::new(self.out.display(), problem, "name a new folder with --out"));
            }
            let index = Index {
                format: FORMAT.into(),
                plan: plan.clone(),
                dropped: BTreeMap::new(),
                left_out: BTreeMap::new(),
                notes: BTreeMap::new(),
                patches: vec![],
            };
            self.write_json(INDEX, &index)?;
        }
        let ours = |name: &str| {
            let number = name.strip_prefix(".shard-")?.get(..5)?.parse::<usize>().ok()?;
            Some(number % self.share.1 == self.share.0)
        };
        for entry in std::fs::read_dir(self.out).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.ends_with(".part") && ours(&name).unwrap_or(self.share.1 == 1) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
        Ok(())
    }

    fn write_json(&self, name: &str, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string_pretty(value)
            .map_err(|e| Error::new(self.out.join(name).display(), e, "this is a bug, report it"))?;
        write_atomic(&self.out.join(name), |file| file.write_all(text.as_bytes()))
    }

    fn cut_shard(&self, number: usize, plan: &Plan, watch: &dyn Watch) -> Result<()> {
        let scenes = plan.scenes_of(number);
        let mut record = Record { first_scene: scenes.start, scenes: scenes.len(), ..Record::default() };
        let cuts =
            scenes.into_par_iter().map(|scene| self.cut_scene(scene, plan, watch)).collect::<Result<Vec<_>>>()?;
        let (mut entries, mut dropped) = (vec![], vec![]);
        for scene in cuts {
            record.moments = match record.moments.len() {
                0 => scene.moments,
                _ if scene.moments.is_empty() => record.moments,
                _ => record.moments.iter().zip(scene.moments).map(|(a, b)| a.merge(b)).collect(),
            };
            scene.notes.iter().for_each(|n| *record.notes.entry(n.to_string()).or_default() += 1);
            *record.left_out.entry(UNREADABLE.into()).or_default() += usize::from(scene.failed);
            entries.extend(scene.entries);
            dropped.extend(scene.dropped);
        }
        record.left_out.retain(|_, n| *n > 0);
        shard::write(&self.path(number), plan, record, &entries, &dropped)
    }

    fn cut_scene(&self, index: usize, plan: &Plan, watch: &dyn Watch) -> Result<Scene> {
        let px = plan.tile_px;
        let done = self.reader.scene(index).and_then(|scene| {
            let cut = cut(&scene, px, false)?;
            for patch in cut.patches.iter().filter(|patch| patch.dropped.is_none()) {
                for sensor in &plan.sensors {
                    let pixels = if *sensor == Sensor::S1 { &patch.s1 } else { &patch.s2 };
                    if pixels.len() != sensor.channels() * px * px {
                        let problem = format!("{} has no {sensor} bands, other scenes have", scene.id);
                        return Err(Error::new(&plan.source, problem, "bring the missing files, or --on-error skip"));
                    }
                }
            }
            Ok((cut, scene.id, scene.labels))
        });
        let (cut, id, labels) = match done {
            Ok(done) => done,
            Err(why) if self.options.on_error == OnError::Skip => {
                watch.skipped(&why);
                watch.scene(0, 0);
                return Ok(Scene { failed: true, ..Scene::default() });
            }
            Err(why) => return Err(why),
        };
        let mut out = Scene { notes: cut.notes, ..Scene::default() };
        for patch in cut.patches {
            let name = match cut.shape {
                (1, 1) => id.clone(),
                _ => format!("{id}_{}_{}", patch.at.0, patch.at.1),
            };
            if let Some(reason) = patch.dropped {
                out.dropped.push(Dropped { scene: index, at: patch.at, reason: reason.into() });
                continue;
            }
            let moments = patch.s1.chunks_exact(px * px).chain(patch.s2.chunks_exact(px * px)).map(Moments::of);
            out.moments = match out.moments.len() {
                0 => moments.collect(),
                _ => out.moments.iter().zip(moments).map(|(a, b)| a.merge(b)).collect(),
            };
            out.entries.push(Entry {
                id: name,
                group: self.reader.group(index),
                at: patch.at,
                s1: patch.s1,
                s2: patch.s2,
                geo: patch.geo,
                labels: labels.clone(),
                mask: patch.mask,
            });
        }
        watch.scene(out.entries.len(), out.dropped.len());
        Ok(out)
    }

    /// Gathers every shard's account into the index, which makes the store one that opens.
    fn finish(&self, plan: &Plan) -> Result<Index> {
        let about = self.reader.about();
        let mut index = Index {
            format: FORMAT.into(),
            plan: plan.clone(),
            dropped: about.dropped.clone(),
            left_out: about.left_out.clone(),
            notes: BTreeMap::new(),
            patches: vec![],
        };
        let mut moments: Vec<Moments> = vec![];
        let mut read = 0;
        for number in 0..plan.shards() {
            let shard = Shard::open(&self.path(number), plan)?;
            index.patches.push(shard.len() as u32);
            shard.dropped().for_each(|(.., reason)| *index.dropped.entry(reason.into()).or_default() += 1);
            let record = shard.record();
            read += record.scenes - record.left_out.values().sum::<usize>();
            record.left_out.iter().for_each(|(why, n)| *index.left_out.entry(why.clone()).or_default() += n);
            record.notes.iter().for_each(|(what, n)| *index.notes.entry(what.clone()).or_default() += n);
            if moments.is_empty() {
                moments = record.moments.clone();
            } else if !record.moments.is_empty() {
                moments = moments.iter().zip(&record.moments).map(|(a, b)| a.merge(*b)).collect();
            }
        }
        if !moments.is_empty() {
            let statistics = normalisation(&plan.sensors, &moments);
            for band in plan.sensors.iter().flat_map(|sensor| statistics.of(*sensor).constant()) {
                index.notes.insert(format!("band {band} is constant"), read);
            }
            self.write_json(STATISTICS, &statistics)?;
        }
        self.write_json(INDEX, &index)?;
        Ok(index)
    }
}

/// Statistics of the sensors that `moments` are of, S1's bands first; the published ones of a sensor that is not there.
pub fn normalisation(sensors: &[Sensor], moments: &[Moments]) -> Normalisation {
    let mut all = Normalisation::default();
    let mut rest = moments;
    for sensor in sensors {
        let (own, others) = rest.split_at(sensor.channels().min(rest.len()));
        let (mean, std) = own.iter().map(|m| m.finish()).map(|(mean, std)| (mean as f32, std as f32)).unzip();
        let stats = BandStats { bands: sensor.bands().iter().map(|b| b.to_string()).collect(), mean, std };
        match sensor {
            Sensor::S1 => all.s1 = stats,
            Sensor::S2 => all.s2 = stats,
        }
        rest = others;
    }
    all
}

/// One scene, cut.
#[derive(Default)]
struct Scene {
    entries: Vec<Entry>,
    dropped: Vec<Dropped>,
    notes: Vec<&'static str>,
    moments: Vec<Moments>,
    failed: bool,
}
