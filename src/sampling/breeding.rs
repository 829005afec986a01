//! What chance does in one stratum: the first candidates, and the children of every generation.
//!
//! Tournaments of two choose the parents, half of the pairs cross uniformly (what both have, both children have; each
//! other point goes to one child, by a coin), Binomial(n_g, r_m) points flip, and the count is repaired at random.

use super::genetic::{Count, Params};
use super::rng::Rng;

/// A stratum's generator, and what it needs to know. Judging draws no random numbers, so that every backend sees the
/// same candidates as long as it gives the same scores.
pub struct Breeder {
    rng: Rng,
    /// Points of the stratum.
    total: u32,
    wanted: usize,
    least: usize,
    most: usize,
    /// 1 / ln(1 - r_m); None where nothing flips.
    gap: Option<f64>,
    crossover: f64,
    one: Vec<u32>,
    two: Vec<u32>,
    spare: Vec<u32>,
}

impl Breeder {
    /// For `wanted` of `total` points; fewer points than that are all kept.
    pub fn new(total: usize, wanted: usize, params: &Params, rng: Rng) -> Breeder {
        let wanted = wanted.min(total);
        let (least, most) = match params.count {
            Count::Exact => (wanted, wanted),
            Count::Band => ((wanted as f64 * 0.9).ceil() as usize, ((wanted as f64 * 1.1).floor() as usize).min(total)),
        };
        let rate = params.mutation.rate(wanted, total);
        let gap = (rate > 0.0).then(|| 1.0 / (-rate).ln_1p());
        let [one, two, spare] = [const { Vec::new() }; 3];
        Breeder { rng, total: total as u32, wanted, least, most, gap, crossover: params.crossover, one, two, spare }
    }

    /// The most points a candidate can have.
    pub fn most(&self) -> usize {
        self.most
    }

    /// Whether there is nothing to choose.
    pub fn keeps_all(&self) -> bool {
        self.wanted == 0 || self.wanted == self.total as usize
    }

    /// A random candidate: ascending ranks.
    pub fn random(&mut self) -> Vec<u32> {
        self.rng.choose(self.total, self.wanted)
    }

    /// Breeds the candidates 1.. of the next generation, from the `genes` and the `score` of this one; 0 is the best of
    /// this one. Gives each its number, that of the parent which it shares most with, and its genes.
    pub fn children<'a>(
        &mut self,
        score: &[f64],
        genes: impl Fn(usize) -> &'a [u32],
        mut child: impl FnMut(usize, usize, &[u32]),
    ) {
        let (mut one, mut two) = (std::mem::take(&mut self.one), std::mem::take(&mut self.two));
        let mut bred = 1;
        while bred < score.len() {
            let (a, b) = (self.tournament(score), self.tournament(score));
            if self.rng.unit() <= self.crossover {
                cross(genes(a), genes(b), &mut one, &mut two, &mut self.rng);
            } else {
                genes(a).clone_into(&mut one);
                genes(b).clone_into(&mut two);
            }
            for (genes, parent) in [(&mut one, a), (&mut two, b)] {
                if bred < score.len() {
                    self.mutate(genes);
                    self.repair(genes);
                    child(bred, parent, genes);
                    bred += 1;
                }
            }
        }
        (self.one, self.two) = (one, two);
    }

    fn tournament(&mut self, score: &[f64]) -> usize {
        let n = score.len() as u32;
        let (a, b) = (self.rng.below(n) as usize, self.rng.below(n) as usize);
        if score[b] > score[a] { b } else { a }
    }

    /// Flips each point with probability r_m; the gaps between flips are geometric, so that they come in order.
    fn mutate(&mut self, genes: &mut Vec<u32>) {
        let Some(gap) = self.gap else { return };
        self.spare.clear();
        let mut from = 0;
        let mut at = (self.rng.unit().ln() * gap).floor();
        while at < f64::from(self.total) {
            let gene = at as u32;
            let i = from + genes[from..].partition_point(|&g| g < gene);
            self.spare.extend_from_slice(&genes[from..i]);
            if genes.get(i) == Some(&gene) {
                from = i + 1;
            } else {
                self.spare.push(gene);
                from = i;
            }
            at += 1.0 + (self.rng.unit().ln() * gap).floor();
        }
        self.spare.extend_from_slice(&genes[from..]);
        std::mem::swap(genes, &mut self.spare);
    }

    /// Prunes or adds at random: to the nearest allowed count where the candidate left what is allowed.
    fn repair(&mut self, genes: &mut Vec<u32>) {
        if genes.len() > self.most {
            self.prune(genes);
        }
        while genes.len() < self.least {
            let gene = self.rng.below(self.total);
            if let Err(i) = genes.binary_search(&gene) {
                genes.insert(i, gene);
            }
        }
    }

    /// Takes away as many as are too many, each at random among those that are left, and closes all gaps at once.
    fn prune(&mut self, genes: &mut Vec<u32>) {
        let gone = &mut self.spare;
        gone.clear();
        for left in (self.most + 1..=genes.len()).rev() {
            // The place among those left, then among all.
            let (mut at, mut i) = (self.rng.below(left as u32), 0);
            while i < gone.len() && gone[i] <= at {
                (at, i) = (at + 1, i + 1);
            }
            gone.insert(i, at);
        }
        let mut to = gone[0] as usize;
        for (i, &at) in gone.iter().enumerate() {
            let end = gone.get(i + 1).map_or(genes.len(), |&next| next as usize);
            genes.copy_within(at as usize + 1..end, to);
            to += end - at as usize - 1;
        }
        genes.truncate(to);
    }
}

/// The first of the greatest.
pub fn argmax(score: &[f64]) -> usize {
    (1..score.len()).fold(0, |best, i| if score[i] > score[best] { i } else { best })
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
