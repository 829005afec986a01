//! Attention by the product kernel, and what happens to the matrix's rows between two products. Of so many sequences at a
//! time that a matrix of all of them stays small. The backward makes the weights again, unless they are so few that they
//! were kept.
//!                                                                                   kernels/attention_rows.wgsl

use super::super::matmul::{self, Matrix, product_into};
use super::{Attend, Grads, Lie, Side, Size, Way};
use crate::gpu::{DeviceClass, Kernel};
use crate::tensor::{Arg, Launch, Tape, Tensor};
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

    /// The matrices of a round's sequences in one of [sequences, nq, nk rounded up to 4] that begins with sequence `from`.
    pub(super) fn scores(&self, tensor: Tensor, from: usize) -> Matrix {
        let row = self.size.nk.next_multiple_of(4);
        let outer = self.size.nq * row;
        let first = Some(self.first - from);
        Matrix { tensor, row, col: 1, outer, inner_stride: 0, inner: 1, base: 0, first, padded: true }
    }

    /// Whether the weights of all sequences stay for the backward: where a row of them is no longer than its query, as in
    /// Soft MoE, they are few and their product is dear.
    fn keeps(&self, t: &Tape) -> bool {
        let Size { z, nq, nk, d, .. } = self.size;
        nk <= d && (4 * z * nq * nk.next_multiple_of(4)) as u64 <= t.target.max_binding
    }

    /// `to = a b^T` of rows of two sides.
    fn dots(&self, t: &mut Tape, a: Side, b: Side, to: Matrix) {
        let Size { nq, nk, d, .. } = self.size;
        let size = matmul::Size { groups: self.end - self.first, m: nq, n: nk, k: d };
        product_into(t, size, [self.matrix(a), self.matrix(b).transposed(), to], false);
    }

    /// A kernel over the rows of a round, of which those of the first of `args` begin with sequence `from`.
    fn rows<'a>(&self, t: &'a mut Tape, kernel: Kernel, args: &[Tensor], from: usize, entropy: bool) -> &'a mut Launch {
        let Size { nq, nk, scale, .. } = self.size;
        let rows = (self.end - self.first) * nq;
        let words = words![rows, nk, nk.div_ceil(4), self.first * nq, (self.first - from) * nq, scale];
        let args: Vec<Arg> = args.iter().map(|x| Arg::from(*x)).collect();
        // On a CPU's vector units a lane takes a row: no sum crosses lanes.
        let (lanes, share) = match t.target.class {
            DeviceClass::Hardware => (64, 16),
            DeviceClass::Software => (t.target.lanes, 1),
        };
        t.launch(kernel, rows.div_ceil((lanes / share) as usize) as u64, &args, words)
            .constant("LANES", lanes)
            .constant("SHARE", share)
            .constant("HAS_ENTROPY", u32::from(entropy))
    }

    pub(super) fn forward_by_products(&self, t: &mut Tape, entropy: Option<Tensor>) -> Way {
        let Size { z, nq, nk, d, .. } = self.size;
        let (rounds, elems) = self.rounds(t, 1);
        let kept = self.keeps(t).then(|| t.saved([z * nq * nk.next_multiple_of(4)]));
        let alpha = kept.unwrap_or_else(|| t.saved([elems]));
        for this in rounds {
            let from = if kept.is_some() { 0 } else { this.first };
            let weights = this.scores(alpha, from);
            this.dots(t, this.q, this.k, weights);
            this.rows(t, WEIGHTS, &[alpha, entropy.unwrap_or(alpha)], from, entropy.is_some());
            let size = matmul::Size { groups: this.end - this.first, m: nq, n: d, k: nk };
            product_into(t, size, [weights, this.matrix(this.v), this.matrix(this.o)], false);
        }
        Way::Products(kept)
    }

    /// Gradients of q, k and v, each where one is asked for.
    pub(super) fn backward_by_products(
        &self,
        t: &mut Tape,
        dout: Tensor,
        kept: Option<Tensor>,
        dentropy: Option<Tensor>,
        [dq, dk, dv]: Grads,
    ) {
        let Size { nq, nk, d, .. } = self.size;
        let (rounds, elems) = self.rounds(t, if kept.is_some() { 1 } else { 2 });
        let alpha = kept.unwrap_or_else(|| t.saved([elems]));
        let slope = t.saved([elems]);
        for this in rounds {
            let dout = (dout, this.o.1);
            let from = if kept.is_some() { 0 } else { this.first };
            let [weights, slopes] = [this.scores(alpha, from), this.scores(slope, this.first)];
            if kept.is_none() {
                this.dots(t, this.q, this.k, weights);
            }
            this.dots(t, dout, this.v, slopes);
            this.rows(t, SLOPES, &[alpha, slope, dentropy.unwrap_or(dout.0)], from, dentropy.is_some())
                .constant("KEPT", u32::from(kept.is_some()));
            let groups = this.end - this.first;
            let of_queries = matmul::Size { groups, m: nq, n: d, k: nk };
            let of_keys = matmul::Size { groups, m: nk, n: d, k: nq };
            // Of k and v that are one the second gradient adds to the first.
            let products = [
                (dq, this.q.1, of_queries, slopes, this.k, false),
                (dv, this.v.1, of_keys, weights.transposed(), dout, false),
                (dk, this.k.1, of_keys, slopes.transposed(), this.q, this.one_kv()),
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
