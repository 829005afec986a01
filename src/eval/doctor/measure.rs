//! Runs an op in the middle of a graph and measures how far its value and its gradients are from an f64 reference.

use crate::gpu::{Gpu, Target};
use crate::ops::scale;
use crate::tensor::{Launch, ParamStore, Params, Rng, Tape, Tensor};
use anyhow::{Context, Result, bail};

/// An input of an op under test.
pub enum In {
    /// Differentiable values.
    Grad(Vec<usize>, Vec<f32>),
    /// Values without a gradient.
    Plain(Vec<usize>, Vec<f32>),
    /// Indices and flags.
    Index(Vec<usize>, Vec<u32>),
}

impl In {
    /// Standard normal values.
    pub fn normal(seed: u64, shape: &[usize]) -> In {
        In::Grad(shape.to_vec(), normal(seed, shape.iter().product()))
    }

    fn shape(&self) -> &[usize] {
        match self {
            In::Grad(shape, _) | In::Plain(shape, _) | In::Index(shape, _) => shape,
        }
    }

    /// The values as the reference sees them.
    fn values(&self) -> Vec<f64> {
        match self {
            In::Grad(_, data) | In::Plain(_, data) => data.iter().map(|x| f64::from(*x)).collect(),
            In::Index(_, data) => data.iter().map(|x| f64::from(*x)).collect(),
        }
    }
}

/// Standard normal numbers.
pub fn normal(seed: u64, n: usize) -> Vec<f32> {
    let mut rng = Rng::new(seed, 77);
    (0..n).map(|_| rng.normal() as f32).collect()
}

/// A relative error and where it was found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Error {
    pub relative: f64,
    pub at: String,
}

impl Error {
    /// Keeps the larger error; one that is not a number is the largest.
    pub fn widen(&mut self, got: f64, expected: f64, scale: f64, at: impl FnOnce() -> String) {
        let relative = (got - expected).abs() / scale;
        let relative = if relative.is_nan() { f64::INFINITY } else { relative };
        if relative > self.relative {
            *self = Error { relative, at: format!("{} is {got:.7e} and should be {expected:.7e}", at()) };
        }
    }

    /// The error of values, relative to the largest expected one.
    pub fn of(what: &str, got: &[f32], expected: &[f64]) -> Self {
        let scale = expected.iter().fold(1e-6f64, |m, v| m.max(v.abs()));
        let mut error = Error::default();
        for (i, (g, e)) in got.iter().zip(expected).enumerate() {
            error.widen(f64::from(*g), *e, scale, || format!("{what} at {i}"));
        }
        error
    }
}

/// How far an op is off.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Errors {
    pub value: Error,
    /// Against central differences of the reference.
    pub gradient: Error,
}

/// How many numbers of each gradient are checked: single ones, and slopes along random directions, which see all.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    pub coordinates: usize,
    pub directions: usize,
}

/// Factors around the op, so that it never stands at an end of the graph.
const BEFORE: f64 = 1.25;
const AFTER: f64 = 0.75;

/// An op on a tape with its backward, ready to run.
pub struct Recorded<'a> {
    tape: Tape,
    inputs: &'a [In],
    upstream: Vec<f32>,
}

impl<'a> Recorded<'a> {
    /// Records `op` of `inputs` for `target`; needs no GPU.
    ///
    /// # Errors
    /// Whatever the op reports; a differentiable input that no gradient reaches.
    pub fn new(
        target: &Target,
        inputs: &'a [In],
        op: impl FnOnce(&mut Tape, &[Tensor]) -> Result<Tensor>,
    ) -> Result<Self> {
        let mut t = Tape::new(target.clone(), Params::default());
        let (mut leaves, mut handles) = (Vec::new(), Vec::new());
        for (i, input) in inputs.iter().enumerate() {
            let name = format!("in{i}");
            match input {
                In::Grad(shape, _) => {
                    leaves.push(t.input_with_grad(name, &shape[..]));
                    handles.push(scale(&mut t, leaves[i], BEFORE as f32)?);
                }
                _ => {
                    leaves.push(t.input(name, input.shape()));
                    handles.push(leaves[i]);
                }
            }
        }
        let result = op(&mut t, &handles)?;
        let out = scale(&mut t, result, AFTER as f32)?;
        t.output("out", out)?;
        let seed = t.input("seed", out.shape());
        t.backward_seed(out, seed);
        t.walk_back()?;
        for (i, (input, leaf)) in inputs.iter().zip(&leaves).enumerate() {
            match (input, t.grad(*leaf)) {
                (In::Grad(..), Some(grad)) => t.output(format!("grad{i}"), grad)?,
                (In::Grad(..), None) => bail!("no gradient reached input {i}"),
                _ => {}
            }
        }
        Ok(Recorded { tape: t, inputs, upstream: normal(991, out.elems()) })
    }

    pub fn launches(&self) -> &[Launch] {
        self.tape.launches()
    }

    /// Runs it and compares with `reference`, which sees the inputs as f64, indices included.
    ///
    /// # Errors
    /// A kernel the driver refuses, a lost device, a reference of another length.
    pub fn measure(self, gpu: &Gpu, effort: Effort, reference: impl Fn(&[Vec<f64>]) -> Vec<f64>) -> Result<Errors> {
        let Recorded { tape, inputs, upstream } = self;
        let store = ParamStore::new(gpu, Params::default(), false)?;
        let program = tape.compile(gpu, &store)?;
        for (i, input) in inputs.iter().enumerate() {
            let name = format!("in{i}");
            match input {
                In::Grad(_, data) | In::Plain(_, data) => program.write(gpu, &name, data)?,
                In::Index(_, data) => program.write(gpu, &name, data)?,
            }
        }
        program.write(gpu, "seed", &upstream)?;
        program.run(gpu)?;

        let evaluate = |point: &[Vec<f64>]| -> Vec<f64> {
            let scaled: Vec<Vec<f64>> = point
                .iter()
                .zip(inputs)
                .map(|(x, input)| match input {
                    In::Grad(..) => x.iter().map(|v| v * BEFORE).collect(),
                    _ => x.clone(),
                })
                .collect();
            reference(&scaled).iter().map(|v| v * AFTER).collect()
        };
        let point: Vec<Vec<f64>> = inputs.iter().map(In::values).collect();
        let value: Vec<f32> = program.read(gpu, "out")?;
        let expected = evaluate(&point);
        if value.len() != expected.len() {
            bail!("the reference gives {} values and the op {}", expected.len(), value.len());
        }
        let mut errors = Errors { value: Error::of("the value", &value, &expected), ..Errors::default() };

        let objective =
            |point: &[Vec<f64>]| -> f64 { evaluate(point).iter().zip(&upstream).map(|(y, u)| y * f64::from(*u)).sum() };
        for (i, input) in inputs.iter().enumerate() {
            let In::Grad(_, data) = input else { continue };
            let grad: Vec<f32> = program.read(gpu, &format!("grad{i}")).context("a gradient")?;
            let scale = grad.iter().fold(1e-3f64, |m, g| m.max(f64::from(g.abs())));
            let slope = |direction: &dyn Fn(usize) -> f64| {
                let h = 1e-5;
                let moved = |sign: f64| {
                    let mut p = point.clone();
                    p[i].iter_mut().enumerate().for_each(|(j, x)| *x += sign * h * direction(j));
                    objective(&p)
                };
                (moved(1.0) - moved(-1.0)) / (2.0 * h)
            };
            let mut rng = Rng::new(5, i as u64);
            for _ in 0..data.len().min(effort.coordinates) {
                let j = rng.below(data.len());
                let expected = slope(&|k| f64::from(u8::from(k == j)));
                errors.gradient.widen(grad[j].into(), expected, scale, || format!("gradient of input {i} at {j}"));
            }
            for _ in 0..effort.directions {
                let direction: Vec<f64> = (0..data.len()).map(|_| rng.normal()).collect();
                let expected = slope(&|k| direction[k]);
                let got: f64 = grad.iter().zip(&direction).map(|(g, d)| f64::from(*g) * d).sum();
                let size = scale * (data.len() as f64).sqrt();
                errors.gradient.widen(got, expected, size, || format!("slope along input {i}"));
            }
        }
        Ok(errors)
    }
}
