//! `csmoe annotate`: climate and thematic class at every cell.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use super::grid::AreaArgs;
use crate::sampling::annotate::{Layer, Request, annotate};
use crate::sampling::classes::ClassTable;
use crate::sampling::filter::Filter;
use crate::sampling::manifest::{self, Input};
use crate::sampling::raster::Mosaic;

/// Climate and land-cover class of every cell (the paper's Algorithm 1)
#[derive(clap::Args, Debug)]
pub struct AnnotateArgs {
    /// Metadata table to describe: Parquet, GeoParquet or CSV with centre_lat and centre_lon, or points
    #[arg(
        long,
        visible_alias = "metadata",
        value_name = "FILE",
        required_unless_present = "grid",
        conflicts_with = "grid"
    )]
    table: Option<PathBuf>,
    /// Describe the whole Major TOM grid
    #[arg(long)]
    grid: bool,
    #[command(flatten)]
    area: AreaArgs,
    /// Climate raster: a file, a VRT, a folder or a pattern such as 'tiles/*.tif'
    #[arg(long, value_name = "RASTER")]
    climate: PathBuf,
    /// Its classes: koeppen, worldcover, any, or a .toml or .csv file
    #[arg(long, value_name = "TABLE", default_value = "koeppen")]
    climate_classes: String,
    /// Thematic raster, for example land cover
    #[arg(long, value_name = "RASTER")]
    thematic: PathBuf,
    /// Its classes
    #[arg(long, value_name = "TABLE", default_value = "worldcover")]
    thematic_classes: String,
    /// Only rows that pass, for example cloud_cover<=20; may be given more than once
    #[arg(long = "where", value_name = "FILTER")]
    filters: Vec<String>,
    /// Pass over class values that are in no table, instead of stopping
    #[arg(long)]
    skip_unknown: bool,
    /// File to write: .parquet (GeoParquet), .csv or .geojson
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Report as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: AnnotateArgs) -> Result<()> {
    ensure!(!args.grid || args.filters.is_empty(), "--where filters the columns of a --table; the bare grid has none");
    let layer = |path: &Path, classes: &str| -> Result<Layer> {
        let layer = Layer { mosaic: Mosaic::open(path)?, classes: ClassTable::load(classes)? };
        layer.mosaic.notes.iter().for_each(|note| eprintln!("note: {note}"));
        Ok(layer)
    };
    let climate = layer(&args.climate, &args.climate_classes)?;
    let thematic = layer(&args.thematic, &args.thematic_classes)?;
    let request = Request {
        table: args.table.clone(),
        area: args.area.area()?,
        filters: args.filters.iter().map(|f| Filter::parse(f)).collect::<Result<_>>()?,
        climate: &climate,
        thematic: &thematic,
        skip_unknown: args.skip_unknown,
        out: args.out.clone(),
    };
    let counts = annotate(&request)?;
    let read = climate.mosaic.paths().chain(thematic.mosaic.paths()).chain(args.table.as_deref());
    let inputs = read.map(Input::of).collect::<Result<Vec<_>>>()?;
    let parameters = serde_json::json!({
        "grid": args.grid,
        "lat_min": args.area.lat_min,
        "lat_max": args.area.lat_max,
        "bbox": args.area.bbox,
        "polygon": args.area.polygon,
        "climate_classes": args.climate_classes,
        "thematic_classes": args.thematic_classes,
        "where": args.filters,
        "skip_unknown": args.skip_unknown,
    });
    manifest::write(&args.out, "annotate", &inputs, serde_json::json!({ "parameters": parameters, "counts": counts }))?;
    if args.json {
        println!("{}", serde_json::to_string(&counts)?);
    } else {
        println!(
            "{} rows read, {} filtered, {} outside the rasters, {} without data, {} of unknown class; {} written -> {}",
            counts.read,
            counts.filtered,
            counts.outside_climate + counts.outside_thematic,
            counts.nodata_climate + counts.nodata_thematic,
            counts.unknown,
            counts.written,
            args.out.display()
        );
    }
    Ok(())
}
