//! CSMoE and CSMAE: from pixels to tokens to reconstructions.
//!
//! Both sensors run as one: the sensor axis is the group axis of every layer (two stacks of weights, one launch), and
//! in the shared blocks it becomes part of the batch.

use super::decoder::Decoder;
use super::{Config, LossConfig};
use crate::data::Sensor;
use crate::nn::{Block, LayerNorm, Linear, PatchEmbed, Routing, Sequences, sin_cos_table};
use crate::ops;
use crate::tensor::{Init, Names, ParamId, Params, Tape, Tensor};
use anyhow::{Result, bail};

/// A model of one sensor's path or of both, with or without decoders.
#[derive(Clone, Debug)]
pub struct Csmoe {
    pub config: Config,
    pub sensors: Vec<Sensor>,
    pub params: Params,
    patch_embed: Vec<PatchEmbed>,
    cls: Vec<ParamId>,
    sensor_blocks: Vec<Block>,
    sensor_norm: Option<LayerNorm>,
    cross_blocks: Vec<Block>,
    cross_norm: LayerNorm,
    pub(super) decoder: Option<Decoder>,
    projector: Option<Linear>,
}

/// The images of a batch, by sensor: [B, C, S, S], normalised.
#[derive(Clone, Debug)]
pub struct Batch {
    pub images: Vec<Tensor>,
    pub size: usize,
}

/// Which patches the encoder sees, as inputs of a program. R = sensors * B, sensor by sensor.
#[derive(Clone, Debug)]
pub struct MaskInputs {
    /// By sensor [B, K]: patch numbers in the order in which the encoder sees them.
    pub keep: Vec<Tensor>,
    /// [R, K], the same.
    pub keep_all: Tensor,
    /// [R, P]: each patch's index among the kept, or [`ops::tokens::HIDDEN`].
    pub restore: Tensor,
    /// By sensor [B, P - K]: the hidden patches' tokens, 1 + patch.
    pub hidden: Vec<Tensor>,
    /// [R, P - K], the same.
    pub hidden_all: Tensor,
}

/// What the encoder gives.
pub struct Encoded {
    /// [sensors * B, N, D] after the last norm.
    pub tokens: Tensor,
    /// One per Soft MoE layer.
    pub routing: Vec<Routing>,
    /// [sensors * B, N, D] after each block that was asked for; the sensors' norm applied at the last of theirs, the
    /// shared norm at the last of all.
    pub taps: Vec<Tensor>,
}

impl Csmoe {
    /// Both sensors, decoders and all: what is pretrained.
    pub fn for_training(config: Config) -> Self {
        Self::new(config, &[Sensor::S1, Sensor::S2], true)
    }

    /// One sensor's encoder: what embeds.
    pub fn encoder(config: Config, sensor: Sensor) -> Self {
        Self::new(config, &[sensor], false)
    }

    pub fn new(config: Config, sensors: &[Sensor], with_decoder: bool) -> Self {
        let mut p = Params::default();
        let params = &mut p;
        let (dim, heads, moe) = (config.dim, config.heads, config.moe());
        let prefix = Names::new(sensors);
        let one = |s: &Sensor| Names::new([s]);
        let blocks = |params: &mut Params, names: Names, depth: usize| -> Vec<Block> {
            (0..depth).map(|i| Block::new(params, &names.dot("blocks").dot(i), dim, heads, moe)).collect()
        };
        let patch_embed = sensors
            .iter()
            .map(|s| PatchEmbed::new(params, &one(s).dot("patch_embed.proj"), s.channels(), config.patch_size, dim))
            .collect();
        let cls = sensors
            .iter()
            .map(|s| params.add(one(s).dot("cls_token"), &[1, 1, dim], Init::Normal { std: 0.02 }))
            .collect();
        let sensor_blocks = blocks(params, prefix.clone(), config.sensor_depth);
        let sensor_norm = (config.sensor_depth > 0).then(|| LayerNorm::new(params, &prefix.dot("norm"), dim));
        let cross_blocks = blocks(params, Names::new(["cross"]), config.cross_depth);
        let cross_norm = LayerNorm::new(params, &Names::new(["cross.norm"]), dim);
        let decoder = with_decoder.then(|| Decoder::new(params, &config, sensors));
        let projector =
            (with_decoder && config.loss.projector).then(|| Linear::new(params, &Names::new(["projector"]), dim, dim));
        Csmoe {
            config,
            sensors: sensors.to_vec(),
            params: p,
            patch_embed,
            cls,
            sensor_blocks,
            sensor_norm,
            cross_blocks,
            cross_norm,
            decoder,
            projector,
        }
    }

    /// Records the inputs that say which `kept` patches of each image the encoder sees.
    pub fn mask_inputs(&self, t: &mut Tape, batch: usize, kept: usize) -> MaskInputs {
        let patches = self.config.patches();
        let rows = self.sensors.len() * batch;
        MaskInputs {
            keep: self.sensors.iter().map(|s| t.input(format!("keep.{s}"), [batch, kept])).collect(),
            keep_all: t.input("keep", [rows, kept]),
            restore: t.input("restore", [rows, patches]),
            hidden: (self.sensors.iter()).map(|s| t.input(format!("hidden.{s}"), [batch, patches - kept])).collect(),
            hidden_all: t.input("hidden", [rows, patches - kept]),
        }
    }

    /// Records the inputs of raw pixels (`pixels.s1` [B, C, px, px], `flips` [B]) and their preparation: flips,
    /// bicubic resize to the image size, normalisation.
    ///
    /// # Errors
    /// Sizes the resize cannot do.
    pub fn pixel_inputs(&self, t: &mut Tape, batch: usize, px: usize) -> Result<Batch> {
        let flips = t.input("flips", [batch]);
        let mut images = Vec::new();
        for s in &self.sensors {
            let stats = self.config.sensors.of(*s);
            let c = s.channels();
            let raw = t.input(format!("pixels.{s}"), [batch, c, px, px]);
            let mean = t.constant([c], &stats.mean);
            let inverse: Vec<f32> = stats.std.iter().map(|v| 1.0 / v).collect();
            let inverse = t.constant([c], &inverse);
            images.push(ops::prepare(t, raw, mean, inverse, flips, self.config.image_size)?);
        }
        Ok(Batch { images, size: batch })
    }

    /// The encoder: `keep` by sensor [B, K]; `taps` are the blocks (from 1) whose outputs are wanted.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn encode(&self, t: &mut Tape, batch: &Batch, keep: &[Tensor], taps: &[usize]) -> Result<Encoded> {
        let Config { dim, sensor_depth, cross_depth, .. } = self.config;
        let (g, b) = (self.sensors.len(), batch.size);
        let table = sin_cos_table(self.config.grid(), dim);
        let position = t.constant([1 + self.config.patches(), dim], &table);
        let mut parts = Vec::new();
        for (i, sensor) in self.sensors.iter().enumerate() {
            let part = t.scope(format!("{sensor}/patch_embed"), |t| {
                let [_, k] = keep[i].dims("keep")?;
                let embedded = self.patch_embed[i].forward(t, batch.images[i], keep[i])?.reshape([b, k, dim])?;
                let cls = t.param(self.cls[i]);
                ops::assemble(t, embedded, cls, position, keep[i])
            })?;
            parts.push(part);
        }
        let tokens = parts[0].dims::<3>("tokens")?[1];
        let mut x = match parts.len() {
            1 => parts[0],
            _ => t.concat(&parts)?,
        };
        let (mut routing, mut tapped) = (Vec::new(), Vec::new());
        let full = [g * b, tokens, dim];

        x = x.reshape([g, b * tokens, dim])?;
        for (i, block) in self.sensor_blocks.iter().enumerate() {
            let (y, r) =
                t.scope(format!("sensor.blocks.{i}"), |t| block.forward(t, x, Sequences { batch: b, tokens }))?;
            x = y;
            routing.extend(r);
            if i + 1 == sensor_depth
                && let Some(norm) = &self.sensor_norm
            {
                x = norm.forward(t, x)?;
            }
            if taps.contains(&(i + 1)) {
                tapped.push(x.reshape(full)?);
            }
        }
        x = x.reshape([1, g * b * tokens, dim])?;
        for (i, block) in self.cross_blocks.iter().enumerate() {
            let seq = Sequences { batch: g * b, tokens };
            let (y, r) = t.scope(format!("cross.blocks.{i}"), |t| block.forward(t, x, seq))?;
            x = y;
            routing.extend(r);
            if i + 1 < cross_depth && taps.contains(&(sensor_depth + i + 1)) {
                tapped.push(x.reshape(full)?);
            }
        }
        let tokens = self.cross_norm.forward(t, x)?.reshape(full)?;
        if taps.contains(&(sensor_depth + cross_depth)) {
            tapped.push(tokens);
        }
        Ok(Encoded { tokens, routing, taps: tapped })
    }

    /// The features of the mutual-information loss: CLS after the last norm, projected if the config says so, as unit
    /// vectors [sensors * B, D].
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn features(&self, t: &mut Tape, encoded: &Encoded) -> Result<Tensor> {
        let cls = ops::cls_rows(t, encoded.tokens)?;
        let [rows, d] = cls.dims("features")?;
        let mut x = cls.reshape([1, rows, d])?;
        if let Some(projector) = &self.projector {
            x = projector.forward(t, x, None)?;
        }
        ops::rms_norm(t, x, None, 1.0)?.reshape([rows, d])
    }

    /// Every target's pixels of the patches hidden in a source, from that source's tokens: `[target][source]` ->
    /// [B, P - K, patch^2 C].
    ///
    /// # Errors
    /// A model without decoders.
    pub fn decode(&self, t: &mut Tape, encoded: &Encoded, masks: &MaskInputs) -> Result<Vec<Vec<Tensor>>> {
        match &self.decoder {
            Some(decoder) => decoder.forward(t, &self.config, encoded.tokens, masks),
            None => bail!("this model has no decoders: it was loaded to embed"),
        }
    }

    pub fn loss_config(&self) -> &LossConfig {
        &self.config.loss
    }
}
