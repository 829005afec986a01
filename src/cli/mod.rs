//! cli

#[cfg(feature = "gdal")]
pub mod annotate;
pub mod grid;
pub mod sample;
pub mod stats;
