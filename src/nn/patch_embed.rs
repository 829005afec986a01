use crate::ops;
use crate::tensor::{Init, Names, ParamId, Params, Tape, Tensor};
use anyhow::Result;

/// A convolution whose kernel is its stride: `weight` [d, channels, patch, patch], `bias` [d].
#[derive(Clone, Debug)]
pub struct PatchEmbed {
    weight: ParamId,
    bias: ParamId,
    patch: usize,
}

impl PatchEmbed {
    pub fn new(params: &mut Params, names: &Names, channels: usize, patch: usize, width: usize) -> Self {
        // Xavier over the flattened weight, as the base model.
        let init = Init::Xavier { fan_in: channels * patch * patch, fan_out: width };
        PatchEmbed {
            weight: params.add(names.dot("weight"), &[width, channels, patch, patch], init),
            bias: params.add(names.dot("bias"), &[width], Init::Constant(0.0)),
            patch,
        }
    }

    /// `image` [B, C, S, S], `keep` [B, K] -> the kept patches' embeddings [1, B K, d].
    pub fn forward(&self, t: &mut Tape, image: Tensor, keep: Tensor) -> Result<Tensor> {
        let patches = ops::patches(t, image, keep, self.patch)?;
        let [b, k, values] = patches.dims("patches")?;
        let (weight, bias) = (t.param(self.weight), t.param(self.bias));
        let width = bias.width();
        let weight = weight.reshape([1, width, values])?;
        ops::linear(t, patches.reshape([1, b * k, values])?, weight, Some(bias), None)
    }
}

/// The fixed position table of a `side` x `side` grid, [1 + side^2, d], its CLS row zero: half of the columns for the
/// column index, half for the row, each half sines then cosines of `position / 10000^(i / (d / 4))` (MAE).
pub fn sin_cos_table(side: usize, d: usize) -> Vec<f32> {
    let quarter = d / 4;
    let mut table = vec![0.0f32; d];
    for patch in 0..side * side {
        for position in [patch % side, patch / side] {
            let angle = |i: usize| position as f64 / 10000f64.powf(i as f64 / quarter as f64);
            table.extend((0..quarter).map(|i| angle(i).sin() as f32));
            table.extend((0..quarter).map(|i| angle(i).cos() as f32));
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_in_closed_form() {
        let (side, d) = (3, 8);
        let table = sin_cos_table(side, d);
        assert_eq!(table.len(), (1 + side * side) * d);
        assert!(table[..d].iter().all(|v| *v == 0.0));
        // Patch 5 is row 1, column 2; omega is 1 and 1/100.
        let row = &table[6 * d..7 * d];
        let expected = [
            2f64.sin(),
            0.02f64.sin(),
            2f64.cos(),
            0.02f64.cos(),
            1f64.sin(),
            0.01f64.sin(),
            1f64.cos(),
            0.01f64.cos(),
        ];
        for (got, want) in row.iter().zip(expected) {
            assert!((f64::from(*got) - want).abs() < 1e-7, "{row:?}");
        }
    }
}
