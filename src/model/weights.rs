//! Weights in and out: safetensors under the public names, one tensor a piece.

use crate::data::export::replace;
use crate::gpu::Gpu;
use crate::tensor::{Kind, ParamStore};
use anyhow::{Context, Result, bail};
use memmap2::Mmap;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Named float32 tensors: shape and values.
pub type Named = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// An open safetensors file, read where it is looked at: one encoder is a part of its checkpoint.
pub struct WeightsFile {
    path: PathBuf,
    bytes: Mmap,
}

impl WeightsFile {
    /// # Errors
    /// A file that cannot be read or is not safetensors (truncated, say): names it.
    pub fn open(path: &Path) -> Result<Self> {
        // SAFETY: checkpoints are replaced whole, never written in place.
        let map = || std::fs::File::open(path).and_then(|file| unsafe { Mmap::map(&file) });
        let bytes = map().with_context(|| format!("{} cannot be read", path.display()))?;
        let file = WeightsFile { path: path.to_path_buf(), bytes };
        file.tensors()?;
        Ok(file)
    }

    fn tensors(&self) -> Result<SafeTensors<'_>> {
        let (name, size) = (self.path.display(), self.bytes.len());
        SafeTensors::deserialize(&self.bytes).with_context(|| {
            format!("{name} is not a whole safetensors file ({size} bytes); copy it again or use another checkpoint")
        })
    }

    pub fn contains(&self, name: &str) -> bool {
        self.tensors().is_ok_and(|tensors| tensors.tensor(name).is_ok())
    }

    /// Puts the tensors into a model's parameters. Every parameter must be there in its shape; other tensors of the
    /// file (decoders when only embedding) are left out. Float16, bfloat16 and float64 become float32.
    ///
    /// # Errors
    /// Names the file and the first tensor that is missing, or has another shape or an integer type.
    pub fn load(&self, gpu: &Gpu, store: &ParamStore) -> Result<()> {
        let load = || -> Result<()> {
            let tensors = self.tensors()?;
            for (name, shape, _, _) in store.params.pieces() {
                match tensors.tensor(name) {
                    Err(_) => bail!("tensor '{name}' {shape:?} is missing"),
                    Ok(view) if view.shape() != shape => {
                        bail!("tensor '{name}' has shape {:?} and should have {shape:?}", view.shape())
                    }
                    Ok(_) => {}
                }
            }
            for (name, shape, _, _) in store.params.pieces() {
                let view = tensors.tensor(name)?;
                let Some(values) = floats(&view) else {
                    bail!("tensor '{name}' has type {:?} and should have F32", view.dtype())
                };
                store.write_named(gpu, name, shape, &values)?;
            }
            Ok(())
        };
        load().with_context(|| format!("{} is not a checkpoint of this model", self.path.display()))
    }
}

/// Reads a whole safetensors file; tensors of integer types are left out.
///
/// # Errors
/// As [`WeightsFile::open`].
pub fn read(path: &Path) -> Result<Named> {
    let file = WeightsFile::open(path)?;
    let tensors = file.tensors()?.tensors();
    Ok(tensors.into_iter().filter_map(|(name, view)| Some((name, (view.shape().to_vec(), floats(&view)?)))).collect())
}

fn floats(view: &TensorView) -> Option<Vec<f32>> {
    let data = view.data();
    Some(match view.dtype() {
        Dtype::F32 => data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        Dtype::F16 => data.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
        Dtype::BF16 => data.chunks_exact(2).map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
        Dtype::F64 => {
            let value = |b: &[u8]| f64::from_le_bytes(b.try_into().expect("chunks of eight")) as f32;
            data.chunks_exact(8).map(value).collect()
        }
        _ => return None,
    })
}

/// Writes named float32 tensors, whole or not at all.
///
/// # Errors
/// A full disk, a folder that cannot be written: names the file.
pub fn write<'a>(file: &Path, tensors: impl IntoIterator<Item = (&'a str, &'a [usize], &'a [f32])>) -> Result<()> {
    write_bytes(file, tensors.into_iter().map(|(n, shape, v)| (n, shape, Dtype::F32, bytemuck::cast_slice(v))))
}

/// The same for any type: name, shape, type, little-endian bytes.
///
/// # Errors
/// As [`write`].
pub fn write_bytes<'a>(
    file: &Path,
    tensors: impl IntoIterator<Item = (&'a str, &'a [usize], Dtype, &'a [u8])>,
) -> Result<()> {
    let mut views = Vec::new();
    for (name, shape, dtype, bytes) in tensors {
        let view = TensorView::new(dtype, shape.to_vec(), bytes)
            .with_context(|| format!("tensor '{name}' of shape {shape:?} has {} bytes", bytes.len()))?;
        views.push((name.to_string(), view));
    }
    replace(file, |path| {
        // A file of our own making has the usual permissions; the serialiser's would be the user's alone.
        let made = std::fs::File::create(path).and_then(|f| f.metadata()).map(|m| m.permissions());
        safetensors::serialize_to_file(views, None, path)
            .map_err(|e| crate::data::Error::new(file.display(), e, "free space or choose another folder"))?;
        if let Ok(usual) = made {
            let _ = std::fs::set_permissions(path, usual);
        }
        Ok(())
    })?;
    Ok(())
}

/// Writes a model's weights.
///
/// # Errors
/// A lost device, a full disk.
pub fn save(gpu: &Gpu, store: &ParamStore, file: &Path) -> Result<()> {
    let named = store.read_named(gpu, Kind::Weight)?;
    write(file, named.iter().map(|(n, shape, v)| (n.as_str(), &shape[..], &v[..])))
}
