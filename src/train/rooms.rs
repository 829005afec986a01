//! The ring of mapped memory between the loader's threads and the step: filled by them, copied by the step's submit.

use super::settings::Settings;
use crate::data::loader::Room;
use crate::data::{Batch, LoaderConfig, Sensor};
use crate::gpu::{Gpu, GpuError, Staging};

/// One sensor's pixels of a batch on their way to the device.
pub struct Mapped(Staging);

impl Room for Mapped {
    fn put(&mut self, at: usize, values: &[f32]) {
        self.0.put(at, values);
    }
}

/// Values of one sensor in a batch.
fn values(sensor: Sensor, batch: usize, px: usize) -> usize {
    batch * sensor.channels() * px * px
}

/// Batches in a run's ring: those read ahead, and the step's own.
pub fn ring(settings: &Settings) -> usize {
    LoaderConfig::default().prefetch + settings.accumulate
}

/// Bytes of a run's ring.
pub fn ring_bytes(settings: &Settings, px: usize) -> u64 {
    let batch: usize = [Sensor::S1, Sensor::S2].into_iter().map(|s| values(s, settings.batch, px)).sum();
    ring(settings) as u64 * batch as u64 * 4
}

/// Memory for `count` batches of `batch` pairs of `px` pixels.
///
/// # Errors
/// Out of memory.
pub fn rooms(gpu: &Gpu, count: usize, batch: usize, px: usize) -> Result<Vec<[Mapped; 2]>, GpuError> {
    let one = |sensor: Sensor| Staging::new(gpu, values(sensor, batch, px)).map(Mapped);
    (0..count).map(|_| Ok([one(Sensor::S1)?, one(Sensor::S2)?])).collect()
}

/// A batch's pixels as inputs of a program that runs staged.
pub fn staged(batch: &mut Batch<Mapped>) -> [(&'static str, &mut Staging); 2] {
    [("pixels.s1", &mut batch.s1.0), ("pixels.s2", &mut batch.s2.0)]
}
