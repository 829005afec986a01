//! Mean and standard deviation of every band, in one pass over the archive.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{BandStats, Error, Normalisation, PairSource, Result, Sensor};

/// Count, mean and sum of squared deviations; merging two is exact in real numbers (Chan et al. 1979).
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Moments {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Moments {
    /// Moments of finite values, in two passes over one band of one tile.
    pub fn of(values: &[f32]) -> Self {
        let count = values.len() as f64;
        let mean = values.iter().map(|x| *x as f64).sum::<f64>() / count.max(1.0);
        let squares = values.iter().map(|x| (*x as f64 - mean).powi(2)).sum();
        Self { count, mean, squares }
    }

    /// Moments of both sets together.
    pub fn merge(self, other: Self) -> Self {
        let count = self.count + other.count;
        if count == 0.0 {
            return self;
        }
        let step = other.mean - self.mean;
        let mean = self.mean + step * other.count / count;
        Self { count, mean, squares: self.squares + other.squares + step * step * self.count * other.count / count }
    }

    /// Mean and standard deviation.
    pub fn finish(self) -> (f64, f64) {
        (self.mean, (self.squares / self.count.max(1.0)).sqrt())
    }
}

/// Statistics over the pairs at `indices`, read in parallel; the result does not depend on threads. `done` hears of every pair.
pub fn measure(source: &dyn PairSource, indices: &[u32], done: impl Fn(u32) + Sync) -> Result<Normalisation> {
    let plane = source.tile_px() * source.tile_px();
    let of_pair = |index: &u32| -> Result<Vec<Moments>> {
        let pair = source.pair(*index as usize)?;
        let moments = pair.s1.chunks_exact(plane).chain(pair.s2.chunks_exact(plane)).map(Moments::of).collect();
        done(*index);
        Ok(moments)
    };
    let each = indices.par_iter().map(of_pair).collect::<Result<Vec<_>>>()?;
    let bands = Sensor::S1.channels() + Sensor::S2.channels();
    // Merged in order of index, so that rounding is the same on every run.
    let total = each
        .iter()
        .fold(vec![Moments::default(); bands], |sum, one| sum.iter().zip(one).map(|(a, b)| a.merge(*b)).collect());
    let (s1, s2) = total.split_at(Sensor::S1.channels());
    let statistics = |sensor: Sensor, moments: &[Moments]| {
        let (mean, std) = moments.iter().map(|m| m.finish()).map(|(mean, std)| (mean as f32, std as f32)).unzip();
        let stats = BandStats { bands: sensor.bands().iter().map(|b| b.to_string()).collect(), mean, std };
        stats.check_measured(sensor, &source.describe().name).map(|()| stats)
    };
    if indices.is_empty() {
        return Err(Error::new(&source.describe().name, "no pairs to measure", "bring more pairs"));
    }
    let measured = Normalisation { s1: statistics(Sensor::S1, s1)?, s2: statistics(Sensor::S2, s2)? };
    measured.check_spread(&source.describe().name).map(|()| measured)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::synth::Synth;

    #[test]
    fn merged_moments_are_those_of_the_whole() {
        // A large mean and a small spread, where sums of squares in one pass lose everything.
        let values: Vec<f32> = (0..1000).map(|i| 16_000.0 + (i * 7919 % 1000) as f32 * 1e-2).collect();
        let (mean, std) = Moments::of(&values).finish();
        for parts in [1, 3, 10, 333] {
            let merged = values.chunks(parts).map(Moments::of).fold(Moments::default(), Moments::merge);
            let (m, s) = merged.finish();
            assert!((m - mean).abs() < 1e-8 && (s - std).abs() < 1e-8, "{parts}: {m} {s}");
        }
        assert!((std - 2.8866).abs() < 1e-3, "{std}");
    }

    #[test]
    fn normalised_with_its_own_statistics_an_archive_is_standard() {
        let source = Synth::new(12, 4, 16);
        let stats = measure(&source, &(0..12).collect::<Vec<_>>(), |_| {}).unwrap();
        let mut all: Vec<f32> = vec![];
        for index in 0..12 {
            let mut s2 = source.pair(index).unwrap().s2;
            stats.s2.normalise(&mut s2, 256);
            all.extend(&s2[3 * 256..4 * 256]);
        }
        let (mean, std) = Moments::of(&all).finish();
        assert!(mean.abs() < 1e-4 && (std - 1.0).abs() < 1e-4, "{mean} {std}");
        assert!(measure(&source, &[], |_| {}).is_err());
    }
}
