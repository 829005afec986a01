//! The chain on files: rasters to descriptors to a sample, and what bad input says.
#![cfg(all(feature = "gdal", feature = "parquet"))]

use std::path::{Path, PathBuf};

use super::super::annotate::{Counts, Layer, Request, annotate};
use super::super::area::Area;
use super::super::classes::ClassTable;
use super::super::export::{write_fetch_list, write_rows};
use super::super::filter::Filter;
use super::super::raster::Mosaic;
use super::super::strata::Cells;
use super::super::table::{Column, Table};

/// The real rasters; without them None, but an error on a build server.
fn rasters() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/rasters");
    if folder.is_dir() {
        return Some(folder);
    }
    assert!(std::env::var_os("CI").is_none(), "{} is missing", folder.display());
    println!("skipped: {} is missing", folder.display());
    None
}

fn layer(path: &Path, classes: &str) -> Layer {
    Layer { mosaic: Mosaic::open(path).unwrap(), classes: ClassTable::load(classes).unwrap() }
}

fn layers(folder: &Path) -> (Layer, Layer) {
    let thematic = layer(&folder.join("glcnmo2008_20arcmin_worldcover_codes.tif"), "worldcover");
    (layer(&folder.join("koppen_rubel_100arcsec.tif"), "koeppen"), thematic)
}

fn describe(
    table: Option<PathBuf>,
    area: Area,
    filters: &[&str],
    layers: &(Layer, Layer),
    out: &Path,
) -> anyhow::Result<Counts> {
    let filters = filters.iter().map(|f| Filter::parse(f)).collect::<anyhow::Result<_>>()?;
    annotate(&Request {
        table,
        area,
        filters,
        climate: &layers.0,
        thematic: &layers.1,
        skip_unknown: false,
        out: out.to_path_buf(),
    })
}

#[test]
fn the_whole_grid_on_the_real_rasters() {
    let Some(folder) = rasters() else { return };
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("cells.parquet");
    let counts = describe(None, Area::new().with_latitudes(-60.0, 90.0), &[], &layers(&folder), &path).unwrap();
    // The prototype's figures.
    assert_eq!(counts.written, 1_403_594);
    let cells = Cells::read(&Table::open(&path).unwrap()).unwrap();
    let strata = cells.strata();
    assert_eq!((cells.len(), strata.len()), (1_403_594, 253));
    assert_eq!(strata.iter().filter(|s| s.rows.len() > 90).count(), 187);
    assert!(strata.iter().all(|s| cells.duplicate(s).is_none()));
}

#[test]
fn a_metadata_table_keeps_its_columns_and_gets_a_fetch_list() {
    let Some(folder) = rasters() else { return };
    let layers = layers(&folder);
    let out = tempfile::tempdir().unwrap();
    let at = |name: &str| out.path().join(name);
    std::fs::write(
        at("meta.csv"),
        "grid_cell,product_id,cloud_cover,centre_lat,centre_lon,parquet_url,parquet_row\n\
         454U_120R,P1,5,40.823861,14.292709,part_2.parquet,7\n\
         455U_119R,P2,90,40.913731,14.192730,part_1.parquet,9\n\
         0U_0R,P3,1,0.05,0.05,part_1.parquet,1\n\
         600U_50R,P4,20,50.1,8.7,part_1.parquet,3\n",
    )
    .unwrap();
    let counts =
        describe(Some(at("meta.csv")), Area::new(), &["cloud_cover<=20"], &layers, &at("cells.parquet")).unwrap();
    assert_eq!((counts.read, counts.filtered, counts.nodata_climate, counts.written), (4, 1, 1, 2));
    let table = Table::open(&at("cells.parquet")).unwrap();
    write_rows(&table, &[0, 1], &[at("s.parquet"), at("s.csv"), at("s.geojson")]).unwrap();
    write_fetch_list(&table, &[0, 1], &at("fetch.csv")).unwrap();
    let list = std::fs::read_to_string(at("fetch.csv")).unwrap();
    assert_eq!(
        list,
        "parquet_url,parquet_row,grid_cell,product_id\npart_1.parquet,3,600U_50R,P4\npart_2.parquet,7,454U_120R,P1\n"
    );
    let sample = Table::open(&at("s.parquet")).unwrap();
    let product = sample.require("product_id").unwrap();
    let mut products = Vec::new();
    sample
        .read(&[product], &mut |batch| {
            products.extend(batch.columns);
            Ok(())
        })
        .unwrap();
    assert_eq!(products, [Column::Text(vec![Some("P1".into()), Some("P4".into())])]);
    let csv = std::fs::read_to_string(at("s.csv")).unwrap();
    assert!(csv.starts_with("grid_cell,product_id,cloud_cover,centre_lat,centre_lon,parquet_url,parquet_row,climate,climate_name,thematic,thematic_name\n"));
    assert_eq!(csv.lines().count(), 3);
}

#[test]
fn major_toms_own_metadata_is_read() {
    let Some(folder) = rasters() else { return };
    let metadata = folder.join("../major_tom/Core-S2L2A/metadata.parquet");
    let out = tempfile::tempdir().unwrap();
    let table = Table::open(&metadata).unwrap();
    for name in ["grid_cell", "product_id", "parquet_url", "parquet_row", "cloud_cover"] {
        table.require(name).unwrap();
    }
    // Both tiles may lie at sea: then the line says that none is left.
    match describe(Some(metadata), Area::new(), &[], &layers(&folder), &out.path().join("cells.csv")) {
        Ok(counts) => assert_eq!(counts.read, 2),
        Err(error) => assert!(format!("{error:#}").contains("no cell is left of 2"), "{error:#}"),
    }
}

#[test]
fn bad_input_says_where_and_leaves_nothing() {
    let Some(folder) = rasters() else { return };
    let out = tempfile::tempdir().unwrap();
    let at = |name: &str| out.path().join(name);
    let real = layers(&folder);
    let europe = || Area::new().with_box(5.0, 45.0, 15.0, 50.0);
    // Land cover read with the climate's table: its codes are not climates.
    let koeppen = folder.join("koppen_rubel_100arcsec.tif");
    let cover = folder.join("glcnmo2008_20arcmin_worldcover_codes.tif");
    let wrong = (layer(&koeppen, "koeppen"), layer(&cover, "koeppen"));
    let message = format!("{:#}", describe(None, europe(), &[], &wrong, &at("a.parquet")).unwrap_err());
    assert!(
        ["worldcover_codes.tif: row ", "column ", "is not in the table `koeppen`", "--skip-unknown"]
            .iter()
            .all(|p| message.contains(p)),
        "{message}"
    );
    std::fs::write(at("m.csv"), "centre_lat,centre_lon,cloud_cover\n45,8,1\n46,nan,1\n").unwrap();
    let message = format!("{:#}", describe(Some(at("m.csv")), Area::new(), &[], &real, &at("a.parquet")).unwrap_err());
    assert!(message.contains("m.csv: row 1, column `centre_lon`"), "{message}");
    for (filters, part) in [
        (["cloud<5"], "no column `cloud`"),
        (["cloud_cover>5"], "no cell is left"),
        (["cloud_cover<x"], "expected a number"),
    ] {
        std::fs::write(at("m.csv"), "centre_lat,centre_lon,cloud_cover\n45,8,1\n").unwrap();
        let message =
            format!("{:#}", describe(Some(at("m.csv")), Area::new(), &filters, &real, &at("a.parquet")).unwrap_err());
        assert!(message.contains(part), "{message}");
    }
    std::fs::write(at("bare.csv"), "centre_lat,centre_lon\n45,8\n").unwrap();
    let message = format!("{:#}", Cells::read(&Table::open(&at("bare.csv")).unwrap()).unwrap_err());
    assert!(message.contains("csmoe annotate"), "{message}");
    let left: Vec<_> = std::fs::read_dir(out.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn same_cells_twice_are_found() {
    let mut cells = Cells::default();
    [(1.0, 2.0), (3.0, 4.0), (1.0, 2.0)].iter().for_each(|&(lat, lon)| cells.push(lat, lon, 5, 6));
    let mut strata = cells.strata();
    assert_eq!(cells.duplicate(&strata[0]), Some((0, 2)));
    assert_eq!(cells.drop_duplicates(&mut strata), 1);
    assert_eq!(strata[0].rows, [0, 1]);
}
