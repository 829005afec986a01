//! What a model is, as TOML or JSON; the presets; `config.json` beside every checkpoint.

use crate::data::Normalisation;
use crate::nn::{Router, Slots, SoftMoeConfig};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// What follows the attention in the encoder's blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MlpKind {
    #[default]
    Moe,
    /// CSMAE's dense perceptron.
    Dense,
}

/// How the two sensors' masks relate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MaskMode {
    /// Drawn independently.
    #[default]
    Random,
    /// The same patches are hidden in both.
    Identical,
    /// What one shows the other hides, as far as the ratio allows.
    Disjoint,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reconstruction {
    #[default]
    Mse,
    Mae,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MutualInformation {
    #[default]
    NtXent,
    /// As printed in the paper.
    Eq10,
}

/// Whose sign a regulariser has: the paper's text and its formulas disagree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sign {
    #[default]
    Text,
    Printed,
}

impl Sign {
    pub fn factor(self) -> f32 {
        match self {
            Sign::Text => 1.0,
            Sign::Printed => -1.0,
        }
    }
}

/// The objective (arXiv 2509.14104, eq. 20).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LossConfig {
    pub reconstruction: Reconstruction,
    /// Targets standardised patch by patch (He et al. 2022).
    pub norm_pix: bool,
    pub mi: MutualInformation,
    pub temperature: f32,
    pub lambda_rep: f32,
    pub gamma_ent: f32,
    pub rep_sign: Sign,
    pub ent_sign: Sign,
    /// A linear projection in front of the mutual-information loss.
    pub projector: bool,
}

impl Default for LossConfig {
    fn default() -> Self {
        LossConfig {
            reconstruction: Reconstruction::Mse,
            norm_pix: false,
            mi: MutualInformation::NtXent,
            temperature: 0.5,
            lambda_rep: 0.01,
            gamma_ent: 0.01,
            rep_sign: Sign::Text,
            ent_sign: Sign::Text,
            projector: false,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecoderConfig {
    pub dim: usize,
    pub depth: usize,
    pub heads: usize,
    /// One decoder for both targets (CSMAE's "common"), instead of one each.
    #[serde(default)]
    pub common: bool,
}

fn one() -> f32 {
    1.0
}
fn half() -> f64 {
    0.5
}
fn yes() -> bool {
    true
}

/// A model, to the last tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub preset: String,
    /// Side of the image in pixels.
    pub image_size: usize,
    /// Side of a patch in pixels.
    pub patch_size: usize,
    pub dim: usize,
    pub heads: usize,
    /// Blocks of each sensor.
    pub sensor_depth: usize,
    /// Blocks both sensors share.
    pub cross_depth: usize,
    #[serde(default)]
    pub mlp: MlpKind,
    #[serde(default)]
    pub experts: usize,
    /// Tokens a dynamic slot is the mean of.
    #[serde(default)]
    pub segment_len: usize,
    #[serde(default)]
    pub router: Router,
    #[serde(default)]
    pub slots: Slots,
    /// Temperature of the dispatch softmax.
    #[serde(default = "one")]
    pub tau: f32,
    pub decoder: DecoderConfig,
    #[serde(default = "half")]
    pub mask_ratio: f64,
    #[serde(default)]
    pub mask: MaskMode,
    /// Visible tokens in raster order; `false` keeps the order they were drawn in (CSMAE).
    #[serde(default = "yes")]
    pub sort_visible: bool,
    #[serde(default)]
    pub loss: LossConfig,
    #[serde(default)]
    pub sensors: Normalisation,
}

/// Names `--preset` knows.
pub const PRESETS: [&str; 10] = [
    "csmoe-14",
    "csmoe-16",
    "csmoe-28",
    "csmoe-32",
    "csmoe-small",
    "csmoe-tiny",
    "csmae",
    "csmae-sesd",
    "csmae-cecd",
    "csmae-cesd",
];

impl Config {
    /// A preset by name.
    ///
    /// # Errors
    /// An unknown name; lists those there are.
    pub fn preset(name: &str) -> Result<Self> {
        let base = Config {
            preset: name.to_string(),
            image_size: 224,
            patch_size: 16,
            dim: 768,
            heads: 12,
            sensor_depth: 4,
            cross_depth: 2,
            mlp: MlpKind::Moe,
            experts: 8,
            segment_len: 8,
            router: Router::Rms,
            slots: Slots::Dynamic,
            tau: 1.0,
            decoder: DecoderConfig { dim: 256, depth: 4, heads: 8, common: false },
            mask_ratio: 0.5,
            mask: MaskMode::Random,
            sort_visible: true,
            loss: LossConfig::default(),
            sensors: Normalisation::default(),
        };
        let csmae = |sensor_depth: usize, common: bool| Config {
            image_size: 120,
            patch_size: 15,
            sensor_depth,
            cross_depth: 12 - sensor_depth,
            mlp: MlpKind::Dense,
            experts: 0,
            segment_len: 0,
            decoder: DecoderConfig { dim: 512, depth: 8, heads: 16, common },
            sort_visible: false,
            ..base.clone()
        };
        Ok(match name {
            "csmoe-14" => Config { patch_size: 14, ..base },
            "csmoe-16" => base,
            "csmoe-28" => Config { patch_size: 28, ..base },
            "csmoe-32" => Config { patch_size: 32, ..base },
            "csmoe-small" => Config {
                dim: 384,
                heads: 6,
                decoder: DecoderConfig { dim: 192, depth: 4, heads: 6, common: false },
                ..base
            },
            "csmoe-tiny" => Config {
                image_size: 120,
                patch_size: 12,
                dim: 192,
                heads: 3,
                sensor_depth: 2,
                cross_depth: 1,
                experts: 4,
                segment_len: 4,
                decoder: DecoderConfig { dim: 96, depth: 2, heads: 3, common: false },
                ..base
            },
            "csmae" => csmae(10, true),
            "csmae-sesd" => csmae(10, false),
            "csmae-cecd" => csmae(0, true),
            "csmae-cesd" => csmae(0, false),
            _ => bail!("there is no preset '{name}'; there are {}", PRESETS.join(", ")),
        })
    }

    /// A preset with the values of a TOML file over it: top-level keys are this struct's fields, tables its tables.
    ///
    /// # Errors
    /// A file that cannot be read, is not TOML, or names a field that does not exist.
    pub fn with_overrides(self, text: &str, file: &Path) -> Result<Self> {
        let over: toml::Table =
            toml::from_str(text).with_context(|| format!("{} is not valid TOML", file.display()))?;
        let mut value = serde_json::to_value(&self)?;
        merge(&mut value, serde_json::to_value(&over)?);
        let config: Config =
            serde_json::from_value(value).with_context(|| format!("{} does not describe a model", file.display()))?;
        config.check()?;
        Ok(config)
    }

    /// Reads `config.json`.
    ///
    /// # Errors
    /// A file that cannot be read or does not describe a model.
    pub fn read(file: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(file).with_context(|| {
            format!("{} cannot be read; a checkpoint has it beside model.safetensors", file.display())
        })?;
        let config: Config =
            serde_json::from_str(&text).with_context(|| format!("{} does not describe a model", file.display()))?;
        config.check()?;
        Ok(config)
    }

    /// Whether the numbers fit each other.
    ///
    /// # Errors
    /// Names the first setting that does not.
    pub fn check(&self) -> Result<()> {
        let ensure = |ok: bool, what: String| if ok { Ok(()) } else { Err(anyhow::anyhow!("config: {what}")) };
        let c = self;
        ensure(c.patch_size > 0 && c.image_size > 0 && c.image_size.is_multiple_of(c.patch_size), {
            format!("image_size {} is not a multiple of patch_size {}", c.image_size, c.patch_size)
        })?;
        ensure(
            c.heads > 0 && c.dim.is_multiple_of(c.heads),
            format!("dim {} is not a multiple of heads {}", c.dim, c.heads),
        )?;
        ensure(c.dim.is_multiple_of(16) && c.dim > 0, format!("dim {} is not a multiple of 16", c.dim))?;
        let d = c.decoder;
        ensure(
            d.heads > 0 && d.dim.is_multiple_of(d.heads),
            format!("decoder dim {} is not a multiple of heads {}", d.dim, d.heads),
        )?;
        ensure(d.dim.is_multiple_of(16) && d.dim > 0, format!("decoder dim {} is not a multiple of 16", d.dim))?;
        ensure(d.depth > 0, "decoder depth is 0; hidden patches are rebuilt by at least one block".to_string())?;
        ensure(c.cross_depth > 0, "cross_depth is 0; both sensors share at least one block".to_string())?;
        ensure(c.mask_ratio > 0.0 && c.kept() > 0 && c.kept() < c.patches(), {
            format!("mask_ratio {} of {} patches leaves {} visible", c.mask_ratio, c.patches(), c.kept())
        })?;
        if c.mlp == MlpKind::Moe {
            ensure(c.experts > 0, "experts is 0".to_string())?;
            ensure(c.segment_len > 0 || c.slots != Slots::Dynamic, "segment_len is 0".to_string())?;
            ensure(c.slots != Slots::Fixed(0), "slots.fixed is 0".to_string())?;
            ensure(c.tau > 0.0, format!("tau {} is not positive", c.tau))?;
        }
        ensure(c.loss.temperature > 0.0, format!("loss.temperature {} is not positive", c.loss.temperature))?;
        Ok(())
    }

    /// Patches along a side.
    pub fn grid(&self) -> usize {
        self.image_size / self.patch_size
    }

    pub fn patches(&self) -> usize {
        self.grid() * self.grid()
    }

    /// Patches the encoder sees in training: floor(P (1 - ratio)).
    pub fn kept(&self) -> usize {
        // The product can fall just short of a whole number.
        (self.patches() as f64 * (1.0 - self.mask_ratio) + 1e-9).floor() as usize
    }

    pub fn moe(&self) -> Option<SoftMoeConfig> {
        (self.mlp == MlpKind::Moe).then_some(SoftMoeConfig {
            width: self.dim,
            experts: self.experts,
            segment_len: self.segment_len,
            router: self.router,
            slots: self.slots,
            tau: self.tau,
        })
    }
}

/// Puts the values of `over` in the place of those of `base`, table by table.
fn merge(base: &mut serde_json::Value, over: serde_json::Value) {
    match (base, over) {
        (serde_json::Value::Object(base), serde_json::Value::Object(over)) => {
            for (key, value) in over {
                merge(base.entry(key).or_insert(serde_json::Value::Null), value);
            }
        }
        (base, over) => *base = over,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_consistent_and_survive_json() {
        for name in PRESETS {
            let config = Config::preset(name).unwrap();
            config.check().unwrap();
            let text = serde_json::to_string(&config).unwrap();
            assert_eq!(serde_json::from_str::<Config>(&text).unwrap(), config);
        }
        assert!(Config::preset("csmoe-17").unwrap_err().to_string().contains("csmoe-16"));
    }

    #[test]
    fn toml_reaches_every_level() {
        let file = Path::new("my.toml");
        let text = "experts = 3\nslots = { fixed = 2 }\nrouter = 'unit'\n[loss]\nmi = 'eq10'\n[decoder]\ndepth = 1\n";
        let config = Config::preset("csmoe-tiny").unwrap().with_overrides(text, file).unwrap();
        assert_eq!((config.experts, config.slots, config.router), (3, Slots::Fixed(2), Router::Unit));
        assert_eq!((config.loss.mi, config.decoder.depth, config.decoder.dim), (MutualInformation::Eq10, 1, 96));
        let wrong = Config::preset("csmoe-tiny").unwrap().with_overrides("expert = 3", file).unwrap_err();
        assert!(format!("{wrong:#}").contains("expert"), "{wrong:#}");
        let wrong = Config::preset("csmoe-tiny").unwrap().with_overrides("patch_size = 7", file).unwrap_err();
        assert!(format!("{wrong:#}").contains("120"), "{wrong:#}");
    }
}
