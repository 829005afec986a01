//! The decoders of pretraining: one per target sensor, or one for both.

use super::{Config, MaskInputs};
use crate::data::Sensor;
use crate::nn::{Block, LayerNorm, Linear, Sequences, sin_cos_table};
use crate::ops;
use crate::tensor::{Init, Names, ParamId, Params, Tape, Tensor};
use anyhow::Result;

/// Decoders as one: the trunk axis (one per target, or a single common one) is the group axis.
#[derive(Clone, Debug)]
pub struct Decoder {
    /// By trunk: its width differs from the encoder's.
    embed: Vec<Linear>,
    mask_token: ParamId,
    blocks: Vec<Block>,
    norm: LayerNorm,
    /// `[target][source]`.
    heads: Vec<Vec<Linear>>,
}

impl Decoder {
    pub fn new(params: &mut Params, config: &Config, sensors: &[Sensor]) -> Self {
        let d = config.decoder;
        let trunks = match d.common {
            true => Names::new(["decoder"]),
            false => Names::new(sensors).dot("decoder"),
        };
        let values = |s: &Sensor| config.patch_size * config.patch_size * s.channels();
        Decoder {
            embed: (trunks.0.iter())
                .map(|n| Linear::new(params, &Names::new([n]).dot("embed"), config.dim, d.dim))
                .collect(),
            mask_token: params.add(trunks.dot("mask_token"), &[1, 1, d.dim], Init::Normal { std: 0.02 }),
            blocks: (0..d.depth)
                .map(|i| Block::new(params, &trunks.dot("blocks").dot(i), d.dim, d.heads, None))
                .collect(),
            norm: LayerNorm::new(params, &trunks.dot("norm"), d.dim),
            heads: (sensors.iter())
                .map(|target| {
                    let head = |source| Names::new([format!("{target}.decoder.pred_from_{source}")]);
                    sensors.iter().map(|source| Linear::new(params, &head(source), d.dim, values(target))).collect()
                })
                .collect(),
        }
    }

    /// `tokens` [R, N, D] of all sources -> `[target][source]` [B, P - K, values of a patch]: the patches hidden in the
    /// source. Nothing asks for the others, so after the last attention there are none.
    pub(super) fn forward(
        &self,
        t: &mut Tape,
        config: &Config,
        tokens: Tensor,
        masks: &MaskInputs,
    ) -> Result<Vec<Vec<Tensor>>> {
        let (d, patches) = (config.decoder, config.patches());
        let [rows, n, dim] = tokens.dims("decoder: tokens")?;
        let (trunks, sources) = (self.embed.len(), self.heads.len());
        let batch = rows / sources;

        let x = t.scope("decoder/embed", |t| {
            let flat = tokens.reshape([1, rows * n, dim])?;
            let embedded = self.embed.iter().map(|e| e.forward(t, flat, None)).collect::<Result<Vec<_>>>()?;
            let visible = match embedded.len() {
                1 => embedded[0],
                _ => t.concat(&embedded)?,
            };
            let table = t.constant([1 + patches, d.dim], &sin_cos_table(config.grid(), d.dim));
            let mask_token = t.param(self.mask_token);
            let visible = visible.reshape([trunks, rows, n, d.dim])?;
            ops::scatter(t, visible, mask_token, table, masks.keep_all, masks.restore)
        })?;
        let seq = Sequences { batch: rows, tokens: patches + 1 };
        let mut x = x.reshape([trunks, rows * (patches + 1), d.dim])?;
        let hidden = masks.hidden_all.width();
        for (i, block) in self.blocks.iter().enumerate() {
            x = t.scope(format!("decoder.blocks.{i}"), |t| match i + 1 == self.blocks.len() {
                true => block.forward_only(t, x, seq, masks.hidden_all),
                false => Ok(block.forward(t, x, seq)?.0),
            })?;
        }
        let x = self.norm.forward(t, x)?;
        // By trunk and source: [1, B (P - K), d].
        let parts = t.split(x.reshape([trunks * sources, batch * hidden, d.dim])?, &vec![1; trunks * sources])?;
        t.scope("decoder/heads", |t| {
            self.heads
                .iter()
                .enumerate()
                .map(|(target, heads)| {
                    let trunk = target.min(trunks - 1);
                    heads
                        .iter()
                        .enumerate()
                        .map(|(source, head)| {
                            let y = head.forward(t, parts[trunk * sources + source], None)?;
                            let values = y.width();
                            y.reshape([batch, hidden, values])
                        })
                        .collect()
                })
                .collect()
        })
    }
}
