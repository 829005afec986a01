use super::{Linear, Sequences};
use crate::ops;
use crate::tensor::{Names, Params, Tape, Tensor};
use anyhow::Result;

/// Multi-head self-attention: `qkv` [3 d, d], `proj` [d, d], both with bias.
#[derive(Clone, Debug)]
pub struct Attention {
    qkv: Linear,
    proj: Linear,
    heads: usize,
}

impl Attention {
    pub fn new(params: &mut Params, names: &Names, width: usize, heads: usize) -> Self {
        Attention {
            qkv: Linear::new(params, &names.dot("qkv"), width, 3 * width),
            proj: Linear::new(params, &names.dot("proj"), width, width),
            heads,
        }
    }

    /// `x` [g, rows, d] -> `residual + Attn(x)`; with `only` [batch, m] just those tokens of each sequence,
    /// [g, batch m, d].
    pub fn forward(
        &self,
        t: &mut Tape,
        x: Tensor,
        seq: Sequences,
        residual: Tensor,
        only: Option<Tensor>,
    ) -> Result<Tensor> {
        let [g, rows, d] = x.dims("attention: x")?;
        let qkv = self.qkv.forward(t, x, None)?.reshape([g * seq.batch, seq.tokens, 3 * d])?;
        let mut sides = [ops::multi_head(t, qkv, self.heads)?, residual];
        let mut rows = rows;
        if let Some(index) = only {
            rows = index.elems();
            for side in &mut sides {
                *side = ops::gather_rows(t, side.reshape([g * seq.batch, seq.tokens, d])?, index)?;
            }
        }
        let [mixed, residual] = sides;
        self.proj.forward(t, mixed.reshape([g, rows, d])?, Some(residual.reshape([g, rows, d])?))
    }
}
