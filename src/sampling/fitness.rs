//! What the genetic algorithm maximises. The paper names a "distance-based" fitness without defining it; these are the
//! readings that make sense, and `NearestEntropy` is the one that raises its Table II's figures (see `DATA.md` 5).

use std::fmt;
use std::str::FromStr;

use super::pairs::PairSums;

/// The choice of fitness; distances are great-circle, in radians.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fitness {
    /// Differential entropy after Kozachenko & Leonenko (1987) on the sphere, but for a constant:
    /// (2/n) sum ln rho_i + ln(n - 1), rho_i the distance to the nearest selected point.
    #[default]
    NearestEntropy,
    /// Shannon entropy of the histogram of pair distances, 64 bins over [0, pi].
    HistogramEntropy,
    /// Mean of the logarithm of pair distances.
    LogDistance,
    /// Entropy of the pair distances taken as shares of their sum, over its maximum ln(pairs).
    NormDistance,
    /// Mean pair distance.
    MeanDistance,
}

/// What a pair adds to a [`PairSums`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PairTerm {
    Bin,
    Log,
    Distance,
    /// Distance, and distance times its logarithm.
    Share,
}

const NAMES: [(&str, Fitness); 5] = [
    ("nn-entropy", Fitness::NearestEntropy),
    ("hist-entropy", Fitness::HistogramEntropy),
    ("log-distance", Fitness::LogDistance),
    ("norm-distance", Fitness::NormDistance),
    ("mean-distance", Fitness::MeanDistance),
];

impl Fitness {
    /// The term of its pairs; None where only nearest neighbours count.
    pub fn pair_term(self) -> Option<PairTerm> {
        match self {
            Fitness::NearestEntropy => None,
            Fitness::HistogramEntropy => Some(PairTerm::Bin),
            Fitness::LogDistance => Some(PairTerm::Log),
            Fitness::NormDistance => Some(PairTerm::Share),
            Fitness::MeanDistance => Some(PairTerm::Distance),
        }
    }

    /// From the mean logarithm of the nearest-neighbour distances of `n` points.
    pub fn from_nearest(mean_log: f64, n: usize) -> f64 {
        if n < 2 { 0.0 } else { 2.0 * mean_log + ((n - 1) as f64).ln() }
    }

    /// From the pair sums of `n` points.
    pub fn from_pairs(self, sums: &PairSums, n: usize) -> f64 {
        let pairs = n as f64 * n.saturating_sub(1) as f64 / 2.0;
        let entropy = || {
            let shares = sums.bins.iter().map(|&count| count as f64 / pairs);
            -shares.filter(|&p| p > 0.0).map(|p| p * p.ln()).sum::<f64>()
        };
        let first = if self == Fitness::HistogramEntropy { entropy() } else { sums.first };
        self.from_sums(first, sums.second, n)
    }

    /// From what is left of the pairs of `n` points: the sums of [`PairSums`], or the histogram's entropy as the first.
    pub fn from_sums(self, first: f64, second: f64, n: usize) -> f64 {
        if n < 2 {
            return 0.0;
        }
        let pairs = n as f64 * (n - 1) as f64 / 2.0;
        match self {
            Fitness::NearestEntropy => unreachable!("the nearest-neighbour entropy has no pair sums"),
            Fitness::HistogramEntropy => first,
            Fitness::LogDistance | Fitness::MeanDistance => first / pairs,
            Fitness::NormDistance if pairs < 2.0 || first <= 0.0 => 0.0,
            Fitness::NormDistance => (first.ln() - second / first) / pairs.ln(),
        }
    }
}

impl fmt::Display for Fitness {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(NAMES.iter().find(|n| n.1 == *self).expect("every fitness has a name").0)
    }
}

impl FromStr for Fitness {
    type Err = String;

    fn from_str(s: &str) -> Result<Fitness, String> {
        let names = || NAMES.map(|n| n.0).join(", ");
        NAMES
            .iter()
            .find(|n| n.0 == s)
            .map(|n| n.1)
            .ok_or_else(|| format!("no fitness is called `{s}`: expected one of {}", names()))
    }
}
