//! How fast pairs travel from files to the GPU: each stage alone, all together, and which of them limits.

use super::bench::cpu_seconds;
use crate::data::archive::cut::cut;
use crate::data::archive::{ArchiveOptions, open as open_archive};
use crate::data::loader::Room;
use crate::data::store::{Store, is_store};
use crate::data::{Batch, Loader, LoaderConfig, PairSource, Sensor, open};
use crate::gpu::Gpu;
use crate::tensor::{ParamStore, Params, Program, Tape};
use crate::train::{Mapped, rooms, staged};
use anyhow::{Result, ensure};
use serde::Serialize;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// One stage.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stage {
    pub name: String,
    /// Threads it ran on.
    pub threads: usize,
    pub pairs_per_s: f64,
    /// CPU time of the whole process per pair, in microseconds.
    pub cpu_us_per_pair: f64,
    /// What 16 cores could do at that cost: how large a GPU they feed.
    pub pairs_per_s_on_16_cores: f64,
    /// Pixels as delivered, in GB/s.
    pub gb_per_s: f64,
}

/// How soon pairs come, and in how much memory.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Opened {
    pub pairs: usize,
    pub open_ms: f64,
    /// From the open archive to the first batch.
    pub first_batch_ms: f64,
    /// Of this process at the end, mapped files apart; None where the system does not tell.
    pub memory_mb: Option<f64>,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub data: String,
    pub tile_px: usize,
    /// None where whole scenes would be cut first.
    pub opened: Option<Opened>,
    /// Stages alone, then all of them together.
    pub stages: Vec<Stage>,
    /// The stage alone with the most CPU time a pair.
    pub limit: String,
}

/// What to measure.
pub struct Options {
    pub batch: usize,
    pub workers: usize,
    /// How long each stage runs.
    pub each: Duration,
}

/// Runs `one` (which says how many pairs it moved) for a while, after a first time that warms caches.
fn time(
    name: &str,
    threads: usize,
    pair_bytes: f64,
    each: Duration,
    mut one: impl FnMut() -> Result<usize>,
) -> Result<Stage> {
    one()?;
    let (wall, cpu) = (Instant::now(), cpu_seconds());
    let mut pairs = 0;
    while wall.elapsed() < each {
        pairs += one()?;
    }
    let (wall, cpu) = (wall.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    ensure!(pairs > 0, "{name}: no pairs to time; bring an archive with whole patches");
    let (pairs_per_s, cost) = (pairs as f64 / wall, cpu / pairs as f64);
    Ok(Stage {
        name: name.into(),
        threads,
        pairs_per_s,
        cpu_us_per_pair: 1e6 * cost,
        pairs_per_s_on_16_cores: 16.0 / cost,
        gb_per_s: pairs_per_s * pair_bytes / 1e9,
    })
}

/// Measures an archive or a store; `gpu`: the way to its memory too. `seen` hears of every stage.
///
/// # Errors
/// Data that cannot be read, a lost device.
pub fn run(spec: &str, gpu: Option<&Gpu>, options: &Options, seen: impl Fn(&Stage)) -> Result<Report> {
    let mut stages = vec![];
    let mut keep = |stage: Stage| {
        seen(&stage);
        stages.push(stage);
    };
    if !is_store(Path::new(spec)) {
        let reader = open_archive(spec, &ArchiveOptions::default())?;
        let px = reader.about().tile_px;
        let (mut next, bytes) = (0, (12 * 4 * px * px) as f64);
        let mut index = || {
            next += 1;
            (next - 1) % reader.len()
        };
        keep(time("decode scenes", 1, bytes, options.each, || {
            let scene = reader.scene(index())?;
            // Counted as the patches it holds, so that stages compare.
            Ok(cut_count(&scene, px))
        })?);
        let scene = reader.scene(0)?;
        keep(time("cut patches", 1, bytes, options.each, || Ok(cut(&scene, px, false)?.patches.len()))?);
        if reader.about().patches_per_scene > 1 {
            // Whole cells are cut into a store first; nothing trains on them as they lie.
            return Ok(Report::of(spec, px, stages));
        }
    }
    let began = Instant::now();
    let source: Arc<dyn PairSource> = open(spec, None)?.into();
    let mut opened = Opened { pairs: source.len(), open_ms: milliseconds(began), ..Opened::default() };
    let plane = source.tile_px() * source.tile_px();
    let bytes = (12 * 4 * plane) as f64;
    let mut next = 0;
    let mut index = |len: usize| {
        // A stride that visits all and is far from sequential.
        next = (next + 7919) % len;
        next
    };
    if is_store(Path::new(spec)) {
        let store = Store::open(Path::new(spec))?;
        keep(time("read and check bytes", 1, bytes, options.each, || {
            store.check(index(source.len()))?;
            Ok(1)
        })?);
    }
    let (mut s1, mut s2) = (vec![0.0; 2 * plane], vec![0.0; 10 * plane]);
    keep(time("decode pairs", 1, bytes, options.each, || {
        source.fill(index(source.len()), &mut s1, &mut s2)?;
        Ok(1)
    })?);
    let config = LoaderConfig { batch: options.batch, workers: options.workers, ..LoaderConfig::default() };
    let (workers, each) = (options.workers, options.each);
    let began = Instant::now();
    if let Some(gpu) = gpu {
        let memory = rooms(gpu, config.prefetch + 1, options.batch, source.tile_px())?;
        let mut loader = Loader::with_rooms(source.clone(), config, Default::default(), memory)?;
        pass(&mut loader, |_| Ok(()))?;
        opened.first_batch_ms = milliseconds(began);
        keep(time("loader", workers, bytes, each, || pass(&mut loader, |_| Ok(())))?);
        let program = inputs(gpu, options.batch, plane)?;
        let send = |batch: &mut Batch<Mapped>| program.run_staged(gpu, &mut staged(batch), &[]).map(drop);
        let mut batch = loader.next_batch()?;
        keep(time("staging to the GPU", 1, bytes, each, || send(&mut batch).map(|()| options.batch))?);
        loader.recycle(batch);
        keep(time("all together", workers, bytes, each, || pass(&mut loader, send))?);
        opened.memory_mb = memory_mb();
    } else {
        let mut loader = Loader::new(source.clone(), config, Default::default())?;
        pass(&mut loader, |_| Ok(()))?;
        opened.first_batch_ms = milliseconds(began);
        keep(time("loader", workers, bytes, each, || pass(&mut loader, |_| Ok(())))?);
        opened.memory_mb = memory_mb();
    }
    Ok(Report { opened: Some(opened), ..Report::of(spec, source.tile_px(), stages) })
}

fn milliseconds(since: Instant) -> f64 {
    1e3 * since.elapsed().as_secs_f64()
}

/// Memory of this process that is no file's, in MB.
fn memory_mb() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let of = |name: &str| text.lines().find(|l| l.starts_with(name))?.split_whitespace().nth(1)?.parse::<f64>().ok();
    Some((of("RssAnon:")? + of("RssShmem:")?) * 1024.0 / 1e6)
}

/// Takes a batch, has it used and gives it back; says how many pairs it held.
fn pass<R: Room>(loader: &mut Loader<R>, using: impl FnOnce(&mut Batch<R>) -> Result<()>) -> Result<usize> {
    let mut batch = loader.next_batch()?;
    using(&mut batch)?;
    let pairs = batch.ids.len();
    loader.recycle(batch);
    Ok(pairs)
}

/// A program of a step's pixel inputs alone.
fn inputs(gpu: &Gpu, batch: usize, plane: usize) -> Result<Program> {
    let mut tape = Tape::new(gpu.target.clone(), Params::default());
    for sensor in [Sensor::S1, Sensor::S2] {
        tape.input(format!("pixels.{sensor}"), [batch * sensor.channels() * plane]);
    }
    tape.compile(gpu, &ParamStore::new(gpu, Params::default(), false)?)
}

impl Report {
    fn of(spec: &str, tile_px: usize, stages: Vec<Stage>) -> Self {
        let alone = stages.iter().filter(|s| !["loader", "all together"].contains(&s.name.as_str()));
        let slowest = alone.max_by(|a, b| a.cpu_us_per_pair.total_cmp(&b.cpu_us_per_pair));
        let limit = slowest.map(|s| s.name.clone()).unwrap_or_default();
        Report { data: spec.into(), tile_px, opened: None, stages, limit }
    }
}

fn cut_count(scene: &crate::data::archive::Scene, px: usize) -> usize {
    let side = |of: fn(&crate::data::archive::Band) -> usize| scene.bands.iter().map(of).max().unwrap_or(0) / px;
    side(|b| b.width) * side(|b| b.height)
}
