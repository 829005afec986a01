//! What a trained model is good for: embeddings, read-outs, neighbours, reconstructions, and the proof of a step.
//!
//! A run folder holds `config.json` and `model.safetensors`. Architecture Invariant: nothing here names wgpu.

pub mod bench;
pub mod bench_data;
pub mod doctor;
mod embed;
mod logistic;
mod neighbours;
mod readout;
mod reconstruct;
mod verify;

pub use embed::{Embedder, Embeddings, Encoder, Strategy, open_run};
pub use logistic::{Accuracy, Logistic};
pub use neighbours::{Neighbours, sheet as neighbour_sheet};
pub use readout::{Readout, readout};
pub use reconstruct::{Reconstructed, check_count, reconstruct, sheet as reconstruction_sheet};
pub use verify::{VerifiedStep, verify_step};
