//! `csmoe stats`: the figures of the paper's Table II.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Result, ensure};

use crate::sampling::sample::random;
use crate::sampling::stats::{Comparison, set_stats};
use crate::sampling::strata::{Cells, Stratum};
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
}

/// Runs the command.
pub fn run(args: StatsArgs) -> Result<()> {
    let cells = Cells::read(&Table::open(&args.cells)?)?;
    let sampled = Cells::read(&Table::open(&args.sample)?)?;
    let (strata, sample_strata) = (cells.strata(), sampled.strata());
    let known: BTreeSet<(i32, i32)> = strata.iter().map(|s| (s.u, s.v)).collect();
    ensure!(
        sample_strata.iter().all(|s| known.contains(&(s.u, s.v))),
        "{}: holds strata that {} does not: expected a sample of these cells",
        args.sample.display(),
        args.cells.display()
    );
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

/// The three columns; the random draw takes as many cells of each stratum as the sample has.
pub fn compare(
    cells: &Cells,
    strata: &[Stratum],
    sampled: &Cells,
    sample: &[Stratum],
    seed: u64,
    min_tiles: usize,
) -> Comparison {
    let size = |s: &Stratum| sample.iter().find(|t| (t.u, t.v) == (s.u, s.v)).map_or(0, |t| t.rows.len());
    let drawn = random(strata, size, seed);
    let counted: BTreeSet<(i32, i32)> =
        sample.iter().filter(|s| s.rows.len() > min_tiles).map(|s| (s.u, s.v)).collect();
    Comparison {
        full: set_stats(cells, strata, &counted),
        random: set_stats(cells, &cells.strata_of(&drawn), &counted),
        sample: set_stats(sampled, sample, &counted),
    }
}
