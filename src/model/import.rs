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
mod tests;
