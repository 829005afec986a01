//! A procedural archive: regions of land cover under five climates, seen by both sensors, deterministic by seed and index.
//!
//! Both sensors see the same mixture of surfaces and the same relief, so each can be predicted from the other up to speckle.

mod land;
#[cfg(all(feature = "gdal", feature = "parquet"))]
pub mod layouts;
mod spectra;

use super::random::{Stream, bell, hash, unit};
use super::{DEFAULT_TILE_PX, Error, Geo, Pair, PairSource, Report, Result, S2_BANDS, Sensor};
use land::Land;
use spectra::{CLIMATES, Climate, END_MEMBERS, SNOW};

pub use spectra::CLASSES;

/// Seed when none is named.
pub const DEFAULT_SEED: u64 = 42;

/// A procedural source of pairs, in memory.
pub struct Synth {
    pairs: usize,
    seed: u64,
    px: usize,
    report: Report,
}

impl Synth {
    /// `pairs` tiles of `px` pixels of 10 m.
    pub fn new(pairs: usize, seed: u64, px: usize) -> Self {
        let bands = [Sensor::S1, Sensor::S2].map(|s| (s, s.bands().iter().map(|b| b.to_string()).collect()));
        let report = Report {
            name: format!("synth:{pairs}:{seed}"),
            pairs,
            tile_px: px,
            bands: bands.into(),
            classes: CLASSES.iter().map(|c| c.to_string()).collect(),
            notes: vec!["procedural, not observed".into()],
            ..Report::default()
        };
        Self { pairs, seed, px, report }
    }

    /// Reads `PAIRS[:SEED]`.
    pub fn parse(spec: &str, tile_px: Option<usize>) -> Result<Self> {
        let (pairs, seed) = spec.split_once(':').map_or((spec, None), |(p, s)| (p, Some(s)));
        let wrong = || {
            Error::new(
                format!("synth:{spec}"),
                "expected synth:PAIRS[:SEED] in whole numbers, PAIRS from 1",
                "try synth:1024:42",
            )
        };
        let pairs: usize = pairs.parse().ok().filter(|p| *p > 0).ok_or_else(wrong)?;
        let seed = seed.map_or(Ok(DEFAULT_SEED), |s| s.parse().map_err(|_| wrong()))?;
        Ok(Self::new(pairs, seed, tile_px.unwrap_or(DEFAULT_TILE_PX)))
    }

    /// Name of the climate of pair `index`.
    pub fn climate(&self, index: usize) -> &'static str {
        self.subject(index).1.name
    }

    /// Where the pairs lie.
    pub fn places(&self) -> impl Iterator<Item = Geo> {
        (0..self.pairs).map(|index| self.place(index, self.subject(index).1))
    }

    /// Class and climate: every block of 40 consecutive pairs holds each combination once, in an order of its own.
    fn subject(&self, index: usize) -> (u8, &'static Climate) {
        let block = CLASSES.len() * CLIMATES.len();
        let mut order: Vec<usize> = (0..block).collect();
        Stream::new(self.seed, &[BALANCE, (index / block) as u64]).shuffle(&mut order);
        let drawn = order[index % block];
        ((drawn % CLASSES.len()) as u8, &CLIMATES[drawn / CLASSES.len()])
    }

    /// A place on the 10 m grid of some northern UTM zone at the climate's latitude.
    fn place(&self, index: usize, climate: &Climate) -> Geo {
        let mut stream = Stream::new(self.seed, &[PLACE, index as u64]);
        let zone = 1 + stream.below(60);
        let east = 300_000.0 + 10.0 * stream.below(40_000) as f64;
        let metres_a_degree = 110_600.0;
        let north =
            (climate.latitude as f64 * metres_a_degree / 10.0).round() * 10.0 + 10.0 * stream.below(30_000) as f64;
        Geo::new([east, 10.0, 0.0, north, 0.0, -10.0], format!("EPSG:{}", 32600 + zone), self.px, self.px)
    }
}

// Coordinates that keep the streams of one seed apart.
const BALANCE: u64 = 1;
const PLACE: u64 = 2;
const LAND: u64 = 3;
const VIEW: u64 = 4;

impl PairSource for Synth {
    fn len(&self) -> usize {
        self.pairs
    }
    fn tile_px(&self) -> usize {
        self.px
    }
    fn describe(&self) -> &Report {
        &self.report
    }
    fn id(&self, index: usize) -> Result<String> {
        Ok(format!("synth{}_{index:06}", self.seed))
    }
    fn label(&self, index: usize) -> Option<u32> {
        Some(u32::from(self.subject(index).0))
    }
    fn pair(&self, index: usize) -> Result<Pair> {
        let (class, climate) = self.subject(index);
        let land = Land::new(Stream::new(self.seed, &[LAND, index as u64]), class, climate, self.px);
        let view = Stream::new(self.seed, &[VIEW, index as u64]);
        let (s1, s2) = observe(&land, view, self.px);
        let geo = Some(self.place(index, climate));
        Ok(Pair { id: self.id(index)?, s1, s2, geo, label: Some(class as u32), mask: Some(land.classes) })
    }
}

/// What the two sensors record: decibels [2, px, px] and whole digital numbers [10, px, px].
fn observe(land: &Land, mut view: Stream, px: usize) -> (Vec<f32>, Vec<f32>) {
    let plane = px * px;
    let (sun, haze) = (view.range(0.88, 1.12), view.range(10.0, 90.0));
    let looks = 4 + view.below(6) as u64;
    let (noise, speckle) = (view.bits(), view.bits());
    let power = |db: f32| 10f32.powf(db / 10.0);
    let echoes = END_MEMBERS.each_ref().map(|m| m.s1.map(power));
    let snow_echo = SNOW.s1.map(power);
    let (mut s1, mut s2) = (vec![0.0; 2 * plane], vec![0.0; S2_BANDS.len() * plane]);
    for i in 0..plane {
        let cover = land.cover(i);
        let ground = 1.0 - cover.snow;
        // Higher canopies and rougher ground cast shade (darker) and scatter more (brighter to the radar).
        let shade = 1.0 - 0.16 * cover.relief;
        let mut spectrum = SNOW.s2.map(|value| value * cover.snow);
        let mut echo = snow_echo.map(|value| value * cover.snow);
        for ((share, member), member_echo) in
            cover.shares.iter().zip(&END_MEMBERS).zip(&echoes).filter(|((share, _), _)| **share > 0.0)
        {
            spectrum.iter_mut().zip(member.s2).for_each(|(sum, value)| *sum += ground * share * value);
            echo.iter_mut().zip(member_echo).for_each(|(sum, value)| *sum += ground * share * value);
        }
        for (band, value) in spectrum.iter().enumerate() {
            s2[band * plane + i] = sun * shade * value;
        }
        for (pol, value) in echo.iter().enumerate() {
            let seen = value * gamma(hash(speckle, (2 * i + pol) as u64), looks);
            s1[pol * plane + i] = 10.0 * seen.log10() + 1.8 * cover.relief;
        }
    }
    for (band, name) in S2_BANDS.iter().enumerate() {
        let pixels = &mut s2[band * plane..(band + 1) * plane];
        let coarse = !["B02", "B03", "B04", "B08"].contains(name);
        if coarse {
            replicate_means(pixels, px);
        }
        // Scattered light adds most in the blue; 1.9, 1.6, 1.4 are the visible bands' shares.
        let veil = haze
            * match *name {
                "B02" => 1.9,
                "B03" => 1.6,
                "B04" => 1.4,
                "B05" => 1.2,
                _ => 0.3,
            };
        for (i, value) in pixels.iter_mut().enumerate() {
            // One draw for each pixel the sensor has: 2 x 2 of ours where it sees 20 m.
            let seen = if coarse { i / px / 2 * px + i % px / 2 } else { i };
            let grain = bell(hash(noise, (band * plane + seen) as u64));
            let read = *value + veil + grain * (12.0 + 0.012 * *value);
            // Whole numbers above 0, which marks missing pixels.
            *value = (read.clamp(1.0, 16_000.0) + 0.5) as u16 as f32;
        }
    }
    (s1, s2)
}

/// A band of 20 m on the 10 m grid: every 2 x 2 pixels hold their mean.
fn replicate_means(pixels: &mut [f32], px: usize) {
    for (row, col) in (0..px).step_by(2).flat_map(|r| (0..px).step_by(2).map(move |c| (r, c))) {
        let block = || (row..(row + 2).min(px)).flat_map(move |r| (col..(col + 2).min(px)).map(move |c| r * px + c));
        let mean = block().map(|i| pixels[i]).sum::<f32>() / block().count() as f32;
        block().for_each(|i| pixels[i] = mean);
    }
}

/// Multi-look speckle: gamma distributed, mean 1, variance 1 / looks (a mean of exponentials).
fn gamma(key: u64, looks: u64) -> f32 {
    let product: f32 = (0..looks).map(|look| 1.0 - unit(hash(key, look))).product();
    -product.max(f32::MIN_POSITIVE).ln() / looks as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{BandStats, NO_CLASS};

    #[test]
    fn same_seed_same_pixels_in_any_order() {
        let source = Synth::new(8, 7, 48);
        let forward: Vec<Pair> = (0..8).map(|i| source.pair(i).unwrap()).collect();
        let threads: Vec<Pair> = std::thread::scope(|scope| {
            let jobs: Vec<_> =
                (0..8).rev().map(|i| scope.spawn(move || Synth::new(99, 7, 48).pair(i).unwrap())).collect();
            jobs.into_iter().rev().map(|j| j.join().unwrap()).collect()
        });
        assert!(forward == threads);
        assert_ne!(forward[0].s1, Synth::new(8, 8, 48).pair(0).unwrap().s1);
    }

    #[test]
    fn labels_are_balanced_and_dominant() {
        let source = Synth::new(80, 3, 32);
        let mut labels = [0; 8];
        for i in 0..80 {
            let pair = source.pair(i).unwrap();
            let label = pair.label.unwrap() as usize;
            labels[label] += 1;
            let own = pair.mask.as_ref().unwrap().iter().filter(|c| **c as usize == label).count();
            assert!(2 * own > 32 * 32, "pair {i}: {own}");
            assert!(pair.mask.unwrap().iter().all(|c| (*c as usize) < CLASSES.len() && *c != NO_CLASS));
        }
        assert_eq!(labels, [10; 8]);
    }

    #[test]
    fn statistics_are_plausible() {
        let source = Synth::new(80, 1, 64);
        let pairs: Vec<Pair> = (0..80).map(|i| source.pair(i).unwrap()).collect();
        for sensor in [Sensor::S1, Sensor::S2] {
            let stats = BandStats::default_of(sensor);
            for (c, band) in stats.bands.iter().enumerate() {
                let values = pairs.iter().flat_map(|p| {
                    let pixels = if sensor == Sensor::S1 { &p.s1 } else { &p.s2 };
                    pixels[c * 4096..(c + 1) * 4096].iter().map(|v| *v as f64)
                });
                let (n, sum, squares) = values.fold((0.0, 0.0, 0.0), |(n, s, q), v| (n + 1.0, s + v, q + v * v));
                let (mean, std) = (sum / n, (squares / n - (sum / n) * (sum / n)).sqrt());
                println!("{band}: {mean:.1} / {std:.1}, real {} / {}", stats.mean[c], stats.std[c]);
                assert!((mean - stats.mean[c] as f64).abs() < stats.std[c] as f64, "{band}: mean {mean}");
                assert!((0.5..1.5).contains(&(std / stats.std[c] as f64)), "{band}: std {std}");
            }
        }
    }

    #[test]
    fn speckle_is_gamma() {
        let values: Vec<f64> = (0..40_000).map(|k| gamma(hash(9, k), 5) as f64).collect();
        let mean = values.iter().sum::<f64>() / 4e4;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 4e4;
        assert!((mean - 1.0).abs() < 0.01 && (variance - 0.2).abs() < 0.01, "{mean} {variance}");
    }

    #[test]
    fn coarse_bands_are_replicated_and_numbers_whole() {
        let pair = Synth::new(1, 2, 30).pair(0).unwrap();
        let b05 = &pair.s2[4 * 900..5 * 900];
        assert!(pair.s2.iter().all(|v| v.fract() == 0.0 && *v >= 1.0));
        assert!((0..900).all(|i| b05[i] == b05[i / 30 / 2 * 2 * 30 + i % 30 / 2 * 2]));
    }

    #[test]
    fn bad_specs_say_the_form() {
        for spec in ["", "0", "x", "5:y", "-3"] {
            assert!(Synth::parse(spec, None).err().unwrap().to_string().contains("synth:PAIRS[:SEED]"));
        }
    }
}
