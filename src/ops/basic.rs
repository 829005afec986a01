//! Elementwise helpers.                                                                kernels/basic.wgsl

use crate::gpu::Kernel;
use crate::tensor::{GradOut, Tape, Tensor};
use crate::words;
use anyhow::Result;

const FILL: Kernel = Kernel::new("basic", "fill");
const SCALE: Kernel = Kernel::new("basic", "scale");
const LANES: usize = 64;

/// Sets every element of `y`.
pub fn fill(t: &mut Tape, y: Tensor, value: f32) {
    let n = y.elems();
    t.launch(FILL, n.div_ceil(LANES) as u64, &[y.into()], words![n, value]);
}

/// `out = value * x`, or `out += value * x` where a gradient is there already.
pub fn scale_into(t: &mut Tape, x: Tensor, value: f32, out: GradOut) {
    let n = x.elems();
    let args = [out.tensor.into(), x.into()];
    t.launch(SCALE, n.div_ceil(LANES) as u64, &args, words![n, value, out.accumulate]).flops(2.0 * n as f64);
}

/// `y = value * x`, any shape.
///
/// # Errors
/// None of its own.
pub fn scale(t: &mut Tape, x: Tensor, value: f32) -> Result<Tensor> {
    let y = t.value(x.shape(), &[x]);
    scale_into(t, x, value, GradOut { tensor: y, accumulate: false });
    t.on_backward(move |t| {
        if let (Some(dy), Some(dx)) = (t.grad(y), t.grad_out(x)) {
            scale_into(t, dy, value, dx);
        }
        Ok(())
    });
    Ok(y)
}

/// `y = a + b`, equal shapes.
///
/// # Errors
/// Unequal shapes.
pub fn add(t: &mut Tape, a: Tensor, b: Tensor) -> Result<Tensor> {
    b.expect("add: b", a.shape())?;
    let y = t.value(a.shape(), &[a, b]);
    scale_into(t, a, 1.0, GradOut { tensor: y, accumulate: false });
    scale_into(t, b, 1.0, GradOut { tensor: y, accumulate: true });
    t.on_backward(move |t| {
        let Some(dy) = t.grad(y) else { return Ok(()) };
        for x in [a, b] {
            if let Some(dx) = t.grad_out(x) {
                scale_into(t, dy, 1.0, dx);
            }
        }
        Ok(())
    });
    Ok(y)
}
