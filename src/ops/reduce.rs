//! y = factor * sum x; y_j = mean of the tokens of segment j                          kernels/reduce.wgsl

use crate::gpu::Kernel;
use crate::tensor::{Arg, GradOut, Tape, Tensor};
use crate::words;
use anyhow::{Result, bail};

const SUM: Kernel = Kernel::new("reduce", "sum");
const FINISH: Kernel = Kernel::new("reduce", "finish");
const SPREAD: Kernel = Kernel::new("reduce", "spread");
const ADD_PARTS: Kernel = Kernel::new("reduce", "add_parts");
const SEGMENT_MEAN: Kernel = Kernel::new("reduce", "segment_mean");
const SEGMENT_MEAN_BACKWARD: Kernel = Kernel::new("reduce", "segment_mean_backward");
const LANES: usize = 64;
const BLOCK: usize = 4096;
/// Columns that a workgroup of segment_mean takes.
const ROW_BLOCK: usize = 256;

/// Elements of a scalar value: the number comes first, the rest is 0, so that scalars join at aligned offsets.
pub const SCALAR: usize = 64;

/// Launches `y[0] = factor * sum x`, the rest of `y` [64] zero, in an order that depends on nothing but the length.
pub(super) fn sum_into(t: &mut Tape, x: Tensor, factor: f32, y: Tensor) {
    let mut x = x;
    if x.elems() > BLOCK {
        let n = x.elems();
        let partial = t.saved([n.div_ceil(BLOCK)]);
        let groups = partial.elems() as u64;
        t.launch(SUM, groups, &[partial.into(), x.into()], words![n, 1.0f32, false]).flops(n as f64);
        x = partial;
    }
    let n = x.elems();
    t.launch(FINISH, 1, &[y.into(), x.into()], words![n, factor, false]).flops(n as f64);
}

/// Launches `whole` [groups, n] `=` or `+=` the sum of `parts` [groups, splits, n].
pub(super) fn add_parts(t: &mut Tape, [groups, splits, n]: [usize; 3], parts: Arg, whole: Arg, accumulate: bool) {
    let words = words![n, groups, splits, accumulate];
    t.launch(ADD_PARTS, (groups * n).div_ceil(LANES) as u64, &[parts, whole], words);
}

/// A gradient [groups, n] that is a sum: `record` writes, or adds to, what it is given, [groups, splits, n], whose parts
/// are then added up.
pub(super) fn in_parts(
    t: &mut Tape,
    dims @ [_, splits, _]: [usize; 3],
    out: GradOut,
    record: impl FnOnce(&mut Tape, Arg, bool),
) {
    if splits == 1 {
        return record(t, out.tensor.into(), out.accumulate);
    }
    let parts = t.saved(dims);
    record(t, parts.into(), false);
    add_parts(t, dims, parts.into(), out.tensor.into(), out.accumulate);
}

/// `factor * sum x` of any shape, as a scalar.
///
/// # Errors
/// None of its own.
pub fn sum_scaled(t: &mut Tape, x: Tensor, factor: f32) -> Result<Tensor> {
    let y = t.value([SCALAR], &[x]);
    sum_into(t, x, factor, y);
    t.on_backward(move |t| {
        if let (Some(dy), Some(dx)) = (t.grad(y), t.grad_out(x)) {
            let n = x.elems();
            let args = [dx.tensor.into(), dy.into()];
            t.launch(SPREAD, n.div_ceil(LANES) as u64, &args, words![n, factor, dx.accumulate]);
        }
        Ok(())
    });
    Ok(y)
}

/// The mean of every run of `length` tokens (CSMoE's dynamic slots): `x` [B, N, D] -> [B, ceil(N / length), D]. The
/// last segment is the mean of the tokens it has.
///
/// # Errors
/// `x` without three dimensions, `length` 0.
pub fn segment_mean(t: &mut Tape, x: Tensor, length: usize) -> Result<Tensor> {
    let [batch, tokens, width] = x.dims("segment_mean: x")?;
    if length == 0 {
        bail!("segment_mean: segments have at least one token");
    }
    let parts = tokens.div_ceil(length);
    let y = t.value([batch, parts, width], &[x]);
    let blocks = width.div_ceil(ROW_BLOCK);
    let rows = batch * parts;
    let words = move |accumulate: bool| words![rows, tokens, length, parts, width, accumulate].to_vec();
    let lanes = t.target.lanes.min(64);
    t.launch(SEGMENT_MEAN, (rows * blocks) as u64, &[y.into(), x.into()], &words(false))
        .constant("LANES", lanes)
        .flops(x.elems() as f64);
    t.on_backward(move |t| {
        if let (Some(dy), Some(dx)) = (t.grad(y), t.grad_out(x)) {
            let args = [dx.tensor.into(), dy.into()];
            t.launch(SEGMENT_MEAN_BACKWARD, (rows * blocks) as u64, &args, &words(dx.accumulate))
                .constant("LANES", lanes)
                .flops(x.elems() as f64);
        }
        Ok(())
    });
    Ok(y)
}

/// The mean over the middle axis of `x`, seen as [outer, count, inner] -> [outer, inner].
///
/// # Errors
/// When `x` has another number of elements.
pub fn mean_axis(t: &mut Tape, x: Tensor, outer: usize, count: usize, inner: usize) -> Result<Tensor> {
    let x = x.reshape([outer, count, inner])?;
    segment_mean(t, x, count)?.reshape([outer, inner])
}

/// The specification of [`segment_mean`] ([`mean_axis`]: `length = tokens`).
pub fn segment_mean_reference(x: &[f64], tokens: usize, width: usize, length: usize) -> Vec<f64> {
    let mut y = Vec::new();
    for sequence in x.chunks(tokens * width) {
        for segment in sequence.chunks(length * width) {
            let count = segment.len() / width;
            for d in 0..width {
                let total: f64 = (0..count).map(|k| segment[k * width + d]).sum();
                y.push(total / count as f64);
            }
        }
    }
    y
}

/// The specification of [`sum_scaled`]: the scalar's 64 elements.
pub fn reference(x: &[f64], factor: f64) -> Vec<f64> {
    scalar_reference(factor * x.iter().sum::<f64>())
}

/// A scalar's 64 elements.
pub fn scalar_reference(value: f64) -> Vec<f64> {
    let mut y = vec![0.0; SCALAR];
    y[0] = value;
    y
}
