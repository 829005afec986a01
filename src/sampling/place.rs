//! From a place to its cell: the other direction of [`super::grid`].

use std::collections::BTreeSet;

use super::grid::{Cell, Site, row_columns, rows};

/// A cell for each (lat, lon) in degrees, no two the same: the cell there, or the next free one to the east.
pub fn distinct_sites(places: impl Iterator<Item = (f64, f64)>) -> Vec<Site> {
    let mut taken = BTreeSet::new();
    let one = |(lat, lon): (f64, f64)| {
        let row_height = Cell { row: 1, col: 0 }.corner().lat;
        let row = ((lat / row_height).floor() as i32).clamp(*rows().start(), *rows().end());
        let columns = row_columns(row);
        let count = columns.clone().count() as i32;
        let mut col = ((lon * f64::from(count) / 360.0).floor() as i32).clamp(*columns.start(), *columns.end());
        while !taken.insert((row, col)) {
            col = if col == *columns.end() { *columns.start() } else { col + 1 };
        }
        let cell = Cell { row, col };
        Site { cell, centre: cell.centre() }
    };
    places.map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_footprint_is_the_real_tiles_geotransform() {
        // rasterio on B02 of tile 0U_199R of Core-S2L2A: EPSG:32633, origin (819627.364339148, 10340), 1068 pixels of 10 m.
        let footprint = Cell::parse("0U_199R").unwrap().footprint();
        assert_eq!(footprint.zone.epsg(), 32_633);
        assert!((footprint.left - 819_627.364_339_148).abs() < 1e-3, "{}", footprint.left);
        assert!((footprint.bottom + 10_680.0 - 10_340.0).abs() < 1e-3, "{}", footprint.bottom);
    }

    #[test]
    fn places_find_their_cells() {
        // A cell's centre lies inside it.
        for name in ["454U_120R", "455U_119R", "0U_199R", "100D_249L"] {
            let cell = Cell::parse(name).unwrap();
            let centre = cell.centre();
            let found = distinct_sites([(centre.lat, centre.lon); 2].into_iter());
            assert_eq!(found[0].cell.name(), name);
            assert_eq!((found[1].cell.row, found[1].cell.col), (cell.row, cell.col + 1));
        }
    }
}
