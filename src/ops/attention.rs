//! Attention without the matrix of all its sequences in memory: multi-head attention, and the dispatch and combine of a Soft
//! MoE whose logits are not shared (see `routing`). Three ways lead there:
//!   by products   the matrix of a few sequences at a time, between products             kernels/attention_rows.wgsl
//!   by lanes      narrow heads on software devices: a lane keeps whole rows             kernels/attention_lanes.wgsl
//!   fused         every other shape: no matrix at all                                   kernels/attention.wgsl

mod by_lanes;
mod by_products;

use crate::gpu::{DeviceClass, Kernel};
use crate::tensor::{Arg, GradOut, Launch, Tape, Tensor};
use crate::words;
use anyhow::{Result, bail};

/// Rows of a sequence a workgroup of the fused kernels takes.
const ROWS: usize = 16;
const FORWARD: Kernel = Kernel::new("attention", "forward").rows(ROWS as u32);
const ENTROPY: Kernel = Kernel::new("attention", "entropy").rows(ROWS as u32);
const ROW_DELTA: Kernel = Kernel::new("attention", "row_delta");
const BACKWARD_Q: Kernel = Kernel::new("attention", "backward_q").rows(ROWS as u32);
const BACKWARD_KV: Kernel = Kernel::new("attention", "backward_kv").rows(ROWS as u32);
const SOFTMAX: Kernel = Kernel::new("softmax", "forward");
const SOFTMAX_BACKWARD: Kernel = Kernel::new("softmax", "backward");
/// Elements of the matrix that software devices keep at a time, by core: 1 MiB, which stays in its cache.
const KEPT: usize = 1 << 18;
/// The same of a GPU: 64 MiB; and the most of one sequence.
const KEPT_ON_GPU: usize = 16 << 20;

/// How the rows of all sequences lie in a tensor: sequence `z` starts at `base + z / inner * outer + z % inner *
/// inner_stride`, and its rows are `row` elements apart.
#[derive(Clone, Copy)]
struct Lie {
    outer: usize,
    inner: usize,
    row: usize,
    base: usize,
}

impl Lie {
    /// Sequences one after the other.
    fn plain(rows: usize, d: usize) -> Self {
        Lie { outer: rows * d, inner: 0, row: d, base: 0 }
    }

    fn words(self) -> [u32; 4] {
        [self.outer, self.inner, self.row, self.base].map(|v| v as u32)
    }
}

/// The sizes of an attention: `z` sequences (`inner` of them share an outer stride), `nq` queries, `nk` keys of `d`.
#[derive(Clone, Copy)]
struct Size {
    z: usize,
    inner: usize,
    nq: usize,
    nk: usize,
    d: usize,
    scale: f32,
}

/// A side of an attention: a tensor and how its rows lie.
type Side = (Tensor, Lie);

const ADD_Q: u32 = 1;
const ADD_K: u32 = 2;
const ADD_V: u32 = 4;
const SAME_KV: u32 = 8;
const HAS_ENTROPY: u32 = 16;

/// The kernels that make an attention.
#[derive(Clone, Copy)]
enum Way {
    Products,
    /// With the rows' log-sum-exps.
    Lanes(Tensor),
    /// With the rows' log-sum-exps and the entropies' slopes.
    Fused(Tensor, Tensor),
}

/// Where the gradients of q, k and v go, of those that are asked for.
type Grads = [Option<GradOut>; 3];

/// An attention's recording: its sizes and sides.
#[derive(Clone, Copy)]
struct Attend {
    size: Size,
    q: Side,
    k: Side,
    v: Side,
    o: Side,
    /// The sequences of a launch.
    first: usize,
    end: usize,
}

impl Attend {
    /// FLOPs of one product over the sequences of a launch.
    fn flops(&self) -> f64 {
        let Size { nq, nk, d, .. } = self.size;
        2.0 * ((self.end - self.first) * nq) as f64 * (nk * d) as f64
    }

    /// What kernels over a side's rows, `blocks` workgroups a sequence from `row` on, are told.
    fn words(&self, blocks: usize, row: usize, flags: u32) -> Vec<u32> {
        let Size { inner, nq, nk, d, scale, .. } = self.size;
        let mut words = words![nq, nk, d, self.end, inner, blocks, scale, self.first, flags, row, 0u32, 0u32].to_vec();
        words.extend([self.q.1, self.k.1, self.v.1, self.o.1].iter().flat_map(|l| l.words()));
        words
    }

    /// As many sequences at a time as keep `matrices` of [nq, nk rounded up to 4] small: the rounds, and the elements of
    /// one matrix of all their sequences.
    fn rounds(&self, t: &Tape, matrices: usize) -> (Vec<Attend>, usize) {
        let Size { z, nq, nk, .. } = self.size;
        let each = nq * nk.next_multiple_of(4);
        let kept = match t.target.class {
            DeviceClass::Hardware => KEPT_ON_GPU,
            DeviceClass::Software => KEPT * t.target.cores as usize / matrices,
        };
        let step = (kept.min(t.target.max_binding as usize / 4 / matrices) / each).clamp(1, z);
        let round = |first| Attend { first, end: (first + step).min(z), ..*self };
        ((0..z).step_by(step).map(round).collect(), step * each)
    }

    /// Launches a fused kernel over `n` rows of every sequence.
    fn launch(&self, t: &mut Tape, kernel: Kernel, n: usize, args: &[Tensor], flags: u32, products: f64) {
        let lanes = t.target.lanes.min(64);
        let blocks = n.div_ceil(ROWS);
        let args: Vec<Arg> = args.iter().map(|x| Arg::from(*x)).collect();
        t.launch(kernel, (self.size.z * blocks) as u64, &args, &self.words(blocks, 0, flags))
            .constant("LANES", lanes)
            .flops(products * self.flops());
    }

    fn forward(&self, t: &mut Tape, entropy: Option<Tensor>) -> Way {
        let Size { z, nq, .. } = self.size;
        let [lse, slopes] = [(); 2].map(|()| t.saved([z * nq]));
        self.launch(t, FORWARD, nq, &[self.q.0, self.k.0, self.v.0, self.o.0, lse], 0, 2.0);
        if let Some(entropy) = entropy {
            self.launch(t, ENTROPY, nq, &[self.q.0, self.k.0, lse, entropy, slopes], 0, 1.0);
        }
        Way::Fused(lse, slopes)
    }

    fn backward(&self, t: &mut Tape, dout: Tensor, [lse, slopes]: [Tensor; 2], dentropy: Option<Tensor>, to: Grads) {
        let Size { z, nq, nk, d, inner, .. } = self.size;
        let delta = t.saved([z * nq, 2]);
        let mut w = words![nq, d, z, inner, dentropy.is_some(), 0u32, 0u32, 0u32].to_vec();
        w.extend(self.o.1.words());
        let args = [self.o.0, dout, slopes, dentropy.unwrap_or(lse), delta].map(Arg::from);
        t.launch(ROW_DELTA, (z * nq).div_ceil(64) as u64, &args, &w).flops(2.0 * (z * nq * d) as f64);
        let [dq, dk, dv] = to;
        let flag = |set: bool, flag: u32| if set { flag } else { 0 };
        let flags = flag(dentropy.is_some(), HAS_ENTROPY) | flag(self.one_kv(), SAME_KV);
        let args = |out: &[Tensor]| [&[self.q.0, self.k.0, self.v.0, dout, lse, delta], out].concat();
        if let Some(dq) = dq {
            self.launch(t, BACKWARD_Q, nq, &args(&[dq.tensor]), flags | flag(dq.accumulate, ADD_Q), 3.0);
        }
        if let Some((dk, dv)) = dk.zip(dv) {
            let flags = flags | flag(dk.accumulate, ADD_K) | flag(dv.accumulate, ADD_V);
            self.launch(t, BACKWARD_KV, nk, &args(&[dk.tensor, dv.tensor]), flags, 2.0);
        }
    }

    /// Whether k and v are one tensor, whose gradient is the sum of both.
    fn one_kv(&self) -> bool {
        self.k.0 == self.v.0 && self.q.0 != self.k.0
    }

    /// In multi-head attention q, k and v are parts of one tensor: its gradient is one buffer, whose parts are each written
    /// once.
    fn grads(&self, t: &mut Tape) -> Grads {
        let dq = t.grad_out(self.q.0);
        if self.q.0 == self.k.0 {
            return [dq; 3];
        }
        let dk = t.grad_out(self.k.0);
        [dq, dk, if self.one_kv() { dk } else { t.grad_out(self.v.0) }]
    }
}

/// Records the attention of `q` over `k` and `v` into `o`; with `entropy` [z, nq] also, by row, the sum of
/// `alpha ln(alpha + 1e-8)` over the weights.
fn attend(t: &mut Tape, size: Size, q: Side, k: Side, v: Side, o: Side, entropy: Option<Tensor>) {
    let this = Attend { size, q, k, v, o, first: 0, end: size.z };
    let fours = [q, k, v, o].iter().all(|s| [s.1.outer, s.1.inner, s.1.row, s.1.base].iter().all(|n| n % 4 == 0));
    // Only the fused kernels know the entropy, and the gradient of a k that is v.
    let fused = entropy.is_some() || this.one_kv() || !fours || !for_products(t, size.nq, size.nk, size.d);
    let way = if fused {
        this.forward(t, entropy)
    } else if t.target.class == DeviceClass::Software && this.narrow() {
        this.forward_by_lanes(t)
    } else {
        this.forward_by_products(t)
    };
    t.on_backward(move |t| {
        let dentropy = entropy.and_then(|e| t.grad(e));
        let Some(dout) = t.grad(o.0) else { return Ok(()) };
        let to = this.grads(t);
        match way {
            Way::Products => this.backward_by_products(t, dout, None, to),
            Way::Lanes(lse) => this.backward_by_products(t, dout, Some(lse), to),
            Way::Fused(lse, slopes) => this.backward(t, dout, [lse, slopes], dentropy, to),
        }
        Ok(())
    });
}

/// Multi-head self-attention (Vaswani et al. 2017) between its two linear layers: `qkv` [S, N, 3 D], heads of
/// `D / heads` columns in q, k and v one after the other -> [S, N, D]; scale 1 / sqrt(D / heads).
///
/// # Errors
/// Shapes that do not fit; `heads` that do not divide D.
pub fn multi_head(t: &mut Tape, qkv: Tensor, heads: usize) -> Result<Tensor> {
    let [s, n, wide] = qkv.dims("attention: qkv")?;
    let dim = wide / 3;
    if wide % 3 != 0 || heads == 0 || dim % heads != 0 {
        bail!("attention: {wide} columns are not q, k and v of {heads} heads");
    }
    let d = dim / heads;
    let o = t.value([s, n, dim], &[qkv]);
    let lie = |part: usize| Lie { outer: n * wide, inner: d, row: wide, base: part * dim };
    let size = Size { z: s * heads, inner: heads, nq: n, nk: n, d, scale: 1.0 / (d as f32).sqrt() };
    let out = Lie { outer: n * dim, inner: d, row: dim, base: 0 };
    attend(t, size, (qkv, lie(0)), (qkv, lie(1)), (qkv, lie(2)), (o, out), None);
    Ok(o)
}

/// The unfused twin of an attention of plain sequences, its matrix in memory: `q` [z, nq, d], `k`, `v` [z, nk, d] ->
/// [z, nq, d] and, by row, the sum of `alpha ln(alpha + 1e-8)` [z, nq].
fn unfused(t: &mut Tape, q: Tensor, k: Tensor, v: Tensor, scale: f32) -> Result<(Tensor, Tensor)> {
    let scores = super::linear(t, q, k, None, None)?;
    let [z, nq, nk] = scores.dims("attention: scores")?;
    let alpha = t.value([z, nq, nk], &[scores]);
    let entropy = t.value([z, nq], &[scores]);
    let (rows, groups) = (z * nq, (z * nq).div_ceil(64) as u64);
    let args = [scores.into(), alpha.into(), entropy.into()];
    t.launch(SOFTMAX, groups, &args, words![rows, nk, scale, false, false]);
    t.on_backward(move |t| {
        let dentropy = t.grad(entropy);
        let Some(dalpha) = t.grad(alpha) else { return Ok(()) };
        if let Some(ds) = t.grad_out(scores) {
            let args = [alpha.into(), dalpha.into(), dentropy.unwrap_or(dalpha).into(), ds.tensor.into()];
            t.launch(SOFTMAX_BACKWARD, groups, &args, words![rows, nk, scale, ds.accumulate, dentropy.is_some()]);
        }
        Ok(())
    });
    Ok((super::matmul::mix(t, alpha, v)?, entropy))
}

/// Launches a kernel of which some lanes share a row, or one takes it alone: on a CPU's vector units no sum crosses lanes.
pub(super) fn over_rows<'a>(
    t: &'a mut Tape,
    kernel: Kernel,
    rows: usize,
    args: &[Tensor],
    words: &[u32],
) -> &'a mut Launch {
    let args: Vec<Arg> = args.iter().map(|x| Arg::from(*x)).collect();
    let (lanes, share) = match t.target.class {
        DeviceClass::Hardware => (64, 16),
        DeviceClass::Software => (t.target.lanes, 1),
    };
    t.launch(kernel, rows.div_ceil((lanes / share) as usize) as u64, &args, words)
        .constant("LANES", lanes)
        .constant("SHARE", share)
}

/// Whether an attention of these sizes is for products.
pub(super) fn for_products(t: &Tape, nq: usize, nk: usize, d: usize) -> bool {
    let products = t.target.class == DeviceClass::Hardware || t.target.tiles;
    products && d.is_multiple_of(4) && nq * nk <= KEPT_ON_GPU / 4
}

/// An attention of plain sequences, `q` [z, nq, d] over `k`, `v` [z, nk, d] -> [z, nq, d], and if asked for, by row, the sum
/// of `alpha ln(alpha + 1e-8)` [z, nq]: fused, or its unfused twin where the target says so.
pub(super) fn plain(
    t: &mut Tape,
    [q, k, v]: [Tensor; 3],
    scale: f32,
    with_entropy: bool,
) -> Result<(Tensor, Option<Tensor>)> {
    if !t.target.fuse {
        let (o, entropy) = unfused(t, q, k, v, scale)?;
        return Ok((o, Some(entropy)));
    }
    let [z, nq, d] = q.dims("attention: q")?;
    let [_, nk, _] = k.dims("attention: k")?;
    let o = t.value([z, nq, d], &[q, k, v]);
    let entropy = with_entropy.then(|| t.value([z, nq], &[q, k]));
    let size = Size { z, inner: 1, nq, nk, d, scale };
    let (rows, columns) = (Lie::plain(nq, d), Lie::plain(nk, d));
    attend(t, size, (q, rows), (k, columns), (v, columns), (o, rows), entropy);
    Ok((o, entropy))
}

/// The specification: softmax(scale q k^T) v for `z` plain sequences; gives (o, weights [z, nq, nk]).
pub fn reference(q: &[f64], k: &[f64], v: &[f64], [z, nq, nk, d]: [usize; 4], scale: f64) -> (Vec<f64>, Vec<f64>) {
    let mut o = vec![0.0; z * nq * d];
    let mut weights = Vec::with_capacity(z * nq * nk);
    for s in 0..z {
        for i in 0..nq {
            let row = &q[(s * nq + i) * d..][..d];
            let scores: Vec<f64> = (0..nk)
                .map(|j| scale * row.iter().zip(&k[(s * nk + j) * d..][..d]).map(|(a, b)| a * b).sum::<f64>())
                .collect();
            let top = scores.iter().fold(f64::MIN, |m, x| m.max(*x));
            let total: f64 = scores.iter().map(|x| (x - top).exp()).sum();
            for (j, x) in scores.iter().enumerate() {
                let w = (x - top).exp() / total;
                weights.push(w);
                for c in 0..d {
                    o[(s * nq + i) * d + c] += w * v[(s * nk + j) * d + c];
                }
            }
        }
    }
    (o, weights)
}

/// The specification of [`multi_head`].
pub fn multi_head_reference(qkv: &[f64], [s, n, heads, d]: [usize; 4]) -> Vec<f64> {
    let dim = heads * d;
    let mut o = vec![0.0; s * n * dim];
    for i in 0..s {
        for h in 0..heads {
            let part = |which: usize| -> Vec<f64> {
                (0..n)
                    .flat_map(|r| {
                        let at = (i * n + r) * 3 * dim + which * dim + h * d;
                        qkv[at..at + d].to_vec()
                    })
                    .collect()
            };
            let (out, _) = reference(&part(0), &part(1), &part(2), [1, n, n, d], 1.0 / (d as f64).sqrt());
            for r in 0..n {
                o[(i * n + r) * dim + h * d..][..d].copy_from_slice(&out[r * d..][..d]);
            }
        }
    }
    o
}
