//! Weights of other models under this one's names: CSMAE's Lightning checkpoints, timm's and MAE's vision transformers.
//!
//! | their tensor (after `backbone.`, `model.`, `module.`)        | ours                                   |
//! |--------------------------------------------------------------|----------------------------------------|
//! | CSMAE `patch_embed`, `cls_token`, `blocks_s1`, `norm_s1`     | `s1.*`                                 |
//! | CSMAE `patch_embed_s2`, `cls_token_s2`, `blocks_s2`, `norm_s2` | `s2.*`                               |
//! | CSMAE `blocks`, `norm`                                       | `cross.*`                              |
//! | CSMAE `decoder_s2_to_s1`, `decoder_s1_to_s2`, `decoder`      | `s1.decoder`, `s2.decoder`, `decoder`  |
//! | timm `patch_embed`, `cls_token`, `blocks`, `norm`            | of one sensor; `cross.blocks` if it has no blocks |
//!
//! CSMAE's files hold Sentinel-1 as VH VV: the channels of its patch embedding and the outputs of its head change places.
//! A CSMAE decoder has one head; here there is one per source sensor, and both start as that one. Position tables are
//! fixed and the same everywhere; they are not read.

use super::weights::Named;
use super::{Config, Csmoe};
use crate::data::{S1_BANDS, S2_BANDS, Sensor};
use anyhow::{Result, bail};
use serde::Serialize;
use std::collections::BTreeMap;

/// Whose names a file has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    Csmae,
    Timm,
}

impl Format {
    /// Recognises the names.
    ///
    /// # Errors
    /// Names of neither kind: shows some.
    pub fn detect(named: &Named) -> Result<Self> {
        let has = |part: &str| named.keys().any(|n| stripped(n).starts_with(part));
        if has("patch_embed_s2.") || has("cls_token_s2") {
            Ok(Format::Csmae)
        } else if has("patch_embed.proj.") || has("blocks.0.attn.") {
            Ok(Format::Timm)
        } else {
            let some: Vec<&str> = named.keys().take(3).map(String::as_str).collect();
            bail!("its names ({}, ...) are neither CSMAE's nor a timm or MAE vision transformer's", some.join(", "))
        }
    }
}

/// What to import and how.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub format: Format,
    /// Whose weights a timm file's become.
    pub sensor: Sensor,
    /// Copy a dense perceptron into every expert.
    pub upcycle: bool,
    /// Seed of the tensors the file does not give.
    pub seed: u64,
}

/// One tensor that found its place.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Match {
    pub from: String,
    /// Several when experts or heads share it.
    pub to: Vec<String>,
    pub shape: Vec<usize>,
}

/// One tensor that had to change.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    pub from: String,
    pub to: String,
    pub from_shape: Vec<usize>,
    pub to_shape: Vec<usize>,
    pub how: String,
}

/// One tensor that was not used.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LeftOver {
    pub name: String,
    pub shape: Vec<usize>,
    pub why: String,
}

/// What became of every tensor of the file and of the model.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub format: Format,
    pub matched: Vec<Match>,
    /// Among the matched, those that changed: shape, channel order, channels.
    pub reshaped: Vec<Change>,
    /// The model's tensors the file does not give; they start at random.
    pub missing: Vec<String>,
    pub left_over: Vec<LeftOver>,
    /// Parameters of the model, and how many of them came from the file.
    pub params: usize,
    pub params_imported: usize,
}

/// A model's weights and how they came about.
pub struct Imported {
    pub weights: Named,
    pub report: Report,
}

/// Puts a file's tensors into the place of a freshly initialised model's, decoders included.
///
/// # Errors
/// When nothing fits, or upcycling is asked of a model without experts.
pub fn import(config: &Config, file: &Named, options: Options) -> Result<Imported> {
    if options.upcycle && config.moe().is_none() {
        bail!("--upcycle copies perceptrons into experts, and preset {} has none", config.preset);
    }
    let mut weights = initial(config, options.seed);
    let names = Names { config, options, experts: config.moe().map_or(0, |m| m.experts) };
    let mut given: BTreeMap<String, usize> = BTreeMap::new();
    let mut report = Report {
        format: options.format,
        matched: Vec::new(),
        reshaped: Vec::new(),
        missing: Vec::new(),
        left_over: Vec::new(),
        params: weights.values().map(|(_, v)| v.len()).sum(),
        params_imported: 0,
    };
    for (name, (shape, values)) in file {
        let mut used = Vec::new();
        let mut why = None;
        match names.targets(stripped(name)) {
            Err(reason) => why = Some(reason),
            Ok(targets) => {
                for to in targets {
                    let Some((to_shape, slot)) = weights.get_mut(&to) else {
                        why = Some(names.absent(&to));
                        continue;
                    };
                    match fit(options.format, &to, shape, values, to_shape) {
                        Ok((fitted, how)) => {
                            if let Some(how) = how {
                                let (from, from_shape, to_shape) = (name.clone(), shape.clone(), to_shape.clone());
                                report.reshaped.push(Change { from, to: to.clone(), from_shape, to_shape, how });
                            }
                            *slot = fitted;
                            given.insert(to.clone(), slot.len());
                            used.push(to);
                        }
                        Err(reason) => why = Some(format!("{to}: {reason}")),
                    }
                }
            }
        }
        if !used.is_empty() {
            report.matched.push(Match { from: name.clone(), to: used, shape: shape.clone() });
        } else if let Some(why) = why {
            report.left_over.push(LeftOver { name: name.clone(), shape: shape.clone(), why });
        }
    }
    if report.matched.is_empty() {
        let why = report.left_over.first().map_or("it is empty".to_string(), |l| format!("{}: {}", l.name, l.why));
        bail!("no tensor of it fits preset {} ({why})", config.preset);
    }
    report.missing = weights.keys().filter(|n| !given.contains_key(*n)).cloned().collect();
    report.params_imported = given.values().sum();
    Ok(Imported { weights, report })
}

/// The model to train, freshly initialised.
fn initial(config: &Config, seed: u64) -> Named {
    let params = Csmoe::for_training(config.clone()).params;
    let chunks = params.initial(seed);
    let piece = |(name, shape, chunk, at): (&str, &[usize], usize, usize)| {
        let n: usize = shape.iter().product();
        (name.to_string(), (shape.to_vec(), chunks[chunk][at..at + n].to_vec()))
    };
    params.pieces().map(piece).collect()
}

/// A name without the wrappers' prefixes.
fn stripped(name: &str) -> &str {
    let prefixes = ["backbone.", "model.", "module."];
    match prefixes.iter().find_map(|p| name.strip_prefix(p)) {
        Some(rest) => stripped(rest),
        None => name,
    }
}

struct Names<'a> {
    config: &'a Config,
    options: Options,
    experts: usize,
}

impl Names<'_> {
    /// Our names of a tensor of theirs, or why it has none.
    fn targets(&self, name: &str) -> Result<Vec<String>, String> {
        if name.ends_with("pos_embed") {
            return Err("position tables are fixed here".into());
        }
        let ours = match self.options.format {
            Format::Csmae => csmae(name, self.config.decoder.common),
            Format::Timm => self.timm(name),
        };
        let Some(ours) = ours else { return Err("nothing here has its place".into()) };
        Ok(ours.into_iter().flat_map(|n| self.upcycled(n)).collect())
    }

    fn timm(&self, name: &str) -> Option<Vec<String>> {
        let sensor = self.options.sensor;
        let own = |rest: &str| {
            let trunk = if self.config.sensor_depth == 0 { "cross".to_string() } else { sensor.to_string() };
            Some(vec![format!("{trunk}.{rest}")])
        };
        match name {
            "cls_token" => Some(vec![format!("{sensor}.cls_token")]),
            _ if name.starts_with("patch_embed.proj.") => Some(vec![format!("{sensor}.{name}")]),
            _ if name.starts_with("blocks.") || name.starts_with("norm.") => own(name),
            _ => None,
        }
    }

    /// `X.mlp.fc1.weight` of a block whose perceptron is a Soft MoE here: every expert's.
    fn upcycled(&self, name: String) -> Vec<String> {
        match name.split_once(".mlp.") {
            Some((block, rest)) if self.experts > 0 && self.options.upcycle && !block.contains("decoder") => {
                (0..self.experts).map(|e| format!("{block}.moe.experts.{e}.{rest}")).collect()
            }
            _ => vec![name],
        }
    }

    fn absent(&self, name: &str) -> String {
        if name.contains(".mlp.") && self.experts > 0 && !name.contains("decoder") {
            return "a Soft MoE stands there; --upcycle copies the perceptron into every expert".into();
        }
        format!("preset {} has no {name}", self.config.preset)
    }
}

/// Our names of a tensor of CSMAE.
fn csmae(name: &str, common: bool) -> Option<Vec<String>> {
    let (first, rest) = name.split_once('.').unwrap_or((name, ""));
    let one = |prefix: &str| Some(vec![format!("{prefix}.{rest}")]);
    match first {
        "patch_embed" => one("s1.patch_embed"),
        "patch_embed_s2" => one("s2.patch_embed"),
        "cls_token" => Some(vec!["s1.cls_token".into()]),
        "cls_token_s2" => Some(vec!["s2.cls_token".into()]),
        "blocks_s1" => one("s1.blocks"),
        "blocks_s2" => one("s2.blocks"),
        "norm_s1" => one("s1.norm"),
        "norm_s2" => one("s2.norm"),
        "blocks" => one("cross.blocks"),
        "norm" => one("cross.norm"),
        "decoder_s2_to_s1" => decoder("s1.decoder", rest, &["s1"]),
        "decoder_s1_to_s2" => decoder("s2.decoder", rest, &["s2"]),
        "decoder" if common => decoder("decoder", rest, &[]),
        // A common decoder may start both specific ones.
        "decoder" => {
            let both = ["s1.decoder", "s2.decoder"].map(|prefix| decoder(prefix, rest, &[]));
            let mut names: Vec<String> = both.into_iter().flatten().flatten().collect();
            names.sort();
            names.dedup();
            Some(names).filter(|n| !n.is_empty())
        }
        _ => None,
    }
}

/// Our names of a tensor of a CSMAE decoder; `targets` is whose pixels `decoder_pred` gives.
fn decoder(prefix: &str, name: &str, targets: &[&str]) -> Option<Vec<String>> {
    let (first, rest) = name.split_once('.').unwrap_or((name, ""));
    let heads = |target: &str| {
        let sources = ["s1", "s2"];
        Some(sources.iter().map(|source| format!("{target}.decoder.pred_from_{source}.{rest}")).collect())
    };
    match first {
        "decoder_embed" => Some(vec![format!("{prefix}.embed.{rest}")]),
        "mask_token" => Some(vec![format!("{prefix}.mask_token")]),
        "decoder_blocks" => Some(vec![format!("{prefix}.blocks.{rest}")]),
        "decoder_norm" => Some(vec![format!("{prefix}.norm.{rest}")]),
        "decoder_pred" => heads(targets.first()?),
        "decoder_pred_s2_to_s1" => heads("s1"),
        "decoder_pred_s1_to_s2" => heads("s2"),
        _ => None,
    }
}

/// A tensor in the shape and band order of `to`, and what was done to it if anything was.
fn fit(
    format: Format,
    to: &str,
    from_shape: &[usize],
    values: &[f32],
    to_shape: &[usize],
) -> Result<(Vec<f32>, Option<String>), String> {
    let reordered = || Some(format!("channels VH VV put in the order {}", S1_BANDS.join(" ")));
    let embedding = to.ends_with("patch_embed.proj.weight");
    if format == Format::Csmae && from_shape == to_shape {
        if to == "s1.patch_embed.proj.weight" {
            let plane = to_shape[2] * to_shape[3];
            return Ok((swap_pairs(values, plane), reordered()));
        }
        if to.starts_with("s1.decoder.pred_from_") {
            // Rows are pixels with the channel fastest.
            let row = values.len() / to_shape[0];
            return Ok((swap_pairs(values, row), reordered()));
        }
    }
    if from_shape == to_shape {
        return Ok((values.to_vec(), None));
    }
    if values.len() == to_shape.iter().product::<usize>() {
        return Ok((values.to_vec(), Some("seen in another shape".into())));
    }
    match (from_shape, to_shape) {
        ([d, 3, h, w], [dim, channels, patch, _]) if embedding && d == dim && h == patch && w == patch => {
            Ok((from_rgb(values, h * w, *channels), Some(format!("red, green and blue spread over {channels} bands"))))
        }
        _ => Err(format!("its shape is {from_shape:?} and should be {to_shape:?}")),
    }
}

/// Neighbouring runs of `len` values change places: 0 1 2 3 -> 1 0 3 2.
fn swap_pairs(values: &[f32], len: usize) -> Vec<f32> {
    values.chunks(2 * len).flat_map(|pair| pair[len..].iter().chain(&pair[..len])).copied().collect()
}

/// A patch embedding of RGB for other bands: B04, B03 and B02 take red, green and blue, every other band their mean;
/// all scaled by 3 / C, so that the sum over bands keeps its size.
fn from_rgb(values: &[f32], plane: usize, channels: usize) -> Vec<f32> {
    let scale = 3.0 / channels as f32;
    let bands: &[&str] = if channels == S2_BANDS.len() { &S2_BANDS } else { &[] };
    let mut out = Vec::with_capacity(values.len() / 3 * channels);
    for rgb in values.chunks(3 * plane) {
        for c in 0..channels {
            let one = bands.get(c).and_then(|b| ["B04", "B03", "B02"].iter().position(|v| v == b));
            out.extend((0..plane).map(|i| match one {
                Some(k) => rgb[k * plane + i] * scale,
                None => (rgb[i] + rgb[plane + i] + rgb[2 * plane + i]) / 3.0 * scale,
            }));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::DecoderConfig;
    use crate::model::config::MlpKind;

    fn small(preset: &str) -> Config {
        let config = Config::preset(preset).unwrap();
        Config {
            image_size: 12,
            patch_size: 4,
            dim: 16,
            heads: 2,
            sensor_depth: config.sensor_depth.min(1),
            cross_depth: 1,
            decoder: DecoderConfig { dim: 16, depth: 1, heads: 2, ..config.decoder },
            ..config
        }
    }

    const CSMAE: Options = Options { format: Format::Csmae, sensor: Sensor::S2, upcycle: false, seed: 7 };

    /// A state dict as CSMAE's code saves it, of the tensors of one of our models.
    fn as_csmae(ours: &Named) -> Named {
        let mut theirs = Named::new();
        let common = ours.contains_key("decoder.norm.weight");
        let [head_s1, head_s2] = match common {
            true => ["decoder.decoder_pred_s2_to_s1", "decoder.decoder_pred_s1_to_s2"],
            false => ["decoder_s2_to_s1.decoder_pred", "decoder_s1_to_s2.decoder_pred"],
        };
        for (name, (shape, values)) in ours {
            let (mut name, mut values) = (name.clone(), values.clone());
            if name.contains("decoder") {
                if name.contains("pred_from_s2") {
                    continue; // one head for both sources
                }
                if name.starts_with("s1.decoder.pred_from_s1") {
                    values = swap_pairs(&values, values.len() / shape[0]);
                }
                for (a, b) in [
                    (".embed.", ".decoder_embed."),
                    (".blocks.", ".decoder_blocks."),
                    ("decoder.norm.", "decoder.decoder_norm."),
                    ("s1.decoder.pred_from_s1", head_s1),
                    ("s2.decoder.pred_from_s1", head_s2),
                    ("s1.decoder.", "decoder_s2_to_s1."),
                    ("s2.decoder.", "decoder_s1_to_s2."),
                ] {
                    name = name.replace(a, b);
                }
            } else {
                if name == "s1.patch_embed.proj.weight" {
                    values = swap_pairs(&values, 16);
                }
                for (a, b) in [
                    ("s1.patch_embed", "patch_embed"),
                    ("s2.patch_embed", "patch_embed_s2"),
                    ("s1.cls_token", "cls_token"),
                    ("s2.cls_token", "cls_token_s2"),
                    ("s1.blocks", "blocks_s1"),
                    ("s2.blocks", "blocks_s2"),
                    ("s1.norm", "norm_s1"),
                    ("s2.norm", "norm_s2"),
                    ("cross.", ""),
                ] {
                    name = name.replace(a, b);
                }
                name = format!("backbone.{name}");
            }
            theirs.insert(name, (shape.clone(), values));
        }
        theirs.insert("backbone.pos_embed".into(), (vec![1, 10, 16], vec![0.0; 160]));
        theirs
    }

    #[test]
    fn csmae_comes_back_whole() {
        for preset in ["csmae", "csmae-sesd", "csmae-cecd", "csmae-cesd"] {
            let config = small(preset);
            let ours = initial(&config, 3);
            let file = as_csmae(&ours);
            assert_eq!(Format::detect(&file).unwrap(), Format::Csmae);
            let Imported { weights, report } = import(&config, &file, CSMAE).unwrap();
            assert!(report.missing.is_empty(), "{:?}", report.missing);
            assert_eq!(report.params_imported, report.params);
            let left: Vec<&str> = report.left_over.iter().map(|l| l.name.as_str()).collect();
            assert_eq!(left, ["backbone.pos_embed"]);
            for (name, (shape, values)) in &weights {
                // The second head starts as the first.
                let twin = name.replace("pred_from_s2", "pred_from_s1");
                assert!(ours[&twin].0 == *shape && ours[&twin].1 == *values, "{name}");
            }
        }
    }

    #[test]
    fn radar_channels_change_places() {
        let config = small("csmae");
        let mut file = as_csmae(&initial(&config, 3));
        let weight = file.get_mut("backbone.patch_embed.proj.weight").unwrap();
        // Output 0: VH weights 1, VV weights 2.
        weight.1[..16].fill(1.0);
        weight.1[16..32].fill(2.0);
        let bias = file.get_mut("decoder.decoder_pred_s2_to_s1.bias").unwrap();
        bias.1[..4].copy_from_slice(&[1.0, 2.0, 3.0, 4.0]);
        let Imported { weights, report } = import(&config, &file, CSMAE).unwrap();
        let ours = &weights["s1.patch_embed.proj.weight"].1;
        assert!(ours[..16].iter().all(|v| *v == 2.0) && ours[16..32].iter().all(|v| *v == 1.0));
        assert_eq!(weights["s1.decoder.pred_from_s2.bias"].1[..4], [2.0, 1.0, 4.0, 3.0]);
        assert_eq!(weights["s2.patch_embed.proj.weight"].1, file["backbone.patch_embed_s2.proj.weight"].1);
        assert!(report.reshaped.iter().any(|c| c.to == "s1.patch_embed.proj.weight" && c.how.contains("VV VH")));
    }

    #[test]
    fn a_dense_perceptron_becomes_every_expert() {
        let config = Config { experts: 3, segment_len: 3, ..small("csmoe-tiny") };
        let dense = Config { mlp: MlpKind::Dense, ..config.clone() };
        let ours = initial(&dense, 3);
        let mut file = Named::new();
        for (name, tensor) in &ours {
            if let Some(rest) = name.strip_prefix("s2.").filter(|n| !n.starts_with("decoder")) {
                file.insert(format!("model.{rest}"), tensor.clone());
            }
        }
        file.insert("model.blocks.1.norm1.weight".into(), (vec![16], vec![1.0; 16]));
        file.insert("model.head.weight".into(), (vec![5, 16], vec![0.0; 80]));
        assert_eq!(Format::detect(&file).unwrap(), Format::Timm);
        let plain = Options { format: Format::Timm, ..CSMAE };
        let left = import(&config, &file, plain).unwrap().report.left_over;
        assert!(left.iter().any(|l| l.name.ends_with("mlp.fc1.weight") && l.why.contains("--upcycle")));

        let Imported { weights, report } = import(&config, &file, Options { upcycle: true, ..plain }).unwrap();
        for part in ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"] {
            for e in 0..3 {
                let expert = &weights[&format!("s2.blocks.0.moe.experts.{e}.{part}")];
                assert!(*expert == ours[&format!("s2.blocks.0.mlp.{part}")], "{e} {part}");
            }
        }
        let left: Vec<&str> = report.left_over.iter().map(|l| l.name.as_str()).collect();
        assert_eq!(left, ["model.blocks.1.norm1.weight", "model.head.weight"]);
        assert!(report.missing.iter().any(|n| n == "s1.blocks.0.attn.qkv.weight"));
        assert!(report.missing.iter().any(|n| n == "s2.blocks.0.moe.slot_proj.weight"));
        assert!(!report.missing.iter().any(|n| n.contains("s2.blocks.0.moe.experts")));
        assert!(import(&dense, &file, Options { upcycle: true, ..plain }).is_err());
    }

    #[test]
    fn colours_spread_and_flat_weights_unfold() {
        let config = small("csmae");
        let timm = Options { format: Format::Timm, ..CSMAE };
        let mut file = Named::new();
        // Output 0: red 3, green 6, blue 9.
        let rgb: Vec<f32> = (0..16 * 3 * 16).map(|i| if i < 48 { (3 * (i / 16 + 1)) as f32 } else { 0.0 }).collect();
        file.insert("patch_embed.proj.weight".into(), (vec![16, 3, 4, 4], rgb));
        file.insert("cls_token".into(), (vec![16], vec![5.0; 16]));
        file.insert("norm.weight".into(), (vec![8], vec![1.0; 8]));
        let Imported { weights, report } = import(&config, &file, timm).unwrap();
        let first: Vec<f32> = weights["s2.patch_embed.proj.weight"].1.chunks(16).take(10).map(|c| c[0]).collect();
        let scaled = [9.0, 6.0, 3.0, 6.0, 6.0, 6.0, 6.0, 6.0, 6.0, 6.0].map(|v: f32| v * 0.3);
        assert!(first.iter().zip(scaled).all(|(a, b)| (a - b).abs() < 1e-6), "{first:?}");
        assert_eq!(weights["s2.cls_token"], (vec![1, 1, 16], vec![5.0; 16]));
        assert_eq!(report.reshaped.len(), 2);
        assert_eq!((&report.reshaped[0].from_shape, &report.reshaped[0].to_shape), (&vec![16], &vec![1, 1, 16]));
        assert!(report.left_over[0].why.contains("[8]"), "{:?}", report.left_over);
    }

    #[test]
    fn strangers_are_refused() {
        let mut file = Named::new();
        file.insert("conv1.weight".into(), (vec![1], vec![0.0]));
        assert!(Format::detect(&file).unwrap_err().to_string().contains("conv1.weight"));
        let e = import(&small("csmae"), &file, CSMAE).err().unwrap().to_string();
        assert!(e.contains("conv1.weight"), "{e}");
    }
}
