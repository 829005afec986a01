//! Crash-safe checkpoints: everything a run needs to go on bit by bit as if it had never stopped.
//!
//! `RUN/checkpoints/step-N.safetensors` holds weights and both moments by chunk and, as metadata, the state. It is
//! written under another name, synced and renamed; the one before it stays until then.

use crate::data::Cursor;
use crate::gpu::Gpu;
use crate::model::weights::write_bytes;
use crate::tensor::{Kind, ParamStore};
use anyhow::{Context, Result, bail};
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The numbers of a run between two steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Steps done.
    pub step: u64,
    /// Updates done: steps less those skipped for a value that was not finite.
    pub updates: u64,
    /// Steps skipped in a row.
    pub skipped: u32,
    pub cursor: Cursor,
}

/// A checkpoint on disk.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    pub file: PathBuf,
    pub state: State,
}

const KINDS: [(Kind, &str); 3] =
    [(Kind::Weight, "weight"), (Kind::FirstMoment, "first_moment"), (Kind::SecondMoment, "second_moment")];
/// Checkpoints kept.
const KEPT: usize = 2;

fn folder(run: &Path) -> PathBuf {
    run.join("checkpoints")
}

impl Checkpoint {
    /// Writes the run's state after a step and drops all but the two newest.
    ///
    /// # Errors
    /// A lost device, a full disk; the older checkpoints stay.
    pub fn save(gpu: &Gpu, store: &ParamStore, run: &Path, state: State) -> Result<Self> {
        let file = folder(run).join(format!("step-{:09}.safetensors", state.step));
        let mut tensors = Vec::new();
        for (kind, name) in KINDS {
            for (i, chunk) in store.read_chunks(gpu, kind)?.into_iter().enumerate() {
                tensors.push((format!("{name}.{i}"), vec![chunk.len()], chunk));
            }
        }
        let state_json = serde_json::to_vec(&state)?;
        let state_shape = [state_json.len()];
        let parts = tensors
            .iter()
            .map(|(name, shape, values)| {
                (name.as_str(), &shape[..], Dtype::F32, bytemuck::cast_slice::<f32, u8>(values))
            })
            .chain([("state", &state_shape[..], Dtype::U8, &state_json[..])]);
        write_bytes(&file, parts)?;
        for old in Self::files(run)?.into_iter().rev().skip(KEPT) {
            let _ = std::fs::remove_file(old);
        }
        Ok(Checkpoint { file, state })
    }

    /// Checkpoint files, oldest first.
    fn files(run: &Path) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        let Ok(entries) = std::fs::read_dir(folder(run)) else { return Ok(files) };
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with("step-") && name.ends_with(".safetensors") {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    }

    /// Loads the newest checkpoint that is whole; one that is not is named to `warn` and passed over.
    ///
    /// # Errors
    /// A checkpoint of another model; none that is whole where there are some.
    pub fn load_newest(
        gpu: &Gpu,
        store: &ParamStore,
        run: &Path,
        mut warn: impl FnMut(String),
    ) -> Result<Option<Self>> {
        let files = Self::files(run)?;
        let any = !files.is_empty();
        for file in files.into_iter().rev() {
            match Self::load(gpu, store, &file) {
                Ok(found) => return Ok(Some(found)),
                Err(e) => warn(format!("{e:#}; trying the one before")),
            }
        }
        if any {
            bail!("no checkpoint under {} is whole and of this model", folder(run).display());
        }
        Ok(None)
    }

    fn load(gpu: &Gpu, store: &ParamStore, file: &Path) -> Result<Self> {
        let bytes = std::fs::read(file).with_context(|| format!("{} cannot be read", file.display()))?;
        let broken = || format!("{} is not a whole checkpoint", file.display());
        let tensors = SafeTensors::deserialize(&bytes).with_context(broken)?;
        let state: State =
            serde_json::from_slice(tensors.tensor("state").with_context(broken)?.data()).with_context(broken)?;
        // All is read and checked before anything on the device changes.
        let mut all = Vec::new();
        for (kind, name) in KINDS {
            let mut chunks = Vec::new();
            for (i, elems) in store.params.chunks().iter().enumerate() {
                let view = tensors.tensor(&format!("{name}.{i}")).with_context(broken)?;
                if view.shape() != [*elems] || view.dtype() != Dtype::F32 {
                    bail!(
                        "{} is of another model: {name}.{i} has shape {:?}, not [{elems}]",
                        file.display(),
                        view.shape()
                    );
                }
                chunks.push(bytemuck::pod_collect_to_vec::<u8, f32>(view.data()));
            }
            all.push((kind, chunks));
        }
        for (kind, chunks) in &all {
            store.write_chunks(gpu, *kind, chunks)?;
        }
        Ok(Checkpoint { file: file.to_path_buf(), state })
    }
}
