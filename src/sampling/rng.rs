//! The sampler's random numbers: xoshiro256++ (Blackman & Vigna 2019), seeded through SplitMix64.

/// A generator of its own for every stratum, so that threads and order never change a result.
#[derive(Clone, Debug)]
pub struct Rng {
    s: [u64; 4],
}

/// One step of SplitMix64 (Steele et al. 2014): a bijection that spreads every bit of its argument.
fn mix(state: u64) -> u64 {
    let z = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl Rng {
    /// The generator of one (seed, u, v); `use_` keeps the streams of different purposes apart.
    pub fn new(seed: u64, u: i32, v: i32, use_: u64) -> Rng {
        let mut state = [u as u64, v as u64, use_].into_iter().fold(mix(seed), |s, part| mix(s ^ part));
        let s = std::array::from_fn(|_| {
            state = state.wrapping_add(1);
            mix(state)
        });
        Rng { s }
    }

    /// 64 random bits.
    #[inline]
    pub fn next_u64(&mut self) -> u64 {
        let s = &mut self.s;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// Uniform in [0, n), n > 0, without bias (Lemire 2019).
    #[inline]
    pub fn below(&mut self, n: u32) -> u32 {
        let mut product = u64::from(self.next_u64() as u32) * u64::from(n);
        if (product as u32) < n {
            let reject = n.wrapping_neg() % n;
            while (product as u32) < reject {
                product = u64::from(self.next_u64() as u32) * u64::from(n);
            }
        }
        (product >> 32) as u32
    }

    /// Uniform in (0, 1].
    #[inline]
    pub fn unit(&mut self) -> f64 {
        ((self.next_u64() >> 11) + 1) as f64 * (1.0 / 9_007_199_254_740_992.0)
    }

    /// `k` different numbers of 0..n, ascending (Floyd's algorithm).
    pub fn choose(&mut self, n: u32, k: usize) -> Vec<u32> {
        assert!(k <= n as usize, "choose {k} of {n}");
        let mut chosen = std::collections::BTreeSet::new();
        for top in n - k as u32..n {
            let t = self.below(top + 1);
            if !chosen.insert(t) {
                chosen.insert(top);
            }
        }
        chosen.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn below_is_uniform() {
        let mut rng = Rng::new(7, 1, 2, 0);
        let mut seen = [0i32; 7];
        for _ in 0..70_000 {
            seen[rng.below(7) as usize] += 1;
        }
        // six standard deviations of a binomial(70000, 1/7)
        assert!(seen.iter().all(|&s| (s - 10_000).abs() < 556), "{seen:?}");
    }

    #[test]
    fn choose_takes_every_subset_equally() {
        let mut rng = Rng::new(1, 0, 0, 0);
        let mut seen = std::collections::BTreeMap::new();
        for _ in 0..20_000 {
            *seen.entry(rng.choose(6, 3)).or_insert(0i32) += 1;
        }
        assert_eq!(seen.len(), 20);
        assert!(seen.values().all(|&s| (s - 1000).abs() < 190), "{seen:?}");
        assert_eq!(rng.choose(5, 5), [0, 1, 2, 3, 4]);
        assert!(rng.choose(5, 0).is_empty());
    }

    #[test]
    fn streams_differ_and_repeat() {
        let first = |seed, u, v, k| Rng::new(seed, u, v, k).next_u64();
        let all = [first(1, 2, 3, 0), first(1, 3, 2, 0), first(2, 2, 3, 0), first(1, 2, 3, 1), first(1, -2, 3, 0)];
        assert!((0..5).all(|i| (0..i).all(|j| all[i] != all[j])));
        assert_eq!(first(1, 2, 3, 0), all[0]);
    }
}
