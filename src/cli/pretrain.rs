//! `csmoe pretrain`: the main job.

use super::watch::Watch;
use crate::data::{PairSource, Sampling, Weights};
use crate::gpu::{AdapterChoice, Gpu, describe};
use crate::model::{Config, Csmoe};
use crate::train::{Pretrain, Span, Start};
use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;

/// Pretrain a model on pairs of Sentinel-1 and Sentinel-2 tiles
#[derive(Debug, clap::Args)]
pub struct PretrainArgs {
    /// Patch store, folder of co-registered S1/S2 GeoTIFFs, or synth:PAIRS[:SEED]
    #[arg(long, value_name = "STORE|DIR|synth:PAIRS[:SEED]", required_unless_present = "resume")]
    data: Option<String>,
    /// Model: csmoe-14, -16, -28, -32, -small, -tiny, csmae, csmae-sesd, -cecd, -cesd [default: csmoe-tiny]
    #[arg(long)]
    preset: Option<String>,
    /// Folder of the run: checkpoints, metrics, weights
    #[arg(long, value_name = "RUN")]
    out: PathBuf,
    /// TOML over the preset: the model's fields at the top, training's in [train]
    #[arg(long, value_name = "F")]
    config: Option<PathBuf>,
    /// Steps of the whole run (0: only write the initial weights)
    #[arg(long, conflicts_with = "epochs")]
    steps: Option<u64>,
    /// Epochs of the whole run [default: 150]
    #[arg(long)]
    epochs: Option<u64>,
    /// Pairs in a step, or auto for as many as fit [default: 256; auto on a software GPU]
    #[arg(long, value_name = "N|auto")]
    batch: Option<String>,
    /// Batches whose gradients are added up before an update
    #[arg(long)]
    accumulate: Option<usize>,
    /// Side of the tiles cut from the archive, in pixels [default: 120, or the image if smaller]
    #[arg(long, value_name = "N")]
    tile_px: Option<usize>,
    /// Seed of weights, masks, order, flips and split [default: 42]
    #[arg(long)]
    seed: Option<u64>,
    /// Peak learning rate [default: 1e-4]
    #[arg(long)]
    lr: Option<f64>,
    /// Epochs of linear warm-up, a tenth of the run at most [default: 10]
    #[arg(long)]
    warmup_epochs: Option<f64>,
    /// Largest gradient norm (0: none) [default: 0]
    #[arg(long)]
    clip: Option<f64>,
    /// Steps between checkpoints (0: only at the end) [default: 500]
    #[arg(long, value_name = "N")]
    checkpoint_every: Option<u64>,
    /// Steps between looks at the validation part (0: never) [default: 100]
    #[arg(long, value_name = "N")]
    validate_every: Option<u64>,
    /// Share of the pairs held back for validation [default: 0.05]
    #[arg(long)]
    validation: Option<f64>,
    /// Hold back whole scenes, so that neighbouring tiles do not leak
    #[arg(long)]
    val_by_tile: bool,
    /// Draw every class of labelled pairs equally often
    #[arg(long)]
    balanced: bool,
    /// Draw pairs by weight, 0 for never: a column `weight`, beside `id` (of a patch), `grid_cell` or `scene`, or `label`
    #[arg(long, value_name = "CSV|PARQUET", conflicts_with = "balanced")]
    weights: Option<PathBuf>,
    /// No random flips
    #[arg(long)]
    no_flips: bool,
    /// Band statistics: the store's own (else the published ones), the published ones, or measured on the training part
    #[arg(long, value_parser = ["auto", "published", "data"], default_value = "auto")]
    stats: String,
    /// Go on from the newest checkpoint of RUN; settings are those it was started with
    #[arg(long)]
    resume: bool,
    /// Adapter by index or part of its name
    #[arg(long)]
    adapter: Option<String>,
    /// Print a JSON object at the end
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
///
/// # Errors
/// Whatever stops the run, in one line.
pub fn run(args: PretrainArgs) -> Result<()> {
    let saved = Start::of_run(&args.out, args.resume)?;
    let gpu = Gpu::open(&AdapterChoice::from_flag(args.adapter.as_deref()))?;
    if gpu.is_software() {
        eprintln!("csmoe: no GPU here; a software one does the work: {}", describe(&gpu.info));
    }
    let mut start = match &saved {
        Some(saved) => args.over(saved.clone())?,
        None => args.over(Start::fresh("csmoe-tiny")?)?,
    };
    if let Some(saved) = &saved {
        saved.refuse(&start, &args.out)?;
    }
    let source: Arc<dyn PairSource> = crate::data::open(&start.train.data, start.train.tile_px)?.into();
    eprintln!("csmoe: {}", source.describe());
    if saved.is_none() {
        args.settle(&mut start, &gpu, &*source)?;
        start.save(&args.out)?;
    }

    let model = Csmoe::for_training(start.model);
    let mut watch = Watch::new(model.params.count())?;
    let pretrain =
        Pretrain { gpu: &gpu, model: &model, settings: &start.train, source, run: &args.out, resume: args.resume };
    let outcome = pretrain.train(&mut watch)?;
    watch.bar.finish_and_clear();
    gpu.save_pipelines();
    if args.json {
        let losses: serde_json::Map<_, _> = watch
            .first
            .iter()
            .zip(&watch.last)
            .map(|((name, first), (_, last))| (name.clone(), json!({"first": first, "last": last})))
            .collect();
        let report = json!({
            "run": args.out, "steps": outcome.steps, "interrupted": outcome.interrupted, "losses": losses,
            "pairs_per_s": watch.speed[0], "gpu_share": watch.speed[1], "parameters": model.params.count(), "adapter": gpu.info.name,
        });
        println!("{report}");
    } else {
        watch.print();
        let [pairs, share] = watch.speed;
        println!("{} steps; {pairs:.1} pairs/s, {:.1} % of the time on the GPU", outcome.steps, 100.0 * share);
        println!("weights in {}", args.out.join("model.safetensors").display());
    }
    if outcome.interrupted {
        eprintln!("csmoe: stopped after step {}; --resume goes on", outcome.steps);
        std::process::exit(130);
    }
    Ok(())
}

impl PretrainArgs {
    /// The flags over a start, the file between them.
    fn over(&self, mut start: Start) -> Result<Start> {
        if let Some(preset) = self.preset.as_ref().filter(|p| **p != start.model.preset) {
            start.model = Config::preset(preset)?;
        }
        if let Some(file) = &self.config {
            start = start.with_file(file)?;
        }
        let train = &mut start.train;
        let set = |target: &mut f64, value: Option<f64>| *target = value.unwrap_or(*target);
        set(&mut train.lr, self.lr);
        set(&mut train.warmup_epochs, self.warmup_epochs);
        set(&mut train.clip, self.clip);
        set(&mut train.split.validation, self.validation);
        let set = |target: &mut u64, value: Option<u64>| *target = value.unwrap_or(*target);
        set(&mut train.seed, self.seed);
        set(&mut train.checkpoint_every, self.checkpoint_every);
        set(&mut train.validate_every, self.validate_every);
        if let Some(data) = &self.data {
            train.data = data.clone();
        }
        if train.data.is_empty() {
            bail!("--data names no archive: give a folder or synth:PAIRS");
        }
        if let Some(n) = self.batch.as_ref().filter(|n| *n != "auto") {
            train.batch = n.parse().with_context(|| format!("--batch {n} is neither a number nor auto"))?;
        }
        train.tile_px = self.tile_px.or(train.tile_px);
        train.accumulate = self.accumulate.unwrap_or(train.accumulate);
        train.split.by_scene |= self.val_by_tile;
        train.flips &= !self.no_flips;
        if self.balanced {
            train.sampling = Sampling::Balanced;
        }
        if let Some(file) = self.weights.as_ref().filter(|f| train.weights.as_ref().is_none_or(|w| w.file != **f)) {
            train.weights = Some(Weights { file: file.clone(), crc32c: None });
        }
        match (self.steps, self.epochs) {
            (Some(n), _) => train.span = Span::Steps(n),
            (None, Some(n)) => train.span = Span::Epochs(n),
            _ => {}
        }
        Ok(start)
    }

    /// What a new run takes from its archive and its device.
    fn settle(&self, start: &mut Start, gpu: &Gpu, source: &dyn PairSource) -> Result<()> {
        start.train.weights = start.train.weights.take().map(|w| w.sealed(source)).transpose()?;
        match self.stats.as_str() {
            "data" => {
                let pairs = start.training_pairs(source);
                let bar = ProgressBar::new(pairs.len() as u64)
                    .with_style(ProgressStyle::with_template("statistics {bar:40} {pos}/{len} {eta}")?);
                start.measure(source, &pairs, |_| bar.inc(1))?;
                bar.finish_and_clear();
            }
            "auto" if start.take_statistics()? => eprintln!("csmoe: normalised with the store's own statistics"),
            _ => {}
        }
        match self.batch.as_deref() {
            Some("auto") => start.fit_batch(gpu, source.tile_px()),
            None if gpu.is_software() => start.fit_batch(gpu, source.tile_px()),
            _ => Ok(()),
        }
    }
}
