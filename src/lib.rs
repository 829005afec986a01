//! CSMoE on any GPU: a small tensor engine on wgpu, the model, its training, data and evaluation.
//!
//! Arrows between the rooms run downward only; ARCHITECTURE.md walks through them.

pub mod gpu;
pub mod tensor;

pub mod ops;

pub mod data;

pub mod nn;

pub mod model;

pub mod loss;

pub mod train;

pub mod eval;

pub mod sampling;

pub mod cli;
