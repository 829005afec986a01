use super::Linear;
use crate::ops;
use crate::tensor::{Names, Params, Tape, Tensor};
use anyhow::{Context, Result};

/// `fc2(GELU(fc1(x)))` with a hidden width of four times the input's.
#[derive(Clone, Debug)]
pub struct Mlp {
    fc1: Linear,
    fc2: Linear,
}

impl Mlp {
    pub fn new(params: &mut Params, names: &Names, width: usize) -> Self {
        Mlp {
            fc1: Linear::new(params, &names.dot("fc1"), width, 4 * width),
            fc2: Linear::new(params, &names.dot("fc2"), 4 * width, width),
        }
    }

    /// `x` [g, rows, experts d] -> the same shape, plus `residual`; the stack holds `g * experts` perceptrons.
    pub fn forward(&self, t: &mut Tape, x: Tensor, experts: usize, residual: Option<Tensor>) -> Result<Tensor> {
        let bias = "a perceptron's layers have biases";
        let weights = ops::Mlp {
            w1: t.param(self.fc1.weight),
            b1: t.param(self.fc1.bias.context(bias)?),
            w2: t.param(self.fc2.weight),
            b2: t.param(self.fc2.bias.context(bias)?),
        };
        ops::mlp(t, x, weights, experts, residual)
    }
}
