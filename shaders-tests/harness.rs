//! Runs an op in the middle of a graph and compares its value and its gradients with an f64 reference.

use csmoe::eval::doctor::{Effort, Error, Recorded};
pub use csmoe::eval::doctor::{In, normal};
use csmoe::gpu::{AdapterChoice, DeviceClass, Gpu, Target};
use csmoe::model::Config;
use csmoe::tensor::{Tape, Tensor};
use std::sync::OnceLock;

/// The adapter under test (`CSMOE_ADAPTER` chooses); opened once a process.
pub fn gpu() -> &'static Gpu {
    static GPU: OnceLock<Gpu> = OnceLock::new();
    GPU.get_or_init(|| match Gpu::open(&AdapterChoice::from_flag(None)) {
        Ok(gpu) => gpu,
        Err(e) => panic!("{e}"),
    })
}

/// A model of 24 pixels in 9 patches, the smallest that has every part.
pub fn micro() -> Config {
    let mut config = Config::preset("csmoe-tiny").expect("a preset");
    (config.image_size, config.patch_size, config.dim, config.heads) = (24, 8, 32, 2);
    (config.sensor_depth, config.experts) = (1, 2);
    (config.decoder.dim, config.decoder.depth, config.decoder.heads) = (16, 1, 2);
    config
}

/// Error bounds, relative to the largest magnitude of what is compared.
#[derive(Clone, Copy)]
pub struct Bounds {
    pub value: f64,
    pub grad: f64,
}

pub const F32: Bounds = Bounds { value: 1e-5, grad: 1e-4 };

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
    let generic = Target { tiles: false, lanes: 64, ..own.clone() };
    let hardware = Target { class: DeviceClass::Hardware, cores: Target::default().cores, ..generic.clone() };
    let mut all = vec![generic, hardware, own.clone()];
    if gpu().limits.max_compute_workgroup_storage_size >= 32 << 10 {
        let lanes = if own.lanes == 16 { 8 } else { 16 };
        all.push(Target { tiles: true, direct: true, lanes, ..own });
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
    let recorded = Recorded::new(target, inputs, record).unwrap_or_else(|e| panic!("{name}: {e:#}"));
    let effort = Effort { coordinates: 16, directions: 2 };
    let errors = recorded.measure(gpu(), effort, reference).unwrap_or_else(|e| panic!("{name}: {e:#}"));
    for (error, bound) in [(errors.value, bounds.value), (errors.gradient, bounds.grad)] {
        assert!(error.relative <= bound, "{name}: {} (relative error {:.2e})", error.at, error.relative);
    }
}

/// Every value within `bound` of the expected one, relative to the largest.
pub fn compare(what: &str, got: &[f32], expected: &[f64], bound: f64) {
    assert_eq!(got.len(), expected.len(), "{what}: another number of values");
    let error = Error::of(what, got, expected);
    assert!(error.relative <= bound, "{} (relative error {:.2e})", error.at, error.relative);
}
