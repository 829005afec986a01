//! The GPU: choosing a device, its limits, kernels, pipelines, buffers, timing and errors.
//!
//! Architecture Invariant: nothing here knows a model; "sensor" and "expert" never appear.

mod buffer;
mod device;
mod error;
mod kernel;
mod pipeline;
mod report;
mod staging;
mod target;
mod variants;

pub use buffer::{download, new_buffer, read_staging, staging_buffer, upload};
pub use device::{AdapterChoice, Gpu, adapters, cache_folder, describe};
pub use error::GpuError;
pub use kernel::{Kernel, all_sources, source};
pub use pipeline::{Binding, Pipeline};
pub use report::{AdapterReport, reports};
pub use staging::Staging;
pub use target::{DeviceClass, Target};
pub use variants::Variant;
