//! Attention on a GPU: the product kernel, and what happens to the matrix's rows between two products. Of so many
//! sequences at a time that a matrix of all of them stays small; the backward makes them again.
//!                                                                                   kernels/attention_rows.wgsl

use super::super::matmul::{self, Matrix, product_into};
use super::{Attend, Lie, Side, Size};
use crate::gpu::Kernel;
use crate::tensor::{Arg, GradOut, Tape, Tensor};
use crate::words;

const WEIGHTS: Kernel = Kernel::new("attention_rows", "weights");
const SLOPES: Kernel = Kernel::new("attention_rows", "slopes");
/// Elements of a matrix: 64 MiB.
const KEPT: usize = 16 << 20;

impl Attend {
    /// The rows of a side, sequence by sequence.
    fn matrix(&self, (tensor, lie): Side) -> Matrix {
        let Lie { outer, inner: inner_stride, row, base } = lie;
        let inner = self.size.inner;
        Matrix { tensor, row, col: 1, outer, inner_stride, inner, base, first: Some(self.first), padded: false }
    }

    /// The matrices of a round's sequences: [sequences, nq, nk rounded up to 4].
    fn scores(&self, tensor: Tensor) -> Matrix {
        let row = self.size.nk.next_multiple_of(4);
        let outer = self.size.nq * row;
        Matrix { tensor, row, col: 1, outer, inner_stride: 0, inner: 1, base: 0, first: Some(0), padded: true }
    }

    /// The rounds, and the elements of a matrix of all their sequences.
    fn rounds(&self, t: &Tape) -> (Vec<Attend>, usize) {
        let Size { z, nq, nk, .. } = self.size;
        let each = nq * nk.next_multiple_of(4);
        let step = (KEPT.min(t.target.max_binding as usize / 4) / each).clamp(1, z);
        let round = |first| Attend { first, end: (first + step).min(z), ..*self };
        ((0..z).step_by(step).map(round).collect(), step * each)
    }

    /// `to = a b^T` of rows of two sides.
    fn dots(&self, t: &mut Tape, a: Side, b: Side, to: Tensor) {
        let Size { nq, nk, d, .. } = self.size;
        let size = matmul::Size { groups: self.end - self.first, m: nq, n: nk, k: d };
        product_into(t, size, [self.matrix(a), self.matrix(b).transposed(), self.scores(to)], false);
    }

    /// Launches a kernel over the rows of a round.
    fn rows(&self, t: &mut Tape, kernel: Kernel, args: &[Tensor], entropy: bool) {
        let Size { nq, nk, scale, .. } = self.size;
        let rows = (self.end - self.first) * nq;
        let words = words![rows, nk, nk.div_ceil(4), self.first * nq, scale];
        let args: Vec<Arg> = args.iter().map(|x| Arg::from(*x)).collect();
        t.launch(kernel, rows.div_ceil(4) as u64, &args, words).constant("HAS_ENTROPY", u32::from(entropy));
    }

    pub(super) fn forward_by_products(&self, t: &mut Tape, entropy: Option<Tensor>) {
        let Size { nq, nk, d, .. } = self.size;
        let (rounds, elems) = self.rounds(t);
        let alpha = t.saved([elems]);
        for this in rounds {
            this.dots(t, this.q, this.k, alpha);
            this.rows(t, WEIGHTS, &[alpha, entropy.unwrap_or(alpha)], entropy.is_some());
            let size = matmul::Size { groups: this.end - this.first, m: nq, n: d, k: nk };
            product_into(t, size, [this.scores(alpha), this.matrix(this.v), this.matrix(this.o)], false);
        }
    }

    /// Gradients of q, k and v, each where one is asked for.
    pub(super) fn backward_by_products(
        &self,
        t: &mut Tape,
        dout: Tensor,
        dentropy: Option<Tensor>,
        to: [Option<GradOut>; 3],
    ) {
        let Size { nq, nk, d, .. } = self.size;
        let (rounds, elems) = self.rounds(t);
        let (alpha, slope) = (t.saved([elems]), t.saved([elems]));
        for this in rounds {
            let dout = (dout, this.o.1);
            this.dots(t, this.q, this.k, alpha);
            this.dots(t, dout, this.v, slope);
            this.rows(t, SLOPES, &[alpha, slope, dentropy.unwrap_or(dout.0)], dentropy.is_some());
            let groups = this.end - this.first;
            let of_queries = matmul::Size { groups, m: nq, n: d, k: nk };
            let of_keys = matmul::Size { groups, m: nk, n: d, k: nq };
            let [alpha, slope] = [alpha, slope].map(|x| this.scores(x));
            // Of k and v that are one the second gradient adds to the first.
            let products = [
                (to[0], this.q.1, of_queries, slope, this.k, false),
                (to[2], this.v.1, of_keys, alpha.transposed(), dout, false),
                (to[1], this.k.1, of_keys, slope.transposed(), this.q, this.one_kv()),
            ];
            for (out, lie, size, a, b, more) in products {
                if let Some(out) = out {
                    let c = this.matrix((out.tensor, lie));
                    product_into(t, size, [a, this.matrix(b), c], out.accumulate || more);
                }
            }
        }
    }
}
