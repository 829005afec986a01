//! Parameters: names, shapes, initialisation, and where each lives. A checkpoint is a walk over them.
//!
//! A parameter is a *stack* of equally shaped named tensors, so that many equal layers, or the same layer of
//! two encoders, are one buffer that one grouped launch reads; on disk each piece keeps its own name.

use super::{Rng, Shape};
use crate::gpu::{Gpu, GpuError, download, new_buffer, upload};
use anyhow::{Context, Result, bail};

/// Names of the pieces of a stack, grown from the model's tree: `s1.blocks.0` and `s2.blocks.0` together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names(pub Vec<String>);

impl Names {
    pub fn new<S: ToString>(names: impl IntoIterator<Item = S>) -> Self {
        Names(names.into_iter().map(|n| n.to_string()).collect())
    }

    /// Appends `.part` to every name.
    pub fn dot(&self, part: impl std::fmt::Display) -> Self {
        Names(self.0.iter().map(|n| format!("{n}.{part}")).collect())
    }

    /// Every name with `.0` to `.{count-1}` appended, the count running fastest.
    pub fn each(&self, count: usize) -> Self {
        Names(self.0.iter().flat_map(|n| (0..count).map(move |i| format!("{n}.{i}"))).collect())
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// How a parameter starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    Constant(f32),
    /// Uniform in +-sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio 2010).
    Xavier {
        fan_in: usize,
        fan_out: usize,
    },
    Normal {
        std: f32,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ParamId(pub(super) usize);

/// One stack.
#[derive(Clone, Debug)]
pub struct Param {
    pub names: Names,
    /// Shape of one piece, as a checkpoint holds it.
    pub piece: Vec<usize>,
    pub init: Init,
    chunk: usize,
    offset: usize,
}

impl Param {
    fn piece_elems(&self) -> usize {
        self.piece.iter().product()
    }

    pub fn elems(&self) -> usize {
        self.piece_elems() * self.names.len()
    }

    /// One axis for the pieces in front of a piece's own axes.
    pub fn shape(&self) -> Shape {
        let mut dims = vec![self.names.len()];
        dims.extend(&self.piece);
        Shape::from(&dims[..])
    }
}

/// The four values training keeps for every parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Weight,
    Gradient,
    FirstMoment,
    SecondMoment,
}

/// All parameters of a model, laid out in chunks of at most 256 MiB (what every adapter allows as one buffer)
/// unless a single stack is larger.
#[derive(Clone, Debug, Default)]
pub struct Params {
    entries: Vec<Param>,
    chunks: Vec<usize>,
}

const CHUNK_ELEMS: usize = (256 << 20) / 4;
/// Stacks start at multiples of 256 bytes, the strictest binding alignment.
const ALIGN_ELEMS: usize = 64;

impl Params {
    pub fn add(&mut self, names: Names, piece: &[usize], init: Init) -> ParamId {
        let elems = piece.iter().product::<usize>() * names.len();
        let room = elems.next_multiple_of(ALIGN_ELEMS);
        if self.chunks.last().is_none_or(|used| used + room > CHUNK_ELEMS) {
            self.chunks.push(0);
        }
        let chunk = self.chunks.len() - 1;
        let offset = self.chunks[chunk];
        self.chunks[chunk] += room;
        self.entries.push(Param { names, piece: piece.to_vec(), init, chunk, offset });
        ParamId(self.entries.len() - 1)
    }

    pub fn get(&self, id: ParamId) -> &Param {
        &self.entries[id.0]
    }

    pub fn iter(&self) -> impl Iterator<Item = &Param> {
        self.entries.iter()
    }

    /// Elements of each chunk, padding included.
    pub fn chunks(&self) -> &[usize] {
        &self.chunks
    }

    /// Number of parameters, padding excluded.
    pub fn count(&self) -> usize {
        self.entries.iter().map(Param::elems).sum()
    }

    /// Every piece: name, shape, chunk, offset in elements.
    pub fn pieces(&self) -> impl Iterator<Item = (&str, &[usize], usize, usize)> {
        self.entries.iter().flat_map(|p| {
            let step = p.piece_elems();
            let names = p.names.0.iter().enumerate();
            names.map(move |(i, n)| (n.as_str(), &p.piece[..], p.chunk, p.offset + i * step))
        })
    }

    pub(super) fn place(&self, id: ParamId) -> (usize, usize, usize) {
        let p = self.get(id);
        (p.chunk, p.offset, p.elems())
    }

    /// Initial values of every chunk. Each piece draws from its own stream, so that a part of a model starts as it
    /// does inside the whole.
    pub fn initial(&self, seed: u64) -> Vec<Vec<f32>> {
        let mut chunks: Vec<Vec<f32>> = self.chunks.iter().map(|n| vec![0.0; *n]).collect();
        for p in &self.entries {
            let step = p.piece_elems();
            for (i, name) in p.names.0.iter().enumerate() {
                let at = p.offset + i * step;
                let out = &mut chunks[p.chunk][at..at + step];
                let mut rng = Rng::named(seed, name);
                match p.init {
                    Init::Constant(value) => out.fill(value),
                    Init::Xavier { fan_in, fan_out } => {
                        let limit = (6.0 / (fan_in + fan_out) as f64).sqrt();
                        out.iter_mut().for_each(|w| *w = ((rng.uniform() * 2.0 - 1.0) * limit) as f32);
                    }
                    Init::Normal { std } => {
                        out.iter_mut().for_each(|w| *w = (rng.normal() * f64::from(std)) as f32);
                    }
                }
            }
        }
        chunks
    }
}

/// A piece read back: name, shape, values.
pub type Piece = (String, Vec<usize>, Vec<f32>);

/// The parameters on a device, shared by every program that uses them.
pub struct ParamStore {
    pub params: Params,
    weights: Vec<wgpu::Buffer>,
    /// Gradients and both moments, per chunk; empty when the store is for inference.
    training: Vec<[wgpu::Buffer; 3]>,
}

impl ParamStore {
    /// Allocates weights, and for `training` gradients and moments; all zero.
    ///
    /// # Errors
    /// [`GpuError::OutOfMemory`].
    pub fn new(gpu: &Gpu, params: Params, training: bool) -> Result<Self, GpuError> {
        let buffer = |what: &str, n: usize| new_buffer(gpu, what, n as u64 * 4);
        let mut weights = Vec::new();
        let mut extra = Vec::new();
        for &n in params.chunks() {
            weights.push(buffer("the weights", n)?);
            if training {
                extra.push([
                    buffer("the gradients", n)?,
                    buffer("the first moments", n)?,
                    buffer("the second moments", n)?,
                ]);
            }
        }
        Ok(ParamStore { params, weights, training: extra })
    }

    /// Draws initial weights.
    pub fn init(&self, gpu: &Gpu, seed: u64) {
        for (chunk, data) in self.params.initial(seed).iter().enumerate() {
            upload(gpu, &self.weights[chunk], 0, data);
        }
    }

    /// The buffer of one kind and chunk.
    ///
    /// # Errors
    /// When gradients or moments are asked of a store made for inference.
    pub fn buffer(&self, kind: Kind, chunk: usize) -> Result<&wgpu::Buffer> {
        if kind == Kind::Weight {
            return Ok(&self.weights[chunk]);
        }
        let Some(buffers) = self.training.get(chunk) else {
            bail!("these parameters were opened for inference: there is no {kind:?}");
        };
        Ok(&buffers[kind as usize - 1])
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> u64 {
        let weights: u64 = self.weights.iter().map(wgpu::Buffer::size).sum();
        weights + self.training.iter().flatten().map(wgpu::Buffer::size).sum::<u64>()
    }

    /// Reads every chunk of one kind back.
    ///
    /// # Errors
    /// A lost device.
    pub fn read_chunks(&self, gpu: &Gpu, kind: Kind) -> Result<Vec<Vec<f32>>> {
        let chunks = self.params.chunks().iter().enumerate();
        chunks.map(|(c, &n)| Ok(download(gpu, self.buffer(kind, c)?, 0, n)?)).collect()
    }

    /// Writes every chunk of one kind.
    ///
    /// # Errors
    /// When the sizes are not those of this model.
    pub fn write_chunks(&self, gpu: &Gpu, kind: Kind, chunks: &[Vec<f32>]) -> Result<()> {
        for (c, data) in chunks.iter().enumerate() {
            let expected = self.params.chunks().get(c).copied().unwrap_or(0);
            if data.len() != expected {
                bail!("{kind:?} chunk {c} holds {} values and this model has {expected}", data.len());
            }
            upload(gpu, self.buffer(kind, c)?, 0, data);
        }
        Ok(())
    }

    /// Every piece of one kind by name: (name, shape, values).
    ///
    /// # Errors
    /// A lost device.
    pub fn read_named(&self, gpu: &Gpu, kind: Kind) -> Result<Vec<Piece>> {
        let chunks = self.read_chunks(gpu, kind)?;
        let pieces = self.params.pieces();
        Ok(pieces
            .map(|(name, shape, chunk, at)| {
                let n: usize = shape.iter().product();
                (name.to_string(), shape.to_vec(), chunks[chunk][at..at + n].to_vec())
            })
            .collect())
    }

    /// Writes one piece of the weights.
    ///
    /// # Errors
    /// An unknown name, or a shape that is not the model's.
    pub fn write_named(&self, gpu: &Gpu, name: &str, shape: &[usize], data: &[f32]) -> Result<()> {
        let (_, expected, chunk, at) =
            self.params.pieces().find(|p| p.0 == name).with_context(|| format!("the model has no tensor '{name}'"))?;
        if shape != expected {
            bail!("tensor '{name}' has shape {shape:?} and this model's is {expected:?}");
        }
        upload(gpu, &self.weights[chunk], at as u64 * 4, data);
        Ok(())
    }
}
