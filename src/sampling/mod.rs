//! From a grid of cells to a training set: descriptors, strata, and a genetic algorithm in each stratum.

pub mod area;
pub mod distance;
pub mod elementary;
pub mod fitness;
pub mod genetic;
pub mod grid;
pub mod lanes;
pub mod neighbours;
pub mod pairs;
pub mod rng;
pub mod utm;
