//! Attention of narrow heads on a software device: a lane keeps whole rows and walks over the other side.
//!                                                                                   kernels/attention_lanes.wgsl

use super::{ADD_K, ADD_Q, ADD_V, Attend, Grads, Size, Way};
use crate::gpu::Kernel;
use crate::tensor::{Arg, Tape, Tensor};

const FORWARD: Kernel = Kernel::new("attention_lanes", "forward");
const SLOPES: Kernel = Kernel::new("attention_lanes", "slopes");
const BACKWARD_KV: Kernel = Kernel::new("attention_lanes", "backward_kv");
/// Widest head of which a lane can keep some rows whole.
const WIDEST: usize = 64;
/// Widest head of which it can keep a row of q, one of dout and the gradient of one.
const WIDEST_THREE: usize = 32;
/// Elements of q and dout of a sequence that fit the workgroup memory of `backward_kv`.
const ROOM: usize = 4 * 2048;

/// Blocks of `n` rows in which every lane has four, and how many it has in a last block of fewer; 4 where there is none.
fn blocks(n: usize, lanes: usize) -> (usize, usize) {
    let most = 4 * lanes;
    match (n % most).div_ceil(lanes) {
        last @ 1..4 => (n / most, last),
        _ => (n.div_ceil(most), 4),
    }
}

impl Attend {
    pub(super) fn narrow(&self) -> bool {
        self.size.d <= WIDEST
    }

    /// Launches a kernel over every sequence's queries. It binds what any of its file's functions could look at.
    fn by_query(&self, t: &mut Tape, kernel: Kernel, args: &[Tensor], with_q: bool, flags: u32) {
        let n = self.size.nq;
        let lanes = t.target.lanes.min(64);
        let (whole, last) = blocks(n, lanes as usize);
        let first = n.min(whole * 4 * lanes as usize);
        let kernel = kernel.rows(self.size.d as u32 / 4);
        let narrower = kernel.columns(last.max(2) as u32);
        let args: Vec<Arg> = args.iter().map(|x| Arg::from(*x)).collect();
        for (from, rows, blocks, kernel) in [(0, first, whole, kernel), (first, n - first, 1, narrower)] {
            if rows > 0 {
                let number = ((self.end - self.first) * blocks) as u64;
                let launch = t.launch(kernel, number, &args, &self.words(blocks, from, flags));
                let products = if with_q { 3.0 } else { 2.0 };
                launch.constant("LANES", lanes).flops(products * self.flops() * rows as f64 / n as f64);
                if with_q {
                    launch.constant("WITH_Q", 1);
                }
            }
        }
    }

    pub(super) fn forward_by_lanes(&self, t: &mut Tape) -> Way {
        let Size { z, nq, .. } = self.size;
        let lse = t.saved([z * nq]);
        let [q, k, v, o] = [self.q.0, self.k.0, self.v.0, self.o.0];
        self.by_query(t, FORWARD, &[q, q, o, o, k, v, q, lse], false, 0);
        Way::Lanes(lse)
    }

    /// The weights of a round's sequences and the gradients of their scores. Narrow heads' gradients of q, k and v are found
    /// on the way; what is left for products to do comes back.
    pub(super) fn slopes_by_lanes(
        &self,
        t: &mut Tape,
        dout: Tensor,
        lse: Tensor,
        [alpha, slope]: [Tensor; 2],
        [dq, dk, dv]: Grads,
    ) -> Grads {
        let Size { nq, nk, d, .. } = self.size;
        let [q, k, v, o] = [self.q.0, self.k.0, self.v.0, self.o.0];
        let flag = |set: bool, flag: u32| if set { flag } else { 0 };
        let narrow = d <= WIDEST_THREE;
        let with_q = dq.filter(|_| narrow);
        let to = with_q.map_or(alpha, |dq| dq.tensor);
        let add = flag(with_q.is_some_and(|dq| dq.accumulate), ADD_Q);
        self.by_query(t, SLOPES, &[q, dout, to, to, k, v, o, lse, alpha, slope], with_q.is_some(), add);
        let dq = dq.filter(|_| !narrow);
        let Some((to_k, to_v)) = dk.zip(dv).filter(|_| narrow && 2 * d * nq.next_multiple_of(4) <= ROOM) else {
            return [dq, dk, dv];
        };
        let lanes = t.target.lanes.min(64);
        let (blocks, last) = blocks(nk, lanes as usize);
        let add = flag(to_k.accumulate, ADD_K) | flag(to_v.accumulate, ADD_V);
        let args = [q, dout, to_k.tensor, to_v.tensor, alpha, slope].map(Arg::from);
        let kernel = BACKWARD_KV.rows(d as u32 / 4);
        t.launch(kernel, (self.end - self.first) as u64, &args, &self.words(blocks, 0, add))
            .constant("LANES", lanes)
            .constant("LAST", last as u32)
            .flops(2.0 * self.flops());
        [dq, None, None]
    }
}
