use crate::ops;
use crate::tensor::{Init, Names, ParamId, Params, Tape, Tensor};
use anyhow::Result;

const EPS: f32 = 1e-6;

/// Layer normalisation with `weight` and `bias` [d], eps 1e-6.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    weight: ParamId,
    bias: ParamId,
}

impl LayerNorm {
    pub fn new(params: &mut Params, names: &Names, width: usize) -> Self {
        LayerNorm {
            weight: params.add(names.dot("weight"), &[width], Init::Constant(1.0)),
            bias: params.add(names.dot("bias"), &[width], Init::Constant(0.0)),
        }
    }

    /// `x` [g, rows, d] -> the same shape.
    pub fn forward(&self, t: &mut Tape, x: Tensor) -> Result<Tensor> {
        let (weight, bias) = (t.param(self.weight), t.param(self.bias));
        ops::layer_norm(t, x, weight, bias, EPS)
    }
}

/// `x / max(|x|, 1e-12) * sqrt(d) * gamma`.
#[derive(Clone, Debug)]
pub struct RmsNorm {
    gamma: ParamId,
    width: usize,
}

impl RmsNorm {
    pub fn new(params: &mut Params, names: &Names, width: usize) -> Self {
        RmsNorm { gamma: params.add(names.dot("gamma"), &[width], Init::Constant(1.0)), width }
    }

    /// `x` [g, rows, d] -> the same shape.
    pub fn forward(&self, t: &mut Tape, x: Tensor) -> Result<Tensor> {
        let gamma = t.param(self.gamma);
        ops::rms_norm(t, x, Some(gamma), (self.width as f32).sqrt())
    }
}
