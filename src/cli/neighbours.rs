//! `csmoe neighbours`: the tiles nearest to some others, as a picture.

use super::encoder::{EncoderArgs, bar};
use crate::eval::{Embedder, Neighbours, neighbour_sheet};
use anyhow::Result;
use std::path::PathBuf;

/// Draw some tiles and the tiles nearest to them in the embedding
#[derive(Debug, clap::Args)]
pub struct NeighboursArgs {
    #[command(flatten)]
    pub encoder: EncoderArgs,
    /// A GeoTIFF, a folder of them, or synth:PAIRS[:SEED]
    #[arg(long, value_name = "FILE|DIR|synth:PAIRS[:SEED]")]
    pub data: String,
    /// Neighbours of a query
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=32))]
    pub k: u32,
    /// Queries drawn, spread evenly over the tiles
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub queries: u32,
    /// Picture to write
    #[arg(long, value_name = "PNG")]
    pub out: PathBuf,
    /// Print a JSON object instead of a sentence
    #[arg(long)]
    pub json: bool,
}

/// Queries whose neighbours' labels are counted.
const COUNTED: usize = 1000;

/// Runs the subcommand.
///
/// # Errors
/// A run, tiles or an output that cannot be used: names it.
pub fn run(args: NeighboursArgs) -> Result<()> {
    let source = args.encoder.open_tiles(&args.data)?;
    let gpu = args.encoder.adapter.open_gpu()?;
    let embedder = Embedder::open(&gpu, &args.encoder.checkpoint, args.encoder.encoder(&*source))?;
    let bar = bar(source.len())?;
    let embeddings = embedder.embed_all(&gpu, &*source, |n| bar.inc(n as u64))?;
    bar.finish_and_clear();
    let k = args.k as usize;
    let drawn = Neighbours::find(&embeddings, args.queries as usize, k);
    neighbour_sheet(&drawn, &embeddings, &*source)?.save(&args.out)?;
    let same = Neighbours::find(&embeddings, COUNTED, k).agreement(&embeddings.labels);
    if args.json {
        let named: Vec<_> = (drawn.queries.iter().zip(&drawn.nearest))
            .map(|(q, near)| {
                let near: Vec<&str> = near.iter().map(|i| embeddings.ids[*i].as_str()).collect();
                serde_json::json!({"query": embeddings.ids[*q], "nearest": near})
            })
            .collect();
        let report = serde_json::json!({
            "out": args.out, "tiles": embeddings.ids.len(), "k": k, "same_class": same, "drawn": named,
            "adapter": gpu.info.name,
        });
        println!("{report}");
    } else {
        let same =
            same.map_or(String::new(), |s| format!("; {:.1}% of all neighbours are of their query's class", 100.0 * s));
        println!("{} queries and their {k} nearest in {}{same}", drawn.queries.len(), args.out.display());
    }
    Ok(())
}
