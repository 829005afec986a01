//! `csmoe readout`: what a linear classifier reads out of the embeddings, before and after training.

use super::encoder::{EncoderArgs, bar};
use crate::eval::{Accuracy, open_run, readout};
use anyhow::Result;

/// Read scene labels out of frozen embeddings, beside random weights and bare band means
#[derive(Debug, clap::Args)]
pub struct ReadoutArgs {
    #[command(flatten)]
    pub encoder: EncoderArgs,
    /// Labelled tiles: a patch store, synth:PAIRS[:SEED], or a folder with labels.csv
    #[arg(long, value_name = "STORE|DIR|synth:PAIRS[:SEED]")]
    pub data: String,
    /// Seed of the parts and of the random weights
    #[arg(long, value_name = "N", default_value_t = 7)]
    pub seed: u64,
    /// Print a JSON object instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Runs the subcommand.
///
/// # Errors
/// A run or tiles that cannot be used, too few labels: names them.
pub fn run(args: ReadoutArgs) -> Result<()> {
    let e = &args.encoder;
    let (config, named) = open_run(&e.checkpoint)?;
    let source = e.open_tiles(&args.data)?;
    let gpu = e.adapter.open_gpu()?;
    let bar = bar(2 * source.len())?;
    let done = |n: usize| bar.inc(n as u64);
    let read = readout(&gpu, &config, &named, e.encoder(&*source), &*source, args.seed, done)?;
    bar.finish_and_clear();
    if args.json {
        let report = serde_json::json!({
            "data": source.describe().name, "sensor": e.sensor, "strategy": e.strategy.to_string(),
            "readout": read, "adapter": gpu.info.name,
        });
        println!("{report}");
        return Ok(());
    }
    println!(
        "{} {}: {} tiles of {} classes, each told by what {} of {} parts taught",
        e.sensor,
        e.strategy,
        read.tiles,
        read.classes,
        read.folds - 1,
        read.folds
    );
    println!("{:16} {:>12} {:>9}", "", "mean recall", "overall");
    let line =
        |name: &str, a: Accuracy| println!("{name:16} {:11.1}% {:8.1}%", 100.0 * a.mean_recall, 100.0 * a.overall);
    line("trained weights", read.trained);
    line("random weights", read.random);
    line("band means", read.band_means);
    Ok(())
}
