//! A part of the globe: latitudes, a box, polygons, or all of it.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::grid::Point;

/// A closed ring of (lon, lat), degrees.
type Ring = Vec<(f64, f64)>;

/// An intersection of restrictions; without any it is the globe.
#[derive(Clone, Debug, Default)]
pub struct Area {
    /// Least and greatest latitude.
    lats: Option<(f64, f64)>,
    /// West and east; west > east runs over the date line.
    lons: Option<(f64, f64)>,
    polygons: Option<Vec<Polygon>>,
}

/// An outline and its holes, even-odd, with its box: west, south, east, north.
#[derive(Clone, Debug)]
struct Polygon {
    rings: Vec<Ring>,
    bounds: [f64; 4],
}

impl Area {
    /// The globe.
    pub fn new() -> Area {
        Area::default()
    }

    /// Only latitudes in `[south, north]`.
    pub fn with_latitudes(mut self, south: f64, north: f64) -> Area {
        let (s, n) = self.lats.unwrap_or((-90.0, 90.0));
        self.lats = Some((s.max(south), n.min(north)));
        self
    }

    /// Only a box; `west > east` runs over the date line.
    pub fn with_box(self, west: f64, south: f64, east: f64, north: f64) -> Area {
        Area { lons: Some((west, east)), ..self.with_latitudes(south, north) }
    }

    /// Only the polygons of a GeoJSON file (Polygon, MultiPolygon, Feature, FeatureCollection, GeometryCollection), planar in lon, lat.
    pub fn with_polygons(mut self, path: &Path) -> Result<Area> {
        let text = std::fs::read_to_string(path).with_context(|| format!("{}: cannot be read", path.display()))?;
        let json: Value = serde_json::from_str(&text).with_context(|| format!("{}: not JSON", path.display()))?;
        let mut polygons = Vec::new();
        collect(&json, &mut polygons).with_context(|| path.display().to_string())?;
        ensure!(!polygons.is_empty(), "{}: no Polygon or MultiPolygon in it", path.display());
        self.polygons = Some(polygons);
        Ok(self)
    }

    /// The least latitude it can hold.
    pub fn south(&self) -> f64 {
        let south = self.polygons.iter().flatten().map(|p| p.bounds[1]).reduce(f64::min);
        self.lats.map_or(-90.0, |l| l.0).max(south.unwrap_or(-90.0))
    }

    /// The greatest latitude it can hold.
    pub fn north(&self) -> f64 {
        let north = self.polygons.iter().flatten().map(|p| p.bounds[3]).reduce(f64::max);
        self.lats.map_or(90.0, |l| l.1).min(north.unwrap_or(90.0))
    }

    /// Whether a point lies in it; the box's edges do.
    pub fn contains(&self, p: Point) -> bool {
        self.lats.is_none_or(|(s, n)| s <= p.lat && p.lat <= n)
            && self.lons.is_none_or(|(w, e)| if w <= e { w <= p.lon && p.lon <= e } else { p.lon >= w || p.lon <= e })
            && self.polygons.as_ref().is_none_or(|polygons| polygons.iter().any(|q| q.contains(p)))
    }
}

impl Polygon {
    fn contains(&self, p: Point) -> bool {
        let [west, south, east, north] = self.bounds;
        let inside = west <= p.lon && p.lon <= east && south <= p.lat && p.lat <= north;
        inside && self.rings.iter().map(|r| crossings(r, p)).sum::<usize>() % 2 == 1
    }
}

/// Edges that a ray to the east crosses.
fn crossings(ring: &Ring, p: Point) -> usize {
    let crosses = |w: &&[(f64, f64)]| {
        let ((x0, y0), (x1, y1)) = (w[0], w[1]);
        (y0 > p.lat) != (y1 > p.lat) && p.lon < (x1 - x0) * (p.lat - y0) / (y1 - y0) + x0
    };
    ring.windows(2).filter(crosses).count()
}

fn collect(json: &Value, polygons: &mut Vec<Polygon>) -> Result<()> {
    let list = |v: &Value| v.as_array().cloned().context("coordinates are not a list: expected GeoJSON nesting");
    match json["type"].as_str() {
        Some("FeatureCollection") => list(&json["features"])?.iter().try_for_each(|f| collect(f, polygons)),
        Some("GeometryCollection") => list(&json["geometries"])?.iter().try_for_each(|g| collect(g, polygons)),
        Some("Feature") => collect(&json["geometry"], polygons),
        Some("Polygon") => {
            polygons.push(polygon(&json["coordinates"])?);
            Ok(())
        }
        Some("MultiPolygon") => list(&json["coordinates"])?.iter().try_for_each(|p| {
            polygons.push(polygon(p)?);
            Ok(())
        }),
        Some(other) => bail!("a geometry of type {other}: only Polygon and MultiPolygon bound an area"),
        None => bail!("no \"type\" member: expected GeoJSON"),
    }
}

fn polygon(json: &Value) -> Result<Polygon> {
    let mut rings = Vec::new();
    let mut bounds = [f64::INFINITY, f64::INFINITY, f64::NEG_INFINITY, f64::NEG_INFINITY];
    for ring in json.as_array().context("a polygon's coordinates are not a list")? {
        let position = |p: &Value| Some((p[0].as_f64()?, p[1].as_f64()?));
        let mut points: Ring = ring
            .as_array()
            .and_then(|points| points.iter().map(position).collect())
            .context("a ring is not a list of [lon, lat]")?;
        ensure!(points.len() >= 3, "a ring of {} points: expected 3 at least", points.len());
        for &(lon, lat) in &points {
            ensure!(
                (-180.0..=180.0).contains(&lon) && (-90.0..=90.0).contains(&lat),
                "a position [{lon}, {lat}] outside [-180..180, -90..90]: expected degrees, longitude first; split polygons at the date line"
            );
            bounds = [bounds[0].min(lon), bounds[1].min(lat), bounds[2].max(lon), bounds[3].max(lat)];
        }
        if points.first() != points.last() {
            points.push(points[0]);
        }
        rings.push(points);
    }
    Ok(Polygon { rings, bounds })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn polygon_area(json: &str) -> Result<Area> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), json).unwrap();
        Area::new().with_polygons(file.path())
    }

    fn at(lat: f64, lon: f64) -> Point {
        Point { lat, lon }
    }

    #[test]
    fn a_polygon_with_a_hole() {
        let area = polygon_area(
            r#"{"type":"Feature","geometry":{"type":"Polygon","coordinates":
            [[[0,0],[10,0],[10,10],[0,10],[0,0]],[[4,4],[6,4],[6,6],[4,6],[4,4]]]}}"#,
        )
        .unwrap();
        assert!(area.contains(at(2.0, 2.0)));
        assert!(!area.contains(at(5.0, 5.0)));
        assert!(!area.contains(at(11.0, 5.0)));
        assert_eq!((area.south(), area.north()), (0.0, 10.0));
    }

    #[test]
    fn a_box_over_the_date_line() {
        let area = Area::new().with_box(170.0, -10.0, -170.0, 10.0);
        assert!(area.contains(at(0.0, 175.0)) && area.contains(at(0.0, -175.0)));
        assert!(!area.contains(at(0.0, 0.0)) && !area.contains(at(11.0, 175.0)));
    }

    #[test]
    fn bad_polygons_say_why() {
        for (json, why) in [
            ("{", "not JSON"),
            (r#"{"type":"Point","coordinates":[0,0]}"#, "Point"),
            (r#"{"type":"FeatureCollection","features":[]}"#, "no Polygon"),
            (r#"{"type":"Polygon","coordinates":[[[0,0],[500,0],[0,9]]]}"#, "[500, 0]"),
            (r#"{"type":"Polygon","coordinates":[[[0,0],[5,0]]]}"#, "2 points"),
        ] {
            let error = format!("{:#}", polygon_area(json).unwrap_err());
            assert!(error.contains(why), "{error}");
        }
    }
}
