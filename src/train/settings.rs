//! How a model is trained; saved with the run.

use crate::data::{Sampling, Split, Weights};
use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

/// How long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Span {
    Steps(u64),
    Epochs(u64),
}

/// Everything beside the model that decides the weights a run ends with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    pub data: String,
    pub tile_px: Option<usize>,
    pub span: Span,
    pub batch: usize,
    /// Batches whose gradients are added up before an update.
    pub accumulate: usize,
    pub seed: u64,
    pub lr: f64,
    pub betas: [f64; 2],
    pub weight_decay: f64,
    /// Weight decay on norms and biases too (the paper).
    pub decay_all: bool,
    /// In epochs, but never more than a tenth of the run.
    pub warmup_epochs: f64,
    /// Largest global gradient norm; 0: none.
    pub clip: f64,
    pub flips: bool,
    pub split: Split,
    /// How often each pair is drawn.
    pub sampling: Sampling,
    /// How often beside the others, by a table, instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<Weights>,
    /// Steps between checkpoints; 0: only at the end.
    pub checkpoint_every: u64,
    /// Steps between looks at the validation part; 0: never.
    pub validate_every: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            data: String::new(),
            tile_px: None,
            span: Span::Epochs(150),
            batch: 256,
            accumulate: 1,
            seed: 42,
            lr: 1e-4,
            betas: [0.9, 0.95],
            weight_decay: 0.05,
            decay_all: true,
            warmup_epochs: 10.0,
            clip: 0.0,
            flips: true,
            split: Split::default(),
            sampling: Sampling::Uniform,
            weights: None,
            checkpoint_every: 500,
            validate_every: 100,
        }
    }
}

impl Settings {
    /// Whether the numbers make sense.
    ///
    /// # Errors
    /// Names the first that does not.
    pub fn check(&self) -> Result<()> {
        if self.batch == 0 || self.accumulate == 0 {
            bail!("--batch and --accumulate are at least 1");
        }
        if !(self.lr >= 0.0 && self.lr.is_finite()) {
            bail!("--lr {} is not a learning rate", self.lr);
        }
        Ok(())
    }

    /// Steps of the whole run, given the steps of an epoch.
    pub fn steps(&self, per_epoch: u64) -> u64 {
        match self.span {
            Span::Steps(n) => n,
            Span::Epochs(n) => n * per_epoch.max(1),
        }
    }

    /// Steps of warm-up: short runs give it at most a tenth.
    pub fn warmup(&self, per_epoch: u64) -> u64 {
        let asked = (self.warmup_epochs * per_epoch.max(1) as f64).round() as u64;
        asked.min(self.steps(per_epoch).div_ceil(10))
    }
}
