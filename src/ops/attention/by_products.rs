//! Attention by the product kernel, and what happens to the matrix's rows between two products. Of so many sequences at a
//! time that a matrix of all of them stays small; the backward makes the weights again.
//!                                                                                   kernels/attention_rows.wgsl

use super::super::matmul::{self, Matrix, product_into};
use super::{Attend, Grads, Lie, Side, Size, Way, over_rows};
use crate::gpu::Kernel;
use crate::tensor::{Tape, Tensor};
use crate::words;

const WEIGHTS: Kernel = Kernel::new("attention_rows", "weights");
const SLOPES: Kernel = Kernel::new("attention_rows", "slopes");

impl Attend {
    /// The rows of a side, sequence by sequence.
    pub(super) fn matrix(&self, (tensor, lie): Side) -> Matrix {
        let Lie { outer, inner: inner_stride, row, base } = lie;
        let inner = self.size.inner;
        Matrix { tensor, row, col: 1, outer, inner_stride, inner, base, first: Some(self.first), padded: false }
    }

    /// The matrices of a round's sequences: [sequences, nq, nk rounded up to 4].
    pub(super) fn scores(&self, tensor: Tensor) -> Matrix {
        Matrix { first: Some(0), ..Matrix::padded(tensor, self.size.nq, self.size.nk) }
    }

    /// `to = a b^T` of rows of two sides.
    fn dots(&self, t: &mut Tape, a: Side, b: Side, to: Tensor) {
        let Size { nq, nk, d, .. } = self.size;
        let size = matmul::Size { groups: self.end - self.first, m: nq, n: nk, k: d };
        product_into(t, size, [self.matrix(a), self.matrix(b).transposed(), self.scores(to)], false);
    }

    /// Launches a kernel over the rows of a round.
    fn rows(&self, t: &mut Tape, kernel: Kernel, args: &[Tensor]) {
        let Size { nq, nk, scale, .. } = self.size;
        let rows = (self.end - self.first) * nq;
        over_rows(t, kernel, rows, args, words![rows, nk, nk.div_ceil(4), scale]);
    }

    pub(super) fn forward_by_products(&self, t: &mut Tape) -> Way {
        let Size { nq, nk, d, .. } = self.size;
        let (rounds, elems) = self.rounds(t, 1);
        let alpha = t.saved([elems]);
        for this in rounds {
            this.dots(t, this.q, this.k, alpha);
            this.rows(t, WEIGHTS, &[alpha]);
            let size = matmul::Size { groups: this.end - this.first, m: nq, n: d, k: nk };
            product_into(t, size, [this.scores(alpha), this.matrix(this.v), this.matrix(this.o)], false);
        }
        Way::Products
    }

    /// Gradients of q, k and v, each where one is asked for; `lse` if lanes are to find the weights and their gradients.
    pub(super) fn backward_by_products(&self, t: &mut Tape, dout: Tensor, lse: Option<Tensor>, to: Grads) {
        if to.iter().all(Option::is_none) {
            return;
        }
        let Size { nq, nk, d, .. } = self.size;
        let (rounds, elems) = self.rounds(t, 2);
        let (alpha, slope) = (t.saved([elems]), t.saved([elems]));
        for this in rounds {
            let dout = (dout, this.o.1);
            let [dq, dk, dv] = match lse {
                Some(lse) => this.slopes_by_lanes(t, dout.0, lse, [alpha, slope], to),
                None => {
                    this.dots(t, this.q, this.k, alpha);
                    this.dots(t, dout, this.v, slope);
                    this.rows(t, SLOPES, &[alpha, slope]);
                    to
                }
            };
            let groups = this.end - this.first;
            let of_queries = matmul::Size { groups, m: nq, n: d, k: nk };
            let of_keys = matmul::Size { groups, m: nk, n: d, k: nq };
            let [alpha, slope] = [alpha, slope].map(|x| this.scores(x));
            let products = [
                (dq, this.q.1, of_queries, slope, this.k),
                (dv, this.v.1, of_keys, alpha.transposed(), dout),
                (dk, this.k.1, of_keys, slope.transposed(), this.q),
            ];
            for (out, lie, size, a, b) in products {
                if let Some(out) = out {
                    let c = this.matrix((out.tensor, lie));
                    product_into(t, size, [a, this.matrix(b), c], out.accumulate);
                }
            }
        }
    }
}
