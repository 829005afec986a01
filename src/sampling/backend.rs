//! Who judges the candidates: the CPU, which carries the fitness over from parent to child, or the GPU, which measures
//! all pairs anew. `auto` takes the faster: the CPU where there is no GPU or only a software one; else both run a few
//! generations of the very strata, and the shorter time wins.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::genetic::Params;
use super::sample::{Judge, Wanted, sample};
use super::strata::{Cells, Stratum};
use crate::gpu::{AdapterChoice, Gpu, describe};

/// `--backend`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    Cpu,
    Gpu,
    #[default]
    Auto,
}

const NAMES: [(&str, Backend); 3] = [("cpu", Backend::Cpu), ("gpu", Backend::Gpu), ("auto", Backend::Auto)];

impl FromStr for Backend {
    type Err = String;

    fn from_str(s: &str) -> Result<Backend, String> {
        let found = NAMES.iter().find(|n| n.0 == s).map(|n| n.1);
        found.ok_or_else(|| format!("no backend is called `{s}`: expected cpu, gpu or auto"))
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(NAMES.iter().find(|n| n.1 == *self).expect("every backend has a name").0)
    }
}

/// Generations of a trial; a run of less than ten trials is not worth one.
const TRIAL: usize = 25;

/// Opens the GPU if it is to judge, and says what there is to say about it.
///
/// # Errors
/// With [`Backend::Gpu`] no adapter, or none of that name; under `auto` a failing device.
pub fn open(
    backend: Backend,
    adapter: &AdapterChoice,
    cells: &Cells,
    strata: &[Stratum],
    wanted: Wanted,
    params: &Params,
) -> Result<(Option<Gpu>, Option<String>)> {
    match backend {
        Backend::Cpu => return Ok((None, None)),
        Backend::Gpu => {
            let gpu = Gpu::open(adapter)?;
            let name = describe(&gpu.info);
            return Ok((Some(gpu), Some(name)));
        }
        Backend::Auto if params.iterations < 10 * TRIAL || !adapter.is_hardware() => return Ok((None, None)),
        Backend::Auto => {}
    }
    let gpu = Gpu::open(adapter)?;
    let times = trial(&gpu, cells, strata, wanted, params)?;
    let [cpu, other] = times.map(|t| t.as_secs_f64() * 1e3);
    let why = format!("{TRIAL} generations: CPU {cpu:.0} ms, {} {other:.0} ms", describe(&gpu.info));
    Ok((Some(gpu).filter(|_| other < cpu), Some(why)))
}

/// The time of a few generations of all strata on the CPU and on the GPU.
///
/// # Errors
/// Those of the device.
pub fn trial(gpu: &Gpu, cells: &Cells, strata: &[Stratum], wanted: Wanted, params: &Params) -> Result<[Duration; 2]> {
    let run = |judge: Judge, iterations: usize| -> Result<Duration> {
        let start = Instant::now();
        sample(cells, strata, wanted, &Params { iterations, ..*params }, 0, judge, None, &|_| ())?;
        Ok(start.elapsed())
    };
    // The first launch compiles the kernel; the difference leaves out what a run does but once.
    let pure = |judge: Judge| -> Result<Duration> {
        let once = run(judge, 1)?.min(run(judge, 1)?);
        Ok(run(judge, 1 + TRIAL)?.saturating_sub(once))
    };
    Ok([pure(Judge::Cpu)?, pure(Judge::Gpu(gpu)).context("--backend auto tried the GPU")?])
}
