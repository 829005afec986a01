//! Linear warm-up, then cosine to zero, per step.

use serde::{Deserialize, Serialize};

/// The learning rate as a function of the step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    pub peak: f64,
    pub warmup: u64,
    pub total: u64,
}

impl Schedule {
    /// The rate of step `step`, counted from 0: `peak (step + 1) / warmup` while warming up, then
    /// `peak (1 + cos(pi progress)) / 2`.
    pub fn rate(&self, step: u64) -> f64 {
        if step < self.warmup {
            return self.peak * (step + 1) as f64 / self.warmup as f64;
        }
        let length = self.total.saturating_sub(self.warmup).max(1) as f64;
        let progress = ((step - self.warmup) as f64 / length).min(1.0);
        self.peak * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closed_form() {
        let s = Schedule { peak: 2.0, warmup: 4, total: 12 };
        let rates: Vec<f64> = (0..13).map(|i| s.rate(i)).collect();
        assert_eq!(&rates[..5], [0.5, 1.0, 1.5, 2.0, 2.0]);
        assert!((rates[8] - 1.0).abs() < 1e-12 && rates[12].abs() < 1e-12);
        assert!(rates[4..].windows(2).all(|w| w[0] > w[1]));
        assert_eq!(Schedule { peak: 1.0, warmup: 0, total: 1 }.rate(0), 1.0);
    }
}
