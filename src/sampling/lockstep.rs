//! The genetic algorithm in many strata at once: the CPU breeds a generation of all of them, the GPU judges it in one
//! launch, a workgroup for every candidate of every stratum (`ops::geodesic`).

use anyhow::{Result, bail};
use rayon::prelude::*;

use super::breeding::{Breeder, argmax};
use super::distance::Points;
use super::fitness::Fitness;
use super::genetic::{Outcome, Params, evaluate, on_curve};
use super::rng::Rng;
use crate::gpu::{Gpu, Target};
use crate::ops::geodesic::{Measure, fixed, geodesic};
use crate::tensor::{ParamStore, Params as Parameters, Program, Tape};

/// A stratum to be sampled.
pub struct Job {
    pub points: Points,
    pub wanted: usize,
    pub rng: Rng,
}

/// Bytes of a point on the device.
const POINT: u64 = 12;

/// How many strata of `sizes` cells fit one run, from the first; `largest` points has the largest candidate.
///
/// # Errors
/// A stratum too large for a binding of the device.
pub fn fitting(
    target: &Target,
    sizes: impl Iterator<Item = usize>,
    largest: usize,
    population: usize,
) -> Result<usize> {
    let candidates = (largest * population) as u64 * 4;
    let (mut points, mut fit) = (0, 0);
    for size in sizes {
        points += size as u64 * POINT;
        if points > target.max_binding || (fit + 1) as u64 * candidates > target.max_binding {
            break;
        }
        fit += 1;
    }
    if fit == 0 {
        let limit = target.max_binding;
        bail!(
            "a stratum's cells or candidates take more than {limit} bytes, the adapter's largest binding: use --backend cpu"
        );
    }
    Ok(fit)
}

/// The candidates of one stratum.
struct Population {
    breeder: Breeder,
    now: Vec<Vec<u32>>,
    next: Vec<Vec<u32>>,
    score: Vec<f64>,
    best: usize,
    curve: Vec<(usize, f64)>,
    /// The best of the random start.
    start: Vec<u32>,
}

/// The launch that judges all populations.
struct Judge<'a> {
    gpu: &'a Gpu,
    program: Program,
    /// Places of a candidate.
    stride: usize,
    /// By stratum, the number of its first point.
    first: Vec<u32>,
    members: Vec<u32>,
    counts: Vec<u32>,
    fitness: Fitness,
}

/// Selects about as many points of each job as it wants; `tick` is told after each generation how many jobs there are.
///
/// # Errors
/// Those of the device.
pub fn evolve_all(gpu: &Gpu, jobs: &[Job], params: &Params, tick: &dyn Fn(usize)) -> Result<Vec<Outcome>> {
    let mut outcomes: Vec<Option<Outcome>> = jobs.iter().map(|_| None).collect();
    let (mut chosen, mut populations) = (Vec::new(), Vec::new());
    for (i, job) in jobs.iter().enumerate() {
        let mut breeder = Breeder::new(job.points.len(), job.wanted, params, job.rng.clone());
        if breeder.keeps_all() || params.iterations == 0 || params.population < 2 {
            outcomes[i] = Some(Outcome::unbred(&job.points, breeder.random(), params.fitness));
        } else {
            chosen.push(i);
            populations.push(Population::new(breeder, params));
        }
    }
    if !chosen.is_empty() {
        let points: Vec<&Points> = chosen.iter().map(|&i| &jobs[i].points).collect();
        let mut judge = Judge::new(gpu, &points, &populations, params)?;
        judge.score(&mut populations, 0)?;
        populations.iter_mut().for_each(Population::begin);
        for generation in 1..=params.iterations {
            populations.par_iter_mut().for_each(Population::breed);
            judge.score(&mut populations, 1)?;
            let mark = on_curve(generation, params).then_some(generation);
            populations.iter_mut().for_each(|p| p.turn(mark));
            tick(jobs.len());
        }
        for ((&i, population), points) in chosen.iter().zip(populations).zip(points) {
            outcomes[i] = Some(population.outcome(points, params.fitness));
        }
    }
    Ok(outcomes.into_iter().flatten().collect())
}

impl Population {
    fn new(mut breeder: Breeder, params: &Params) -> Population {
        let now: Vec<Vec<u32>> = (0..params.population).map(|_| breeder.random()).collect();
        let score = vec![0.0; now.len()];
        Population { breeder, next: now.clone(), now, score, best: 0, curve: Vec::new(), start: Vec::new() }
    }

    fn begin(&mut self) {
        self.best = argmax(&self.score);
        self.curve.push((0, self.score[self.best]));
        self.start = self.now[self.best].clone();
    }

    /// Leaves the next generation in `now`; the scores are still those of its parents, but the first.
    fn breed(&mut self) {
        let Population { breeder, now, next, score, best, .. } = self;
        breeder.children(score, |i| &now[i], |i, _, genes| genes.clone_into(&mut next[i]));
        now[*best].clone_into(&mut next[0]);
        score[0] = score[*best];
        std::mem::swap(now, next);
    }

    fn turn(&mut self, mark: Option<usize>) {
        self.best = argmax(&self.score);
        self.curve.extend(mark.map(|generation| (generation, self.score[self.best])));
    }

    /// Both ends are judged again in f64, so that they compare with any other backend's.
    fn outcome(mut self, points: &Points, fitness: Fitness) -> Outcome {
        let genes = std::mem::take(&mut self.now[self.best]);
        let (before, after) = (evaluate(points, &self.start, fitness), evaluate(points, &genes, fitness));
        // f32 may have seen a gain where there is none.
        let (genes, after) = if after < before { (self.start, before) } else { (genes, after) };
        Outcome { genes, before, after, curve: self.curve }
    }
}

impl<'a> Judge<'a> {
    fn new(gpu: &'a Gpu, points: &[&Points], populations: &[Population], params: &Params) -> Result<Judge<'a>> {
        let size = params.population;
        let sets = populations.len() * size;
        let stride = populations.iter().map(|p| p.breeder.most()).max().unwrap_or(1);
        let total: usize = points.iter().map(|p| p.len()).sum();
        let measure = match params.fitness {
            Fitness::NearestEntropy => Measure::Nearest,
            Fitness::HistogramEntropy => Measure::Histogram,
            Fitness::LogDistance => Measure::Log,
            Fitness::NormDistance => Measure::Share,
            Fitness::MeanDistance => Measure::Angle,
        };
        let mut t = Tape::new(gpu.target.clone(), Parameters::default());
        let inputs = [t.input("points", [total, 3]), t.input("members", [sets, stride]), t.input("counts", [sets])];
        let y = geodesic(&mut t, inputs[0], inputs[1], inputs[2], measure)?;
        t.output("y", y)?;
        let program = t.compile(gpu, &ParamStore::new(gpu, Parameters::default(), false)?)?;
        let (mut all, mut first) = (Vec::with_capacity(total * 3), Vec::new());
        for points in points {
            first.push((all.len() / 3) as u32);
            (0..points.len() as u32).for_each(|rank| {
                let [x, y, z, _] = points.at(rank);
                all.extend(fixed([x, y, z]));
            });
        }
        program.write(gpu, "points", &all)?;
        let (members, counts) = (vec![0; sets * stride], vec![0; sets]);
        Ok(Judge { gpu, program, stride, first, members, counts, fitness: params.fitness })
    }

    /// Scores the candidates `from..` of every population.
    fn score(&mut self, populations: &mut [Population], from: usize) -> Result<()> {
        let size = populations[0].now.len();
        let rooms = self.members.par_chunks_mut(self.stride * size).zip(self.counts.par_chunks_mut(size));
        rooms.zip(&*populations).zip(&self.first).for_each(|(((members, counts), population), first)| {
            let rooms = members.chunks_mut(self.stride).zip(counts).zip(&population.now);
            for (i, ((members, count), genes)) in rooms.enumerate() {
                // No points, no work: the first is scored already.
                *count = if i < from { 0 } else { genes.len() as u32 };
                members.iter_mut().zip(genes).for_each(|(m, gene)| *m = first + gene);
            }
        });
        self.program.write(self.gpu, "members", &self.members)?;
        self.program.write(self.gpu, "counts", &self.counts)?;
        let y = self.program.run_and_read(self.gpu, &["y"])?.outputs.swap_remove(0);
        for (population, y) in populations.iter_mut().zip(y.chunks(2 * size)) {
            for i in from..size {
                let (n, one, two) = (population.now[i].len(), f64::from(y[2 * i]), f64::from(y[2 * i + 1]));
                population.score[i] = match self.fitness {
                    Fitness::NearestEntropy => Fitness::from_nearest(one, n),
                    other => other.from_sums(one, two, n),
                };
            }
        }
        Ok(())
    }
}
