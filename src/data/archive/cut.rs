//! From a scene to patches: one grid, one unit, whole patches only, and every other one counted by reason.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::super::geo::shifted;
use super::super::{Error, Geo, Result, Sensor};
use super::{Band, Scene};

/// Radar with a missing pixel (nodata or not finite).
pub const S1_MISSING: &str = "S1 has missing pixels";
/// Linear radar that has no logarithm.
pub const S1_NOT_POSITIVE: &str = "S1 is not above 0 before the logarithm";
/// Optical with a missing pixel in a used band (0, nodata or not finite).
pub const S2_MISSING: &str = "S2 has missing pixels";

/// One patch, in decibels and digital numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Patch {
    /// Row and column among the scene's patches.
    pub at: (usize, usize),
    /// [2, px, px] in decibels; empty where the archive has no radar.
    pub s1: Vec<f32>,
    /// [10, px, px] in digital numbers; empty where the archive has no optical bands.
    pub s2: Vec<f32>,
    /// Where it lies, if known.
    pub geo: Option<Geo>,
    /// [px, px], if the scene has a class map.
    pub mask: Option<Vec<u8>>,
    /// Why it is not to be used; None for a whole one.
    pub dropped: Option<&'static str>,
}

/// A scene's patches, row by row: the margin that makes no whole patch is left away.
#[derive(Debug, Clone, PartialEq)]
pub struct Cut {
    /// Rows and columns of patches.
    pub shape: (usize, usize),
    /// All of them; dropped ones without pixels unless asked for.
    pub patches: Vec<Patch>,
    /// What was done to the scene.
    pub notes: Vec<&'static str>,
}

impl Cut {
    /// Dropped patches by reason.
    pub fn dropped(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        self.patches.iter().filter_map(|p| p.dropped).for_each(|reason| *counts.entry(reason).or_default() += 1);
        counts
    }
}

/// One band on the scene's grid: pixel (row, col) is `values[row / factor * width + col / factor]`.
struct Plane<'a> {
    values: Cow<'a, [f32]>,
    width: usize,
    factor: usize,
}

/// Cuts `scene` into patches of `px` pixels of its finest band. `all` gives pixels of dropped patches too (NaN where missing).
pub fn cut(scene: &Scene, px: usize, all: bool) -> Result<Cut> {
    let wanted = wanted(scene)?;
    // The optical grid rules where there is one: it is the finest of its sensor, and never resampled.
    let optical = wanted.iter().filter(|b| Sensor::S2.bands().contains(&&*b.name)).max_by_key(|b| b.width);
    let finest = optical.or(wanted.iter().max_by_key(|b| b.width));
    let ruler = finest.ok_or_else(|| missing(scene, &["VV", "VH", "B02"]))?;
    let ten = if optical.is_none() { ten_metres(ruler) } else { None };
    let ruler = ten.as_ref().unwrap_or(ruler);
    let mut notes = vec![];
    let planes = wanted.iter().map(|band| plane(band, ruler, &mut notes)).collect::<Result<Vec<_>>>()?;
    if scene.mask.as_ref().is_some_and(|mask| mask.len() != ruler.width * ruler.height) {
        return Err(Error::new(&ruler.from, "its class map has another size", "bring a class map of the same pixels"));
    }
    if scene.linear {
        notes.push("S1 linear, converted to decibels");
    }
    if scene.offset != 0.0 {
        notes.push("S2 offset of 1000 subtracted");
    }
    let radar = wanted.iter().filter(|b| Sensor::S1.bands().contains(&&*b.name)).count();
    let shape = (ruler.height / px, ruler.width / px);
    let one = |(row, col): (usize, usize)| -> Patch {
        let lines = |plane: &Plane, each: &mut dyn FnMut(&[f32]) -> bool| {
            (row * px..(row + 1) * px).all(|y| {
                let line = &plane.values[y / plane.factor * plane.width..][..plane.width];
                each(&line[col * px / plane.factor..((col + 1) * px).div_ceil(plane.factor)])
            })
        };
        let whole = |planes: &[Plane]| planes.iter().all(|p| lines(p, &mut |line| line.iter().all(|x| x.is_finite())));
        let positive = |planes: &[Plane]| planes.iter().all(|p| lines(p, &mut |line| line.iter().all(|x| *x > 0.0)));
        let dropped = match () {
            _ if !whole(&planes[..radar]) => Some(S1_MISSING),
            _ if scene.linear && !positive(&planes[..radar]) => Some(S1_NOT_POSITIVE),
            _ if !whole(&planes[radar..]) => Some(S2_MISSING),
            _ => None,
        };
        let mut patch = Patch { at: (row, col), s1: vec![], s2: vec![], geo: None, mask: None, dropped };
        if dropped.is_some() && !all {
            return patch;
        }
        let pixels = |planes: &[Plane]| {
            let mut out = Vec::with_capacity(planes.len() * px * px);
            for p in planes {
                for y in row * px..(row + 1) * px {
                    let line = &p.values[y / p.factor * p.width..][..p.width];
                    let (first, last) = (col * px, (col + 1) * px);
                    match p.factor {
                        1 => out.extend_from_slice(&line[first..last]),
                        2 if px.is_multiple_of(2) => {
                            line[first / 2..last / 2].iter().for_each(|x| out.extend([*x; 2]));
                        }
                        f => out.extend((first..last).map(|x| line[x / f])),
                    }
                }
            }
            out
        };
        patch.s1 = pixels(&planes[..radar]);
        if scene.linear {
            patch.s1.iter_mut().for_each(|x| *x = if *x > 0.0 { decibels(*x) } else { f32::NAN });
        }
        patch.s2 = pixels(&planes[radar..]);
        if scene.offset != 0.0 {
            patch.s2.iter_mut().for_each(|x| *x = (*x - scene.offset).max(0.0));
        }
        patch.geo = ruler
            .geo
            .as_ref()
            .map(|geo| Geo::new(shifted(&geo.transform, col * px, row * px), geo.crs.clone(), px, px));
        patch.mask = scene.mask.as_ref().map(|mask| {
            (row * px..(row + 1) * px).flat_map(|y| &mask[y * ruler.width + col * px..][..px]).copied().collect()
        });
        patch
    };
    let places: Vec<(usize, usize)> = (0..shape.0).flat_map(|row| (0..shape.1).map(move |col| (row, col))).collect();
    Ok(Cut { shape, patches: places.into_iter().map(one).collect(), notes })
}

/// The 10 m grid over radar alone that is finer than that (some Major TOM tiles are at 7.5 m).
fn ten_metres(band: &Band) -> Option<Band> {
    let geo = band.geo.as_ref().filter(|geo| geo.transform[1] < 9.99 && geo.crs.starts_with("EPSG:32"))?;
    let side = |low: usize| ((geo.bounds[low + 2] - geo.bounds[low]) / 10.0).round() as usize;
    let (width, height) = (side(0), side(1));
    let transform = [geo.bounds[0], 10.0, 0.0, geo.bounds[3], 0.0, -10.0];
    let geo = Some(Geo::new(transform, geo.crs.clone(), width, height));
    let (name, dtype, from) = (band.name.clone(), band.dtype.clone(), band.from.clone());
    Some(Band { name, dtype, values: vec![], width, height, geo, from })
}

/// Linear backscatter in decibels.
pub fn decibels(x: f32) -> f32 {
    10.0 * x.max(1e-10).log10()
}

/// The bands a model uses, in its order, all of each sensor that the scene has any of.
fn wanted(scene: &Scene) -> Result<Vec<&Band>> {
    let find = |name: &str| scene.bands.iter().find(|b| b.name == name);
    let mut bands = vec![];
    for sensor in [Sensor::S1, Sensor::S2] {
        let found: Vec<&Band> = sensor.bands().iter().filter_map(|name| find(name)).collect();
        if !found.is_empty() && found.len() < sensor.channels() {
            let absent: Vec<&str> = sensor.bands().iter().filter(|name| find(name).is_none()).copied().collect();
            return Err(missing(scene, &absent));
        }
        bands.extend(found);
    }
    Ok(bands)
}

fn missing(scene: &Scene, bands: &[&str]) -> Error {
    let from = scene.bands.first().map_or(&scene.id, |b| &b.from);
    let have: Vec<&str> = scene.bands.iter().map(|b| b.name.as_str()).collect();
    let problem = format!("bands {} missing, found {}", bands.join(" "), have.join(" "));
    Error::new(from, problem, "fetch the scene again with all bands the model uses")
}

/// Brings a band onto the ruler's grid: repeated where it is coarser by a whole factor, averaged by area where it is finer.
fn plane<'a>(band: &'a Band, ruler: &Band, notes: &mut Vec<&'static str>) -> Result<Plane<'a>> {
    let disagrees = |problem: String| Error::new(&band.from, problem, "resample one image to the other's grid");
    if band.values.len() != band.width * band.height || band.values.is_empty() {
        return Err(disagrees(format!("{} values for {} x {} pixels", band.values.len(), band.width, band.height)));
    }
    match (&band.geo, &ruler.geo) {
        (Some(mine), Some(theirs)) => {
            // A tenth of a fine pixel: less than any resampling error.
            let tolerance = 0.1 * ruler_pixel(theirs, ruler);
            if mine.bounds.iter().zip(&theirs.bounds).any(|(a, b)| (a - b).abs() > tolerance) || mine.crs != theirs.crs
            {
                return Err(disagrees(format!(
                    "its geotransform puts it at {:?} {}, that of {} at {:?} {}",
                    mine.bounds, mine.crs, ruler.from, theirs.bounds, theirs.crs
                )));
            }
        }
        (None, None) => {}
        _ => return Err(disagrees(format!("only one of it and {} is georeferenced", ruler.from))),
    }
    let factor = ruler.width.checked_div(band.width).unwrap_or(0);
    if factor > 0 && (band.width * factor, band.height * factor) == (ruler.width, ruler.height) {
        return Ok(Plane { values: Cow::Borrowed(&band.values), width: band.width, factor });
    }
    if band.geo.is_some() && band.width > ruler.width && band.height > ruler.height {
        let note = "S1 on a finer grid, averaged by area";
        if !notes.contains(&note) {
            notes.push(note);
        }
        let values = average(&band.values, (band.width, band.height), (ruler.width, ruler.height));
        return Ok(Plane { values: Cow::Owned(values), width: ruler.width, factor: 1 });
    }
    let problem = format!("{} x {} pixels do not fit the {} x {}", band.width, band.height, ruler.width, ruler.height);
    Err(disagrees(format!("{problem} of {}", ruler.from)))
}

fn ruler_pixel(geo: &Geo, ruler: &Band) -> f64 {
    (geo.bounds[2] - geo.bounds[0]) / ruler.width as f64
}

/// Means weighted by the area of each fine pixel inside the coarse one; missing where any of them is.
pub fn average(values: &[f32], (w, h): (usize, usize), (width, height): (usize, usize)) -> Vec<f32> {
    let across: Vec<f32> = values.chunks_exact(w).flat_map(|row| shares(row.len(), width, |i| row[i])).collect();
    let columns = (0..width).map(|x| shares(h, height, |i| across[i * width + x])).collect::<Vec<_>>();
    (0..height).flat_map(|y| columns.iter().map(move |column| column[y])).collect()
}

/// `from` values as `to` < `from` means over equal shares of their length.
fn shares(from: usize, to: usize, value: impl Fn(usize) -> f32) -> Vec<f32> {
    let step = from as f64 / to as f64;
    let one = |k: usize| {
        let (start, end) = (k as f64 * step, (k as f64 + 1.0) * step);
        let sum: f64 = (start as usize..(end.ceil() as usize).min(from))
            .map(|i| {
                let weight = end.min(i as f64 + 1.0) - start.max(i as f64);
                // A sliver that is rounding must not spread a missing pixel.
                if weight < 1e-9 { 0.0 } else { weight * f64::from(value(i)) }
            })
            .sum();
        (sum / step) as f32
    };
    (0..to).map(one).collect()
}
