//! Sampling a whole archive: a count for every stratum, a genetic algorithm in each, checkpoints on the way.

use std::sync::Mutex;

use anyhow::{Context, Result, ensure};
use rayon::prelude::*;

use super::checkpoint::Checkpoint;
use super::genetic::{Params, evaluate, evolve};
use super::rng::Rng;
use super::strata::{Cells, Stratum};

/// Streams of random numbers of a stratum.
const USE_GENETIC: u64 = 0;
const USE_RANDOM: u64 = 1;

/// How many cells are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// N_s.
    PerStratum(usize),
    /// In all; every stratum gives the same as far as it can.
    Total(usize),
}

/// What was selected in one stratum.
#[derive(Clone, Debug, PartialEq)]
pub struct Selection {
    pub u: i32,
    pub v: i32,
    /// Cells of the stratum.
    pub n_g: usize,
    pub wanted: usize,
    /// Rows of the table, ascending.
    pub rows: Vec<u32>,
    /// Fitness of the best random start, and of the selection.
    pub before: f64,
    pub after: f64,
    /// The best fitness after some generations.
    pub curve: Vec<(usize, f64)>,
}

/// N_s for each stratum. A total is met exactly where the strata have that many cells: N_s is the greatest that does not
/// exceed it, and the first strata that can give one more make up the rest.
pub fn quotas(sizes: &[usize], wanted: Wanted) -> Vec<usize> {
    let of = |n: usize| sizes.iter().map(move |&s| s.min(n));
    match wanted {
        Wanted::PerStratum(n) => of(n).collect(),
        Wanted::Total(total) => {
            let most = sizes.iter().copied().max().unwrap_or(0);
            let (mut low, mut high) = (0, most);
            while low < high {
                let middle = (low + high).div_ceil(2);
                if of(middle).sum::<usize>() <= total { low = middle } else { high = middle - 1 }
            }
            let mut quotas: Vec<usize> = of(low).collect();
            let mut rest = total - quotas.iter().sum::<usize>();
            for (quota, &size) in quotas.iter_mut().zip(sizes) {
                if rest > 0 && size > *quota {
                    *quota += 1;
                    rest -= 1;
                }
            }
            quotas
        }
    }
}

/// Samples every stratum over rayon's threads. `done` is told of each stratum as it completes, in any order.
pub fn sample(
    cells: &Cells,
    strata: &[Stratum],
    wanted: Wanted,
    params: &Params,
    seed: u64,
    checkpoint: Option<&Checkpoint>,
    done: &(dyn Fn(&Selection) + Sync),
) -> Result<Vec<Selection>> {
    ensure!(
        !strata.is_empty(),
        "no stratum is left: nothing to sample; loosen --min-stratum or the filters of `csmoe annotate`"
    );
    let sizes: Vec<usize> = strata.iter().map(|s| s.rows.len()).collect();
    let quotas = quotas(&sizes, wanted);
    let failure = Mutex::new(None);
    let run = |(stratum, &quota): (&Stratum, &usize)| {
        if let Some(selection) = checkpoint.and_then(|c| c.find(stratum.u, stratum.v)) {
            done(&selection);
            return selection;
        }
        let selection = select(cells, stratum, quota, params, seed);
        if let Some(Err(error)) = checkpoint.map(|c| c.append(&selection)) {
            *failure.lock().unwrap_or_else(|e| e.into_inner()) = Some(error);
        }
        done(&selection);
        selection
    };
    let selections = strata.par_iter().zip(&quotas).with_max_len(1).map(run).collect();
    match failure.into_inner().unwrap_or_else(|e| e.into_inner()) {
        Some(error) => Err(error).context("a checkpoint cannot be written"),
        None => Ok(selections),
    }
}

/// Runs the genetic algorithm in one stratum.
pub fn select(cells: &Cells, stratum: &Stratum, wanted: usize, params: &Params, seed: u64) -> Selection {
    let (u, v, n_g) = (stratum.u, stratum.v, stratum.rows.len());
    let points = cells.points(&stratum.rows);
    let outcome = evolve(&points, wanted, params, Rng::new(seed, u, v, USE_GENETIC));
    let mut rows: Vec<u32> = outcome.genes.iter().map(|&g| stratum.rows[points.original(g) as usize]).collect();
    rows.sort_unstable();
    Selection { u, v, n_g, wanted, rows, before: outcome.before, after: outcome.after, curve: outcome.curve }
}

/// A uniform draw of as many cells of each stratum, for comparison; rows ascending within strata.
pub fn random(strata: &[Stratum], counts: impl Fn(&Stratum) -> usize, seed: u64) -> Vec<u32> {
    let draw = |stratum: &Stratum| {
        let n = stratum.rows.len();
        let chosen = Rng::new(seed, stratum.u, stratum.v, USE_RANDOM).choose(n as u32, counts(stratum).min(n));
        chosen.into_iter().map(|i| stratum.rows[i as usize]).collect::<Vec<_>>()
    };
    strata.iter().flat_map(draw).collect()
}

/// The fitness of some rows of a stratum, from scratch.
pub fn fitness(cells: &Cells, rows: &[u32], params: &Params) -> f64 {
    let points = cells.points(rows);
    evaluate(&points, &(0..rows.len() as u32).collect::<Vec<_>>(), params.fitness)
}
