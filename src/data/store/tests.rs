//! The store on procedural pairs: round trip, resuming, damage, size.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::write::{Job, Outcome, Watch};
use super::*;
use crate::data::archive::{About, ArchiveOptions, Reader, Scene, open};
use crate::data::synth::Synth;
use crate::data::{Error, Loader, LoaderConfig, OnError};

struct Quiet;
impl Watch for Quiet {
    fn scene(&self, _: usize, _: usize) {}
    fn skipped(&self, _: &Error) {}
}

fn cut_to(spec: &str, out: &Path, share: (usize, usize)) -> Result<Outcome> {
    let options = ArchiveOptions { tile_px: Some(16), ..Default::default() };
    let reader = open(spec, &options)?;
    Job { reader: &*reader, options: &options, out, share }.run(&Quiet)
}

/// Name and bytes of every file.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap().map(|e| e.unwrap());
    entries.map(|e| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap())).collect()
}

const PAIRS: &str = "synth:1100:5";

#[test]
fn what_goes_in_comes_out() {
    let dir = tempfile::tempdir().unwrap();
    let outcome = cut_to(PAIRS, dir.path(), (0, 1)).unwrap();
    assert_eq!((outcome.written, outcome.missing, outcome.pairs), (3, 0, 1100));
    let store = Store::open(dir.path()).unwrap();
    let synth = Synth::new(1100, 5, 16);
    assert_eq!(store.report.classes, synth.describe().classes);
    for index in [0, 1, 511, 512, 700, 1023, 1024, 1099] {
        assert!(store.pair(index).unwrap() == synth.pair(index).unwrap(), "pair {index}");
        assert_eq!(PairSource::label(&store, index), synth.pair(index).unwrap().label);
    }
    let shard = store.shard(0).unwrap();
    // Digital numbers are whole; decibels are not.
    assert_eq!(
        (shard.dtype("s1"), shard.dtype("s2_20m")),
        (Some(safetensors::Dtype::F32), Some(safetensors::Dtype::U16))
    );
    let images = StoreImages::new(Store::open(dir.path()).unwrap(), Sensor::S2).unwrap();
    assert_eq!(images.image(600).unwrap().pixels, synth.pair(600).unwrap().s2);
    // The loader sees the same pairs as from the archive itself.
    let batch = |source: Box<dyn PairSource>| {
        Loader::new(source.into(), LoaderConfig { batch: 8, ..Default::default() }, Default::default())
            .unwrap()
            .next_batch()
            .unwrap()
    };
    assert!(batch(Box::new(store)) == batch(Box::new(synth)));
}

#[test]
fn statistics_are_those_of_the_pixels() {
    let dir = tempfile::tempdir().unwrap();
    cut_to("synth:600:9", dir.path(), (0, 1)).unwrap();
    let store = Store::open(dir.path()).unwrap();
    let written = store.statistics().unwrap().unwrap();
    let measured = store.measure(|| {}).unwrap();
    let own = crate::data::stats::measure(&Synth::new(600, 9, 16), &(0..600).collect::<Vec<_>>(), |_| {}).unwrap();
    for sensor in [Sensor::S1, Sensor::S2] {
        for other in [&measured, &own] {
            let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-6 * a.abs());
            assert!(close(&written.of(sensor).mean, &other.of(sensor).mean));
            assert!(close(&written.of(sensor).std, &other.of(sensor).std));
        }
    }
    store.save_statistics(&measured).unwrap();
    assert_eq!(store.statistics().unwrap().unwrap(), measured);
}

#[test]
fn interrupted_or_shared_the_bytes_are_the_same() {
    let whole = tempfile::tempdir().unwrap();
    cut_to(PAIRS, whole.path(), (0, 1)).unwrap();
    let want = files(whole.path());
    assert_eq!(want.len(), 5);

    // Three machines, the last of which finishes.
    let shared = tempfile::tempdir().unwrap();
    for (share, missing) in [(2, 2), (0, 1), (1, 0)] {
        assert!(Store::open(shared.path()).is_err());
        assert_eq!(cut_to(PAIRS, shared.path(), (share, 3)).unwrap().missing, missing);
    }
    assert!(files(shared.path()) == want);

    // Killed in the middle: a shard is missing, half of it lies under a temporary name, the index says nothing yet.
    let killed = tempfile::tempdir().unwrap();
    cut_to(PAIRS, killed.path(), (0, 2)).unwrap();
    fs::remove_file(killed.path().join(shard_name(2))).unwrap();
    fs::write(killed.path().join(".shard-00002.safetensors.4711.part"), &want["shard-00002.safetensors"][..999])
        .unwrap();
    let message = Store::open(killed.path()).err().unwrap().to_string();
    assert!(message.contains("1 of 3 shards") && message.contains("goes on"), "{message}");
    let outcome = cut_to(PAIRS, killed.path(), (0, 1)).unwrap();
    assert_eq!((outcome.written, outcome.found), (2, 1));
    assert!(files(killed.path()) == want);

    let message = cut_to("synth:1100:6", killed.path(), (0, 1)).unwrap_err().to_string();
    assert!(message.contains("other patches"), "{message}");
}

#[test]
fn damage_is_found_wherever_it_is() {
    let dir = tempfile::tempdir().unwrap();
    cut_to("synth:20:5", dir.path(), (0, 1)).unwrap();
    let path = dir.path().join(shard_name(0));
    let whole = fs::read(&path).unwrap();
    let read = || -> Result<()> {
        let store = Store::open(dir.path())?;
        (0..20).try_for_each(|i| store.pair(i).map(drop))
    };
    read().unwrap();
    // A step that is no multiple of anything, so that every tensor is hit.
    for at in (8..whole.len()).step_by(3_001) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        fs::write(&path, &bytes).unwrap();
        let error = read().err();
        // The header's padding is the one place where a flipped bit changes nothing.
        let message = error.map(|e| e.to_string()).unwrap_or_else(|| panic!("byte {at} of {} unnoticed", whole.len()));
        assert!(message.contains("shard-00000.safetensors") && !message.contains('\n'), "{message}");
    }
    for length in [0, 1, 8, 100, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        assert!(read().unwrap_err().to_string().contains("shard-00000.safetensors"));
    }
    fs::write(dir.path().join(INDEX), "{").unwrap();
    assert!(read().unwrap_err().to_string().contains("not the index"));
}

/// Scenes of which every other cannot be read.
struct Half(Box<dyn Reader>);
impl Reader for Half {
    fn about(&self) -> &About {
        self.0.about()
    }
    fn len(&self) -> usize {
        self.0.len()
    }
    fn id(&self, index: usize) -> String {
        self.0.id(index)
    }
    fn scene(&self, index: usize) -> Result<Scene> {
        match index % 2 {
            0 => self.0.scene(index),
            _ => Err(Error::new("a.tif", "truncated", "fetch it again")),
        }
    }
}

#[test]
fn unreadable_scenes_stop_or_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let run = |on_error| {
        let options = ArchiveOptions { tile_px: Some(16), on_error, ..Default::default() };
        let reader = Half(open("synth:10", &options).unwrap());
        Job { reader: &reader, options: &options, out: dir.path(), share: (0, 1) }.run(&Quiet)
    };
    assert_eq!(run(OnError::Stop).unwrap_err().to_string(), "a.tif: truncated; fetch it again");
    let outcome = run(OnError::Skip).unwrap();
    assert_eq!((outcome.pairs, &outcome.left_out), (5, &BTreeMap::from([("unreadable".into(), 5)])));
    assert_eq!(Store::open(dir.path()).unwrap().pair(1).unwrap(), Synth::new(10, 42, 16).pair(2).unwrap());
}

/// Scenes without a single valid pixel, or of the wrong size.
struct Spoilt(Box<dyn Reader>, fn(&mut Scene));
impl Reader for Spoilt {
    fn about(&self) -> &About {
        self.0.about()
    }
    fn len(&self) -> usize {
        self.0.len()
    }
    fn id(&self, index: usize) -> String {
        self.0.id(index)
    }
    fn scene(&self, index: usize) -> Result<Scene> {
        let mut scene = self.0.scene(index)?;
        self.1(&mut scene);
        Ok(scene)
    }
}

#[test]
fn spoilt_scenes_are_dropped_or_refused() {
    let options = ArchiveOptions { tile_px: Some(16), ..Default::default() };
    let run = |spoil: fn(&mut Scene)| {
        let dir = tempfile::tempdir().unwrap();
        let reader = Spoilt(open("synth:4", &options).unwrap(), spoil);
        let job = Job { reader: &reader, options: &options, out: dir.path(), share: (0, 1) };
        job.run(&Quiet).map(|outcome| (outcome, Store::open(dir.path()).err().map(|e| e.to_string())))
    };
    let (outcome, opened) = run(|scene| scene.bands.iter_mut().for_each(|b| b.values.fill(f32::NAN))).unwrap();
    assert_eq!((outcome.pairs, &outcome.dropped), (0, &BTreeMap::from([("S1 has missing pixels".into(), 4)])));
    assert!(opened.unwrap().contains("no whole patch: 4 x S1 has missing pixels"));
    let (outcome, _) = run(|scene| scene.bands[7].values[3] = f32::INFINITY).unwrap();
    assert_eq!(outcome.dropped, BTreeMap::from([("S2 has missing pixels".into(), 4)]));
    let message = run(|scene| scene.bands[0].width = 15).unwrap_err().to_string();
    assert!(message.contains("256 values for 15 x 16 pixels"), "{message}");
    let message = run(|scene| drop(scene.bands.remove(0))).unwrap_err().to_string();
    assert!(message.contains("bands VV missing"), "{message}");
    let message = run(|scene| drop(scene.bands.drain(..2))).unwrap_err().to_string();
    assert!(message.contains("has no s1 bands"), "{message}");
}

#[test]
fn a_million_patches_open_at_once() {
    let dir = tempfile::tempdir().unwrap();
    cut_to("synth:8", dir.path(), (0, 1)).unwrap();
    let mut index = Index::read(dir.path()).unwrap();
    (index.plan.scenes, index.plan.scenes_per_shard) = (1_048_576, 512);
    index.patches = vec![512; 2048];
    fs::write(dir.path().join(INDEX), serde_json::to_vec(&index).unwrap()).unwrap();
    let began = std::time::Instant::now();
    assert_eq!(Store::open(dir.path()).unwrap().report.pairs, 1_048_576);
    let took = began.elapsed();
    assert!(took < std::time::Duration::from_secs(1), "{took:?}");
}
