//! total = UMR + CMR + MI + lambda REP + gamma ENT                                 (arXiv 2509.14104, eq. 20)

use crate::data::Sensor;
use crate::model::config::{MutualInformation, Reconstruction};
use crate::model::{Batch, Csmoe, MaskInputs};
use crate::nn::Routing;
use crate::ops;
use crate::ops::masked_loss::Error;
use crate::ops::nt_xent::Contrast;
use crate::ops::reduce::SCALAR;
use crate::tensor::{Tape, Tensor};
use anyhow::{Result, bail};

/// Names of the terms, in the order of [`Terms::values`]; `umr.s1` is s1 from s1, `cmr.s1` s1 from s2.
pub const NAMES: [&str; 8] = ["umr.s1", "umr.s2", "cmr.s1", "cmr.s2", "mi", "rep", "ent", "total"];

/// The recorded objective.
pub struct Objective {
    /// Every scalar, for the host: [count, 64].
    pub scalars: Tensor,
    /// `[target][source]` predictions of the patches hidden in the source [B, P - K, values].
    pub predictions: Vec<Vec<Tensor>>,
    /// Which term each scalar belongs to, and its share in it.
    shares: Vec<(usize, f32)>,
    weights: [f32; 7],
    parts: Vec<Tensor>,
}

/// The terms' values of one step, in the order of [`NAMES`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Terms(pub [f32; 8]);

impl Terms {
    pub fn total(&self) -> f32 {
        self.0[7]
    }

    pub fn named(&self) -> impl Iterator<Item = (&'static str, f32)> {
        NAMES.into_iter().zip(self.0)
    }
}

impl Objective {
    /// Records the whole forward pass of a training step.
    ///
    /// # Errors
    /// A model that is not made for training, shapes that do not fit.
    pub fn record(t: &mut Tape, model: &Csmoe, batch: &Batch, masks: &MaskInputs) -> Result<Self> {
        if model.sensors != [Sensor::S1, Sensor::S2] {
            bail!("the objective needs both sensors, and this model has {:?}", model.sensors);
        }
        let loss = model.loss_config();
        let encoded = model.encode(t, batch, &masks.keep, &[])?;
        let predictions = model.decode(t, &encoded, masks)?;
        let (mut parts, mut shares) = (Vec::new(), Vec::new());

        let error = match loss.reconstruction {
            Reconstruction::Mse => Error::Mse,
            Reconstruction::Mae => Error::Mae,
        };
        t.scope("loss/reconstruction", |t| {
            let patch = model.config.patch_size;
            for (target, (from, image)) in predictions.iter().zip(&batch.images).enumerate() {
                for (source, (pred, hidden)) in from.iter().zip(&masks.hidden).enumerate() {
                    parts.push(ops::masked_patch_loss(t, *pred, *image, *hidden, patch, error, loss.norm_pix)?);
                    shares.push((if target == source { target } else { 2 + target }, 1.0));
                }
            }
            Ok::<_, anyhow::Error>(())
        })?;
        t.scope("loss/mutual_information", |t| {
            let contrast = match loss.mi {
                MutualInformation::NtXent => Contrast::NtXent,
                MutualInformation::Eq10 => Contrast::Eq10,
            };
            let features = model.features(t, &encoded)?;
            parts.push(ops::nt_xent_stacked(t, features, loss.temperature, contrast)?);
            shares.push((4, 1.0));
            Ok::<_, anyhow::Error>(())
        })?;
        // A sensor's path has all layers; both paths' mean is each layer's mean over its sequences, over the layers.
        let layers = encoded.routing.len() as f32;
        t.scope("loss/routing", |t| {
            for routing in &encoded.routing {
                parts.push(slot_repulsion(t, routing)?);
                shares.push((5, loss.rep_sign.factor() / layers));
                parts.push(routing_entropy(t, routing)?);
                shares.push((6, loss.ent_sign.factor() / layers));
            }
            Ok::<_, anyhow::Error>(())
        })?;
        let rows = parts.iter().map(|p| p.reshape([1, SCALAR])).collect::<Result<Vec<_>>>()?;
        let scalars = t.concat(&rows)?;
        let weights = [1.0, 1.0, 1.0, 1.0, 1.0, loss.lambda_rep, loss.gamma_ent];
        Ok(Objective { scalars, predictions, shares, weights, parts })
    }

    /// Records the gradients of the total.
    ///
    /// # Errors
    /// Whatever an op's backward reports.
    pub fn backward(&self, t: &mut Tape) -> Result<()> {
        let seeds: Vec<(Tensor, f32)> =
            self.parts.iter().zip(&self.shares).map(|(p, (term, share))| (*p, share * self.weights[*term])).collect();
        t.backward(&seeds)
    }

    /// Reads the host's copy of [`Objective::scalars`].
    pub fn terms(&self, scalars: &[f32]) -> Terms {
        let mut terms = [0.0f32; 8];
        for ((term, share), row) in self.shares.iter().zip(scalars.chunks(SCALAR)) {
            terms[*term] += share * row[0];
        }
        terms[7] = self.weights.iter().zip(&terms).map(|(w, v)| w * v).sum();
        Terms(terms)
    }
}

/// (1/E^2) sum over experts of <s_e, s_e'>^2 with s_e the unit mean of expert e's slot embeddings; mean over sequences.
fn slot_repulsion(t: &mut Tape, routing: &Routing) -> Result<Tensor> {
    let [z, p, experts, d] = routing.slots.dims("slot_repulsion: slots")?;
    let means = ops::mean_axis(t, routing.slots, z, p, experts * d)?;
    let unit = ops::rms_norm(t, means.reshape([1, z * experts, d])?, None, 1.0)?;
    ops::gram_square(t, unit.reshape([z, experts, d])?)
}

/// (1/(S N)) sum alpha ln(alpha + 1e-8) over the dispatch weights; mean over sequences.
fn routing_entropy(t: &mut Tape, routing: &Routing) -> Result<Tensor> {
    let [z, slots] = routing.entropy.dims("routing_entropy: entropy")?;
    ops::sum_scaled(t, routing.entropy, 1.0 / (z * slots * routing.tokens) as f32)
}
