//! What the commands share that embed tiles: the run, the sensor, the tiles, a progress bar.

use super::common::AdapterArgs;
use crate::data::{ImageSource, OpenOptions, Sensor, open_images};
use crate::eval::{Encoder, Strategy};
use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use std::path::PathBuf;

/// `--checkpoint`, `--sensor`, `--strategy`, `--tile-px`, `--batch`, `--adapter`.
#[derive(Clone, Debug, clap::Args)]
pub struct EncoderArgs {
    /// Folder of a run: config.json and model.safetensors
    #[arg(long, value_name = "RUN")]
    pub checkpoint: PathBuf,
    /// Whose tiles these are: s1 or s2
    #[arg(long, value_name = "s1|s2", default_value = "s2")]
    pub sensor: Sensor,
    /// The vector of a tile: cls, mean_patches, mean_all, norm_cls or norm_proj_cls
    #[arg(long, default_value_t)]
    pub strategy: Strategy,
    /// Side of the tiles cut from the images, in pixels [default: 120, or the image if smaller]
    #[arg(long, value_name = "N")]
    pub tile_px: Option<usize>,
    /// Tiles embedded at once
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub batch: u32,
    #[command(flatten)]
    pub adapter: AdapterArgs,
}

impl EncoderArgs {
    /// Opens the tiles and says on stderr what was found.
    ///
    /// # Errors
    /// Whatever the data room reports.
    pub fn open_tiles(&self, spec: &str) -> Result<Box<dyn ImageSource>> {
        let options = OpenOptions { tile_px: self.tile_px, ..OpenOptions::default() };
        let source = open_images(spec, self.sensor, &options)?;
        eprintln!("csmoe: {}", source.describe());
        Ok(source)
    }

    /// The encoder for these tiles.
    pub fn encoder(&self, source: &dyn ImageSource) -> Encoder {
        // A larger batch than there are tiles would only compute padding.
        let batch = (self.batch as usize).min(source.len());
        Encoder { sensor: self.sensor, strategy: self.strategy, batch, tile_px: source.tile_px() }
    }
}

/// A bar on stderr; invisible where stderr is no terminal.
///
/// # Errors
/// None in practice: the template is fixed.
pub fn bar(tiles: usize) -> Result<ProgressBar> {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} tiles  {per_sec}  {eta} left")
        .context("the progress bar's template")?;
    Ok(ProgressBar::new(tiles as u64).with_style(style))
}
