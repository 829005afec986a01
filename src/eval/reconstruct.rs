//! Pictures of what the decoders make of hidden patches, for both sensors and every direction.

use super::open_run;
use crate::data::picture::{Rgb, Sheet, Stretch};
use crate::data::split::members;
use crate::data::{Batch, Cursor, Error, PairSource, Part, Sensor, Split};
use crate::gpu::Gpu;
use crate::model::{Config, Csmoe};
use crate::tensor::{ParamStore, Program, Tape};
use crate::train::{feed, masks};
use anyhow::Result;
use std::path::Path;

const SENSORS: [Sensor; 2] = [Sensor::S1, Sensor::S2];
/// Pairs in one run of the program.
const BATCH: usize = 8;

/// One pair, seen through the model. Pixels are in the model's units (normalised), [C, S, S] with S the image size.
pub struct Reconstructed {
    pub id: String,
    /// By sensor.
    pub inputs: [Vec<f32>; 2],
    /// By sensor [P]: which patches the encoder did not see.
    pub hidden: [Vec<bool>; 2],
    /// `[target][source]`: the target's input with the predictions of the patches that were hidden in the source.
    pub images: [[Vec<f32>; 2]; 2],
    /// `[target][source]`: mean squared error over those patches.
    pub errors: [[f64; 2]; 2],
}

/// Reconstructs `count` pairs, those held out of training by the default split of `seed` first. Masks are drawn from
/// `seed` too.
///
/// # Errors
/// A run that is not whole; pairs that cannot be read; a lost device.
pub fn reconstruct(
    gpu: &Gpu,
    run: &Path,
    source: &dyn PairSource,
    count: usize,
    seed: u64,
) -> Result<(Config, Vec<Reconstructed>)> {
    let (config, weights) = open_run(run)?;
    let model = Csmoe::for_training(config.clone());
    let store = ParamStore::new(gpu, model.params.clone(), false)?;
    weights.load(gpu, &store)?;
    let part = |part| members(source, Split::default(), part, seed);
    let mut chosen: Vec<u32> = part(Part::Validation).into_iter().chain(part(Part::Train)).collect();
    chosen.truncate(count);
    let batch = chosen.len().min(BATCH);
    let program = record(gpu, &model, batch, source.tile_px())?.compile(gpu, &store)?;
    let mut all = Vec::new();
    for (stream, some) in chosen.chunks(batch).enumerate() {
        all.extend(run_batch(gpu, &program, &config, source, some, batch, (seed, stream as u64))?);
    }
    Ok((config, all))
}

fn record(gpu: &Gpu, model: &Csmoe, batch: usize, px: usize) -> Result<Tape> {
    let mut t = Tape::new(gpu.target.clone(), model.params.clone());
    let images = model.pixel_inputs(&mut t, batch, px)?;
    let masked = model.mask_inputs(&mut t, batch, model.config.kept());
    let encoded = model.encode(&mut t, &images, &masked.keep, &[])?;
    let predictions = model.decode(&mut t, &encoded, &masked)?;
    for (i, target) in SENSORS.iter().enumerate() {
        t.output(format!("input.{target}"), images.images[i])?;
        for (j, source) in SENSORS.iter().enumerate() {
            t.output(format!("{source}->{target}"), predictions[i][j])?;
        }
    }
    Ok(t)
}

fn run_batch(
    gpu: &Gpu,
    program: &Program,
    config: &Config,
    source: &dyn PairSource,
    some: &[u32],
    size: usize,
    (seed, stream): (u64, u64),
) -> Result<Vec<Reconstructed>> {
    let mut pairs =
        Batch { s1: vec![], s2: vec![], ids: vec![], labels: vec![], flips: vec![0; size], start: Cursor::default() };
    // The last batch is filled up with its first pair.
    for index in some.iter().chain(std::iter::repeat(&some[0])).take(size) {
        let pair = source.pair(*index as usize)?;
        pairs.s1.extend(pair.s1);
        pairs.s2.extend(pair.s2);
        pairs.ids.push(pair.id);
        pairs.labels.push(pair.label);
    }
    let keep = masks::draw(config, size, seed, stream);
    let tables = masks::tables(&keep, size, config.patches());
    feed(gpu, program, config, &pairs, &keep)?;
    program.run(gpu)?;
    let read = |name: String| program.read::<f32>(gpu, &name);
    let mut inputs = Vec::new();
    let mut predictions = Vec::new();
    for target in SENSORS {
        inputs.push(read(format!("input.{target}"))?);
        let [a, b] = SENSORS.map(|source| read(format!("{source}->{target}")));
        predictions.push([a?, b?]);
    }
    let one = |values: &[f32], i: usize| -> Vec<f32> {
        let n = values.len() / size;
        values[i * n..][..n].to_vec()
    };
    let count = config.patches() - config.kept();
    Ok((0..some.len())
        .map(|i| {
            let inputs = [0, 1].map(|s| one(&inputs[s], i));
            // A token is 1 + its patch.
            let numbers =
                [0, 1].map(|s| tables.hidden[s][i * count..][..count].iter().map(|token| *token as usize - 1));
            let hidden = numbers.clone().map(|numbers| {
                let mut flags = vec![false; config.patches()];
                numbers.for_each(|p| flags[p] = true);
                flags
            });
            let mut errors = [[0.0; 2]; 2];
            let images = [0, 1].map(|target| {
                [0, 1].map(|source| {
                    let rows = one(&predictions[target][source], i);
                    let (image, error) = paste(&inputs[target], &rows, numbers[source].clone(), config);
                    errors[target][source] = error;
                    image
                })
            });
            Reconstructed { id: pairs.ids[i].clone(), inputs, hidden, images, errors }
        })
        .collect())
}

/// Puts the predicted rows [M, patch^2 C] (pixel-major, channel fastest) of the hidden patches into an image
/// [C, S, S]; also their mean squared error.
fn paste(input: &[f32], rows: &[f32], hidden: impl Iterator<Item = usize>, config: &Config) -> (Vec<f32>, f64) {
    let (size, patch) = (config.image_size, config.patch_size);
    let channels = input.len() / (size * size);
    let values = patch * patch * channels;
    let mut image = input.to_vec();
    let (mut sum, mut count) = (0.0, 0usize);
    for (p, row) in hidden.zip(rows.chunks(values)) {
        let (top, left) = (p / config.grid() * patch, p % config.grid() * patch);
        let place = |v: usize| {
            let (pixel, channel) = (v / channels, v % channels);
            (channel * size + top + pixel / patch) * size + left + pixel % patch
        };
        // With per-patch targets a prediction says nothing of level and contrast: the true ones are lent to it.
        let (mean, deviation) = match config.loss.norm_pix {
            true => moments((0..values).map(|v| input[place(v)])),
            false => (0.0, 1.0),
        };
        for (v, predicted) in row.iter().enumerate() {
            let value = predicted * deviation + mean;
            sum += f64::from(value - input[place(v)]).powi(2);
            image[place(v)] = value;
        }
        count += values;
    }
    (image, sum / count.max(1) as f64)
}

/// Mean and standard deviation as the loss takes them: unbiased, 1e-6 added to the variance.
fn moments(values: impl Iterator<Item = f32> + Clone) -> (f32, f32) {
    let n = values.clone().count() as f32;
    let mean = values.clone().sum::<f32>() / n;
    let variance = values.map(|v| (v - mean).powi(2)).sum::<f32>() / (n - 1.0).max(1.0);
    (mean, (variance + 1e-6).sqrt())
}

const GREY: [u8; 3] = [128; 3];

/// A sheet with two rows a pair (s1, s2): input, what the encoder saw, and the reconstruction from either sensor, all
/// in the input's colours. A reconstruction shows predictions where the source's patches were hidden and the input
/// elsewhere; a bare one the predictions alone.
pub fn sheet(config: &Config, all: &[Reconstructed]) -> Sheet {
    let size = config.image_size;
    let mut sheet = Sheet::new(&["input", "masked", "from s1", "from s2", "from s1 bare", "from s2 bare"], 120);
    for pair in all {
        for (target, sensor) in SENSORS.into_iter().enumerate() {
            let physical = |normalised: &[f32]| {
                let mut pixels = normalised.to_vec();
                config.sensors.of(sensor).restore(&mut pixels, size * size);
                pixels
            };
            let input = physical(&pair.inputs[target]);
            let light = Stretch::of(sensor, &input);
            let paint = |pixels: &[f32]| light.paint(pixels, size);
            let mut masked = paint(&input);
            cover(&mut masked, &pair.hidden[target], config, true);
            let mut row = vec![paint(&input), masked];
            let made = pair.images[target].each_ref().map(|image| paint(&physical(image)));
            // Beside the pasted pictures, the predictions alone: nothing of the input in them.
            let alone = [0, 1].map(|source| {
                let mut picture = made[source].clone();
                cover(&mut picture, &pair.hidden[source], config, false);
                picture
            });
            row.extend(made);
            row.extend(alone);
            sheet.row(&sensor.to_string(), row);
        }
    }
    sheet
}

/// Greys the patches whose flag is `which`.
fn cover(picture: &mut Rgb, hidden: &[bool], config: &Config, which: bool) {
    for (i, pixel) in picture.pixels.chunks_mut(3).enumerate() {
        let (x, y) = (i % picture.width / config.patch_size, i / picture.width / config.patch_size);
        if hidden[y * config.grid() + x] == which {
            pixel.copy_from_slice(&GREY);
        }
    }
}

/// Refuses a count of pairs that cannot be drawn as one sheet.
///
/// # Errors
/// None or more than 64 pairs.
pub fn check_count(count: usize) -> Result<(), Error> {
    match count {
        1..=64 => Ok(()),
        _ => Err(Error::new("--count", format!("{count} pairs"), "draw 1 to 64")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hidden_patches_are_replaced_and_lie_right() {
        let config = Config { image_size: 4, patch_size: 2, ..Config::preset("csmoe-tiny").unwrap() };
        let input: Vec<f32> = (0..32).map(|v| v as f32).collect();
        // Two channels; patch 1 is the top right, patch 2 the bottom left.
        let rows: Vec<f32> = (8..16).map(|v| 100.0 + v as f32).collect();
        let (image, _) = paste(&input, &rows, [1].into_iter(), &config);
        // Patch 1's row: 108 + [pixel 0 channel 0, pixel 0 channel 1, pixel 1 channel 0, ...].
        assert_eq!(image[..8], [0.0, 1.0, 108.0, 110.0, 4.0, 5.0, 112.0, 114.0]);
        assert_eq!(image[16..24], [16.0, 17.0, 109.0, 111.0, 20.0, 21.0, 113.0, 115.0]);
        assert_eq!(image[8..16], input[8..16]);
        let perfect = paste(&input, &[], std::iter::empty(), &config);
        assert_eq!(perfect, (input, 0.0));
    }

    #[test]
    fn per_patch_targets_come_back() {
        let mut config = Config { image_size: 4, patch_size: 2, ..Config::preset("csmoe-tiny").unwrap() };
        config.loss.norm_pix = true;
        let input: Vec<f32> = (0..32).map(|v| (v * v % 17) as f32).collect();
        let patch: Vec<usize> = vec![0, 16, 1, 17, 4, 20, 5, 21];
        let (mean, deviation) = moments(patch.iter().map(|i| input[*i]));
        let mut rows = vec![0.0; 8];
        patch.iter().enumerate().for_each(|(v, i)| rows[v] = (input[*i] - mean) / deviation);
        let (image, error) = paste(&input, &rows, [0].into_iter(), &config);
        assert!(error < 1e-9 && image.iter().zip(&input).all(|(a, b)| (a - b).abs() < 1e-4), "{error}");
    }
}
