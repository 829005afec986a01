use super::{Attention, LayerNorm, Mlp, Routing, Sequences, SoftMoe, SoftMoeConfig};
use crate::tensor::{Names, Params, Tape, Tensor};
use anyhow::Result;

/// What stands in a block after the attention.
#[derive(Clone, Debug)]
pub enum FeedForward {
    Dense(Mlp),
    SoftMoe(SoftMoe),
}

/// A pre-norm transformer block: `x += Attn(LN(x)); x += MLP(LN(x))`.
#[derive(Clone, Debug)]
pub struct Block {
    norm1: LayerNorm,
    attention: Attention,
    norm2: LayerNorm,
    feed_forward: FeedForward,
}

impl Block {
    /// A block with a Soft MoE if `moe` is given, else with a dense perceptron.
    pub fn new(params: &mut Params, names: &Names, width: usize, heads: usize, moe: Option<SoftMoeConfig>) -> Self {
        Block {
            norm1: LayerNorm::new(params, &names.dot("norm1"), width),
            attention: Attention::new(params, &names.dot("attn"), width, heads),
            norm2: LayerNorm::new(params, &names.dot("norm2"), width),
            feed_forward: match moe {
                Some(config) => FeedForward::SoftMoe(SoftMoe::new(params, &names.dot("moe"), config)),
                None => FeedForward::Dense(Mlp::new(params, &names.dot("mlp"), width)),
            },
        }
    }

    /// `x` [g, rows, d] -> the same shape, and the routing of a Soft MoE.
    pub fn forward(&self, t: &mut Tape, x: Tensor, seq: Sequences) -> Result<(Tensor, Option<Routing>)> {
        let h = t.scope("attention", |t| {
            let normed = self.norm1.forward(t, x)?;
            self.attention.forward(t, normed, seq, x)
        })?;
        t.scope("mlp", |t| {
            let normed = self.norm2.forward(t, h)?;
            match &self.feed_forward {
                FeedForward::Dense(mlp) => Ok((mlp.forward(t, normed, 1, Some(h))?, None)),
                FeedForward::SoftMoe(moe) => {
                    let (y, routing) = moe.forward(t, normed, seq, h)?;
                    Ok((y, Some(routing)))
                }
            }
        })
    }
}
