//! Weights in and out: safetensors under the public names, one tensor a piece.

use crate::data::export::replace;
use crate::gpu::Gpu;
use crate::tensor::{Kind, ParamStore};
use anyhow::{Context, Result, bail};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::BTreeMap;
use std::path::Path;

/// Named float32 tensors: shape and values.
pub type Named = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// Reads a safetensors file; float16, bfloat16 and float64 become float32, other types are left out.
///
/// # Errors
/// A file that cannot be read or is not safetensors (truncated, say): names it.
pub fn read(file: &Path) -> Result<Named> {
    let bytes = std::fs::read(file).with_context(|| format!("{} cannot be read", file.display()))?;
    let tensors = SafeTensors::deserialize(&bytes).with_context(|| {
        format!(
            "{} is not a whole safetensors file ({} bytes); copy it again or use another checkpoint",
            file.display(),
            bytes.len()
        )
    })?;
    let mut named = Named::new();
    for (name, view) in tensors.tensors() {
        if let Some(values) = floats(&view) {
            named.insert(name, (view.shape().to_vec(), values));
        }
    }
    Ok(named)
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

/// Puts a file's tensors into a model's parameters. Every parameter must be there in its shape; other tensors of the
/// file (decoders when only embedding) are left out.
///
/// # Errors
/// Names the file and the first tensor that is missing or has another shape.
pub fn load(gpu: &Gpu, store: &ParamStore, file: &Path) -> Result<()> {
    let named = read(file)?;
    load_named(gpu, store, &named).with_context(|| format!("{} is not a checkpoint of this model", file.display()))
}

/// [`load`] from memory.
///
/// # Errors
/// As [`load`].
pub fn load_named(gpu: &Gpu, store: &ParamStore, named: &Named) -> Result<()> {
    for (name, shape, _, _) in store.params.pieces() {
        match named.get(name) {
            None => bail!("tensor '{name}' {shape:?} is missing"),
            Some((found, _)) if found != shape => {
                bail!("tensor '{name}' has shape {found:?} and should have {shape:?}")
            }
            Some(_) => {}
        }
    }
    for (name, shape, _, _) in store.params.pieces() {
        store.write_named(gpu, name, shape, &named[name].1)?;
    }
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
