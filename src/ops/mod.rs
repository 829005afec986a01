//! Operations: one file per kernel family, each with its shapes, forward, backward and f64 reference.

pub mod attention;
mod basic;
pub mod matmul;
pub mod norms;
pub mod reduce;
pub mod tokens;

pub use attention::{combine, dispatch, multi_head};
pub use basic::{add, fill, scale};
pub use matmul::{Mlp, linear, mlp};
pub use norms::{layer_norm, rms_norm};
pub use reduce::{mean_axis, segment_mean, sum_scaled};
pub use tokens::{assemble, patches, scatter, spread_slots};
