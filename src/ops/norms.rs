//! Layer normalisation and RMS normalisation over the last axis.
//!                                                          kernels/layer_norm.wgsl, kernels/rms_norm.wgsl

use super::reduce;
use crate::gpu::{DeviceClass, Kernel};
use crate::tensor::{Arg, Tape, Tensor};
use crate::words;
use anyhow::{Result, bail};

const LAYER_FORWARD: [Kernel; 2] =
    [Kernel::new("layer_norm", "forward").trusted(), Kernel::new("layer_norm", "forward_lanes")];
const LAYER_BACKWARD_X: [Kernel; 2] =
    [Kernel::new("layer_norm", "backward_x").trusted(), Kernel::new("layer_norm", "backward_x_lanes")];
const LAYER_BACKWARD_WB: Kernel = Kernel::new("layer_norm", "backward_wb");
const RMS_FORWARD: [Kernel; 2] =
    [Kernel::new("rms_norm", "forward").trusted(), Kernel::new("rms_norm", "forward_lanes")];
const RMS_BACKWARD_X: [Kernel; 2] =
    [Kernel::new("rms_norm", "backward_x").trusted(), Kernel::new("rms_norm", "backward_x_lanes")];
const RMS_BACKWARD_GAMMA: Kernel = Kernel::new("rms_norm", "backward_gamma");
const RMS_BACKWARD_SCALE: Kernel = Kernel::new("rms_norm", "backward_scale");

/// Widest rows of which a lane takes one by itself.
const WIDEST_BY_LANE: usize = 256;

/// Lanes a row's workgroup has: one SIMD vector of a software device, two subgroups of others.
fn lanes(t: &Tape) -> u32 {
    t.target.lanes.min(64)
}

/// How the sums over rows that are the weights' gradients are shared out.
struct Columns {
    /// Of a lane: on a software device a row's statistics, the same for all lanes, cost as much as a column.
    owned: u32,
    /// Workgroups in all.
    groups: u64,
    /// Parts of a column's sum, and the rows of each.
    splits: usize,
    share: usize,
}

impl Columns {
    fn of(t: &Tape, [g, rows, d]: [usize; 3], lanes: u32) -> Self {
        let owned = if t.target.class == DeviceClass::Software { 3 } else { 1 };
        let groups = g * d.div_ceil((owned * lanes) as usize);
        let (splits, share) = t.target.shares(groups, rows, 16);
        Columns { owned, groups: (groups * splits) as u64, splits, share }
    }
}

/// How the rows of `g` groups are shared out.
#[derive(Clone, Copy)]
struct Rows {
    /// A lane a row.
    by_lane: bool,
    /// Rows a workgroup takes, and workgroups a group.
    per: usize,
    blocks: usize,
    groups: usize,
    /// Values of a row that a lane owns.
    values: u32,
    lanes: u32,
}

impl Rows {
    fn of(t: &Tape, [g, rows, d]: [usize; 3]) -> Self {
        let lanes = lanes(t);
        let by_lane = t.target.class == DeviceClass::Software && d % 4 == 0 && d <= WIDEST_BY_LANE;
        let per = match t.target.class {
            _ if by_lane => lanes as usize,
            DeviceClass::Software => 8,
            DeviceClass::Hardware => 1,
        };
        let values = d.div_ceil(lanes as usize) as u32;
        Rows { by_lane, per, blocks: rows.div_ceil(per), groups: g, values, lanes }
    }

    /// One dispatch over all rows.
    fn launch(&self, t: &mut Tape, kernels: [Kernel; 2], args: &[Arg], words: &[u32], accumulate: bool) {
        let groups = (self.groups * self.blocks) as u64;
        if self.by_lane {
            let launch = t.launch(kernels[1], groups, args, words).constant("LANES", self.lanes);
            launch.constant("ACCUMULATE", u32::from(accumulate));
        } else {
            t.launch(kernels[0].rows(self.values), groups, args, words).constant("LANES", self.lanes);
        }
    }
}

/// Layer normalisation (Ba et al. 2016) of `g` groups: `x` [g, rows, d], `w`, `b` [g, d] -> [g, rows, d].
///
/// # Errors
/// Shapes that do not fit.
pub fn layer_norm(t: &mut Tape, x: Tensor, w: Tensor, b: Tensor, eps: f32) -> Result<Tensor> {
    let [g, rows, d] = x.dims("layer_norm: x")?;
    w.expect("layer_norm: w", [g, d])?;
    b.expect("layer_norm: b", [g, d])?;
    let y = t.value([g, rows, d], &[x, w, b]);
    let stats = t.saved([g * rows, 2]);
    let share = Rows::of(t, [g, rows, d]);
    let Rows { per, blocks, lanes, .. } = share;
    let args = [x.into(), w.into(), b.into(), y.into(), stats.into()];
    share.launch(t, LAYER_FORWARD, &args, words![rows, d, g, eps, false, per, blocks, 0u32], false);
    t.on_backward(move |t| {
        let Some(dy) = t.grad(y) else { return Ok(()) };
        if let (Some(dw), Some(db)) = (t.grad_out(w), t.grad_out(b)) {
            let Columns { owned, groups, splits, share } = Columns::of(t, [g, rows, d], lanes);
            let dims = [g, splits, d];
            reduce::in_parts(t, dims, dw, |t, dw, accumulate| {
                reduce::in_parts(t, dims, db, |t, db, _| {
                    let args = [x.into(), stats.into(), dy.into(), dw, db];
                    let words = words![rows, d, g, eps, accumulate, share, splits, 0u32];
                    t.launch(LAYER_BACKWARD_WB.rows(owned), groups, &args, words).constant("LANES", lanes);
                });
            });
        }
        if let Some(dx) = t.grad_out(x) {
            let args = [x.into(), w.into(), stats.into(), dy.into(), dx.tensor.into()];
            let words = words![rows, d, g, eps, dx.accumulate, per, blocks, 0u32];
            share.launch(t, LAYER_BACKWARD_X, &args, words, dx.accumulate);
        }
        Ok(())
    });
    Ok(y)
}

/// `factor * x / max(|x|, 1e-12) * gamma` over the last axis: `x` [g, rows, d], `gamma` [g, d], or [g, 1] for one
/// number a group, or none -> [g, rows, d]. RMSNorm (Zhang and Sennrich 2019) with `factor` sqrt(d), unit vectors
/// with 1.
///
/// # Errors
/// Shapes that do not fit.
pub fn rms_norm(t: &mut Tape, x: Tensor, gamma: Option<Tensor>, factor: f32) -> Result<Tensor> {
    let [g, rows, d] = x.dims("rms_norm: x")?;
    let mut from = vec![x];
    let mut stride = 0u32;
    if let Some(gamma) = gamma {
        stride = match gamma.dims("rms_norm: gamma")? {
            [n, 1] if n == g && d != 1 => 0,
            [n, width] if n == g && width == d => 1,
            other => bail!("rms_norm: gamma has shape {other:?} and should have [{g}, {d}] or [{g}, 1]"),
        };
        from.push(gamma);
    }
    let y = t.value([g, rows, d], &from);
    let norms = t.saved([g * rows]);
    let share = Rows::of(t, [g, rows, d]);
    let Rows { per, blocks, lanes, .. } = share;
    let gamma_arg = gamma.unwrap_or(x).into();
    let pack = move |accumulate: bool, per: usize, blocks: usize| {
        words![rows, d, g, factor, gamma.is_some(), stride, accumulate, per, blocks, 0u32].to_vec()
    };
    let args = [x.into(), gamma_arg, y.into(), norms.into()];
    share.launch(t, RMS_FORWARD, &args, &pack(false, per, blocks), false);
    t.on_backward(move |t| {
        let Some(dy) = t.grad(y) else { return Ok(()) };
        if let Some(gamma) = gamma
            && let Some(dgamma) = t.grad_out(gamma)
        {
            let of_scale = Columns { owned: 0, groups: g as u64, splits: 1, share: rows };
            let columns = if stride == 0 { of_scale } else { Columns::of(t, [g, rows, d], lanes) };
            let Columns { owned, groups, splits, share } = columns;
            let kernel = if stride == 0 { RMS_BACKWARD_SCALE } else { RMS_BACKWARD_GAMMA.rows(owned) };
            reduce::in_parts(t, [g, splits, dgamma.tensor.elems() / g], dgamma, |t, to, accumulate| {
                let args = [x.into(), norms.into(), dy.into(), to];
                t.launch(kernel, groups, &args, &pack(accumulate, share, splits)).constant("LANES", lanes);
            });
        }
        if let Some(dx) = t.grad_out(x) {
            let args = [x.into(), gamma_arg, norms.into(), dy.into(), dx.tensor.into()];
            share.launch(t, RMS_BACKWARD_X, &args, &pack(dx.accumulate, per, blocks), dx.accumulate);
        }
        Ok(())
    });
    Ok(y)
}

/// The specification of [`layer_norm`].
pub fn layer_norm_reference(x: &[f64], w: &[f64], b: &[f64], [g, rows, d]: [usize; 3], eps: f64) -> Vec<f64> {
    let mut y = Vec::with_capacity(x.len());
    for (r, row) in x.chunks(d).enumerate().take(g * rows) {
        let group = r / rows;
        let mean = row.iter().sum::<f64>() / d as f64;
        let var = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / d as f64;
        y.extend(
            row.iter().enumerate().map(|(i, v)| (v - mean) / (var + eps).sqrt() * w[group * d + i] + b[group * d + i]),
        );
    }
    y
}

/// The specification of [`rms_norm`]; `gamma` holds `g * d`, `g` or no values.
pub fn rms_norm_reference(x: &[f64], gamma: &[f64], [g, rows, d]: [usize; 3], factor: f64) -> Vec<f64> {
    let mut y = Vec::with_capacity(x.len());
    for (r, row) in x.chunks(d).enumerate().take(g * rows) {
        let group = r / rows;
        let norm = row.iter().map(|v| v * v).sum::<f64>().sqrt().max(1e-12);
        let weight = |i: usize| match gamma.len() {
            0 => 1.0,
            n if n == g && d != 1 => gamma[group],
            _ => gamma[group * d + i],
        };
        y.extend(row.iter().enumerate().map(|(i, v)| factor * v / norm * weight(i)));
    }
    y
}
