//! The doctor: every kernel, in every variant this adapter could be given, against its f64 reference.

mod cases;
mod measure;
mod update;

pub use measure::{Effort, Error, Errors, In, Recorded, normal};

use crate::data::export::write_atomic;
use crate::gpu::{Gpu, Kernel, Target, Variant, all_sources, cache_folder, describe, source};
use crate::tensor::Launch;
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Pass,
    Fail,
    /// The adapter lacks what the variant needs.
    Skipped,
}

/// One op in one variant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    pub name: String,
    pub variant: String,
    pub status: Status,
    /// Largest error, relative to the largest magnitude of what was compared; gradients against central differences of
    /// the reference. None if it did not run or was not finite.
    pub value_error: Option<f64>,
    pub gradient_error: Option<f64>,
    /// `file::entry` of every kernel it launched.
    pub kernels: Vec<String>,
    /// Why it failed or was skipped.
    pub note: Option<String>,
}

/// One entry point of a kernel file over all checks that launched it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    pub status: Status,
    pub max_relative_error: Option<f64>,
    pub checks: usize,
}

/// What the doctor found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Diagnosis {
    pub adapter: String,
    pub version: String,
    pub checks: Vec<Check>,
    /// By `file::entry`.
    pub kernels: BTreeMap<String, Verdict>,
    /// Read back from an earlier run on this adapter, driver and version.
    #[serde(skip_deserializing)]
    pub cached: bool,
}

impl Diagnosis {
    pub fn failures(&self) -> usize {
        self.checks.iter().filter(|c| c.status == Status::Fail).count()
    }
}

/// Largest errors of a check in f32.
const VALUE_BOUND: f64 = 1e-5;
const GRADIENT_BOUND: f64 = 1e-4;

/// The adapter's variants and one more, whose bindings are so small that groups and parameters are split over several.
fn variants(gpu: &Gpu, splits: bool) -> Vec<Variant> {
    let mut all = gpu.variants();
    if splits {
        let target = Target { max_binding: 16 << 10, ..gpu.target.clone() };
        all.push(Variant { name: "small bindings", target, lacks: None });
    }
    all
}

/// What tells two recordings apart.
fn signature(launches: &[Launch]) -> String {
    launches.iter().map(|l| format!("{:?}{:?}{:?}{:?};", l.kernel, l.constants, l.grid, l.words)).collect()
}

fn kernels(launches: &[Launch]) -> Vec<String> {
    let mut names: Vec<String> = launches.iter().map(|l| format!("{}::{}", l.kernel.file, l.kernel.entry)).collect();
    names.sort();
    names.dedup();
    names
}

/// Checks every kernel on this adapter, or reads what an earlier run found. `observe` sees each check as it ends.
/// A variant that records the same launches as an earlier one is not run again. Only a clean bill is kept.
///
/// # Errors
/// A lost device. What a check finds is in the diagnosis.
pub fn diagnose(gpu: &Gpu, fresh: bool, mut observe: impl FnMut(&Check)) -> Result<Diagnosis> {
    let file = cache_file(gpu);
    if !fresh && let Some(found) = file.as_ref().and_then(read) {
        return Ok(found);
    }
    let mut checks = Vec::new();
    for case in cases::all() {
        let mut seen = Vec::new();
        for variant in &variants(gpu, case.splits) {
            let check = match case.launches(&variant.target) {
                Ok(launches) => {
                    let signature = signature(&launches);
                    if seen.contains(&signature) {
                        continue;
                    }
                    seen.push(signature);
                    let errors = variant.lacks.is_none().then(|| case.measure(gpu, &variant.target));
                    judge(case.name, variant, kernels(&launches), errors)
                }
                Err(e) => judge(case.name, variant, Vec::new(), Some(Err(e))),
            };
            gpu.check()?;
            observe(&check);
            checks.push(check);
        }
    }
    let diagnosis = Diagnosis {
        adapter: describe(&gpu.info),
        version: env!("CARGO_PKG_VERSION").to_string(),
        kernels: by_kernel(&checks),
        checks,
        cached: false,
    };
    if let Some(file) = file {
        match diagnosis.failures() {
            // A cache that cannot be written costs time only.
            0 => drop(serde_json::to_vec(&diagnosis).map(|text| write_atomic(&file, |f| f.write_all(&text)))),
            _ => drop(std::fs::remove_file(file)),
        }
    }
    Ok(diagnosis)
}

/// `errors` is none where the adapter lacks something.
fn judge(name: &str, variant: &Variant, kernels: Vec<String>, errors: Option<Result<Errors>>) -> Check {
    let finite = |e: f64| e.is_finite().then_some(e);
    let (status, value, gradient, note) = match errors {
        None => (Status::Skipped, None, None, variant.lacks.as_ref().map(|l| format!("the adapter lacks {l}"))),
        Some(Err(e)) => (Status::Fail, None, None, Some(format!("{e:#}"))),
        Some(Ok(Errors { value, gradient })) => {
            // An op without gradients leaves no trace of one.
            let compared = !gradient.at.is_empty();
            let (a, b) = (value.relative <= VALUE_BOUND, gradient.relative <= GRADIENT_BOUND);
            let note = match (a, b) {
                (true, true) => None,
                (false, _) => Some(value.at),
                (true, false) => Some(gradient.at),
            };
            let status = if a && b { Status::Pass } else { Status::Fail };
            (status, finite(value.relative), finite(gradient.relative).filter(|_| compared), note)
        }
    };
    Check {
        name: name.to_string(),
        variant: variant.name.to_string(),
        status,
        value_error: value,
        gradient_error: gradient,
        kernels,
        note,
    }
}

/// A failed check blames those of its kernels that pass nowhere else, or all if there are none.
fn by_kernel(checks: &[Check]) -> BTreeMap<String, Verdict> {
    let passing = checks.iter().filter(|c| c.status == Status::Pass);
    let passed: HashSet<&String> = passing.flat_map(|c| &c.kernels).collect();
    let mut all: BTreeMap<String, Verdict> = BTreeMap::new();
    for check in checks {
        let others = check.status == Status::Fail && check.kernels.iter().any(|k| !passed.contains(k));
        for kernel in check.kernels.iter().filter(|k| !(others && passed.contains(k))) {
            let empty = Verdict { status: Status::Skipped, max_relative_error: None, checks: 0 };
            let verdict = all.entry(kernel.clone()).or_insert(empty);
            verdict.status = match (verdict.status, check.status) {
                (Status::Fail, _) | (_, Status::Fail) => Status::Fail,
                (Status::Pass, _) | (_, Status::Pass) => Status::Pass,
                _ => Status::Skipped,
            };
            for error in [check.value_error, check.gradient_error].into_iter().flatten() {
                verdict.max_relative_error = Some(verdict.max_relative_error.unwrap_or(0.0).max(error));
            }
            verdict.checks += 1;
        }
    }
    all
}

/// Adapter, driver, version and the kernels' text decide what is cached.
fn cache_file(gpu: &Gpu) -> Option<PathBuf> {
    let mut key = format!("{}{}{:?}", describe(&gpu.info), env!("CARGO_PKG_VERSION"), gpu.target);
    all_sources().for_each(|name| key.push_str(&source(Kernel::new(name, ""))));
    Some(cache_folder()?.join("doctor").join(format!("{:08x}.json", crc32c::crc32c(key.as_bytes()))))
}

fn read(file: &PathBuf) -> Option<Diagnosis> {
    let found: Diagnosis = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
    Some(Diagnosis { cached: true, ..found })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::DeviceClass;

    /// No kernel escapes: every entry point of every file is launched by a check.
    #[test]
    fn every_kernel_is_in_the_table() {
        let mut covered = Vec::new();
        let classes = [DeviceClass::Software, DeviceClass::Hardware];
        let twins = classes.into_iter().flat_map(|class| {
            let fused = Target::typical(class);
            [Target { fuse: false, ..fused.clone() }, fused]
        });
        let older = Target { direct: true, ..Target::typical(DeviceClass::Software) };
        for target in twins.chain([older]) {
            for case in cases::all() {
                let launches = case.launches(&target).unwrap_or_else(|e| panic!("{}: {e:#}", case.name));
                covered.extend(kernels(&launches));
            }
        }
        for file in all_sources() {
            let module = naga::front::wgsl::parse_str(&source(Kernel::new(file, "").rows(16)))
                .unwrap_or_else(|e| panic!("{file}: {e}"));
            for entry in &module.entry_points {
                let name = format!("{file}::{}", entry.name);
                assert!(covered.contains(&name), "the doctor's table has no check of {name}");
            }
        }
    }

    #[test]
    fn errors_are_judged() {
        let variant = Variant { name: "chosen", target: Target::default(), lacks: None };
        let check = |value: f64, gradient: f64| {
            let error = |relative| Error { relative, at: "here".into() };
            let errors = Errors { value: error(value), gradient: error(gradient) };
            judge("op", &variant, vec!["file::entry".into()], Some(Ok(errors)))
        };
        let (good, bad) = (check(1e-6, 1e-6), check(1e-6, f64::INFINITY));
        assert_eq!((good.status, bad.status), (Status::Pass, Status::Fail));
        assert_eq!((bad.gradient_error, bad.note.as_deref()), (None, Some("here")));
        let verdict = &by_kernel(&[good, bad])["file::entry"];
        assert_eq!((verdict.status, verdict.checks, verdict.max_relative_error), (Status::Fail, 2, Some(1e-6)));
        let mut shared = check(1.0, 1.0);
        shared.kernels.push("file::other".into());
        let blamed = by_kernel(&[check(0.0, 0.0), shared]);
        assert_eq!((blamed["file::entry"].status, blamed["file::other"].status), (Status::Pass, Status::Fail));
        let mut error = Error::default();
        error.widen(f64::NAN, 1.0, 1.0, || "x".into());
        assert_eq!(error.relative, f64::INFINITY);
    }
}
