//! `csmoe stats-bands`: what a store's bands are normalised with.

use crate::data::Sensor;
use crate::data::store::Store;
use anyhow::Result;
use std::path::PathBuf;

/// Measure mean and standard deviation of every band over a patch store, where `pretrain` picks them up
#[derive(Debug, clap::Args)]
pub struct StatsBandsArgs {
    /// Folder that `csmoe patches` wrote
    #[arg(value_name = "STORE")]
    store: PathBuf,
    /// Print a JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
///
/// # Errors
/// A store that is unfinished or damaged.
pub fn run(args: StatsBandsArgs) -> Result<()> {
    let store = Store::open(&args.store)?;
    let bar = super::encoder::bar(crate::data::PairSource::len(&store))?;
    let measured = store.measure(|| bar.inc(1))?;
    bar.finish_and_clear();
    store.save_statistics(&measured)?;
    if args.json {
        println!("{}", serde_json::to_string(&measured)?);
        return Ok(());
    }
    for sensor in &store.index().plan.sensors {
        let unit = if *sensor == Sensor::S1 { "dB" } else { "digital numbers" };
        let stats = measured.of(*sensor);
        for ((band, mean), std) in stats.bands.iter().zip(&stats.mean).zip(&stats.std) {
            println!("{band:4} {mean:12.5} +- {std:12.5} {unit}");
        }
    }
    Ok(())
}
