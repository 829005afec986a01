//! y = (resize(flip(raw)) - mean) / std                                               kernels/prepare.wgsl

use crate::gpu::Kernel;
use crate::tensor::{Tape, Tensor};
use crate::words;
use anyhow::{Result, bail};

const PREPARE: Kernel = Kernel::new("prepare", "prepare");
/// Target pixels are counted in 2 * size * size with 32-bit signed integers.
const MAX_SIZE: usize = 16_384;

/// Raw pixels to the model's input: `raw` [B, C, from, from], `mean` and `inv_std` (1 / std) [C], `flips` [B] u32
/// (bit 0 left-right, bit 1 top-bottom) -> [B, C, size, size]. Bicubic as PyTorch's
/// `interpolate(mode="bicubic", align_corners=False)` where the sizes differ. Both are linear with weights that add up to
/// 1, so normalising before or after resizing gives the same. No gradient.
///
/// # Errors
/// Shapes that do not belong together, pixels without rows, sizes above 16,384.
pub fn prepare(t: &mut Tape, raw: Tensor, mean: Tensor, inv_std: Tensor, flips: Tensor, size: usize) -> Result<Tensor> {
    let [batch, channels, from, _] = raw.dims("prepare: raw")?;
    raw.expect("prepare: raw", [batch, channels, from, from])?;
    mean.expect("prepare: mean", [channels])?;
    inv_std.expect("prepare: inv_std", [channels])?;
    flips.expect("prepare: flips", [batch])?;
    if from == 0 || size == 0 || from.max(size) > MAX_SIZE {
        bail!("prepare: {from} pixels to {size}; both must be 1 to {MAX_SIZE}");
    }
    let y = t.value([batch, channels, size, size], &[]);
    let n = batch * size;
    let lanes = t.target.lanes.min(64);
    let args = [y.into(), raw.into(), mean.into(), inv_std.into(), flips.into()];
    let flops = if from == size { 2.0 } else { 42.0 };
    t.launch(PREPARE, n as u64, &args, words![n, from, size, 0u32])
        .constant("LANES", lanes)
        .constant("CHANNELS", channels as u32)
        .constant("RESIZES", u32::from(from != size))
        .flops(flops * y.elems() as f64);
    Ok(y)
}

/// The specification. `flips` as integers in f64, `dims` [B, C, from].
pub fn reference(
    raw: &[f64],
    mean: &[f64],
    inv_std: &[f64],
    flips: &[f64],
    [batch, channels, from]: [usize; 3],
    size: usize,
) -> Vec<f64> {
    // Source pixels and weights of target pixel i along one axis.
    let taps = |i: usize| -> Vec<(usize, f64)> {
        if from == size {
            return vec![(i, 1.0)];
        }
        let at = (i as f64 + 0.5) * from as f64 / size as f64 - 0.5;
        let a = -0.75;
        let tap = |k: i64| {
            let place = at.floor() as i64 + k;
            let x = (at - place as f64).abs();
            let weight = if x <= 1.0 {
                (a + 2.0) * x.powi(3) - (a + 3.0) * x.powi(2) + 1.0
            } else {
                a * x.powi(3) - 5.0 * a * x.powi(2) + 8.0 * a * x - 4.0 * a
            };
            (place.clamp(0, from as i64 - 1) as usize, weight)
        };
        (-1..3).map(tap).collect()
    };
    let mut y = Vec::new();
    for b in 0..batch {
        let flip = flips[b] as u32;
        let turned = |bit: u32, i: usize| if flip & bit != 0 { size - 1 - i } else { i };
        for c in 0..channels {
            let plane = &raw[(b * channels + c) * from * from..][..from * from];
            for i in 0..size {
                for j in 0..size {
                    let mut value = 0.0;
                    for (r, u) in taps(turned(2, i)) {
                        for (s, v) in taps(turned(1, j)) {
                            value += u * v * plane[r * from + s];
                        }
                    }
                    y.push((value - mean[c]) * inv_std[c]);
                }
            }
        }
    }
    y
}
