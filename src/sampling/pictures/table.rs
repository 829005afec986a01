//! Strata as a heat map: climates down, land covers across, the tiles chosen of those there are.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::{GREY, bar, picture, thousands, write};

/// A stratum: its classes by name, and how many tiles.
pub struct StratumCount {
    pub climate: (i32, String),
    pub thematic: (i32, String),
    pub there: usize,
    pub chosen: usize,
}

const CELL: (i32, i32) = (94, 30);
const LEFT: i32 = 90;
const TOP: i32 = 95;

/// From white to blue by the logarithm of the tiles there are.
fn shade(there: usize, most: usize) -> RGBColor {
    let share = ((there.max(1) as f64).ln() / (most.max(2) as f64).ln()).clamp(0.0, 1.0);
    let mix = |from: f64, to: f64| (from + (to - from) * share) as u8;
    RGBColor(mix(245.0, 40.0), mix(249.0, 105.0), mix(253.0, 165.0))
}

/// Draws the table; classes in the order of their numbers.
///
/// # Errors
/// A file that cannot be written.
pub fn strata_table(path: &Path, strata: &[StratumCount]) -> Result<()> {
    fn places<'a>(classes: impl Iterator<Item = &'a (i32, String)>) -> BTreeMap<i32, (usize, &'a str)> {
        let names: BTreeMap<i32, &str> = classes.map(|c| (c.0, c.1.as_str())).collect();
        names.into_iter().enumerate().map(|(i, (id, name))| (id, (i, name))).collect()
    }
    let (rows, columns) = (places(strata.iter().map(|s| &s.climate)), places(strata.iter().map(|s| &s.thematic)));
    let most = strata.iter().map(|s| s.there).max().unwrap_or(1);
    let size = (LEFT + CELL.0 * columns.len() as i32 + 20, TOP + CELL.1 * rows.len() as i32 + 20);
    let (chosen, there) = strata.iter().fold((0, 0), |sum, s| (sum.0 + s.chosen, sum.1 + s.there));
    let title =
        format!("{} tiles chosen of {} in {} strata", thousands(chosen), thousands(there), thousands(strata.len()));
    picture(path, (size.0 as u32, size.1 as u32), |canvas| {
        write(canvas, &title, (20, 16), 20, BLACK, (HPos::Left, VPos::Top))?;
        let key = "chosen (large) of those there (small); the darker, the more there; red: all that there are, far fewer than other strata give";
        write(canvas, key, (20, 44), 13, GREY, (HPos::Left, VPos::Top))?;
        for (i, name) in columns.values() {
            let x = LEFT + CELL.0 * *i as i32 + CELL.0 / 2;
            write(canvas, name, (x, TOP - 8), 13, BLACK, (HPos::Center, VPos::Bottom))?;
        }
        for (i, name) in rows.values() {
            let y = TOP + CELL.1 * *i as i32 + CELL.1 / 2;
            write(canvas, name, (LEFT - 10, y), 14, BLACK, (HPos::Right, VPos::Center))?;
        }
        let full = strata.iter().map(|s| s.chosen).max().unwrap_or(0);
        for s in strata {
            let (column, row) = (columns[&s.thematic.0].0 as i32, rows[&s.climate.0].0 as i32);
            let (x, y) = (LEFT + CELL.0 * column, TOP + CELL.1 * row);
            let color = shade(s.there, most);
            bar(canvas, (x + 1, y + 1), (CELL.0 - 2, CELL.1 - 2), color)?;
            let dark = u32::from(color.0) < 140;
            // Band counts stay within a fifth of the largest.
            let few = s.chosen * 5 < full * 4;
            let ink = match (few, dark) {
                (true, _) => RGBColor(176, 30, 40),
                (false, true) => WHITE,
                (false, false) => BLACK,
            };
            write(canvas, &thousands(s.chosen), (x + 36, y + CELL.1 / 2), 15, ink, (HPos::Right, VPos::Center))?;
            let pale = if dark { RGBColor(225, 233, 242) } else { RGBColor(70, 80, 90) };
            write(canvas, &thousands(s.there), (x + 42, y + CELL.1 / 2 + 1), 11, pale, (HPos::Left, VPos::Center))?;
        }
        Ok(())
    })
}
