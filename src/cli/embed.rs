//! `csmoe embed`: a vector for every tile.

use super::encoder::{EncoderArgs, bar};
use crate::data::export;
use crate::eval::{Embedder, Embeddings};
use anyhow::{Result, bail};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Embed tiles of one sensor with a trained encoder
#[derive(Debug, clap::Args)]
pub struct EmbedArgs {
    #[command(flatten)]
    pub encoder: EncoderArgs,
    /// A patch store, a GeoTIFF, a folder of them, or synth:PAIRS[:SEED]
    #[arg(long, value_name = "STORE|FILE|DIR|synth:PAIRS[:SEED]")]
    pub input: String,
    /// File to write: .npy holds the vectors in the order of the tiles, .parquet ids and outlines too
    #[arg(long, value_name = "E.npy|E.parquet")]
    pub out: PathBuf,
    /// Print a JSON object instead of a sentence
    #[arg(long)]
    pub json: bool,
}

/// Runs the subcommand.
///
/// # Errors
/// A run, an input or an output that cannot be used: names it.
pub fn run(args: EmbedArgs) -> Result<()> {
    let write = writer(&args.out)?;
    let source = args.encoder.open_tiles(&args.input)?;
    let gpu = args.encoder.adapter.open_gpu()?;
    let embedder = Embedder::open(&gpu, &args.encoder.checkpoint, args.encoder.encoder(&*source))?;
    let bar = bar(source.len())?;
    let began = Instant::now();
    let embeddings = embedder.embed_all(&gpu, &*source, |n| bar.inc(n as u64))?;
    let seconds = began.elapsed().as_secs_f64();
    bar.finish_and_clear();
    write(&args.out, &embeddings)?;
    let (n, dim) = (embeddings.ids.len(), embeddings.dim);
    if args.json {
        let report = serde_json::json!({
            "out": args.out, "tiles": n, "dim": dim, "sensor": args.encoder.sensor,
            "strategy": args.encoder.strategy.to_string(), "batch": embedder.encoder().batch,
            "tiles_per_s": n as f64 / seconds, "adapter": gpu.info.name, "source": source.describe(),
        });
        println!("{report}");
    } else {
        println!("{n} vectors of {dim} in {} ({:.1} tiles/s)", args.out.display(), n as f64 / seconds);
    }
    Ok(())
}

type Writer = fn(&Path, &Embeddings) -> Result<()>;

/// Chosen before any work, so that a wrong name costs nothing.
fn writer(out: &Path) -> Result<Writer> {
    match out.extension().and_then(|e| e.to_str()) {
        Some("npy") => Ok(|path, e| Ok(export::npy(path, &e.values, e.dim)?)),
        #[cfg(feature = "parquet")]
        Some("parquet") => {
            Ok(|path, e| Ok(crate::data::parquet::embeddings(path, &e.ids, &e.values, e.dim, &e.places)?))
        }
        #[cfg(not(feature = "parquet"))]
        Some("parquet") => {
            bail!("{}: this build writes no Parquet; build with --features parquet, or name a .npy file", out.display())
        }
        _ => bail!("{}: a name that ends in .npy or .parquet is expected; rename --out", out.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_says_the_format() {
        assert!(writer(Path::new("a/e.npy")).is_ok());
        let error = writer(Path::new("e.csv")).err().unwrap().to_string();
        assert!(error.contains("e.csv") && error.contains(".npy"), "{error}");
    }
}
