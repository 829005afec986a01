//! Batches for training: split, shuffled, prefetched, and resumable to the pair.
//!
//! What is in a batch depends on (seed, split, batch size, cursor) and nothing else: not on threads, cache or timing.

use std::collections::{BTreeMap, VecDeque};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

use serde::{Deserialize, Serialize};

use super::random::{Stream, hash};
use super::split::{Part, Split, members};
use super::{Cached, Error, PairSource, Result, Sensor};

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
#[derive(Debug, Clone, Copy, PartialEq)]
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
    /// Random horizontal and vertical flips (training part only).
    pub flip: bool,
    /// Threads that read.
    pub workers: usize,
    /// Batches read ahead; memory is bounded by prefetch + workers batches.
    pub prefetch: usize,
    /// Keep decoded pairs in memory if all of them fit into this many bytes.
    pub cache_bytes: u64,
}

impl Default for LoaderConfig {
    fn default() -> Self {
        Self {
            batch: 32,
            seed: 42,
            split: Split::default(),
            part: Part::Train,
            sampling: Sampling::Uniform,
            flip: true,
            workers: 2,
            prefetch: 4,
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
pub struct Batch {
    /// [B, 2, px, px] in decibels.
    pub s1: Vec<f32>,
    /// [B, 10, px, px] in digital numbers.
    pub s2: Vec<f32>,
    /// Names of the pairs.
    pub ids: Vec<String>,
    /// Scene classes.
    pub labels: Vec<Option<u32>>,
    /// What to do to both sensors of each pair: [`FLIP_HORIZONTAL`] | [`FLIP_VERTICAL`].
    pub flips: Vec<u8>,
    /// Where this batch began.
    pub start: Cursor,
}

/// Walks one part of an archive without end, batch by batch, reading ahead on its own threads.
pub struct Loader {
    plan: Plan,
    prefetch: usize,
    /// Where the next batch to be *asked for* begins; the batches under way lie between it and `cursor`.
    ahead: Cursor,
    cursor: Cursor,
    order: (u64, Arc<Vec<u32>>),
    spare: Spare,
    jobs: Option<Sender<Job>>,
    waiting: VecDeque<Receiver<Result<Batch>>>,
    threads: Vec<JoinHandle<()>>,
}

/// Buffers of batches that were used up: fresh memory of this size costs more than filling it.
type Spare = Arc<Mutex<Vec<(Vec<f32>, Vec<f32>)>>>;

/// What decides the contents of every batch.
struct Plan {
    config: LoaderConfig,
    members: Vec<u32>,
    /// Members by class, for balanced sampling.
    strata: Vec<Vec<u32>>,
}

struct Job {
    start: Cursor,
    pairs: Vec<u32>,
    flips: Vec<u8>,
    reply: SyncSender<Result<Batch>>,
}

// Coordinates that keep the streams of one seed apart.
const ORDER: u64 = 102;
const FLIPS: u64 = 103;

impl Loader {
    /// Starts reading at `cursor` (`Cursor::default()` for the beginning).
    pub fn new(source: Arc<dyn PairSource>, config: LoaderConfig, cursor: Cursor) -> Result<Self> {
        if config.batch == 0 {
            return Err(Error::new("batch", "0 pairs", "take at least 1"));
        }
        let members = members(&*source, config.split, config.part, config.seed);
        if members.is_empty() {
            let part = if config.part == Part::Train { "training" } else { "validation" };
            let found = format!("{} pairs leave none for {part}", source.len());
            return Err(Error::new(&source.describe().name, found, "bring more pairs or change the validation share"));
        }
        if cursor.position >= members.len() as u64 {
            let problem =
                format!("the run stopped at pair {} of an epoch, this archive has {}", cursor.position, members.len());
            return Err(Error::new(
                &source.describe().name,
                problem,
                "resume with the archive, split and seed the run began with",
            ));
        }
        let source = Cached::within(source, config.cache_bytes);
        let (jobs, queue) = channel();
        let queue = Arc::new(Mutex::new(queue));
        let spare = Spare::default();
        let threads = (0..config.workers.max(1))
            .map(|_| {
                let (source, queue, spare) = (source.clone(), queue.clone(), spare.clone());
                std::thread::spawn(move || work(&*source, &queue, &spare))
            })
            .collect();
        let mut strata = BTreeMap::<Option<u32>, Vec<u32>>::new();
        if config.sampling == Sampling::Balanced && config.part == Part::Train {
            members.iter().for_each(|m| strata.entry(source.label(*m as usize)).or_default().push(*m));
        }
        let plan = Plan { config, members, strata: strata.into_values().collect() };
        let order = (cursor.epoch, Arc::new(plan.order(cursor.epoch)));
        let waiting = VecDeque::new();
        Ok(Self {
            plan,
            prefetch: config.prefetch.max(1),
            ahead: cursor,
            cursor,
            order,
            spare,
            jobs: Some(jobs),
            waiting,
            threads,
        })
    }

    /// Pairs in this part of the archive.
    pub fn pairs(&self) -> usize {
        self.plan.members.len()
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
    pub fn next_batch(&mut self) -> Result<Batch> {
        while self.waiting.len() < self.prefetch {
            self.ask();
        }
        let lost = || {
            Error::new("loader", "a reading thread stopped", "see the message above it, then run again with --resume")
        };
        let batch = self.waiting.pop_front().and_then(|reply| reply.recv().ok()).unwrap_or_else(|| Err(lost()))?;
        self.cursor = self.plan.after(batch.start);
        Ok(batch)
    }

    /// Takes back a batch that is used up, for its memory.
    pub fn recycle(&self, batch: Batch) {
        let mut spare = lock(&self.spare);
        if spare.len() <= self.prefetch {
            spare.push((batch.s1, batch.s2));
        }
    }

    fn ask(&mut self) {
        if self.order.0 != self.ahead.epoch {
            self.order = (self.ahead.epoch, Arc::new(self.plan.order(self.ahead.epoch)));
        }
        let (order, start, config) = (&self.order.1, self.ahead, &self.plan.config);
        let pairs: Vec<u32> = (0..config.batch).map(|i| order[(start.position as usize + i) % order.len()]).collect();
        let flips = pairs.iter().map(|pair| self.plan.flip(start.epoch, *pair)).collect();
        let (reply, answer) = sync_channel(1);
        if let Some(jobs) = &self.jobs {
            // A send fails only when every worker is gone; the answer's channel then says so.
            let _ = jobs.send(Job { start, pairs, flips, reply });
        }
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

impl Drop for Loader {
    fn drop(&mut self) {
        self.jobs = None;
        self.waiting.clear();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Plan {
    fn batches(&self) -> usize {
        let (pairs, batch) = (self.members.len(), self.config.batch);
        match self.config.part {
            Part::Train => (pairs / batch).max(1),
            Part::Validation => pairs.div_ceil(batch),
        }
    }

    fn after(&self, cursor: Cursor) -> Cursor {
        let position = cursor.position + self.config.batch as u64;
        // Judged by what is left, not by a count of batches, so that a run may be resumed with another batch size.
        let left = (self.members.len() as u64).saturating_sub(position);
        let ended = match self.config.part {
            Part::Train => left < self.config.batch as u64,
            Part::Validation => left == 0,
        };
        if ended { Cursor { epoch: cursor.epoch + 1, position: 0 } } else { Cursor { position, ..cursor } }
    }

    fn order(&self, epoch: u64) -> Vec<u32> {
        let mut order = self.members.clone();
        if !self.strata.is_empty() {
            order = self.balanced(epoch);
        } else if self.config.part == Part::Train {
            Stream::new(self.config.seed, &[ORDER, epoch]).shuffle(&mut order);
        }
        order
    }

    /// As many draws as there are members, the classes taking turns; each class walks shuffles of its own pairs.
    fn balanced(&self, epoch: u64) -> Vec<u32> {
        let mut walks: Vec<(Stream, Vec<u32>, usize)> = self
            .strata
            .iter()
            .enumerate()
            .map(|(s, pairs)| (Stream::new(self.config.seed, &[ORDER, epoch, s as u64]), pairs.clone(), pairs.len()))
            .collect();
        let mut order: Vec<u32> = (0..self.members.len())
            .map(|i| {
                let s = i % self.strata.len();
                let (stream, pairs, next) = &mut walks[s];
                if *next == pairs.len() {
                    stream.shuffle(pairs);
                    *next = 0;
                }
                *next += 1;
                pairs[*next - 1]
            })
            .collect();
        Stream::new(self.config.seed, &[ORDER, epoch]).shuffle(&mut order);
        order
    }

    fn flip(&self, epoch: u64, pair: u32) -> u8 {
        if !self.config.flip || self.config.part == Part::Validation {
            return 0;
        }
        (hash(Stream::new(self.config.seed, &[FLIPS, epoch]).key(), pair as u64) >> 62) as u8
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn work(source: &dyn PairSource, queue: &Mutex<Receiver<Job>>, spare: &Spare) {
    loop {
        // The lock is held while waiting, which only makes the other idle workers wait behind it.
        let Ok(job) = lock(queue).recv() else { return };
        let Job { start, pairs, flips, reply } = job;
        let room = lock(spare).pop().unwrap_or_default();
        let _ = reply.send(read(source, start, &pairs, flips, room));
    }
}

fn read(
    source: &dyn PairSource,
    start: Cursor,
    pairs: &[u32],
    flips: Vec<u8>,
    (mut s1, mut s2): (Vec<f32>, Vec<f32>),
) -> Result<Batch> {
    let plane = source.tile_px() * source.tile_px();
    s1.resize(pairs.len() * Sensor::S1.channels() * plane, 0.0);
    s2.resize(pairs.len() * Sensor::S2.channels() * plane, 0.0);
    let mut batch = Batch { s1, s2, ids: vec![], labels: vec![], flips, start };
    let one = |sensor: Sensor| sensor.channels() * plane;
    let places = batch.s1.chunks_exact_mut(one(Sensor::S1)).zip(batch.s2.chunks_exact_mut(one(Sensor::S2)));
    for (index, (s1, s2)) in pairs.iter().zip(places) {
        let placed = source.fill(*index as usize, s1, s2)?;
        batch.ids.push(placed.id);
        batch.labels.push(placed.label);
    }
    Ok(batch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::synth::Synth;
    use std::collections::HashSet;

    fn loader(pairs: usize, config: LoaderConfig, cursor: Cursor) -> Loader {
        Loader::new(Arc::new(Synth::new(pairs, 1, 8)), config, cursor).unwrap()
    }

    fn small(batch: usize) -> LoaderConfig {
        LoaderConfig { batch, ..Default::default() }
    }

    #[test]
    fn an_epoch_visits_each_training_pair_once_and_epochs_differ() {
        let mut train = loader(
            40,
            LoaderConfig { split: Split { validation: 0.2, by_scene: false }, ..small(8) },
            Cursor::default(),
        );
        assert_eq!((train.pairs(), train.batches_per_epoch()), (32, 4));
        let mut epoch = || -> Vec<String> { (0..4).flat_map(|_| train.next_batch().unwrap().ids).collect() };
        let (first, second) = (epoch(), epoch());
        let set = |ids: &[String]| ids.iter().cloned().collect::<HashSet<_>>();
        assert_eq!(set(&first).len(), 32);
        assert_eq!(set(&first), set(&second));
        assert_ne!(first, second);
    }

    #[test]
    fn a_resumed_walk_is_the_same_walk() {
        let config = LoaderConfig { workers: 1, prefetch: 1, cache_bytes: 0, ..small(6) };
        let mut whole = loader(21, config, Cursor::default());
        let batches: Vec<Batch> = (0..9).map(|_| whole.next_batch().unwrap()).collect();
        for cut in [1, 2, 3, 5] {
            let mut before = loader(21, config, Cursor::default());
            (0..cut).for_each(|_| drop(before.next_batch().unwrap()));
            let saved = serde_json::to_string(&before.cursor()).unwrap();
            let other = LoaderConfig { workers: 3, prefetch: 5, cache_bytes: 1 << 30, ..config };
            let mut after = loader(21, other, serde_json::from_str(&saved).unwrap());
            assert!(batches[cut..].iter().all(|b| *b == after.next_batch().unwrap()), "cut {cut}");
        }
    }

    #[test]
    fn another_archive_than_the_cursors_is_refused() {
        let cursor = Cursor { epoch: 3, position: 40 };
        let error = Loader::new(Arc::new(Synth::new(21, 1, 8)), small(4), cursor).err().unwrap().to_string();
        assert!(error.contains("resume with the archive"), "{error}");
    }

    #[test]
    fn a_small_archive_wraps_around() {
        let mut train = loader(3, small(7), Cursor::default());
        assert_eq!((train.pairs(), train.batches_per_epoch()), (2, 1));
        let batch = train.next_batch().unwrap();
        assert_eq!((batch.ids.len(), batch.s2.len()), (7, 7 * 10 * 64));
        assert_eq!(batch.ids.iter().collect::<HashSet<_>>().len(), 2);
        assert_eq!(train.cursor(), Cursor { epoch: 1, position: 0 });
    }

    #[test]
    fn validation_is_apart_fixed_and_unflipped() {
        let validation = LoaderConfig { part: Part::Validation, ..small(4) };
        let mut held = loader(100, validation, Cursor::default());
        assert_eq!((held.pairs(), held.batches_per_epoch()), (5, 2));
        let ids: Vec<String> = (0..2).flat_map(|_| held.next_batch().unwrap().ids).collect();
        assert_eq!(ids[5..], ids[..3]);
        let again = held.next_batch().unwrap();
        assert_eq!(again.ids, ids[..4]);
        assert_eq!(again.flips, [0; 4]);
        let mut train = loader(100, small(95), Cursor::default());
        let seen: HashSet<String> = train.next_batch().unwrap().ids.into_iter().collect();
        assert!(seen.len() == 95 && ids.iter().all(|id| !seen.contains(id)));
    }

    #[test]
    fn flips_are_even_and_belong_to_pair_and_epoch() {
        let mut train = loader(
            400,
            LoaderConfig { split: Split { validation: 0.0, by_scene: false }, ..small(400) },
            Cursor::default(),
        );
        let (first, second) = (train.next_batch().unwrap(), train.next_batch().unwrap());
        for flip in 0..4u8 {
            let count = first.flips.iter().filter(|f| **f == flip).count();
            assert!((60..140).contains(&count), "{flip}: {count}");
        }
        let by_id = |batch: &Batch| {
            batch.ids.iter().cloned().zip(batch.flips.iter().copied()).collect::<std::collections::BTreeMap<_, _>>()
        };
        assert_ne!(by_id(&first), by_id(&second));
    }

    #[test]
    fn balanced_sampling_draws_classes_equally_often() {
        /// Three pairs in four are of class 0.
        struct Skewed(Synth);
        impl PairSource for Skewed {
            fn len(&self) -> usize {
                self.0.len()
            }
            fn tile_px(&self) -> usize {
                self.0.tile_px()
            }
            fn describe(&self) -> &super::super::Report {
                self.0.describe()
            }
            fn pair(&self, index: usize) -> Result<super::super::Pair> {
                Ok(super::super::Pair { label: Some((index % 4 == 3) as u32), ..self.0.pair(index)? })
            }
        }
        let config = LoaderConfig {
            sampling: Sampling::Balanced,
            split: Split { validation: 0.0, by_scene: false },
            ..small(80)
        };
        let start = |cursor| Loader::new(Arc::new(Skewed(Synth::new(80, 1, 8))), config, cursor).unwrap();
        let mut train = start(Cursor::default());
        let (first, second) = (train.next_batch().unwrap(), train.next_batch().unwrap());
        let rare = |b: &Batch| b.labels.iter().filter(|l| **l == Some(1)).count();
        assert_eq!((rare(&first), rare(&second)), (40, 40));
        assert_ne!(first.ids, second.ids);
        // 40 draws of 20 rare pairs: each twice.
        assert_eq!(first.ids.iter().collect::<HashSet<_>>().len(), 40 + 20);
        assert!(start(Cursor { epoch: 1, position: 0 }).next_batch().unwrap() == second);
    }

    #[test]
    fn a_failing_source_is_an_error_not_a_hang() {
        struct Broken(Synth);
        impl PairSource for Broken {
            fn len(&self) -> usize {
                4
            }
            fn tile_px(&self) -> usize {
                8
            }
            fn describe(&self) -> &super::super::Report {
                self.0.describe()
            }
            fn pair(&self, _: usize) -> Result<super::super::Pair> {
                Err(Error::new("a.tif", "truncated", "fetch it again"))
            }
        }
        let mut train = Loader::new(Arc::new(Broken(Synth::new(4, 1, 8))), small(2), Cursor::default()).unwrap();
        assert_eq!(train.next_batch().unwrap_err().to_string(), "a.tif: truncated; fetch it again");
    }
}
