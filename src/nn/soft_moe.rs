use super::{Linear, Mlp, RmsNorm, Sequences};
use crate::ops;
use crate::tensor::{Init, Names, ParamId, Params, Tape, Tensor};
use anyhow::Result;
use serde::{Deserialize, Serialize};

/// How tokens and slots are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Router {
    /// Inner products of RMS-normalised vectors (the paper).
    #[default]
    Rms,
    /// Cosines times a learned scale.
    Unit,
}

/// Where slot embeddings come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Slots {
    /// Projected from the mean of every `segment_len` consecutive tokens (the paper).
    #[default]
    Dynamic,
    /// A learned table of this many slots an expert (Puigcerver et al. 2024).
    Fixed(usize),
}

/// What a Soft MoE layer is made of.
#[derive(Clone, Copy, Debug)]
pub struct SoftMoeConfig {
    pub width: usize,
    pub experts: usize,
    pub segment_len: usize,
    pub router: Router,
    pub slots: Slots,
    pub tau: f32,
}

impl SoftMoeConfig {
    /// Slots per expert for a number of tokens.
    pub fn per_expert(&self, tokens: usize) -> usize {
        match self.slots {
            Slots::Dynamic => tokens.div_ceil(self.segment_len),
            Slots::Fixed(p) => p,
        }
    }
}

#[derive(Clone, Debug)]
enum SlotSource {
    Projection(Linear),
    Table(ParamId),
}

/// A Soft Mixture of Experts with dynamic slots (arXiv 2509.14104, sec. III; Puigcerver et al. 2024).
#[derive(Clone, Debug)]
pub struct SoftMoe {
    config: SoftMoeConfig,
    norm: RmsNorm,
    source: SlotSource,
    slot_norm: RmsNorm,
    scale: Option<ParamId>,
    experts: Mlp,
}

/// What the routing losses need of a layer; `z` counts the sequences of all groups.
#[derive(Clone, Copy, Debug)]
pub struct Routing {
    /// Slot embeddings [z, slots per expert, experts, d].
    pub slots: Tensor,
    /// By slot, sum over its dispatch weights of `alpha ln(alpha + 1e-8)`, [z, slots].
    pub entropy: Tensor,
    pub tokens: usize,
}

impl SoftMoe {
    pub fn new(params: &mut Params, names: &Names, config: SoftMoeConfig) -> Self {
        let SoftMoeConfig { width, experts, router, slots, .. } = config;
        SoftMoe {
            norm: RmsNorm::new(params, &names.dot("norm"), width),
            source: match slots {
                Slots::Dynamic => {
                    let names = names.dot("slot_proj");
                    SlotSource::Projection(Linear::without_bias(params, &names, width, experts * width))
                }
                Slots::Fixed(per_expert) => {
                    // The scale of a projected slot before its norm is immaterial; that of a table sets its first steps.
                    let init = Init::Normal { std: 1.0 };
                    SlotSource::Table(params.add(names.dot("slots"), &[experts * per_expert, width], init))
                }
            },
            slot_norm: RmsNorm::new(params, &names.dot("slot_norm"), width),
            scale: (router == Router::Unit).then(|| params.add(names.dot("scale"), &[1], Init::Constant(1.0))),
            experts: Mlp::new(params, &names.dot("experts").each(experts), width),
            config,
        }
    }

    /// `x` [g, rows, d] -> `residual + SoftMoE(x)`, and what the routing losses need.
    pub fn forward(&self, t: &mut Tape, x: Tensor, seq: Sequences, residual: Tensor) -> Result<(Tensor, Routing)> {
        let SoftMoeConfig { experts, segment_len, tau, .. } = self.config;
        let [g, rows, d] = x.dims("soft_moe: x")?;
        let Sequences { batch, tokens } = seq;
        let (z, p) = (g * batch, self.config.per_expert(tokens));

        let x = self.norm.forward(t, x)?;
        let slots = match &self.source {
            SlotSource::Projection(projection) => {
                let means = ops::segment_mean(t, x.reshape([z, tokens, d])?, segment_len)?;
                projection.forward(t, means.reshape([g, batch * p, d])?, None)?
            }
            SlotSource::Table(table) => {
                let table = t.param(*table).reshape([g, experts, p, d])?;
                ops::spread_slots(t, table, batch)?
            }
        };
        // A slot's experts lie side by side: row (segment j, expert e), so that an expert's rows take turns.
        let slots = self.slot_norm.forward(t, slots.reshape([g, batch * p * experts, d])?)?;
        let (token_keys, slot_keys) = match self.scale {
            None => (x, slots),
            Some(scale) => {
                let scale = t.param(scale);
                (ops::rms_norm(t, x, None, 1.0)?, ops::rms_norm(t, slots, Some(scale), 1.0)?)
            }
        };
        let sequences = [z, tokens, d];
        let all_slots = [z, p * experts, d];
        let (keys, slot_keys) = (token_keys.reshape(sequences)?, slot_keys.reshape(all_slots)?);
        let logits = ops::logits(t, slot_keys, keys)?;
        let (inputs, entropy) = ops::dispatch(t, logits, x.reshape(sequences)?, tau)?;
        let results = self.experts.forward(t, inputs.reshape([g, batch * p, experts * d])?, experts, None)?;
        let mixed = ops::combine(t, logits, results.reshape(all_slots)?)?;
        let y = ops::add(t, residual, mixed.reshape([g, rows, d])?)?;
        Ok((y, Routing { slots: slots.reshape([z, p, experts, d])?, entropy, tokens }))
    }
}
