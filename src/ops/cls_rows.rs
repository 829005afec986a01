//! y[b] = x[b, 0]                                                                     kernels/cls_rows.wgsl

use crate::gpu::Kernel;
use crate::tensor::{Tape, Tensor};
use crate::words;
use anyhow::Result;

const GATHER: Kernel = Kernel::new("cls_rows", "gather");
const SCATTER: Kernel = Kernel::new("cls_rows", "scatter");
const SCATTER_ADD: Kernel = Kernel::new("cls_rows", "scatter_add");
const LANES: usize = 64;

/// The first token, CLS, of every sequence: `x` [B, N, D] -> [B, D].
///
/// # Errors
/// `x` without three dimensions.
pub fn cls_rows(t: &mut Tape, x: Tensor) -> Result<Tensor> {
    let [batch, tokens, width] = x.dims("cls_rows: x")?;
    let y = t.value([batch, width], &[x]);
    let n = y.elems();
    t.launch(GATHER, n.div_ceil(LANES) as u64, &[y.into(), x.into()], words![n, tokens, width]);
    t.on_backward(move |t| {
        if let (Some(dy), Some(dx)) = (t.grad(y), t.grad_out(x)) {
            let args = [dx.tensor.into(), dy.into()];
            if dx.accumulate {
                t.launch(SCATTER_ADD, n.div_ceil(LANES) as u64, &args, words![n, tokens, width]);
            } else {
                let (rows, lanes) = (batch * tokens, t.target.lanes.min(64));
                t.launch(SCATTER, rows as u64, &args, words![rows, tokens, width]).constant("LANES", lanes);
            }
        }
        Ok(())
    });
    Ok(y)
}

/// The specification.
pub fn reference(x: &[f64], tokens: usize, width: usize) -> Vec<f64> {
    x.chunks(tokens * width).flat_map(|sequence| sequence[..width].to_vec()).collect()
}
