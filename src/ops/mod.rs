//! Operations: one file per kernel family, each with its shapes, forward, backward and f64 reference.

mod basic;
pub mod matmul;
pub mod norms;
pub mod tokens;

pub use basic::{add, fill, scale};
pub use matmul::{Mlp, linear, mlp};
pub use norms::{layer_norm, rms_norm};
pub use tokens::{assemble, patches, scatter};
