//! The commands: arguments in, a call into the library, a report out. No logic lives here.

pub mod common;
pub mod devices;
pub mod doctor;
pub mod import;
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
    Summary(summary::SummaryArgs),
    Synth(synth::SynthArgs),
}

/// Runs the program; gives its exit code.
pub fn main() -> i32 {
    let done = match Cli::parse().command {
        Command::Devices(args) => devices::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Import(args) => import::run(args),
        Command::Summary(args) => summary::run(args),
        Command::Synth(args) => synth::run(args),
    };
    match done {
        Ok(()) => 0,
        Err(e) => {
            eprintln!("csmoe: {e:#}");
            e.chain().find_map(|c| c.downcast_ref::<crate::gpu::GpuError>()).map_or(1, crate::gpu::GpuError::exit_code)
        }
    }
}
