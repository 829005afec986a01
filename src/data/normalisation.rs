//! Per-band mean and standard deviation: what turns decibels and digital numbers into the model's input.

use serde::{Deserialize, Serialize};

use super::{Error, Result, S1_BANDS, S2_BANDS, Sensor};

/// Statistics of one sensor's bands, in the order of `bands`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BandStats {
    /// Band names.
    pub bands: Vec<String>,
    /// Mean of each band, in the pixels' unit.
    pub mean: Vec<f32>,
    /// Standard deviation of each band; 0 only where it was measured on a constant one.
    pub std: Vec<f32>,
}

/// Statistics of both sensors; `config.json` keeps them under `sensors`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Normalisation {
    /// Radar, decibels.
    pub s1: BandStats,
    /// Optical, digital numbers.
    pub s2: BandStats,
}

impl BandStats {
    fn new(bands: &[&str], mean: &[f32], std: &[f32]) -> Self {
        Self { bands: bands.iter().map(|b| b.to_string()).collect(), mean: mean.into(), std: std.into() }
    }

    // Digits as published, some beyond what a float holds.
    #[allow(clippy::excessive_precision)]
    /// Statistics of BigEarthNet v2 at 120 px, as published with the base model.
    pub fn default_of(sensor: Sensor) -> Self {
        match sensor {
            Sensor::S1 => Self::new(&S1_BANDS, &[-12.64386, -19.35256], &[5.13349, 5.59051]),
            Sensor::S2 => Self::new(
                &S2_BANDS,
                &[
                    438.3721, 614.0557, 588.4096, 2193.2919, 942.8433, 1769.9316, 2049.5515, 1568.2268, 997.7325,
                    2235.5566,
                ],
                &[
                    607.0269, 603.2968, 684.5689, 1369.3717, 738.4327, 1100.4561, 1275.8054, 1070.1613, 813.5276,
                    1356.5441,
                ],
            ),
        }
    }

    /// Checks names, lengths and signs; `subject` names the file in the error.
    pub fn check(&self, sensor: Sensor, subject: &str) -> Result<()> {
        self.check_with(sensor, subject, |std| std > 0.0)
    }

    /// The same of what was measured: a constant band has a deviation of 0.
    pub fn check_measured(&self, sensor: Sensor, subject: &str) -> Result<()> {
        self.check_with(sensor, subject, |std| std >= 0.0)
    }

    /// The bands with a deviation of 0.
    pub fn constant(&self) -> impl Iterator<Item = &str> {
        self.bands.iter().zip(&self.std).filter(|(_, std)| **std == 0.0).map(|(band, _)| band.as_str())
    }

    fn check_with(&self, sensor: Sensor, subject: &str, allowed: fn(f32) -> bool) -> Result<()> {
        let bands = sensor.bands();
        let wrong = |problem: String| {
            Error::new(subject, problem, "give one finite mean and one positive std per band in the model's order")
        };
        if self.bands != bands || self.mean.len() != bands.len() || self.std.len() != bands.len() {
            return Err(wrong(format!("{sensor} statistics for bands {:?}, expected {bands:?}", self.bands)));
        }
        let wrong_at = |c: &usize| !self.mean[*c].is_finite() || !self.std[*c].is_finite() || !allowed(self.std[*c]);
        match (0..bands.len()).find(wrong_at) {
            Some(c) => {
                Err(wrong(format!("{sensor} band {} has mean {} and std {}", bands[c], self.mean[c], self.std[c])))
            }
            None => Ok(()),
        }
    }

    /// (x - mean) / std in place over pixels [.., C, plane].
    pub fn normalise(&self, pixels: &mut [f32], plane: usize) {
        for (index, band) in pixels.chunks_exact_mut(plane).enumerate() {
            let c = index % self.mean.len();
            let (mean, scale) = (self.mean[c], 1.0 / self.std[c]);
            band.iter_mut().for_each(|x| *x = (*x - mean) * scale);
        }
    }

    /// Undoes [`BandStats::normalise`].
    pub fn restore(&self, pixels: &mut [f32], plane: usize) {
        for (index, band) in pixels.chunks_exact_mut(plane).enumerate() {
            let c = index % self.mean.len();
            band.iter_mut().for_each(|x| *x = *x * self.std[c] + self.mean[c]);
        }
    }
}

impl Default for Normalisation {
    fn default() -> Self {
        Self { s1: BandStats::default_of(Sensor::S1), s2: BandStats::default_of(Sensor::S2) }
    }
}

impl Normalisation {
    /// One sensor's statistics.
    pub fn of(&self, sensor: Sensor) -> &BandStats {
        match sensor {
            Sensor::S1 => &self.s1,
            Sensor::S2 => &self.s2,
        }
    }

    /// Refuses what pixels cannot be divided by; `subject` names the archive in the error.
    pub fn check_spread(&self, subject: &str) -> Result<()> {
        match self.s1.constant().chain(self.s2.constant()).next() {
            Some(band) => Err(Error::new(
                subject,
                format!("band {band} is constant: its standard deviation is 0 and cannot be divided by"),
                "train with --stats published, or on an archive where the band varies",
            )),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalised_pixels_come_back() {
        let stats = BandStats::default_of(Sensor::S1);
        let raw = vec![-12.64386, -7.51037, -19.35256, -13.76205];
        let mut pixels = raw.clone();
        stats.normalise(&mut pixels, 2);
        for (got, want) in pixels.iter().zip([0.0, 1.0, 0.0, 1.0]) {
            assert!((got - want).abs() < 1e-5, "{pixels:?}");
        }
        stats.restore(&mut pixels, 2);
        assert!(pixels.iter().zip(&raw).all(|(a, b)| (a - b).abs() < 1e-4));
    }

    #[test]
    fn bad_statistics_name_the_band() {
        let mut stats = BandStats::default_of(Sensor::S2);
        stats.check(Sensor::S2, "config").unwrap();
        stats.std[3] = 0.0;
        assert!(stats.check(Sensor::S2, "config").unwrap_err().to_string().contains("B08"));
        assert!(stats.check(Sensor::S1, "config").is_err());
    }
}
