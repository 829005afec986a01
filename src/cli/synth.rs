//! `csmoe synth`: writes the procedural archive, in any layout that csmoe reads.

use std::path::PathBuf;

use crate::data::synth::DEFAULT_SEED;

/// Write a procedural archive of co-registered S1/S2 tiles with labels and masks
#[derive(Debug, clap::Args)]
pub struct SynthArgs {
    /// Folder to write
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Files to write: GeoTIFFs (S1/, S2/, MASK/, labels.csv), Major TOM Core Parquet, BigEarthNet v2, GEO-Bench 1.0
    #[arg(long, value_parser = ["geotiff", "major-tom", "bigearthnet", "geobench"], default_value = "geotiff")]
    pub layout: String,
    /// Number of pairs (for major-tom: of cells)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub pairs: u32,
    /// The same seed gives the same archive
    #[arg(long, value_name = "S", default_value_t = DEFAULT_SEED)]
    pub seed: u64,
    /// Side of a tile in pixels of 10 m [default: 120; 1068 for major-tom]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(8..=4096))]
    pub tile_px: Option<u32>,
    /// Print a JSON object instead of a sentence
    #[arg(long)]
    pub json: bool,
}

/// Runs the subcommand.
///
/// # Errors
/// A folder that cannot be written.
#[cfg(feature = "gdal")]
pub fn run(args: SynthArgs) -> anyhow::Result<()> {
    use crate::data::synth::Synth;
    use crate::data::{DEFAULT_TILE_PX, PairSource};

    let usual = if args.layout == "major-tom" { crate::data::archive::TILE_PX } else { DEFAULT_TILE_PX };
    let tile_px = args.tile_px.map_or(usual, |px| px as usize);
    let synth = Synth::new(args.pairs as usize, args.seed, tile_px);
    let style = indicatif::ProgressStyle::with_template("{bar:40} {pos}/{len} pairs  {per_sec}  {eta} left")?;
    let bar = indicatif::ProgressBar::new(args.pairs as u64).with_style(style);
    let done = |_| bar.inc(1);
    match args.layout.as_str() {
        "geotiff" => crate::data::geotiff::export::export(&synth, &args.out, done)?,
        #[cfg(feature = "parquet")]
        "major-tom" => synth.write_major_tom(&args.out, &cells(&synth), done)?,
        #[cfg(feature = "parquet")]
        "bigearthnet" => synth.write_big_earth_net(&args.out, done)?,
        #[cfg(all(feature = "parquet", feature = "hdf5"))]
        "geobench" => synth.write_geo_bench(&args.out, done)?,
        other => anyhow::bail!("--layout {other}: this build cannot write it; build with --features parquet,hdf5"),
    }
    bar.finish_and_clear();
    let classes = &synth.describe().classes;
    if args.json {
        let report = serde_json::json!({
            "out": args.out, "pairs": args.pairs, "seed": args.seed, "tile_px": tile_px, "classes": classes,
            "layout": args.layout,
        });
        println!("{report}");
    } else {
        println!("{} pairs of {tile_px} px in {} classes under {}", args.pairs, classes.len(), args.out.display());
    }
    Ok(())
}

/// A cell of the grid for every pair, where its climate is.
#[cfg(all(feature = "gdal", feature = "parquet"))]
fn cells(synth: &crate::data::synth::Synth) -> Vec<crate::data::synth::layouts::CellPlace> {
    let sites = crate::sampling::place::distinct_sites(synth.places().filter_map(|geo| {
        let [(west, south), _, (east, north), _] = geo.lon_lat()?;
        Some(((south + north) / 2.0, (west + east) / 2.0))
    }));
    let place = |site: crate::sampling::grid::Site| {
        let footprint = site.cell.footprint();
        crate::data::synth::layouts::CellPlace {
            name: site.cell.name(),
            row: site.cell.row.into(),
            col: site.cell.col.into(),
            lat: site.centre.lat,
            lon: site.centre.lon,
            crs: format!("EPSG:{}", footprint.zone.epsg()),
            left: footprint.left,
            top: footprint.bottom + 10.0 * crate::data::archive::TILE_PX as f64,
        }
    };
    sites.into_iter().map(place).collect()
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
