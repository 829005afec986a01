//! Counter-based random numbers: a value is a hash of its seed and coordinates, so order and threads never change it.

/// Mixes 64 bits thoroughly (the finaliser of splitmix64).
pub fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Hash of a key and one coordinate; chain calls for more.
pub fn hash(key: u64, coordinate: u64) -> u64 {
    mix(key.wrapping_add(coordinate.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}

/// Maps a hash to [0, 1).
pub fn unit(hash: u64) -> f32 {
    (hash >> 40) as f32 * (1.0 / (1u64 << 24) as f32)
}

/// A stream of numbers under one key.
#[derive(Debug, Clone)]
pub struct Stream {
    key: u64,
    counter: u64,
}

impl Stream {
    /// The stream of `seed` at `coordinates`.
    pub fn new(seed: u64, coordinates: &[u64]) -> Self {
        Self { key: coordinates.iter().fold(mix(seed ^ 0x6a09_e667_f3bc_c909), |key, &c| hash(key, c)), counter: 0 }
    }

    /// The stream's own key, for hashes by coordinate.
    pub fn key(&self) -> u64 {
        self.key
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.counter += 1;
        hash(self.key, self.counter)
    }

    /// Uniform in [0, 1).
    pub fn unit(&mut self) -> f32 {
        unit(self.bits())
    }

    /// Uniform in [low, high).
    pub fn range(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit()
    }

    /// Uniform integer below `n` (n > 0).
    pub fn below(&mut self, n: usize) -> usize {
        // The high half of a 128-bit product: no division, bias below 2^-40 for any archive.
        ((self.bits() as u128 * n as u128) >> 64) as usize
    }

    /// Roughly normal, mean 0 and variance 1, bounded by 3.5 (sum of four uniforms from one hash).
    pub fn bell(&mut self) -> f32 {
        bell(self.bits())
    }

    /// Shuffles in place (Fisher-Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

/// Maps a hash to a roughly normal number, mean 0 and variance 1.
pub fn bell(hash: u64) -> f32 {
    let sum: u64 = (0..4).map(|i| (hash >> (16 * i)) & 0xffff).sum();
    (sum as f32 / 65535.0 - 2.0) * 1.732_050_8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_uniform_and_apart() {
        let mut stream = Stream::new(7, &[1, 2]);
        let mut counts = [0usize; 10];
        (0..100_000).for_each(|_| counts[stream.below(10)] += 1);
        // Four standard deviations of a binomial(100000, 0.1).
        assert!(counts.iter().all(|&c| c.abs_diff(10_000) < 380), "{counts:?}");
        assert_ne!(Stream::new(7, &[1, 2]).bits(), Stream::new(7, &[2, 1]).bits());
        assert_ne!(Stream::new(7, &[1]).bits(), Stream::new(8, &[1]).bits());
    }

    #[test]
    fn bell_has_unit_variance() {
        let mut stream = Stream::new(3, &[]);
        let values: Vec<f64> = (0..50_000).map(|_| stream.bell() as f64).collect();
        let mean = values.iter().sum::<f64>() / 5e4;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 5e4;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.03, "{mean} {variance}");
    }

    #[test]
    fn shuffle_is_a_permutation_fixed_by_the_seed() {
        let shuffled = |seed| {
            let mut items: Vec<u32> = (0..100).collect();
            Stream::new(seed, &[0]).shuffle(&mut items);
            items
        };
        assert_eq!(shuffled(1), shuffled(1));
        assert_ne!(shuffled(1), shuffled(2));
        let mut sorted = shuffled(1);
        sorted.sort();
        assert_eq!(sorted, (0..100).collect::<Vec<_>>());
    }
}
