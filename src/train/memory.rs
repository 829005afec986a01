//! What a training run needs of the device, known before anything is allocated.

use super::rooms::ring_bytes;
use super::settings::Settings;
use super::step::{record, record_alone, record_held_out};
use crate::gpu::Gpu;
use crate::model::Csmoe;
use anyhow::{Result, bail};

/// Bytes that a run takes at one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Weights, gradients and both moments.
    pub parameters: u64,
    /// Activations, inputs and outputs of the step.
    pub activations: u64,
    /// The same of the programs beside it: validation, and the update where gradients are added up.
    pub beside: u64,
    /// Pixels that are read ahead, in mapped memory.
    pub ahead: u64,
    /// The largest single binding.
    pub binding: u64,
    pub launches: usize,
}

impl Footprint {
    /// Plans a training run's programs without building them, and the pixels read ahead.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn of(gpu: &Gpu, model: &Csmoe, settings: &Settings, px: usize) -> Result<Self> {
        let (tape, _) = record(model, &gpu.target, settings, px)?;
        let plan = tape.plan();
        let validates = settings.validate_every > 0 && settings.split.validation > 0.0;
        let held_out = validates.then(|| record_held_out(model, &gpu.target, settings.batch, px)).transpose()?;
        let update = (settings.accumulate > 1).then(|| record_alone(model, &gpu.target, settings)).transpose()?;
        Ok(Footprint {
            parameters: model.params.chunks().iter().map(|n| *n as u64 * 16).sum(),
            activations: plan.total(),
            beside: held_out.map(|(tape, _)| tape).into_iter().chain(update).map(|tape| tape.plan().total()).sum(),
            ahead: ring_bytes(settings, px),
            binding: tape.largest_binding(),
            launches: plan.launches,
        })
    }

    pub fn total(&self) -> u64 {
        self.parameters + self.activations + self.beside + self.ahead
    }
}

/// What a device has to give.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    pub binding: u64,
    /// Unknown for GPUs with memory of their own: allocation tells.
    pub memory: Option<u64>,
}

impl Budget {
    /// A software device shares the machine's memory: four fifths of what is free.
    pub fn of(gpu: &Gpu) -> Self {
        let memory = gpu.is_software().then(free_memory).flatten().map(|free| free / 5 * 4);
        Budget { binding: gpu.target.max_binding, memory }
    }

    /// Whether a step fits, or in words why not.
    pub fn admits(&self, need: &Footprint) -> Result<(), String> {
        let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
        if need.binding > self.binding {
            let (a, b) = (need.binding >> 20, self.binding >> 20);
            return Err(format!("a single value of {a} MiB and this adapter binds at most {b} MiB"));
        }
        match self.memory {
            Some(free) if need.total() > free => {
                Err(format!("{:.2} GiB and {:.2} GiB are free", gib(need.total()), gib(free)))
            }
            _ => Ok(()),
        }
    }
}

fn free_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|l| l.starts_with("MemAvailable:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

/// The largest power of two up to `most` that fits, if any does.
///
/// # Errors
/// Shapes that do not fit.
pub fn largest_batch(gpu: &Gpu, model: &Csmoe, settings: &Settings, px: usize, most: usize) -> Result<Option<usize>> {
    let budget = Budget::of(gpu);
    let mut batch = most.next_power_of_two();
    while batch > 0 {
        let need = Footprint::of(gpu, model, &Settings { batch, ..settings.clone() }, px)?;
        if batch <= most && budget.admits(&need).is_ok() {
            return Ok(Some(batch));
        }
        batch /= 2;
    }
    Ok(None)
}

/// Refuses a batch that does not fit, naming one that does; `need` plans the work at a batch.
///
/// # Errors
/// Says what is short and what to ask for.
pub fn check_fit(gpu: &Gpu, batch: usize, need: impl Fn(usize) -> Result<Footprint>) -> Result<()> {
    let budget = Budget::of(gpu);
    let Err(why) = budget.admits(&need(batch)?) else { return Ok(()) };
    let mut smaller = batch / 2;
    while smaller > 0 {
        if budget.admits(&need(smaller)?).is_ok() {
            bail!("a batch of {batch} needs {why}: --batch {smaller} would fit");
        }
        smaller /= 2;
    }
    bail!("a batch of {batch} needs {why}: not even --batch 1 would fit; try a smaller preset");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_read_ahead_can_be_what_does_not_fit() {
        let budget = Budget { binding: 1 << 30, memory: Some(5 << 30) };
        let (parameters, activations) = (2 << 30, 2 << 30);
        let step = Footprint { parameters, activations, beside: 0, ahead: 1 << 30, binding: 0, launches: 1 };
        assert_eq!(budget.admits(&step), Ok(()));
        let why = budget.admits(&Footprint { ahead: 2 << 30, ..step }).unwrap_err();
        assert_eq!(why, "6.00 GiB and 5.00 GiB are free");
    }
}
