//! The genetic algorithm in one stratum (the paper's Algorithm 2, made exact).
//!
//! A genome is the set of selected points as ascending ranks. Each generation keeps the best and breeds the others
//! ([`super::breeding`]).

use std::fmt;
use std::str::FromStr;

use super::breeding::{Breeder, argmax};
use super::distance::Points;
use super::fitness::{Fitness, PairTerm};
use super::neighbours;
use super::pairs;
use super::rng::Rng;

/// How strictly a candidate keeps the wanted count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Count {
    /// Always.
    #[default]
    Exact,
    /// Within 90 % and 110 %.
    Band,
}

/// The probability that mutation flips a point, from N_s and n_g. The paper prints "N_s / n_g^25".
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Mutation {
    /// N_s / (25 n_g): about N_s / 25 flips, whatever the stratum's size.
    #[default]
    Scaled,
    /// N_s / n_g^2.5.
    Power,
    /// N_s / n_g^25, as printed: no flips at all.
    Literal,
    /// A given probability.
    Rate(f64),
}

impl Mutation {
    /// As a number.
    pub fn rate(self, wanted: usize, points: usize) -> f64 {
        let (wanted, points) = (wanted as f64, points as f64);
        let rate = match self {
            Mutation::Scaled => wanted / (25.0 * points),
            Mutation::Power => wanted / points.powf(2.5),
            Mutation::Literal => wanted / points.powi(25),
            Mutation::Rate(rate) => rate,
        };
        rate.min(1.0)
    }
}

impl FromStr for Mutation {
    type Err = String;

    fn from_str(s: &str) -> Result<Mutation, String> {
        match s {
            "scaled" => Ok(Mutation::Scaled),
            "power" => Ok(Mutation::Power),
            "literal" => Ok(Mutation::Literal),
            _ => s.parse().ok().filter(|r| (0.0..=1.0).contains(r)).map(Mutation::Rate).ok_or_else(|| {
                format!("no mutation rate `{s}`: expected scaled, power, literal or a probability in 0..1")
            }),
        }
    }
}

impl fmt::Display for Mutation {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Mutation::Scaled => f.write_str("scaled"),
            Mutation::Power => f.write_str("power"),
            Mutation::Literal => f.write_str("literal"),
            Mutation::Rate(rate) => write!(f, "{rate}"),
        }
    }
}

/// The parameters, as the paper names them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Params {
    /// N_p, two at least.
    pub population: usize,
    /// r_c.
    pub crossover: f64,
    /// r_m.
    pub mutation: Mutation,
    /// T.
    pub iterations: usize,
    pub count: Count,
    pub fitness: Fitness,
}

impl Default for Params {
    fn default() -> Self {
        Params {
            population: 10,
            crossover: 0.5,
            mutation: Mutation::Scaled,
            iterations: 2500,
            count: Count::Exact,
            fitness: Fitness::NearestEntropy,
        }
    }
}

/// What one run found.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The best candidate, as ascending ranks.
    pub genes: Vec<u32>,
    /// The best of the random candidates that it began with.
    pub before: f64,
    /// The fitness of `genes`.
    pub after: f64,
    /// The best fitness so far after 0, 1, 2, 4, 8, ... generations and the last.
    pub curve: Vec<(usize, f64)>,
}

impl Outcome {
    /// `genes` as they are, without any generation.
    pub(super) fn unbred(points: &Points, genes: Vec<u32>, fitness: Fitness) -> Outcome {
        let fitness = evaluate(points, &genes, fitness);
        Outcome { genes, before: fitness, after: fitness, curve: vec![(0, fitness)] }
    }
}

/// Whether the curve has a point after this many generations.
pub(super) fn on_curve(generation: usize, params: &Params) -> bool {
    generation.is_power_of_two() || generation == params.iterations
}

/// A candidate whose fitness is carried over from its parent.
trait Individual: Default + Clone {
    type Scratch: Default;
    fn genes(&self) -> &[u32];
    fn breed(&mut self, parent: &Self, genes: &[u32], setting: &Setting, scratch: &mut Self::Scratch) -> f64;
}

/// What does not change during a run.
struct Setting<'a> {
    points: &'a Points,
    fitness: Fitness,
    /// Points of the largest candidate.
    most: usize,
}

impl Individual for neighbours::Candidate {
    type Scratch = neighbours::Scratch;

    fn genes(&self) -> &[u32] {
        self.genes()
    }

    fn breed(&mut self, parent: &Self, genes: &[u32], setting: &Setting, scratch: &mut Self::Scratch) -> f64 {
        self.breed(parent, genes, setting.points, scratch);
        Fitness::from_nearest(self.mean_log_nearest(), genes.len())
    }
}

impl Individual for pairs::PairCandidate {
    type Scratch = pairs::Scratch;

    fn genes(&self) -> &[u32] {
        self.genes()
    }

    fn breed(&mut self, parent: &Self, genes: &[u32], setting: &Setting, scratch: &mut Self::Scratch) -> f64 {
        let term: PairTerm = setting.fitness.pair_term().expect("this individual is chosen for fitnesses over pairs");
        self.breed(parent, genes, setting.points, term, setting.most, scratch);
        setting.fitness.from_pairs(self.sums(), genes.len())
    }
}

/// Selects about `wanted` of `points`; fewer points than that are all kept.
pub fn evolve(points: &Points, wanted: usize, params: &Params, rng: Rng) -> Outcome {
    match params.fitness.pair_term() {
        None => run::<neighbours::Candidate>(points, wanted, params, rng),
        Some(_) => run::<pairs::PairCandidate>(points, wanted, params, rng),
    }
}

/// The fitness of a set of ranks, from scratch.
pub fn evaluate(points: &Points, genes: &[u32], fitness: Fitness) -> f64 {
    let setting = Setting { points, fitness, most: genes.len() };
    fn fresh<I: Individual>(genes: &[u32], setting: &Setting) -> f64 {
        I::default().breed(&I::default(), genes, setting, &mut I::Scratch::default())
    }
    match fitness.pair_term() {
        None => fresh::<neighbours::Candidate>(genes, &setting),
        Some(_) => fresh::<pairs::PairCandidate>(genes, &setting),
    }
}

fn run<I: Individual>(points: &Points, wanted: usize, params: &Params, rng: Rng) -> Outcome {
    let mut breeder = Breeder::new(points.len(), wanted, params, rng);
    let size = params.population;
    if breeder.keeps_all() || params.iterations == 0 || size < 2 {
        return Outcome::unbred(points, breeder.random(), params.fitness);
    }
    let setting = Setting { points, fitness: params.fitness, most: breeder.most() };
    let mut scratch = I::Scratch::default();
    let none = I::default();
    let (mut now, mut next) = (vec![I::default(); size], vec![I::default(); size]);
    let (mut score, mut next_score) = (vec![0.0; size], vec![0.0; size]);
    for (individual, score) in now.iter_mut().zip(&mut score) {
        *score = individual.breed(&none, &breeder.random(), &setting, &mut scratch);
    }
    let mut best = argmax(&score);
    let before = score[best];
    let mut curve = vec![(0, before)];
    for generation in 1..=params.iterations {
        breeder.children(
            &score,
            |i| now[i].genes(),
            |i, parent, genes| next_score[i] = next[i].breed(&now[parent], genes, &setting, &mut scratch),
        );
        std::mem::swap(&mut now[best], &mut next[0]);
        next_score[0] = score[best];
        std::mem::swap(&mut now, &mut next);
        std::mem::swap(&mut score, &mut next_score);
        best = argmax(&score);
        if on_curve(generation, params) {
            curve.push((generation, score[best]));
        }
    }
    Outcome { genes: now[best].genes().to_vec(), before, after: score[best], curve }
}
