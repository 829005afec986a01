//! y = mean over rows of (1/E^2) sum over e, f of <u_e, u_f>^2                        kernels/gram.wgsl

use super::reduce::{SCALAR, scalar_reference, sum_into};
use crate::gpu::Kernel;
use crate::tensor::{Tape, Tensor};
use crate::words;
use anyhow::Result;

const ROW_GRAM: Kernel = Kernel::new("gram", "row_gram");
const BACKWARD: Kernel = Kernel::new("gram", "backward");

/// The mean squared inner product, pairs with themselves included, of the E vectors of each row: `u` [R, E, D] ->
/// scalar. Of unit vectors, the experts' mean slots, it is CSMoE's slot repulsion (arXiv 2509.14104), at least 1/E.
///
/// # Errors
/// `u` without three dimensions.
pub fn gram_square(t: &mut Tape, u: Tensor) -> Result<Tensor> {
    let [rows, count, width] = u.dims("gram_square: u")?;
    let scale = 1.0 / (rows * count * count) as f64;
    let square = t.saved([rows]);
    let gram = t.saved([rows, count, count]);
    let y = t.value([SCALAR], &[u]);
    let work = 2.0 * (count * u.elems()) as f64;
    let words = move |accumulate: bool| words![rows, count, width, (4.0 * scale) as f32, accumulate].to_vec();
    t.launch(ROW_GRAM, rows as u64, &[square.into(), gram.into(), u.into()], &words(false)).flops(work);
    sum_into(t, square, scale as f32, y);
    t.on_backward(move |t| {
        if let (Some(dy), Some(du)) = (t.grad(y), t.grad_out(u)) {
            let args = [du.tensor.into(), gram.into(), u.into(), dy.into()];
            t.launch(BACKWARD, (rows * count) as u64, &args, &words(du.accumulate)).flops(work);
        }
        Ok(())
    });
    Ok(y)
}

/// The specification: the scalar's 64 elements.
pub fn reference(u: &[f64], count: usize, width: usize) -> Vec<f64> {
    let rows = u.len() / (count * width);
    let mut total = 0.0;
    for row in u.chunks(count * width) {
        for a in row.chunks(width) {
            for b in row.chunks(width) {
                let dot: f64 = a.iter().zip(b).map(|(x, y)| x * y).sum();
                total += dot * dot;
            }
        }
    }
    scalar_reference(total / (rows * count * count) as f64)
}
