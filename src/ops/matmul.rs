//! Linear layers and MLPs of one or many groups (experts, or the same layer of two encoders).
//!                                                                                      kernels/matmul.wgsl
//!                                                                                      kernels/matmul_tiles.wgsl
//!                                                                                      kernels/matmul_direct.wgsl
//! Every product here, forward or backward, is C = A B with A of any strides. The generic kernel takes any shape and
//! packs B into panels. The two for software devices take widths that divide by 4 and pack B only where enough rows
//! share the panels and B's own rows lie far apart: the one with tiles, and the direct one for older drivers. That for
//! GPUs copies square blocks of both.

mod blocks;

use self::blocks::{blocked, product_of_blocks};
use crate::gpu::Kernel;
use crate::tensor::{Arg, GradOut, Tape, Tensor};
use crate::words;
use anyhow::{Result, bail};

/// Rows of C a lane keeps in registers.
const ROWS: u32 = 16;
const PRODUCT: Kernel = Kernel::new("matmul", "product").rows(ROWS);
const TILES: Kernel = Kernel::new("matmul_tiles", "product").trusted();
const DIRECT: Kernel = Kernel::new("matmul_direct", "product").rows(32);
/// Blocks of columns a workgroup of the tiled kernel walks at most where one pass is all of k, and of which it can hold the
/// sums from pass to pass.
const BLOCKS: usize = 16;
const HELD: usize = 4;
/// Steps of k up to which the tiled kernel reads A where it lies if there is one block of columns.
const IN_PLACE: usize = 256;
/// Rows of A, and a stride of B, beyond which packing B for the tiled kernel pays.
const PACK_ROWS: usize = 256;
const PACK_STRIDE: usize = 768;
/// Steps of k a workgroup packs.
const PACK_CHUNK: usize = 64;
const PACK: Kernel = Kernel::new("matmul", "pack");
const COLUMN_SUMS: Kernel = Kernel::new("matmul", "column_sums");

/// A matrix of every group and how it lies: element (row, column) of group g is at
/// `base + g / inner * outer + g % inner * inner_stride + row * row_stride + column * col_stride`.
#[derive(Clone, Copy)]
pub(super) struct Matrix {
    pub tensor: Tensor,
    pub row: usize,
    pub col: usize,
    pub outer: usize,
    pub inner_stride: usize,
    pub inner: usize,
    pub base: usize,
    /// The tensor has more groups than these: it is bound whole, and this is the number of the first.
    pub first: Option<usize>,
    /// Zeros follow each row up to a whole vec4.
    pub padded: bool,
}

impl Matrix {
    /// Groups of `rows` x `cols` elements one after the other or, with `inner` over 1, `inner` groups whose rows
    /// take turns: [groups / inner, rows, inner, cols].
    pub fn new(tensor: Tensor, rows: usize, cols: usize, inner: usize) -> Self {
        let (row, outer) = (inner * cols, rows * inner * cols);
        Matrix { tensor, row, col: 1, outer, inner_stride: cols, inner, base: 0, first: None, padded: false }
    }

    /// [groups, rows, cols rounded up to 4] one after the other.
    pub fn padded(tensor: Tensor, rows: usize, cols: usize) -> Self {
        let row = cols.next_multiple_of(4);
        Matrix { row, outer: rows * row, padded: true, ..Matrix::new(tensor, rows, cols, 1) }
    }

    pub fn transposed(self) -> Self {
        Matrix { row: self.col, col: self.row, ..self }
    }

    /// Whether every row begins at, and holds, whole vec4s.
    fn fours(self, columns: usize) -> bool {
        let inner = if self.inner > 1 { self.inner_stride } else { 0 };
        let far = [self.row, self.outer, inner, self.base, if self.padded { 0 } else { columns }];
        self.col == 1 && far.iter().all(|n| n.is_multiple_of(4))
    }

    /// What a launch over `range` of `groups` groups binds, and the words that say how it lies. Groups whose rows
    /// take turns are bound whole.
    fn bind(&self, groups: usize, range: &std::ops::Range<usize>) -> (Arg, [u32; 8]) {
        let (arg, first) = match (self.inner, self.first) {
            (1, None) => (part(self.tensor, groups, range), 0),
            (_, first) => (self.tensor.into(), first.unwrap_or(0) + range.start),
        };
        let words = [self.row, self.col, self.outer, self.inner_stride, self.inner, first, self.base, 0];
        (arg, words.map(|w| w as u32))
    }
}

/// What happens to a product before it is stored; the numbers are the kernel's.
#[derive(Clone, Copy)]
enum Epilogue {
    Plain {
        accumulate: bool,
    },
    Residual(Tensor),
    /// GELU; stores its derivative here.
    Gelu(Tensor),
    /// Multiplies by these.
    Scaled(Tensor),
}

impl Epilogue {
    /// The kernel's number, whether it adds to what is there, and the other tensor.
    fn parts(self) -> (u32, bool, Option<Tensor>) {
        match self {
            Epilogue::Plain { accumulate } => (0, accumulate, None),
            Epilogue::Residual(x) => (1, false, Some(x)),
            Epilogue::Gelu(x) => (2, false, Some(x)),
            Epilogue::Scaled(x) => (3, false, Some(x)),
        }
    }
}

/// The sizes of `C[g] = A[g] B[g]`: C is [m, n], the sum runs over k.
#[derive(Clone, Copy)]
pub(super) struct Size {
    pub groups: usize,
    pub m: usize,
    pub n: usize,
    pub k: usize,
}

/// B (rows k, columns n) as panels: [groups, panels, k, lanes] of vec4, of which `columns` are columns of B.
fn pack(t: &mut Tape, b: Matrix, size: Size, columns: usize) -> Tensor {
    let lanes = t.target.lanes as usize;
    let panels = size.n.div_ceil(columns * lanes);
    let packed = t.saved([size.groups, panels, size.k, 4 * lanes]);
    for groups in windows(t, size.groups, &[b.tensor, packed]) {
        let chunks = size.k.div_ceil(PACK_CHUNK);
        let (source, lie) = b.bind(size.groups, &groups);
        let mut words = words![size.n, size.k, panels, groups.len(), chunks, columns, 0u32, 0u32].to_vec();
        words.extend(lie);
        let args = [source, part(packed, size.groups, &groups)];
        t.launch(PACK, (groups.len() * panels * chunks) as u64, &args, &words).constant("LANES", lanes as u32);
    }
    packed
}

/// Ranges of groups whose share of every tensor fits one binding.
fn windows(t: &Tape, groups: usize, tensors: &[Tensor]) -> Vec<std::ops::Range<usize>> {
    let largest = tensors.iter().map(Tensor::elems).max().unwrap_or(0) as u64 * 4;
    let count = largest.div_ceil(t.target.max_binding).clamp(1, groups as u64) as usize;
    let step = groups.div_ceil(count);
    (0..groups).step_by(step).map(|g| g..(g + step).min(groups)).collect()
}

/// The share of some groups of a tensor whose groups lie one after the other.
fn part(x: Tensor, groups: usize, range: &std::ops::Range<usize>) -> Arg {
    let each = x.elems() / groups;
    x.window(range.start * each, range.len() * each)
}

/// Columns a lane of the tiled kernel takes for C of `n` columns; none where that is not for it.
fn tiled(t: &Tape, n: usize) -> Option<usize> {
    if !t.target.tiles || !n.is_multiple_of(4) {
        return None;
    }
    let lanes = t.target.lanes as usize;
    if n <= 2 * lanes {
        return Some(2);
    }
    let idle = |columns: usize| n.next_multiple_of(columns * lanes) - n;
    let three = n.is_multiple_of(3) && 4 * idle(3) + n <= 4 * idle(4);
    Some(if three { 3 } else { 4 })
}

/// Whether the kernel that makes this product gives the sums of A's rows too.
fn sums_too(t: &Tape, size: Size, matrices: [Matrix; 3]) -> bool {
    match blocked(t, size, matrices) {
        Some(_) => size.m.is_multiple_of(4),
        None => tiled(t, size.n).is_some(),
    }
}

/// C = A B; `c` and what the epilogue names lie alike. `sums` [groups, m] are to be those of A's rows,
/// where [`sums_too`] says so.
fn product(
    t: &mut Tape,
    size: Size,
    [a, b, c]: [Matrix; 3],
    bias: Option<Tensor>,
    epilogue: Epilogue,
    sums: Option<GradOut>,
) {
    let Size { groups: all, m, k, .. } = size;
    let lanes = t.target.lanes as usize;
    if let Some(along_k) = blocked(t, size, [a, b, c]) {
        return product_of_blocks(t, size, [a, b, c], along_k, bias, epilogue, sums);
    }
    let (code, accumulate, extra) = epilogue.parts();
    // What is written behind a padded row's last value will not be read.
    let n = if c.padded { size.n.next_multiple_of(4) } else { size.n };
    let tiles = tiled(t, n);
    let columns = tiles.unwrap_or(4);
    let panels = n.div_ceil(columns * lanes);
    let packed = match tiles {
        Some(_) if m <= PACK_ROWS || b.row.max(b.col) < PACK_STRIDE => None,
        _ => Some(pack(t, b, Size { n, ..size }, columns)),
    };
    // A binding that a plain product does not look at still needs a buffer.
    let unused = t.saved([64]);
    for groups in windows(t, all, &[a.tensor, packed.unwrap_or(b.tensor), c.tensor]) {
        let ((a_arg, a_lie), (c_arg, c_lie)) = (a.bind(all, &groups), c.bind(all, &groups));
        let (b_arg, b_lie) = match packed {
            Some(packed) => (part(packed, all, &groups), [0, 0, 0, 0, 1, 0, 0, 0]),
            None => b.bind(all, &groups),
        };
        let mut args = vec![
            a_arg,
            b_arg,
            bias.map_or(b_arg, |bias| part(bias, all, &groups)),
            c_arg,
            extra.map_or(unused.into(), |x| Matrix { tensor: x, ..c }.bind(all, &groups).0),
        ];
        let launch = match tiles {
            None => {
                let row_blocks = m.div_ceil(ROWS as usize);
                let mut words = words![m, n, k, row_blocks, panels, groups.len(), accumulate, bias.is_some()].to_vec();
                words.extend(a_lie);
                words.extend(c_lie);
                t.launch(PRODUCT, (groups.len() * panels * row_blocks) as u64, &args, &words)
            }
            Some(_) => {
                let direct = t.target.direct && sums.is_none() && k.is_multiple_of(4) && a.fours(k);
                let rows = if direct { DIRECT.rows as usize } else { tile_rows(m) };
                let row_blocks = m.div_ceil(rows);
                // Long walks reuse A's tile; short ones keep all cores busy.
                let copied = panels > 1 || sums.is_some() || k > IN_PLACE;
                let one_pass = !copied || k <= tile_depth(rows);
                let (longest, each) = if one_pass { (BLOCKS, 3) } else { (HELD, 1) };
                let most = panels * row_blocks * groups.len() / (each * t.target.cores as usize);
                let spans = if direct { panels } else { panels.div_ceil(most.clamp(1, longest)) };
                let blocks = panels.div_ceil(spans);
                let mut words = words![m, n, k, row_blocks, spans, blocks, groups.len(), accumulate].to_vec();
                words.extend(words![bias.is_some(), panels, sums.is_some_and(|s| s.accumulate), 0u32]);
                words.extend(a_lie);
                words.extend(b_lie);
                words.extend(c_lie);
                args.push(b_arg);
                let number = (groups.len() * spans * row_blocks) as u64;
                let launch = if direct {
                    t.launch(DIRECT.columns(columns as u32), number, &args, &words)
                } else {
                    args.push(sums.map_or(unused.into(), |s| part(s.tensor, all, &groups)));
                    t.launch(TILES.rows(rows as u32).columns(columns as u32), number, &args, &words)
                        .constant("HAS_SUMS", u32::from(sums.is_some()))
                        .constant("COPIED", u32::from(copied))
                        .constant("HELD", if one_pass { 0 } else { blocks as u32 })
                        .constant("K_FOURS", u32::from(k.is_multiple_of(4) || a.fours(k)))
                };
                launch.constant("PACKED", u32::from(packed.is_some()))
            }
        };
        launch
            .constant("LANES", lanes as u32)
            .constant("EPILOGUE", code)
            .flops(2.0 * (groups.len() * m) as f64 * (size.n * k) as f64);
    }
}

/// Rows of C a workgroup of the tiled kernel takes, up to 64: blocks as equal as sixteens allow; as fours do, where there
/// are so few that idle rows are worth a kernel of their own.
fn tile_rows(m: usize) -> usize {
    let blocks = m.div_ceil(64);
    m.div_ceil(blocks).next_multiple_of(if blocks <= 4 { 4 } else { 16 })
}

/// Steps of k in a pass of the tiled kernel: its tile of A is 32 KiB.
fn tile_depth(rows: usize) -> usize {
    4 * (2048 / rows / 16 * 16)
}

/// The sizes of a layer, `y[g] = x[g] w[g]^T + b[g]` with x [m, k] and w [n, k], and whether the rows of x and of y
/// take turns among `inner` groups.
#[derive(Clone, Copy)]
struct Layer {
    groups: usize,
    m: usize,
    n: usize,
    k: usize,
    x_inner: usize,
    y_inner: usize,
}

impl Layer {
    fn x(&self, x: Tensor) -> Matrix {
        Matrix::new(x, self.m, self.k, self.x_inner)
    }

    fn y(&self, y: Tensor) -> Matrix {
        Matrix::new(y, self.m, self.n, self.y_inner)
    }

    fn w(&self, w: Tensor) -> Matrix {
        Matrix::new(w, self.n, self.k, 1)
    }

    /// `y = x w^T + b`.
    fn forward(&self, t: &mut Tape, x: Tensor, w: Tensor, b: Option<Tensor>, y: Tensor, epilogue: Epilogue) {
        let size = Size { groups: self.groups, m: self.m, n: self.n, k: self.k };
        product(t, size, [self.x(x), self.w(w).transposed(), self.y(y)], b, epilogue, None);
    }

    /// `dx = dy w`.
    fn input_grad(&self, t: &mut Tape, dy: Tensor, w: Tensor, dx: Tensor, epilogue: Epilogue) {
        let size = Size { groups: self.groups, m: self.m, n: self.k, k: self.n };
        product(t, size, [self.y(dy), self.w(w), self.x(dx)], None, epilogue, None);
    }

    /// `dw = dy^T x`, `db` = sum of the rows of dy.
    fn weight_grads(&self, t: &mut Tape, x: Tensor, w: Tensor, b: Option<Tensor>, dy: Tensor) {
        let g = self.groups;
        let mut db = b.and_then(|b| t.grad_out(b));
        if let Some(dw) = t.grad_out(w) {
            let size = Size { groups: g, m: self.n, n: self.k, k: self.m };
            let plain = Epilogue::Plain { accumulate: dw.accumulate };
            let matrices = [self.y(dy).transposed(), self.x(x), self.w(dw.tensor)];
            let sums = if sums_too(t, size, matrices) { db.take() } else { None };
            product(t, size, matrices, None, plain, sums);
        }
        if let Some(db) = db {
            let lanes = t.target.lanes;
            let blocks = self.n.div_ceil(4 * lanes as usize);
            for groups in windows(t, g, &[dy]) {
                let (terms, lie) = self.y(dy).bind(g, &groups);
                let mut words = words![self.m, self.n, groups.len(), blocks, db.accumulate, 0u32, 0u32, 0u32].to_vec();
                words.extend(lie);
                let args = [terms, part(db.tensor, g, &groups)];
                t.launch(COLUMN_SUMS, (groups.len() * blocks) as u64, &args, &words).constant("LANES", lanes);
            }
        }
    }
}

/// Checks `w` [g inner, n, k] and `b` [g inner, n] against `x` [g, m, inner k].
fn check(what: &str, x: Tensor, w: Tensor, b: Option<Tensor>, inner: usize) -> Result<Layer> {
    let [g, m, wide] = x.dims(&format!("{what}: x"))?;
    let [groups, n, k] = w.dims(&format!("{what}: w"))?;
    if groups != g * inner || wide != inner * k {
        bail!("{what}: w {:?} does not fit x {:?} of {inner} interleaved groups", w.shape(), x.shape());
    }
    if let Some(b) = b {
        b.expect(&format!("{what}: b"), [groups, n])?;
    }
    Ok(Layer { groups, m, n, k, x_inner: inner, y_inner: inner })
}

/// Linear layer of `g` groups: `x` [g, m, k], `w` [g, n, k], `b` [g, n] -> `residual + x w^T + b` [g, m, n].
/// The residual must be another value than `x`.
///
/// # Errors
/// Shapes that do not fit.
pub fn linear(t: &mut Tape, x: Tensor, w: Tensor, b: Option<Tensor>, residual: Option<Tensor>) -> Result<Tensor> {
    let layer = check("linear", x, w, b, 1)?;
    let mut from = vec![x, w];
    from.extend(residual);
    let y = t.value([layer.groups, layer.m, layer.n], &from);
    if let Some(r) = residual {
        r.expect("linear: residual", y.shape())?;
    }
    layer.forward(t, x, w, b, y, residual.map_or(Epilogue::Plain { accumulate: false }, Epilogue::Residual));
    t.on_backward(move |t| {
        let Some(dy) = t.grad(y) else { return Ok(()) };
        if let Some(dx) = t.grad_out(x) {
            layer.input_grad(t, dy, w, dx.tensor, Epilogue::Plain { accumulate: dx.accumulate });
        }
        layer.weight_grads(t, x, w, b, dy);
        pass_residual(t, y, residual)
    });
    Ok(y)
}

/// Mixes rows: `a` [g, m, k], `x` [g, k, n] -> `a x` [g, m, n].
///
/// # Errors
/// Shapes that do not fit.
pub fn mix(t: &mut Tape, a: Tensor, x: Tensor) -> Result<Tensor> {
    let [groups, m, k] = a.dims("mix: a")?;
    let [_, _, n] = x.dims("mix: x")?;
    x.expect("mix: x", [groups, k, n])?;
    let y = t.value([groups, m, n], &[a, x]);
    let lie = |tensor: Tensor, rows: usize, cols: usize| Matrix::new(tensor, rows, cols, 1);
    let plain = |accumulate: bool| Epilogue::Plain { accumulate };
    let size = Size { groups, m, n, k };
    product(t, size, [lie(a, m, k), lie(x, k, n), lie(y, m, n)], None, plain(false), None);
    t.on_backward(move |t| {
        let Some(dy) = t.grad(y) else { return Ok(()) };
        let dy = lie(dy, m, n);
        if let Some(da) = t.grad_out(a) {
            let size = Size { groups, m, n: k, k: n };
            product(t, size, [dy, lie(x, k, n).transposed(), lie(da.tensor, m, k)], None, plain(da.accumulate), None);
        }
        if let Some(dx) = t.grad_out(x) {
            let size = Size { groups, m: k, n, k: m };
            product(t, size, [lie(a, m, k).transposed(), dy, lie(dx.tensor, k, n)], None, plain(dx.accumulate), None);
        }
        Ok(())
    });
    Ok(y)
}

/// `C[g] = A[g] B[g]`, or `+=`: a product inside another op.
pub(super) fn product_into(t: &mut Tape, size: Size, matrices: [Matrix; 3], accumulate: bool) {
    product(t, size, matrices, None, Epilogue::Plain { accumulate }, None);
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

/// `residual + GELU(x w1^T + b1) w2^T + b2` for `g * experts` perceptrons: `x` [g, m, experts k] holds each expert's
/// rows side by side -> [g, m, experts n]. GELU is exact and costs no pass of its own. The residual must be another
/// value than `x`.
///
/// # Errors
/// Shapes that do not fit.
pub fn mlp(t: &mut Tape, x: Tensor, p: Mlp, experts: usize, residual: Option<Tensor>) -> Result<Tensor> {
    let first = Layer { y_inner: 1, ..check("mlp fc1", x, p.w1, Some(p.b1), experts)? };
    let Layer { groups, m, n: h, .. } = first;
    let slope = t.saved([groups, m, h]);
    let hidden = t.value([groups, m, h], &[x, p.w1]);
    let second = Layer { y_inner: experts, ..check("mlp fc2", hidden, p.w2, Some(p.b2), 1)? };
    let y = t.value([groups / experts, m, experts * second.n], &[hidden]);
    if let Some(r) = residual {
        r.expect("mlp: residual", y.shape())?;
    }
    let epilogue = residual.map_or(Epilogue::Plain { accumulate: false }, Epilogue::Residual);
    first.forward(t, x, p.w1, Some(p.b1), hidden, Epilogue::Gelu(slope));
    second.forward(t, hidden, p.w2, Some(p.b2), y, epilogue);
    t.on_backward(move |t| {
        let Some(dy) = t.grad(y) else { return Ok(()) };
        second.weight_grads(t, hidden, p.w2, Some(p.b2), dy);
        let dbefore = t.saved([groups, m, h]);
        second.input_grad(t, dy, p.w2, dbefore, Epilogue::Scaled(slope));
        if let Some(dx) = t.grad_out(x) {
            first.input_grad(t, dbefore, p.w1, dx.tensor, Epilogue::Plain { accumulate: dx.accumulate });
        }
        first.weight_grads(t, x, p.w1, Some(p.b1), dbefore);
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
