//! Tiles per square of one degree, on a map in longitude and latitude.

use std::collections::HashMap;
use std::path::Path;

use anyhow::Result;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::{Canvas, GREY, bar, drawing, picture, thousands, write};

/// Pixels of a degree: whole, so that every square is as large as the next.
const DEGREE: i32 = 4;
const LEFT: i32 = 50;
const TOP: i32 = 50;
const COAST: RGBColor = RGBColor(90, 90, 90);
const LAND: RGBColor = RGBColor(232, 230, 224);
/// Least count of a class and its colour, from few to many.
const CLASSES: [(u32, &str, RGBColor); 7] = [
    (1, "1", RGBColor(253, 204, 92)),
    (2, "2", RGBColor(253, 157, 60)),
    (3, "3", RGBColor(240, 105, 49)),
    (4, "4-5", RGBColor(212, 54, 72)),
    (6, "6-8", RGBColor(160, 26, 100)),
    (9, "9-15", RGBColor(98, 14, 108)),
    (16, "16 or more", RGBColor(28, 8, 64)),
];

/// Where the climate raster has a class, by squares of half a degree from 180 W, 90 N.
pub struct Land {
    inside: Vec<bool>,
}

impl Land {
    /// Squares of a row, and rows.
    pub const SIZE: (usize, usize) = (720, 360);

    /// From the squares row by row.
    pub fn new(inside: Vec<bool>) -> Land {
        assert_eq!(inside.len(), Self::SIZE.0 * Self::SIZE.1);
        Land { inside }
    }

    /// (lat, lon) of the squares' centres, in order.
    pub fn centres() -> impl Iterator<Item = (f64, f64)> {
        (0..Self::SIZE.1)
            .flat_map(|r| (0..Self::SIZE.0).map(move |c| (89.75 - 0.5 * r as f64, 0.5 * c as f64 - 179.75)))
    }

    fn has(&self, column: i32, row: i32) -> bool {
        let (columns, rows) = (Self::SIZE.0 as i32, Self::SIZE.1 as i32);
        (0..columns).contains(&column) && (0..rows).contains(&row) && self.inside[(row * columns + column) as usize]
    }

    /// The coast as lines of corners, in half degrees from 180 W, 90 N: edges with land on one side, chained.
    fn coast(&self) -> Vec<Vec<(i32, i32)>> {
        let mut next: HashMap<(i32, i32), Vec<(i32, i32)>> = HashMap::new();
        let mut order = Vec::new();
        for row in 0..Self::SIZE.1 as i32 {
            for column in (0..Self::SIZE.0 as i32).filter(|&c| self.has(c, row)) {
                let corners = [(column, row), (column + 1, row), (column + 1, row + 1), (column, row + 1)];
                let beside = [(column, row - 1), (column + 1, row), (column, row + 1), (column - 1, row)];
                for side in (0..4).filter(|&s| !self.has(beside[s].0, beside[s].1)) {
                    next.entry(corners[side]).or_default().push(corners[(side + 1) % 4]);
                    order.push(corners[side]);
                }
            }
        }
        let mut lines = Vec::new();
        for start in order {
            let mut line = vec![start];
            while let Some(to) = next.get_mut(line.last().unwrap_or(&start)).and_then(Vec::pop) {
                // A straight line needs its ends only.
                if let [.., a, b] = line[..]
                    && (b.0 - a.0).signum() == (to.0 - b.0).signum()
                    && (b.1 - a.1).signum() == (to.1 - b.1).signum()
                {
                    line.pop();
                }
                line.push(to);
            }
            if line.len() > 1 {
                lines.push(line);
            }
        }
        lines
    }
}

/// One set of tiles.
pub struct Panel<'a> {
    pub title: &'a str,
    /// (lat, lon), degrees.
    pub tiles: Vec<(f64, f64)>,
}

/// Draws the panels one below the other, over the latitudes where there are tiles.
///
/// # Errors
/// A file that cannot be written.
pub fn tiles_map(path: &Path, panels: &[Panel], land: Option<&Land>) -> Result<()> {
    let lats = || panels.iter().flat_map(|p| p.tiles.iter().map(|t| t.0));
    let edge = |least: f64| (least / 5.0).floor() as i32 * 5;
    let south = edge(lats().fold(90.0, f64::min)).max(-90);
    let north = -edge(-lats().fold(-90.0, f64::max)).min(90);
    let (width, height) = (360 * DEGREE, (north - south).max(5) * DEGREE);
    let step = height + 90;
    let size = ((LEFT + width + 30) as u32, (panels.len() as i32 * step + 60) as u32);
    let coast = land.map(Land::coast);
    picture(path, size, |canvas| {
        for (i, panel) in panels.iter().enumerate() {
            let top = TOP + i as i32 * step;
            let at = |x: i32, y: i32| (LEFT + x, top + y);
            // Longitudes and latitudes to pixels of the panel.
            let place = |halves: (i32, i32)| at(halves.0 * DEGREE / 2, (halves.1 - 2 * (90 - north)) * DEGREE / 2);
            if let (Some(land), Some(coast)) = (land, &coast) {
                fill(canvas, land, (north, south), &place)?;
                for line in coast {
                    let points: Vec<(i32, i32)> = line.iter().map(|&p| place(p)).collect();
                    // A coast that leaves the panel is cut there.
                    for part in points.split(|p| p.1 < top || p.1 > top + height).filter(|p| p.len() > 1) {
                        canvas.draw(&PathElement::new(part.to_vec(), COAST.stroke_width(1))).map_err(drawing)?;
                    }
                }
            }
            let counts = squares(&panel.tiles);
            for (&(lat, lon), &n) in &counts {
                let class = CLASSES.iter().rev().find(|c| n >= c.0).unwrap_or(&CLASSES[0]);
                bar(canvas, place((2 * (lon + 180), 2 * (89 - lat))), (DEGREE, DEGREE), class.2)?;
            }
            frame(canvas, at(0, 0), (width, height), (south, north))?;
            let most = counts.values().copied().max().unwrap_or(0);
            let title = format!(
                "{}: {} tiles in {} squares of one degree, at most {most} in one",
                panel.title,
                thousands(panel.tiles.len()),
                thousands(counts.len())
            );
            write(canvas, &title, at(0, -10), 20, BLACK, (HPos::Left, VPos::Bottom))?;
        }
        legend(canvas, (LEFT, panels.len() as i32 * step + 20))
    })
}

/// Tiles of every square that has some, by its south-west corner.
fn squares(tiles: &[(f64, f64)]) -> std::collections::BTreeMap<(i32, i32), u32> {
    let mut counts = std::collections::BTreeMap::new();
    for &(lat, lon) in tiles {
        let corner = ((lat.floor() as i32).min(89), (lon.floor() as i32).min(179));
        *counts.entry(corner).or_default() += 1;
    }
    counts
}

/// Paints the land, a bar for each run of squares.
fn fill(canvas: &Canvas, land: &Land, lats: (i32, i32), place: &dyn Fn((i32, i32)) -> (i32, i32)) -> Result<()> {
    for row in 2 * (90 - lats.0)..2 * (90 - lats.1) {
        let mut column = 0;
        while column < Land::SIZE.0 as i32 {
            let end = (column..Land::SIZE.0 as i32).find(|&c| !land.has(c, row)).unwrap_or(Land::SIZE.0 as i32);
            if end > column {
                bar(canvas, place((column, row)), ((end - column) * DEGREE / 2, DEGREE / 2), LAND)?;
            }
            column = end + 1;
        }
    }
    Ok(())
}

fn frame(canvas: &Canvas, corner: (i32, i32), size: (i32, i32), lats: (i32, i32)) -> Result<()> {
    let far = (corner.0 + size.0, corner.1 + size.1);
    canvas.draw(&Rectangle::new([corner, far], GREY.stroke_width(1))).map_err(drawing)?;
    for lon in (-180..=180).step_by(60) {
        let x = corner.0 + (lon + 180) * DEGREE;
        canvas.draw(&PathElement::new([(x, far.1), (x, far.1 + 5)], GREY)).map_err(drawing)?;
        let name = match lon {
            0 | 180 | -180 => format!("{}\u{b0}", lon.abs()),
            _ => format!("{}\u{b0} {}", lon.abs(), if lon < 0 { "W" } else { "E" }),
        };
        write(canvas, &name, (x, far.1 + 8), 13, GREY, (HPos::Center, VPos::Top))?;
    }
    for lat in (-60..=80).step_by(20).filter(|l| (lats.0..=lats.1).contains(l)) {
        let y = corner.1 + (lats.1 - lat) * DEGREE;
        canvas.draw(&PathElement::new([(corner.0 - 5, y), (corner.0, y)], GREY)).map_err(drawing)?;
        let side = ["S", "", "N"][(lat.signum() + 1) as usize];
        write(
            canvas,
            &format!("{}\u{b0} {side}", lat.abs()),
            (corner.0 - 8, y),
            13,
            GREY,
            (HPos::Right, VPos::Center),
        )?;
    }
    Ok(())
}

fn legend(canvas: &Canvas, corner: (i32, i32)) -> Result<()> {
    write(canvas, "tiles per square", (corner.0, corner.1 + 7), 14, BLACK, (HPos::Left, VPos::Center))?;
    for (i, (_, name, color)) in CLASSES.iter().enumerate() {
        let x = corner.0 + 125 + 75 * i as i32;
        bar(canvas, (x, corner.1), (14, 14), *color)?;
        write(canvas, name, (x + 20, corner.1 + 7), 14, BLACK, (HPos::Left, VPos::Center))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn land(inside: impl Fn(i32, i32) -> bool) -> Land {
        let (columns, rows) = (Land::SIZE.0 as i32, Land::SIZE.1 as i32);
        Land::new((0..columns * rows).map(|i| inside(i % columns, i / columns)).collect())
    }

    #[test]
    fn a_coast_runs_around_its_land() {
        // An island of 3 x 2 squares with a lake of one, and one square that touches it by a corner.
        let island =
            land(|c, r| ((10..14).contains(&c) && (20..23).contains(&r) && (c, r) != (11, 21)) || (c, r) == (14, 23));
        let coast = island.coast();
        // Edges counted square by square.
        let length: i32 =
            coast.iter().flat_map(|l| l.windows(2)).map(|w| (w[0].0 - w[1].0).abs() + (w[0].1 - w[1].1).abs()).sum();
        assert_eq!(length, 14 + 4 + 4);
        assert!(coast.iter().all(|l| l.first() == l.last()), "{coast:?}");
        assert!(land(|_, _| false).coast().is_empty());
    }

    #[test]
    fn squares_are_named_by_their_south_west_corner() {
        let counts = squares(&[(0.5, 0.5), (0.9, 0.1), (-0.5, -0.5), (90.0, 180.0)]);
        assert_eq!(counts.into_iter().collect::<Vec<_>>(), [((-1, -1), 1), ((0, 0), 2), ((89, 179), 1)]);
    }
}
