//! The genetic algorithm in one stratum (the paper's Algorithm 2, made exact).
//!
//! A genome is the set of selected points as ascending ranks. Each generation keeps the best, and breeds the others:
//! tournaments of two choose the parents, half of the pairs cross uniformly (what both have, both children have; each
//! other point goes to one child, by a coin), Binomial(n_g, r_m) points flip, and the count is repaired at random.

use std::fmt;
use std::str::FromStr;

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
    fn rate(self, wanted: usize, points: usize) -> f64 {
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

/// A candidate whose fitness is carried over from its parent.
trait Individual: Default + Clone {
    type Scratch: Default;
    fn genes(&self) -> &[u32];
    fn breed(&mut self, parent: &Self, genes: &[u32], ga: &Setting, scratch: &mut Self::Scratch) -> f64;
}

/// What does not change during a run.
struct Setting<'a> {
    points: &'a Points,
    fitness: Fitness,
    least: usize,
    most: usize,
    rate: f64,
}

impl Individual for neighbours::Candidate {
    type Scratch = neighbours::Scratch;

    fn genes(&self) -> &[u32] {
        self.genes()
    }

    fn breed(&mut self, parent: &Self, genes: &[u32], ga: &Setting, scratch: &mut Self::Scratch) -> f64 {
        self.breed(parent, genes, ga.points, scratch);
        Fitness::from_nearest(self.mean_log_nearest(), genes.len())
    }
}

impl Individual for pairs::PairCandidate {
    type Scratch = pairs::Scratch;

    fn genes(&self) -> &[u32] {
        self.genes()
    }

    fn breed(&mut self, parent: &Self, genes: &[u32], ga: &Setting, scratch: &mut Self::Scratch) -> f64 {
        let term: PairTerm = ga.fitness.pair_term().expect("this individual is chosen for fitnesses over pairs");
        self.breed(parent, genes, ga.points, term, ga.most, scratch);
        ga.fitness.from_pairs(self.sums(), genes.len())
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
    let setting = Setting { points, fitness, least: genes.len(), most: genes.len(), rate: 0.0 };
    fn fresh<I: Individual>(genes: &[u32], setting: &Setting) -> f64 {
        I::default().breed(&I::default(), genes, setting, &mut I::Scratch::default())
    }
    match fitness.pair_term() {
        None => fresh::<neighbours::Candidate>(genes, &setting),
        Some(_) => fresh::<pairs::PairCandidate>(genes, &setting),
    }
}

fn run<I: Individual>(points: &Points, wanted: usize, params: &Params, mut rng: Rng) -> Outcome {
    let total = points.len();
    let keep_all = total <= wanted;
    let wanted = wanted.min(total);
    let (least, most) = match params.count {
        Count::Exact => (wanted, wanted),
        Count::Band => ((wanted as f64 * 0.9).ceil() as usize, ((wanted as f64 * 1.1).floor() as usize).min(total)),
    };
    let ga = Setting { points, fitness: params.fitness, least, most, rate: params.mutation.rate(wanted, total) };
    if keep_all || params.iterations == 0 || params.population < 2 || wanted == 0 {
        let genes = rng.choose(total as u32, wanted);
        let fitness = evaluate(points, &genes, params.fitness);
        return Outcome { genes, before: fitness, after: fitness, curve: vec![(0, fitness)] };
    }
    let size = params.population;
    let mut scratch = I::Scratch::default();
    let none = I::default();
    let (mut now, mut next) = (vec![I::default(); size], vec![I::default(); size]);
    let (mut score, mut next_score) = (vec![0.0; size], vec![0.0; size]);
    for (individual, score) in now.iter_mut().zip(&mut score) {
        *score = individual.breed(&none, &rng.choose(total as u32, wanted), &ga, &mut scratch);
    }
    let mut best = argmax(&score);
    let before = score[best];
    let mut curve = vec![(0, before)];
    let (mut one, mut two) = (Vec::new(), Vec::new());
    for generation in 1..=params.iterations {
        let mut bred = 1;
        while bred < size {
            let (a, b) = (tournament(&score, &mut rng), tournament(&score, &mut rng));
            if rng.unit() <= params.crossover {
                cross(now[a].genes(), now[b].genes(), &mut one, &mut two, &mut rng);
            } else {
                now[a].genes().clone_into(&mut one);
                now[b].genes().clone_into(&mut two);
            }
            for (genes, parent) in [(&mut one, a), (&mut two, b)] {
                if bred < size {
                    mutate(genes, &ga, &mut rng);
                    repair(genes, &ga, &mut rng);
                    next_score[bred] = next[bred].breed(&now[parent], genes, &ga, &mut scratch);
                    bred += 1;
                }
            }
        }
        std::mem::swap(&mut now[best], &mut next[0]);
        next_score[0] = score[best];
        std::mem::swap(&mut now, &mut next);
        std::mem::swap(&mut score, &mut next_score);
        best = argmax(&score);
        if generation.is_power_of_two() || generation == params.iterations {
            curve.push((generation, score[best]));
        }
    }
    Outcome { genes: now[best].genes().to_vec(), before, after: score[best], curve }
}

/// The first of the greatest.
fn argmax(score: &[f64]) -> usize {
    (1..score.len()).fold(0, |best, i| if score[i] > score[best] { i } else { best })
}

fn tournament(score: &[f64], rng: &mut Rng) -> usize {
    let (a, b) = (rng.below(score.len() as u32) as usize, rng.below(score.len() as u32) as usize);
    if score[b] > score[a] { b } else { a }
}

/// Uniform crossover of two ascending lists.
fn cross(a: &[u32], b: &[u32], one: &mut Vec<u32>, two: &mut Vec<u32>, rng: &mut Rng) {
    let most = a.len() + b.len();
    one.clear();
    one.resize(most, 0);
    two.clear();
    two.resize(most, 0);
    let (mut i, mut j, mut n, mut m) = (0, 0, 0, 0);
    let mut coins = 1u64;
    while i < a.len() || j < b.len() {
        if coins == 1 {
            coins = rng.next_u64() | 1 << 63;
        }
        let x = if i < a.len() { a[i] } else { u32::MAX };
        let y = if j < b.len() { b[j] } else { u32::MAX };
        let (gene, shared, coin) = (x.min(y), x == y, coins & 1 == 1);
        i += usize::from(x == gene);
        j += usize::from(y == gene);
        // written to both, counted where it belongs: no branch to mispredict
        one[n] = gene;
        two[m] = gene;
        n += usize::from(shared | coin);
        m += usize::from(shared | !coin);
        coins >>= 1;
    }
    one.truncate(n);
    two.truncate(m);
}

/// Flips each point with the setting's probability; the gaps between flips are geometric.
fn mutate(genes: &mut Vec<u32>, ga: &Setting, rng: &mut Rng) {
    if ga.rate <= 0.0 {
        return;
    }
    let scale = 1.0 / (-ga.rate).ln_1p();
    let mut at = (rng.unit().ln() * scale).floor();
    while at < ga.points.len() as f64 {
        let gene = at as u32;
        match genes.binary_search(&gene) {
            Ok(i) => drop(genes.remove(i)),
            Err(i) => genes.insert(i, gene),
        }
        at += 1.0 + (rng.unit().ln() * scale).floor();
    }
}

/// Prunes or adds at random: to the wanted count where the candidate left what is allowed.
fn repair(genes: &mut Vec<u32>, ga: &Setting, rng: &mut Rng) {
    while genes.len() > ga.most {
        let i = rng.below(genes.len() as u32) as usize;
        genes.remove(i);
    }
    while genes.len() < ga.least {
        let gene = rng.below(ga.points.len() as u32);
        if let Err(i) = genes.binary_search(&gene) {
            genes.insert(i, gene);
        }
    }
}
