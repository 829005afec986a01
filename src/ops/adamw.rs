//! AdamW over all parameters, clipped by the global gradient norm                     kernels/adamw.wgsl

use super::reduce::SCALAR;
use crate::gpu::Kernel;
use crate::tensor::{Arg, External, Kind, Params, Tape, Tensor};
use crate::words;
use anyhow::{Result, bail};

const SQUARES: Kernel = Kernel::new("adamw", "squares");
const DECIDE: Kernel = Kernel::new("adamw", "decide");
const UPDATE: Kernel = Kernel::new("adamw", "update");
/// Gradients a workgroup squares; windows are whole multiples, so that the order of a sum does not depend on their size.
const BLOCK: usize = 4096;
/// Parameters a workgroup updates.
const UPDATED: usize = 256;
/// Parameters that share one bit of the decay mask: stacks start at multiples of it.
const DECAY_BLOCK: usize = 64;

/// Elements of the `hyper` input.
pub const HYPER: usize = 16;

/// The numbers of one step, as the host sets them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hyper {
    pub lr: f64,
    pub betas: [f64; 2],
    pub eps: f64,
    pub weight_decay: f64,
    /// Largest global gradient norm; none: gradients as they are.
    pub clip: Option<f64>,
    /// Gradients are multiplied by this first: 1 / (micro-batches added up * loss scale).
    pub grad_scale: f64,
    /// Number of this update, from 1. A skipped one does not count.
    pub step: u64,
}

impl Default for Hyper {
    /// CSMoE's settings, first step.
    fn default() -> Self {
        Hyper { lr: 1e-4, betas: [0.9, 0.95], eps: 1e-8, weight_decay: 0.05, clip: None, grad_scale: 1.0, step: 1 }
    }
}

impl Hyper {
    /// What to write to the `hyper` input; everything that cancels is computed in f64.
    pub fn values(&self) -> [f32; HYPER] {
        let [b1, b2] = self.betas;
        let step = self.step.max(1) as f64;
        let mut out = [0.0; HYPER];
        let values = [
            self.lr,
            b1,
            1.0 - b1,
            b2,
            1.0 - b2,
            self.eps,
            self.weight_decay,
            1.0 / (1.0 - b1.powf(step)),
            1.0 / (1.0 - b2.powf(step)).sqrt(),
            self.clip.unwrap_or(0.0),
            self.grad_scale,
        ];
        out.iter_mut().zip(values).for_each(|(o, v)| *o = v as f32);
        out
    }
}

/// What is fixed when the program is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Weight decay on everything; `false`: only on parameters of two or more dimensions (not on norms and biases).
    pub decay_all: bool,
    /// Leave the gradients zero, skipped step or not: for programs that add to them.
    pub zero_gradients: bool,
}

/// Updates every parameter of the tape from its gradient: `hyper` [16] ([`Hyper::values`]), `losses` any values whose
/// finiteness decides too -> stats [64]: the norm of the gradients before clipping, 1 if the step was skipped (a gradient,
/// the norm or a loss is not finite; weights and moments then keep every bit), the factor the gradients were given.
///
/// # Errors
/// `hyper` of another shape; a tape without parameters.
pub fn update(t: &mut Tape, hyper: Tensor, losses: Option<Tensor>, options: Options) -> Result<Tensor> {
    hyper.expect("adamw: hyper", [HYPER])?;
    let chunks = t.params().chunks().to_vec();
    if chunks.is_empty() {
        bail!("adamw: there are no parameters");
    }
    let largest = (t.target.max_binding as usize / 4 / BLOCK * BLOCK).max(BLOCK);
    let mut windows = Vec::new();
    for (chunk, &elems) in chunks.iter().enumerate() {
        for offset in (0..elems).step_by(largest) {
            windows.push((chunk, offset, largest.min(elems - offset)));
        }
    }
    let decays: Vec<Tensor> =
        decay_masks(t.params(), options.decay_all).iter().map(|bits| t.constant([bits.len()], bits)).collect();
    let external =
        |t: &mut Tape, kind, (chunk, offset, len)| t.external(External::Chunk { kind, chunk, offset, len }, [len]);

    let lanes = t.target.lanes.min(64);
    let blocks = windows.iter().map(|w| w.2.div_ceil(BLOCK)).sum();
    let partial = t.saved([blocks]);
    let mut first = 0;
    for &window in &windows {
        let gradient = external(t, Kind::Gradient, window);
        let groups = window.2.div_ceil(BLOCK);
        let words = words![window.2 / 4, first, f32::INFINITY];
        t.launch(SQUARES, groups as u64, &[partial.into(), gradient.into()], words)
            .constant("LANES", lanes)
            .flops(2.0 * window.2 as f64);
        first += groups;
    }
    let losses = losses.unwrap_or_else(|| t.constant([1], &[0f32]));
    let stats = t.saved([SCALAR]);
    let args = [stats.into(), partial.into(), hyper.into(), losses.into()];
    t.launch(DECIDE, 1, &args, words![blocks, 0u32, 0u32, losses.elems()]);
    for &window in &windows {
        let (chunk, offset, len) = window;
        let mut args: Vec<Arg> = Vec::new();
        for kind in [Kind::Weight, Kind::Gradient, Kind::FirstMoment, Kind::SecondMoment] {
            args.push(external(t, kind, window).into());
        }
        args.extend([hyper, stats, decays[chunk]].map(Arg::from));
        let words = words![len / 4, 0u32, 0u32, 0u32, options.zero_gradients, offset / DECAY_BLOCK, 0u32];
        let launch = t.launch(UPDATE, len.div_ceil(UPDATED) as u64, &args, words).constant("LANES", lanes);
        launch.flops(16.0 * len as f64);
        launch.work.bytes = 4.0 * len as f64 * if options.zero_gradients { 8.0 } else { 7.0 };
    }
    Ok(stats)
}

/// For every chunk a bit for each 64 parameters: whether they decay.
fn decay_masks(params: &Params, all: bool) -> Vec<Vec<u32>> {
    let mut masks: Vec<Vec<u32>> = params.chunks().iter().map(|n| vec![0; n.div_ceil(DECAY_BLOCK * 32)]).collect();
    for (_, shape, chunk, offset) in params.pieces() {
        if all || shape.len() >= 2 {
            let end = offset + shape.iter().product::<usize>();
            for block in offset / DECAY_BLOCK..end.div_ceil(DECAY_BLOCK) {
                masks[chunk][block / 32] |= 1 << (block % 32);
            }
        }
    }
    masks
}

/// The specification of one step on one parameter tensor: `w`, `m`, `v` are updated from `g`; `norm` is the global
/// norm of `grad_scale * gradient`. Nothing happens when a number is not finite.
pub fn reference(w: &mut [f64], g: &[f64], m: &mut [f64], v: &mut [f64], norm: f64, hyper: &Hyper, decays: bool) {
    if !norm.is_finite() {
        return;
    }
    let clip = hyper.clip.map_or(1.0, |c| (c / norm).min(1.0));
    let [b1, b2] = hyper.betas;
    let step = hyper.step as f64;
    for i in 0..w.len() {
        let g = hyper.grad_scale * clip * g[i];
        m[i] = b1 * m[i] + (1.0 - b1) * g;
        v[i] = b2 * v[i] + (1.0 - b2) * g * g;
        let (mean, square) = (m[i] / (1.0 - b1.powf(step)), v[i] / (1.0 - b2.powf(step)));
        let decay = if decays { hyper.lr * hyper.weight_decay * w[i] } else { 0.0 };
        w[i] -= decay + hyper.lr * mean / (square.sqrt() + hyper.eps);
    }
}
