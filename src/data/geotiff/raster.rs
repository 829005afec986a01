//! One scene of one sensor: where its bands are, which pixels are valid, and what unit they have.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Once;
use std::time::SystemTime;

use gdal::errors::GdalError;
use gdal::raster::{GdalDataType, ResampleAlg};
use gdal::spatial_ref::SpatialRef;
use gdal::{Dataset, DatasetOptions, GdalOpenFlags, Metadata};

use super::super::geo::corners;
use super::super::{Error, Result, S1_BANDS, S2_BANDS, Sensor};
use super::find::{SceneFiles, band_name};
use super::keys;

/// Band order of 12-band surface reflectance files without band names.
const L2A: [&str; 12] = ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12"];
/// Band order of 13-band top-of-atmosphere files without band names.
const L1C: [&str; 13] = ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12"];
/// The other one in use, with B8A last (EuroSAT).
const L1C_B8A_LAST: [&str; 13] =
    ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B8A"];

/// A scene on its 10 m grid; holds no open file, so any thread may read it.
pub struct Raster {
    /// Files that hold bands in use.
    files: Vec<PathBuf>,
    bands: Vec<Band>,
    /// Pixels of the finest band.
    pub width: usize,
    /// Pixels of the finest band.
    pub height: usize,
    /// GDAL's coefficients, if the file has any.
    pub transform: Option<[f64; 6]>,
    /// EPSG code, else WKT, else empty.
    pub crs: String,
    /// What had to be assumed.
    pub note: Option<String>,
    /// Unit of the stored numbers.
    pub unit: Unit,
    /// Their type.
    pub dtype: &'static str,
}

struct Band {
    file: usize,
    /// 1 is the first.
    index: usize,
    /// Pixels of 10 m along one of its own.
    factor: usize,
    nodata: Option<f64>,
    /// Sentinel-2 marks missing pixels with 0, tag or no tag.
    zero_is_missing: bool,
    float: bool,
}

/// How stored numbers become the model's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Unit {
    /// They are.
    AsStored,
    /// Linear backscatter to decibels.
    Linear,
    /// Reflectance 0..1 to digital numbers.
    Reflectance,
}

impl Unit {
    /// Converts in place; what is missing stays NaN.
    pub fn apply(self, pixels: &mut [f32]) {
        match self {
            Unit::AsStored => {}
            Unit::Linear => {
                pixels.iter_mut().for_each(|x| *x = if *x > 0.0 { 10.0 * x.max(1e-10).log10() } else { f32::NAN })
            }
            Unit::Reflectance => pixels.iter_mut().for_each(|x| *x *= 10_000.0),
        }
    }
}

/// A type of real numbers as NumPy calls it; None for others.
pub fn dtype_name(dtype: GdalDataType) -> Option<&'static str> {
    Some(match dtype {
        GdalDataType::UInt8 => "uint8",
        GdalDataType::UInt16 => "uint16",
        GdalDataType::Int16 => "int16",
        GdalDataType::UInt32 => "uint32",
        GdalDataType::Int32 => "int32",
        GdalDataType::Float32 => "float32",
        GdalDataType::Float64 => "float64",
        _ => return None,
    })
}

/// GDAL's own message as one line of ours.
pub fn unreadable(path: &Path, error: GdalError) -> Error {
    let message = match error {
        GdalError::CplError { msg, .. } | GdalError::NullPointer { msg, .. } => msg,
        other => other.to_string(),
    };
    damaged(path, &message)
}

fn damaged(path: &Path, message: &str) -> Error {
    Error::new(
        path.display(),
        format!("cannot be read as a GeoTIFF: {message}"),
        "the file is damaged or cut short, fetch it again",
    )
}

thread_local! {
    /// What GDAL only warns of, though a file that is cut short goes on with tags missing.
    static DAMAGE: Cell<Option<String>> = const { Cell::new(None) };
}

/// Most bytes of pixels that a stored byte can stand for, by GDAL's name of the codec.
fn expansion(codec: Option<&str>) -> u64 {
    match codec {
        // Stored as they are; a file may leave out blocks without a pixel, so some more are believed.
        None | Some("NONE") => 4,
        Some("PACKBITS") => 64,
        // A code of LZW stands for at most 3837 bytes and on average for 1362, Deflate's for 1032.
        Some("LZW" | "DEFLATE") => 1400,
        // ZSTD repeats 128 KiB by four bytes; no other reaches that.
        Some(_) => 32_768,
    }
}

/// Opens a file of these bytes, if its header promises no more pixels than they can hold.
pub fn open_sized(path: &Path, file: FileBytes) -> Result<Dataset> {
    /// More than any camera has; GDAL takes 700 bytes for each at once.
    const MOST_BANDS: u64 = 1000;
    let FileBytes { length, bands } = file;
    if let Some(bands) = bands.filter(|bands| *bands > MOST_BANDS) {
        return Err(damaged(path, &format!("{bands} bands, at most {MOST_BANDS} are expected")));
    }
    let dataset = open_any(path)?;
    let bands = dataset.raster_count();
    let failed = |e| unreadable(path, e);
    let (mut pixels, mut block) = (0u64, 0u64);
    for index in 1..=bands {
        let band = dataset.rasterband(index).map_err(failed)?;
        let room = |(width, height): (usize, usize)| {
            (width as u64).saturating_mul(height as u64).saturating_mul(band.band_type().bytes().into())
        };
        pixels = pixels.saturating_add(room(band.size()));
        block = block.max(room(band.block_size()));
    }
    let codec = dataset.metadata_item("COMPRESSION", "IMAGE_STRUCTURE");
    let held = length.saturating_mul(expansion(codec.as_deref()));
    if pixels.max(block) > held {
        let (width, height) = dataset.raster_size();
        let codec = codec.as_deref().unwrap_or("no compression");
        let problem = format!("{bands} x {width} x {height} pixels, more than {length} bytes with {codec} can hold");
        return Err(damaged(path, &problem));
    }
    #[cfg(any(test, fuzzing))]
    crate::data::meter::believe((pixels + block) as usize);
    Ok(dataset)
}

/// What is asked of a file's bytes before GDAL opens it.
pub struct FileBytes {
    length: u64,
    bands: Option<u64>,
}

impl FileBytes {
    /// Of all bytes of a file.
    pub fn of(file: &[u8]) -> Self {
        Self { length: file.len() as u64, bands: keys::bands(file) }
    }
}

/// [`open_sized`] for a file on disk.
pub fn open(path: &Path) -> Result<Dataset> {
    let failed = |e: std::io::Error| damaged(path, &e.to_string());
    let file = std::fs::File::open(path).map_err(failed)?;
    // SAFETY: archives are not written while they are read.
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(failed)?;
    open_sized(path, FileBytes::of(&map))
}

/// Opens a GeoTIFF without letting GDAL print. Nothing but a GeoTIFF: others, like a VRT, can name files elsewhere.
fn open_any(path: &Path) -> Result<Dataset> {
    static QUIET: Once = Once::new();
    // Every failure comes back as an error of ours; GDAL's own print would be a second line.
    QUIET.call_once(|| {
        // Listing a folder of 100,000 scenes for every file opened is slow; failing to say so costs only time.
        let _ = gdal::config::set_config_option("GDAL_DISABLE_READDIR_ON_OPEN", "TRUE");
        gdal::config::set_error_handler(|_, _, message| {
            if ["IO error", "corrupt"].iter().any(|sign| message.contains(sign)) {
                DAMAGE.set(Some(message.into()));
            }
        })
    });
    DAMAGE.set(None);
    let flags = GdalOpenFlags::GDAL_OF_RASTER | GdalOpenFlags::GDAL_OF_VERBOSE_ERROR;
    let dataset = Dataset::open_ex(
        path,
        DatasetOptions { open_flags: flags, allowed_drivers: Some(&["GTiff"]), ..Default::default() },
    )
    .map_err(|e| unreadable(path, e))?;
    match DAMAGE.take() {
        Some(message) => Err(damaged(path, &message)),
        None => Ok(dataset),
    }
}

/// A file opened by this thread not long ago, whose decoded blocks GDAL still holds: tiles of one block decode it once.
fn recent(path: &Path) -> Result<Rc<Dataset>> {
    /// Enough for a pair with one file a band.
    const KEPT: usize = 16;
    type State = (PathBuf, u64, Option<SystemTime>);
    thread_local!(static RECENT: RefCell<VecDeque<(State, Rc<Dataset>)>> = const { RefCell::new(VecDeque::new()) });
    // Length and time tell a file that was written anew.
    let about = std::fs::metadata(path).ok();
    let modified = about.as_ref().and_then(|m| m.modified().ok());
    let state = (path.to_path_buf(), about.map_or(0, |m| m.len()), modified);
    RECENT.with_borrow_mut(|recent| {
        if let Some((_, dataset)) = recent.iter().find(|(known, _)| *known == state) {
            return Ok(dataset.clone());
        }
        let dataset = Rc::new(open(path)?);
        recent.truncate(KEPT - 1);
        recent.push_front((state, dataset.clone()));
        Ok(dataset)
    })
}

impl Raster {
    /// Reads the headers of a sensor's scene and finds its bands; `order` names the bands of files that do not.
    pub fn of_sensor(scene: &SceneFiles, sensor: Sensor, order: Option<&[String]>) -> Result<Self> {
        let mut note = None;
        let mut found: Vec<(String, usize, usize)> = vec![];
        let open_files = scene.files.iter().map(|(_, path)| open(path)).collect::<Result<Vec<_>>>()?;
        for (file, ((band, path), dataset)) in scene.files.iter().zip(&open_files).enumerate() {
            match band {
                Some(band) => found.push((band.clone(), file, 1)),
                None => {
                    let (names, assumed) = names(path, dataset, sensor, order)?;
                    note = assumed;
                    found.extend(names.into_iter().enumerate().map(|(index, name)| (name, file, index + 1)));
                }
            }
        }
        let locate = |band: &&str| found.iter().find(|(name, ..)| name == band).map(|(_, file, index)| (*file, *index));
        let missing: Vec<&str> = sensor.bands().iter().filter(|band| locate(band).is_none()).copied().collect();
        if !missing.is_empty() {
            let have: Vec<&str> = found.iter().map(|(name, ..)| name.as_str()).collect();
            let problem = format!(
                "{} bands {} missing, found {}",
                sensor.to_string().to_uppercase(),
                missing.join(" "),
                have.join(" ")
            );
            return Err(Error::new(
                scene.path().display(),
                problem,
                format!("all of {} are needed", sensor.bands().join(" ")),
            ));
        }
        Self::assemble(
            scene,
            &open_files,
            sensor.bands().iter().filter_map(locate).collect(),
            sensor == Sensor::S2,
            note,
        )
    }

    /// Reads the header of a class map: its first band.
    pub fn of_mask(scene: &SceneFiles) -> Result<Self> {
        Self::assemble(scene, &[open(scene.path())?], vec![(0, 1)], false, None)
    }

    fn assemble(
        scene: &SceneFiles,
        open_files: &[Dataset],
        at: Vec<(usize, usize)>,
        zero_is_missing: bool,
        note: Option<String>,
    ) -> Result<Self> {
        let path = |file: usize| scene.files[file].1.as_path();
        let finest = at.iter().map(|(file, _)| *file).max_by_key(|file| open_files[*file].raster_size().0).unwrap_or(0);
        let (width, height) = open_files[finest].raster_size();
        let (ground, crs) = (transform(&open_files[finest]), crs_of(&open_files[finest], path(finest)));
        let mut bands = vec![];
        let mut dtype = "";
        for (file, index) in at {
            let (w, h) = open_files[file].raster_size();
            let factor = width.checked_div(w).unwrap_or(0);
            if factor == 0 || (w * factor, h * factor) != (width, height) {
                let problem =
                    format!("{w} x {h} pixels does not divide the {width} x {height} of {}", path(finest).display());
                return Err(Error::new(path(file).display(), problem, "bands of one scene must cover the same ground"));
            }
            if let (Some(fine), Some(coarse)) = (ground, transform(&open_files[file]))
                && !same_ground(&fine, &coarse, (width, height), (w, h))
            {
                let problem = format!("does not cover the same ground as {}", path(finest).display());
                return Err(Error::new(path(file).display(), problem, "bands of one scene must share their corners"));
            }
            let band = open_files[file].rasterband(index).map_err(|e| unreadable(path(file), e))?;
            dtype = dtype_name(band.band_type()).unwrap_or_default();
            bands.push(Band {
                file,
                index,
                factor,
                nodata: band.no_data_value(),
                zero_is_missing,
                float: band.band_type().is_floating(),
            });
        }
        let files = scene.files.iter().map(|(_, path)| path.clone()).collect();
        Ok(Self { files, bands, width, height, transform: ground, crs, note, unit: Unit::AsStored, dtype })
    }

    /// The first file: what errors name.
    pub fn path(&self) -> &Path {
        &self.files[self.bands[0].file]
    }

    /// Whether the numbers are stored as floating point.
    pub fn is_float(&self) -> bool {
        self.bands.iter().all(|band| band.float)
    }

    /// Opens the files that hold bands in use, once for many windows.
    pub fn reader(&self) -> Result<Reader<'_>> {
        let used = |file: usize| self.bands.iter().any(|band| band.file == file);
        let files = self.files.iter().enumerate();
        let files = files.map(|(i, path)| if used(i) { recent(path).map(Some) } else { Ok(None) });
        Ok(Reader { raster: self, files: files.collect::<Result<_>>()? })
    }

    /// Error unless both scenes have the same size and lie on the same ground.
    pub fn check_agrees(&self, other: &Raster) -> Result<()> {
        let (a, b) = ((self.width, self.height), (other.width, other.height));
        let wrong =
            |problem: String| Error::new(self.path().display(), problem, "resample one image to the other's grid");
        if a != b {
            return Err(wrong(format!(
                "{} x {} pixels, but {} has {} x {}",
                a.0,
                a.1,
                other.path().display(),
                b.0,
                b.1
            )));
        }
        match (self.transform, other.transform) {
            (Some(mine), Some(theirs)) if !same_ground(&mine, &theirs, a, b) => {
                Err(wrong(format!("its geotransform {mine:?} disagrees with {theirs:?} of {}", other.path().display())))
            }
            (Some(_), None) | (None, Some(_)) => {
                Err(wrong(format!("only one of it and {} is georeferenced", other.path().display())))
            }
            _ if !same_crs(&self.crs, &other.crs) => {
                Err(wrong(format!("its coordinate system differs from that of {}", other.path().display())))
            }
            _ => Ok(()),
        }
    }
}

/// A scene with its files open, for one thread.
pub struct Reader<'a> {
    raster: &'a Raster,
    files: Vec<Option<Rc<Dataset>>>,
}

impl Reader<'_> {
    /// Stored numbers of a window, [C, height, width]; NaN where a pixel is missing or not finite.
    pub fn stored(&self, (col, row): (usize, usize), (width, height): (usize, usize)) -> Result<Vec<f32>> {
        let mut pixels = Vec::with_capacity(self.raster.bands.len() * width * height);
        for band in &self.raster.bands {
            let path = &self.raster.files[band.file];
            let Some(dataset) = &self.files[band.file] else { continue };
            let (f, first) = (band.factor, (col / band.factor, row / band.factor));
            let size = ((col + width).div_ceil(f) - first.0, (row + height).div_ceil(f) - first.1);
            let values = dataset
                .rasterband(band.index)
                .and_then(|b| b.read_as::<f32>((first.0 as isize, first.1 as isize), size, size, None))
                .map_err(|e| unreadable(path, e))?;
            let missing = |x: f32| {
                !x.is_finite() || band.nodata.is_some_and(|n| x == n as f32) || band.zero_is_missing && x == 0.0
            };
            for y in row..row + height {
                let line = &values.data()[(y / f - first.1) * size.0..][..size.0];
                // A coarse pixel is repeated over the fine ones it covers.
                pixels.extend(
                    (col..col + width).map(|x| line[x / f - first.0]).map(|x| if missing(x) { f32::NAN } else { x }),
                );
            }
        }
        Ok(pixels)
    }

    /// A window in the model's unit.
    pub fn window(&self, at: (usize, usize), size: (usize, usize)) -> Result<Vec<f32>> {
        let mut pixels = self.stored(at, size)?;
        self.raster.unit.apply(&mut pixels);
        Ok(pixels)
    }
}

/// Names of a file's bands, and what had to be assumed.
fn names(
    path: &Path,
    dataset: &Dataset,
    sensor: Sensor,
    order: Option<&[String]>,
) -> Result<(Vec<String>, Option<String>)> {
    let count = dataset.raster_count();
    let own = |names: &[&str]| names.iter().map(|n| n.to_string()).collect::<Vec<_>>();
    let label = sensor.to_string().to_uppercase();
    if let Some(order) = order {
        if order.len() != count {
            return Err(Error::new(
                path.display(),
                format!("{count} bands, but {} names were given", order.len()),
                "name every band of the file in order",
            ));
        }
        return Ok((order.to_vec(), Some(format!("{label} bands named by you"))));
    }
    let described = (1..=count).map(|i| Ok(band_name(&dataset.rasterband(i)?.description()?).unwrap_or_default()));
    let described = described.collect::<gdal::errors::Result<Vec<String>>>().map_err(|e| unreadable(path, e))?;
    if described.iter().any(|name| sensor.bands().contains(&name.as_str())) {
        return Ok((described, None));
    }
    let assumed =
        |names: &[&str], why: &str| Ok((own(names), Some(format!("{label} bands without names taken as {why}"))));
    match (sensor, count) {
        (Sensor::S1, 2) => assumed(&S1_BANDS, "VV, VH"),
        (Sensor::S2, 10) => assumed(&S2_BANDS, &S2_BANDS.join(" ")),
        (Sensor::S2, 12) => assumed(&L2A, "the 12 of L2A"),
        // The cirrus band B10 is nearly black everywhere, which tells the two orders in use apart.
        (Sensor::S2, 13) if mean(path, dataset, 10)? < mean(path, dataset, 11)? => {
            assumed(&L1C_B8A_LAST, "the 13 of L1C, B8A last")
        }
        (Sensor::S2, 13) => assumed(&L1C, "the 13 of L1C, B8A after B08"),
        _ => {
            let expected = if sensor == Sensor::S1 { "2 (VV, VH)" } else { "10, 12 or 13" };
            let remedy = "write the bands' names (B02 ..., VV, VH) as band descriptions";
            Err(Error::new(
                path.display(),
                format!("{count} bands without names, {expected} expected for {label}"),
                remedy,
            ))
        }
    }
}

/// Mean of a thinned band.
fn mean(path: &Path, dataset: &Dataset, index: usize) -> Result<f64> {
    let (w, h) = dataset.raster_size();
    let shape = (w.min(64), h.min(64));
    let read = || dataset.rasterband(index)?.read_as::<f64>((0, 0), (w, h), shape, Some(ResampleAlg::NearestNeighbour));
    let values = read().map_err(|e| unreadable(path, e))?;
    Ok(values.data().iter().sum::<f64>() / (shape.0 * shape.1) as f64)
}

/// Affine transform, if the file has one.
pub fn transform(dataset: &Dataset) -> Option<[f64; 6]> {
    // GDAL's stand-in for "none".
    const NONE: [f64; 6] = [0.0, 1.0, 0.0, 0.0, 0.0, 1.0];
    dataset.geo_transform().ok().filter(|t| *t != NONE)
}

/// Coordinate system of a file with these [`keys`]: EPSG code, else WKT, else empty.
pub fn crs(dataset: &Dataset, keys: Option<Vec<u8>>) -> String {
    let understand = || {
        let mut srs = dataset.spatial_ref().ok()?;
        let code = |srs: &SpatialRef| srs.authority().ok().filter(|a| a.starts_with("EPSG:"));
        // Identifying by parameters is slow: only for files that give no code.
        code(&srs).or_else(|| srs.auto_identify_epsg().ok().and_then(|()| code(&srs))).or_else(|| srs.to_wkt().ok())
    };
    // PROJ takes some megabytes to understand one, whatever the file.
    #[cfg(any(test, fuzzing))]
    let understand = || crate::data::meter::aside(understand);
    keys::known(keys, || understand().unwrap_or_default())
}

/// [`crs`] of a file on disk.
fn crs_of(dataset: &Dataset, path: &Path) -> String {
    let beside = path.as_os_str().to_string_lossy().into_owned() + ".aux.xml";
    // What lies beside a file may say otherwise; then the file's own bytes are not asked.
    let own = std::fs::File::open(path).ok().filter(|_| !Path::new(&beside).exists());
    // SAFETY: archives are not written while they are read.
    let map = own.and_then(|file| unsafe { memmap2::Mmap::map(&file) }.ok());
    crs(dataset, map.and_then(|map| keys::of(&map)))
}

/// Whether two grids share their corners to a tenth of a fine pixel.
fn same_ground(fine: &[f64; 6], coarse: &[f64; 6], size: (usize, usize), coarse_size: (usize, usize)) -> bool {
    let pixel = fine[1].hypot(fine[4]).min(fine[2].hypot(fine[5]));
    let (a, b) = (corners(fine, size.0, size.1), corners(coarse, coarse_size.0, coarse_size.1));
    a.iter().zip(&b).all(|(p, q)| (p.0 - q.0).hypot(p.1 - q.1) <= 0.1 * pixel)
}

fn same_crs(a: &str, b: &str) -> bool {
    let same = || matches!((SpatialRef::from_definition(a), SpatialRef::from_definition(b)), (Ok(a), Ok(b)) if a == b);
    #[cfg(any(test, fuzzing))]
    let same = || crate::data::meter::aside(same);
    a == b || same()
}
