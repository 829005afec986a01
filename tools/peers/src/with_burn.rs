use crate::{Array, EPS, HEADS, Loaded, Loader, is_weight, transposed};
use anyhow::{Result, bail};
use burn::tensor::activation::{gelu, softmax};
use burn::tensor::module::{attention, layer_norm, linear};
use burn::tensor::{Device, DeviceKind, Gradients, Tensor, TensorData};
use std::rc::Rc;

pub fn open() -> Loader {
    let device = Device::wgpu(DeviceKind::DefaultDevice).autodiff();
    Box::new(move |kind, inputs| load(&device, kind, inputs))
}

/// A tensor of any rank.
enum Any {
    One(Tensor<1>),
    Two(Tensor<2>),
    Three(Tensor<3>),
}

/// Does the same with a tensor of any rank.
macro_rules! any {
    ($any:expr, $t:ident => $e:expr) => {
        match $any {
            Any::One($t) => $e,
            Any::Two($t) => $e,
            Any::Three($t) => $e,
        }
    };
}

impl Any {
    fn leaf(array: &Array, weight: bool, device: &Device) -> Self {
        let (mut data, mut shape) = (array.data.clone(), array.shape.clone());
        if weight {
            data = transposed(&data, shape[1]);
            shape.reverse();
        }
        let data = TensorData::new(data, shape.clone());
        match shape.len() {
            1 => Any::One(Tensor::from_data(data, device).require_grad()),
            2 => Any::Two(Tensor::from_data(data, device).require_grad()),
            _ => Any::Three(Tensor::from_data(data, device).require_grad()),
        }
    }

    fn gradient(&self, gradients: &Gradients) -> Option<Self> {
        Some(match self {
            Any::One(t) => Any::One(t.grad(gradients)?),
            Any::Two(t) => Any::Two(t.grad(gradients)?),
            Any::Three(t) => Any::Three(t.grad(gradients)?),
        })
    }

    fn one(&self) -> Tensor<1> {
        if let Any::One(t) = self { t.clone() } else { unreachable!("race.py gives a vector") }
    }

    fn two(&self) -> Tensor<2> {
        if let Any::Two(t) = self { t.clone() } else { unreachable!("race.py gives a matrix") }
    }

    fn three(&self) -> Tensor<3> {
        if let Any::Three(t) = self { t.clone() } else { unreachable!("race.py gives three axes") }
    }
}

fn layer<const D: usize>(x: Tensor<D>, weight: &Any, bias: &Any) -> Tensor<D> {
    linear(x, weight.two(), Some(bias.one()))
}

fn norm<const D: usize>(x: Tensor<D>, weight: &Any, bias: &Any) -> Tensor<D> {
    layer_norm(x, weight.one(), Some(bias.one()), EPS as f64)
}

fn mlp<const D: usize>(x: Tensor<D>, p: &[Any]) -> Tensor<D> {
    layer(gelu(layer(x, &p[0], &p[1])), &p[2], &p[3])
}

fn multi_head(q: Tensor<3>, k: Tensor<3>, v: Tensor<3>) -> Tensor<3> {
    let [batch, tokens, width] = q.dims();
    let split = |t: Tensor<3>| t.reshape([batch, tokens, HEADS, width / HEADS]).swap_dims(1, 2);
    let mixed = attention(split(q), split(k), split(v), None, None, Default::default());
    mixed.swap_dims(1, 2).reshape([batch, tokens, width])
}

fn forward(kind: &str, x: &[Any]) -> Result<Any> {
    Ok(match kind {
        "linear" => Any::Two(layer(x[0].two(), &x[1], &x[2])),
        "layer_norm" => Any::Two(norm(x[0].two(), &x[1], &x[2])),
        "mlp" => Any::Two(mlp(x[0].two(), &x[1..])),
        "attention" => Any::Three(multi_head(x[0].three(), x[1].three(), x[2].three())),
        "soft_moe" => {
            let (slots, tokens) = (x[0].three(), x[1].three());
            let logits = slots.matmul(tokens.clone().transpose());
            let inputs = softmax(logits.clone(), 2).matmul(tokens);
            Any::Three(softmax(logits, 1).transpose().matmul(inputs))
        }
        "vit_block" => {
            let input = x[0].three();
            let normed = norm(input.clone(), &x[1], &x[2]);
            let [q, k, v] = [0, 1, 2].map(|i| layer(normed.clone(), &x[3 + i], &x[6 + i]));
            let h = input + layer(multi_head(q, k, v), &x[9], &x[10]);
            Any::Three(h.clone() + mlp(norm(h, &x[11], &x[12]), &x[13..]))
        }
        other => bail!("no case is called '{other}'"),
    })
}

fn load(device: &Device, kind: &str, inputs: &[Array]) -> Result<Loaded> {
    let weights: Vec<bool> = inputs.iter().enumerate().map(|(i, a)| is_weight(i, &a.shape)).collect();
    let leaves: Vec<Any> = inputs.iter().zip(&weights).map(|(a, w)| Any::leaf(a, *w, device)).collect();
    let (kind, device) = (kind.to_string(), device.clone());
    let run = Rc::new(move || -> Result<Vec<Any>> {
        let y = forward(&kind, &leaves)?;
        let gradients = any!(&y, t => t.backward());
        let mut results = vec![y];
        results.extend(leaves.iter().filter_map(|l| l.gradient(&gradients)));
        device.sync()?;
        Ok(results)
    });
    let mut values = Vec::new();
    for (i, result) in run()?.into_iter().enumerate() {
        let (data, shape) = any!(result, t => (t.to_data().try_to_vec::<f32>(), t.shape()));
        let data = data.map_err(|e| anyhow::anyhow!("{e:?}"))?;
        let weight = i > 0 && weights[i - 1];
        values.extend(if weight { transposed(&data, shape[1]) } else { data });
    }
    Ok((Box::new(move || run().map(drop)), values))
}
