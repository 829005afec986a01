//! `csmoe stats`: the figures of the paper's Table II.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Result, ensure};

use crate::sampling::manifest;
use crate::sampling::pictures::{Land, Request, draw};
#[cfg(feature = "gdal")]
use crate::sampling::raster::Mosaic;
use crate::sampling::sample::random_like;
use crate::sampling::stats::compare;
use crate::sampling::strata::{Cells, class_names};
use crate::sampling::table::Table;

/// The paper's Table II: the full set, a random draw and the sample side by side
#[derive(clap::Args, Debug)]
pub struct StatsArgs {
    /// Table that `csmoe annotate` wrote
    #[arg(long, value_name = "FILE")]
    cells: PathBuf,
    /// Table that `csmoe sample` wrote
    #[arg(long, value_name = "FILE")]
    sample: PathBuf,
    /// Seed of the random draw
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Tiles per stratum and nearest neighbours within are over strata with more selected tiles than this
    #[arg(long, value_name = "N", default_value_t = 90)]
    min_tiles: usize,
    /// Print JSON
    #[arg(long, conflicts_with = "markdown")]
    json: bool,
    /// Print a Markdown table
    #[arg(long)]
    markdown: bool,
    /// Also draw tiles.svg, strata.svg and fitness.svg into this folder
    #[arg(long, value_name = "DIR")]
    pictures: Option<PathBuf>,
    /// Climate raster, for the coast lines of tiles.svg
    #[cfg(feature = "gdal")]
    #[arg(long, value_name = "RASTER", requires = "pictures")]
    climate: Option<PathBuf>,
}

/// Runs the command.
pub fn run(args: StatsArgs) -> Result<()> {
    let table = Table::open(&args.cells)?;
    let cells = Cells::read(&table)?;
    let sampled = Cells::read(&Table::open(&args.sample)?)?;
    let (strata, sample_strata) = (cells.strata(), sampled.strata());
    let known: BTreeSet<(i32, i32)> = strata.iter().map(|s| (s.u, s.v)).collect();
    ensure!(
        sample_strata.iter().all(|s| known.contains(&(s.u, s.v))),
        "{}: holds strata that {} does not: expected a sample of these cells",
        args.sample.display(),
        args.cells.display()
    );
    if let Some(folder) = &args.pictures {
        let manifest = manifest::beside(&args.sample);
        if !manifest.exists() {
            eprintln!("note: {} is not there: fitness.svg is not drawn", manifest.display());
        }
        #[cfg(feature = "gdal")]
        let land: Option<Land> = args.climate.as_deref().map(|path| Mosaic::open(path)?.land()).transpose()?;
        #[cfg(not(feature = "gdal"))]
        let land: Option<Land> = None;
        let request = Request {
            cells: &cells,
            strata: &strata,
            random: &random_like(&strata, &sample_strata, args.seed),
            sample: &sampled,
            sample_strata: &sample_strata,
            names: &class_names(&table)?,
            land: land.as_ref(),
            manifest: Some(manifest.as_path()).filter(|m| m.exists()),
        };
        draw(&request, folder)?;
    }
    let comparison = compare(&cells, &strata, &sampled, &sample_strata, args.seed, args.min_tiles);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&comparison)?);
    } else if args.markdown {
        print!("{}", comparison.markdown());
    } else {
        print!("{}", comparison.text());
    }
    Ok(())
}
