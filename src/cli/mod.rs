//! The commands: arguments in, a call into the library, a report out. No logic lives here.

#[cfg(feature = "gdal")]
pub mod annotate;
pub mod common;
pub mod devices;
pub mod doctor;
pub mod grid;
pub mod import;
pub mod pretrain;
pub mod sample;
pub mod stats;
pub mod summary;
pub mod synth;

use clap::{Parser, Subcommand};

/// Pretrain, run and evaluate the remote-sensing foundation model CSMoE on any GPU
#[derive(Parser)]
#[command(name = "csmoe", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Devices(devices::DevicesArgs),
    Doctor(doctor::DoctorArgs),
    Import(import::ImportArgs),
    Pretrain(pretrain::PretrainArgs),
    Summary(summary::SummaryArgs),
    Synth(synth::SynthArgs),
    Grid(grid::GridArgs),
    #[cfg(feature = "gdal")]
    Annotate(annotate::AnnotateArgs),
    Sample(sample::SampleArgs),
    Stats(stats::StatsArgs),
}

/// Runs the program; gives its exit code.
pub fn main() -> i32 {
    let done = match Cli::parse().command {
        Command::Devices(args) => devices::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Import(args) => import::run(args),
        Command::Pretrain(args) => pretrain::run(args),
        Command::Summary(args) => summary::run(args),
        Command::Synth(args) => synth::run(args),
        Command::Grid(args) => grid::run(args),
        #[cfg(feature = "gdal")]
        Command::Annotate(args) => annotate::run(args),
        Command::Sample(args) => sample::run(args),
        Command::Stats(args) => stats::run(args),
    };
    match done {
        Ok(()) => 0,
        Err(e) => {
            eprintln!("csmoe: {e:#}");
            e.chain().find_map(|c| c.downcast_ref::<crate::gpu::GpuError>()).map_or(1, crate::gpu::GpuError::exit_code)
        }
    }
}
