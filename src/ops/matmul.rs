//! Linear layers and MLPs of one or many groups (experts, or the same layer of two encoders).
//!                                                                                      kernels/matmul.wgsl
//! Every product here, forward or backward, is one kernel: B is packed into panels, A is read as it lies.

use crate::gpu::Kernel;
use crate::tensor::{Arg, Tape, Tensor};
use crate::words;
use anyhow::Result;

/// Rows of C a lane keeps in registers.
const ROWS: u32 = 16;
const PRODUCT: Kernel = Kernel::new("matmul", "product").rows(ROWS);
const PACK: Kernel = Kernel::new("matmul", "pack");
const COLUMN_SUMS: Kernel = Kernel::new("matmul", "column_sums");

/// How a matrix lies in a group: elements from a row to the next, and from a column to the next.
#[derive(Clone, Copy)]
struct Strides {
    row: usize,
    col: usize,
}

/// What happens to a product before it is stored; the numbers are the kernel's.
#[derive(Clone, Copy)]
enum Epilogue {
    Plain {
        accumulate: bool,
    },
    Residual(Tensor),
    /// Stores the value before GELU here.
    Gelu(Tensor),
    /// Multiplies by the derivative of GELU at these saved values.
    GeluGrad(Tensor),
}

/// The sizes of `C[g] = A[g] B[g]`: C is [m, n], the sum runs over k.
#[derive(Clone, Copy)]
struct Size {
    groups: usize,
    m: usize,
    n: usize,
    k: usize,
}

/// B as panels: [groups, panels, k, lanes] of vec4.
fn pack(t: &mut Tape, b: Tensor, strides: Strides, size: Size) -> Tensor {
    let lanes = t.target.lanes as usize;
    let panels = size.n.div_ceil(4 * lanes);
    let packed = t.saved([size.groups, panels, size.k, 4 * lanes]);
    for groups in windows(t, size.groups, &[b.elems(), packed.elems()]) {
        let total = groups.len() * panels * size.k * lanes;
        let args = [part(b, size.groups, &groups), part(packed, size.groups, &groups)];
        let words = words![size.n, size.k, strides.row, strides.col, size.n * size.k, panels, total];
        t.launch(PACK, total.div_ceil(64) as u64, &args, words).constant("LANES", lanes as u32);
    }
    packed
}

/// Ranges of groups whose share of every tensor fits one binding.
fn windows(t: &Tape, groups: usize, elems: &[usize]) -> Vec<std::ops::Range<usize>> {
    let largest = elems.iter().max().copied().unwrap_or(0) as u64 * 4;
    let count = largest.div_ceil(t.target.max_binding).clamp(1, groups as u64) as usize;
    let step = groups.div_ceil(count);
    (0..groups).step_by(step).map(|g| g..(g + step).min(groups)).collect()
}

/// The share of some groups of a tensor.
fn part(x: Tensor, groups: usize, range: &std::ops::Range<usize>) -> Arg {
    let each = x.elems() / groups;
    x.window(range.start * each, range.len() * each)
}

fn product(
    t: &mut Tape,
    size: Size,
    a: Tensor,
    a_strides: Strides,
    packed: Tensor,
    bias: Option<Tensor>,
    c: Tensor,
    epilogue: Epilogue,
) {
    let Size { groups: all, m, n, k } = size;
    let lanes = t.target.lanes as usize;
    let (panels, row_blocks) = (n.div_ceil(4 * lanes), m.div_ceil(ROWS as usize));
    let (code, accumulate, extra) = match epilogue {
        Epilogue::Plain { accumulate } => (0, accumulate, None),
        Epilogue::Residual(x) => (1, false, Some(x)),
        Epilogue::Gelu(x) => (2, false, Some(x)),
        Epilogue::GeluGrad(x) => (3, false, Some(x)),
    };
    // Bindings a plain product does not look at still need a buffer.
    let unused = t.saved([64]);
    for groups in windows(t, all, &[a.elems(), packed.elems(), c.elems()]) {
        let args = [
            part(a, all, &groups),
            part(packed, all, &groups),
            bias.map_or(part(packed, all, &groups), |b| part(b, all, &groups)),
            part(c, all, &groups),
            extra.map_or(unused.into(), |x| part(x, all, &groups)),
        ];
        let words = words![
            m,
            n,
            k,
            a_strides.row,
            a_strides.col,
            m * k,
            row_blocks,
            panels,
            groups.len(),
            accumulate,
            bias.is_some(),
        ];
        t.launch(PRODUCT, (groups.len() * panels * row_blocks) as u64, &args, words)
            .constant("LANES", lanes as u32)
            .constant("EPILOGUE", code)
            .flops(2.0 * (groups.len() * m) as f64 * (n * k) as f64);
    }
}

/// Gradients of `y[g] = x[g] w[g]^T + b[g]` but that of x: `dw[g] = dy[g]^T x[g]`, `db[g] = sum of rows of dy[g]`.
fn weight_grads(t: &mut Tape, x: Tensor, w: Tensor, b: Option<Tensor>, dy: Tensor, [g, m, n, k]: [usize; 4]) {
    if let Some(dw) = t.grad_out(w) {
        let size = Size { groups: g, m: n, n: k, k: m };
        let packed = pack(t, x, Strides { row: k, col: 1 }, size);
        let plain = Epilogue::Plain { accumulate: dw.accumulate };
        product(t, size, dy, Strides { row: 1, col: n }, packed, None, dw.tensor, plain);
    }
    if let Some(b) = b
        && let Some(db) = t.grad_out(b)
    {
        let lanes = t.target.lanes;
        let blocks = n.div_ceil(lanes as usize);
        for groups in windows(t, g, &[dy.elems()]) {
            let args = [part(dy, g, &groups), part(db.tensor, g, &groups)];
            t.launch(
                COLUMN_SUMS,
                (groups.len() * blocks) as u64,
                &args,
                words![m, n, groups.len(), blocks, db.accumulate],
            )
            .constant("LANES", lanes);
        }
    }
}

/// Checks `w` [g, n, k] and `b` [g, n] against `x` [g, m, k]; gives [g, m, n, k].
fn check(what: &str, x: Tensor, w: Tensor, b: Option<Tensor>) -> Result<[usize; 4]> {
    let [g, m, k] = x.dims(&format!("{what}: x"))?;
    let [_, n, _] = w.dims(&format!("{what}: w"))?;
    w.expect(&format!("{what}: w"), [g, n, k])?;
    if let Some(b) = b {
        b.expect(&format!("{what}: b"), [g, n])?;
    }
    Ok([g, m, n, k])
}

/// `x[g] w[g]^T` with w [n, k] as a checkpoint holds it.
fn forward(t: &mut Tape, x: Tensor, w: Tensor, b: Option<Tensor>, y: Tensor, [g, m, n, k]: [usize; 4], e: Epilogue) {
    let size = Size { groups: g, m, n, k };
    let packed = pack(t, w, Strides { row: 1, col: k }, size);
    product(t, size, x, Strides { row: k, col: 1 }, packed, b, y, e);
}

/// `dx[g] = dy[g] w[g]`.
fn input_grad(t: &mut Tape, dy: Tensor, w: Tensor, dx: Tensor, [g, m, n, k]: [usize; 4], e: Epilogue) {
    let size = Size { groups: g, m, n: k, k: n };
    let packed = pack(t, w, Strides { row: k, col: 1 }, size);
    product(t, size, dy, Strides { row: n, col: 1 }, packed, None, dx, e);
}

/// Linear layer of `g` groups: `x` [g, m, k], `w` [g, n, k], `b` [g, n] -> `residual + x w^T + b` [g, m, n].
///
/// # Errors
/// Shapes that do not fit.
pub fn linear(t: &mut Tape, x: Tensor, w: Tensor, b: Option<Tensor>, residual: Option<Tensor>) -> Result<Tensor> {
    let dims = check("linear", x, w, b)?;
    let [g, m, n, _] = dims;
    let mut from = vec![x, w];
    from.extend(residual);
    let y = t.value([g, m, n], &from);
    let epilogue = match residual {
        Some(r) => {
            r.expect("linear: residual", y.shape())?;
            Epilogue::Residual(r)
        }
        None => Epilogue::Plain { accumulate: false },
    };
    forward(t, x, w, b, y, dims, epilogue);
    t.on_backward(move |t| {
        let Some(dy) = t.grad(y) else { return Ok(()) };
        if let Some(dx) = t.grad_out(x) {
            input_grad(t, dy, w, dx.tensor, dims, Epilogue::Plain { accumulate: dx.accumulate });
        }
        weight_grads(t, x, w, b, dy, dims);
        pass_residual(t, y, residual)
    });
    Ok(y)
}

/// The residual's gradient is that of the sum.
fn pass_residual(t: &mut Tape, y: Tensor, residual: Option<Tensor>) -> Result<()> {
    if let Some(r) = residual
        && let Some(out) = t.pass_grad(y, r)
        && let Some(dy) = t.grad(y)
    {
        super::basic::scale_into(t, dy, 1.0, out);
    }
    Ok(())
}

/// Weights and biases of a two-layer perceptron of `g` groups: w1 [g, h, k], b1 [g, h], w2 [g, n, h], b2 [g, n].
#[derive(Clone, Copy)]
pub struct Mlp {
    pub w1: Tensor,
    pub b1: Tensor,
    pub w2: Tensor,
    pub b2: Tensor,
}

/// `residual + GELU(x w1^T + b1) w2^T + b2`: `x` [g, m, k] -> [g, m, n]. GELU is exact and costs no pass of its own.
///
/// # Errors
/// Shapes that do not fit.
pub fn mlp(t: &mut Tape, x: Tensor, p: Mlp, residual: Option<Tensor>) -> Result<Tensor> {
    let dims1 = check("mlp fc1", x, p.w1, Some(p.b1))?;
    let [g, m, h, _] = dims1;
    let before = t.saved([g, m, h]);
    let hidden = t.value([g, m, h], &[x, p.w1]);
    let dims2 = check("mlp fc2", hidden, p.w2, Some(p.b2))?;
    let y = t.value([g, m, dims2[2]], &[hidden]);
    let epilogue = residual.map_or(Epilogue::Plain { accumulate: false }, Epilogue::Residual);
    forward(t, x, p.w1, Some(p.b1), hidden, dims1, Epilogue::Gelu(before));
    forward(t, hidden, p.w2, Some(p.b2), y, dims2, epilogue);
    t.on_backward(move |t| {
        let Some(dy) = t.grad(y) else { return Ok(()) };
        weight_grads(t, hidden, p.w2, Some(p.b2), dy, dims2);
        let dbefore = t.saved([g, m, h]);
        input_grad(t, dy, p.w2, dbefore, dims2, Epilogue::GeluGrad(before));
        if let Some(dx) = t.grad_out(x) {
            input_grad(t, dbefore, p.w1, dx.tensor, dims1, Epilogue::Plain { accumulate: dx.accumulate });
        }
        weight_grads(t, x, p.w1, Some(p.b1), dbefore, dims1);
        pass_residual(t, y, residual)
    });
    Ok(y)
}

/// The specification of [`linear`] without residual; `b` may be empty.
pub fn reference(x: &[f64], w: &[f64], b: &[f64], [g, m, n, k]: [usize; 4]) -> Vec<f64> {
    let mut y = vec![0.0; g * m * n];
    for gi in 0..g {
        for i in 0..m {
            for j in 0..n {
                let (row, col) = (&x[(gi * m + i) * k..][..k], &w[(gi * n + j) * k..][..k]);
                let dot: f64 = row.iter().zip(col).map(|(a, b)| a * b).sum();
                y[(gi * m + i) * n + j] = dot + b.get(gi * n + j).copied().unwrap_or(0.0);
            }
        }
    }
    y
}

/// The specification of exact GELU, through erf by its series and continued fraction.
pub fn gelu_reference(x: f64) -> f64 {
    0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2))
}

fn erf(x: f64) -> f64 {
    if x.abs() < 3.0 {
        // 2/sqrt(pi) sum (-1)^n x^(2n+1) / (n! (2n+1))
        let (mut term, mut sum) = (x, x);
        for n in 1..80 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    } else {
        // erfc(x) = exp(-x^2)/sqrt(pi) / (x + (1/2)/(x + 1/(x + (3/2)/(x + ...))))
        let z = x.abs();
        let tail = (1..60).rev().fold(z, |f, n| z + f64::from(n) * 0.5 / f);
        x.signum() * (1.0 - (-z * z).exp() / std::f64::consts::PI.sqrt() / tail)
    }
}
