//! `csmoe grid`, `annotate`, `sample` and `stats` as a user types them.

use crate::{csmoe, fail, real_data, succeed, text};
use gdal::DriverManager;
use gdal::raster::{Buffer, RasterCreationOptions};
use gdal::spatial_ref::SpatialRef;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A raster of bytes of 0.05 degrees or 5 km a pixel.
fn raster(path: &Path, transform: [f64; 6], epsg: u32, nodata: Option<f64>, value: impl Fn(usize, usize) -> u8) {
    let (size, options) = ((80, 80), RasterCreationOptions::from_iter(["COMPRESS=DEFLATE"]));
    let driver = DriverManager::get_driver_by_name("GTiff").expect("GeoTIFF");
    let made = driver.create_with_band_type_with_options::<u8, _>(path, size.0, size.1, 1, &options);
    let mut raster = made.expect("a raster");
    raster.set_geo_transform(&transform).expect("a geotransform");
    raster.set_spatial_ref(&SpatialRef::from_epsg(epsg).expect("a system")).expect("a system");
    let mut band = raster.rasterband(1).expect("a band");
    band.set_no_data_value(nodata).expect("a nodata value");
    let data = (0..size.0 * size.1).map(|i| value(i % size.0, i / size.0)).collect();
    band.write((0, 0), size, &mut Buffer::new(size, data)).expect("pixels");
}

/// 10-14 E, 40-44 N.
const DEGREES: [f64; 6] = [10.0, 0.05, 0.0, 44.0, 0.0, -0.05];

/// A folder with two climates, west and east, and two land covers in bands: four strata.
struct World {
    folder: tempfile::TempDir,
}

impl World {
    fn new() -> World {
        let world = World { folder: tempfile::tempdir().expect("a folder") };
        raster(&world.at("climate.tif"), DEGREES, 4326, Some(0.0), |c, _| if c < 30 { 8 } else { 15 });
        raster(&world.at("cover.tif"), DEGREES, 4326, Some(0.0), |_, r| if r / 8 % 2 == 0 { 10 } else { 40 });
        world
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `csmoe COMMAND ARGS`, where words with a dot and no `=` in them are files of the folder.
    fn args(&self, command: &str) -> Vec<String> {
        let file = |word: &str| word.contains('.') && word.parse::<f64>().is_err() && !word.contains('=');
        let place = |word: &str| if file(word) { text(&self.at(word)).to_string() } else { word.to_string() };
        command.split_whitespace().map(place).collect()
    }

    fn succeed(&self, command: &str) -> String {
        let args = self.args(command);
        let output = succeed(&args.iter().map(String::as_str).collect::<Vec<_>>());
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }

    /// Names of the files there, sorted.
    fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path()).expect("a folder");
        let mut names: Vec<String> =
            entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// The last line of a command that must fail with exit code 1 and one line, and leave no file.
    fn fail(&self, command: &str) -> String {
        let before = self.files();
        let args = self.args(command);
        let output = csmoe(&args.iter().map(String::as_str).collect::<Vec<_>>()).output().expect("csmoe starts");
        let lines = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{command}: {lines}");
        assert_eq!(lines.lines().filter(|l| l.starts_with("csmoe: ")).count(), 1, "{command}: {lines}");
        assert_eq!(self.files(), before, "{command} left something");
        lines.lines().last().unwrap_or_default().to_string()
    }

    fn annotate(&self) -> &World {
        self.succeed(
            "annotate --grid --bbox 10 40 14 44 --climate climate.tif --thematic cover.tif --out cells.parquet",
        );
        self
    }
}

#[test]
fn the_chain_as_it_is_typed() {
    let world = World::new();
    world.annotate();
    let said = world.succeed("sample --cells cells.parquet --per-stratum 30 --seed 7 --iterations 200 --out s.parquet --out s.csv --out s.geojson");
    assert!(said.contains("120 of ") && said.contains("4 strata"), "{said}");
    let csv = std::fs::read_to_string(world.at("s.csv")).expect("a table");
    assert_eq!(csv.lines().count(), 121);
    assert!(
        csv.starts_with("grid_cell,grid_row_u,grid_col_r,centre_lat,centre_lon,crs,climate,climate_name,"),
        "{csv}"
    );
    for line in csv.lines().skip(1) {
        // The class of the pixel that the centre lies in.
        let field: Vec<&str> = line.split(',').collect();
        let (lat, lon): (f64, f64) = (field[3].parse().expect("a number"), field[4].parse().expect("a number"));
        let (column, row) = (((lon - 10.0) / 0.05).floor() as usize, ((44.0 - lat) / 0.05).floor() as usize);
        assert_eq!((field[6], field[7]), if column < 30 { ("8", "Csa") } else { ("15", "Cfb") }, "{line}");
        assert_eq!((field[8], field[9]), if row / 8 % 2 == 0 { ("10", "tree cover") } else { ("40", "cropland") });
    }
    let manifest = std::fs::read_to_string(world.at("s.manifest.json")).expect("a manifest");
    for part in
        ["\"seed\": 7", "\"sha256\"", "\"n_g\"", "\"fitness_before\"", "\"fitness_after\"", "\"backend\": \"cpu\""]
    {
        assert!(manifest.contains(part), "{part} of {manifest}");
    }
    let json = world.succeed("stats --cells cells.parquet --sample s.parquet --json --min-tiles 20 --pictures pictures.d --climate climate.tif");
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON alone");
    for set in ["full", "random", "sample"] {
        for field in [
            "tiles",
            "strata",
            "tiles_per_stratum_mean",
            "average_distance_km",
            "nearest_neighbour_mean_km",
            "minimum_distance_km",
            "within_stratum_macro_km",
            "within_stratum_tile_weighted_km",
            "nearest_neighbour_within_km",
        ] {
            assert!(json[set][field].as_f64().is_some_and(|x| x > 0.0), "{set} {field}: {json}");
        }
    }
    let nearest = |set: &str| json[set]["nearest_neighbour_within_km"].as_f64().unwrap_or(0.0);
    assert!(nearest("sample") > 1.2 * nearest("random") && nearest("random") > nearest("full"), "{json}");
    for (name, parts) in [
        ("tiles.svg", ["Random: 120 tiles", "Sample: 120 tiles", "tiles per square"]),
        ("strata.svg", ["120 tiles chosen of", "Csa", "cropland"]),
        ("fitness.svg", ["nn-entropy", "generations", "4 strata"]),
    ] {
        let svg = std::fs::read_to_string(world.at("pictures.d").join(name)).expect("a picture");
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{name}");
        assert!(parts.iter().all(|p| svg.contains(p)), "{name}");
    }
    // In all instead of per stratum; and Markdown.
    assert!(world.succeed("sample --cells cells.parquet --total 50 --iterations 20 --out t.csv").contains("50 of "));
    assert!(
        world
            .succeed("stats --cells cells.parquet --sample s.csv --markdown")
            .starts_with("| | full | random | sample |")
    );
    // The grid alone.
    let cells = world.succeed("grid --bbox 10 40 14 44 --out g.csv --json");
    let count = std::fs::read_to_string(world.at("g.csv")).expect("a table").lines().count() - 1;
    assert!(cells.contains(&format!("\"cells\":{count}")), "{cells}");
}

#[test]
fn threads_and_kills_change_no_byte() {
    let world = World::new();
    world.annotate();
    let base = "sample --cells cells.parquet --per-stratum 60 --iterations 6000 --count band";
    let result = |name: &str| -> Vec<u8> {
        let read = |end: &str| std::fs::read(world.at(&format!("{name}.{end}"))).expect("a result");
        [read("parquet"), read("manifest.json")].concat()
    };
    for threads in [1, 2, 8] {
        world.succeed(&format!("{base} --threads {threads} --out t{threads}.parquet"));
        assert_eq!(result(&format!("t{threads}")), result("t1"), "{threads} threads");
    }
    // Killed as soon as a stratum is done, and at moments nobody chose.
    let args = world.args(&format!("{base} --threads 1 --out k.parquet"));
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    for wait in [0, 40, 90] {
        let mut child = csmoe(&args).stderr(std::process::Stdio::null()).spawn().expect("csmoe starts");
        let done = || std::fs::read(world.at("k.checkpoint.jsonl")).map_or(0, |b| b.split(|&c| c == b'\n').count());
        let begun = done();
        while done() < begun.max(3) && child.try_wait().expect("a child").is_none() {
            std::thread::sleep(Duration::from_millis(2));
        }
        std::thread::sleep(Duration::from_millis(wait));
        // kill(2) with SIGKILL.
        child.kill().expect("a child");
        child.wait().expect("a child");
    }
    world.succeed(&format!("{base} --threads 1 --out k.parquet"));
    assert_eq!(result("k"), result("t1"));
    let left: Vec<String> = world
        .files()
        .into_iter()
        .filter(|f| f.contains("part") && f.starts_with('.') || f.contains("checkpoint"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn the_gpu_repeats_itself_over_threads() {
    let world = World::new();
    world.annotate();
    for threads in [1, 2, 8] {
        world.succeed(&format!("sample --cells cells.parquet --per-stratum 30 --iterations 40 --backend gpu --threads {threads} --out t{threads}.csv"));
        let read = |t: usize| std::fs::read(world.at(&format!("t{t}.csv"))).expect("a table");
        assert_eq!(read(threads), read(1), "{threads} threads");
    }
    let manifest = std::fs::read_to_string(world.at("t1.manifest.json")).expect("a manifest");
    assert!(manifest.contains("\"backend\": \"gpu\""), "{manifest}");
}

#[test]
fn rasters_of_any_kind_are_read_and_said_so() {
    let world = World::new();
    // UTM 33 N around 12.5 E, 42 N: 5 km pixels over the same land.
    raster(&world.at("utm.tif"), [200_000.0, 5000.0, 0.0, 4_850_000.0, 0.0, -5000.0], 32633, Some(0.0), |_, _| 8);
    raster(&world.at("turned.tif"), [10.0, 0.0, 0.05, 40.0, 0.05, 0.0], 4326, Some(0.0), |_, _| 8);
    raster(&world.at("bare.tif"), DEGREES, 4326, None, |_, _| 8);
    for (name, note) in [("utm", "projected"), ("turned", "rotated"), ("bare", "no nodata value")] {
        let said = world.succeed(&format!(
            "annotate --grid --bbox 11 41 13 43 --climate {name}.tif --thematic cover.tif --out {name}.csv"
        ));
        assert!(said.contains(&format!("{name}.tif")) && said.contains(note), "{said}");
        let all = std::fs::read_to_string(world.at(&format!("{name}.csv"))).expect("a table");
        assert!(all.lines().count() > 300 && all.lines().skip(1).all(|l| l.contains(",8,Csa,")), "{name}");
    }
}

#[test]
fn points_alone_are_enough() {
    use csmoe::data::table::{Column, Field, Kind, Table, Writer};
    let world = World::new();
    // GeoParquet whose only coordinates are WKB points, under a name of their own.
    let write = |name: &str, points: Vec<Option<(f64, f64)>>| {
        let fields = vec![Field::new("product_id", Kind::Text), Field::new("centroid", Kind::Geometry)];
        let mut writer = Writer::create(&world.at(name), fields).expect("a table");
        let ids = (0..points.len()).map(|i| Some(format!("P{i}").into())).collect();
        writer.write(&[Column::Text(ids), Column::Geometry(points)]).expect("rows");
        writer.finish().expect("a table");
    };
    write("points.parquet", vec![Some((41.01, 11.01)), Some((43.99, 13.99)), Some((-5.0, 100.0))]);
    world.succeed("annotate --table points.parquet --climate climate.tif --thematic cover.tif --out cells.csv");
    assert_eq!(
        std::fs::read_to_string(world.at("cells.csv")).expect("a table"),
        "product_id,centre_lat,centre_lon,climate,climate_name,thematic,thematic_name\n\
         P0,41.01,11.01,8,Csa,40,cropland\nP1,43.99,13.99,15,Cfb,10,tree cover\n"
    );
    assert_eq!(Table::open(&world.at("points.parquet")).expect("a table").fields[1].kind, Kind::Geometry);
    write("none.parquet", vec![Some((41.0, 11.0)), None]);
    let line = world.fail("annotate --table none.parquet --climate climate.tif --thematic cover.tif --out no.csv");
    assert!(line.contains("none.parquet: row 1, column `centroid`: not a point"), "{line}");
}

#[test]
fn bad_input_gets_one_line_and_leaves_nothing() {
    let world = World::new();
    world.annotate();
    let write = |name: &str, bytes: &[u8]| std::fs::write(world.at(name), bytes).expect("a file");
    let whole = std::fs::read(world.at("cells.parquet")).expect("a table");
    write("cut.parquet", &whole[..whole.len() / 2]);
    write("schema.csv", b"name,value\na,1\n");
    write("range.csv", b"grid_cell,centre_lat,centre_lon\na,41,11\nb,95,11\n");
    write("nan.csv", b"grid_cell,centre_lat,centre_lon\na,41,NaN\n");
    write("word.csv", b"grid_cell,centre_lat,centre_lon\na,41,east\n");
    write("short.csv", b"grid_cell,centre_lat,centre_lon,cloud_cover\na,41,11,3\nb,42\n");
    write("good.csv", b"grid_cell,centre_lat,centre_lon,cloud_cover\na,41,11,3\nb,42,12,5\n");
    write("sea.csv", b"grid_cell,centre_lat,centre_lon\na,-41,-11\n");
    write("twice.csv", b"centre_lat,centre_lon,climate,thematic\n41,11,8,10\n42,12,8,10\n41,11,8,10\n");
    write("class.csv", b"centre_lat,centre_lon,climate,thematic\n41,11,8,10\n42,12,8.5,10\n");
    write("classes.csv", b"value,name\n10,tree\n");
    let driver = DriverManager::get_driver_by_name("GTiff").expect("GeoTIFF");
    drop(driver.create_with_band_type::<u8, _>(world.at("floating.tif"), 4, 4, 1).expect("a raster"));
    let annotate = "annotate --climate climate.tif --thematic cover.tif --out out.parquet";
    for (arguments, parts) in [
        ("--table cut.parquet", &["cut.parquet", "cut off"][..]),
        ("--table schema.csv", &["schema.csv", "no coordinates", "centre_lat"]),
        ("--table range.csv", &["range.csv: row 1, column `centre_lat`", "95"]),
        ("--table nan.csv", &["nan.csv: row 0, column `centre_lon`", "NaN"]),
        ("--table word.csv", &["word.csv: row 0, column `centre_lon`", "east"]),
        ("--table short.csv", &["short.csv: row 1", "4 columns"]),
        ("--table sea.csv", &["no cell is left of 1", "1 outside a raster"]),
        ("--table good.csv --where cloud_cover<1", &["no cell is left of 2", "2 filtered"]),
        ("--table good.csv --where clouds<1", &["good.csv", "no column `clouds`"]),
        ("--table absent.csv", &["absent.csv", "cannot be read"]),
        (
            "--grid --bbox 11 41 12 42 --thematic-classes classes.csv",
            &["cover.tif: row ", "column ", "class 40", "classes.csv"],
        ),
        ("--grid --where cloud_cover<1", &["--where", "--table"]),
    ] {
        let line = world.fail(&format!("{annotate} {arguments}"));
        assert!(parts.iter().all(|p| line.contains(p)), "{arguments}: {line}");
    }
    let line = world.fail("annotate --grid --climate floating.tif --thematic cover.tif --out out.csv");
    assert!(line.contains("floating.tif") && line.contains("georeference"), "{line}");
    for (arguments, parts) in [
        ("--cells twice.csv --out out.csv", &["twice.csv: rows 0 and 2", "centre_lat", "--drop-duplicates"][..]),
        ("--cells class.csv --out out.csv", &["class.csv: row 1, column `climate`", "8.5"]),
        ("--cells good.csv --out out.csv", &["good.csv", "`climate`", "csmoe annotate"]),
        ("--cells cut.parquet --out out.csv", &["cut.parquet", "cut off"]),
        ("--cells cells.parquet --min-stratum 999999 --out out.csv", &["no stratum is left", "--min-stratum"]),
        ("--cells cells.parquet --per-stratum 0 --out out.csv", &["--per-stratum"]),
        ("--cells cells.parquet --fitness x --out out.csv", &["--fitness", "nn-entropy"]),
        ("--cells cells.parquet --backend tpu --out out.csv", &["--backend", "cpu, gpu or auto"]),
        ("--cells cells.parquet --out out.xlsx", &["out.xlsx", ".parquet, .csv or .geojson"]),
        ("--cells cells.parquet --out out.csv --fetch-list f.csv", &["fetch list", "parquet_url"]),
    ] {
        let line = world.fail(&format!("sample {arguments}"));
        assert!(parts.iter().all(|p| line.contains(p)), "{arguments}: {line}");
    }
    write("elsewhere.csv", b"centre_lat,centre_lon,climate,thematic\n41,11,9,10\n");
    let line = world.fail("stats --cells cells.parquet --sample elsewhere.csv");
    assert!(line.contains("elsewhere.csv: holds strata that"), "{line}");
    assert!(fail(&["grid", "--lat-min", "91", "--out", text(&world.at("g.csv"))]).1.contains("--lat-min"));
}

#[test]
fn major_toms_own_metadata() {
    let (Some(archive), Some(rasters)) = (real_data("major_tom"), real_data("rasters")) else { return };
    let world = World::new();
    let climate = rasters.join("koppen_rubel_100arcsec.tif");
    let cover = rasters.join("glcnmo2008_20arcmin_worldcover_codes.tif");
    let annotate = |metadata: &str, out: &str, filter: &str| {
        let (metadata, out) = (archive.join(metadata), world.at(out));
        let args = ["annotate", "--metadata", text(&metadata), "--climate", text(&climate), "--thematic", text(&cover)];
        succeed(&[&args[..], &["--out", text(&out), "--where", filter]].concat());
    };
    annotate("Core-S2L2A/metadata.parquet", "cells.parquet", "cloud_cover<=20");
    world.succeed("sample --cells cells.parquet --out s.csv --fetch-list f.csv");
    // From the file by pyarrow; the classes by rasterio.
    assert_eq!(
        std::fs::read_to_string(world.at("s.csv")).expect("a table"),
        "grid_cell,grid_row_u,grid_col_r,product_id,timestamp,cloud_cover,nodata,centre_lat,centre_lon,crs,parquet_url,parquet_row,climate,climate_name,thematic,thematic_name\n\
         0U_199R,0,199,S2A_MSIL2A_20220706T085611_N0400_R007_T33NZA_20220706T153419,20220706T085611,0,0,0.04517747407527328,17.919128335740535,EPSG:32633,images/part_00001.parquet,0,1,Af,10,tree cover\n\
         199U_1099R,199,1099,S2B_MSIL2A_20200223T032739_N9999_R018_T48QUE_20230924T183543,20200223T032739,0,0,17.919741859536334,103.75329250715592,EPSG:32648,images/part_00001.parquet,1,2,Am,10,tree cover\n"
    );
    assert_eq!(
        std::fs::read_to_string(world.at("f.csv")).expect("a list"),
        "parquet_url,parquet_row,grid_cell,product_id\n\
         images/part_00001.parquet,0,0U_199R,S2A_MSIL2A_20220706T085611_N0400_R007_T33NZA_20220706T153419\n\
         images/part_00001.parquet,1,199U_1099R,S2B_MSIL2A_20200223T032739_N9999_R018_T48QUE_20230924T183543\n"
    );
    annotate("Core-S1RTC/metadata.parquet", "one.csv", "orbit_state=ascending");
    let one = std::fs::read_to_string(world.at("one.csv")).expect("a table");
    assert!(one.contains("0U_199R,0,199,SYNTHETIC_S1_rtc,20220706T085611,0.03958359634726255,ascending,"), "{one}");
}
