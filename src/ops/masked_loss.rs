//! loss = mean over hidden patches and their values of |pred - target|^2              kernels/masked_loss.wgsl

use super::reduce::scalar_reference;
use crate::gpu::Kernel;
use crate::tensor::{Arg, Tape, Tensor};
use crate::words;
use anyhow::{Result, bail};

const PATCH_ERROR: Kernel = Kernel::new("masked_loss", "patch_error");
const BACKWARD: Kernel = Kernel::new("masked_loss", "backward");

/// How a value's error counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Squared.
    Mse,
    /// Absolute; the slope at 0 is 0.
    Mae,
}

/// The reconstruction loss of masked autoencoders, CSMoE's RecL (arXiv 2509.14104): `pred` [B, M, V] of the hidden
/// patches, `image` [B, C, S, S] normalised pixels, `hidden` [B, M] which patches those are, as tokens (1 + patch)
/// -> scalar. Mean over a patch's V = patch * patch * C values (channel fastest), then over the patches of the batch.
/// With `norm_pix` a patch's target is standardised by its own mean and unbiased variance (+ 1e-6; He et al. 2022).
/// Only `pred` gets a gradient.
///
/// # Errors
/// Shapes that do not belong together, `norm_pix` on patches of one value.
pub fn masked_patch_loss(
    t: &mut Tape,
    pred: Tensor,
    image: Tensor,
    hidden: Tensor,
    patch: usize,
    error: Error,
    norm_pix: bool,
) -> Result<Tensor> {
    let [batch, channels, size, _] = image.dims("masked_patch_loss: image")?;
    let [_, count] = hidden.dims("masked_patch_loss: hidden")?;
    if patch == 0 || size % patch != 0 {
        bail!("masked_patch_loss: an image of {size} pixels has no whole number of patches of {patch}");
    }
    let values = patch * patch * channels;
    image.expect("masked_patch_loss: image", [batch, channels, size, size])?;
    hidden.expect("masked_patch_loss: hidden", [batch, count])?;
    pred.expect("masked_patch_loss: pred", [batch, count, values])?;
    if norm_pix && values < 2 {
        bail!("masked_patch_loss: a patch of one value has no variance to normalise by");
    }
    let rows = batch * count;
    let words = words![rows, count, size / patch, patch, error == Error::Mae, norm_pix, 0u32].to_vec();
    let errors = t.value([rows], &[pred]);
    let slope = t.saved([rows, values]);
    let work = (rows * values) as f64;
    let lanes = t.target.lanes.min(64);
    let args = [pred, image, hidden, errors, slope].map(Arg::from);
    let launch = t.launch(PATCH_ERROR, rows as u64, &args, &words).constant("LANES", lanes).flops(4.0 * work);
    launch.constant("CHANNELS", channels as u32);
    t.on_backward(move |t| {
        if let (Some(derrors), Some(out)) = (t.grad(errors), t.grad_out(pred)) {
            let args = [slope, derrors, out.tensor].map(Arg::from);
            let launch = t.launch(BACKWARD, rows as u64, &args, &words).constant("LANES", lanes).flops(work);
            launch.constant("CHANNELS", channels as u32).constant("ACCUMULATE", u32::from(out.accumulate));
        }
        Ok(())
    });
    super::sum_scaled(t, errors, 1.0 / rows as f32)
}

/// The specification: the scalar's 64 elements. `dims` is [B, C, S].
pub fn reference(
    pred: &[f64],
    image: &[f64],
    hidden: &[f64],
    [batch, channels, size]: [usize; 3],
    patch: usize,
    error: Error,
    norm_pix: bool,
) -> Vec<f64> {
    let side = size / patch;
    let values = patch * patch * channels;
    let mut total = 0.0;
    for (row, (pred, token)) in pred.chunks(values).zip(hidden).enumerate() {
        let (b, q) = (row / (hidden.len() / batch), *token as usize - 1);
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
        let errors = pred.iter().zip(&target).map(|(p, v)| match error {
            Error::Mse => (p - v) * (p - v),
            Error::Mae => (p - v).abs(),
        });
        total += errors.sum::<f64>() / values as f64;
    }
    scalar_reference(total / hidden.len() as f64)
}
