//! Attention of narrow heads on a software device: a lane keeps whole rows and walks over the other side.
//!                                                                                   kernels/attention_lanes.wgsl

use super::super::matmul::{self, Matrix, product_into};
use super::{ADD_K, ADD_Q, ADD_V, Attend, Grads, Size, Way};
use crate::gpu::Kernel;
use crate::tensor::{Arg, Tape, Tensor};

const FORWARD: Kernel = Kernel::new("attention_lanes", "forward");
const BACKWARD_Q: Kernel = Kernel::new("attention_lanes", "backward_q");
const BACKWARD_KV: Kernel = Kernel::new("attention_lanes", "backward_kv");
/// Widest head of which a lane can keep some rows whole.
const WIDEST: usize = 64;
/// Widest head of which it can keep the gradients of both keys and values.
const WIDEST_PAIR: usize = 32;

impl Attend {
    pub(super) fn narrow(&self) -> bool {
        self.size.d <= WIDEST
    }

    /// Launches a kernel over `n` rows of every sequence of a round. It binds what any of its file's functions could look at.
    fn lanes(&self, t: &mut Tape, kernel: Kernel, n: usize, args: &[Tensor], flags: u32, products: f64) {
        let lanes = t.target.lanes.min(64);
        let most = 4 * lanes as usize;
        // A last workgroup of few rows has fewer a lane.
        let columns = (n % most).div_ceil(lanes as usize).max(2);
        let rest = if columns < 4 { n % most } else { 0 };
        let kernel = kernel.rows(self.size.d as u32 / 4);
        let args: Vec<Arg> = args.iter().map(|x| Arg::from(*x)).collect();
        for (from, rows, kernel) in [(0, n - rest, kernel), (n - rest, rest, kernel.columns(columns as u32))] {
            if rows > 0 {
                let blocks = rows.div_ceil(most);
                let number = ((self.end - self.first) * blocks) as u64;
                t.launch(kernel, number, &args, &self.words(blocks, from, flags))
                    .constant("LANES", lanes)
                    .flops(products * self.flops() * rows as f64 / n as f64);
            }
        }
    }

    pub(super) fn forward_by_lanes(&self, t: &mut Tape) -> Way {
        let Size { z, nq, .. } = self.size;
        let lse = t.saved([z * nq]);
        let [q, k, v, o] = [self.q.0, self.k.0, self.v.0, self.o.0];
        self.lanes(t, FORWARD, nq, &[q, k, v, q, lse, o, o, q], 0, 2.0);
        Way::Lanes(lse)
    }

    pub(super) fn backward_by_lanes(&self, t: &mut Tape, dout: Tensor, lse: Tensor, to: Grads) {
        let Size { nq, nk, d, .. } = self.size;
        let [q, k, v, o] = [self.q.0, self.k.0, self.v.0, self.o.0];
        let [dq, dk, dv] = to;
        let dkv = dk.zip(dv);
        if dq.is_none() && dkv.is_none() {
            return;
        }
        let flag = |set: bool, flag: u32| if set { flag } else { 0 };
        let add_q = flag(dq.is_some_and(|g| g.accumulate), ADD_Q);
        // What k and v need is found on the way to q.
        let dq = dq.map_or_else(|| t.saved(self.q.0.shape()), |dq| dq.tensor);
        let (rounds, elems) = self.rounds(t, 2);
        let kept = t.saved([2 * elems]);
        for this in rounds {
            this.lanes(t, BACKWARD_Q, nq, &[q, k, v, dout, lse, dq, dq, o, kept], add_q, 3.0);
            let Some((dk, dv)) = dkv else { continue };
            if d <= WIDEST_PAIR {
                let add = flag(dk.accumulate, ADD_K) | flag(dv.accumulate, ADD_V);
                this.lanes(t, BACKWARD_KV, nk, &[q, k, v, dout, kept, dk.tensor, dv.tensor], add, 2.0);
                continue;
            }
            let size = matmul::Size { groups: this.end - this.first, m: nk, n: d, k: nq };
            // A row of weights and its slopes take turns.
            let Matrix { row, outer, .. } = this.scores(kept);
            for (out, lie, base, b) in [(dv, this.v.1, 0, (dout, this.o.1)), (dk, this.k.1, row, this.q)] {
                let a = Matrix { row: 2 * row, outer: 2 * outer, base, ..this.scores(kept) };
                let matrices = [a.transposed(), this.matrix(b), this.matrix((out.tensor, lie))];
                product_into(t, size, matrices, out.accumulate);
            }
        }
    }
}
