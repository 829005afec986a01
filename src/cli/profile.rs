//! `csmoe profile`: where a training step spends its time.

use super::common::{AdapterArgs, ModelArgs};
use crate::data::synth::Synth;
use crate::data::{Loader, LoaderConfig};
use crate::model::Csmoe;
use crate::ops::adamw::Hyper;
use crate::tensor::ParamStore;
use crate::train::{Settings, TrainProgram, rooms};
use anyhow::Result;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// Time a training step, kernel by kernel, with the GPU's own clock
#[derive(Debug, clap::Args)]
pub struct ProfileArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    adapter: AdapterArgs,
    /// Pairs in a step
    #[arg(long, default_value_t = 8)]
    batch: usize,
    /// By layer too
    #[arg(long)]
    layers: bool,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Default)]
struct Share {
    launches: usize,
    ms: f64,
    gflop: f64,
    gb: f64,
}

/// Runs the subcommand.
///
/// # Errors
/// No adapter, too little memory, an adapter without timestamps.
pub fn run(args: ProfileArgs) -> Result<()> {
    let gpu = args.adapter.open_gpu()?;
    let model = Csmoe::for_training(args.model.resolve("csmoe-tiny")?);
    let settings = Settings { batch: args.batch, ..Settings::default() };
    let store = ParamStore::new(&gpu, model.params.clone(), true)?;
    store.init(&gpu, settings.seed);
    let px = crate::data::DEFAULT_TILE_PX;
    let program = TrainProgram::build(&gpu, &model, &store, &settings, px)?;
    let config = LoaderConfig { batch: args.batch, ..LoaderConfig::default() };
    let source = Arc::new(Synth::new(4 * args.batch, 1, px));
    let memory = rooms(&gpu, 1, args.batch, px)?;
    let mut pixels = [Loader::with_rooms(source, config, Default::default(), memory)?.next_batch()?];
    let hyper = Hyper::default();
    // The first step compiles the kernels.
    program.run(&gpu, &mut pixels, &hyper, settings.seed, 0)?;
    // A GPU that was idle takes a while to its full clock: a second of steps, of which the fastest counts.
    let mut wall = f64::MAX;
    let start = Instant::now();
    while wall == f64::MAX || start.elapsed().as_secs_f64() < 1.0 {
        let began = Instant::now();
        program.run(&gpu, &mut pixels, &hyper, settings.seed, 1)?;
        wall = wall.min(began.elapsed().as_secs_f64() * 1e3);
    }
    let timings = program.profile(&gpu)?;

    let mut shares: BTreeMap<String, Share> = BTreeMap::new();
    let mut all = Share::default();
    for t in &timings {
        let key = if args.layers { format!("{} {}", t.scope, t.kernel) } else { t.kernel.clone() };
        for share in [shares.entry(key).or_default(), &mut all] {
            share.launches += 1;
            share.ms += t.nanoseconds / 1e6;
            share.gflop += t.flops / 1e9;
            share.gb += t.bytes / 1e9;
        }
    }
    let mut rows: Vec<(String, Share)> = shares.into_iter().collect();
    rows.sort_by(|a, b| b.1.ms.total_cmp(&a.1.ms));
    rows.push(("all".into(), all));
    if args.json {
        let row = |(name, s): &(String, Share)| json!({"kernel": name, "launches": s.launches, "ms": s.ms, "gflop": s.gflop, "gb": s.gb});
        let report = json!({
            "adapter": gpu.info.name, "preset": model.config.preset, "batch": args.batch, "step_ms": wall,
            "kernels": rows.iter().map(row).collect::<Vec<_>>(),
        });
        println!("{report}");
        return Ok(());
    }
    println!("{} at batch {} on {}: {wall:.1} ms a step", model.config.preset, args.batch, gpu.info.name);
    println!("{:<44} {:>8} {:>10} {:>6} {:>9} {:>8}", "kernel", "launches", "ms", "share", "GFLOP/s", "GB/s");
    let total = rows.last().map_or(1.0, |r| r.1.ms);
    for (name, s) in &rows {
        let rate = |amount: f64| amount / s.ms * 1e3;
        let percent = 100.0 * s.ms / total;
        println!(
            "{name:<44} {:>8} {:>10.2} {percent:>5.1}% {:>9.1} {:>8.2}",
            s.launches,
            s.ms,
            rate(s.gflop),
            rate(s.gb)
        );
    }
    Ok(())
}
