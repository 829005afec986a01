//! Operations: one file per kernel family, each with its shapes, forward, backward and f64 reference.

mod basic;
pub mod matmul;

pub use basic::{add, fill, scale};
pub use matmul::{Mlp, linear, mlp};
