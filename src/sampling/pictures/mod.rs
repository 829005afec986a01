//! Pictures of a sample as SVG: where its tiles lie beside a random draw's (the paper's Fig. 3), how the fitness rose,
//! and how full the strata are. SVG, because its text needs no font where it is drawn.

mod curves;
mod map;
mod table;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::strata::{Cells, Stratum};
use crate::data::export::Replace;

pub use curves::{Curves, fitness_curves};
pub use map::{Land, Panel, tiles_map};
pub use table::{StratumCount, strata_table};

/// What there is to draw.
pub struct Request<'a> {
    pub cells: &'a Cells,
    pub strata: &'a [Stratum],
    /// Rows of `cells`, drawn at random.
    pub random: &'a [u32],
    pub sample: &'a Cells,
    pub sample_strata: &'a [Stratum],
    /// Names of the climates and of the thematic classes.
    pub names: &'a [BTreeMap<i32, String>; 2],
    pub land: Option<&'a Land>,
    /// The sample's manifest, where its curves are.
    pub manifest: Option<&'a Path>,
}

/// Draws `tiles.svg`, `strata.svg` and, where there is a manifest, `fitness.svg` into a folder, which it makes.
///
/// # Errors
/// A folder that cannot be written, a manifest without curves.
pub fn draw(request: &Request, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("{}: cannot be made", folder.display()))?;
    let places = |cells: &Cells, row: usize| (cells.lat[row], cells.lon[row]);
    let random = request.random.iter().map(|&r| places(request.cells, r as usize)).collect();
    let chosen = (0..request.sample.len()).map(|r| places(request.sample, r)).collect();
    let panels = [Panel { title: "Random", tiles: random }, Panel { title: "Sample", tiles: chosen }];
    tiles_map(&folder.join("tiles.svg"), &panels, request.land)?;
    let name = |k: usize, id: i32| (id, request.names[k].get(&id).cloned().unwrap_or_else(|| id.to_string()));
    let count = |s: &Stratum| {
        let chosen = request.sample_strata.iter().find(|t| (t.u, t.v) == (s.u, s.v)).map_or(0, |t| t.rows.len());
        StratumCount { climate: name(0, s.u), thematic: name(1, s.v), there: s.rows.len(), chosen }
    };
    strata_table(&folder.join("strata.svg"), &request.strata.iter().map(count).collect::<Vec<_>>())?;
    match request.manifest {
        Some(manifest) => fitness_curves(&folder.join("fitness.svg"), &Curves::read(manifest)?),
        None => Ok(()),
    }
}

/// Whole pixels, with the origin at the top left.
type Canvas<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const GREY: RGBColor = RGBColor(110, 110, 110);

/// Draws on a white canvas of this size and writes it under its name when all went well.
fn picture(path: &Path, size: (u32, u32), draw: impl FnOnce(&Canvas) -> Result<()>) -> Result<()> {
    let mut text = String::new();
    {
        let canvas = SVGBackend::with_string(&mut text, size).into_drawing_area();
        canvas.fill(&WHITE).map_err(drawing)?;
        draw(&canvas)?;
        canvas.present().map_err(drawing)?;
    }
    Ok(Replace::write_all(path, text.as_bytes())?)
}

fn drawing(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("a picture cannot be drawn: {error}")
}

/// Writes `words` at a place; `anchor` says which side of them that is.
fn write(canvas: &Canvas, words: &str, at: (i32, i32), size: u32, color: RGBColor, anchor: (HPos, VPos)) -> Result<()> {
    let style = ("sans-serif", size).into_text_style(canvas).color(&color).pos(Pos::new(anchor.0, anchor.1));
    canvas.draw(&Text::new(words.to_string(), at, style)).map_err(drawing)
}

fn bar(canvas: &Canvas, corner: (i32, i32), size: (i32, i32), color: RGBColor) -> Result<()> {
    let far = (corner.0 + size.0, corner.1 + size.1);
    canvas.draw(&Rectangle::new([corner, far], color.filled())).map_err(drawing)
}

/// `12,345`.
fn thousands(n: usize) -> String {
    let digits = n.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|g| std::str::from_utf8(g).unwrap_or_default()).collect();
    groups.join(",")
}
