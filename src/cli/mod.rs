//! The commands: arguments in, a call into the library, a report out. No logic lives here.

#[cfg(feature = "gdal")]
pub mod annotate;
pub mod bench;
pub mod common;
pub mod devices;
pub mod doctor;
pub mod embed;
pub mod encoder;
pub mod grid;
pub mod import;
pub mod inspect;
pub mod neighbours;
pub mod patches;
pub mod pretrain;
pub mod profile;
pub mod readout;
pub mod reconstruct;
pub mod sample;
pub mod stats;
pub mod stats_bands;
pub mod summary;
pub mod synth;
pub mod verify_step;
pub mod watch;

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
    #[cfg(feature = "gdal")]
    Annotate(annotate::AnnotateArgs),
    Bench(bench::BenchArgs),
    Devices(devices::DevicesArgs),
    Doctor(doctor::DoctorArgs),
    Embed(embed::EmbedArgs),
    Grid(grid::GridArgs),
    Import(import::ImportArgs),
    Inspect(inspect::InspectArgs),
    Neighbours(neighbours::NeighboursArgs),
    Patches(patches::PatchesArgs),
    Pretrain(pretrain::PretrainArgs),
    Profile(profile::ProfileArgs),
    Readout(readout::ReadoutArgs),
    Reconstruct(reconstruct::ReconstructArgs),
    Sample(sample::SampleArgs),
    Stats(stats::StatsArgs),
    StatsBands(stats_bands::StatsBandsArgs),
    Summary(summary::SummaryArgs),
    Synth(synth::SynthArgs),
    VerifyStep(verify_step::VerifyStepArgs),
}

/// Runs the program; gives its exit code.
pub fn main() -> i32 {
    let done = match Cli::parse().command {
        #[cfg(feature = "gdal")]
        Command::Annotate(args) => annotate::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Devices(args) => devices::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Embed(args) => embed::run(args),
        Command::Grid(args) => grid::run(args),
        Command::Import(args) => import::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Neighbours(args) => neighbours::run(args),
        Command::Patches(args) => patches::run(args),
        Command::Pretrain(args) => pretrain::run(args),
        Command::Profile(args) => profile::run(args),
        Command::Readout(args) => readout::run(args),
        Command::Reconstruct(args) => reconstruct::run(args),
        Command::Sample(args) => sample::run(args),
        Command::Stats(args) => stats::run(args),
        Command::StatsBands(args) => stats_bands::run(args),
        Command::Summary(args) => summary::run(args),
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
