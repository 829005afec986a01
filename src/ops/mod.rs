//! Operations: one file per kernel family, each with its shapes, forward, backward and f64 reference.

mod basic;

pub use basic::{add, fill, scale};
