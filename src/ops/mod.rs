//! Operations: one file per kernel family, each with its shapes, forward, backward and f64 reference.

mod basic;
pub mod reduce;

pub use basic::{add, fill, scale};
pub use reduce::{mean_axis, segment_mean, sum_scaled};
