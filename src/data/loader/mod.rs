//! Batches for training: split, shuffled, prefetched, and resumable to the pair.
//!
//! What is in a batch depends on (seed, split, sampling, batch size, cursor) and nothing else: not on threads, cache or
//! timing.

mod plan;
mod read;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

use serde::{Deserialize, Serialize};

use super::split::{Part, Split};
use super::{Cached, Error, PairSource, Result, Sensor};
use plan::Plan;
use read::{Job, Readers};

/// How often a training pair is drawn in an epoch; an epoch always has as many draws as the part has pairs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sampling {
    /// Each once.
    #[default]
    Uniform,
    /// Each class equally often: stratified by label. Rare classes come again, pairs without label form one class.
    Balanced,
}

/// Settings of a [`Loader`].
#[derive(Debug, Clone, PartialEq)]
pub struct LoaderConfig {
    /// Pairs in a batch.
    pub batch: usize,
    /// Seed of split, order and flips.
    pub seed: u64,
    /// How the archive is divided.
    pub split: Split,
    /// Which part to walk.
    pub part: Part,
    /// How often each pair is drawn.
    pub sampling: Sampling,
    /// A weight for each pair of the archive, instead: how often it is drawn beside the others (training part only).
    pub weights: Option<Arc<[f64]>>,
    /// Random horizontal and vertical flips (training part only).
    pub flip: bool,
    /// Threads that read.
    pub workers: usize,
    /// Batches read ahead; these and the ones not given back are all the memory there is.
    pub prefetch: usize,
    /// Keep decoded pairs in memory if all of them fit into this many bytes.
    pub cache_bytes: u64,
}

impl Default for LoaderConfig {
    /// A thread a processor, from two to eight, and a batch read ahead for each.
    fn default() -> Self {
        let workers = std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 8));
        Self {
            batch: 32,
            seed: 42,
            split: Split::default(),
            part: Part::Train,
            sampling: Sampling::Uniform,
            weights: None,
            flip: true,
            workers,
            prefetch: workers.max(4),
            cache_bytes: 2 << 30,
        }
    }
}

/// A place in the endless walk over epochs; saved in checkpoints.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// Epochs finished.
    pub epoch: u64,
    /// Pairs taken from this epoch's order.
    pub position: u64,
}

/// Flip left to right.
pub const FLIP_HORIZONTAL: u8 = 1;
/// Flip top to bottom.
pub const FLIP_VERTICAL: u8 = 2;

/// One batch, in physical units, not yet flipped.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch<R = Vec<f32>> {
    /// [B, 2, px, px] in decibels.
    pub s1: R,
    /// [B, 10, px, px] in digital numbers.
    pub s2: R,
    /// Names of the pairs.
    pub ids: Vec<String>,
    /// Scene classes.
    pub labels: Vec<Option<u32>>,
    /// What to do to both sensors of each pair: [`FLIP_HORIZONTAL`] | [`FLIP_VERTICAL`].
    pub flips: Vec<u8>,
    /// Where this batch began.
    pub start: Cursor,
}

/// Where one sensor's pixels of a batch go: ordinary memory, or memory that a device copies from and nobody reads.
pub trait Room: Send + 'static {
    /// Puts values at `at`; the next ones follow.
    fn put(&mut self, at: usize, values: &[f32]);
}

impl Room for Vec<f32> {
    fn put(&mut self, at: usize, values: &[f32]) {
        self.truncate(at);
        self.extend_from_slice(values);
    }
}

/// Walks one part of an archive without end, batch by batch, reading ahead on its own threads.
pub struct Loader<R = Vec<f32>> {
    plan: Plan,
    prefetch: usize,
    /// Where the next batch to be *asked for* begins; the batches under way lie between it and `cursor`.
    ahead: Cursor,
    cursor: Cursor,
    order: (u64, Vec<u32>),
    /// Rooms of both sensors of batches that were used up, and how to make more, if that is allowed.
    spare: Vec<[R; 2]>,
    fresh: Option<fn() -> [R; 2]>,
    readers: Readers<R>,
    waiting: VecDeque<Receiver<Result<Batch<R>>>>,
}

impl Loader {
    /// Starts reading at `cursor` (`Cursor::default()` for the beginning), into memory of its own.
    pub fn new(source: Arc<dyn PairSource>, config: LoaderConfig, cursor: Cursor) -> Result<Self> {
        Self::start(source, config, cursor, vec![], Some(Default::default))
    }
}

impl<R: Room> Loader<R> {
    /// Starts reading at `cursor` into these rooms, [S1, S2] of a batch each, and no others: as many batches are read ahead
    /// or out of hand at once.
    pub fn with_rooms(
        source: Arc<dyn PairSource>,
        config: LoaderConfig,
        cursor: Cursor,
        rooms: Vec<[R; 2]>,
    ) -> Result<Self> {
        Self::start(source, config, cursor, rooms, None)
    }

    fn start(
        source: Arc<dyn PairSource>,
        config: LoaderConfig,
        cursor: Cursor,
        spare: Vec<[R; 2]>,
        fresh: Option<fn() -> [R; 2]>,
    ) -> Result<Self> {
        let plan = Plan::new(&*source, &config, cursor)?;
        let readers = Readers::start(Cached::within(source, config.cache_bytes), config.workers.max(1));
        let order = (cursor.epoch, plan.order(cursor.epoch));
        let (prefetch, waiting) = (config.prefetch.max(1), VecDeque::new());
        Ok(Self { plan, prefetch, ahead: cursor, cursor, order, spare, fresh, readers, waiting })
    }

    /// Pairs in this part of the archive.
    pub fn pairs(&self) -> usize {
        self.plan.pairs()
    }

    /// Batches in an epoch, at least 1.
    pub fn batches_per_epoch(&self) -> usize {
        self.plan.batches()
    }

    /// Where the next batch begins: what a checkpoint saves.
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// The next batch; waits for the disk only if it is slower than the training step.
    pub fn next_batch(&mut self) -> Result<Batch<R>> {
        while self.waiting.len() < self.prefetch {
            let Some(room) = self.spare.pop().or_else(|| self.fresh.map(|make| make())) else { break };
            self.ask(room);
        }
        let Some(reply) = self.waiting.pop_front() else {
            return Err(Error::new("loader", "every batch's memory is in use", "give batches back before the next"));
        };
        let lost = || {
            Error::new("loader", "a reading thread stopped", "see the message above it, then run again with --resume")
        };
        let batch = reply.recv().unwrap_or_else(|_| Err(lost()))?;
        self.cursor = self.plan.after(batch.start);
        Ok(batch)
    }

    /// Takes back a batch that is used up, for its memory: fresh memory of this size costs more than filling it.
    pub fn recycle(&mut self, batch: Batch<R>) {
        self.spare.push([batch.s1, batch.s2]);
    }

    fn ask(&mut self, room: [R; 2]) {
        if self.order.0 != self.ahead.epoch {
            self.order = (self.ahead.epoch, self.plan.order(self.ahead.epoch));
        }
        let start = self.ahead;
        let pairs = self.plan.batch(&self.order.1, start);
        let flips = pairs.iter().map(|pair| self.plan.flip(start.epoch, *pair)).collect();
        let (reply, answer) = sync_channel(1);
        self.readers.send(Job { start, pairs, flips, room, reply });
        self.waiting.push_back(answer);
        self.ahead = self.plan.after(start);
    }
}

impl Iterator for Loader {
    type Item = Result<Batch>;

    /// Never `None`.
    fn next(&mut self) -> Option<Self::Item> {
        Some(self.next_batch())
    }
}
