//! Training: masks, schedule, the loop, checkpoints, metrics.

pub mod masks;
