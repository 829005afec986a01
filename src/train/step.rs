//! The programs of a training step: recorded once, replayed every step.

use super::masks;
use super::rooms::{Mapped, staged};
use super::settings::Settings;
use crate::data::{Batch as Pixels, Sensor};
use crate::gpu::{Gpu, Target};
use crate::loss::{Objective, Terms};
use crate::model::{Config, Csmoe};
use crate::ops::adamw::{self, Hyper, Options};
use crate::tensor::{MemoryPlan, ParamStore, Program, Tape};
use anyhow::Result;

/// Forward, backward and update; two programs when gradients are added up over several batches.
pub struct TrainProgram {
    step: Program,
    update: Option<Program>,
    objective: Objective,
    config: Config,
    batch: usize,
}

/// What an update reports.
#[derive(Clone, Copy, Debug)]
pub struct Update {
    /// Of the whole gradient, before clipping.
    pub grad_norm: f32,
    /// A gradient or a loss was not finite: nothing was changed.
    pub skipped: bool,
    /// Seconds from each submission to its results, added up.
    pub gpu_s: f64,
}

fn options(settings: &Settings) -> Options {
    Options { decay_all: settings.decay_all, zero_gradients: settings.accumulate > 1 }
}

/// Records the step on a tape: inputs, objective, gradients and, without accumulation, the update.
///
/// # Errors
/// Shapes that do not fit.
pub(super) fn record(model: &Csmoe, target: &Target, settings: &Settings, px: usize) -> Result<(Tape, Objective)> {
    let mut t = Tape::new(target.clone(), model.params.clone());
    let alone = settings.accumulate == 1;
    t.accumulate_params = !alone;
    let batch = model.pixel_inputs(&mut t, settings.batch, px)?;
    let masks = model.mask_inputs(&mut t, settings.batch, model.config.kept());
    let objective = Objective::record(&mut t, model, &batch, &masks)?;
    objective.backward(&mut t)?;
    t.output("scalars", objective.scalars)?;
    if alone {
        record_update(&mut t, settings, Some(&objective))?;
    }
    Ok((t, objective))
}

/// The memory of a training step, without building it.
///
/// # Errors
/// Shapes that do not fit.
pub fn plan(model: &Csmoe, target: &Target, settings: &Settings, px: usize) -> Result<MemoryPlan> {
    Ok(record(model, target, settings, px)?.0.plan())
}

/// The update as a program of its own, after several batches.
pub(super) fn record_alone(model: &Csmoe, target: &Target, settings: &Settings) -> Result<Tape> {
    let mut t = Tape::new(target.clone(), model.params.clone());
    record_update(&mut t, settings, None)?;
    Ok(t)
}

/// The objective without gradients.
pub(super) fn record_held_out(model: &Csmoe, target: &Target, batch: usize, px: usize) -> Result<(Tape, Objective)> {
    let mut t = Tape::new(target.clone(), model.params.clone());
    let images = model.pixel_inputs(&mut t, batch, px)?;
    let masks = model.mask_inputs(&mut t, batch, model.config.kept());
    let objective = Objective::record(&mut t, model, &images, &masks)?;
    t.output("scalars", objective.scalars)?;
    Ok((t, objective))
}

fn record_update(t: &mut Tape, settings: &Settings, objective: Option<&Objective>) -> Result<()> {
    let hyper = t.input("hyper", [adamw::HYPER]);
    let stats = t.scope("update", |t| adamw::update(t, hyper, objective.map(|o| o.scalars), options(settings)))?;
    t.output("stats", stats)
}

impl TrainProgram {
    /// Builds the programs for batches of `settings.batch` pairs of `px` pixels.
    ///
    /// # Errors
    /// Out of memory, a binding over the adapter's limit.
    pub fn build(gpu: &Gpu, model: &Csmoe, store: &ParamStore, settings: &Settings, px: usize) -> Result<Self> {
        let (tape, objective) = record(model, &gpu.target, settings, px)?;
        let step = tape.compile(gpu, store)?;
        let update = match settings.accumulate {
            1 => None,
            _ => Some(record_alone(model, &gpu.target, settings)?.compile(gpu, store)?),
        };
        Ok(TrainProgram { step, update, objective, config: model.config.clone(), batch: settings.batch })
    }

    pub fn plan(&self) -> &MemoryPlan {
        &self.step.plan
    }

    /// The step's launches with their GPU times.
    ///
    /// # Errors
    /// An adapter without timestamps.
    pub fn profile(&self, gpu: &Gpu) -> Result<Vec<crate::tensor::Timing>> {
        self.step.profile(gpu)
    }

    /// Runs one step over `micro` batches (as many as `settings.accumulate`), whose masks are drawn from
    /// (seed, step): the mean of the terms, and the update.
    ///
    /// # Errors
    /// A lost device.
    pub fn run(
        &self,
        gpu: &Gpu,
        micro: &mut [Pixels<Mapped>],
        hyper: &Hyper,
        seed: u64,
        step: u64,
    ) -> Result<(Terms, Update)> {
        let mut sum = Terms::default();
        let mut stats = Vec::new();
        let mut gpu_s = 0.0;
        let count = micro.len();
        for (i, pixels) in micro.iter_mut().enumerate() {
            let stream = step * count as u64 + i as u64;
            let keep = masks::draw(&self.config, self.batch, seed, stream);
            feed_masks(gpu, &self.step, &self.config, &pixels.flips, &keep)?;
            let names: &[&str] = match self.update {
                None => {
                    self.step.write(gpu, "hyper", &hyper.values())?;
                    &["scalars", "stats"]
                }
                Some(_) => &["scalars"],
            };
            let mut ran = self.step.run_staged(gpu, &mut staged(pixels), names)?;
            gpu_s += ran.seconds;
            let terms = self.objective.terms(&ran.outputs[0]);
            sum.0.iter_mut().zip(terms.0).for_each(|(s, v)| *s += v / count as f32);
            stats = ran.outputs.pop().unwrap_or_default();
        }
        if let Some(update) = &self.update {
            let hyper = Hyper { grad_scale: hyper.grad_scale / count as f64, ..*hyper };
            update.write(gpu, "hyper", &hyper.values())?;
            let mut ran = update.run_and_read(gpu, &["stats"])?;
            gpu_s += ran.seconds;
            stats = ran.outputs.pop().unwrap_or_default();
        }
        Ok((sum, Update { grad_norm: stats[0], skipped: stats[1] != 0.0, gpu_s }))
    }
}

/// The objective without gradients, for the validation part.
pub struct EvalProgram {
    program: Program,
    objective: Objective,
    config: Config,
    batch: usize,
}

impl EvalProgram {
    /// Builds the program for batches of `batch` pairs of `px` pixels.
    ///
    /// # Errors
    /// Out of memory, a binding over the adapter's limit.
    pub fn build(gpu: &Gpu, model: &Csmoe, store: &ParamStore, batch: usize, px: usize) -> Result<Self> {
        let (tape, objective) = record_held_out(model, &gpu.target, batch, px)?;
        Ok(EvalProgram { program: tape.compile(gpu, store)?, objective, config: model.config.clone(), batch })
    }

    /// The terms of one batch; the masks depend on (seed, stream) alone.
    ///
    /// # Errors
    /// A lost device.
    pub fn run(&self, gpu: &Gpu, pixels: &Pixels, seed: u64, stream: u64) -> Result<Terms> {
        let keep = masks::draw(&self.config, self.batch, seed, stream);
        feed(gpu, &self.program, &self.config, pixels, &keep)?;
        Ok(self.objective.terms(&self.program.run_and_read(gpu, &["scalars"])?.outputs[0]))
    }
}

/// Writes a batch's pixels and flips, and which patches it keeps ([s1, s2] of [B, K]), to the inputs of
/// `Csmoe::pixel_inputs` and `Csmoe::mask_inputs`.
///
/// # Errors
/// A batch that is not the program's.
pub fn feed(gpu: &Gpu, program: &Program, config: &Config, pixels: &Pixels, keep: &[Vec<u32>; 2]) -> Result<()> {
    for (sensor, values) in [(Sensor::S1, &pixels.s1), (Sensor::S2, &pixels.s2)] {
        program.write(gpu, &format!("pixels.{sensor}"), values)?;
    }
    feed_masks(gpu, program, config, &pixels.flips, keep)
}

/// The same without the pixels.
fn feed_masks(gpu: &Gpu, program: &Program, config: &Config, flips: &[u8], keep: &[Vec<u32>; 2]) -> Result<()> {
    let words: Vec<u32> = flips.iter().map(|f| u32::from(*f)).collect();
    program.write(gpu, "flips", &words)?;
    write_masks(gpu, program, flips.len(), config.patches(), keep)
}

/// Writes which of the `patches` each of `batch` images keeps to the inputs of `Csmoe::mask_inputs`.
///
/// # Errors
/// A batch that is not the program's.
pub fn write_masks(gpu: &Gpu, program: &Program, batch: usize, patches: usize, keep: &[Vec<u32>; 2]) -> Result<()> {
    let tables = masks::tables(keep, batch, patches);
    for (i, sensor) in [Sensor::S1, Sensor::S2].into_iter().enumerate() {
        program.write(gpu, &format!("keep.{sensor}"), &keep[i])?;
        program.write(gpu, &format!("hidden.{sensor}"), &tables.hidden[i])?;
    }
    program.write(gpu, "keep", &keep.concat())?;
    program.write(gpu, "hidden", &tables.hidden.concat())?;
    program.write(gpu, "restore", &tables.restore)
}
