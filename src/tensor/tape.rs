//! The tape: running a model's forward pass once records its launches; walking the recorded rules backwards
//! records the gradients'. Nothing runs here and no GPU is needed.

use super::params::{Kind, ParamId, Params};
use super::{Shape, Tensor};
use crate::gpu::{Kernel, Target};
use anyhow::{Result, bail};
use std::collections::HashMap;

/// Arithmetic of a launch, for the bench's roofline and the summary's counts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    pub flops: f64,
    pub bytes: f64,
}

/// A binding of a launch: a run of elements of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arg {
    pub(super) id: usize,
    pub(super) offset: usize,
    pub(super) len: usize,
}

impl From<Tensor> for Arg {
    fn from(t: Tensor) -> Self {
        Arg { id: t.id, offset: 0, len: t.elems() }
    }
}

impl Tensor {
    /// The elements `offset..offset + len` as a binding.
    pub fn window(&self, offset: usize, len: usize) -> Arg {
        debug_assert!(offset + len <= self.elems());
        Arg { id: self.id, offset, len }
    }
}

/// A 32-bit word of a kernel's uniform parameters.
pub trait Word: Copy {
    fn word(self) -> u32;
}
impl Word for u32 {
    fn word(self) -> u32 {
        self
    }
}
impl Word for usize {
    fn word(self) -> u32 {
        u32::try_from(self).expect("bindings are below 2^31 bytes, so every count fits 32 bits")
    }
}
impl Word for f32 {
    fn word(self) -> u32 {
        self.to_bits()
    }
}
impl Word for bool {
    fn word(self) -> u32 {
        u32::from(self)
    }
}

/// Packs words of mixed types: `words![rows, width, eps]`.
#[macro_export]
macro_rules! words {
    ($($w:expr),* $(,)?) => { &[$($crate::tensor::Word::word($w)),*][..] };
}

/// One dispatch.
#[derive(Clone, Debug)]
pub struct Launch {
    pub kernel: Kernel,
    pub constants: Vec<(&'static str, f64)>,
    pub grid: [u32; 3],
    pub args: Vec<Arg>,
    pub words: Vec<u32>,
    pub work: Work,
    /// Where in the model this was recorded.
    pub scope: String,
}

impl Launch {
    pub fn flops(&mut self, flops: f64) -> &mut Self {
        self.work.flops = flops;
        self
    }

    pub fn constant(&mut self, name: &'static str, value: impl Into<f64>) -> &mut Self {
        self.constants.push((name, value.into()));
        self
    }
}

/// A buffer that outlives the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum External {
    Param(Kind, ParamId),
    /// `len` elements of a chunk of the parameters, from `offset`.
    Chunk {
        kind: Kind,
        chunk: usize,
        offset: usize,
        len: usize,
    },
}

#[derive(Clone, Debug)]
pub(super) enum Place {
    /// In the arenas, for its lifetime.
    Planned,
    /// Inside another value, from an element offset.
    Alias {
        root: usize,
        offset: usize,
    },
    /// Written by the host before a run.
    Input(String),
    /// Kept after a run for the host.
    Output(String),
    /// Written once, when the program is built.
    Constant(Vec<u8>),
    External(External),
}

pub(super) struct Value {
    pub elems: usize,
    pub place: Place,
    pub needs_grad: bool,
    pub name: String,
}

type Rule = Box<dyn FnOnce(&mut Tape) -> Result<()>>;

/// Records a program.
pub struct Tape {
    pub target: Target,
    pub(super) values: Vec<Value>,
    pub(super) launches: Vec<Launch>,
    pub(super) params: Params,
    param_values: HashMap<External, Tensor>,
    pub(super) rules: Vec<Rule>,
    /// The room of each value's gradient.
    pub(super) grads: HashMap<usize, Tensor>,
    /// Runs of elements of those rooms, by the value they lie in, that hold a gradient already.
    pub(super) written: HashMap<usize, Vec<(usize, usize)>>,
    /// Parts of a split: part -> (whole, offset).
    pub(super) parts: HashMap<usize, (Tensor, usize)>,
    scopes: Vec<String>,
    /// Add to the parameters' gradients instead of overwriting them (gradient accumulation).
    pub accumulate_params: bool,
}

impl Tape {
    pub fn new(target: Target, params: Params) -> Self {
        Tape {
            target,
            values: Vec::new(),
            launches: Vec::new(),
            params,
            param_values: HashMap::new(),
            rules: Vec::new(),
            grads: HashMap::new(),
            written: HashMap::new(),
            parts: HashMap::new(),
            scopes: Vec::new(),
            accumulate_params: false,
        }
    }

    /// Runs `f` with `name` added to the scope that launches and errors carry.
    pub fn scope<T>(&mut self, name: impl ToString, f: impl FnOnce(&mut Self) -> T) -> T {
        self.scopes.push(name.to_string());
        let result = f(self);
        self.scopes.pop();
        result
    }

    pub(super) fn push(&mut self, shape: Shape, place: Place, needs_grad: bool) -> Tensor {
        let id = self.values.len();
        self.values.push(Value { elems: shape.elems(), place, needs_grad, name: self.scopes.join("/") });
        Tensor { id, shape }
    }

    /// A value an op computes from `from`; it needs a gradient if any of those does.
    pub fn value(&mut self, shape: impl Into<Shape>, from: &[Tensor]) -> Tensor {
        let needs_grad = from.iter().any(|t| self.needs_grad(*t));
        self.push(shape.into(), Place::Planned, needs_grad)
    }

    /// A value without a gradient: statistics saved for the backward, scratch space.
    pub fn saved(&mut self, shape: impl Into<Shape>) -> Tensor {
        self.push(shape.into(), Place::Planned, false)
    }

    /// A value the host writes before each run.
    pub fn input(&mut self, name: impl ToString, shape: impl Into<Shape>) -> Tensor {
        self.push(shape.into(), Place::Input(name.to_string()), false)
    }

    /// An input that gradients are asked of (tests).
    pub fn input_with_grad(&mut self, name: impl ToString, shape: impl Into<Shape>) -> Tensor {
        self.push(shape.into(), Place::Input(name.to_string()), true)
    }

    /// A value fixed when the program is built.
    pub fn constant<T: bytemuck::Pod>(&mut self, shape: impl Into<Shape>, data: &[T]) -> Tensor {
        let shape = shape.into();
        assert_eq!(size_of_val(data), shape.elems() * 4, "a constant's data fills its shape");
        self.push(shape, Place::Constant(bytemuck::cast_slice(data).to_vec()), false)
    }

    /// The weights of a parameter, `[pieces, ...piece]`.
    pub fn param(&mut self, id: ParamId) -> Tensor {
        let shape = self.params.get(id).shape();
        let name = self.params.get(id).names.0.first().cloned().unwrap_or_default();
        let tensor = self.external(External::Param(Kind::Weight, id), shape);
        self.values[tensor.id].needs_grad = true;
        self.values[tensor.id].name = name;
        tensor
    }

    /// The parameters this tape was made for.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// A buffer that outlives the program; asked for twice it is the same value.
    pub fn external(&mut self, external: External, shape: impl Into<Shape>) -> Tensor {
        let shape = shape.into();
        if let Some(found) = self.param_values.get(&external) {
            return *found;
        }
        let tensor = self.push(shape, Place::External(external), false);
        self.param_values.insert(external, tensor);
        tensor
    }

    /// Keeps a value after the run under a name the host can read. Call it once the value is complete.
    pub fn output(&mut self, name: impl ToString, tensor: Tensor) -> Result<()> {
        match &self.values[tensor.id].place {
            Place::Planned => {
                self.values[tensor.id].place = Place::Output(name.to_string());
                Ok(())
            }
            other => bail!("output '{}' is {other:?}, not a computed value of its own", name.to_string()),
        }
    }

    pub fn needs_grad(&self, tensor: Tensor) -> bool {
        self.values[tensor.id].needs_grad
    }

    /// Records a dispatch of `groups` workgroups; `args` in binding order from 1, `words` are binding 0.
    pub fn launch(&mut self, kernel: Kernel, groups: u64, args: &[Arg], words: &[u32]) -> &mut Launch {
        let bytes = args.iter().map(|a| a.len as f64 * 4.0).sum();
        self.launches.push(Launch {
            kernel,
            constants: Vec::new(),
            grid: self.target.grid(groups),
            args: args.to_vec(),
            words: words.to_vec(),
            work: Work { flops: 0.0, bytes },
            scope: self.scopes.join("/"),
        });
        self.launches.last_mut().expect("just pushed")
    }

    /// Records what to do when the walk backwards reaches this point. Rules see the scope they were made in.
    pub fn on_backward(&mut self, rule: impl FnOnce(&mut Tape) -> Result<()> + 'static) {
        let scopes = self.scopes.clone();
        self.rules.push(Box::new(move |t: &mut Tape| {
            let outer = std::mem::replace(&mut t.scopes, scopes);
            t.scopes.push("backward".to_string());
            let result = rule(t);
            t.scopes = outer;
            result
        }));
    }

    pub(super) fn alias(&mut self, root: Tensor, offset: usize, shape: Shape) -> Tensor {
        let needs_grad = self.values[root.id].needs_grad;
        let (root, offset) = match self.values[root.id].place {
            Place::Alias { root: inner, offset: more } => (inner, offset + more),
            _ => (root.id, offset),
        };
        self.push(shape, Place::Alias { root, offset }, needs_grad)
    }

    /// Splits the outermost axis into views of the given lengths. Costs nothing, forward or backward.
    ///
    /// # Errors
    /// When the lengths do not add up.
    pub fn split(&mut self, whole: Tensor, lengths: &[usize]) -> Result<Vec<Tensor>> {
        let dims = whole.shape.dims().to_vec();
        if lengths.iter().sum::<usize>() != dims[0] {
            bail!("split of {:?} into {lengths:?} along the first axis", whole.shape);
        }
        let row = whole.elems() / dims[0];
        let mut offset = 0;
        let mut parts = Vec::new();
        for length in lengths {
            let mut shape = dims.clone();
            shape[0] = *length;
            let part = self.alias(whole, offset, Shape::from(&shape[..]));
            self.parts.insert(part.id, (whole, offset));
            parts.push(part);
            offset += length * row;
        }
        let own = parts.clone();
        self.on_backward(move |t| {
            // The parts that were used have written their shares; the rest is zero.
            if own.iter().any(|p| t.grad(*p).is_some()) {
                let storage = t.grad_storage(whole);
                t.write(storage);
            }
            Ok(())
        });
        Ok(parts)
    }

    /// Joins values along the outermost axis by placing them inside one buffer. Costs nothing, forward or
    /// backward, so each part must be a computed value of its own.
    ///
    /// # Errors
    /// When a part's other axes differ, or it is an input, a parameter or a view.
    pub fn concat(&mut self, parts: &[Tensor]) -> Result<Tensor> {
        let tail = parts[0].shape.dims()[1..].to_vec();
        let mut length = 0;
        for part in parts {
            if part.shape.dims()[1..] != tail[..] {
                bail!("concat of {:?} and {:?}", parts[0].shape, part.shape);
            }
            if !matches!(self.values[part.id].place, Place::Planned) {
                bail!("concat needs computed values, and one is {:?}", self.values[part.id].place);
            }
            length += part.shape.dims()[0];
        }
        let mut dims = vec![length];
        dims.extend(tail);
        let whole = self.value(Shape::from(&dims[..]), parts);
        let mut offset = 0;
        for part in parts {
            // Views of the part, made earlier, follow it through `resolve`.
            self.values[part.id].place = Place::Alias { root: whole.id, offset };
            offset += part.elems();
        }
        let own = parts.to_vec();
        self.on_backward(move |t| {
            let Some(dy) = t.grad(whole) else { return Ok(()) };
            let mut offset = 0;
            for part in own {
                if t.grads.contains_key(&part.id) {
                    bail!("a part of a concat was used after it");
                }
                let view = t.alias(dy, offset, part.shape);
                t.grads.insert(part.id, view);
                offset += part.elems();
            }
            Ok(())
        });
        Ok(whole)
    }

    /// How many values there are so far.
    pub fn values(&self) -> usize {
        self.values.len()
    }

    /// What was recorded, in order.
    pub fn launches(&self) -> &[Launch] {
        &self.launches
    }

    /// The buffer a value lives in and its element offset there.
    pub(super) fn resolve(&self, id: usize) -> (usize, usize) {
        match self.values[id].place {
            Place::Alias { root, offset } => {
                let (outer, more) = self.resolve(root);
                (outer, offset + more)
            }
            _ => (id, 0),
        }
    }
}
