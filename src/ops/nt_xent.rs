//! loss = mean over rows of log sum exp of the others' similarities - the pair's      kernels/nt_xent.wgsl

use super::reduce::{SCALAR, scalar_reference, sum_into};
use crate::gpu::Kernel;
use crate::tensor::{Tape, Tensor};
use crate::words;
use anyhow::{Result, bail};

const STACK: Kernel = Kernel::new("nt_xent", "stack");
const UNSTACK: Kernel = Kernel::new("nt_xent", "unstack");
const SIMILARITY: Kernel = Kernel::new("nt_xent", "similarity");
const ROW_LOSS: Kernel = Kernel::new("nt_xent", "row_loss");
const COEFFICIENTS: Kernel = Kernel::new("nt_xent", "coefficients");
const BACKWARD: Kernel = Kernel::new("nt_xent", "backward");
const LANES: usize = 64;

/// What stands in a row's denominator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contrast {
    /// Every other row, the row's own pair included (NT-Xent, Chen et al. 2020; CSMAE's code).
    NtXent,
    /// Eq. 10 of CSMoE as printed: the other modality's rows alone, and not the pair. With s = <a_i, b_j> / T,
    /// 1/(2B) sum_i [log sum_{q != i} exp s(a_i, b_q) + log sum_{q != i} exp s(a_q, b_i) - 2 s(a_i, b_i)].
    Eq10,
}

/// The mutual-information loss of CSMoE (arXiv 2509.14104, section on losses): `a` and `b` [B, D], L2-normalised
/// already, row i of one the pair of row i of the other -> scalar.
///
/// # Errors
/// Unequal shapes, `Eq10` of a single pair (it has no negatives).
pub fn nt_xent(t: &mut Tape, a: Tensor, b: Tensor, temperature: f32, contrast: Contrast) -> Result<Tensor> {
    let [pairs, width] = a.dims("nt_xent: a")?;
    b.expect("nt_xent: b", [pairs, width])?;
    let n = a.elems();
    let f = t.value([2 * pairs, width], &[a, b]);
    let words =
        move |offset: usize, accumulate: bool| words![2 * pairs, width, false, 0.0f32, accumulate, offset, n].to_vec();
    t.launch(STACK, (2 * n).div_ceil(LANES) as u64, &[f.into(), a.into(), b.into()], &words(0, false));
    t.on_backward(move |t| {
        let Some(df) = t.grad(f) else { return Ok(()) };
        for (x, offset) in [(a, 0), (b, n)] {
            if let Some(dx) = t.grad_out(x) {
                let args = [dx.tensor.into(), df.into()];
                t.launch(UNSTACK, n.div_ceil(LANES) as u64, &args, &words(offset, dx.accumulate));
            }
        }
        Ok(())
    });
    nt_xent_stacked(t, f, temperature, contrast)
}

/// [`nt_xent`] of features that lie stacked already: `f` [2B, D], row i the pair of row B + i.
///
/// # Errors
/// An odd number of rows, `Eq10` of a single pair.
pub fn nt_xent_stacked(t: &mut Tape, f: Tensor, temperature: f32, contrast: Contrast) -> Result<Tensor> {
    let [rows, width] = f.dims("nt_xent: features")?;
    if rows == 0 || rows % 2 != 0 {
        bail!("nt_xent: {rows} rows are not pairs");
    }
    if contrast == Contrast::Eq10 && rows == 2 {
        bail!("nt_xent: eq. 10 of a single pair has no negatives; use a batch of at least 2");
    }
    let words = move |factor: f64, accumulate: bool| {
        words![rows, width, contrast == Contrast::Eq10, factor as f32, accumulate, 0u32, 0u32].to_vec()
    };
    let sharpness = 1.0 / f64::from(temperature);
    let work = (rows * rows) as f64;
    let sim = t.saved([rows, rows]);
    let lse = t.saved([rows]);
    let losses = t.saved([rows]);
    let y = t.value([SCALAR], &[f]);
    let blocks = rows.div_ceil(4) * rows.div_ceil(4);
    t.launch(SIMILARITY, blocks.div_ceil(LANES) as u64, &[sim.into(), f.into()], &words(sharpness, false))
        .flops(2.0 * work * width as f64);
    let args = [losses.into(), lse.into(), sim.into()];
    t.launch(ROW_LOSS, rows as u64, &args, &words(0.0, false)).flops(4.0 * work);
    sum_into(t, losses, 1.0 / rows as f32, y);
    t.on_backward(move |t| {
        if let (Some(dy), Some(df)) = (t.grad(y), t.grad_out(f)) {
            let c = t.saved([rows, rows]);
            let args = [c.into(), lse.into(), sim.into(), dy.into()];
            let factor = sharpness / rows as f64;
            t.launch(COEFFICIENTS, (rows * rows).div_ceil(LANES) as u64, &args, &words(factor, false))
                .flops(4.0 * work);
            let blocks = rows.div_ceil(4) * width.div_ceil(4);
            let args = [df.tensor.into(), f.into(), c.into()];
            t.launch(BACKWARD, blocks.div_ceil(LANES) as u64, &args, &words(0.0, df.accumulate))
                .flops(2.0 * work * width as f64);
        }
        Ok(())
    });
    Ok(y)
}

/// The specification: the scalar's 64 elements.
pub fn reference(a: &[f64], b: &[f64], width: usize, temperature: f64, contrast: Contrast) -> Vec<f64> {
    let f: Vec<&[f64]> = a.chunks(width).chain(b.chunks(width)).collect();
    let pairs = f.len() / 2;
    let mut total = 0.0;
    for i in 0..f.len() {
        let sim = |j: usize| f[i].iter().zip(f[j]).map(|(x, y)| x * y).sum::<f64>() / temperature;
        let pair = (i + pairs) % f.len();
        let others = (0..f.len()).filter(|&j| match contrast {
            Contrast::NtXent => j != i,
            Contrast::Eq10 => (i < pairs) != (j < pairs) && j != pair,
        });
        let similarities: Vec<f64> = others.map(sim).collect();
        let top = similarities.iter().fold(f64::MIN, |m, s| m.max(*s));
        let sum: f64 = similarities.iter().map(|s| (s - top).exp()).sum();
        total += top + sum.ln() - sim(pair);
    }
    scalar_reference(total / f.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closed_forms_hold() {
        for b in [1usize, 2, 5, 32] {
            let ones = vec![1.0 / 3f64.sqrt(); b * 3];
            let eye: Vec<f64> = (0..b * b).map(|i| f64::from(u8::from(i / b == i % b))).collect();
            let near =
                |got: Vec<f64>, expected: f64| assert!((got[0] - expected).abs() < 1e-12, "{} {expected}", got[0]);
            near(reference(&ones, &ones, 3, 0.5, Contrast::NtXent), ((2 * b - 1) as f64).ln());
            let negatives = (2 * b - 2) as f64 * (-2f64).exp();
            near(reference(&eye, &eye, b, 0.5, Contrast::NtXent), (1.0 + negatives).ln());
            if b > 1 {
                near(reference(&ones, &ones, 3, 0.5, Contrast::Eq10), ((b - 1) as f64).ln());
                near(reference(&eye, &eye, b, 0.5, Contrast::Eq10), ((b - 1) as f64).ln() - 2.0);
            }
        }
    }
}
