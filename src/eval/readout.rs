//! Does training help? A linear read-out of the labels from frozen embeddings, from the same encoder before training,
//! and from the bands' means alone.

use super::logistic::{Accuracy, Logistic};
use super::{Embedder, Embeddings, Encoder};
use crate::data::ImageSource;
use crate::data::random::Stream;
use crate::gpu::Gpu;
use crate::model::Config;
use crate::model::weights::Named;
use anyhow::{Result, bail};
use serde::Serialize;

/// Accuracies on the tiles that were not learnt from.
#[derive(Clone, Debug, Serialize)]
pub struct Readout {
    pub train: usize,
    pub test: usize,
    /// Classes that occur.
    pub classes: usize,
    pub trained: Accuracy,
    /// The same encoder with fresh random weights.
    pub random: Accuracy,
    /// No encoder: the mean of every band.
    pub band_means: Accuracy,
}

/// Embeds the labelled tiles of `source` with the weights of a run and with random ones, fits a logistic regression on one half of
/// every class and tells the other half. `seed` draws the halves and the random weights; `done` hears of every tile embedded.
///
/// # Errors
/// Fewer than two classes with two tiles each; whatever the embedder reports.
pub fn readout(
    gpu: &Gpu,
    config: &Config,
    named: &Named,
    encoder: Encoder,
    source: &dyn ImageSource,
    seed: u64,
    done: impl Fn(usize),
) -> Result<Readout> {
    let trained = Embedder::of(gpu, config, named, encoder)?.embed_all(gpu, source, &done)?;
    let (train, test) = halves(&trained.labels, seed);
    let classes = trained.labels.iter().flatten().max().map_or(0, |most| *most as usize + 1);
    let mut present: Vec<u32> = train.iter().filter_map(|i| trained.labels[*i]).collect();
    present.sort_unstable();
    present.dedup();
    if present.len() < 2 {
        bail!(
            "{}: {} classes with two labelled tiles or more, and a read-out needs 2; give synth:PAIRS or a folder with labels.csv",
            source.describe().name,
            present.len()
        );
    }
    let random = Embedder::random(gpu, config, seed, encoder)?.embed_all(gpu, source, &done)?;
    let means = band_means(source, trained.labels.clone())?;
    let read = |e: &Embeddings| {
        let part = |which: &[usize]| -> (Vec<f32>, Vec<usize>) {
            let rows = which.iter().flat_map(|i| &e.values[i * e.dim..][..e.dim]).copied().collect();
            (rows, which.iter().filter_map(|i| e.labels[*i]).map(|l| l as usize).collect())
        };
        let ((x, y), (held, truth)) = (part(&train), part(&test));
        // The usual strength: as much weight as one tile.
        let model = Logistic::fit(&x, e.dim, &y, classes, 1.0 / y.len() as f64);
        Accuracy::of(&truth, &model.predict(&held), classes)
    };
    Ok(Readout {
        train: train.len(),
        test: test.len(),
        classes: present.len(),
        trained: read(&trained),
        random: read(&random),
        band_means: read(&means),
    })
}

/// Indices to learn from and to test on: every class cut in two at random, the odd tile learnt from.
fn halves(labels: &[Option<u32>], seed: u64) -> (Vec<usize>, Vec<usize>) {
    let (mut train, mut test) = (Vec::new(), Vec::new());
    let mut classes: Vec<u32> = labels.iter().flatten().copied().collect();
    classes.sort_unstable();
    classes.dedup();
    for class in classes {
        let mut members: Vec<usize> = (0..labels.len()).filter(|i| labels[*i] == Some(class)).collect();
        if members.len() < 2 {
            continue;
        }
        Stream::new(seed, &[HALVES, u64::from(class)]).shuffle(&mut members);
        test.extend(members.split_off(members.len().div_ceil(2)));
        train.extend(members);
    }
    (train, test)
}

// Keeps this stream of a seed apart from the others.
const HALVES: u64 = 104;

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
    fn halves_share_every_class_and_nothing_else() {
        let labels: Vec<Option<u32>> = (0..40u32).map(|i| (i != 7).then_some(if i == 3 { 9 } else { i % 3 })).collect();
        let (train, test) = halves(&labels, 1);
        // Tile 7 has no label, tile 3 is alone in its class.
        assert_eq!(train.len() + test.len(), 38);
        assert!(test.iter().all(|i| !train.contains(i) && labels[*i].is_some_and(|l| l < 3)));
        for class in 0..3 {
            let count = |part: &[usize]| part.iter().filter(|i| labels[**i] == Some(class)).count();
            assert!(count(&train).abs_diff(count(&test)) <= 1);
        }
        assert_eq!(halves(&labels, 1), (train.clone(), test));
        assert_ne!(halves(&labels, 2).0, train);
    }
}
