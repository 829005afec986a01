//! Soft MoE's routing (Puigcerver et al. 2024): dispatch and combine are two attentions over the same logits, which are made
//! once, as a product, and whose gradients meet before they become products again.        kernels/routing.wgsl

use super::attention;
use super::matmul::{Matrix, Size, product_into};
use crate::gpu::Kernel;
use crate::tensor::{Arg, GradOut, Launch, Tape, Tensor};
use crate::words;
use anyhow::Result;

const DISPATCH: Kernel = Kernel::new("routing", "dispatch");
const COMBINE: Kernel = Kernel::new("routing", "combine");
const DISPATCH_BACKWARD: Kernel = Kernel::new("routing", "dispatch_backward");
const COMBINE_BACKWARD: Kernel = Kernel::new("routing", "combine_backward");

/// The logits of a layer's slots and tokens.
#[derive(Clone, Copy)]
pub struct Logits {
    slots: Tensor,
    keys: Tensor,
    /// [z, s, n rounded up to 4], where products make them; elsewhere dispatch and combine each make their own.
    shared: Option<Tensor>,
    z: usize,
    s: usize,
    n: usize,
    d: usize,
}

impl Logits {
    /// A matrix by slot and token in memory.
    fn matrix(&self, tensor: Tensor) -> Matrix {
        Matrix::padded(tensor, self.s, self.n)
    }

    fn of_slots(&self, tensor: Tensor) -> Matrix {
        Matrix::new(tensor, self.s, self.d, 1)
    }

    fn of_tokens(&self, tensor: Tensor) -> Matrix {
        Matrix::new(tensor, self.n, self.d, 1)
    }

    /// Room for a matrix by slot and token.
    fn room(&self, t: &mut Tape) -> Tensor {
        t.saved([self.z, self.s, self.n.next_multiple_of(4)])
    }

    /// `to = slots tokens^T`.
    fn dots(&self, t: &mut Tape, slots: Tensor, tokens: Tensor, to: Tensor) {
        let size = Size { groups: self.z, m: self.s, n: self.n, k: self.d };
        product_into(t, size, [self.of_slots(slots), self.of_tokens(tokens).transposed(), self.matrix(to)], false);
    }

    /// Every slot's mixture of the tokens: `to = weights tokens`, or `+=`.
    fn mix_to_slots(&self, t: &mut Tape, weights: Tensor, tokens: Tensor, to: GradOut) {
        let size = Size { groups: self.z, m: self.s, n: self.d, k: self.n };
        let matrices = [self.matrix(weights), self.of_tokens(tokens), self.of_slots(to.tensor)];
        product_into(t, size, matrices, to.accumulate);
    }

    /// Every token's mixture of the slots: `to = weights^T slots`, or `+=`.
    fn mix_to_tokens(&self, t: &mut Tape, weights: Tensor, slots: Tensor, to: GradOut) {
        let size = Size { groups: self.z, m: self.n, n: self.d, k: self.s };
        let matrices = [self.matrix(weights).transposed(), self.of_slots(slots), self.of_tokens(to.tensor)];
        product_into(t, size, matrices, to.accumulate);
    }

    fn words(&self, scale: f32) -> Vec<u32> {
        words![self.z * self.s, self.n, self.n.div_ceil(4), self.s, scale].to_vec()
    }

    /// A kernel over the rows, a slot each.
    fn by_slot<'a>(&self, t: &'a mut Tape, kernel: Kernel, args: &[Tensor], scale: f32) -> &'a mut Launch {
        attention::over_rows(t, kernel, self.z * self.s, args, &self.words(scale))
    }

    /// A kernel over the columns, four tokens a lane.
    fn by_token<'a>(&self, t: &'a mut Tape, kernel: Kernel, args: &[Tensor]) -> &'a mut Launch {
        let lanes = t.target.lanes.min(64);
        let groups = (self.z * self.n.div_ceil(4)).div_ceil(lanes as usize);
        let args: Vec<Arg> = args.iter().map(|x| Arg::from(*x)).collect();
        t.launch(kernel, groups as u64, &args, &self.words(1.0)).constant("LANES", lanes)
    }
}

/// The logits `<slot, key>` of `slots` [Z, S, D] and the tokens' `keys` [Z, N, D].
///
/// # Errors
/// Shapes that do not fit.
pub fn logits(t: &mut Tape, slots: Tensor, keys: Tensor) -> Result<Logits> {
    let [z, s, d] = slots.dims("logits: slots")?;
    let [_, n, _] = keys.dims("logits: keys")?;
    keys.expect("logits: keys", [z, n, d])?;
    let mut this = Logits { slots, keys, shared: None, z, s, n, d };
    let fits = (4 * z * s * n.next_multiple_of(4)) as u64 <= t.target.max_binding;
    if !t.target.fuse || !fits || !attention::for_products(t, s, n, d) {
        return Ok(this);
    }
    let matrix = t.value([z, s, n.next_multiple_of(4)], &[slots, keys]);
    this.shared = Some(matrix);
    this.dots(t, slots, keys, matrix);
    t.on_backward(move |t| {
        let Some(dl) = t.grad(matrix) else { return Ok(()) };
        if let Some(to) = t.grad_out(slots) {
            this.mix_to_slots(t, dl, keys, to);
        }
        if let Some(to) = t.grad_out(keys) {
            this.mix_to_tokens(t, dl, slots, to);
        }
        Ok(())
    });
    Ok(this)
}

/// Dispatch (eq. 1): every slot is a mixture of the tokens, weighted by the softmax over tokens of the logits / tau:
/// `tokens` [Z, N, D] -> [Z, S, D], and by slot the sum over its weights of `alpha ln(alpha + 1e-8)` [Z, S].
///
/// # Errors
/// Shapes that do not fit.
pub fn dispatch(t: &mut Tape, logits: Logits, tokens: Tensor, tau: f32) -> Result<(Tensor, Tensor)> {
    let Logits { slots, keys, shared, z, s, n, d } = logits;
    tokens.expect("dispatch: tokens", [z, n, d])?;
    let scale = 1.0 / tau;
    let Some(l) = shared else {
        let (o, entropy) = attention::plain(t, [slots, keys, tokens], scale, true)?;
        return Ok((o, entropy.expect("the entropies were asked for")));
    };
    let alpha = logits.room(t);
    let entropy = t.value([z, s], &[l]);
    let o = t.value([z, s, d], &[l, tokens]);
    logits.by_slot(t, DISPATCH, &[l, alpha, entropy], scale);
    logits.mix_to_slots(t, alpha, tokens, GradOut { tensor: o, accumulate: false });
    t.on_backward(move |t| {
        let dentropy = t.grad(entropy);
        let Some(dout) = t.grad(o) else { return Ok(()) };
        if let Some(to) = t.grad_out(tokens) {
            logits.mix_to_tokens(t, alpha, dout, to);
        }
        if let Some(dl) = t.grad_out(l) {
            let g = logits.room(t);
            logits.dots(t, dout, tokens, g);
            logits
                .by_slot(t, DISPATCH_BACKWARD, &[alpha, g, dl.tensor, dentropy.unwrap_or(alpha)], scale)
                .constant("ACCUMULATE", u32::from(dl.accumulate))
                .constant("HAS_ENTROPY", u32::from(dentropy.is_some()));
        }
        Ok(())
    });
    Ok((o, entropy))
}

/// Combine (eq. 3): every token is a mixture of the experts' results, weighted by the softmax over slots of the logits:
/// `results` [Z, S, D] -> [Z, N, D].
///
/// # Errors
/// Shapes that do not fit.
pub fn combine(t: &mut Tape, logits: Logits, results: Tensor) -> Result<Tensor> {
    let Logits { slots, keys, shared, z, s, n, d } = logits;
    results.expect("combine: results", [z, s, d])?;
    let Some(l) = shared else {
        return Ok(attention::plain(t, [keys, slots, results], 1.0, false)?.0);
    };
    let beta = logits.room(t);
    let o = t.value([z, n, d], &[l, results]);
    logits.by_token(t, COMBINE, &[l, beta]);
    logits.mix_to_tokens(t, beta, results, GradOut { tensor: o, accumulate: false });
    t.on_backward(move |t| {
        let Some(dout) = t.grad(o) else { return Ok(()) };
        if let Some(to) = t.grad_out(results) {
            logits.mix_to_slots(t, beta, dout, to);
        }
        if let Some(dl) = t.grad_out(l) {
            let g = logits.room(t);
            logits.dots(t, results, dout, g);
            logits
                .by_token(t, COMBINE_BACKWARD, &[beta, g, dl.tensor])
                .constant("ACCUMULATE", u32::from(dl.accumulate));
        }
        Ok(())
    });
    Ok(o)
}
