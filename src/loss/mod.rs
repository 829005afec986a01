//! The objective of pretraining: reconstructions, mutual information, slot repulsion, routing entropy.

mod objective;

pub use objective::{NAMES, Objective, Terms};
