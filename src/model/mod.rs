//! The model: its configuration, its forward pass, its counts, its files.
//!
//! Architecture Invariant: nothing here names wgpu.

pub mod config;
mod csmoe;
mod decoder;
pub mod import;
pub mod summary;
pub mod weights;

pub use config::{Config, DecoderConfig, LossConfig, MaskMode, PRESETS};
pub use csmoe::{Batch, Csmoe, Encoded, MaskInputs};
pub use decoder::Decoder;
