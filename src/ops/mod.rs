//! Operations: one file per kernel family, each with its shapes, forward, backward and f64 reference.

pub mod adamw;
pub mod attention;
mod basic;
pub mod geodesic;
pub mod gram;
pub mod masked_loss;
pub mod matmul;
pub mod norms;
pub mod nt_xent;
pub mod prepare;
pub mod reduce;
pub mod routing;
pub mod tokens;

pub use attention::multi_head;
pub use basic::{add, fill, scale};
pub use geodesic::geodesic;
pub use gram::gram_square;
pub use masked_loss::masked_patch_loss;
pub use matmul::{Mlp, linear, mlp};
pub use norms::{layer_norm, rms_norm};
pub use nt_xent::{nt_xent, nt_xent_stacked};
pub use prepare::prepare;
pub use reduce::{mean_axis, segment_mean, sum_scaled};
pub use routing::{combine, dispatch, logits};
pub use tokens::{assemble, cls_rows, gather_rows, patches, scatter, spread_slots};
