//! `csmoe grid`: the cells of the Major TOM grid.

use std::path::PathBuf;

use anyhow::{Result, ensure};

use crate::sampling::area::Area;
use crate::sampling::grid::{Site, sites};
use crate::sampling::site_table;
use crate::sampling::table::{BATCH_ROWS, Writer};

/// A part of the globe.
#[derive(clap::Args, Clone, Debug)]
pub struct AreaArgs {
    /// Only cells at or north of this latitude
    #[arg(long, value_name = "DEGREES", allow_negative_numbers = true)]
    pub lat_min: Option<f64>,
    /// Only cells at or south of this latitude
    #[arg(long, value_name = "DEGREES", allow_negative_numbers = true)]
    pub lat_max: Option<f64>,
    /// Only cells in a box; west > east runs over the date line
    #[arg(long, num_args = 4, value_names = ["WEST", "SOUTH", "EAST", "NORTH"], allow_negative_numbers = true)]
    pub bbox: Option<Vec<f64>>,
    /// Only cells in the polygons of a GeoJSON file
    #[arg(long, value_name = "FILE")]
    pub polygon: Option<PathBuf>,
}

impl AreaArgs {
    /// Checks the arguments and reads the polygons.
    pub fn area(&self) -> Result<Area> {
        let mut area = Area::new();
        let (south, north) = (self.lat_min.unwrap_or(-90.0), self.lat_max.unwrap_or(90.0));
        ensure!(
            south <= north && (-90.0..=90.0).contains(&south) && (-90.0..=90.0).contains(&north),
            "--lat-min {south} --lat-max {north}: expected -90 <= least <= greatest <= 90"
        );
        area = area.with_latitudes(south, north);
        if let Some(&[west, south, east, north]) = self.bbox.as_deref() {
            let lon = |l: f64| (-180.0..=180.0).contains(&l);
            ensure!(
                lon(west) && lon(east) && (-90.0..=90.0).contains(&south) && south <= north && north <= 90.0,
                "--bbox {west} {south} {east} {north}: expected WEST SOUTH EAST NORTH in degrees"
            );
            area = area.with_box(west, south, east, north);
        }
        match &self.polygon {
            Some(path) => area.with_polygons(path),
            None => Ok(area),
        }
    }
}

/// The cells of the Major TOM grid
#[derive(clap::Args, Debug)]
pub struct GridArgs {
    #[command(flatten)]
    area: AreaArgs,
    /// File to write: .parquet (GeoParquet), .csv or .geojson
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Report as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: GridArgs) -> Result<()> {
    let sites: Vec<Site> = sites(&args.area.area()?);
    ensure!(!sites.is_empty(), "no cell of the grid lies there: widen the area");
    let mut writer = Writer::create(&args.out, site_table::fields())?;
    for part in sites.chunks(BATCH_ROWS) {
        writer.write(&site_table::columns(part))?;
    }
    writer.finish()?;
    if args.json {
        println!("{}", serde_json::json!({ "cells": sites.len(), "out": args.out }));
    } else {
        println!("{} cells -> {}", sites.len(), args.out.display());
    }
    Ok(())
}
