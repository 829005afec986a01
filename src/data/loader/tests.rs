//! The walk: whole, repeatable, resumable, and no further ahead than asked.

use super::*;
use crate::data::synth::Synth;
use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

fn loader(pairs: usize, config: LoaderConfig, cursor: Cursor) -> Loader {
    Loader::new(Arc::new(Synth::new(pairs, 1, 8)), config, cursor).unwrap()
}

fn small(batch: usize) -> LoaderConfig {
    LoaderConfig { batch, ..Default::default() }
}

#[test]
fn an_epoch_visits_each_training_pair_once_and_epochs_differ() {
    let mut train =
        loader(40, LoaderConfig { split: Split { validation: 0.2, by_scene: false }, ..small(8) }, Cursor::default());
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
    let config = || LoaderConfig { workers: 1, prefetch: 1, cache_bytes: 0, ..small(6) };
    let mut whole = loader(21, config(), Cursor::default());
    let batches: Vec<Batch> = (0..9).map(|_| whole.next_batch().unwrap()).collect();
    for cut in [1, 2, 3, 5] {
        let mut before = loader(21, config(), Cursor::default());
        (0..cut).for_each(|_| drop(before.next_batch().unwrap()));
        let saved = serde_json::to_string(&before.cursor()).unwrap();
        let other = LoaderConfig { workers: 3, prefetch: 5, cache_bytes: 1 << 30, ..config() };
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
    let config =
        LoaderConfig { sampling: Sampling::Balanced, split: Split { validation: 0.0, by_scene: false }, ..small(80) };
    let start = |cursor| Loader::new(Arc::new(Skewed(Synth::new(80, 1, 8))), config.clone(), cursor).unwrap();
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

/// Weights of every kind: none, tiny, whole, broken.
fn weighted(pairs: usize) -> (LoaderConfig, Vec<f64>) {
    let of = |i: usize| [0.0, 1e-9, 0.3, 1.0, 1.0, 2.5, 17.0][i % 7] * (1.0 + (i / 7) as f64);
    let weights: Vec<f64> = (0..pairs).map(of).collect();
    let split = Split { validation: 0.0, by_scene: false };
    (LoaderConfig { weights: Some(weights.clone().into()), split, ..small(pairs) }, weights)
}

fn index(id: &str) -> usize {
    id.rsplit('_').next().unwrap().parse().unwrap()
}

#[test]
fn weights_are_met_to_within_one_draw_in_every_epoch() {
    let (config, weights) = weighted(210);
    let total: f64 = weights.iter().sum();
    let expected: Vec<f64> = weights.iter().map(|w| 210.0 * w / total).collect();
    let mut train = loader(210, config, Cursor::default());
    let mut sums = vec![0.0; 210];
    let mut orders = HashSet::new();
    for _ in 0..200 {
        let ids = train.next_batch().unwrap().ids;
        let mut counts = vec![0.0; 210];
        ids.iter().for_each(|id| counts[index(id)] += 1.0);
        for (i, (count, want)) in counts.iter().zip(&expected).enumerate() {
            assert!(*count == want.floor() || *count == want.ceil(), "pair {i}: {count} draws, {want} expected");
            sums[i] += count;
        }
        orders.insert(ids);
    }
    assert_eq!(orders.len(), 200);
    // Their mean is the expectation: four deviations of 200 draws that differ by at most one.
    for (i, (sum, want)) in sums.iter().zip(&expected).enumerate() {
        let part = want.fract();
        assert!((sum / 200.0 - want).abs() <= 4.0 * (part * (1.0 - part) / 200.0).sqrt() + 1e-9, "pair {i}");
    }
    // Equal weights are the plain walk's counts.
    let even = LoaderConfig { weights: Some(vec![0.7; 30].into()), ..weighted(30).0 };
    assert_eq!(loader(30, even, Cursor::default()).next_batch().unwrap().ids.iter().collect::<HashSet<_>>().len(), 30);
}

#[test]
fn a_weighted_walk_is_resumed_and_validation_is_not_weighed() {
    let config = || LoaderConfig { batch: 8, ..weighted(70).0 };
    let mut whole = loader(70, config(), Cursor::default());
    let batches: Vec<Batch> = (0..20).map(|_| whole.next_batch().unwrap()).collect();
    for cut in [1, 7, 8, 9, 17] {
        let mut after = loader(70, config(), batches[cut].start);
        assert!(batches[cut..].iter().all(|b| *b == after.next_batch().unwrap()), "cut {cut}");
    }
    let split = Split { validation: 0.5, by_scene: false };
    let held = LoaderConfig { part: Part::Validation, split, ..config() };
    let plain = LoaderConfig { weights: None, ..held.clone() };
    assert!(
        loader(70, held, Cursor::default()).next_batch().unwrap()
            == loader(70, plain, Cursor::default()).next_batch().unwrap()
    );
    let none = LoaderConfig { weights: Some(vec![0.0; 70].into()), ..config() };
    let refused = Loader::new(Arc::new(Synth::new(70, 1, 8)), none, Cursor::default());
    assert!(refused.err().unwrap().to_string().contains("weight 0"));
}

/// Counts the pairs that were read.
struct Counted(Synth, Arc<AtomicUsize>);
impl PairSource for Counted {
    fn len(&self) -> usize {
        self.0.len()
    }
    fn tile_px(&self) -> usize {
        self.0.tile_px()
    }
    fn describe(&self) -> &crate::data::Report {
        self.0.describe()
    }
    fn pair(&self, index: usize) -> Result<crate::data::Pair> {
        self.1.fetch_add(1, Ordering::SeqCst);
        self.0.pair(index)
    }
}

/// Rooms that say how many of them there are.
struct Slot(Vec<f32>, Arc<AtomicUsize>);
impl Room for Slot {
    fn put(&mut self, at: usize, values: &[f32]) {
        self.0.put(at, values);
    }
}
impl Drop for Slot {
    fn drop(&mut self) {
        self.1.fetch_sub(1, Ordering::SeqCst);
    }
}

#[test]
fn a_million_pairs_are_walked_at_once_in_the_memory_of_a_few_batches() {
    let (read, rooms) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let source = Arc::new(Counted(Synth::new(1_000_000, 1, 8), read.clone()));
    let slot = || {
        rooms.fetch_add(1, Ordering::SeqCst);
        Slot(vec![], rooms.clone())
    };
    let config = LoaderConfig { prefetch: 3, cache_bytes: 0, ..small(16) };
    let began = Instant::now();
    let mut train = Loader::with_rooms(source, config, Cursor::default(), vec![[slot(), slot()], [slot(), slot()]]);
    let train = train.as_mut().unwrap();
    let first = train.next_batch().unwrap();
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    // Three are to be read ahead, two have room: one is out, one under way, and then it waits.
    let second = train.next_batch().unwrap();
    assert_ne!(first.ids, second.ids);
    assert!(train.next_batch().is_err_and(|e| e.to_string().contains("give batches back")));
    assert_eq!(read.load(Ordering::SeqCst), 32);
    train.recycle(first);
    for _ in 0..20 {
        let batch = train.next_batch().unwrap();
        assert_eq!((batch.s1.0.len(), batch.s2.0.len()), (16 * 2 * 64, 16 * 10 * 64));
        train.recycle(batch);
    }
    assert_eq!(rooms.load(Ordering::SeqCst), 4);
    assert!(read.load(Ordering::SeqCst) <= 16 * 23);
}
