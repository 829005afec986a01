//! The commands: arguments in, a call into the library, a report out. No logic lives here.

pub mod common;
pub mod embed;
pub mod encoder;
pub mod neighbours;
pub mod pretrain;
pub mod readout;
pub mod reconstruct;
pub mod synth;
pub mod verify_step;

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
    Embed(embed::EmbedArgs),
    Neighbours(neighbours::NeighboursArgs),
    Pretrain(pretrain::PretrainArgs),
    Readout(readout::ReadoutArgs),
    Reconstruct(reconstruct::ReconstructArgs),
    Synth(synth::SynthArgs),
    VerifyStep(verify_step::VerifyStepArgs),
}

/// Runs the program; gives its exit code.
pub fn main() -> i32 {
    let done = match Cli::parse().command {
        Command::Embed(args) => embed::run(args),
        Command::Neighbours(args) => neighbours::run(args),
        Command::Pretrain(args) => pretrain::run(args),
        Command::Readout(args) => readout::run(args),
        Command::Reconstruct(args) => reconstruct::run(args),
        Command::Synth(args) => synth::run(args),
        Command::VerifyStep(args) => verify_step::run(args),
    };
    match done {
        Ok(()) => 0,
        Err(e) => {
            eprintln!("csmoe: {e:#}");
            e.chain().find_map(|c| c.downcast_ref::<crate::gpu::GpuError>()).map_or(1, crate::gpu::GpuError::exit_code)
        }
    }
}
