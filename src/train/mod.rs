//! Training: settings, masks, schedule, the step's programs, the loop, checkpoints, metrics.
//!
//! Architecture Invariant: nothing here names wgpu.

mod checkpoint;
mod events;
pub mod masks;
mod memory;
mod metrics;
mod rooms;
mod run;
mod schedule;
mod settings;
mod start;
mod step;

pub use checkpoint::{Checkpoint, State};
pub use memory::{Budget, Footprint, check_fit, largest_batch};
pub use metrics::Record;
pub use rooms::{Mapped, ring_bytes, rooms, staged};
pub use run::{Observer, Outcome, Pretrain, Report};
pub use schedule::Schedule;
pub use settings::{Settings, Span};
pub use start::Start;
pub use step::{EvalProgram, TrainProgram, feed, plan, write_masks};
