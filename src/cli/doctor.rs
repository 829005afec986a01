//! `csmoe doctor`: is this adapter's arithmetic right?

use super::common::AdapterArgs;
use crate::eval::doctor::{Check, Diagnosis, Status, diagnose};
use anyhow::{Result, bail};

/// Check every kernel against its reference on this adapter
#[derive(Debug, clap::Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    pub adapter: AdapterArgs,
    /// Run again what an earlier run on this adapter, driver and version found
    #[arg(long)]
    pub fresh: bool,
    /// Print a JSON object
    #[arg(long)]
    pub json: bool,
}

/// Runs the subcommand.
///
/// # Errors
/// No adapter, a lost device, a kernel whose result is wrong.
pub fn run(args: DoctorArgs) -> Result<()> {
    let gpu = args.adapter.open_gpu()?;
    let live = !args.json;
    let mut printed = false;
    let found = diagnose(&gpu, args.fresh, |check| {
        if live {
            header(&mut printed);
            print(check);
        }
    })?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&found)?);
    } else {
        if found.cached {
            header(&mut printed);
            found.checks.iter().for_each(print);
        }
        summarise(&found);
    }
    match found.failures() {
        0 => Ok(()),
        n => bail!("{n} of {} checks failed on {}: do not train on it", found.checks.len(), found.adapter),
    }
}

fn header(printed: &mut bool) {
    if !std::mem::replace(printed, true) {
        println!("{:<36} {:<15} {:>9} {:>9}", "op", "variant", "value", "gradient");
    }
}

fn print(check: &Check) {
    let error = |e: Option<f64>| e.map_or("-".to_string(), |e| format!("{e:.1e}"));
    let verdict = match check.status {
        Status::Pass => "pass",
        Status::Fail => "FAIL",
        Status::Skipped => "skipped",
    };
    let (value, gradient) = (error(check.value_error), error(check.gradient_error));
    let note = check.note.as_ref().map_or(String::new(), |n| format!(": {n}"));
    println!("{:<36} {:<15} {value:>9} {gradient:>9}  {verdict}{note}", check.name, check.variant);
}

fn summarise(found: &Diagnosis) {
    println!("\n{:<36} {:>9} {:>7}", "kernel", "error", "checks");
    for (kernel, verdict) in &found.kernels {
        let error = verdict.max_relative_error.map_or("-".to_string(), |e| format!("{e:.1e}"));
        let status = format!("{:?}", verdict.status).to_lowercase();
        println!("{kernel:<36} {error:>9} {:>7}  {status}", verdict.checks);
    }
    let cached = if found.cached { " (found by an earlier run; --fresh looks again)" } else { "" };
    println!(
        "\n{}: {} checks of {} kernels, {} failed{cached}",
        found.adapter,
        found.checks.len(),
        found.kernels.len(),
        found.failures()
    );
}
