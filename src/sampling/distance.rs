//! Distances on the sphere, and the points of a stratum as unit vectors.

/// Mean Earth radius (IUGG), km.
pub const EARTH_RADIUS_KM: f64 = 6371.0088;

/// The unit vector of a point given in degrees.
pub fn unit_vector(lat: f64, lon: f64) -> [f64; 3] {
    let (sin_lat, cos_lat) = lat.to_radians().sin_cos();
    let (sin_lon, cos_lon) = lon.to_radians().sin_cos();
    [cos_lat * cos_lon, cos_lat * sin_lon, sin_lat]
}

/// The dot product, in the one order of operations that every kernel here uses; it is the same for (a, b) and (b, a).
#[inline(always)]
pub fn dot(a: [f64; 3], b: [f64; 3]) -> f64 {
    a[0].mul_add(b[0], a[1].mul_add(b[1], a[2] * b[2]))
}

/// Great-circle distance of two points in degrees, km, by the haversine formula: the reference for all others.
pub fn haversine_km(lat1: f64, lon1: f64, lat2: f64, lon2: f64) -> f64 {
    let (dlat, dlon) = ((lat2 - lat1).to_radians() / 2.0, (lon2 - lon1).to_radians() / 2.0);
    let h = dlat.sin().powi(2) + lat1.to_radians().cos() * lat2.to_radians().cos() * dlon.sin().powi(2);
    2.0 * EARTH_RADIUS_KM * h.min(1.0).sqrt().asin()
}

/// The points of one stratum, ranked along the direction in which they spread most.
///
/// A point nearer than a chord c differs by less than c in that coordinate, so neighbours are sought in a window of ranks.
#[derive(Clone, Debug)]
pub struct Points {
    /// x, y, z and the coordinate along the axis, by rank.
    at: Vec<[f64; 4]>,
    /// Position in the caller's list, by rank.
    order: Vec<u32>,
}

impl Points {
    /// Ranks points given as unit vectors; ties keep the caller's order.
    pub fn new(vectors: &[[f64; 3]]) -> Points {
        let axis = principal_axis(vectors);
        let mut keyed: Vec<(f64, u32)> = vectors.iter().enumerate().map(|(i, &v)| (dot(v, axis), i as u32)).collect();
        keyed.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let place = |&(key, i): &(f64, u32)| {
            let [x, y, z] = vectors[i as usize];
            [x, y, z, key]
        };
        Points { at: keyed.iter().map(place).collect(), order: keyed.iter().map(|k| k.1).collect() }
    }

    /// How many points.
    pub fn len(&self) -> usize {
        self.at.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.at.is_empty()
    }

    /// x, y, z and the coordinate along the axis of the point with this rank.
    #[inline(always)]
    pub fn at(&self, rank: u32) -> [f64; 4] {
        self.at[rank as usize]
    }

    /// The position in the list given to [`Points::new`] of the point with this rank.
    pub fn original(&self, rank: u32) -> u32 {
        self.order[rank as usize]
    }
}

/// The direction of the greatest variance, by power iteration on the covariance; any unit vector would be correct, this one is quick.
fn principal_axis(vectors: &[[f64; 3]]) -> [f64; 3] {
    let n = vectors.len().max(1) as f64;
    let mean: [f64; 3] = std::array::from_fn(|k| vectors.iter().map(|v| v[k]).sum::<f64>() / n);
    let covariance: [[f64; 3]; 3] = std::array::from_fn(|i| {
        std::array::from_fn(|j| vectors.iter().map(|v| (v[i] - mean[i]) * (v[j] - mean[j])).sum::<f64>() / n)
    });
    let mut axis = [0.48, 0.6, 0.64];
    for _ in 0..60 {
        let next: [f64; 3] = std::array::from_fn(|i| dot(covariance[i], axis));
        let length = dot(next, next).sqrt();
        if length < 1e-300 {
            break;
        }
        axis = next.map(|a| a / length);
    }
    axis
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn haversine_against_vincentys_formula() {
        // The special case of equal axes (Vincenty 1975): atan2 of cross and dot, exact at every distance.
        let mut worst = 0.0f64;
        for i in 0..2000u32 {
            let lat1 = f64::from(i.wrapping_mul(2_654_435_761) % 18_001) / 100.0 - 90.0;
            let lat2 = f64::from(i.wrapping_mul(40_503) % 18_001) / 100.0 - 90.0;
            let lon2 = f64::from(i.wrapping_mul(69_069) % 36_001) / 100.0 - 180.0;
            let (p, q) = (unit_vector(lat1, 10.0), unit_vector(lat2, lon2));
            let cross = [p[1] * q[2] - p[2] * q[1], p[2] * q[0] - p[0] * q[2], p[0] * q[1] - p[1] * q[0]];
            let exact = EARTH_RADIUS_KM * dot(cross, cross).sqrt().atan2(dot(p, q));
            // Near the antipode the haversine itself loses half its digits.
            if exact < 0.99 * std::f64::consts::PI * EARTH_RADIUS_KM {
                worst =
                    worst.max((haversine_km(lat1, 10.0, lat2, lon2) / exact.max(1e-3) - exact / exact.max(1e-3)).abs());
            }
        }
        assert!(worst < 1e-9, "{worst}");
        assert!((haversine_km(0.0, 0.0, 0.0, 90.0) - EARTH_RADIUS_KM * std::f64::consts::FRAC_PI_2).abs() < 1e-9);
        assert!((haversine_km(90.0, 0.0, -90.0, 0.0) - EARTH_RADIUS_KM * std::f64::consts::PI).abs() < 1e-9);
    }

    #[test]
    fn points_keep_their_places_and_are_ranked() {
        let vectors: Vec<[f64; 3]> =
            (0..50).map(|i| unit_vector(f64::from(i * 7 % 50), f64::from(i * 31 % 90))).collect();
        let points = Points::new(&vectors);
        for rank in 0..50 {
            let [x, y, z, _] = points.at(rank);
            assert_eq!([x, y, z], vectors[points.original(rank) as usize]);
            assert!(rank == 0 || points.at(rank - 1)[3] <= points.at(rank)[3]);
        }
    }
}
