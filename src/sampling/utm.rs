//! Universal Transverse Mercator on WGS 84, both ways.
//!
//! Krüger's series in the third flattening n, to n^4 (Karney 2011, "Transverse Mercator with an accuracy of a few
//! nanometers", eqs. 7-11, 15, 25, 35, 36): inside a zone the truncation stays below a micrometre.

/// WGS 84 equatorial radius, metres.
const A: f64 = 6_378_137.0;
/// WGS 84 flattening.
const F: f64 = 1.0 / 298.257_223_563;
const N: f64 = F / (2.0 - F);
/// First eccentricity.
const E2: f64 = F * (2.0 - F);
const SCALE: f64 = 0.9996;
const FALSE_EASTING: f64 = 500_000.0;
const FALSE_NORTHING_SOUTH: f64 = 10_000_000.0;

/// Rectifying radius times the central scale, metres.
const RADIUS: f64 = SCALE * A / (1.0 + N) * (1.0 + N * N / 4.0 + N * N * N * N / 64.0);

const ALPHA: [f64; 4] = [
    N / 2.0 - N * N * 2.0 / 3.0 + N * N * N * 5.0 / 16.0 + N * N * N * N * 41.0 / 180.0,
    N * N * 13.0 / 48.0 - N * N * N * 3.0 / 5.0 + N * N * N * N * 557.0 / 1440.0,
    N * N * N * 61.0 / 240.0 - N * N * N * N * 103.0 / 140.0,
    N * N * N * N * 49561.0 / 161280.0,
];
const BETA: [f64; 4] = [
    N / 2.0 - N * N * 2.0 / 3.0 + N * N * N * 37.0 / 96.0 - N * N * N * N / 360.0,
    N * N / 48.0 + N * N * N / 15.0 - N * N * N * N * 437.0 / 1440.0,
    N * N * N * 17.0 / 480.0 - N * N * N * N * 37.0 / 840.0,
    N * N * N * N * 4397.0 / 161280.0,
];

/// A UTM zone and hemisphere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Zone {
    /// 1..=60.
    pub number: u8,
    pub north: bool,
}

impl Zone {
    /// The zone of a point, with the exceptions of Norway (32V) and Svalbard (31X, 33X, 35X, 37X). Degrees.
    pub fn of(lat: f64, lon: f64) -> Zone {
        let plain = ((lon + 180.0) / 6.0).floor().rem_euclid(60.0) as u8 + 1;
        let number = if (56.0..64.0).contains(&lat) && (3.0..12.0).contains(&lon) {
            32
        } else if (72.0..84.0).contains(&lat) && (0.0..42.0).contains(&lon) {
            match lon {
                l if l < 9.0 => 31,
                l if l < 21.0 => 33,
                l if l < 33.0 => 35,
                _ => 37,
            }
        } else {
            plain
        };
        Zone { number, north: lat >= 0.0 }
    }

    /// EPSG code: 326xx in the north, 327xx in the south.
    pub fn epsg(self) -> u32 {
        (if self.north { 32600 } else { 32700 }) + u32::from(self.number)
    }

    fn central_meridian(self) -> f64 {
        f64::from(self.number) * 6.0 - 183.0
    }

    /// Latitude and longitude in degrees to easting and northing in metres.
    pub fn forward(self, lat: f64, lon: f64) -> (f64, f64) {
        let e = E2.sqrt();
        let (sin_lat, cos_lat) = lat.to_radians().sin_cos();
        let (sin_lon, cos_lon) = (lon - self.central_meridian()).to_radians().sin_cos();
        // Conformal latitude (eqs. 7-9): its tangent.
        let tau = sin_lat / cos_lat;
        let sigma = (e * (e * sin_lat).atanh()).sinh();
        let conformal = tau * secant(sigma) - sigma * secant(tau);
        let xi = conformal.atan2(cos_lon);
        let eta = (sin_lon / (conformal * conformal + cos_lon * cos_lon).sqrt()).asinh();
        let (dxi, deta) = series(&ALPHA, xi, eta);
        let northing = RADIUS * (xi + dxi);
        let shift = if self.north { 0.0 } else { FALSE_NORTHING_SOUTH };
        (FALSE_EASTING + RADIUS * (eta + deta), northing + shift)
    }

    /// Easting and northing in metres to latitude and longitude in degrees, longitude in [-180, 180).
    pub fn inverse(self, easting: f64, northing: f64) -> (f64, f64) {
        let e = E2.sqrt();
        let shift = if self.north { 0.0 } else { FALSE_NORTHING_SOUTH };
        let xi = (northing - shift) / RADIUS;
        let eta = (easting - FALSE_EASTING) / RADIUS;
        let (dxi, deta) = series(&BETA, xi, eta);
        let (xi, eta) = (xi - dxi, eta - deta);
        let (sin_xi, cos_xi) = xi.sin_cos();
        let sinh_eta = eta.sinh();
        let conformal = sin_xi / (sinh_eta * sinh_eta + cos_xi * cos_xi).sqrt();
        // Newton's method for the tangent of the latitude (eqs. 19-21); two steps reach the last digits (the start is off by e^2 at most).
        let mut tau = conformal / (1.0 - E2);
        for _ in 0..2 {
            let root = secant(tau);
            let sigma = (e * (e * tau / root).atanh()).sinh();
            let guess = tau * secant(sigma) - sigma * root;
            tau += (conformal - guess) / secant(guess) * (1.0 + (1.0 - E2) * tau * tau) / ((1.0 - E2) * root);
        }
        let lon = self.central_meridian() + sinh_eta.atan2(cos_xi).to_degrees();
        (tau.atan().to_degrees(), (lon + 180.0).rem_euclid(360.0) - 180.0)
    }
}

/// sqrt(1 + t^2); `hypot` guards against overflows that tangents of latitudes do not reach, at ten times the cost.
fn secant(t: f64) -> f64 {
    (1.0 + t * t).sqrt()
}

/// sum_j c_j sin 2j(xi + i eta), as (real, imaginary), by Clenshaw's recurrence in complex numbers.
fn series(c: &[f64; 4], xi: f64, eta: f64) -> (f64, f64) {
    let (s, co) = (2.0 * xi).sin_cos();
    let (sh, ch) = ((2.0 * eta).sinh(), (2.0 * eta).cosh());
    // 2 cos(2 zeta), zeta = xi + i eta.
    let (ar, ai) = (2.0 * co * ch, -2.0 * s * sh);
    let (mut b1, mut b2) = ((0.0, 0.0), (0.0, 0.0));
    for &cj in c.iter().rev() {
        let b0 = (ar * b1.0 - ai * b1.1 - b2.0 + cj, ar * b1.1 + ai * b1.0 - b2.1);
        b2 = b1;
        b1 = b0;
    }
    // times sin(2 zeta)
    let (sr, si) = (s * ch, co * sh);
    (b1.0 * sr - b1.1 * si, b1.0 * si + b1.1 * sr)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Easting and northing from GDAL 3.6 / PROJ 9.1: `gdaltransform -s_srs OGC:CRS84 -t_srs EPSG:<code>`.
    const GDAL: [(f64, f64, u32, f64, f64); 8] = [
        (0.25, 3.7, 32631, 577893.688359699, 27634.589541082),
        (40.823861, 14.292709, 32633, 440357.447512098, 4519444.92828793),
        (60.5, 3.1, 32632, 176185.645898449, 6721627.0955206),
        (78.2, 20.9, 32633, 634470.788939548, 8687473.56146027),
        (-59.3, -179.9, 32701, 334873.645610918, 3422947.62946575),
        (-82.7, -178.2, 32701, 482978.120625382, 816853.711183045),
        (84.9, 179.95, 32660, 529265.199910673, 9429319.25853877),
        (12.345678, -70.999, 32619, 282631.550046304, 1365589.49304336),
    ];

    #[test]
    fn agrees_with_gdal_to_a_micrometre() {
        for (lat, lon, epsg, easting, northing) in GDAL {
            let zone = Zone::of(lat, lon);
            assert_eq!(zone.epsg(), epsg, "{lat} {lon}");
            let (e, n) = zone.forward(lat, lon);
            assert!((e - easting).abs() < 1e-6 && (n - northing).abs() < 1e-6, "{lat} {lon}: {e} {n}");
        }
    }

    #[test]
    fn inverse_undoes_forward() {
        for zone in [Zone { number: 1, north: true }, Zone { number: 33, north: false }] {
            for i in 0..=34 {
                for j in -8..=8 {
                    let lat = if zone.north { 1.0 } else { -1.0 } * f64::from(i) * 2.5;
                    let lon = (zone.central_meridian() + f64::from(j) * 0.9 + 180.0).rem_euclid(360.0) - 180.0;
                    let (e, n) = zone.forward(lat, lon);
                    let (lat2, lon2) = zone.inverse(e, n);
                    assert!((lat - lat2).abs() < 5e-12 && (lon - lon2).abs() < 5e-11, "{lat} {lon}: {lat2} {lon2}");
                }
            }
        }
    }

    #[test]
    fn exceptions_of_norway_and_svalbard() {
        for (lat, lon, zone) in [
            (60.0, 3.0, 32),
            (60.0, 2.999, 31),
            (55.999, 5.0, 31),
            (64.0, 5.0, 31),
            (75.0, 8.9, 31),
            (75.0, 9.0, 33),
            (75.0, 21.0, 35),
            (75.0, 33.0, 37),
            (75.0, 42.0, 38),
            (84.0, 8.0, 32),
            (10.0, -180.0, 1),
            (10.0, 179.99, 60),
        ] {
            assert_eq!(Zone::of(lat, lon).number, zone, "{lat} {lon}");
        }
    }
}
