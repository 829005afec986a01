//! Memory that both sides see: any thread fills it, a program's own submit copies it to its inputs.

use super::{Gpu, GpuError};

/// A mapped buffer of f32. It may be write-combined memory: fast to write in order, not to be read.
pub struct Staging {
    buffer: wgpu::Buffer,
    /// None while the device has it.
    view: Option<wgpu::BufferViewMut>,
    len: usize,
}

impl Staging {
    /// Allocates room for `len` values, all zero.
    ///
    /// # Errors
    /// [`GpuError::OutOfMemory`].
    pub fn new(gpu: &Gpu, len: usize) -> Result<Self, GpuError> {
        let bytes = len as u64 * 4;
        let refuse = || GpuError::OutOfMemory { what: "pixels on their way to the device".into(), bytes };
        if bytes == 0 || bytes > gpu.limits.max_buffer_size {
            return Err(refuse());
        }
        let memory = gpu.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let buffer = gpu.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("staging"),
            size: bytes,
            usage: wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: true,
        });
        if pollster::block_on(memory.pop()).is_some() {
            return Err(refuse());
        }
        let mut staging = Staging { buffer, view: None, len };
        staging.open()?;
        Ok(staging)
    }

    /// How many values it holds.
    pub fn len(&self) -> usize {
        self.len
    }

    /// It is never empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Writes values at `at`.
    ///
    /// # Panics
    /// Values beyond its end, or while the device has it.
    pub fn put(&mut self, at: usize, values: &[f32]) {
        let view = self.view.as_mut().expect("staging memory is the device's");
        view.slice(4 * at..4 * (at + values.len())).copy_from_slice(bytemuck::cast_slice(values));
    }

    /// Records the copy of all of it to the start of `target` and gives it to the device. The host has it back after
    /// [`Staging::map`] and, once the work is done, [`Staging::open`].
    pub fn copy_to(&mut self, encoder: &mut wgpu::CommandEncoder, target: &wgpu::Buffer) {
        self.view = None;
        self.buffer.unmap();
        encoder.copy_buffer_to_buffer(&self.buffer, 0, target, 0, self.buffer.size());
    }

    /// Asks for it back, after the submit that copies.
    pub fn map(&self) {
        self.buffer.slice(..).map_async(wgpu::MapMode::Write, |_| {});
    }

    /// Gives it to the host again, once the device is done.
    ///
    /// # Errors
    /// [`GpuError::Lost`] when it never will be.
    pub fn open(&mut self) -> Result<(), GpuError> {
        let view = self.buffer.slice(..).get_mapped_range_mut();
        self.view = Some(view.map_err(|e| GpuError::Lost(format!("staging memory is not mapped: {e:?}")))?);
        Ok(())
    }
}
