//! The training loop.

use super::checkpoint::{Checkpoint, State};
use super::memory::{Budget, Footprint, largest_batch};
use super::metrics::{Log, Record};
use super::rooms::{Mapped, ring, rooms};
use super::schedule::Schedule;
use super::settings::Settings;
use super::step::{EvalProgram, TrainProgram};
use crate::data::{Cursor, Loader, LoaderConfig, PairSource, Part};
use crate::gpu::Gpu;
use crate::loss::Terms;
use crate::model::{Csmoe, weights};
use crate::ops::adamw::Hyper;
use crate::tensor::ParamStore;
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Steps in a row that may be skipped before the run stops.
const MOST_SKIPPED: u32 = 5;
/// Batches of the validation part that a look takes.
const VALIDATION_BATCHES: usize = 4;

/// One pretraining run.
pub struct Pretrain<'a> {
    pub gpu: &'a Gpu,
    pub model: &'a Csmoe,
    pub settings: &'a Settings,
    pub source: Arc<dyn PairSource>,
    pub run: &'a Path,
    /// Go on from the newest checkpoint, if there is one.
    pub resume: bool,
}

/// What is known before the first step.
#[derive(Clone, Debug)]
pub struct Report {
    pub footprint: Footprint,
    pub train_pairs: usize,
    /// 0: the archive is too small to hold some back.
    pub validation_pairs: usize,
    pub steps_per_epoch: u64,
    pub total_steps: u64,
    /// Steps a resumed run had done.
    pub done: u64,
}

/// Who watches a run.
pub trait Observer {
    fn planned(&mut self, report: &Report);
    fn step(&mut self, record: &Record);
    fn warn(&mut self, message: String);
    /// Asked after every step: stop with a checkpoint.
    fn stop(&mut self) -> bool;
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    pub steps: u64,
    pub interrupted: bool,
    pub last: Option<Terms>,
}

impl Pretrain<'_> {
    fn walk(&self, part: Part) -> LoaderConfig {
        let s = self.settings;
        let (flip, sampling) = (s.flips, s.sampling);
        LoaderConfig { batch: s.batch, seed: s.seed, split: s.split, part, flip, sampling, ..LoaderConfig::default() }
    }

    /// The training part, into memory that the step's submit copies from.
    fn loader(&self, cursor: Cursor) -> Result<Loader<Mapped>> {
        let s = self.settings;
        let weights = s.weights.as_ref().map(|w| w.read(&*self.source)).transpose()?;
        let config = LoaderConfig { weights, ..self.walk(Part::Train) };
        let rooms = rooms(self.gpu, ring(s), s.batch, self.source.tile_px())?;
        Ok(Loader::with_rooms(self.source.clone(), config, cursor, rooms)?)
    }

    fn held_out(&self) -> Result<Loader> {
        Ok(Loader::new(self.source.clone(), self.walk(Part::Validation), Cursor::default())?)
    }

    /// Trains to the end, or until the observer says stop.
    ///
    /// # Errors
    /// A batch that does not fit (saying which would), a lost device, a full disk, five steps in a row that are not
    /// finite. The newest checkpoint stays whole in every case.
    pub fn train(&self, observer: &mut dyn Observer) -> Result<Outcome> {
        let (gpu, model, settings) = (self.gpu, self.model, self.settings);
        settings.check()?;
        let px = self.source.tile_px();
        let footprint = self.check_fit(px)?;

        let store = ParamStore::new(gpu, model.params.clone(), true)?;
        let mut state = State::default();
        let found = match self.resume {
            true => Checkpoint::load_newest(gpu, &store, self.run, |m| observer.warn(m))?,
            false => None,
        };
        match found {
            Some(found) => state = found.state,
            None => store.init(gpu, settings.seed),
        }

        let mut loader = self.loader(state.cursor)?;
        let per_epoch = (loader.batches_per_epoch() as u64).div_ceil(settings.accumulate as u64);
        let schedule =
            Schedule { peak: settings.lr, warmup: settings.warmup(per_epoch), total: settings.steps(per_epoch) };
        let validation = self.held_out().ok();
        observer.planned(&Report {
            footprint,
            train_pairs: loader.pairs(),
            validation_pairs: validation.as_ref().map_or(0, Loader::pairs),
            steps_per_epoch: per_epoch,
            total_steps: schedule.total,
            done: state.step,
        });
        let mut log = Log::open(self.run, state.step)?;
        let program = TrainProgram::build(gpu, model, &store, settings, px)?;
        let held_out = match validation {
            Some(loader) if settings.validate_every > 0 => {
                Some((EvalProgram::build(gpu, model, &store, settings.batch, px)?, loader.pairs()))
            }
            _ => None,
        };

        let mut last = None;
        let mut saved = None;
        while state.step < schedule.total {
            let began = Instant::now();
            let mut micro = (0..settings.accumulate).map(|_| loader.next_batch()).collect::<Result<Vec<_>, _>>()?;
            let waited = began.elapsed().as_secs_f64();
            let hyper = Hyper {
                lr: schedule.rate(state.step),
                betas: settings.betas,
                weight_decay: settings.weight_decay,
                clip: (settings.clip > 0.0).then_some(settings.clip),
                step: state.updates + 1,
                ..Hyper::default()
            };
            let (terms, update) = program.run(gpu, &mut micro, &hyper, settings.seed, state.step)?;
            micro.into_iter().for_each(|batch| loader.recycle(batch));
            state.step += 1;
            state.cursor = loader.cursor();
            state.updates += u64::from(!update.skipped);
            state.skipped = if update.skipped { state.skipped + 1 } else { 0 };
            let seconds = began.elapsed().as_secs_f64();
            let ends = state.step == schedule.total;
            let validation = match &held_out {
                Some((eval, pairs)) if ends || state.step.is_multiple_of(settings.validate_every) => {
                    Some(self.validate(eval, *pairs)?)
                }
                _ => None,
            };
            let record = Record {
                step: state.step,
                terms,
                lr: hyper.lr,
                grad_norm: update.grad_norm,
                pairs_per_s: (settings.batch * settings.accumulate) as f64 / seconds,
                gpu_share: update.gpu_s / seconds,
                data_share: waited / seconds,
                skipped: update.skipped,
                validation,
            };
            log.append(&record)?;
            observer.step(&record);
            last = Some(terms);
            if state.skipped >= MOST_SKIPPED {
                bail!(
                    "{MOST_SKIPPED} steps in a row gave values that are not finite (loss {}); the last checkpoint is \
                     unharmed: try a smaller --lr",
                    terms.total()
                );
            }
            let stop = observer.stop();
            let due = settings.checkpoint_every > 0 && state.step.is_multiple_of(settings.checkpoint_every);
            if due || ends || stop {
                self.save(&store, state)?;
                saved = Some(state.step);
            }
            if stop && !ends {
                return Ok(Outcome { steps: state.step, interrupted: true, last });
            }
        }
        if saved.is_none() {
            // No step was left: the weights may be older than the newest checkpoint, or not there at all.
            self.save(&store, state)?;
        }
        Ok(Outcome { steps: state.step, interrupted: false, last })
    }

    /// Plans the step and checks it against what the device has.
    fn check_fit(&self, px: usize) -> Result<Footprint> {
        let need = Footprint::of(self.gpu, self.model, self.settings, px)?;
        if let Err(why) = Budget::of(self.gpu).admits(&need) {
            let batch = self.settings.batch;
            let fitting = largest_batch(self.gpu, self.model, self.settings, px, batch - 1)?;
            let remedy = match fitting {
                Some(n) => format!("--batch {n} would fit (--accumulate keeps the effective batch)"),
                None => "not even --batch 1 would fit; try a smaller preset".to_string(),
            };
            bail!("a step of batch {batch} needs {why}: {remedy}");
        }
        Ok(need)
    }

    /// The checkpoint, then the newest weights under their public names.
    fn save(&self, store: &ParamStore, state: State) -> Result<()> {
        Checkpoint::save(self.gpu, store, self.run, state).context("the checkpoint could not be written")?;
        weights::save(self.gpu, store, &self.run.join("model.safetensors"))
    }

    /// The mean terms of the validation part; its batches and masks are always the same.
    fn validate(&self, eval: &EvalProgram, pairs: usize) -> Result<Terms> {
        let mut loader = self.held_out()?;
        let batches = pairs.div_ceil(self.settings.batch).clamp(1, VALIDATION_BATCHES);
        let mut sum = Terms::default();
        for i in 0..batches {
            let terms = eval.run(self.gpu, &loader.next_batch()?, self.settings.seed ^ 0x5eed, i as u64)?;
            sum.0.iter_mut().zip(terms.0).for_each(|(s, v)| *s += v / batches as f32);
        }
        Ok(sum)
    }
}
