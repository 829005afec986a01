//! `csmoe bench`: how fast the kernels are beside this adapter's own ceilings.

use super::common::AdapterArgs;
use crate::eval::bench;
use anyhow::Result;

/// Time every kernel beside this adapter's own best matrix product and copy
#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    #[command(flatten)]
    adapter: AdapterArgs,
    /// Only cases whose name contains this
    #[arg(default_value = "")]
    filter: String,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
///
/// # Errors
/// No adapter, no such case, out of memory.
pub fn run(args: BenchArgs) -> Result<()> {
    let gpu = args.adapter.open_gpu()?;
    if !args.json {
        println!(
            "{:<36} {:<30} {:>9} {:>9} {:>11} {:>8} {:>9} {:>7}",
            "case", "kernel", "ms", "GFLOP/s", "per CPU-s", "GB/s", "of matmul", "of copy"
        );
    }
    let report = bench::run(&gpu, &args.filter, |r| {
        if !args.json {
            println!(
                "{:<36} {:<30} {:>9.3} {:>9.1} {:>11.1} {:>8.2} {:>8.0}% {:>6.0}%",
                r.case, r.kernel, r.ms, r.gflop_per_s, r.gflop_per_cpu_s, r.gb_per_s, r.of_matmul, r.of_copy
            );
        }
    })?;
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        println!("{} with {} lanes a workgroup", report.adapter, report.lanes);
    }
    Ok(())
}
