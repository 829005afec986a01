//! Pixels and masks into a program of the whole model.

use crate::data::{Batch, Sensor};
use crate::gpu::Gpu;
use crate::model::Config;
use crate::tensor::Program;
use crate::train::masks;
use anyhow::Result;

/// Writes a batch and the patches it keeps ([s1, s2] of [B, K]) to the inputs of `Csmoe::pixel_inputs` and
/// `Csmoe::mask_inputs`.
pub(super) fn feed(gpu: &Gpu, program: &Program, config: &Config, batch: &Batch, keep: &[Vec<u32>; 2]) -> Result<()> {
    let tables = masks::tables(keep, batch.ids.len(), config.patches());
    let flips: Vec<u32> = batch.flips.iter().map(|f| u32::from(*f)).collect();
    program.write(gpu, "flips", &flips)?;
    for (i, (sensor, pixels)) in [(Sensor::S1, &batch.s1), (Sensor::S2, &batch.s2)].into_iter().enumerate() {
        program.write(gpu, &format!("pixels.{sensor}"), pixels)?;
        program.write(gpu, &format!("keep.{sensor}"), &keep[i])?;
        program.write(gpu, &format!("hidden.{sensor}"), &tables.hidden[i])?;
    }
    program.write(gpu, "keep", &keep.concat())?;
    program.write(gpu, "restore", &tables.restore)
}
