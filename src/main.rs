use clap::Parser;
use csmoe::cli;

#[derive(Parser)]
#[command(version)]
enum Command {
    Grid(cli::grid::GridArgs),
    #[cfg(feature = "gdal")]
    Annotate(cli::annotate::AnnotateArgs),
    Sample(cli::sample::SampleArgs),
    Stats(cli::stats::StatsArgs),
}

fn main() -> std::process::ExitCode {
    let result = match Command::parse() {
        Command::Grid(args) => cli::grid::run(args),
        #[cfg(feature = "gdal")]
        Command::Annotate(args) => cli::annotate::run(args),
        Command::Sample(args) => cli::sample::run(args),
        Command::Stats(args) => cli::stats::run(args),
    };
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("csmoe: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
