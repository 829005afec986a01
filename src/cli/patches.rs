//! `csmoe patches`: an archive cut into a patch store.

use crate::data::archive::{ArchiveOptions, BoaOffset, open};
use crate::data::store::write::{Job, Watch};
use crate::data::table::Table;
use crate::data::{Error, OnError};
use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// Cut an archive into a patch store: whole pairs in one unit, ready for training
#[derive(Debug, clap::Args)]
pub struct PatchesArgs {
    /// Major TOM (Parquet or unpacked), BigEarthNet v2 (folders or LMDB), GEO-Bench, GeoTIFFs, or synth:PAIRS[:SEED]
    #[arg(long, value_name = "DIR|synth:PAIRS[:SEED]")]
    archive: String,
    /// Only the cells of this table (`csmoe sample` writes it): its column `grid_cell`
    #[arg(long, value_name = "FILE")]
    sample: Option<PathBuf>,
    /// Folder of the store; run again with the same arguments, an interrupted cut goes on
    #[arg(long, value_name = "STORE")]
    out: PathBuf,
    /// Side of a patch in pixels [default: 120, or the scene if smaller]
    #[arg(long, value_name = "N")]
    tile_px: Option<usize>,
    /// The +1000 of Sentinel-2 products since baseline N0400: as the product's name says, keep, or subtract
    #[arg(long, value_name = "auto|keep|subtract", default_value = "auto")]
    boa_offset: BoaOffset,
    /// Only this share of the shards, for several machines: 1/4, 2/4, ...
    #[arg(long, value_name = "I/N", default_value = "1/1", value_parser = share)]
    shard: (usize, usize),
    /// What to do about a scene that cannot be read
    #[arg(long, value_parser = ["stop", "skip"], default_value = "stop")]
    on_error: String,
    /// Print a JSON object instead of a sentence
    #[arg(long)]
    json: bool,
}

/// Reads `I/N`, I from 1, as (I - 1, N).
fn share(text: &str) -> Result<(usize, usize), String> {
    let parts = text.split_once('/').and_then(|(i, n)| Some((i.parse::<usize>().ok()?, n.parse::<usize>().ok()?)));
    match parts {
        Some((i, n)) if (1..=n).contains(&i) => Ok((i - 1, n)),
        _ => Err("expected I/N with I from 1 to N, for example 1/4".into()),
    }
}

/// The cells of a table.
fn cells(path: &Path) -> Result<BTreeSet<String>> {
    let table = Table::open(path)?;
    let column = table.require("grid_cell").context("not a sample of cells")?;
    let mut cells = BTreeSet::new();
    table.read(&[column], &mut |batch| {
        cells.extend((0..batch.rows).map(|row| batch.columns[0].text(row)));
        Ok(())
    })?;
    if cells.is_empty() {
        bail!("{}: no rows: sample some cells first", path.display());
    }
    Ok(cells)
}

struct Progress {
    bar: ProgressBar,
    kept: AtomicUsize,
    dropped: AtomicUsize,
    skipped: AtomicUsize,
}

impl Watch for Progress {
    fn scene(&self, kept: usize, dropped: usize) {
        let kept = self.kept.fetch_add(kept, Ordering::Relaxed) + kept;
        let dropped = self.dropped.fetch_add(dropped, Ordering::Relaxed) + dropped;
        self.bar.set_message(format!("{kept} patches, {dropped} dropped"));
        self.bar.inc(1);
    }
    fn skipped(&self, why: &Error) {
        self.skipped.fetch_add(1, Ordering::Relaxed);
        self.bar.suspend(|| eprintln!("csmoe: skipped: {why}"));
    }
}

/// Runs the subcommand.
///
/// # Errors
/// An archive, a sample or an output that cannot be used: names the file and row.
pub fn run(args: PatchesArgs) -> Result<()> {
    let only = args.sample.as_deref().map(cells).transpose()?;
    let on_error = if args.on_error == "skip" { OnError::Skip } else { OnError::Stop };
    let options = ArchiveOptions { tile_px: args.tile_px, boa_offset: args.boa_offset, only, on_error };
    let reader = open(&args.archive, &options)?;
    let skipped = &reader.about().skipped;
    skipped.iter().for_each(|why| eprintln!("csmoe: skipped: {why}"));
    eprintln!("csmoe: {}", reader.about());
    let style = ProgressStyle::with_template("{bar:24} {pos}/{len} scenes  {msg}  {eta} left")?;
    let bar = ProgressBar::new(reader.len() as u64).with_style(style);
    let watch = Progress { bar, kept: 0.into(), dropped: 0.into(), skipped: skipped.len().into() };
    let job = Job { reader: &*reader, options: &options, out: &args.out, share: args.shard };
    let began = Instant::now();
    let outcome = job.run(&watch)?;
    let seconds = began.elapsed().as_secs_f64();
    watch.bar.finish_and_clear();
    let (kept, skipped) = (watch.kept.into_inner(), watch.skipped.into_inner());
    let speed = kept as f64 / seconds;
    if args.json {
        let report = serde_json::json!({
            "out": args.out, "complete": outcome.missing == 0, "pairs": outcome.pairs, "dropped": outcome.dropped,
            "left_out": outcome.left_out, "notes": outcome.notes, "shards": outcome, "kept_now": kept, "skipped": skipped,
            "seconds": seconds, "pairs_per_s": speed,
        });
        println!("{report}");
        return Ok(());
    }
    let list = |counts: &std::collections::BTreeMap<String, usize>| {
        counts.iter().map(|(reason, n)| format!("; {n} {reason}")).collect::<String>()
    };
    match outcome.missing {
        0 => println!(
            "{} patches in {} ({speed:.0}/s); dropped{}{}{}",
            outcome.pairs,
            args.out.display(),
            if outcome.dropped.is_empty() { " none".into() } else { list(&outcome.dropped) },
            list(&outcome.left_out),
            outcome.notes.iter().map(|(what, n)| format!("; {n} scenes: {what}")).collect::<String>()
        ),
        missing => println!(
            "{} shards written, {} stood already; {missing} of other shares are missing before {} can be used",
            outcome.written,
            outcome.found,
            args.out.display()
        ),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_count_from_one() {
        assert_eq!((share("1/4"), share("4/4")), (Ok((0, 4)), Ok((3, 4))));
        assert!(["0/4", "5/4", "1", "a/b", "1/0", ""].iter().all(|s| share(s).is_err()));
    }
}
