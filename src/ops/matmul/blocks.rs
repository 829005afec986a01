//! Products on a GPU, by square blocks.                                               kernels/matmul_blocks.wgsl

use super::super::reduce;
use super::{Epilogue, Matrix, Size, part, windows};
use crate::gpu::{DeviceClass, Kernel};
use crate::tensor::{GradOut, Tape, Tensor};
use crate::words;

const BLOCKED: Kernel = Kernel::new("matmul_blocks", "product").trusted();
/// Rows and columns of a block.
const BLOCK: usize = 64;
/// Steps of k that a workgroup of the block kernel copies at once, and the fewest for which it shares a block's sum.
const DEPTH: usize = 16;
const SPLIT: usize = 128;

/// Whether the vec4 of A and of B lie along k, or along the other side; none where the shape is not for the block kernel.
pub(super) fn blocked(t: &Tape, size: Size, [a, b, c]: [Matrix; 3]) -> Option<[bool; 2]> {
    let along_k = |x: Matrix, other: usize| match x.fours(size.k) {
        false if !x.transposed().fours(other) => None,
        along_k => Some(along_k),
    };
    if t.target.class == DeviceClass::Software || !c.fours(size.n) {
        return None;
    }
    Some([along_k(a, size.m)?, along_k(b.transposed(), size.n)?])
}

/// C = A B by square blocks. Few blocks of a long sum are each shared by several workgroups.
pub(super) fn product_of_blocks(
    t: &mut Tape,
    size: Size,
    [a, b, c]: [Matrix; 3],
    along_k: [bool; 2],
    bias: Option<Tensor>,
    epilogue: Epilogue,
    sums: Option<GradOut>,
) {
    let Size { groups: all, m, n, k } = size;
    let (code, accumulate, extra) = epilogue.parts();
    let cores = t.target.cores as usize;
    let [rows, columns] = [m, n].map(|side| side.div_ceil(BLOCK));
    let alone = code == 0 && bias.is_none() && c.inner == 1 && c.row == n && c.first.is_none();
    let splits = if alone { (4 * cores / (all * rows * columns)).clamp(1, k.div_ceil(SPLIT)) } else { 1 };
    let share = k.div_ceil(splits).next_multiple_of(DEPTH);
    let splits = k.div_ceil(share);
    let parts = (splits > 1).then(|| t.saved([all, splits, m, n]));
    let sum_parts = sums.filter(|_| splits > 1).map(|_| t.saved([all, splits, m]));
    let unused = t.saved([64]);
    for groups in windows(t, all, &[a.tensor, b.tensor, parts.unwrap_or(c.tensor)]) {
        let ((a_arg, a_lie), (b_arg, b_lie), (c_arg, c_lie)) =
            (a.bind(all, &groups), b.bind(all, &groups), c.bind(all, &groups));
        let to = parts.map_or(c_arg, |parts| part(parts, all, &groups));
        let whole_sums = sums.map_or(unused.into(), |s| part(s.tensor, all, &groups));
        let to_sums = sum_parts.map_or(whole_sums, |parts| part(parts, all, &groups));
        let args = [
            a_arg,
            b_arg,
            bias.map_or(b_arg, |bias| part(bias, all, &groups)),
            to,
            extra.map_or(unused.into(), |x| Matrix { tensor: x, ..c }.bind(all, &groups).0),
            to_sums,
        ];
        let add = accumulate && parts.is_none();
        let add_sums = sums.is_some_and(|s| s.accumulate) && parts.is_none();
        let mut words = words![m, n, k, rows, columns, groups.len(), add, bias.is_some()].to_vec();
        words.extend(words![splits, share, add_sums, 0u32]);
        words.extend([a_lie, b_lie, c_lie].concat());
        let number = (groups.len() * splits * rows * columns) as u64;
        t.launch(BLOCKED, number, &args, &words)
            .constant("A_ALONG_K", u32::from(along_k[0]))
            .constant("B_ALONG_K", u32::from(along_k[1]))
            .constant("HAS_SUMS", u32::from(sums.is_some()))
            .constant("EPILOGUE", code)
            .flops(2.0 * (groups.len() * m) as f64 * (n * k) as f64);
        if parts.is_some() {
            reduce::add_parts(t, [groups.len(), splits, m * n], to, c_arg, accumulate);
        }
        if let (Some(sums), Some(_)) = (sums, sum_parts) {
            reduce::add_parts(t, [groups.len(), splits, m], to_sums, whole_sums, sums.accumulate);
        }
    }
}
