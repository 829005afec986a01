//! loss = sum over masked patches of mean_v |pred - target|^2 / their number          kernels/masked_loss.wgsl

use super::reduce::{SCALAR, scalar_reference};
use crate::gpu::Kernel;
use crate::tensor::{Tape, Tensor};
use crate::words;
use anyhow::{Result, bail};

const PATCH_ERROR: Kernel = Kernel::new("masked_loss", "patch_error");
const FINISH: Kernel = Kernel::new("masked_loss", "finish");
const BACKWARD: Kernel = Kernel::new("masked_loss", "backward");

/// How a value's error counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Squared.
    Mse,
    /// Absolute; the slope at 0 is 0.
    Mae,
}

/// The reconstruction loss of masked autoencoders, CSMoE's RecL (arXiv 2509.14104): `pred` [B, 1 + P, V] (row 0, the
/// CLS token's, is ignored), `image` [B, C, S, S] normalised pixels, `mask` [B, P] with 1 where a patch was masked
/// -> scalar. Mean over a patch's V = patch * patch * C values (channel fastest), then over the masked patches of the
/// batch; 0 if there are none. With `norm_pix` a patch's target is standardised by its own mean and unbiased variance
/// (+ 1e-6; He et al. 2022). Only `pred` gets a gradient.
///
/// # Errors
/// Shapes that do not belong together, `norm_pix` on patches of one value.
pub fn masked_patch_loss(
    t: &mut Tape,
    pred: Tensor,
    image: Tensor,
    mask: Tensor,
    patch: usize,
    error: Error,
    norm_pix: bool,
) -> Result<Tensor> {
    let [batch, channels, size, _] = image.dims("masked_patch_loss: image")?;
    if patch == 0 || size % patch != 0 {
        bail!("masked_patch_loss: an image of {size} pixels has no whole number of patches of {patch}");
    }
    let side = size / patch;
    let patches = side * side;
    let values = patch * patch * channels;
    image.expect("masked_patch_loss: image", [batch, channels, size, size])?;
    mask.expect("masked_patch_loss: mask", [batch, patches])?;
    pred.expect("masked_patch_loss: pred", [batch, 1 + patches, values])?;
    if norm_pix && values < 2 {
        bail!("masked_patch_loss: a patch of one value has no variance to normalise by");
    }
    let rows = batch * patches;
    let words = move |groups: usize, accumulate: bool| {
        let words = words![patches, side, patch, channels, groups, error == Error::Mae, norm_pix, accumulate];
        words.to_vec()
    };
    let errors = t.saved([rows]);
    let scale = t.saved([rows, 2]);
    let share = t.saved([SCALAR]);
    let loss = t.value([SCALAR], &[pred]);
    let work = (rows * values) as f64;
    let args = [errors.into(), scale.into(), pred.into(), image.into(), mask.into()];
    let lanes = t.target.lanes.min(64);
    let launch = t.launch(PATCH_ERROR, rows as u64, &args, &words(rows, false));
    launch.constant("LANES", lanes).flops(3.0 * work);
    let args = [loss.into(), share.into(), errors.into(), mask.into()];
    t.launch(FINISH, 1, &args, &words(rows, false)).flops(2.0 * rows as f64);
    t.on_backward(move |t| {
        if let (Some(dloss), Some(out)) = (t.grad(loss), t.grad_out(pred)) {
            let groups = batch * (1 + patches);
            let args =
                [out.tensor.into(), scale.into(), pred.into(), image.into(), mask.into(), share.into(), dloss.into()];
            t.launch(BACKWARD, groups as u64, &args, &words(groups, out.accumulate))
                .constant("LANES", lanes)
                .flops(4.0 * work);
        }
        Ok(())
    });
    Ok(loss)
}

/// The specification: the scalar's 64 elements. `dims` is [B, C, S].
pub fn reference(
    pred: &[f64],
    image: &[f64],
    mask: &[f64],
    [batch, channels, size]: [usize; 3],
    patch: usize,
    error: Error,
    norm_pix: bool,
) -> Vec<f64> {
    let side = size / patch;
    let values = patch * patch * channels;
    let (mut total, mut masked) = (0.0, 0.0);
    for b in 0..batch {
        for q in 0..side * side {
            let mut target = Vec::new();
            for i in 0..patch {
                for j in 0..patch {
                    for c in 0..channels {
                        let (y, x) = (q / side * patch + i, q % side * patch + j);
                        target.push(image[((b * channels + c) * size + y) * size + x]);
                    }
                }
            }
            if norm_pix {
                let mean = target.iter().sum::<f64>() / values as f64;
                let var = target.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / (values - 1) as f64;
                target.iter_mut().for_each(|v| *v = (*v - mean) / (var + 1e-6).sqrt());
            }
            let row = &pred[(b * (side * side + 1) + 1 + q) * values..][..values];
            let errors = row.iter().zip(&target).map(|(p, v)| match error {
                Error::Mse => (p - v) * (p - v),
                Error::Mae => (p - v).abs(),
            });
            let m = mask[b * side * side + q];
            total += m * errors.sum::<f64>() / values as f64;
            masked += m;
        }
    }
    scalar_reference(if masked > 0.0 { total / masked } else { 0.0 })
}
