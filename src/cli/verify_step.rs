//! `csmoe verify-step`: one training step as a file that others can check.

use super::common::AdapterArgs;
use crate::eval::verify_step;
use anyhow::Result;
use std::path::PathBuf;

/// Write one training step whole: inputs, visible patches, losses, every gradient
#[derive(Debug, clap::Args)]
pub struct VerifyStepArgs {
    /// Folder of a run: config.json and model.safetensors
    #[arg(long, value_name = "RUN")]
    pub checkpoint: PathBuf,
    /// Patch store, folder of co-registered S1/S2 GeoTIFFs, or synth:PAIRS[:SEED]
    #[arg(long, value_name = "STORE|DIR|synth:PAIRS[:SEED]")]
    pub data: String,
    /// Side of the tiles cut from the archive, in pixels [default: 120, or the image if smaller]
    #[arg(long, value_name = "N")]
    pub tile_px: Option<usize>,
    /// Pairs in the step
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub batch: u32,
    /// Seed of split, order, flips and masks
    #[arg(long, value_name = "N", default_value_t = 42)]
    pub seed: u64,
    /// File to write; tools/verify_step.py recomputes it
    #[arg(long, value_name = "F.safetensors")]
    pub out: PathBuf,
    #[command(flatten)]
    pub adapter: AdapterArgs,
    /// Print a JSON object instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Runs the subcommand.
///
/// # Errors
/// A run, an archive or an output that cannot be used: names it.
pub fn run(args: VerifyStepArgs) -> Result<()> {
    let source = crate::data::open(&args.data, args.tile_px)?;
    eprintln!("csmoe: {}", source.describe());
    let gpu = args.adapter.open_gpu()?;
    let step = verify_step(&gpu, &args.checkpoint, source.into(), args.batch as usize, args.seed)?;
    step.save(&args.out)?;
    if args.json {
        let losses: serde_json::Map<_, _> =
            step.terms.named().map(|(name, value)| (name.to_string(), value.into())).collect();
        let report = serde_json::json!({
            "out": args.out, "batch": step.batch, "gradients": step.gradients.len(), "losses": losses,
            "adapter": gpu.info.name,
        });
        println!("{report}");
    } else {
        step.terms.named().for_each(|(name, value)| println!("{name:8} {value:.6}"));
        println!("{} gradients in {}", step.gradients.len(), args.out.display());
    }
    Ok(())
}
