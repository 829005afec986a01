use super::{Attention, LayerNorm, Mlp, Routing, Sequences, SoftMoe, SoftMoeConfig};
use crate::tensor::{Names, Params, Tape, Tensor};
use anyhow::{Result, bail};

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
        let h = self.attend(t, x, seq, None)?;
        self.feed(t, h, seq)
    }

    /// The same of a dense block for the tokens `only` [batch, m] of each sequence, where nothing asks for the others:
    /// `x` [g, batch tokens, d] -> [g, batch m, d].
    ///
    /// # Errors
    /// A Soft MoE, whose slots mix all tokens; shapes that do not fit.
    pub fn forward_only(&self, t: &mut Tape, x: Tensor, seq: Sequences, only: Tensor) -> Result<Tensor> {
        if let FeedForward::SoftMoe(_) = self.feed_forward {
            bail!("a Soft MoE needs all tokens");
        }
        let h = self.attend(t, x, seq, Some(only))?;
        Ok(self.feed(t, h, Sequences { tokens: only.width(), ..seq })?.0)
    }

    fn attend(&self, t: &mut Tape, x: Tensor, seq: Sequences, only: Option<Tensor>) -> Result<Tensor> {
        t.scope("attention", |t| {
            let normed = self.norm1.forward(t, x)?;
            self.attention.forward(t, normed, seq, x, only)
        })
    }

    fn feed(&self, t: &mut Tape, h: Tensor, seq: Sequences) -> Result<(Tensor, Option<Routing>)> {
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
