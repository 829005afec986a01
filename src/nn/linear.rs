use crate::ops;
use crate::tensor::{Init, Names, ParamId, Params, Tape, Tensor};
use anyhow::Result;

/// `x W^T + b` with `weight` [out, in] and `bias` [out], Xavier-uniform and zero.
#[derive(Clone, Debug)]
pub struct Linear {
    pub weight: ParamId,
    pub bias: Option<ParamId>,
}

impl Linear {
    pub fn new(params: &mut Params, names: &Names, inputs: usize, outputs: usize) -> Self {
        let bias = params.add(names.dot("bias"), &[outputs], Init::Constant(0.0));
        Linear { bias: Some(bias), ..Self::without_bias(params, names, inputs, outputs) }
    }

    pub fn without_bias(params: &mut Params, names: &Names, inputs: usize, outputs: usize) -> Self {
        let init = Init::Xavier { fan_in: inputs, fan_out: outputs };
        Linear { weight: params.add(names.dot("weight"), &[outputs, inputs], init), bias: None }
    }

    /// `x` [g, rows, in] -> [g, rows, out], plus `residual` of that shape.
    pub fn forward(&self, t: &mut Tape, x: Tensor, residual: Option<Tensor>) -> Result<Tensor> {
        let weight = t.param(self.weight);
        let bias = self.bias.map(|b| t.param(b));
        ops::linear(t, x, weight, bias, residual)
    }
}
