//! Co-registered radar (Sentinel-1) and optical (Sentinel-2) tiles: where they come from and how they reach a training step.
//!
//! A [`PairSource`] gives pairs by index, an [`ImageSource`] tiles of one sensor; the [`loader::Loader`] shuffles, splits and
//! prefetches them into batches. Pixels travel in physical units (decibels, digital numbers) and are normalised on the GPU.

pub mod archive;
pub mod cache;
pub mod export;
#[cfg(all(any(test, fuzzing), feature = "gdal", feature = "hdf5", feature = "parquet"))]
pub mod fuzz;
pub mod geo;
#[cfg(feature = "gdal")]
pub mod geotiff;
pub mod inspect;
pub mod loader;
#[cfg(any(test, fuzzing))]
pub mod meter;
pub mod normalisation;
#[cfg(feature = "parquet")]
pub mod pages;
#[cfg(feature = "parquet")]
pub mod parquet;
pub mod picture;
pub mod random;
pub mod split;
pub mod stats;
pub mod store;
pub mod synth;
pub mod table;
pub mod weights;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

pub use cache::Cached;
pub use geo::Geo;
pub use loader::{Batch, Cursor, Loader, LoaderConfig, Sampling};
pub use normalisation::{BandStats, Normalisation};
pub use split::{Part, Split};
pub use weights::Weights;

/// Radar polarisations in the model's order, in decibels.
pub const S1_BANDS: [&str; 2] = ["VV", "VH"];
/// Optical bands in the model's order (10 m bands first, then 20 m), in digital numbers: surface reflectance x 10,000.
pub const S2_BANDS: [&str; 10] = ["B02", "B03", "B04", "B08", "B05", "B06", "B07", "B11", "B12", "B8A"];
/// Side of a tile in pixels of 10 m when nobody asks for another.
pub const DEFAULT_TILE_PX: usize = 120;
/// Mask value of a pixel that has no class.
pub const NO_CLASS: u8 = 255;

/// A failure of the data room, always one line: what it is about, what is wrong, what to do.
#[derive(Debug, thiserror::Error)]
#[error("{subject}: {problem}; {remedy}")]
pub struct Error {
    /// The file, folder or option.
    pub subject: String,
    /// What was found and what was expected.
    pub problem: String,
    /// What the user can do.
    pub remedy: String,
}

impl Error {
    /// `subject` is usually a path's `display()`.
    pub fn new(subject: impl fmt::Display, problem: impl fmt::Display, remedy: impl fmt::Display) -> Self {
        // Messages of foreign libraries may hold line breaks.
        let line = |text: &dyn fmt::Display| text.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        Self { subject: line(&subject), problem: line(&problem), remedy: line(&remedy) }
    }
}

/// Result of the data room.
pub type Result<T> = std::result::Result<T, Error>;

/// One of the two satellites.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sensor {
    /// Sentinel-1, C-band radar.
    S1,
    /// Sentinel-2, optical.
    S2,
}

impl Sensor {
    /// Band names in the model's order.
    pub fn bands(self) -> &'static [&'static str] {
        match self {
            Sensor::S1 => &S1_BANDS,
            Sensor::S2 => &S2_BANDS,
        }
    }

    /// Number of bands.
    pub fn channels(self) -> usize {
        self.bands().len()
    }
}

impl fmt::Display for Sensor {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Sensor::S1 => "s1",
            Sensor::S2 => "s2",
        })
    }
}

impl std::str::FromStr for Sensor {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.to_ascii_lowercase().as_str() {
            "s1" => Ok(Sensor::S1),
            "s2" => Ok(Sensor::S2),
            _ => Err(Error::new(text, "not a sensor", "say s1 or s2")),
        }
    }
}

/// One place seen by both sensors.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    /// Unique in its source.
    pub id: String,
    /// [2, px, px] in decibels.
    pub s1: Vec<f32>,
    /// [10, px, px] in digital numbers.
    pub s2: Vec<f32>,
    /// Where it lies, if known.
    pub geo: Option<Geo>,
    /// Scene class, an index into [`Report::classes`].
    pub label: Option<u32>,
    /// Class of each pixel [px, px], [`NO_CLASS`] where there is none.
    pub mask: Option<Vec<u8>>,
}

/// One place seen by one sensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// Unique in its source.
    pub id: String,
    /// [C, px, px] in decibels (s1) or digital numbers (s2).
    pub pixels: Vec<f32>,
    /// Where it lies, if known.
    pub geo: Option<Geo>,
    /// Scene class, an index into [`Report::classes`].
    pub label: Option<u32>,
}

/// What a source found, kept and dropped.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The folder or the procedure.
    pub name: String,
    /// Tiles that can be read.
    pub pairs: usize,
    /// Side of a tile in pixels.
    pub tile_px: usize,
    /// What was left out, by reason.
    pub dropped: BTreeMap<String, usize>,
    /// Band names found, by sensor.
    pub bands: BTreeMap<Sensor, Vec<String>>,
    /// Type of the stored numbers, by sensor, where there are files.
    #[serde(default)]
    pub dtype: BTreeMap<Sensor, String>,
    /// Names of the scene classes, by label.
    pub classes: Vec<String>,
    /// What was decided on the way: units, band layout, preferred products.
    pub notes: Vec<String>,
    /// Errors of the scenes that were skipped.
    #[serde(default)]
    pub skipped: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}: {} tiles of {} px", self.name, self.pairs, self.tile_px)?;
        for (reason, count) in &self.dropped {
            write!(f, "; {count} dropped: {reason}")?;
        }
        self.notes.iter().try_for_each(|note| write!(f, "; {note}"))
    }
}

/// Co-registered pairs, by index, from any thread.
pub trait PairSource: Send + Sync {
    /// Number of pairs, never 0.
    fn len(&self) -> usize;
    /// Side of every tile in pixels.
    fn tile_px(&self) -> usize;
    /// What was found and dropped.
    fn describe(&self) -> &Report;
    /// Reads pair `index` (below [`PairSource::len`]); the same index gives the same pixels.
    fn pair(&self, index: usize) -> Result<Pair>;
    /// [`Pair::id`] of a pair, without reading its pixels where that is possible.
    fn id(&self, index: usize) -> Result<String> {
        Ok(self.pair(index)?.id)
    }
    /// Pairs with one group were cut from one scene, so that a split can keep neighbours together.
    fn group(&self, index: usize) -> usize {
        index
    }
    /// Scene class of a pair, without reading its pixels where that is possible.
    fn label(&self, index: usize) -> Option<u32> {
        self.pair(index).ok()?.label
    }
    /// Reads pair `index` into `s1` [2, px, px] and `s2` [10, px, px].
    fn fill(&self, index: usize, s1: &mut [f32], s2: &mut [f32]) -> Result<Placed> {
        let pair = self.pair(index)?;
        s1.copy_from_slice(&pair.s1);
        s2.copy_from_slice(&pair.s2);
        Ok(Placed { id: pair.id, label: pair.label })
    }
    /// Whether the system's page cache holds the pixels ready, so that a cache of ours would only double them.
    fn mapped(&self) -> bool {
        false
    }
    /// A source is never empty.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What [`PairSource::fill`] says beside the pixels.
#[derive(Debug, Clone, PartialEq)]
pub struct Placed {
    /// [`Pair::id`].
    pub id: String,
    /// [`Pair::label`].
    pub label: Option<u32>,
}

/// Tiles of one sensor, by index, from any thread.
pub trait ImageSource: Send + Sync {
    /// Whose tiles these are.
    fn sensor(&self) -> Sensor;
    /// Number of tiles, never 0.
    fn len(&self) -> usize;
    /// Side of every tile in pixels.
    fn tile_px(&self) -> usize;
    /// What was found and dropped.
    fn describe(&self) -> &Report;
    /// Reads tile `index` (below [`ImageSource::len`]).
    fn image(&self, index: usize) -> Result<Image>;
    /// A source is never empty.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One sensor's half of a source of pairs.
pub struct Half<S>(pub S, pub Sensor);

impl<S: PairSource> ImageSource for Half<S> {
    fn sensor(&self) -> Sensor {
        self.1
    }
    fn len(&self) -> usize {
        self.0.len()
    }
    fn tile_px(&self) -> usize {
        self.0.tile_px()
    }
    fn describe(&self) -> &Report {
        self.0.describe()
    }
    fn image(&self, index: usize) -> Result<Image> {
        let Pair { id, s1, s2, geo, label, .. } = self.0.pair(index)?;
        let pixels = if self.1 == Sensor::S1 { s1 } else { s2 };
        Ok(Image { id, pixels, geo, label })
    }
}

/// What may be said about an archive that its files do not say.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct OpenOptions {
    /// Side of a tile; None takes 120, or the smallest scene's side if that is less.
    pub tile_px: Option<usize>,
    /// Names of the bands in S1 files, in their order, for files that name them wrongly or not.
    pub s1_bands: Option<Vec<String>>,
    /// The same for S2 files.
    pub s2_bands: Option<Vec<String>>,
    /// What to do about a scene that cannot be read.
    pub on_error: OnError,
}

/// What to do about a scene that cannot be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnError {
    /// Stop with its error.
    #[default]
    Stop,
    /// Say so, count it, go on.
    Skip,
}

/// Under this reason scenes are counted that were skipped.
pub const UNREADABLE: &str = "unreadable";

/// Opens pairs: `synth:PAIRS[:SEED]` (procedural, in memory), a patch store, or a folder of co-registered GeoTIFFs.
pub fn open(spec: &str, tile_px: Option<usize>) -> Result<Box<dyn PairSource>> {
    open_with(spec, &OpenOptions { tile_px, ..Default::default() })
}

/// [`open`], with more said about the archive.
pub fn open_with(spec: &str, options: &OpenOptions) -> Result<Box<dyn PairSource>> {
    check_tile_px(options.tile_px)?;
    match spec.strip_prefix("synth:") {
        Some(rest) => Ok(Box::new(synth::Synth::parse(rest, options.tile_px)?)),
        None if store::is_store(spec.as_ref()) => Ok(Box::new(open_store(spec, options)?.pairs()?)),
        None => open_folder(spec, options),
    }
}

/// Opens tiles of one sensor: what [`open`] takes, or a folder of that sensor's images alone, or one GeoTIFF.
pub fn open_images(spec: &str, sensor: Sensor, options: &OpenOptions) -> Result<Box<dyn ImageSource>> {
    check_tile_px(options.tile_px)?;
    match spec.strip_prefix("synth:") {
        Some(rest) => Ok(Box::new(Half(synth::Synth::parse(rest, options.tile_px)?, sensor))),
        None if store::is_store(spec.as_ref()) => {
            Ok(Box::new(store::StoreImages::new(open_store(spec, options)?, sensor)?))
        }
        None => open_one_sensor(spec, sensor, options),
    }
}

fn open_store(spec: &str, options: &OpenOptions) -> Result<store::Store> {
    let opened = store::Store::open(spec.as_ref())?;
    let px = opened.describe_px();
    match options.tile_px {
        Some(asked) if asked != px => {
            let problem = format!("holds patches of {px} px, --tile-px says {asked}");
            Err(Error::new(spec, problem, "leave out --tile-px, or cut the archive again"))
        }
        _ => Ok(opened),
    }
}

/// Statistics that an archive brings along, to normalise with; None for all but patch stores.
pub fn own_statistics(spec: &str) -> Result<Option<Normalisation>> {
    let own = match store::is_store(spec.as_ref()) {
        true => store::Store::open(spec.as_ref())?.statistics()?,
        false => None,
    };
    own.iter().try_for_each(|statistics| statistics.check_spread(spec))?;
    Ok(own)
}

fn check_tile_px(tile_px: Option<usize>) -> Result<()> {
    match tile_px {
        Some(px) if !(8..=4096).contains(&px) => Err(Error::new(
            "--tile-px",
            format!("{px} is outside 8..4096"),
            "choose a tile side in pixels, for example 120",
        )),
        _ => Ok(()),
    }
}

#[cfg(feature = "gdal")]
fn open_folder(spec: &str, options: &OpenOptions) -> Result<Box<dyn PairSource>> {
    Ok(Box::new(geotiff::Pairs::open(spec.as_ref(), options)?))
}

#[cfg(feature = "gdal")]
fn open_one_sensor(spec: &str, sensor: Sensor, options: &OpenOptions) -> Result<Box<dyn ImageSource>> {
    Ok(Box::new(geotiff::Images::open(spec.as_ref(), sensor, options)?))
}

#[cfg(not(feature = "gdal"))]
fn open_folder(spec: &str, _: &OpenOptions) -> Result<Box<dyn PairSource>> {
    Err(no_gdal(spec))
}

#[cfg(not(feature = "gdal"))]
fn open_one_sensor(spec: &str, _: Sensor, _: &OpenOptions) -> Result<Box<dyn ImageSource>> {
    Err(no_gdal(spec))
}

#[cfg(not(feature = "gdal"))]
fn no_gdal(spec: &str) -> Error {
    Error::new(spec, "this build reads no GeoTIFFs", "build with --features gdal, or use synth:PAIRS")
}
