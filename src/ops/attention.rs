//! Attention without its matrix in memory: multi-head attention, and the dispatch and combine of Soft MoE.
//!                                                                                   kernels/attention.wgsl
//!                                                                                   kernels/attention_tiles.wgsl
//!                                                                                   kernels/attention_lanes.wgsl

mod by_products;

use crate::gpu::{DeviceClass, Kernel};
use crate::tensor::{Arg, GradOut, Tape, Tensor};
use crate::words;
use anyhow::{Result, bail};

/// Rows of a sequence a workgroup of the generic kernels takes.
const ROWS: usize = 16;
const ENTROPY: &str = "entropy";
const SOFTMAX: Kernel = Kernel::new("softmax", "forward");
const SOFTMAX_BACKWARD: Kernel = Kernel::new("softmax", "backward");
const ROW_DELTA: Kernel = Kernel::new("attention", "row_delta");
const FORWARD: &str = "forward";
const BACKWARD_Q: &str = "backward_q";
const BACKWARD_KV: &str = "backward_kv";
/// Fewest rows of a workgroup of the tiled kernels for which it may have to see all keys at once.
const FEW_ROWS: usize = 16;
/// Quads of keys that the tiled kernels' workgroup memory holds, over all rows.
const QUADS: usize = 2048;
/// Widest head of which a lane can keep some rows whole.
const LANE_WIDTH: usize = 64;
/// Elements that the backward on software devices keeps of its weights at a time, by core: 1 MiB, which stays in its cache.
const KEPT: usize = 1 << 18;
/// Most that a single sequence may keep: 64 MiB.
const KEPT_BY_ONE: usize = 16 << 20;

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

/// The kernels that share one algorithm.
#[derive(Clone, Copy, PartialEq)]
enum Family {
    /// For every device and shape.
    Generic,
    /// For software devices: rows that share what their lanes load.
    Tiles,
    /// For software devices: rows that a lane keeps whole.
    Lanes,
}

impl Family {
    fn kernel(self, entry: &'static str) -> Kernel {
        match self {
            Family::Generic => Kernel::new("attention", entry),
            Family::Tiles => Kernel::new("attention_tiles", entry).trusted(),
            Family::Lanes => Kernel::new("attention_lanes", entry),
        }
    }
}

/// An attention's recording: its sizes, sides and the kernels chosen for it.
#[derive(Clone, Copy)]
struct Attend {
    size: Size,
    q: Side,
    k: Side,
    v: Side,
    o: Side,
    family: Family,
    /// The sequences of a launch.
    first: usize,
    end: usize,
}

impl Attend {
    /// Of a tiled kernel: rows a workgroup takes, workgroups a sequence, and whether one sees all of the other side at once.
    fn tiles(&self, t: &Tape, entry: &'static str, entropy: bool) -> (usize, usize, bool) {
        let Size { nq, nk, .. } = self.size;
        let (n, seen) = if entry == BACKWARD_KV { (nk, nq) } else { (nq, nk) };
        // Rows in equal blocks: a last block of a few rows would cost as much as a full one. A single block's are rounded,
        // so that fewer kernels are compiled.
        let most =
            if entry == FORWARD && entropy { rows_that_see(nk) } else { usize::MAX }.min(t.target.attention_rows);
        let blocks = n.div_ceil(most);
        let rows = if blocks == 1 { n.next_multiple_of(4).min(most) } else { n.div_ceil(blocks) };
        let quads = if entry == FORWARD { QUADS / rows - 1 } else { QUADS / rows / 2 };
        (rows, blocks, seen <= 4 * quads)
    }

    /// Records the work over the rows of one side, `flops` of it.
    fn launch(&self, t: &mut Tape, entry: &'static str, args: &[Arg], flags: u32, flops: f64) {
        let lanes = t.target.lanes.min(64);
        let Size { inner, nq, nk, d, scale, .. } = self.size;
        let n = if entry == BACKWARD_KV { nk } else { nq };
        let kernel = self.family.kernel(entry);
        // Parts of the rows: the first, workgroups a sequence, the kernel, its share.
        let mut parts = Vec::new();
        let mut one_chunk = false;
        match self.family {
            Family::Generic => parts.push((0, n.div_ceil(ROWS), kernel.rows(ROWS as u32), 1.0)),
            Family::Lanes => {
                let kernel = kernel.rows(d as u32 / 4);
                // A last workgroup of few rows has fewer a lane.
                let most = 4 * lanes as usize;
                let columns = (n % most).div_ceil(lanes as usize).max(2);
                let rest = if columns < 4 { n % most } else { 0 };
                let whole = (n - rest).div_ceil(most);
                let share = rest as f64 / n as f64;
                if whole > 0 {
                    parts.push((0, whole, kernel, 1.0 - share));
                }
                if rest > 0 {
                    parts.push((whole * most, 1, kernel.columns(columns as u32), share));
                }
            }
            Family::Tiles => {
                let (rows, blocks, all) = self.tiles(t, entry, flags & HAS_ENTROPY != 0);
                one_chunk = all;
                // As many columns a lane as leave the fewest lanes idle.
                let work = |columns: &u32| d.div_ceil((columns * lanes) as usize) as u32 * columns;
                let columns = [4, 3, 2].into_iter().filter(|c| d % *c as usize == 0).min_by_key(work).unwrap_or(4);
                parts.push((0, blocks, kernel.rows(rows as u32).columns(columns), 1.0));
            }
        }
        for (from, blocks, kernel, share) in parts {
            let mut words =
                words![nq, nk, d, self.end, inner, blocks, scale, self.first, flags, 0u32, from, 0u32].to_vec();
            words.extend([self.q.1, self.k.1, self.v.1, self.o.1].iter().flat_map(|l| l.words()));
            let launch = t.launch(kernel, ((self.end - self.first) * blocks) as u64, args, &words);
            launch.constant("LANES", lanes).flops(share * flops);
            if self.family == Family::Tiles {
                launch.constant("ONE_CHUNK", u32::from(one_chunk));
                launch.constant("HAS_ENTROPY", u32::from(flags & HAS_ENTROPY != 0));
            }
        }
    }

    /// What a kernel that is not generic binds: the sides, what is known of the rows, where results go, and more.
    fn args(&self, dout: Tensor, known: Tensor, out: [Tensor; 2], more: &[Tensor]) -> Vec<Arg> {
        let sides = [self.q.0, self.k.0, self.v.0, dout, known];
        sides.iter().chain(&out).chain(more).map(|x| Arg::from(*x)).collect()
    }

    /// Whether k and v are one tensor, whose gradient is the sum of both.
    fn one_kv(&self) -> bool {
        self.k.0 == self.v.0 && self.q.0 != self.k.0
    }

    /// Where the gradients of k and v go. In multi-head attention q, k and v are parts of one tensor: its gradient is one
    /// buffer, whose parts are each written once.
    fn shared_grads(&self, t: &mut Tape, dq: Option<GradOut>) -> (Option<GradOut>, Option<GradOut>) {
        if self.q.0 == self.k.0 {
            return (dq, dq);
        }
        let dk = t.grad_out(self.k.0);
        (dk, if self.one_kv() { dk } else { t.grad_out(self.v.0) })
    }
}

/// Rows of a tiled forward whose workgroup sees `nk` keys at once.
fn rows_that_see(nk: usize) -> usize {
    QUADS / (nk.div_ceil(4) + 1)
}

/// Records the attention of `q` over `k` and `v` into `o`; with `entropy` [z, nq] also, by row, the sum of
/// `alpha ln(alpha + 1e-8)` over the weights.
fn attend(t: &mut Tape, size: Size, q: Side, k: Side, v: Side, o: Side, entropy: Option<Tensor>) {
    let Size { z, nq, nk, d, .. } = size;
    let fours = |l: Lie| {
        l.outer.is_multiple_of(4) && l.inner.is_multiple_of(4) && l.row.is_multiple_of(4) && l.base.is_multiple_of(4)
    };
    let whole = d % 4 == 0 && [q, k, v, o].iter().all(|s| fours(s.1)) && nq * nk <= KEPT_BY_ONE / 4;
    let fit = whole && t.target.tiles;
    let apart = q.0 == k.0 || k.0 != v.0;
    let family = if fit && d <= LANE_WIDTH && entropy.is_none() && apart {
        Family::Lanes
    } else if fit && (entropy.is_none() || rows_that_see(nk) >= FEW_ROWS) {
        // The tiled forward sums the entropy too, of rows whose weights it has all at once.
        Family::Tiles
    } else {
        Family::Generic
    };
    let generic = family == Family::Generic;
    let this = Attend { size, q, k, v, o, family, first: 0, end: z };
    if whole && t.target.class == DeviceClass::Hardware {
        this.forward_by_products(t, entropy);
        t.on_backward(move |t| {
            let dentropy = entropy.and_then(|e| t.grad(e));
            let Some(dout) = t.grad(o.0) else { return Ok(()) };
            let dq = t.grad_out(q.0);
            let (dk, dv) = this.shared_grads(t, dq);
            this.backward_by_products(t, dout, dentropy, [dq, dk, dv]);
            Ok(())
        });
        return;
    }
    let pairs = z as f64 * nq as f64 * nk as f64 * d as f64;
    // What the backward needs of a row: the log-sum-exp and the entropy's slope; tiled kernels keep them together.
    let lse = t.saved([z * nq, if family == Family::Tiles { 2 } else { 1 }]);
    let slopes = if generic { t.saved([z * nq]) } else { lse };
    if generic {
        let args = [q.0, k.0, v.0, o.0, lse].map(Arg::from);
        this.launch(t, FORWARD, &args, 0, 4.0 * pairs);
        if let Some(entropy) = entropy {
            let args = [q.0, k.0, lse, entropy, slopes].map(Arg::from);
            this.launch(t, ENTROPY, &args, 0, 2.0 * pairs);
        }
    } else {
        // A kernel binds what any of its file's functions could look at.
        let last = if family == Family::Tiles { entropy.unwrap_or(lse) } else { q.0 };
        let args = this.args(q.0, lse, [o.0; 2], &[last]);
        let flags = if entropy.is_some() { HAS_ENTROPY } else { 0 };
        this.launch(t, FORWARD, &args, flags, 4.0 * pairs);
    }
    t.on_backward(move |t| {
        let dentropy = entropy.and_then(|e| t.grad(e));
        let Some(dout) = t.grad(o.0) else { return Ok(()) };
        // What backward_q has to know of a row's results beforehand.
        let alone = family == Family::Tiles && this.tiles(t, BACKWARD_Q, false).2;
        let row = match family {
            Family::Lanes => o.0,
            _ if alone => dentropy.unwrap_or(lse),
            _ => t.saved([z * nq, 2]),
        };
        if family != Family::Lanes && !alone {
            let (stride, first) = if generic { (1u32, 0u32) } else { (2, 1) };
            let mut w = words![nq, d, z, size.inner, dentropy.is_some(), stride, first, 0u32].to_vec();
            w.extend(o.1.words());
            let args = [o.0, dout, slopes, dentropy.unwrap_or(lse), row].map(Arg::from);
            t.launch(ROW_DELTA, (z * nq).div_ceil(64) as u64, &args, &w).flops(2.0 * (z * nq * d) as f64);
        }
        let mut flags = if dentropy.is_some() { HAS_ENTROPY } else { 0 };
        let dq = t.grad_out(q.0);
        if let Some(dq) = dq {
            flags |= if dq.accumulate { ADD_Q } else { 0 };
        }
        let (dk, dv) = this.shared_grads(t, dq);
        if this.one_kv() {
            flags |= SAME_KV;
        }
        let dkv = dk.zip(dv);
        if let Some((dk, dv)) = dkv {
            flags |= if dk.accumulate { ADD_K } else { 0 } | if dv.accumulate { ADD_V } else { 0 };
        }
        if generic {
            let args = |out: &[Tensor]| -> Vec<Arg> {
                [q.0, k.0, v.0, dout, lse, row].iter().chain(out).map(|x| Arg::from(*x)).collect()
            };
            if let Some(dq) = dq {
                this.launch(t, BACKWARD_Q, &args(&[dq.tensor]), flags, 6.0 * pairs);
            }
            if let Some((dk, dv)) = dkv {
                this.launch(t, BACKWARD_KV, &args(&[dk.tensor, dv.tensor]), flags, 4.0 * pairs);
            }
            return Ok(());
        }
        if dq.is_none() && dkv.is_none() {
            return Ok(());
        }
        // The launch for k and v needs what that for q finds.
        let dq = dq.map_or_else(|| t.saved(q.0.shape()), |dq| dq.tensor);
        // Weights and slopes are kept, for as many sequences as fit.
        let each = nq * nk.next_multiple_of(4) * 2;
        let most = (KEPT * t.target.cores as usize).min(t.target.max_binding as usize / 4);
        let step = (most / each).clamp(1, z);
        let kept = t.saved([step * each]);
        for first in (0..z).step_by(step) {
            let this = Attend { first, end: (first + step).min(z), ..this };
            let pairs = pairs * (this.end - first) as f64 / z as f64;
            let args = this.args(dout, lse, [dq; 2], &[row, kept]);
            this.launch(t, BACKWARD_Q, &args, flags, 6.0 * pairs);
            if let Some((dk, dv)) = dkv {
                let args = this.args(dout, kept, [dk.tensor, dv.tensor], &[]);
                // Products alone: with enough columns for every lane, rows that share them are faster.
                let family = if d * 2 > LANE_WIDTH { Family::Tiles } else { family };
                Attend { family, ..this }.launch(t, BACKWARD_KV, &args, flags, 4.0 * pairs);
            }
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

/// Soft MoE dispatch (Puigcerver et al. 2024, eq. 1): every slot is a mixture of the tokens, weighted by the softmax
/// over tokens of `<slot, key> / tau`: `slots` [Z, S, D], `keys` and `tokens` [Z, N, D] -> [Z, S, D], and by slot the
/// sum over its weights of `alpha ln(alpha + 1e-8)` [Z, S]. `keys` may be `tokens`.
///
/// # Errors
/// Shapes that do not fit.
pub fn dispatch(t: &mut Tape, slots: Tensor, keys: Tensor, tokens: Tensor, tau: f32) -> Result<(Tensor, Tensor)> {
    let [z, s, d] = slots.dims("dispatch: slots")?;
    let [_, n, _] = tokens.dims("dispatch: tokens")?;
    keys.expect("dispatch: keys", [z, n, d])?;
    tokens.expect("dispatch: tokens", [z, n, d])?;
    if !t.target.fuse {
        return unfused(t, slots, keys, tokens, 1.0 / tau);
    }
    let o = t.value([z, s, d], &[slots, keys, tokens]);
    let entropy = t.value([z, s], &[slots, keys]);
    let size = Size { z, inner: 1, nq: s, nk: n, d, scale: 1.0 / tau };
    let (rows, columns) = (Lie::plain(s, d), Lie::plain(n, d));
    attend(t, size, (slots, rows), (keys, columns), (tokens, columns), (o, rows), Some(entropy));
    Ok((o, entropy))
}

/// Soft MoE combine (Puigcerver et al. 2024, eq. 3): every token is a mixture of the experts' results, weighted by the
/// softmax over slots of `<token key, slot key>`: `keys` [Z, N, D], `slots` and `results` [Z, S, D] -> [Z, N, D].
///
/// # Errors
/// Shapes that do not fit.
pub fn combine(t: &mut Tape, keys: Tensor, slots: Tensor, results: Tensor) -> Result<Tensor> {
    let [z, n, d] = keys.dims("combine: keys")?;
    let [_, s, _] = slots.dims("combine: slots")?;
    slots.expect("combine: slots", [z, s, d])?;
    results.expect("combine: results", [z, s, d])?;
    if !t.target.fuse {
        return Ok(unfused(t, keys, slots, results, 1.0)?.0);
    }
    let o = t.value([z, n, d], &[keys, slots, results]);
    let size = Size { z, inner: 1, nq: n, nk: s, d, scale: 1.0 };
    let (rows, columns) = (Lie::plain(n, d), Lie::plain(s, d));
    attend(t, size, (keys, rows), (slots, columns), (results, columns), (o, rows), None);
    Ok(o)
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
