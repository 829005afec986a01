//! `csmoe pretrain`: the main job.

use crate::data::export::write_atomic;
use crate::data::{PairSource, Part, split, stats};
use crate::gpu::{AdapterChoice, Gpu, describe};
use crate::model::{Config, Csmoe};
use crate::train::{Observer, Pretrain, Record, Report, Settings, Span, largest_batch};
use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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

/// What a run was started with: `RUN/resolved.toml`.
#[derive(Serialize, Deserialize, PartialEq)]
struct Resolved {
    train: Settings,
    model: Config,
}

/// Runs the subcommand.
///
/// # Errors
/// Whatever stops the run, in one line.
pub fn run(args: PretrainArgs) -> Result<()> {
    let file = args.out.join("resolved.toml");
    let saved = match args.resume && file.exists() {
        true => Some(read_resolved(&file)?),
        false => None,
    };
    if !args.resume && args.out.join("checkpoints").exists() {
        bail!("{} holds a run already: go on with --resume, or name another --out", args.out.display());
    }
    let gpu = Gpu::open(&AdapterChoice::from_flag(args.adapter.as_deref()))?;
    if gpu.is_software() {
        eprintln!("csmoe: no GPU here; a software one does the work: {}", describe(&gpu.info));
    }
    let mut resolved = match &saved {
        Some(saved) => Resolved { train: saved.train.clone(), model: saved.model.clone() },
        None => resolve(&args)?,
    };
    let source: Arc<dyn PairSource> = crate::data::open(&resolved.train.data, resolved.train.tile_px)?.into();
    eprintln!("csmoe: {}", source.describe());
    if saved.is_none() {
        match args.stats.as_str() {
            "data" => measure(&source, &mut resolved)?,
            "auto" => {
                if let Some(own) = crate::data::own_statistics(&resolved.train.data)? {
                    eprintln!("csmoe: normalised with the store's own statistics");
                    resolved.model.sensors = own;
                }
            }
            _ => {}
        }
        resolved.train.batch = batch(&gpu, &args, &resolved, source.tile_px())?;
        std::fs::create_dir_all(&args.out).with_context(|| format!("{} cannot be made", args.out.display()))?;
        let text = toml::to_string(&resolved).context("the configuration cannot be written as TOML")?;
        write_atomic(&file, |f| f.write_all(text.as_bytes()))?;
        let config = serde_json::to_string_pretty(&resolved.model)?;
        write_atomic(&args.out.join("config.json"), |f| f.write_all(config.as_bytes()))?;
    } else {
        refuse_changes(&args, &resolved)?;
    }

    let model = Csmoe::for_training(resolved.model);
    let mut watch = Watch::new(model.params.count())?;
    let pretrain =
        Pretrain { gpu: &gpu, model: &model, settings: &resolved.train, source, run: &args.out, resume: args.resume };
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

fn read_resolved(file: &Path) -> Result<Resolved> {
    let text = std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
    toml::from_str(&text).with_context(|| format!("{} does not describe a run", file.display()))
}

/// Preset, then the file, then the flags.
fn resolve(args: &PretrainArgs) -> Result<Resolved> {
    let mut model = Config::preset(args.preset.as_deref().unwrap_or("csmoe-tiny"))?;
    let mut train = Settings::default();
    if let Some(file) = &args.config {
        let text = std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
        let mut table: toml::Table = text.parse().with_context(|| format!("{} is not valid TOML", file.display()))?;
        if let Some(over) = table.remove("train") {
            train = over.try_into().with_context(|| format!("[train] of {} is wrong", file.display()))?;
        }
        model = model.with_overrides(&toml::to_string(&table)?, file)?;
    }
    let set = |target: &mut f64, value: Option<f64>| *target = value.unwrap_or(*target);
    set(&mut train.lr, args.lr);
    set(&mut train.warmup_epochs, args.warmup_epochs);
    set(&mut train.clip, args.clip);
    set(&mut train.split.validation, args.validation);
    let set = |target: &mut u64, value: Option<u64>| *target = value.unwrap_or(*target);
    set(&mut train.seed, args.seed);
    set(&mut train.checkpoint_every, args.checkpoint_every);
    set(&mut train.validate_every, args.validate_every);
    train.data = args.data.clone().unwrap_or(train.data);
    if train.data.is_empty() {
        bail!("--data names no archive: give a folder or synth:PAIRS");
    }
    train.tile_px = args.tile_px.or(train.tile_px);
    train.accumulate = args.accumulate.unwrap_or(train.accumulate);
    train.split.by_scene |= args.val_by_tile;
    train.flips &= !args.no_flips;
    if args.balanced {
        train.sampling = crate::data::Sampling::Balanced;
    }
    match (args.steps, args.epochs) {
        (Some(n), _) => train.span = Span::Steps(n),
        (None, Some(n)) => train.span = Span::Epochs(n),
        _ => {}
    }
    Ok(Resolved { train, model })
}

/// The batch asked for, or the largest that fits up to the paper's 256 and a quarter of the archive.
fn batch(gpu: &Gpu, args: &PretrainArgs, resolved: &Resolved, px: usize) -> Result<usize> {
    let asked = args.batch.as_deref().unwrap_or(if gpu.is_software() { "auto" } else { "" });
    match asked {
        "" => Ok(resolved.train.batch),
        "auto" => {
            let model = Csmoe::for_training(resolved.model.clone());
            // More than 32 gains nothing on a CPU.
            let most = if gpu.is_software() { 32 } else { resolved.train.batch };
            match largest_batch(gpu, &model, &resolved.train, px, most)? {
                Some(n) => Ok(n),
                None => bail!("not even a batch of 1 fits {}; try a smaller preset", gpu.info.name),
            }
        }
        n => n.parse().with_context(|| format!("--batch {n} is neither a number nor auto")),
    }
}

fn measure(source: &Arc<dyn PairSource>, resolved: &mut Resolved) -> Result<()> {
    let members = split::members(&**source, resolved.train.split, Part::Train, resolved.train.seed);
    let bar = ProgressBar::new(members.len() as u64)
        .with_style(ProgressStyle::with_template("statistics {bar:40} {pos}/{len} {eta}")?);
    resolved.model.sensors = stats::measure(&**source, &members, |_| bar.inc(1))?;
    bar.finish_and_clear();
    Ok(())
}

/// A resumed run keeps its settings: flags that say otherwise are refused, not ignored.
fn refuse_changes(args: &PretrainArgs, saved: &Resolved) -> Result<()> {
    let t = &saved.train;
    let refuse = |flag: &str, was: String| -> Result<()> {
        bail!("{} was started with {flag} {was}; leave {flag} out to resume, or start another run", args.out.display())
    };
    if args.preset.as_ref().is_some_and(|p| *p != saved.model.preset) {
        return refuse("--preset", saved.model.preset.clone());
    }
    if args.data.as_ref().is_some_and(|d| *d != t.data) {
        return refuse("--data", t.data.clone());
    }
    if args.batch.as_ref().is_some_and(|b| b != "auto" && *b != t.batch.to_string()) {
        return refuse("--batch", t.batch.to_string());
    }
    let span = match (args.steps, args.epochs) {
        (Some(n), _) => Some(Span::Steps(n)),
        (None, Some(n)) => Some(Span::Epochs(n)),
        _ => None,
    };
    if span.is_some_and(|s| s != t.span) {
        return match t.span {
            Span::Steps(n) => refuse("--steps", n.to_string()),
            Span::Epochs(n) => refuse("--epochs", n.to_string()),
        };
    }
    if args.seed.is_some_and(|s| s != t.seed) {
        return refuse("--seed", t.seed.to_string());
    }
    if args.lr.is_some_and(|v| v != t.lr) {
        return refuse("--lr", t.lr.to_string());
    }
    if args.accumulate.is_some_and(|v| v != t.accumulate) {
        return refuse("--accumulate", t.accumulate.to_string());
    }
    if args.tile_px.is_some_and(|v| Some(v) != t.tile_px) {
        return refuse("--tile-px", t.tile_px.map_or("its default".into(), |v| v.to_string()));
    }
    Ok(())
}

/// The progress bar, the first and last losses, and Ctrl-C.
struct Watch {
    bar: ProgressBar,
    parameters: usize,
    stop: Arc<AtomicBool>,
    /// Means over the first and the last steps, by name.
    first: Vec<(String, f64)>,
    last: Vec<(String, f64)>,
    /// Pairs a second and the GPU's share, means of all steps but the first, which compiles.
    speed: [f64; 2],
    seen: u64,
}

/// Steps that a reported first or last loss is the mean of, at most; short runs take a quarter.
const WINDOW: u64 = 10;

impl Watch {
    fn new(parameters: usize) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let flag = stop.clone();
        ctrlc::set_handler(move || {
            if flag.swap(true, Ordering::SeqCst) {
                std::process::exit(130);
            }
            eprintln!("\ncsmoe: finishing this step and writing a checkpoint; once more to stop at once");
        })?;
        let style = ProgressStyle::with_template("{bar:24} {pos}/{len}  {msg}  {eta} left")?;
        Ok(Watch {
            bar: ProgressBar::new(0).with_style(style),
            parameters,
            stop,
            first: Vec::new(),
            last: Vec::new(),
            speed: [0.0; 2],
            seen: 0,
        })
    }

    fn print(&self) {
        for ((name, first), (_, last)) in self.first.iter().zip(&self.last) {
            println!("{name:<14} {first:>9.4} -> {last:>9.4}");
        }
    }
}

impl Observer for Watch {
    fn planned(&mut self, r: &Report) {
        let mib = |b: u64| b as f64 / (1 << 20) as f64;
        let f = r.footprint;
        eprintln!(
            "csmoe: {:.1} M parameters; GPU memory {:.0} MiB: weights, gradients and moments {:.0}, activations {:.0}; {} launches a step",
            self.parameters as f64 / 1e6,
            mib(f.total()),
            mib(f.parameters),
            mib(f.activations),
            f.launches,
        );
        eprintln!(
            "csmoe: {} pairs to train on, {} to validate; {} steps of an epoch, {} in all{}",
            r.train_pairs,
            r.validation_pairs,
            r.steps_per_epoch,
            r.total_steps,
            if r.done > 0 { format!("; resuming after step {}", r.done) } else { String::new() },
        );
        self.bar.set_length(r.total_steps);
        self.bar.set_position(r.done);
        self.bar.reset_eta();
    }

    fn step(&mut self, record: &Record) {
        let numbers: Vec<(String, f64)> =
            record.numbers().into_iter().filter(|(n, _)| n.starts_with("loss.")).collect();
        self.seen += 1;
        let steps = self.seen.saturating_sub(1).max(1) as f64;
        let now = [record.pairs_per_s, record.gpu_share];
        self.speed.iter_mut().zip(now).for_each(|(mean, x)| *mean += (x - *mean) / steps);
        if self.seen == 1 {
            self.first = numbers.clone();
            self.last = numbers.clone();
        } else {
            let mean = |all: &mut Vec<(String, f64)>, weight: f64| {
                all.iter_mut().zip(&numbers).for_each(|(a, b)| a.1 += (b.1 - a.1) * weight);
            };
            let window = (self.bar.length().unwrap_or(0) / 4).clamp(1, WINDOW);
            if self.seen <= window {
                mean(&mut self.first, 1.0 / self.seen as f64);
            }
            mean(&mut self.last, (1.0 / self.seen as f64).max(1.0 / window as f64));
        }
        let [umr1, umr2, cmr1, cmr2, mi, ..] = record.terms.0;
        self.bar.set_message(format!(
            "loss {:.4} (s1<-s1 {umr1:.3} s2<-s2 {umr2:.3} s1<-s2 {cmr1:.3} s2<-s1 {cmr2:.3} mi {mi:.3})  {:.1} pairs/s",
            record.terms.total(),
            record.pairs_per_s,
        ));
        self.bar.set_position(record.step);
        if let Some(v) = &record.validation
            && !self.bar.is_hidden()
        {
            self.bar.println(format!("step {}: validation loss {:.4}", record.step, v.total()));
        }
    }

    fn warn(&mut self, message: String) {
        eprintln!("csmoe: {message}");
    }

    fn stop(&mut self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}
