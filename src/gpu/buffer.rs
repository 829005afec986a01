//! Buffers: allocation with typed errors, uploads, read-backs.

use super::{Gpu, GpuError};

/// Allocates a storage buffer of `bytes` (rounded up to 16). Contents start as zero.
///
/// # Errors
/// [`GpuError::OutOfMemory`] when the device has no room or the size is over its largest buffer.
pub fn new_buffer(gpu: &Gpu, what: &str, bytes: u64) -> Result<wgpu::Buffer, GpuError> {
    let size = bytes.max(16).next_multiple_of(16);
    let refuse = || GpuError::OutOfMemory { what: what.to_string(), bytes: size };
    if size > gpu.limits.max_buffer_size {
        return Err(refuse());
    }
    let memory = gpu.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
    let validation = gpu.device.push_error_scope(wgpu::ErrorFilter::Validation);
    let buffer = gpu.device.create_buffer(&wgpu::BufferDescriptor {
        label: Some(what),
        size,
        usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    let refused = pollster::block_on(validation.pop());
    if pollster::block_on(memory.pop()).is_some() {
        return Err(refuse());
    }
    match refused {
        Some(e) => Err(GpuError::Validation { what: format!("a buffer for {what}"), message: e.to_string() }),
        None => Ok(buffer),
    }
}

/// Queues a write of plain data at `offset` bytes.
pub fn upload<T: bytemuck::Pod>(gpu: &Gpu, buffer: &wgpu::Buffer, offset: u64, data: &[T]) {
    gpu.queue.write_buffer(buffer, offset, bytemuck::cast_slice(data));
}

/// A buffer the host can read, of `bytes`.
pub fn staging_buffer(gpu: &Gpu, bytes: u64) -> wgpu::Buffer {
    gpu.device.create_buffer(&wgpu::BufferDescriptor {
        label: Some("read-back"),
        size: bytes.max(4).next_multiple_of(4),
        usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    })
}

/// Reads the first `bytes` of a staging buffer that submitted work fills; blocks until the queue is done.
///
/// # Errors
/// [`GpuError::Lost`] when the device is gone.
pub fn read_staging<T: bytemuck::Pod>(gpu: &Gpu, staging: &wgpu::Buffer, bytes: u64) -> Result<Vec<T>, GpuError> {
    staging.slice(..).map_async(wgpu::MapMode::Read, |_| {});
    gpu.wait()?;
    let view = staging.slice(..).get_mapped_range().map_err(|e| GpuError::Lost(format!("read-back failed: {e:?}")))?;
    Ok(bytemuck::pod_collect_to_vec(&view[..bytes as usize]))
}

/// Reads `len` values back from `offset` bytes; blocks until the queue is done.
///
/// # Errors
/// [`GpuError::Lost`] when the device is gone.
pub fn download<T: bytemuck::Pod>(
    gpu: &Gpu,
    buffer: &wgpu::Buffer,
    offset: u64,
    len: usize,
) -> Result<Vec<T>, GpuError> {
    let bytes = (len * size_of::<T>()) as u64;
    let staging = staging_buffer(gpu, bytes);
    let mut encoder = gpu.device.create_command_encoder(&Default::default());
    encoder.copy_buffer_to_buffer(buffer, offset, &staging, 0, bytes.next_multiple_of(4));
    gpu.queue.submit([encoder.finish()]);
    read_staging(gpu, &staging, bytes)
}
