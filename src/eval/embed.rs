//! Embeddings of one sensor's tiles: the encoder alone, every patch visible in raster order.

use crate::data::{Error, Geo, Image, ImageSource, Sensor};
use crate::gpu::Gpu;
use crate::model::weights::WeightsFile;
use crate::model::{Config, Csmoe};
use crate::nn::Linear;
use crate::ops;
use crate::tensor::{Names, ParamStore, Program, Tape, Tensor, Timing};
use crate::train::{Footprint, check_fit, masks};
use anyhow::{Result, bail};
use rayon::prelude::*;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// How the tokens after the last norm become one vector (arXiv 2509.14104, Table V).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// CLS as it is.
    #[default]
    Cls,
    /// The mean of the patches' tokens.
    MeanPatches,
    /// The mean of all tokens.
    MeanAll,
    /// CLS as a unit vector.
    NormCls,
    /// CLS through the mutual-information loss's projector (the identity unless the model has one), as a unit vector.
    NormProjCls,
}

impl Strategy {
    pub const ALL: [Strategy; 5] =
        [Strategy::Cls, Strategy::MeanPatches, Strategy::MeanAll, Strategy::NormCls, Strategy::NormProjCls];
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Strategy::Cls => "cls",
            Strategy::MeanPatches => "mean_patches",
            Strategy::MeanAll => "mean_all",
            Strategy::NormCls => "norm_cls",
            Strategy::NormProjCls => "norm_proj_cls",
        })
    }
}

impl FromStr for Strategy {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let known = Strategy::ALL.map(|s| s.to_string()).join(", ");
        let found = Strategy::ALL.into_iter().find(|s| s.to_string() == text);
        found.ok_or_else(|| Error::new(text, "not a strategy", format!("say one of {known}")))
    }
}

/// Which encoder, for which batches.
#[derive(Clone, Copy, Debug)]
pub struct Encoder {
    pub sensor: Sensor,
    pub strategy: Strategy,
    /// Tiles in one run of the program.
    pub batch: usize,
    /// Side of the tiles in pixels; resized to the model's image size where it differs.
    pub tile_px: usize,
}

/// Reads what a run folder says its model is, and its weights.
///
/// # Errors
/// A folder without `config.json` or `model.safetensors`, a truncated or unreadable one: names the file.
pub fn open_run(run: &Path) -> Result<(Config, WeightsFile)> {
    let config = Config::read(&run.join("config.json"))?;
    Ok((config, WeightsFile::open(&run.join("model.safetensors"))?))
}

/// One sensor's encoder as a program of a fixed batch.
pub struct Embedder {
    program: Program,
    encoder: Encoder,
    dim: usize,
}

impl Embedder {
    /// Opens the encoder of a run.
    ///
    /// # Errors
    /// A run that is not whole, or whose weights are not its config's: names file and tensor. A batch that does not
    /// fit the adapter: says which would.
    pub fn open(gpu: &Gpu, run: &Path, encoder: Encoder) -> Result<Self> {
        let (config, weights) = open_run(run)?;
        Self::of(gpu, &config, &weights, encoder)
    }

    /// The encoder with the weights of a file. A projector is used if the file has one.
    ///
    /// # Errors
    /// A tensor that is missing or has another shape; a batch that does not fit.
    pub fn of(gpu: &Gpu, config: &Config, weights: &WeightsFile, encoder: Encoder) -> Result<Self> {
        let projector = weights.contains("projector.weight");
        Self::build(gpu, config, encoder, projector, |store| weights.load(gpu, store))
    }

    /// The encoder as it was before any training, for comparison.
    ///
    /// # Errors
    /// A batch that does not fit.
    pub fn random(gpu: &Gpu, config: &Config, seed: u64, encoder: Encoder) -> Result<Self> {
        Self::build(gpu, config, encoder, config.loss.projector, |store| {
            store.init(gpu, seed);
            Ok(())
        })
    }

    fn build(
        gpu: &Gpu,
        config: &Config,
        encoder: Encoder,
        projector: bool,
        fill: impl FnOnce(&ParamStore) -> Result<()>,
    ) -> Result<Self> {
        config.sensors.of(encoder.sensor).check(encoder.sensor, "config.json")?;
        let mut model = Csmoe::encoder(config.clone(), encoder.sensor);
        let project = projector && encoder.strategy == Strategy::NormProjCls;
        let projector =
            project.then(|| Linear::new(&mut model.params, &Names::new(["projector"]), config.dim, config.dim));
        let tape = |batch: usize| record(gpu, &model, projector.as_ref(), Encoder { batch, ..encoder });
        check_fit(gpu, encoder.batch, |batch| {
            let (tape, weights) = (tape(batch)?, model.params.chunks().iter().sum::<usize>() as u64 * 4);
            let plan = tape.plan();
            let binding = tape.largest_binding();
            let activations = plan.total();
            Ok(Footprint { parameters: weights, activations, beside: 0, ahead: 0, binding, launches: plan.launches })
        })?;
        let store = ParamStore::new(gpu, model.params.clone(), false)?;
        fill(&store)?;
        let program = tape(encoder.batch)?.compile(gpu, &store)?;
        Ok(Embedder { program, encoder, dim: config.dim })
    }

    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// Length of an embedding.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Bytes the program holds on the device, weights excluded.
    pub fn bytes(&self) -> u64 {
        self.program.plan.total()
    }

    /// The program's launches with their GPU times.
    ///
    /// # Errors
    /// An adapter without timestamps.
    pub fn profile(&self, gpu: &Gpu) -> Result<Vec<Timing>> {
        self.program.profile(gpu)
    }

    /// Embeds up to `batch` tiles: `pixels` [n, C, px, px] in decibels or digital numbers -> [n, D].
    ///
    /// # Errors
    /// Pixels that are no whole tiles or too many; a lost device.
    pub fn embed(&self, gpu: &Gpu, pixels: &[f32]) -> Result<Vec<f32>> {
        let n = self.submit(gpu, pixels)?;
        self.collect(gpu, n)
    }

    fn tile(&self) -> usize {
        self.encoder.sensor.channels() * self.encoder.tile_px * self.encoder.tile_px
    }

    /// Starts a run over the tiles, without waiting for it; gives their number.
    fn submit(&self, gpu: &Gpu, pixels: &[f32]) -> Result<usize> {
        let Encoder { sensor, batch, tile_px, .. } = self.encoder;
        let n = pixels.len() / self.tile();
        if n * self.tile() != pixels.len() || n > batch {
            bail!("{} values are not at most {batch} {sensor} tiles of {tile_px} pixels", pixels.len());
        }
        // What fills the batch up is computed and left aside: no tile sees another.
        let mut full = pixels.to_vec();
        full.resize(batch * self.tile(), 0.0);
        self.program.write(gpu, &format!("pixels.{sensor}"), &full)?;
        self.program.write(gpu, "flips", &vec![0u32; batch])?;
        self.program.run(gpu)?;
        Ok(n)
    }

    fn collect(&self, gpu: &Gpu, n: usize) -> Result<Vec<f32>> {
        let mut values: Vec<f32> = self.program.read(gpu, "embedding")?;
        values.truncate(n * self.dim);
        Ok(values)
    }

    /// Embeds every tile of a source, reading the next batch while the device works on this one. `done` hears how
    /// many more are finished.
    ///
    /// # Errors
    /// A tile that cannot be read or whose embedding is not finite: names it. A lost device.
    pub fn embed_all(&self, gpu: &Gpu, source: &dyn ImageSource, done: impl Fn(usize)) -> Result<Embeddings> {
        if source.tile_px() != self.encoder.tile_px {
            bail!("tiles of {} pixels for an encoder of {}", source.tile_px(), self.encoder.tile_px);
        }
        let read = |start: usize| -> Result<Vec<Image>, Error> {
            let end = source.len().min(start + self.encoder.batch);
            (start..end).into_par_iter().map(|i| source.image(i)).collect()
        };
        let mut all = Embeddings { dim: self.dim, ..Embeddings::default() };
        let mut images = read(0)?;
        while !images.is_empty() {
            let pixels: Vec<f32> = images.iter().flat_map(|i| &i.pixels).copied().collect();
            let n = self.submit(gpu, &pixels)?;
            let next = read(all.ids.len() + n)?;
            let values = self.collect(gpu, n)?;
            for (image, row) in images.iter().zip(values.chunks(self.dim)) {
                if row.iter().any(|v| !v.is_finite()) {
                    let why = match image.pixels.iter().all(|v| v.is_finite()) {
                        true => "the weights overflow on it: use another checkpoint",
                        false => "it has pixels that are no numbers: repair it or leave it out",
                    };
                    bail!("tile {} has no finite embedding; {why}", image.id);
                }
            }
            all.values.extend(values);
            for image in images {
                all.ids.push(image.id);
                all.places.push(image.geo);
                all.labels.push(image.label);
            }
            done(n);
            images = next;
        }
        Ok(all)
    }
}

/// Embeddings of the tiles of a source, in its order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Embeddings {
    pub ids: Vec<String>,
    /// [N, D].
    pub values: Vec<f32>,
    /// D.
    pub dim: usize,
    pub places: Vec<Option<Geo>>,
    pub labels: Vec<Option<u32>>,
}

/// Raw pixels to the output `embedding` [B, D].
fn record(gpu: &Gpu, model: &Csmoe, projector: Option<&Linear>, encoder: Encoder) -> Result<Tape> {
    let mut t = Tape::new(gpu.target.clone(), model.params.clone());
    let (batch, patches, d) = (encoder.batch, model.config.patches(), model.config.dim);
    let images = model.pixel_inputs(&mut t, batch, encoder.tile_px)?;
    let keep = t.constant([batch, patches], &masks::all(batch, patches));
    let tokens = model.encode(&mut t, &images, &[keep], &[])?.tokens;
    let embedding = t.scope("pool", |t| pool(t, tokens, encoder.strategy, projector))?;
    t.output("embedding", embedding.reshape([batch, d])?)?;
    Ok(t)
}

/// `tokens` [B, 1 + P, D] -> B rows of D.
fn pool(t: &mut Tape, tokens: Tensor, strategy: Strategy, projector: Option<&Linear>) -> Result<Tensor> {
    let [batch, n, d] = tokens.dims("pool: tokens")?;
    match strategy {
        Strategy::Cls => ops::cls_rows(t, tokens),
        Strategy::MeanAll => ops::mean_axis(t, tokens, batch, n, d),
        Strategy::MeanPatches => {
            // The mean of all, without CLS's share in it.
            let (all, cls) = (ops::mean_axis(t, tokens, batch, n, d)?, ops::cls_rows(t, tokens)?);
            let patches = (n - 1) as f32;
            let (all, cls) = (ops::scale(t, all, n as f32 / patches)?, ops::scale(t, cls, -1.0 / patches)?);
            ops::add(t, all, cls)
        }
        Strategy::NormCls | Strategy::NormProjCls => {
            let mut x = ops::cls_rows(t, tokens)?.reshape([1, batch, d])?;
            if let Some(projector) = projector {
                x = projector.forward(t, x, None)?;
            }
            ops::rms_norm(t, x, None, 1.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strategies_have_names() {
        for s in Strategy::ALL {
            assert_eq!(s.to_string().parse::<Strategy>().unwrap(), s);
        }
        let error = "CLS".parse::<Strategy>().unwrap_err().to_string();
        assert!(error.contains("norm_proj_cls"), "{error}");
    }
}
