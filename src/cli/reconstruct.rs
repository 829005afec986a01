//! `csmoe reconstruct`: what the model makes of hidden patches, as a picture.

use super::common::AdapterArgs;
use crate::eval::{check_count, reconstruct, reconstruction_sheet};
use anyhow::Result;
use std::path::PathBuf;

/// Draw inputs, what the encoder saw of them, and the reconstructions in every direction
#[derive(Debug, clap::Args)]
pub struct ReconstructArgs {
    /// Folder of a run: config.json and model.safetensors
    #[arg(long, value_name = "RUN")]
    pub checkpoint: PathBuf,
    /// Patch store, folder of co-registered S1/S2 GeoTIFFs, or synth:PAIRS[:SEED]
    #[arg(long, value_name = "STORE|DIR|synth:PAIRS[:SEED]")]
    pub data: String,
    /// Side of the tiles cut from the archive, in pixels [default: 120, or the image if smaller]
    #[arg(long, value_name = "N")]
    pub tile_px: Option<usize>,
    /// Pairs drawn; those that training with the same seed held back come first
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub count: usize,
    /// Seed of the split and of the masks
    #[arg(long, value_name = "N", default_value_t = 42)]
    pub seed: u64,
    /// Picture to write
    #[arg(long, value_name = "PNG")]
    pub out: PathBuf,
    #[command(flatten)]
    pub adapter: AdapterArgs,
    /// Print a JSON object instead of a sentence
    #[arg(long)]
    pub json: bool,
}

/// Runs the subcommand.
///
/// # Errors
/// A run, an archive or an output that cannot be used: names it.
pub fn run(args: ReconstructArgs) -> Result<()> {
    check_count(args.count)?;
    let source = crate::data::open(&args.data, args.tile_px)?;
    eprintln!("csmoe: {}", source.describe());
    let gpu = args.adapter.open_gpu()?;
    let (config, all) = reconstruct(&gpu, &args.checkpoint, &*source, args.count, args.seed)?;
    reconstruction_sheet(&config, &all).save(&args.out)?;
    let mean =
        |target: usize, source: usize| all.iter().map(|p| p.errors[target][source]).sum::<f64>() / all.len() as f64;
    let errors = [("s1->s1", mean(0, 0)), ("s2->s1", mean(0, 1)), ("s2->s2", mean(1, 1)), ("s1->s2", mean(1, 0))];
    if args.json {
        let errors: serde_json::Map<_, _> = errors.iter().map(|(name, e)| (name.to_string(), (*e).into())).collect();
        let ids: Vec<&str> = all.iter().map(|p| p.id.as_str()).collect();
        println!("{}", serde_json::json!({"out": args.out, "pairs": ids, "mse": errors, "adapter": gpu.info.name}));
    } else {
        let errors: Vec<String> = errors.iter().map(|(name, e)| format!("{name} {e:.3}")).collect();
        println!(
            "{} pairs in {}; squared error of hidden patches: {}",
            all.len(),
            args.out.display(),
            errors.join(", ")
        );
    }
    Ok(())
}
