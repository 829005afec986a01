//! Pixels to patch rows, patch rows to token sequences, visible tokens back to full sequences, rows picked of those.
//!                                                                                      kernels/tokens.wgsl

use super::reduce;
use crate::gpu::Kernel;
use crate::tensor::{Arg, Launch, Tape, Tensor};
use crate::words;
use anyhow::{Result, bail};

const PATCHES: Kernel = Kernel::new("tokens", "patches");
const ASSEMBLE: Kernel = Kernel::new("tokens", "assemble");
const ASSEMBLE_BACKWARD: Kernel = Kernel::new("tokens", "assemble_backward");
const ASSEMBLE_BACKWARD_CLS: Kernel = Kernel::new("tokens", "assemble_backward_cls");
const SCATTER: Kernel = Kernel::new("tokens", "scatter");
const SCATTER_BACKWARD: Kernel = Kernel::new("tokens", "scatter_backward");
const SCATTER_BACKWARD_MASK: Kernel = Kernel::new("tokens", "scatter_backward_mask");
const GATHER_ROWS: Kernel = Kernel::new("tokens", "gather_rows");
const GATHER_ROWS_BACKWARD: Kernel = Kernel::new("tokens", "gather_rows_backward");
const SPREAD_SLOTS: Kernel = Kernel::new("tokens", "spread_slots");
const SPREAD_SLOTS_BACKWARD: Kernel = Kernel::new("tokens", "spread_slots_backward");

/// In a restore table, a patch the encoder did not see.
pub const HIDDEN: u32 = u32::MAX;

/// Lanes of a workgroup: one vector of a software device.
fn lanes(t: &Tape) -> u32 {
    t.target.lanes.min(64)
}

/// One dispatch, a workgroup a row.
fn by_row<'t>(t: &'t mut Tape, kernel: Kernel, rows: usize, args: &[Arg], words: &[u32]) -> &'t mut Launch {
    let lanes = lanes(t);
    t.launch(kernel, rows as u64, args, words).constant("LANES", lanes)
}

/// One dispatch, a lane a value.
fn by_value(t: &mut Tape, kernel: Kernel, values: usize, args: &[Arg], words: &[u32]) {
    let lanes = lanes(t);
    t.launch(kernel, values.div_ceil(lanes as usize) as u64, args, words).constant("LANES", lanes);
}

/// Cuts kept patches out of images: `image` [B, C, S, S], `keep` [B, K] (patch numbers, row-major) ->
/// [B, K, C patch^2], a row lying as a convolution's weight does. No gradient.
///
/// # Errors
/// Shapes that do not fit; a side that is not a multiple of `patch`.
pub fn patches(t: &mut Tape, image: Tensor, keep: Tensor, patch: usize) -> Result<Tensor> {
    let [b, c, s, _] = image.dims("patches: image")?;
    let [_, k] = keep.dims("patches: keep")?;
    image.expect("patches: image", [b, c, s, s])?;
    keep.expect("patches: keep", [b, k])?;
    if patch == 0 || s % patch != 0 {
        bail!("an image of {s} pixels cannot be cut into patches of {patch}");
    }
    let rows = t.saved([b, k, c * patch * patch]);
    let args = [image.into(), keep.into(), rows.into()];
    by_row(t, PATCHES, b * k, &args, words![b * k, k, s, patch, 0u32]).constant("CHANNELS", c as u32);
    Ok(rows)
}

/// The encoder's input: `embedded` [B, K, D], `cls` of D values, `position` [1+P, D], `keep` [B, K] ->
/// [B, 1+K, D]: the CLS token, then every kept patch, each with its position.
///
/// # Errors
/// Shapes that do not fit.
pub fn assemble(t: &mut Tape, embedded: Tensor, cls: Tensor, position: Tensor, keep: Tensor) -> Result<Tensor> {
    let [b, k, d] = embedded.dims("assemble: embedded")?;
    let [n, _] = position.dims("assemble: position")?;
    position.expect("assemble: position", [n, d])?;
    keep.expect("assemble: keep", [b, k])?;
    let cls = cls.reshape([d])?;
    let y = t.value([b, k + 1, d], &[embedded, cls]);
    let words = move |total: usize, accumulate: bool| words![total, d, b, k, n - 1, accumulate, 1usize, b].to_vec();
    let args = [embedded.into(), cls.into(), position.into(), keep.into(), y.into()];
    by_row(t, ASSEMBLE, b * (k + 1), &args, &words(b * (k + 1), false));
    t.on_backward(move |t| {
        let Some(dy) = t.grad(y) else { return Ok(()) };
        if let Some(out) = t.grad_out(embedded) {
            let args = [dy.into(), out.tensor.into()];
            by_row(t, ASSEMBLE_BACKWARD, b * k, &args, &words(b * k, out.accumulate));
        }
        if let Some(out) = t.grad_out(cls) {
            let args = [dy.into(), out.tensor.into()];
            by_value(t, ASSEMBLE_BACKWARD_CLS, d, &args, &words(d, out.accumulate));
        }
        Ok(())
    });
    Ok(y)
}

/// The decoder's input: `visible` [T, R, 1+K, D], `mask_token` of T x D values, `position` [1+P, D], `keep` [R, K],
/// `restore` [R, P] (index among the kept patches, or [`HIDDEN`]) -> [T, R, 1+P, D].
///
/// # Errors
/// Shapes that do not fit.
pub fn scatter(
    t: &mut Tape,
    visible: Tensor,
    mask_token: Tensor,
    position: Tensor,
    keep: Tensor,
    restore: Tensor,
) -> Result<Tensor> {
    let [targets, r, n, d] = visible.dims("scatter: visible")?;
    let [_, p] = restore.dims("scatter: restore")?;
    let k = n - 1;
    restore.expect("scatter: restore", [r, p])?;
    keep.expect("scatter: keep", [r, k])?;
    position.expect("scatter: position", [p + 1, d])?;
    let mask_token = mask_token.reshape([targets, d])?;
    let y = t.value([targets, r, p + 1, d], &[visible, mask_token]);
    let words = move |total: usize, accumulate: bool| words![total, d, r, k, p, accumulate, targets, r].to_vec();
    let args = [visible.into(), mask_token.into(), position.into(), restore.into(), y.into()];
    let rows = targets * r * (p + 1);
    let steps = (d as u32).div_ceil(lanes(t));
    by_row(t, SCATTER, rows.div_ceil(4), &args, &words(rows, false)).constant("STEPS", steps);
    t.on_backward(move |t| {
        let Some(dy) = t.grad(y) else { return Ok(()) };
        if let Some(out) = t.grad_out(visible) {
            let args = [dy.into(), keep.into(), out.tensor.into()];
            let rows = targets * r * n;
            by_row(t, SCATTER_BACKWARD, rows, &args, &words(rows, out.accumulate));
        }
        if let Some(out) = t.grad_out(mask_token) {
            let (shares, each) = t.target.shares(targets * d.div_ceil(64), r, 1);
            reduce::in_parts(t, [targets, shares, d], out, |t, to, accumulate| {
                let total = targets * shares * d;
                let words = words![total, d, each, k, p, accumulate, targets, r].to_vec();
                by_value(t, SCATTER_BACKWARD_MASK, total, &[dy.into(), restore.into(), to], &words);
            });
        }
        Ok(())
    });
    Ok(y)
}

/// Picks tokens: `x` [Z, N, D], `index` [R, M] below N and each at most once in its row -> [Z, M, D]. Sequence z takes
/// row `z % R` of the index.
///
/// # Errors
/// Shapes that do not fit.
pub fn gather_rows(t: &mut Tape, x: Tensor, index: Tensor) -> Result<Tensor> {
    let [z, n, d] = x.dims("gather_rows: x")?;
    let [r, m] = index.dims("gather_rows: index")?;
    if z % r != 0 {
        bail!("gather_rows: {z} sequences cannot take turns at {r} rows of the index");
    }
    let y = t.value([z, m, d], &[x]);
    let words = words![z * m, d, n, m, r];
    by_row(t, GATHER_ROWS, z * m, &[index.into(), x.into(), y.into()], words);
    t.on_backward(move |t| {
        if let (Some(dy), Some(out)) = (t.grad(y), t.grad_out(x)) {
            if !out.accumulate {
                super::fill(t, out.tensor, 0.0);
            }
            let args = [index.into(), dy.into(), out.tensor.into()];
            by_row(t, GATHER_ROWS_BACKWARD, z * m, &args, words![z * m, d, n, m, r]);
        }
        Ok(())
    });
    Ok(y)
}

/// The first token, CLS, of every sequence: `x` [Z, N, D] -> [Z, D].
///
/// # Errors
/// `x` without three dimensions.
pub fn cls_rows(t: &mut Tape, x: Tensor) -> Result<Tensor> {
    let [z, _, d] = x.dims("cls_rows: x")?;
    let first = t.constant([1, 1], &[0u32]);
    gather_rows(t, x, first)?.reshape([z, d])
}

/// The specification of [`gather_rows`].
pub fn gather_rows_reference(x: &[f64], index: &[u32], [z, n, m, d]: [usize; 4]) -> Vec<f64> {
    let picks = index.chunks(m).cycle().take(z).enumerate();
    picks.flat_map(|(i, row)| row.iter().flat_map(move |k| x[(i * n + *k as usize) * d..][..d].to_vec())).collect()
}

/// A table of slots for every sequence of a batch: `table` [G, E, p, D] -> [G, B, p, E, D].
///
/// # Errors
/// A table without four dimensions.
pub fn spread_slots(t: &mut Tape, table: Tensor, batch: usize) -> Result<Tensor> {
    let [g, e, p, d] = table.dims("spread_slots: table")?;
    let y = t.value([g, batch, p, e, d], &[table]);
    let words = move |total: usize, accumulate: bool| words![total, d, e, p, batch, accumulate].to_vec();
    let rows = g * batch * p * e;
    by_row(t, SPREAD_SLOTS, rows, &[table.into(), y.into()], &words(rows, false));
    t.on_backward(move |t| {
        if let (Some(dy), Some(out)) = (t.grad(y), t.grad_out(table)) {
            let args = [dy.into(), out.tensor.into()];
            let words = words(table.elems(), out.accumulate);
            by_value(t, SPREAD_SLOTS_BACKWARD, table.elems(), &args, &words);
        }
        Ok(())
    });
    Ok(y)
}

/// The specification of [`spread_slots`].
pub fn spread_slots_reference(table: &[f64], [g, e, p, d]: [usize; 4], batch: usize) -> Vec<f64> {
    let mut y = Vec::with_capacity(table.len() * batch);
    for group in 0..g {
        for _ in 0..batch {
            for j in 0..p {
                for expert in 0..e {
                    y.extend_from_slice(&table[((group * e + expert) * p + j) * d..][..d]);
                }
            }
        }
    }
    y
}

/// The specification of [`patches`].
pub fn patches_reference(image: &[f64], keep: &[u32], [b, c, s]: [usize; 3], patch: usize) -> Vec<f64> {
    let k = keep.len() / b;
    let across = s / patch;
    let mut rows = Vec::with_capacity(keep.len() * c * patch * patch);
    for (i, which) in keep.iter().enumerate() {
        let (top, left) = (*which as usize / across * patch, *which as usize % across * patch);
        for channel in 0..c {
            for y in 0..patch {
                for x in 0..patch {
                    rows.push(image[((i / k * c + channel) * s + top + y) * s + left + x]);
                }
            }
        }
    }
    rows
}

/// The specification of [`assemble`].
pub fn assemble_reference(embedded: &[f64], cls: &[f64], position: &[f64], keep: &[u32], b: usize) -> Vec<f64> {
    let (d, k) = (cls.len(), keep.len() / b);
    let mut y = Vec::with_capacity(b * (k + 1) * d);
    for i in 0..b {
        y.extend((0..d).map(|c| cls[c] + position[c]));
        for j in 0..k {
            let at = i * k + j;
            y.extend((0..d).map(|c| embedded[at * d + c] + position[(keep[at] as usize + 1) * d + c]));
        }
    }
    y
}

/// The specification of [`scatter`].
pub fn scatter_reference(
    visible: &[f64],
    mask_token: &[f64],
    position: &[f64],
    restore: &[u32],
    [targets, r, k, p, d]: [usize; 5],
) -> Vec<f64> {
    let mut y = Vec::with_capacity(targets * r * (p + 1) * d);
    for target in 0..targets {
        for row in 0..r {
            let start = (target * r + row) * (k + 1);
            y.extend((0..d).map(|c| visible[start * d + c] + position[c]));
            for token in 0..p {
                let from = restore[row * p + token];
                y.extend((0..d).map(|c| {
                    let value = match from {
                        HIDDEN => mask_token[target * d + c],
                        _ => visible[(start + 1 + from as usize) * d + c],
                    };
                    value + position[(token + 1) * d + c]
                }));
            }
        }
    }
    y
}
