//! Sums over all pairs of a candidate, carried over from its parent: minus the pairs that left, plus those that came.
//!
//! Every term is rounded to a multiple of a quantum so large that the sums stay exact in f64. Sums are therefore the
//! same bits whatever the order in which pairs come and go.

use super::distance::Points;
use super::elementary::{acos, ln};
use super::fitness::PairTerm;
use super::lanes::{LANES, Lanes, sum, vectorised};

/// Bins of the distance histogram, over [0, pi] radians.
pub const BINS: usize = 64;

/// Sums over the pairs of one candidate.
#[derive(Clone, Debug, PartialEq)]
pub struct PairSums {
    /// The sum of distances, radians, or of whatever the fitness asks for.
    pub first: f64,
    /// The sum of distance times its logarithm, for [`PairTerm::Share`].
    pub second: f64,
    /// How many distances fall in each bin, for [`PairTerm::Bin`].
    pub bins: [i64; BINS],
}

impl Default for PairSums {
    fn default() -> Self {
        PairSums { first: 0.0, second: 0.0, bins: [0; BINS] }
    }
}

/// A candidate with its pair sums.
#[derive(Clone, Debug, Default)]
pub struct PairCandidate {
    genes: Vec<u32>,
    sums: PairSums,
}

/// Points as columns, padded with NaN to whole chunks.
#[derive(Clone, Debug, Default)]
struct Columns {
    x: Vec<f64>,
    y: Vec<f64>,
    z: Vec<f64>,
    n: usize,
}

/// Working memory of [`PairCandidate::breed`]: the points that stay, leave and come.
#[derive(Clone, Debug, Default)]
pub struct Scratch {
    kept: Columns,
    gone: Columns,
    fresh: Columns,
}

impl Columns {
    fn clear(&mut self) {
        self.n = 0;
        self.x.clear();
        self.y.clear();
        self.z.clear();
    }

    fn push(&mut self, at: [f64; 4]) {
        self.x.push(at[0]);
        self.y.push(at[1]);
        self.z.push(at[2]);
        self.n += 1;
    }

    fn pad(&mut self) {
        for column in [&mut self.x, &mut self.y, &mut self.z] {
            column.resize(self.n + LANES, f64::NAN);
        }
    }
}

impl PairCandidate {
    /// The points, as ascending ranks.
    pub fn genes(&self) -> &[u32] {
        &self.genes
    }

    /// The sums over its pairs.
    pub fn sums(&self) -> &PairSums {
        &self.sums
    }

    /// Becomes the candidate `genes` (ascending ranks), bred from `parent`; `most` is the most points a candidate can have.
    pub fn breed(
        &mut self,
        parent: &PairCandidate,
        genes: &[u32],
        points: &Points,
        term: PairTerm,
        most: usize,
        scratch: &mut Scratch,
    ) {
        let Scratch { kept, gone, fresh } = scratch;
        for columns in [&mut *kept, &mut *gone, &mut *fresh] {
            columns.clear();
        }
        let (mut i, mut j) = (0, 0);
        let old = &parent.genes;
        while i < old.len() || j < genes.len() {
            let (a, b) = (old.get(i).copied().unwrap_or(u32::MAX), genes.get(j).copied().unwrap_or(u32::MAX));
            let to = if a == b {
                &mut *kept
            } else if a < b {
                &mut *gone
            } else {
                &mut *fresh
            };
            to.push(points.at(a.min(b)));
            i += usize::from(a <= b);
            j += usize::from(b <= a);
        }
        self.genes.clear();
        self.genes.extend_from_slice(genes);
        let rounder = rounder(most);
        // Pairs from scratch, or pairs that changed: whichever are fewer.
        let (k, r, f) = (kept.n, gone.n, fresh.n);
        if r * (2 * k + r) > k * k {
            self.sums = PairSums::default();
            for columns in [&mut *kept, &mut *fresh] {
                columns.pad();
            }
            block(&mut self.sums, kept, kept, true, 1.0, term, rounder);
        } else {
            self.sums = parent.sums.clone();
            for columns in [&mut *kept, &mut *gone, &mut *fresh] {
                columns.pad();
            }
            if r > 0 {
                block(&mut self.sums, gone, kept, false, -1.0, term, rounder);
                block(&mut self.sums, gone, gone, true, -1.0, term, rounder);
            }
        }
        if f > 0 {
            block(&mut self.sums, fresh, kept, false, 1.0, term, rounder);
            block(&mut self.sums, fresh, fresh, true, 1.0, term, rounder);
        }
    }
}

/// Adding and subtracting this rounds to a quantum of which n^2/2 terms below 16 sum exactly.
fn rounder(n: usize) -> f64 {
    let pairs_bits = (2.0 * (n.max(2) as f64).log2()).ceil() as i32;
    1.5 * 2f64.powi(52 - (47 - pairs_bits).max(8))
}

vectorised! {
/// Adds (`sign` 1) or takes away (-1) the pairs of `rows` with `columns`; of a set with itself each pair once.
fn block<S>(sums: &mut PairSums, rows: &Columns, columns: &Columns, itself: bool, sign: f64, term: PairTerm, rounder: f64) {
    let (mut first, mut second) = (S::splat(0.0), S::splat(0.0));
    let (least, rounder) = (S::splat(1e-7), S::splat(rounder));
    for i in 0..rows.n {
        let p = [S::splat(rows.x[i]), S::splat(rows.y[i]), S::splat(rows.z[i])];
        let mut k = if itself { i + 1 } else { 0 };
        while k < columns.n {
            let (x, y, z) = (S::load(&columns.x, k), S::load(&columns.y, k), S::load(&columns.z, k));
            let angle = acos(p[0].mul_add(x, p[1].mul_add(y, p[2].mul(z))));
            match term {
                PairTerm::Bin => {
                    let bins = angle.mul(S::splat(BINS as f64 / std::f64::consts::PI)).to_array();
                    for &bin in &bins[..LANES.min(columns.n - k)] {
                        sums.bins[(bin as usize).min(BINS - 1)] += sign as i64;
                    }
                }
                PairTerm::Distance => first = add(first, angle, angle, rounder),
                PairTerm::Log => first = add(first, ln(angle.pick(least, angle, least)), angle, rounder),
                PairTerm::Share => {
                    let log = ln(angle.pick(least, angle, least));
                    first = add(first, angle, angle, rounder);
                    second = add(second, angle.mul(log), angle, rounder);
                }
            }
            k += LANES;
        }
    }
    sums.first += sign * sum(first);
    sums.second += sign * sum(second);
}
}

/// Adds terms rounded to the quantum; where the angle is NaN stands padding, which adds nothing.
#[inline(always)]
fn add<S: Lanes>(total: S, terms: S, angle: S, rounder: S) -> S {
    total.add(angle.pick(S::splat(-1.0), terms.add(rounder).sub(rounder), S::splat(0.0)))
}
