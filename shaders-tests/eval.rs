//! Embeddings, read-outs, reconstructions and the verified step, through the GPU.

use crate::harness::{gpu, micro};
use csmoe::data::synth::Synth;
use csmoe::data::{Half, Image, ImageSource, Report, Sensor};
use csmoe::eval::{Embedder, Encoder, Neighbours, Strategy, readout, reconstruct, reconstruction_sheet, verify_step};
use csmoe::model::weights::{self, WeightsFile};
use csmoe::model::{Config, Csmoe};
use csmoe::tensor::ParamStore;
use std::path::Path;
use std::sync::Arc;

/// Tiles are resized to the model's 24 pixels.
const PX: usize = 20;

/// A run folder with random weights.
fn run_folder(config: &Config, folder: &Path) {
    let store = ParamStore::new(gpu(), Csmoe::for_training(config.clone()).params, false).expect("memory");
    store.init(gpu(), 3);
    weights::save(gpu(), &store, &folder.join("model.safetensors")).expect("weights");
    let text = serde_json::to_string(config).expect("JSON");
    std::fs::write(folder.join("config.json"), text).expect("a writable folder");
}

fn encoder(strategy: Strategy, batch: usize) -> Encoder {
    Encoder { sensor: Sensor::S2, strategy, batch, tile_px: PX }
}

fn embed(run: &Path, strategy: Strategy, batch: usize) -> Vec<f32> {
    let source = Half(Synth::new(7, 5, PX), Sensor::S2);
    let embedder = Embedder::open(gpu(), run, encoder(strategy, batch)).expect("an embedder");
    let all = embedder.embed_all(gpu(), &source, |_| ()).expect("embeddings");
    assert_eq!((all.ids.len(), all.dim, all.values.len()), (7, 32, 7 * 32));
    assert_eq!(all.ids[6], "synth5_000006");
    assert!(all.places.iter().all(Option::is_some) && all.labels.iter().all(Option::is_some));
    all.values
}

fn close(a: &[f32], b: &[f32], bound: f32) {
    let top = b.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let error = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0f32, f32::max);
    assert!(a.len() == b.len() && error <= bound * top, "off by {error:.1e} of {top}");
}

#[test]
fn strategies_follow_from_the_tokens() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut config = micro();
    config.loss.projector = true;
    run_folder(&config, folder.path());
    let get = |s| embed(folder.path(), s, 4);
    let cls = get(Strategy::Cls);
    let unit = |x: &[f32]| -> Vec<f32> {
        let norm = |row: &[f32]| row.iter().map(|v| v * v).sum::<f32>().sqrt();
        x.chunks(32).flat_map(|row| row.iter().map(move |v| v / norm(row))).collect()
    };
    close(&get(Strategy::NormCls), &unit(&cls), 1e-6);
    let named = weights::read(&folder.path().join("model.safetensors")).expect("weights");
    let projector = &named["projector.weight"].1;
    let projected: Vec<f32> = cls
        .chunks(32)
        .flat_map(|row| projector.chunks(32).map(move |w| w.iter().zip(row).map(|(a, b)| a * b).sum()))
        .collect();
    close(&get(Strategy::NormProjCls), &unit(&projected), 1e-5);
    let patches = get(Strategy::MeanPatches);
    let mean: Vec<f32> = patches.iter().zip(&cls).map(|(p, c)| (9.0 * p + c) / 10.0).collect();
    close(&get(Strategy::MeanAll), &mean, 1e-6);
}

#[test]
fn batches_do_not_change_embeddings() {
    let folder = tempfile::tempdir().expect("a folder");
    run_folder(&micro(), folder.path());
    let whole = embed(folder.path(), Strategy::Cls, 7);
    for batch in [1, 2, 3, 16] {
        close(&embed(folder.path(), Strategy::Cls, batch), &whole, 1e-6);
    }
    // The projector of a model without one is the identity.
    close(&embed(folder.path(), Strategy::NormProjCls, 4), &embed(folder.path(), Strategy::NormCls, 4), 0.0);
}

#[test]
fn bad_runs_and_pixels_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let open = || match Embedder::open(gpu(), folder.path(), encoder(Strategy::Cls, 2)) {
        Ok(embedder) => Ok(embedder),
        Err(e) => Err(format!("{e:#}")),
    };
    assert!(open().err().expect("no run").contains("config.json"));
    run_folder(&micro(), folder.path());
    let embedder = open().expect("a run");
    assert!(embedder.embed(gpu(), &[0.0; 7]).is_err());

    struct Holes(Half<Synth>);
    impl ImageSource for Holes {
        fn sensor(&self) -> Sensor {
            Sensor::S2
        }
        fn len(&self) -> usize {
            3
        }
        fn tile_px(&self) -> usize {
            PX
        }
        fn describe(&self) -> &Report {
            self.0.describe()
        }
        fn image(&self, index: usize) -> csmoe::data::Result<Image> {
            let mut image = self.0.image(index)?;
            if index == 1 {
                image.pixels[5] = f32::NAN;
            }
            Ok(image)
        }
    }
    let holes = Holes(Half(Synth::new(3, 5, PX), Sensor::S2));
    let error = embedder.embed_all(gpu(), &holes, |_| ()).expect_err("NaN").to_string();
    assert!(error.contains("synth5_000001") && error.contains("no numbers"), "{error}");

    let text = serde_json::to_string(&Config { dim: 64, ..micro() }).expect("JSON");
    std::fs::write(folder.path().join("config.json"), text).expect("a writable folder");
    let error = open().err().expect("another model");
    assert!(error.contains("model.safetensors") && error.contains("should have"), "{error}");
    let file = folder.path().join("model.safetensors");
    let bytes = std::fs::read(&file).expect("weights");
    std::fs::write(&file, &bytes[..bytes.len() / 2]).expect("a writable folder");
    let error = open().err().expect("half a file");
    assert!(error.contains("model.safetensors") && error.contains("copy it again"), "{error}");
}

#[test]
fn a_verified_step_is_whole() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = micro();
    run_folder(&config, folder.path());
    let step = verify_step(gpu(), folder.path(), Arc::new(Synth::new(20, 5, PX)), 3, 9).expect("a step");
    let file = folder.path().join("step.safetensors");
    step.save(&file).expect("a file");
    let bytes = std::fs::read(&file).expect("a file");
    let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    let shape = |name: &str| tensors.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}")).shape().to_vec();
    assert_eq!((shape("input.s1"), shape("input.s2")), (vec![3, 2, 24, 24], vec![3, 10, 24, 24]));
    assert_eq!((shape("keep.s1"), shape("keep.s2")), (vec![3, 4], vec![3, 4]));
    let params = Csmoe::for_training(config.clone()).params;
    for (name, expected, _, _) in params.pieces() {
        assert_eq!(shape(&format!("grad.{name}")), expected);
    }
    assert_eq!(tensors.names().len(), 4 + 8 + params.pieces().count());
    let t: Vec<f32> = step.terms.named().map(|(_, v)| v).collect();
    let total = t[..5].iter().sum::<f32>() + config.loss.lambda_rep * t[5] + config.loss.gamma_ent * t[6];
    assert!((total - t[7]).abs() < 1e-5 * total, "{t:?}");
    // The same seed is the same step, another one is not.
    let again = verify_step(gpu(), folder.path(), Arc::new(Synth::new(20, 5, PX)), 3, 9).expect("a step");
    assert_eq!((&again.inputs, &again.keep, again.terms), (&step.inputs, &step.keep, step.terms));
    let other = verify_step(gpu(), folder.path(), Arc::new(Synth::new(20, 5, PX)), 3, 10).expect("a step");
    assert_ne!(other.keep, step.keep);
}

#[test]
fn reconstructions_keep_what_was_seen() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = micro();
    run_folder(&config, folder.path());
    let source = Synth::new(12, 5, PX);
    let (config, all) = reconstruct(gpu(), folder.path(), &source, 10, 9).expect("reconstructions");
    assert_eq!(all.len(), 10);
    for pair in &all {
        for (target, input) in pair.inputs.iter().enumerate() {
            for (hidden, image) in pair.hidden.iter().zip(&pair.images[target]) {
                assert_eq!(hidden.iter().filter(|h| **h).count(), 5);
                for (i, (a, b)) in image.iter().zip(input).enumerate() {
                    let (y, x) = (i % (24 * 24) / 24 / 8, i % 24 / 8);
                    assert!(hidden[y * 3 + x] || a == b);
                }
            }
        }
        // The error is the loss's: recomputed from the picture.
        let gaps = pair.images[1][0].iter().zip(&pair.inputs[1]).map(|(a, b)| f64::from(a - b).powi(2));
        let error = gaps.sum::<f64>() / (5 * 64 * 10) as f64;
        assert!((error - pair.errors[1][0]).abs() < 1e-4 * error);
    }
    let file = folder.path().join("sheet.png");
    reconstruction_sheet(&config, &all).save(&file).expect("a picture");
    assert!(std::fs::metadata(&file).expect("a picture").len() > 1000);
}

#[test]
fn a_readout_needs_labels_and_finds_neighbours() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = micro();
    run_folder(&config, folder.path());
    let weights = WeightsFile::open(&folder.path().join("model.safetensors")).expect("weights");
    let source = Half(Synth::new(80, 5, PX), Sensor::S2);
    let read = readout(gpu(), &config, &weights, encoder(Strategy::Cls, 16), &source, 1, |_| ()).expect("a read-out");
    assert_eq!((read.tiles, read.classes), (80, 8));
    // Even band means tell many of eight classes.
    assert!(read.band_means.overall > 0.25, "{read:?}");

    struct Bare(Half<Synth>);
    impl ImageSource for Bare {
        fn sensor(&self) -> Sensor {
            Sensor::S2
        }
        fn len(&self) -> usize {
            self.0.len()
        }
        fn tile_px(&self) -> usize {
            PX
        }
        fn describe(&self) -> &Report {
            self.0.describe()
        }
        fn image(&self, index: usize) -> csmoe::data::Result<Image> {
            Ok(Image { label: None, ..self.0.image(index)? })
        }
    }
    let bare = Bare(Half(Synth::new(6, 5, PX), Sensor::S2));
    let error = readout(gpu(), &config, &weights, encoder(Strategy::Cls, 16), &bare, 1, |_| ()).expect_err("no labels");
    assert!(error.to_string().contains("labels.csv"), "{error}");

    let embedder = Embedder::of(gpu(), &config, &weights, encoder(Strategy::Cls, 16)).expect("an embedder");
    let all = embedder.embed_all(gpu(), &source, |_| ()).expect("embeddings");
    let found = Neighbours::find(&all, 4, 3);
    let sheet = csmoe::eval::neighbour_sheet(&found, &all, &source).expect("a sheet").render();
    assert!(sheet.width > 4 * 96 && sheet.height > 4 * 96);
}
