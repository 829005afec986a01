//! Sampling a whole archive: a count for every stratum, a genetic algorithm in each, checkpoints on the way.

use anyhow::{Context, Result, ensure};
use rayon::prelude::*;

use super::checkpoint::Checkpoint;
use super::distance::Points;
use super::genetic::{Outcome, Params, evaluate, evolve};
use super::lockstep::{Job, evolve_all, fitting};
use super::rng::Rng;
use super::strata::{Cells, Stratum};
use crate::gpu::Gpu;

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

/// Who judges the candidates.
#[derive(Clone, Copy)]
pub enum Judge<'a> {
    /// Every stratum by itself, over rayon's threads.
    Cpu,
    /// All strata in lockstep.
    Gpu(&'a Gpu),
}

/// Samples every stratum. `progress` is told of generations that are through: as many for each stratum as the parameters
/// say, in any order.
///
/// # Errors
/// No stratum, a checkpoint that cannot be written, those of the GPU.
#[allow(clippy::too_many_arguments)]
pub fn sample(
    cells: &Cells,
    strata: &[Stratum],
    wanted: Wanted,
    params: &Params,
    seed: u64,
    judge: Judge,
    checkpoint: Option<&Checkpoint>,
    progress: &(dyn Fn(usize) + Sync),
) -> Result<Vec<Selection>> {
    ensure!(
        !strata.is_empty(),
        "no stratum is left: nothing to sample; loosen --min-stratum or the filters of `csmoe annotate`"
    );
    let sizes: Vec<usize> = strata.iter().map(|s| s.rows.len()).collect();
    let quotas = quotas(&sizes, wanted);
    let found = |s: &Stratum| checkpoint.and_then(|c| c.find(s.u, s.v));
    let mut selections: Vec<Option<Selection>> = strata.iter().map(found).collect();
    let open: Vec<usize> = (0..strata.len()).filter(|&i| selections[i].is_none()).collect();
    progress((strata.len() - open.len()) * params.iterations);
    let keep = |i: usize, outcome: Outcome, points: &Points| -> Result<(usize, Selection)> {
        let selection = select(&strata[i], quotas[i], outcome, points);
        checkpoint.map_or(Ok(()), |c| c.append(&selection)).context("a checkpoint cannot be written")?;
        Ok((i, selection))
    };
    let generator = |s: &Stratum| Rng::new(seed, s.u, s.v, USE_GENETIC);
    let fresh: Vec<(usize, Selection)> = match judge {
        Judge::Cpu => {
            let run = |&i: &usize| {
                let points = cells.points(&strata[i].rows);
                let outcome = evolve(&points, quotas[i], params, generator(&strata[i]));
                progress(params.iterations);
                keep(i, outcome, &points)
            };
            open.par_iter().with_max_len(1).map(run).collect::<Result<_>>()?
        }
        Judge::Gpu(gpu) => {
            let (mut fresh, mut open) = (Vec::new(), &open[..]);
            // What the largest binding holds goes in one run; a checkpoint knows whole runs.
            let largest = quotas.iter().map(|q| q + q / 10).max().unwrap_or(0);
            while !open.is_empty() {
                let fit = fitting(&gpu.target, open.iter().map(|&i| sizes[i]), largest, params.population)?;
                let (now, later) = open.split_at(fit);
                let job = |&i: &usize| Job {
                    points: cells.points(&strata[i].rows),
                    wanted: quotas[i],
                    rng: generator(&strata[i]),
                };
                let jobs: Vec<Job> = now.par_iter().map(job).collect();
                let outcomes = evolve_all(gpu, &jobs, params, progress)?;
                for ((&i, outcome), job) in now.iter().zip(outcomes).zip(&jobs) {
                    fresh.push(keep(i, outcome, &job.points)?);
                }
                open = later;
            }
            fresh
        }
    };
    fresh.into_iter().for_each(|(i, selection)| selections[i] = Some(selection));
    Ok(selections.into_iter().flatten().collect())
}

/// An outcome, whose genes are ranks, as rows of the table.
fn select(stratum: &Stratum, wanted: usize, outcome: Outcome, points: &Points) -> Selection {
    let mut rows: Vec<u32> = outcome.genes.iter().map(|&g| stratum.rows[points.original(g) as usize]).collect();
    rows.sort_unstable();
    let (u, v, n_g) = (stratum.u, stratum.v, stratum.rows.len());
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

/// As many cells of each stratum as `sample` has, at random.
pub fn random_like(strata: &[Stratum], sample: &[Stratum], seed: u64) -> Vec<u32> {
    let size = |s: &Stratum| sample.iter().find(|t| (t.u, t.v) == (s.u, s.v)).map_or(0, |t| t.rows.len());
    random(strata, size, seed)
}

/// The fitness of some rows of a stratum, from scratch.
pub fn fitness(cells: &Cells, rows: &[u32], params: &Params) -> f64 {
    let points = cells.points(rows);
    evaluate(&points, &(0..rows.len() as u32).collect::<Vec<_>>(), params.fitness)
}
