//! Does training help? A linear read-out of the labels from frozen embeddings, from the same encoder before training,
//! and from the bands' means alone.

use super::logistic::{Accuracy, Logistic};
use super::{Embedder, Embeddings, Encoder};
use crate::data::ImageSource;
use crate::data::random::Stream;
use crate::gpu::Gpu;
use crate::model::Config;
use crate::model::weights::WeightsFile;
use anyhow::{Result, bail};
use serde::Serialize;

/// Parts that every class is cut into; each is told by what the others taught.
const FOLDS: usize = 5;

/// Accuracies over all labelled tiles, each told by a classifier that never saw it.
#[derive(Clone, Debug, Serialize)]
pub struct Readout {
    /// Labelled tiles of a class with at least two.
    pub tiles: usize,
    pub folds: usize,
    /// Classes that occur.
    pub classes: usize,
    pub trained: Accuracy,
    /// The same encoder with fresh random weights.
    pub random: Accuracy,
    /// No encoder: the mean of every band.
    pub band_means: Accuracy,
}

/// Embeds the tiles of `source` with the weights of a run and with random ones, and reads their labels out of either by
/// logistic regression, cross-validated. `seed` draws the parts and the random weights; `done` hears of every tile.
///
/// # Errors
/// Fewer than two classes with two tiles each; whatever the embedder reports.
pub fn readout(
    gpu: &Gpu,
    config: &Config,
    weights: &WeightsFile,
    encoder: Encoder,
    source: &dyn ImageSource,
    seed: u64,
    done: impl Fn(usize),
) -> Result<Readout> {
    let trained = Embedder::of(gpu, config, weights, encoder)?.embed_all(gpu, source, &done)?;
    let folds = folds(&trained.labels, seed);
    let (tiles, classes) = (folds.iter().flatten().count(), classes(&trained.labels, &folds));
    if classes < 2 {
        bail!(
            "{}: {classes} classes with two labelled tiles or more, and a read-out needs 2; give synth:PAIRS or a \
             folder with labels.csv",
            source.describe().name
        );
    }
    let random = Embedder::random(gpu, config, seed, encoder)?.embed_all(gpu, source, &done)?;
    let means = band_means(source, trained.labels.clone())?;
    let read = |e: &Embeddings| told(e, &folds);
    Ok(Readout {
        tiles,
        folds: FOLDS,
        classes,
        trained: read(&trained),
        random: read(&random),
        band_means: read(&means),
    })
}

/// Tells every fold by a classifier fitted on the others.
fn told(e: &Embeddings, folds: &[Option<usize>]) -> Accuracy {
    let count = e.labels.iter().flatten().max().map_or(0, |most| *most as usize + 1);
    let (mut truth, mut all) = (Vec::new(), Vec::new());
    for fold in 0..FOLDS {
        let part = |held: bool| -> (Vec<f32>, Vec<usize>) {
            let chosen = (0..folds.len()).filter(|i| folds[*i].is_some_and(|f| (f == fold) == held));
            let label = |i: usize| e.labels[i].map_or(0, |l| l as usize);
            let rows = chosen.map(|i| (e.values[i * e.dim..][..e.dim].to_vec(), label(i)));
            let (x, y): (Vec<Vec<f32>>, Vec<usize>) = rows.unzip();
            (x.concat(), y)
        };
        let ((x, y), (held, labels)) = (part(false), part(true));
        // The usual strength: the prior weighs as much as one tile.
        let model = Logistic::fit(&x, e.dim, &y, count, 1.0 / y.len().max(1) as f64);
        all.extend(model.predict(&held));
        truth.extend(labels);
    }
    Accuracy::of(&truth, &all, count)
}

/// Which part each tile belongs to: every class dealt out at random; none without a label or alone in its class.
fn folds(labels: &[Option<u32>], seed: u64) -> Vec<Option<usize>> {
    let mut folds = vec![None; labels.len()];
    let mut classes: Vec<u32> = labels.iter().flatten().copied().collect();
    classes.sort_unstable();
    classes.dedup();
    let mut next = 0;
    for class in classes {
        let mut members: Vec<usize> = (0..labels.len()).filter(|i| labels[*i] == Some(class)).collect();
        if members.len() < 2 {
            continue;
        }
        Stream::new(seed, &[PARTS, u64::from(class)]).shuffle(&mut members);
        for i in members {
            folds[i] = Some(next % FOLDS);
            next += 1;
        }
    }
    folds
}

// Keeps this stream of a seed apart from the others.
const PARTS: u64 = 104;

fn classes(labels: &[Option<u32>], folds: &[Option<usize>]) -> usize {
    let mut present: Vec<u32> = labels.iter().zip(folds).filter(|(_, f)| f.is_some()).filter_map(|(l, _)| *l).collect();
    present.sort_unstable();
    present.dedup();
    present.len()
}

fn band_means(source: &dyn ImageSource, labels: Vec<Option<u32>>) -> Result<Embeddings> {
    let plane = source.tile_px() * source.tile_px();
    let mut means = Embeddings { dim: source.sensor().channels(), labels, ..Embeddings::default() };
    for i in 0..source.len() {
        let pixels = source.image(i)?.pixels;
        let mean = |band: &[f32]| (band.iter().map(|v| f64::from(*v)).sum::<f64>() / plane as f64) as f32;
        means.values.extend(pixels.chunks(plane).map(mean));
    }
    Ok(means)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folds_share_every_class_and_leave_loners_out() {
        let labels: Vec<Option<u32>> = (0..40u32).map(|i| (i != 7).then_some(if i == 3 { 9 } else { i % 3 })).collect();
        let parts = folds(&labels, 1);
        assert_eq!((parts[7], parts[3], classes(&labels, &parts)), (None, None, 3));
        assert_eq!(parts.iter().flatten().count(), 38);
        for fold in 0..FOLDS {
            for class in 0..3 {
                let n = (0..40).filter(|i| parts[*i] == Some(fold) && labels[*i] == Some(class)).count();
                assert!((2..=3).contains(&n), "{n} of class {class} in fold {fold}");
            }
        }
        assert_eq!(folds(&labels, 1), parts);
        assert_ne!(folds(&labels, 2), parts);
    }

    #[test]
    fn labels_in_the_features_are_read_and_noise_is_not() {
        let mut rng = crate::tensor::Rng::new(1, 1);
        let labels: Vec<Option<u32>> = (0..200).map(|i| Some(i % 4)).collect();
        let mut clear = Embeddings { dim: 4, labels: labels.clone(), ..Embeddings::default() };
        let mut noise = clear.clone();
        for label in labels.iter().flatten() {
            clear.values.extend((0..4).map(|c| f32::from(u8::from(c == *label)) + 0.2 * rng.normal() as f32));
            noise.values.extend((0..4).map(|_| rng.normal() as f32));
        }
        let parts = folds(&labels, 1);
        assert!(told(&clear, &parts).overall > 0.95);
        assert!(told(&noise, &parts).overall < 0.4);
    }
}
