//! Runs an op in the middle of a graph and compares its value and its gradients with an f64 reference.

use csmoe::gpu::{AdapterChoice, Gpu, Target};
use csmoe::tensor::{ParamStore, Params, Rng, Tape, Tensor};
use std::sync::OnceLock;

/// The adapter under test (`CSMOE_ADAPTER` chooses); opened once a process.
pub fn gpu() -> &'static Gpu {
    static GPU: OnceLock<Gpu> = OnceLock::new();
    GPU.get_or_init(|| match Gpu::open(&AdapterChoice::from_flag(None)) {
        Ok(gpu) => gpu,
        Err(e) => panic!("{e}"),
    })
}

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
}

pub fn normal(seed: u64, n: usize) -> Vec<f32> {
    let mut rng = Rng::new(seed, 77);
    (0..n).map(|_| rng.normal() as f32).collect()
}

/// Error bounds, relative to the largest magnitude of what is compared.
#[derive(Clone, Copy)]
pub struct Bounds {
    pub value: f64,
    pub grad: f64,
}

pub const F32: Bounds = Bounds { value: 1e-5, grad: 1e-4 };

/// Factors around the op, so that it never stands at an end of the graph.
const BEFORE: f64 = 1.25;
const AFTER: f64 = 0.75;

/// Checks `record` against `reference` (which sees the inputs as f64, indices included) in value and, by central
/// differences of the reference, in every gradient: a sample of coordinates and two random directions.
pub fn check(
    name: &str,
    inputs: &[In],
    record: impl Fn(&mut Tape, &[Tensor]) -> anyhow::Result<Tensor>,
    reference: impl Fn(&[Vec<f64>]) -> Vec<f64>,
) {
    check_with(name, F32, inputs, record, reference);
}

pub fn check_with(
    name: &str,
    bounds: Bounds,
    inputs: &[In],
    record: impl Fn(&mut Tape, &[Tensor]) -> anyhow::Result<Tensor>,
    reference: impl Fn(&[Vec<f64>]) -> Vec<f64>,
) {
    check_on(&gpu().target, name, bounds, inputs, record, reference);
}

/// What the ops choose their kernels by, for every choice this adapter can run.
pub fn targets() -> Vec<Target> {
    let own = gpu().target.clone();
    let mut all = vec![Target { tiles: false, lanes: 64, ..own.clone() }, own.clone()];
    if gpu().limits.max_compute_workgroup_storage_size >= 32 << 10 {
        all.push(Target { tiles: true, lanes: if own.lanes == 16 { 8 } else { 16 }, ..own });
    }
    all
}

/// As [`check_with`], with the kernels chosen for `target`.
pub fn check_on(
    target: &Target,
    name: &str,
    bounds: Bounds,
    inputs: &[In],
    record: impl Fn(&mut Tape, &[Tensor]) -> anyhow::Result<Tensor>,
    reference: impl Fn(&[Vec<f64>]) -> Vec<f64>,
) {
    let gpu = gpu();
    let mut t = Tape::new(target.clone(), Params::default());
    let mut leaves = Vec::new();
    let mut handles = Vec::new();
    for (i, input) in inputs.iter().enumerate() {
        let (leaf, handle) = match input {
            In::Grad(shape, _) => {
                let leaf = t.input_with_grad(format!("in{i}"), &shape[..]);
                (leaf, csmoe::ops::scale(&mut t, leaf, BEFORE as f32).expect("scale"))
            }
            In::Plain(shape, _) | In::Index(shape, _) => {
                let leaf = t.input(format!("in{i}"), &shape[..]);
                (leaf, leaf)
            }
        };
        leaves.push(leaf);
        handles.push(handle);
    }
    let result = record(&mut t, &handles).unwrap_or_else(|e| panic!("{name}: {e:#}"));
    let out = csmoe::ops::scale(&mut t, result, AFTER as f32).expect("scale");
    t.output("out", out).expect("an output");
    let upstream = normal(991, out.elems());
    let seed = t.input("seed", out.shape());
    t.backward_seed(out, seed);
    t.walk_back().unwrap_or_else(|e| panic!("{name} backward: {e:#}"));
    for (i, leaf) in leaves.iter().enumerate() {
        if let Some(grad) = t.grad(*leaf) {
            t.output(format!("grad{i}"), grad).expect("a gradient");
        }
    }
    let store = ParamStore::new(gpu, Params::default(), false).expect("no parameters");
    let program = t.compile(gpu, &store).unwrap_or_else(|e| panic!("{name}: {e:#}"));
    let mut point: Vec<Vec<f64>> = Vec::new();
    for (i, input) in inputs.iter().enumerate() {
        let key = format!("in{i}");
        match input {
            In::Grad(_, data) => {
                program.write(gpu, &key, data).expect("write");
                point.push(data.iter().map(|x| f64::from(*x)).collect());
            }
            In::Plain(_, data) => {
                program.write(gpu, &key, data).expect("write");
                point.push(data.iter().map(|x| f64::from(*x)).collect());
            }
            In::Index(_, data) => {
                program.write(gpu, &key, data).expect("write");
                point.push(data.iter().map(|x| f64::from(*x)).collect());
            }
        }
    }
    program.write(gpu, "seed", &upstream).expect("write");
    program.run(gpu).expect("run");

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
    let value: Vec<f32> = program.read(gpu, "out").expect("read");
    let expected = evaluate(&point);
    assert_eq!(value.len(), expected.len(), "{name}: the reference gives another number of values");
    compare(&format!("{name}: value"), &value, &expected, bounds.value);

    let objective =
        |point: &[Vec<f64>]| -> f64 { evaluate(point).iter().zip(&upstream).map(|(y, u)| y * f64::from(*u)).sum() };
    for (i, input) in inputs.iter().enumerate() {
        let In::Grad(_, data) = input else { continue };
        let key = format!("grad{i}");
        assert!(program.output_names().any(|n| n == key), "{name}: no gradient reached input {i}");
        let grad: Vec<f32> = program.read(gpu, &key).expect("read");
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
        for _ in 0..data.len().min(16) {
            let j = rng.below(data.len());
            let expected = slope(&|k| f64::from(u8::from(k == j)));
            let error = (f64::from(grad[j]) - expected).abs() / scale;
            assert!(
                error <= bounds.grad,
                "{name}: gradient of input {i} at {j} is {} and should be {expected}",
                grad[j]
            );
        }
        for _ in 0..2 {
            let direction: Vec<f64> = (0..data.len()).map(|_| rng.normal()).collect();
            let expected = slope(&|k| direction[k]);
            let got: f64 = grad.iter().zip(&direction).map(|(g, d)| f64::from(*g) * d).sum();
            let size = scale * (data.len() as f64).sqrt();
            assert!(
                (got - expected).abs() <= bounds.grad * size,
                "{name}: slope {got} should be {expected} for input {i}"
            );
        }
    }
}

/// Every value within `bound` of the expected one, relative to the largest.
pub fn compare(what: &str, got: &[f32], expected: &[f64], bound: f64) {
    let scale = expected.iter().fold(1e-6f64, |m, v| m.max(v.abs()));
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        let error = (f64::from(*g) - e).abs() / scale;
        assert!(error <= bound, "{what} at {i} is {g} and should be {e} (relative error {error:.2e})");
    }
}
