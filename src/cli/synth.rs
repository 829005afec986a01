//! `csmoe synth`: writes the procedural archive as GeoTIFFs.

use std::path::PathBuf;

use crate::data::DEFAULT_TILE_PX;
use crate::data::synth::DEFAULT_SEED;

/// Write a procedural archive of co-registered S1/S2 tiles with labels and masks, as GeoTIFFs
#[derive(Debug, clap::Args)]
pub struct SynthArgs {
    /// Folder to write: S1/, S2/, MASK/ and labels.csv
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Number of pairs
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub pairs: u32,
    /// The same seed gives the same archive
    #[arg(long, value_name = "S", default_value_t = DEFAULT_SEED)]
    pub seed: u64,
    /// Side of a tile in pixels of 10 m
    #[arg(long, value_name = "N", default_value_t = DEFAULT_TILE_PX as u32, value_parser = clap::value_parser!(u32).range(8..=4096))]
    pub tile_px: u32,
    /// Print a JSON object instead of a sentence
    #[arg(long)]
    pub json: bool,
}

/// Runs the subcommand.
#[cfg(feature = "gdal")]
pub fn run(args: SynthArgs) -> anyhow::Result<()> {
    use crate::data::PairSource;
    use crate::data::synth::Synth;

    let synth = Synth::new(args.pairs as usize, args.seed, args.tile_px as usize);
    let style = indicatif::ProgressStyle::with_template("{bar:40} {pos}/{len} pairs  {per_sec}  {eta} left")?;
    let bar = indicatif::ProgressBar::new(args.pairs as u64).with_style(style);
    synth.write(&args.out, |_| bar.inc(1))?;
    bar.finish_and_clear();
    let classes = &synth.describe().classes;
    if args.json {
        let report = serde_json::json!({
            "out": args.out, "pairs": args.pairs, "seed": args.seed, "tile_px": args.tile_px, "classes": classes,
        });
        println!("{report}");
    } else {
        println!(
            "{} pairs of {} px in {} classes under {}",
            args.pairs,
            args.tile_px,
            classes.len(),
            args.out.display()
        );
    }
    Ok(())
}

/// Runs the subcommand.
#[cfg(not(feature = "gdal"))]
pub fn run(args: SynthArgs) -> anyhow::Result<()> {
    anyhow::bail!(
        "{}: this build writes no GeoTIFFs; build with --features gdal, or train on synth:{}:{}",
        args.out.display(),
        args.pairs,
        args.seed
    )
}
