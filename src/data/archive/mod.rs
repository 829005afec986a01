//! Archives as they lie on disk: scenes of named bands, one file a format, all behind [`Reader`].
//!
//! A reader only decodes. What a patch is, which are dropped and why, is decided once for all formats in [`cut`].

#[cfg(feature = "gdal")]
pub mod big_earth_net;
pub mod cut;
#[cfg(feature = "gdal")]
pub mod decode;
pub mod geo_bench;
mod hdf5_file;
pub mod lmdb;
#[cfg(all(feature = "gdal", feature = "parquet"))]
pub mod major_tom;
pub mod pairs;
#[cfg(feature = "gdal")]
pub mod unpacked;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Error, Geo, OnError, OpenOptions, Result, Sensor};

/// Side of a Major TOM cell in pixels of 10 m.
pub const TILE_PX: usize = 1068;

/// What a reader found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// The format, in the field's words.
    pub format: String,
    /// The folder or the procedure.
    pub name: String,
    /// Which sensors every scene has.
    pub sensors: Vec<Sensor>,
    /// Side of a patch in pixels of the finest band.
    pub tile_px: usize,
    /// Patches that a whole scene gives; 1 where scenes are patches already.
    pub patches_per_scene: usize,
    /// Names of the classes, by label.
    pub classes: Vec<String>,
    /// Patches that the reader itself drops, by reason.
    pub dropped: BTreeMap<String, usize>,
    /// Scenes that are not read, by reason.
    pub left_out: BTreeMap<String, usize>,
    /// What was decided on the way.
    pub notes: Vec<String>,
    /// Errors of the scenes that were skipped on opening.
    #[serde(default)]
    pub skipped: Vec<String>,
}

impl std::fmt::Display for About {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let sensors: Vec<String> = self.sensors.iter().map(Sensor::to_string).collect();
        write!(f, "{}: {}, {}, patches of {} px", self.name, self.format, sensors.join(" and "), self.tile_px)?;
        self.left_out.iter().chain(&self.dropped).try_for_each(|(reason, n)| write!(f, "; {n} {reason}"))?;
        self.notes.iter().try_for_each(|note| write!(f, "; {note}"))
    }
}

/// An archive: scenes by index, from any thread, in any order.
pub trait Reader: Send + Sync {
    /// What was found.
    fn about(&self) -> &About;
    /// Number of scenes, never 0.
    fn len(&self) -> usize;
    /// A scene's name, unique in the archive.
    fn id(&self, index: usize) -> String;
    /// Scenes with one group were cut from one larger image: neighbours that a split may keep together.
    fn group(&self, index: usize) -> usize {
        index
    }
    /// Decodes scene `index`; the same index gives the same scene.
    fn scene(&self, index: usize) -> Result<Scene>;
    /// An archive is never empty.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One place, as its files hold it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Scene {
    /// [`Reader::id`].
    pub id: String,
    /// Bands of both sensors, by their usual names, in any order; those nobody uses may be absent.
    pub bands: Vec<Band>,
    /// Radar as linear backscatter, not decibels.
    pub linear: bool,
    /// Subtracted from Sentinel-2's digital numbers.
    pub offset: f32,
    /// Classes of the scene, indices into [`About::classes`].
    pub labels: Vec<u32>,
    /// Class of each pixel of the finest grid, [`super::NO_CLASS`] where there is none.
    pub mask: Option<Vec<u8>>,
}

/// One band on a grid of its own.
#[derive(Debug, Clone, PartialEq)]
pub struct Band {
    /// `VV`, `B02`, `B8A`, ...
    pub name: String,
    /// Type of the stored numbers, for example `uint16`.
    pub dtype: String,
    /// Stored numbers, row by row; NaN where missing.
    pub values: Vec<f32>,
    /// Pixels a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Where it lies, if known.
    pub geo: Option<Geo>,
    /// File (and row) it came from: what errors name.
    pub from: String,
}

/// Whether Sentinel-2's offset of 1000 (products of baseline N0400 and later) is taken off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BoaOffset {
    /// As the baseline in the product's name says.
    #[default]
    Auto,
    /// Never.
    Keep,
    /// Always.
    Subtract,
}

impl BoaOffset {
    /// What to subtract from a product's digital numbers. Baselines are written `_N0400_`; N9999 marks reprocessing by hand
    /// (BigEarthNet v2, parts of Major TOM), whose numbers carry no offset.
    pub fn of(self, product: &str) -> f32 {
        let number = |part: &str| part.strip_prefix('N').filter(|n| n.len() == 4).and_then(|n| n.parse::<u32>().ok());
        let late = || product.split('_').find_map(number).is_some_and(|n| (400..9999).contains(&n));
        match self {
            BoaOffset::Keep => 0.0,
            BoaOffset::Subtract => 1000.0,
            BoaOffset::Auto if late() => 1000.0,
            BoaOffset::Auto => 0.0,
        }
    }
}

impl std::str::FromStr for BoaOffset {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(BoaOffset::Auto),
            "keep" => Ok(BoaOffset::Keep),
            "subtract" => Ok(BoaOffset::Subtract),
            _ => Err(Error::new(text, "not a way to treat the offset", "say auto, keep or subtract")),
        }
    }
}

/// How to open an archive.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ArchiveOptions {
    /// Side of a patch; None takes 120, or the scene's side if that is less.
    pub tile_px: Option<usize>,
    /// Sentinel-2's offset.
    pub boa_offset: BoaOffset,
    /// Only these scenes (grid cells in Major TOM, else the scenes' names).
    pub only: Option<BTreeSet<String>>,
    /// What to do about a scene that cannot be read.
    pub on_error: OnError,
}

impl ArchiveOptions {
    /// Keeps the scenes asked for; counts what was asked for and is not there.
    pub(crate) fn select<T>(&self, scenes: Vec<T>, id: impl Fn(&T) -> &str, about: &mut About) -> Result<Vec<T>> {
        let Some(only) = &self.only else { return Ok(scenes) };
        let kept: Vec<T> = scenes.into_iter().filter(|s| only.contains(id(s))).collect();
        let found: BTreeSet<&str> = kept.iter().map(&id).collect();
        let absent = only.len() - found.len();
        if absent > 0 {
            about.left_out.insert("sampled, but not in the archive".into(), absent);
        }
        if kept.is_empty() {
            let example = only.iter().next().map_or("nothing", String::as_str);
            let problem = format!("holds none of the {} scenes of the sample, for example {example}", only.len());
            return Err(Error::new(&about.name, problem, "sample from this archive's own metadata"));
        }
        Ok(kept)
    }
}

/// Opens any archive: what kind it is, is told by what lies in the folder.
pub fn open(spec: &str, options: &ArchiveOptions) -> Result<Box<dyn Reader>> {
    super::check_tile_px(options.tile_px)?;
    let root = Path::new(spec);
    if !spec.starts_with("synth:") && !root.exists() {
        return Err(Error::new(spec, "no such file or folder", "name an archive, or synth:PAIRS"));
    }
    #[cfg(all(feature = "gdal", feature = "parquet"))]
    if let Some(found) = major_tom::MajorTom::find(root, options)? {
        return Ok(Box::new(found));
    }
    #[cfg(feature = "gdal")]
    if let Some(found) = unpacked::Unpacked::find(root, options)? {
        return Ok(Box::new(found));
    }
    #[cfg(feature = "gdal")]
    if let Some(found) = big_earth_net::BigEarthNet::find(root, options)? {
        return Ok(Box::new(found));
    }
    if let Some(found) = geo_bench::GeoBench::find(root, options)? {
        return Ok(Box::new(found));
    }
    let plain = OpenOptions { tile_px: options.tile_px, on_error: options.on_error, ..Default::default() };
    Ok(Box::new(pairs::Ready::open(spec, &plain, options)?))
}

#[cfg(test)]
mod tests;
