//! One training step written out whole, so that another framework can recompute it (tools/verify_step.py does).

use super::open_run;
use crate::data::{Cursor, Loader, LoaderConfig, PairSource, Sensor};
use crate::gpu::Gpu;
use crate::loss::{Objective, Terms};
use crate::model::{Config, Csmoe, weights};
use crate::tensor::{Kind, ParamStore, Tape};
use crate::train::{Footprint, Settings, check_fit, feed, masks};
use anyhow::Result;
use safetensors::Dtype;
use std::path::Path;
use std::sync::Arc;

/// Inputs, losses and gradients of one step.
pub struct VerifiedStep {
    pub config: Config,
    pub batch: usize,
    /// [s1, s2] of [B, C, S, S]: flipped, resized, normalised.
    pub inputs: [Vec<f32>; 2],
    /// [s1, s2] of [B, K]: the visible patches in the order in which the encoder sees them.
    pub keep: [Vec<u32>; 2],
    pub terms: Terms,
    /// Name, shape, values, for every parameter.
    pub gradients: Vec<(String, Vec<usize>, Vec<f32>)>,
}

/// Runs the step that training from these weights would begin with: the first batch of the training part and masks of
/// `seed`, no clipping, no update.
///
/// # Errors
/// A run that is not whole; pairs that cannot be read; a batch that does not fit; a lost device.
pub fn verify_step(
    gpu: &Gpu,
    run: &Path,
    source: Arc<dyn PairSource>,
    batch: usize,
    seed: u64,
) -> Result<VerifiedStep> {
    let (config, weights) = open_run(run)?;
    let model = Csmoe::for_training(config.clone());
    let px = source.tile_px();
    check_fit(gpu, batch, |batch| {
        let run = Footprint::of(gpu, &model, &Settings { batch, ..Settings::default() }, px)?;
        Ok(Footprint { beside: 0, ahead: 0, ..run })
    })?;
    let mut t = Tape::new(gpu.target.clone(), model.params.clone());
    let images = model.pixel_inputs(&mut t, batch, px)?;
    let masked = model.mask_inputs(&mut t, batch, config.kept());
    let objective = Objective::record(&mut t, &model, &images, &masked)?;
    objective.backward(&mut t)?;
    t.output("scalars", objective.scalars)?;
    for (sensor, image) in model.sensors.iter().zip(&images.images) {
        t.output(format!("input.{sensor}"), *image)?;
    }
    let store = ParamStore::new(gpu, model.params.clone(), true)?;
    weights.load(gpu, &store)?;
    let program = t.compile(gpu, &store)?;

    let settings = LoaderConfig { batch, seed, workers: 1, prefetch: 1, cache_bytes: 0, ..LoaderConfig::default() };
    let pairs = Loader::new(source, settings, Cursor::default())?.next_batch()?;
    let keep = masks::draw(&config, batch, seed, 0);
    feed(gpu, &program, &config, &pairs, &keep)?;
    program.run(gpu)?;
    let input = |sensor: Sensor| program.read(gpu, &format!("input.{sensor}"));
    Ok(VerifiedStep {
        inputs: [input(Sensor::S1)?, input(Sensor::S2)?],
        terms: objective.terms(&program.read::<f32>(gpu, "scalars")?),
        gradients: store.read_named(gpu, Kind::Gradient)?,
        config,
        batch,
        keep,
    })
}

impl VerifiedStep {
    /// Writes `input.s1`, `input.s2` [B, C, S, S], `keep.s1`, `keep.s2` [B, K] int32, `loss.*` [1] and
    /// `grad.<tensor>`, whole or not at all.
    ///
    /// # Errors
    /// A full disk, a folder that cannot be written: names the file.
    pub fn save(&self, file: &Path) -> Result<()> {
        let size = self.config.image_size;
        let mut tensors: Vec<(String, Vec<usize>, Dtype, &[u8])> = Vec::new();
        for (i, sensor) in [Sensor::S1, Sensor::S2].into_iter().enumerate() {
            let input = bytemuck::cast_slice(&self.inputs[i]);
            let shape = vec![self.batch, sensor.channels(), size, size];
            tensors.push((format!("input.{sensor}"), shape, Dtype::F32, input));
            // Patch numbers are far below 2^31, and frameworks know int32 better than uint32.
            let keep = bytemuck::cast_slice(&self.keep[i]);
            tensors.push((format!("keep.{sensor}"), vec![self.batch, self.config.kept()], Dtype::I32, keep));
        }
        let losses: Vec<(&str, f32)> = self.terms.named().collect();
        for (name, value) in &losses {
            tensors.push((format!("loss.{name}"), vec![1], Dtype::F32, bytemuck::bytes_of(value)));
        }
        for (name, shape, values) in &self.gradients {
            tensors.push((format!("grad.{name}"), shape.clone(), Dtype::F32, bytemuck::cast_slice(values)));
        }
        weights::write_bytes(
            file,
            tensors.iter().map(|(n, shape, dtype, bytes)| (n.as_str(), &shape[..], *dtype, *bytes)),
        )
    }
}
