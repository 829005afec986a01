//! Tensors as handles, the tape that records a program, and the program that replays it.
//!
//! Architecture Invariant: nothing here knows a model; "sensor" and "expert" never appear.

mod gradients;
mod params;
mod program;
mod rng;
mod shape;
mod tape;

pub use gradients::GradOut;
pub use params::{Init, Kind, Names, ParamId, ParamStore, Params};
pub use program::{MemoryPlan, Program, Ran, Timing};
pub use rng::Rng;
pub use shape::{Shape, Tensor};
pub use tape::{Arg, External, Launch, Tape, Word, Work};
