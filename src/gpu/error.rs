//! What can go wrong on a GPU, as types, so that callers can choose an exit code or a retry.

use thiserror::Error;

/// A failure of the device or of a request to it.
#[derive(Debug, Error)]
pub enum GpuError {
    #[error(
        "no GPU adapter was found: install a Vulkan, Metal or DX12 driver (tools/software-gpu.sh install gives a software one)"
    )]
    NoAdapter,
    #[error("no adapter matches '{asked}': `csmoe devices` lists what is here ({have})")]
    AdapterNotFound { asked: String, have: String },
    #[error("the adapter refused a device: {0}")]
    DeviceRefused(String),
    #[error("out of GPU memory: {what} needs {bytes} bytes more; try a smaller --batch")]
    OutOfMemory { what: String, bytes: u64 },
    #[error("{what} needs a binding of {bytes} bytes and this adapter allows {limit}; try a smaller --batch")]
    BindingTooLarge { what: String, bytes: u64, limit: u64 },
    #[error("the GPU device was lost: {0}")]
    Lost(String),
    #[error("the GPU refused {what}: {message}")]
    Validation { what: String, message: String },
}

impl GpuError {
    /// Exit code of the program when this error ends it.
    pub fn exit_code(&self) -> i32 {
        match self {
            GpuError::NoAdapter | GpuError::AdapterNotFound { .. } => 3,
            GpuError::OutOfMemory { .. } | GpuError::BindingTooLarge { .. } => 4,
            GpuError::Lost(_) => 5,
            _ => 1,
        }
    }
}
