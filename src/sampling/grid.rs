//! The Major TOM grid (Francis & Czerkawski 2024): rows of equal latitude, columns of equal longitude, 10 km apart.
//!
//! A cell is its *bottom-left corner*; its tile is a square of 10,680 m in the corner's UTM zone.

use std::ops::RangeInclusive;

use rayon::prelude::*;

use super::area::Area;
use super::utm::Zone;

/// Earth radius of the grid, km.
const RADIUS_KM: f64 = 6378.137;
/// Distance of neighbouring corners, km.
const SPACING_KM: f64 = 10.0;
/// Rows from pole to pole: ceil(pi R / spacing).
const ROWS: i32 = 2004;
/// Corners beyond this latitude are not part of the grid, degrees.
const LAT_LIMIT: f64 = 85.0;
/// Cells of the whole grid.
pub const CELLS: usize = 5_094_350;
/// Side of a tile, metres.
pub const TILE_SIDE: f64 = 10_680.0;
/// How far a tile reaches out over its corner, metres.
const MARGIN: f64 = 340.0;
/// From the corner to the centre, metres in easting and in northing.
const HALF: f64 = 5_000.0;

/// One cell: `row` up from the equator, `col` right of Greenwich.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cell {
    pub row: i32,
    pub col: i32,
}

/// A point on the ellipsoid, degrees.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    pub lat: f64,
    pub lon: f64,
}

/// The tile of a cell in its own UTM zone, metres.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Footprint {
    pub zone: Zone,
    pub left: f64,
    pub bottom: f64,
}

/// Columns in a row: ceil(2 pi R cos(lat) / spacing).
fn columns(row: i32) -> i32 {
    let lat = row_latitude(row).to_radians();
    (2.0 * std::f64::consts::PI * RADIUS_KM * lat.cos() / SPACING_KM).ceil() as i32
}

fn row_latitude(row: i32) -> f64 {
    f64::from(row) * 180.0 / f64::from(ROWS)
}

/// Every row of the grid, south to north.
pub fn rows() -> RangeInclusive<i32> {
    let last = (LAT_LIMIT * f64::from(ROWS) / 180.0).floor() as i32;
    -last..=last
}

/// Every column of a row, west to east.
pub fn row_columns(row: i32) -> RangeInclusive<i32> {
    let n = columns(row);
    -(n / 2)..=n - n / 2 - 1
}

impl Cell {
    /// `454U_120R`: up or down of the equator, right or left of Greenwich.
    pub fn name(self) -> String {
        let (v, h) = (if self.row < 0 { 'D' } else { 'U' }, if self.col < 0 { 'L' } else { 'R' });
        format!("{}{v}_{}{h}", self.row.abs(), self.col.abs())
    }

    /// The inverse of [`Cell::name`]; None for anything that is not a cell of the grid.
    pub fn parse(name: &str) -> Option<Cell> {
        let signed = |part: &str, plus: char, minus: char| -> Option<i32> {
            let sign =
                part.chars().last().and_then(|c| if c == plus { Some(1) } else { (c == minus).then_some(-1) })?;
            let digits = &part[..part.len() - 1];
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            digits.parse::<i32>().ok().map(|v| sign * v)
        };
        let (row, col) = name.split_once('_')?;
        let cell = Cell { row: signed(row, 'U', 'D')?, col: signed(col, 'R', 'L')? };
        cell.exists().then_some(cell)
    }

    /// Whether the grid has this cell.
    pub fn exists(self) -> bool {
        rows().contains(&self.row) && row_columns(self.row).contains(&self.col)
    }

    /// The bottom-left corner, degrees.
    pub fn corner(self) -> Point {
        let lon = f64::from(self.col) * 360.0 / f64::from(columns(self.row));
        Point { lat: row_latitude(self.row), lon }
    }

    /// The UTM zone of the corner.
    pub fn zone(self) -> Zone {
        let p = self.corner();
        Zone::of(p.lat, p.lon)
    }

    /// The tile's square in the zone of its corner.
    pub fn footprint(self) -> Footprint {
        let (zone, e, n) = self.projected();
        Footprint { zone, left: e - MARGIN, bottom: n - MARGIN }
    }

    /// The point the descriptors are read at, degrees.
    pub fn centre(self) -> Point {
        let (zone, e, n) = self.projected();
        let (lat, lon) = zone.inverse(e + HALF, n + HALF);
        Point { lat, lon }
    }

    fn projected(self) -> (Zone, f64, f64) {
        let p = self.corner();
        let zone = Zone::of(p.lat, p.lon);
        let (e, n) = zone.forward(p.lat, p.lon);
        (zone, e, n)
    }
}

/// A cell and its centre.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Site {
    pub cell: Cell,
    pub centre: Point,
}

/// All cells whose centre lies in `area`, by row and column; the work is shared over rayon's threads.
pub fn sites(area: &Area) -> Vec<Site> {
    // A centre lies within a row's spacing of its corner, so far rows need no projection.
    let near = |row: &i32| {
        let lat = row_latitude(*row);
        lat + 0.2 >= area.south() && lat - 0.2 <= area.north()
    };
    let rows: Vec<i32> = rows().filter(near).collect();
    let found: Vec<Vec<Site>> = rows
        .into_par_iter()
        .map(|row| {
            let site = |col| {
                let cell = Cell { row, col };
                Site { cell, centre: cell.centre() }
            };
            row_columns(row).map(site).filter(|s| area.contains(s.centre)).collect()
        })
        .collect();
    found.concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_every_cell() {
        let cells: usize = rows().map(|r| row_columns(r).count()).sum();
        assert_eq!(cells, CELLS);
        assert_eq!(ROWS, (std::f64::consts::PI * RADIUS_KM / SPACING_KM).ceil() as i32);
    }

    #[test]
    fn published_centres() {
        for (name, lat, lon) in [
            ("454U_120R", 40.823861, 14.292709),
            ("922D_249L", -82.770666, -178.200331),
            ("455U_119R", 40.913731, 14.192730),
        ] {
            let centre = Cell::parse(name).unwrap().centre();
            assert!((centre.lat - lat).abs() < 1e-6 && (centre.lon - lon).abs() < 1e-6, "{name}: {centre:?}");
        }
    }

    #[test]
    fn names_round_trip_and_strangers_are_refused() {
        for row in rows().step_by(37) {
            for col in row_columns(row).step_by(101).chain([*row_columns(row).end()]) {
                let cell = Cell { row, col };
                assert_eq!(Cell::parse(&cell.name()), Some(cell));
            }
        }
        for name in
            ["", "454U", "454U_120", "454X_120R", "U_R", "+4U_1R", "-4U_1R", "947U_0R", "0U_2004R", "0U_2005L", "1U_1é"]
        {
            assert_eq!(Cell::parse(name), None, "{name}");
        }
    }

    #[test]
    fn the_equator_and_the_date_line() {
        assert_eq!(Cell { row: 0, col: 0 }.name(), "0U_0R");
        assert_eq!(Cell { row: -1, col: -1 }.name(), "1D_1L");
        assert_eq!(row_columns(0), -2004..=2003);
        let west = Cell { row: 0, col: -2004 };
        assert_eq!(west.corner(), Point { lat: 0.0, lon: -180.0 });
        assert_eq!(west.zone().epsg(), 32601);
        assert_eq!(Cell { row: -1, col: 2003 }.zone().epsg(), 32760);
    }

    #[test]
    fn a_tile_is_centred_on_its_cell() {
        let cell = Cell::parse("454U_120R").unwrap();
        let foot = cell.footprint();
        let centre = cell.centre();
        let (e, n) = foot.zone.forward(centre.lat, centre.lon);
        assert!((e - foot.left - TILE_SIDE / 2.0).abs() < 1e-6);
        assert!((n - foot.bottom - TILE_SIDE / 2.0).abs() < 1e-6);
    }

    #[test]
    fn a_box_takes_the_cells_inside_it_and_only_those() {
        let area = Area::new().with_box(10.0, 40.0, 15.0, 45.0);
        let found = sites(&area);
        let expected: Vec<Cell> = rows()
            .flat_map(|row| row_columns(row).map(move |col| Cell { row, col }))
            .filter(|c| (38.0..47.0).contains(&c.corner().lat))
            .filter(|c| {
                let p = c.centre();
                (40.0..=45.0).contains(&p.lat) && (10.0..=15.0).contains(&p.lon)
            })
            .collect();
        assert!(expected.len() > 2000);
        assert_eq!(found.iter().map(|s| s.cell).collect::<Vec<_>>(), expected);
    }
}
