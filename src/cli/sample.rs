//! `csmoe sample`: a training set from an annotated table.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};

use super::common::AdapterArgs;
use crate::gpu::AdapterChoice;
use crate::sampling::backend::{self, Backend};
use crate::sampling::checkpoint::Checkpoint;
use crate::sampling::export;
use crate::sampling::fitness::Fitness;
use crate::sampling::genetic::{Count, Mutation, Params};
use crate::sampling::manifest::{self, Input};
use crate::sampling::sample::{Judge, Selection, Wanted, sample};
use crate::sampling::stats::compare;
use crate::sampling::strata::Cells;
use crate::sampling::table::{Table, writable};

/// Selects a training set: strata of climate and land cover, a genetic algorithm in each (the paper's Algorithm 2)
#[derive(clap::Args, Debug)]
pub struct SampleArgs {
    /// Table that `csmoe annotate` wrote
    #[arg(long, value_name = "FILE")]
    cells: PathBuf,
    /// Cells of each stratum, N_s
    #[arg(long, value_name = "N", default_value_t = 100, conflicts_with = "total")]
    per_stratum: usize,
    /// Cells in all, instead of N_s
    #[arg(long, value_name = "N")]
    total: Option<usize>,
    /// Leave out strata of fewer cells
    #[arg(long, value_name = "N", default_value_t = 0)]
    min_stratum: usize,
    /// Keep to the count exactly, or within 10 %
    #[arg(long, value_name = "exact|band", default_value = "exact")]
    count: String,
    /// What the genetic algorithm maximises: nn-entropy, hist-entropy, log-distance, norm-distance, mean-distance
    #[arg(long, default_value = "nn-entropy")]
    fitness: String,
    /// Generations, T
    #[arg(long, value_name = "T", default_value_t = 2500)]
    iterations: usize,
    /// Candidates of a generation, N_p
    #[arg(long, value_name = "N_P", default_value_t = 10)]
    population: usize,
    /// Probability of crossover, r_c
    #[arg(long, value_name = "R_C", default_value_t = 0.5)]
    crossover: f64,
    /// Probability that a cell flips, r_m: scaled (N_s / 25 n_g), power (N_s / n_g^2.5), literal (N_s / n_g^25), or a number
    #[arg(long, value_name = "R_M", default_value = "scaled")]
    mutation: String,
    /// Who judges the candidates: cpu, gpu, or auto for the faster
    #[arg(long, value_name = "cpu|gpu|auto", default_value = "auto")]
    backend: String,
    #[command(flatten)]
    adapter: AdapterArgs,
    /// Seed of all random numbers
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Where cells stand at the same place, keep the first row only, instead of stopping
    #[arg(long)]
    drop_duplicates: bool,
    /// Worker threads [default: all cores]; the result is the same for any number
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// File to write: .parquet (GeoParquet), .csv or .geojson; may be given more than once
    #[arg(long, value_name = "FILE", required = true)]
    out: Vec<PathBuf>,
    /// Also write the list of Parquet files and rows to download, as CSV
    #[arg(long, value_name = "FILE")]
    fetch_list: Option<PathBuf>,
    /// Also print the figures of the full set, a random draw and the sample
    #[arg(long)]
    compare_random: bool,
    /// Report as JSON
    #[arg(long)]
    json: bool,
}

impl SampleArgs {
    fn params(&self) -> Result<Params> {
        ensure!(self.population >= 2, "--population {}: expected 2 at least", self.population);
        ensure!(
            (0.0..=1.0).contains(&self.crossover),
            "--crossover {}: expected a probability in 0..1",
            self.crossover
        );
        let count = match self.count.as_str() {
            "exact" => Count::Exact,
            "band" => Count::Band,
            other => bail!("--count {other}: expected exact or band"),
        };
        let fitness: Fitness = self.fitness.parse().map_err(anyhow::Error::msg).context("--fitness")?;
        let mutation: Mutation = self.mutation.parse().map_err(anyhow::Error::msg).context("--mutation")?;
        let (population, crossover, iterations) = (self.population, self.crossover, self.iterations);
        Ok(Params { population, crossover, mutation, iterations, count, fitness })
    }

    fn wanted(&self) -> Result<Wanted> {
        let wanted = self.total.map_or(Wanted::PerStratum(self.per_stratum), Wanted::Total);
        ensure!(
            !matches!(wanted, Wanted::PerStratum(0) | Wanted::Total(0)),
            "zero cells wanted: expected --per-stratum or --total above 0"
        );
        Ok(wanted)
    }
}

/// Runs the command.
pub fn run(args: SampleArgs) -> Result<()> {
    match args.threads {
        None => work(&args),
        Some(threads) => rayon::ThreadPoolBuilder::new().num_threads(threads).build()?.install(|| work(&args)),
    }
}

fn work(args: &SampleArgs) -> Result<()> {
    let (params, wanted) = (args.params()?, args.wanted()?);
    let asked: Backend = args.backend.parse().map_err(anyhow::Error::msg).context("--backend")?;
    let table = Table::open(&args.cells)?;
    // What would fail at the end fails now.
    args.out.iter().try_for_each(|out| writable(out))?;
    if args.fetch_list.is_some() {
        export::fetch_columns(&table)?;
    }
    let cells = Cells::read(&table)?;
    let input = Input::of(&args.cells)?;
    let mut strata = cells.strata();
    if args.drop_duplicates {
        let dropped = cells.drop_duplicates(&mut strata);
        if dropped > 0 {
            eprintln!("note: {}: {dropped} rows at the place of an earlier one are left out", args.cells.display());
        }
    } else if let Some((a, b)) = strata.iter().find_map(|s| cells.duplicate(s)) {
        bail!(
            "{}: rows {a} and {b}: the same centre_lat and centre_lon: remove one, or pass --drop-duplicates",
            args.cells.display()
        );
    }
    let all_strata = strata.clone();
    strata.retain(|s| s.rows.len() >= args.min_stratum);
    let parameters = serde_json::json!({
        "per_stratum": args.total.is_none().then_some(args.per_stratum),
        "total": args.total,
        "min_stratum": args.min_stratum,
        "count": args.count,
        "fitness": params.fitness.to_string(),
        "iterations": params.iterations,
        "population": params.population,
        "crossover": params.crossover,
        "mutation": params.mutation.to_string(),
        "drop_duplicates": args.drop_duplicates,
    });
    let out = &args.out[0];
    let checkpoint_path = out.with_extension("checkpoint.jsonl");
    // A run goes on with the backend that it began with, since the last digits differ.
    let begun = Checkpoint::recorded(&checkpoint_path, "backend").and_then(|b| b.parse().ok());
    let asked = begun.filter(|_| asked == Backend::Auto).unwrap_or(asked);
    let choice = AdapterChoice::from_flag(args.adapter.adapter.as_deref());
    let (gpu, why) = backend::open(asked, &choice, &cells, &strata, wanted, &params)?;
    let backend = if gpu.is_some() { Backend::Gpu } else { Backend::Cpu };
    if let Some(why) = why {
        eprintln!("note: backend {backend}: {why}");
    }
    let identity = serde_json::json!({
        "csmoe": env!("CARGO_PKG_VERSION"), "cells": input.sha256, "seed": args.seed, "parameters": parameters,
        "backend": backend.to_string(),
    });
    let checkpoint = Checkpoint::open(&checkpoint_path, &identity)?;
    if !checkpoint.is_empty() {
        eprintln!("note: {} of {} strata are done already: going on from there", checkpoint.len(), strata.len());
    }
    let bar = ProgressBar::new((strata.len() * params.iterations) as u64);
    bar.set_style(ProgressStyle::with_template("{percent} % of the generations {wide_bar} {elapsed} left {eta}")?);
    let judge = gpu.as_ref().map_or(Judge::Cpu, Judge::Gpu);
    let selections =
        sample(&cells, &strata, wanted, &params, args.seed, judge, Some(&checkpoint), &|n| bar.inc(n as u64))?;
    bar.finish_and_clear();
    let mut rows: Vec<u32> = selections.iter().flat_map(|s| s.rows.iter().copied()).collect();
    rows.sort_unstable();
    export::write_rows(&table, &rows, &args.out)?;
    if let Some(list) = &args.fetch_list {
        export::write_fetch_list(&table, &rows, list)?;
    }
    let members = serde_json::json!({
        "seed": args.seed,
        "backend": backend.to_string(),
        "parameters": parameters,
        "selected": rows.len(),
        "strata": selections.iter().map(describe).collect::<Vec<_>>(),
    });
    manifest::write(out, "sample", &[input], members)?;
    checkpoint.remove()?;
    let comparison =
        args.compare_random.then(|| compare(&cells, &all_strata, &cells, &cells.strata_of(&rows), args.seed, 90));
    if args.json {
        let report = serde_json::json!({ "cells": cells.len(), "strata": strata.len(), "selected": rows.len(), "compare": comparison });
        println!("{report}");
    } else {
        println!("{} of {} cells in {} strata -> {}", rows.len(), cells.len(), strata.len(), out.display());
        if let Some(comparison) = comparison {
            print!("{}", comparison.text());
        }
    }
    Ok(())
}

/// A stratum's lines in the manifest.
fn describe(s: &Selection) -> serde_json::Value {
    serde_json::json!({
        "climate": s.u, "thematic": s.v, "n_g": s.n_g, "selected": s.rows.len(),
        "fitness_before": s.before, "fitness_after": s.after, "curve": s.curve,
    })
}
