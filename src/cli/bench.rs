//! `csmoe bench`: how fast the kernels are beside this adapter's own ceilings.

use super::common::AdapterArgs;
use crate::eval::{bench, bench_data};
use anyhow::Result;

/// Time every kernel beside this adapter's own best matrix product and copy; or the way of the data
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct BenchArgs {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    adapter: AdapterArgs,
    /// Only cases whose name contains this
    #[arg(default_value = "")]
    filter: String,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    Data(DataArgs),
}

/// Time every stage from files to the GPU, alone and together, and say which limits
#[derive(Debug, clap::Args)]
struct DataArgs {
    /// Patch store, or an archive of pairs
    #[arg(long, value_name = "STORE|DIR|synth:PAIRS[:SEED]")]
    data: String,
    /// Pairs in a batch
    #[arg(long, value_name = "N", default_value_t = 32)]
    batch: usize,
    /// Threads that read
    #[arg(long, value_name = "N", default_value_t = 2)]
    workers: usize,
    /// Seconds for each stage
    #[arg(long, value_name = "S", default_value_t = 3.0)]
    seconds: f64,
    /// Leave the GPU out
    #[arg(long)]
    no_gpu: bool,
    #[command(flatten)]
    adapter: AdapterArgs,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

fn data(args: DataArgs) -> Result<()> {
    let gpu = if args.no_gpu { None } else { Some(args.adapter.open_gpu()?) };
    let each = std::time::Duration::try_from_secs_f64(args.seconds.max(0.01))?;
    let options = bench_data::Options { batch: args.batch.max(1), workers: args.workers.max(1), each };
    if !args.json {
        println!(
            "{:<22} {:>7} {:>12} {:>16} {:>16} {:>8}",
            "stage", "threads", "pairs/s", "CPU us a pair", "on 16 cores", "GB/s"
        );
    }
    let report = bench_data::run(&args.data, gpu.as_ref(), &options, |s| {
        if !args.json {
            println!(
                "{:<22} {:>7} {:>12.0} {:>16.1} {:>16.0} {:>8.2}",
                s.name, s.threads, s.pairs_per_s, s.cpu_us_per_pair, s.pairs_per_s_on_16_cores, s.gb_per_s
            );
        }
    })?;
    match args.json {
        true => println!("{}", serde_json::to_string(&report)?),
        false => {
            if let Some(o) = &report.opened {
                let memory = o.memory_mb.map(|mb| format!("; {mb:.0} MB of memory")).unwrap_or_default();
                let (open, first) = (o.open_ms, o.first_batch_ms);
                println!("{} pairs opened in {open:.1} ms, the first batch after {first:.0} ms{memory}", o.pairs);
            }
            println!("the limit is: {}", report.limit);
        }
    }
    Ok(())
}

/// Runs the subcommand.
///
/// # Errors
/// No adapter, no such case, out of memory.
pub fn run(args: BenchArgs) -> Result<()> {
    if let Some(What::Data(args)) = args.what {
        return data(args);
    }
    let gpu = args.adapter.open_gpu()?;
    let mut headed = args.json;
    let report = bench::run(&gpu, &args.filter, |r| {
        if !std::mem::replace(&mut headed, true) {
            println!(
                "{:<36} {:<30} {:>9} {:>9} {:>11} {:>8} {:>9} {:>7}",
                "case", "kernel", "ms", "GFLOP/s", "per CPU-s", "GB/s", "of matmul", "of copy"
            );
        }
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
        let (product, copy) = (report.matmul_peak, report.copy_peak);
        println!(
            "at best a product of {product:.1} GFLOP/s and a copy of {copy:.2} GB/s{}",
            if gpu.is_software() { ", per CPU-second" } else { "" }
        );
    }
    Ok(())
}
