//! From a grid of cells to a training set: descriptors, strata, and a genetic algorithm in each stratum.

#[cfg(feature = "gdal")]
pub mod annotate;
pub mod area;
pub mod backend;
pub mod breeding;
pub mod checkpoint;
pub mod classes;
pub mod distance;
pub mod elementary;
pub mod export;
pub mod filter;
pub mod fitness;
pub mod genetic;
pub mod grid;
pub mod lanes;
pub mod lockstep;
pub mod manifest;
pub mod nearest;
pub mod neighbours;
pub mod pairs;
pub mod pictures;
pub mod place;
#[cfg(feature = "gdal")]
pub mod raster;
pub mod rng;
pub mod sample;
pub mod site_table;
pub mod stats;
pub mod strata;
pub mod utm;

pub use crate::data::table;

#[cfg(test)]
mod proof;
