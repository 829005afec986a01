//! Where a tile lies: its affine transform and coordinate system, and its corners in longitude and latitude.

use serde::{Deserialize, Serialize};

/// Georeference of one tile.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Geo {
    /// GDAL's six coefficients: x = t0 + col t1 + row t2, y = t3 + col t4 + row t5, in units of the CRS.
    pub transform: [f64; 6],
    /// `EPSG:32633` where the code is known, else WKT.
    pub crs: String,
    /// [min x, min y, max x, max y] in units of the CRS.
    pub bounds: [f64; 4],
}

impl Geo {
    /// Georeference of a tile of `width` x `height` pixels.
    pub fn new(transform: [f64; 6], crs: impl Into<String>, width: usize, height: usize) -> Self {
        let corners = corners(&transform, width, height);
        let fold = |axis: usize, pick: fn(f64, f64) -> f64| {
            corners.iter().map(|c| [c.0, c.1][axis]).reduce(pick).unwrap_or(f64::NAN)
        };
        Self {
            transform,
            crs: crs.into(),
            bounds: [fold(0, f64::min), fold(1, f64::min), fold(0, f64::max), fold(1, f64::max)],
        }
    }

    /// Corners of `bounds` as (longitude, latitude) in degrees, counter-clockwise from the south-west.
    /// None when the CRS is neither geographic WGS 84 nor one of its UTM zones.
    pub fn lon_lat(&self) -> Option<[(f64, f64); 4]> {
        let [x0, y0, x1, y1] = self.bounds;
        let code: u32 = self.crs.strip_prefix("EPSG:")?.parse().ok()?;
        let corners = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)];
        match code {
            4326 => Some(corners),
            32601..=32660 => Some(corners.map(|(x, y)| utm_inverse(x, y, code - 32600, true))),
            32701..=32760 => Some(corners.map(|(x, y)| utm_inverse(x, y, code - 32700, false))),
            _ => None,
        }
    }
}

/// The transform of the window that starts at pixel (`col`, `row`).
pub fn shifted(t: &[f64; 6], col: usize, row: usize) -> [f64; 6] {
    let (c, r) = (col as f64, row as f64);
    [t[0] + c * t[1] + r * t[2], t[1], t[2], t[3] + c * t[4] + r * t[5], t[4], t[5]]
}

/// The four corners of a raster in units of its CRS.
pub fn corners(t: &[f64; 6], width: usize, height: usize) -> [(f64, f64); 4] {
    let at = |c: usize, r: usize| (t[0] + c as f64 * t[1] + r as f64 * t[2], t[3] + c as f64 * t[4] + r as f64 * t[5]);
    [at(0, 0), at(width, 0), at(width, height), at(0, height)]
}

// WGS 84 transverse Mercator: Krueger's series in the third flattening n, to n^3 (below a millimetre inside a zone).
const N: f64 = 0.001_679_220_386_383_705;
const SCALED_RADIUS: f64 = 0.9996 * 6_378_137.0 / (1.0 + N) * (1.0 + N * N / 4.0 + N * N * N * N / 64.0);

/// UTM metres to (longitude, latitude) in degrees.
pub fn utm_inverse(easting: f64, northing: f64, zone: u32, north: bool) -> (f64, f64) {
    let beta = [
        N / 2.0 - 2.0 * N * N / 3.0 + 37.0 * N.powi(3) / 96.0,
        N * N / 48.0 + N.powi(3) / 15.0,
        17.0 * N.powi(3) / 480.0,
    ];
    let delta = [
        2.0 * N - 2.0 * N * N / 3.0 - 2.0 * N.powi(3),
        7.0 * N * N / 3.0 - 8.0 * N.powi(3) / 5.0,
        56.0 * N.powi(3) / 15.0,
    ];
    let xi = (northing - if north { 0.0 } else { 10_000_000.0 }) / SCALED_RADIUS;
    let eta = (easting - 500_000.0) / SCALED_RADIUS;
    let (mut xi1, mut eta1) = (xi, eta);
    for (j, b) in beta.iter().enumerate() {
        let k = 2.0 * (j + 1) as f64;
        xi1 -= b * (k * xi).sin() * (k * eta).cosh();
        eta1 -= b * (k * xi).cos() * (k * eta).sinh();
    }
    let chi = (xi1.sin() / eta1.cosh()).asin();
    let latitude = delta.iter().enumerate().fold(chi, |lat, (j, d)| lat + d * (2.0 * (j + 1) as f64 * chi).sin());
    let longitude = (eta1.sinh()).atan2(xi1.cos());
    (longitude.to_degrees() + zone as f64 * 6.0 - 183.0, latitude.to_degrees())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utm_agrees_with_published_points() {
        // The central meridian on the equator, and the CN Tower (zone 17: 630084 E, 4833438 N; 43.642567 N, 79.387139 W).
        let (lon, lat) = utm_inverse(500_000.0, 0.0, 31, true);
        assert!((lon - 3.0).abs() < 1e-12 && lat.abs() < 1e-12);
        let (lon, lat) = utm_inverse(630_084.0, 4_833_438.0, 17, true);
        assert!((lon + 79.387_139).abs() < 1e-5 && (lat - 43.642_567).abs() < 1e-5, "{lon} {lat}");
        let (_, south) = utm_inverse(500_000.0, 10_000_000.0 - 4_833_438.0, 17, false);
        assert!((south + utm_inverse(500_000.0, 4_833_438.0, 17, true).1).abs() < 1e-12);
    }

    #[test]
    fn windows_shift_and_bound() {
        let whole = [600_000.0, 10.0, 0.0, 5_000_000.0, 0.0, -10.0];
        let geo = Geo::new(shifted(&whole, 12, 24), "EPSG:32633", 120, 120);
        assert_eq!(geo.bounds, [600_120.0, 4_998_560.0, 601_320.0, 4_999_760.0]);
        let ring = geo.lon_lat().unwrap();
        assert!(ring[0].0 < ring[1].0 && ring[1].1 < ring[2].1);
        assert!(Geo::new(whole, "LOCAL_CS[]", 1, 1).lon_lat().is_none());
    }
}
