//! `csmoe inspect`: what is this?

use crate::data::archive::{ArchiveOptions, BoaOffset};
use crate::data::inspect::{inspect, verify};
use anyhow::Result;
use std::path::PathBuf;

/// Say what an archive or a patch store holds, in numbers and as a picture
#[derive(Debug, clap::Args)]
pub struct InspectArgs {
    /// A patch store or any archive that `csmoe patches` reads
    #[arg(value_name = "PATH")]
    path: String,
    /// Side of a patch in pixels [default: 120, or the scene if smaller]
    #[arg(long, value_name = "N")]
    tile_px: Option<usize>,
    /// Scenes looked at, evenly over the archive (of a store: scenes whose pixels are looked at)
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    scenes: u32,
    /// Sentinel-2's offset, as for `csmoe patches`
    #[arg(long, value_name = "auto|keep|subtract", default_value = "auto")]
    boa_offset: BoaOffset,
    /// Contact sheet to write: true colour, radar in false colour, dropped patches crossed out
    #[arg(long, value_name = "PNG")]
    out: Option<PathBuf>,
    /// Check every patch of a store against its checksum
    #[arg(long)]
    verify: bool,
    /// Write the pairs of a store as GeoTIFFs into this folder
    #[arg(long, value_name = "DIR")]
    export: Option<PathBuf>,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

#[cfg(feature = "gdal")]
fn export(path: &str, folder: &std::path::Path) -> Result<()> {
    let source = crate::data::open(path, None)?;
    let bar = super::encoder::bar(source.len())?;
    crate::data::geotiff::export::export(&*source, folder, |_| bar.inc(1))?;
    bar.finish_and_clear();
    Ok(())
}

#[cfg(not(feature = "gdal"))]
fn export(path: &str, _: &std::path::Path) -> Result<()> {
    anyhow::bail!("{path}: this build writes no GeoTIFFs; build with --features gdal")
}

/// Runs the subcommand.
///
/// # Errors
/// What cannot be read, by file and place.
pub fn run(args: InspectArgs) -> Result<()> {
    let options = ArchiveOptions { tile_px: args.tile_px, boa_offset: args.boa_offset, ..Default::default() };
    if args.verify {
        let patches = verify(&args.path)?;
        eprintln!("csmoe: {patches} patches have their checksums");
    }
    if let Some(folder) = &args.export {
        export(&args.path, folder)?;
    }
    let (found, sheet) = inspect(&args.path, &options, args.scenes as usize)?;
    if let Some(out) = &args.out {
        sheet.save(out)?;
    }
    match args.json {
        true => println!("{}", serde_json::to_string(&found)?),
        false => print!("{found}"),
    }
    Ok(())
}
