//! Parameters and multiply-accumulates (MACs), counted from the model: no GPU, no recording.
//!
//! Two conventions of MACs, per image, all patches visible:
//! - **paper**: linear layers, the patch convolution, the three einsums of Soft MoE (logits, dispatch, combine; N tokens
//!   x S slots x D each) and 5 per element that a normalisation sees: both LayerNorms of a block, the two last ones, and
//!   in Soft MoE the RMSNorms of tokens and of slots. Attention's two products are left out, pads are not counted. This
//!   is what a counter of PyTorch's operators sees when attention is one fused operator, and of the readings tried the
//!   plainest that gives all five printed values (2.92, 3.67, 10.11, 13.40 and CSMAE's 5.64 G) to the last digit.
//! - **full**: the same and attention's products, 2 N^2 D a layer.
//!
//! The paper's C2C is the quotient of its *printed* figures: 271 M / 13.40 G is its 20.22, where the counts themselves give
//! 20.21. [`Summary::c2c`] follows that rule where the paper has a row.

use super::config::MlpKind;
use super::{Config, Csmoe};

use crate::data::Sensor;
use crate::nn::{Router, Slots};
use serde::Serialize;

/// MACs of one image on one sensor's path, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Macs {
    pub linear: u64,
    pub conv: u64,
    pub einsum: u64,
    /// 5 per element.
    pub norms: u64,
    /// QK^T and AV.
    pub attention: u64,
}

impl Macs {
    /// Without attention's products.
    pub fn paper(&self) -> u64 {
        self.linear + self.conv + self.einsum + self.norms
    }

    pub fn full(&self) -> u64 {
        self.paper() + self.attention
    }

    /// The encoder of `sensor`, every patch visible.
    pub fn of(config: &Config, sensor: Sensor) -> Self {
        let [d, p, patch] = [config.dim, config.patches(), config.patch_size].map(|v| v as u64);
        let (n, layers) = (p + 1, (config.sensor_depth + config.cross_depth) as u64);
        // Query, key, value and output projections; then the feed-forward of each layer.
        let mut linear = 4 * n * d * d;
        let (mut einsum, mut normed) = (0, 2 * n * d);
        match config.moe() {
            None => linear += 8 * n * d * d,
            Some(moe) => {
                let experts = moe.experts as u64;
                let per_expert = moe.per_expert(n as usize) as u64;
                let slots = experts * per_expert;
                if moe.slots == Slots::Dynamic {
                    linear += per_expert * experts * d * d;
                }
                linear += 8 * slots * d * d;
                einsum = 3 * n * slots * d;
                let routed = (n + slots) * d;
                normed += routed * if moe.router == Router::Unit { 2 } else { 1 };
            }
        }
        let last_norms = if config.sensor_depth > 0 { 2 } else { 1 };
        Macs {
            linear: layers * linear,
            conv: p * d * sensor.channels() as u64 * patch * patch,
            einsum: layers * einsum,
            norms: 5 * (layers * normed + last_norms * n * d),
            attention: layers * 2 * n * n * d,
        }
    }
}

/// A row of the paper: millions of parameters and billions of MACs as printed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PaperRow {
    pub params_m: f64,
    pub macs_g: f64,
    pub c2c: f64,
}

impl PaperRow {
    /// The row of an unchanged preset (arXiv 2509.14104).
    fn of(config: &Config) -> Option<Self> {
        let row = |params_m, macs_g, c2c| Some(PaperRow { params_m, macs_g, c2c });
        let found = match config.preset.as_str() {
            "csmoe-32" => row(277.0, 2.92, 94.86),
            "csmoe-28" => row(275.0, 3.67, 74.93),
            "csmoe-16" => row(271.0, 10.11, 26.81),
            "csmoe-14" => row(271.0, 13.40, 20.22),
            "csmae" => row(87.0, 5.64, 15.43),
            _ => None,
        };
        found.filter(|_| Config::preset(&config.preset).is_ok_and(|preset| preset == *config))
    }
}

/// The counts of a model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    pub preset: String,
    /// Patches and CLS.
    pub tokens: usize,
    /// 0 in a dense model.
    pub slots_per_expert: usize,
    /// What a Sentinel-2 image passes through, by the rule of [`Summary::of`].
    pub params_s2_path: usize,
    /// The same by the checkpoint's tensors.
    pub params_s2_path_trainable: usize,
    pub params_s1_path: usize,
    pub params_s1_path_trainable: usize,
    /// Both sensors, without decoders; trainable.
    pub params_encoder: usize,
    /// With decoders and projector: what is pretrained.
    pub params_total: usize,
    pub macs_paper_s2_path: u64,
    pub macs_full_s2_path: u64,
    pub macs_paper_s1_path: u64,
    pub macs_full_s1_path: u64,
    pub macs_s2_path: Macs,
    /// Parameters in millions over `macs_paper` in billions; where the paper has a row, both rounded as it prints them.
    pub c2c: f64,
    pub c2c_unrounded: f64,
    pub paper: Option<PaperRow>,
}

impl Summary {
    /// Counts a model.
    ///
    /// A path's parameters are the tensors its images pass through. For a dense model (CSMAE) `params_*_path` follows the
    /// base model's own code, whose printed number counts two things no image trains: the frozen position table,
    /// (P + 1) D, which is a parameter there, and the other sensor's norm, 2 D, which stays in a model cut to one sensor.
    /// `params_*_path_trainable` leaves both out.
    pub fn of(config: &Config) -> Self {
        let path = |sensor| Csmoe::encoder(config.clone(), sensor).params.count();
        let tokens = config.patches() + 1;
        let untrained = match (config.mlp, config.sensor_depth) {
            (MlpKind::Moe, _) => 0,
            (MlpKind::Dense, 0) => tokens * config.dim,
            (MlpKind::Dense, _) => (tokens + 2) * config.dim,
        };
        let training = Csmoe::for_training(config.clone());
        let (s1, s2) = (Macs::of(config, Sensor::S1), Macs::of(config, Sensor::S2));
        let trainable = path(Sensor::S2);
        let params = trainable + untrained;
        let (millions, billions) = (params as f64 / 1e6, s2.paper() as f64 / 1e9);
        let paper = PaperRow::of(config);
        Summary {
            preset: config.preset.clone(),
            tokens,
            slots_per_expert: config.moe().map_or(0, |moe| moe.per_expert(tokens)),
            params_s2_path: params,
            params_s2_path_trainable: trainable,
            params_s1_path: path(Sensor::S1) + untrained,
            params_s1_path_trainable: path(Sensor::S1),
            params_encoder: Csmoe::new(config.clone(), &training.sensors, false).params.count(),
            params_total: training.params.count(),
            macs_paper_s2_path: s2.paper(),
            macs_full_s2_path: s2.full(),
            macs_paper_s1_path: s1.paper(),
            macs_full_s1_path: s1.full(),
            macs_s2_path: s2,
            c2c: match paper {
                Some(_) => hundredths(millions.round() / hundredths(billions)),
                None => millions / billions,
            },
            c2c_unrounded: millions / billions,
            paper,
        }
    }
}

fn hundredths(x: f64) -> f64 {
    (x * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::{DeviceClass, Target};
    use crate::model::Batch;
    use crate::tensor::Tape;

    #[test]
    fn the_papers_table_to_the_last_digit() {
        for (preset, tokens, slots, params, macs, c2c) in [
            ("csmoe-32", 50, 7, 277_059_072, 2.92, 94.86),
            ("csmoe-28", 65, 9, 275_215_872, 3.67, 74.93),
            ("csmoe-16", 197, 25, 271_160_832, 10.11, 26.81),
            ("csmoe-14", 257, 33, 270_700_032, 13.40, 20.22),
            ("csmae", 65, 0, 86_838_528, 5.64, 15.43),
        ] {
            let s = Summary::of(&Config::preset(preset).unwrap());
            assert_eq!((s.tokens, s.slots_per_expert, s.params_s2_path), (tokens, slots, params), "{preset}");
            assert_eq!(hundredths(s.macs_paper_s2_path as f64 / 1e9), macs, "{preset}");
            assert_eq!(s.c2c, c2c, "{preset}");
            let paper = s.paper.unwrap();
            assert_eq!((paper.macs_g, paper.c2c), (macs, c2c), "{preset}");
            assert_eq!((params as f64 / 1e6).round(), paper.params_m, "{preset}");
        }
    }

    #[test]
    fn both_sensors_and_decoders() {
        let s = Summary::of(&Config::preset("csmoe-16").unwrap());
        assert_eq!((s.params_encoder, s.params_total), (451_017_216, 459_309_568));
        assert_eq!(s.macs_full_s2_path - s.macs_paper_s2_path, 6 * 2 * 197 * 197 * 768);
        assert_eq!(s.params_s2_path_trainable, s.params_s2_path);
        assert_eq!(Summary::of(&Config::preset("csmae").unwrap()).params_s2_path_trainable, 86_787_072);
    }

    #[test]
    fn a_changed_preset_has_no_row() {
        let config = Config { experts: 4, ..Config::preset("csmoe-16").unwrap() };
        let s = Summary::of(&config);
        assert!(s.paper.is_none() && s.c2c == s.c2c_unrounded);
    }

    /// The same count by another way: what the recorded launches say they multiply.
    #[test]
    fn the_tape_counts_the_same_products() {
        let presets = [("csmoe-tiny", Sensor::S2), ("csmoe-16", Sensor::S1), ("csmae", Sensor::S2)];
        let classes = [DeviceClass::Software, DeviceClass::Hardware];
        for ((preset, sensor), class) in presets.into_iter().flat_map(|p| classes.map(|c| (p, c))) {
            let config = Config::preset(preset).unwrap();
            let model = Csmoe::encoder(config.clone(), sensor);
            let mut t = Tape::new(Target::typical(class), model.params.clone());
            let size = config.image_size;
            let image = t.input("image", [1, sensor.channels(), size, size]);
            let keep = t.input("keep", [1, config.patches()]);
            model.encode(&mut t, &Batch { images: vec![image], size: 1 }, &[keep], &[]).unwrap();
            let products = t.launches().iter().filter(|l| l.kernel.file.starts_with("matmul"));
            let macs = products.map(|l| l.work.flops).sum::<f64>() / 2.0;
            let counted = Macs::of(&config, sensor);
            // On a GPU narrow heads are products too.
            let heads = if class == DeviceClass::Hardware { counted.attention } else { 0 };
            let expected = counted.linear + counted.conv + counted.einsum + heads;
            assert_eq!(macs, expected as f64, "{preset} {class:?}");
        }
    }
}
