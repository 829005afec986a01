//! Elementwise helpers.                                                                kernels/basic.wgsl

use crate::gpu::Kernel;
use crate::tensor::{Arg, GradOut, Launch, Tape, Tensor};
use crate::words;
use anyhow::Result;

const FILL: Kernel = Kernel::new("basic", "fill");
const SCALE: Kernel = Kernel::new("basic", "scale");
const ADD: Kernel = Kernel::new("basic", "add");
/// Elements a workgroup takes.
const BLOCK: usize = 2048;

fn launch<'t>(t: &'t mut Tape, kernel: Kernel, args: &[Arg], n: usize, value: f32, accumulate: bool) -> &'t mut Launch {
    let lanes = t.target.lanes.min(64);
    t.launch(kernel, n.div_ceil(BLOCK) as u64, args, words![n, value, accumulate]).constant("LANES", lanes)
}

/// Sets every element of `y`.
pub fn fill(t: &mut Tape, y: Tensor, value: f32) {
    launch(t, FILL, &[y.into()], y.elems(), value, false);
}

/// `out = value * x`, or `out += value * x` where a gradient is there already.
pub fn scale_into(t: &mut Tape, x: Tensor, value: f32, out: GradOut) {
    let n = x.elems();
    launch(t, SCALE, &[out.tensor.into(), x.into()], n, value, out.accumulate).flops(2.0 * n as f64);
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

/// `y = a + b`, equal shapes; `a` the value whose gradient other ops add to (a residual stream).
///
/// # Errors
/// Unequal shapes.
pub fn add(t: &mut Tape, a: Tensor, b: Tensor) -> Result<Tensor> {
    b.expect("add: b", a.shape())?;
    let y = t.value(a.shape(), &[a, b]);
    let n = y.elems();
    launch(t, ADD, &[y.into(), a.into(), b.into()], n, 1.0, false).flops(n as f64);
    t.on_backward(move |t| {
        let Some(dy) = t.grad(y) else { return Ok(()) };
        // b first: a may take over the buffer of dy.
        if let Some(db) = t.grad_out(b) {
            scale_into(t, dy, 1.0, db);
        }
        if let Some(da) = t.pass_grad(y, a) {
            scale_into(t, dy, 1.0, da);
        }
        Ok(())
    });
    Ok(y)
}
