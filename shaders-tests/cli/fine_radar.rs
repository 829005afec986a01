//! Major TOM's odd tiles: radar of 1424 x 1424 pixels of 7.5 m beside optical bands of 1068 x 1068 of 10 m, cut by the
//! program from both of its layouts and compared with closed forms.

use crate::{succeed, text};
use csmoe::data::geotiff::write::geotiff_bytes;
use csmoe::data::store::Store;
use csmoe::data::synth::layouts::{CellPlace, Tiffs, major_tom};
use csmoe::data::{Geo, PairSource, S2_BANDS};
use serde_json::Value;
use std::path::Path;

const FINE: usize = 1424;
const LEFT: f64 = 300_000.0;
const TOP: f64 = 5_000_000.0;
const CELLS: [&str; 2] = ["195D_241R", "195D_242R"];
/// Nothing was seen where row + column of the fine grid are below this.
const WEDGE: usize = 500;
/// One more missing pixel, the last one that belongs to patches of column 0.
const HOLE: (usize, usize) = (900, 159);

/// Linear backscatter at a place, in metres from the north-west corner; VH and the optical bands are flat in a cell.
fn vv(east: f64, south: f64) -> f64 {
    0.05 + 2e-5 * east + 7e-6 * south
}
fn vh(cell: usize) -> f64 {
    0.02 * (1 + cell) as f64
}
fn optical(cell: usize, band: usize) -> u16 {
    (500 + 100 * cell + band) as u16
}

/// Pixels of a cell's radar, in metres.
const METRES: [f64; 2] = [7.5, 10.0];

fn left(cell: usize) -> f64 {
    LEFT + 10_680.0 * cell as f64
}

/// A cell's files: radar, optical.
fn tiffs(number: usize) -> [Tiffs; 2] {
    let (metres, left) = (METRES[number], left(number));
    let geo = |px: usize, m: f64| Geo::new([left, m, 0.0, TOP, 0.0, -m], "EPSG:32736", px, px);
    let side = (10_680.0 / metres) as usize;
    let radar = |value: &dyn Fn(f64, f64) -> f64| {
        let missing = |row: usize, col: usize| side == FINE && (row + col < WEDGE || (row, col) == HOLE);
        let one = |i: usize| {
            let (row, col) = (i / side, i % side);
            let value = value((col as f64 + 0.5) * metres, (row as f64 + 0.5) * metres);
            if missing(row, col) { -32_768.0 } else { value as f32 }
        };
        let pixels: Vec<f32> = (0..side * side).map(one).collect();
        geotiff_bytes(side, &pixels, &geo(side, metres), Some(-32_768.0)).expect("a GeoTIFF")
    };
    let tiff = |(band, name): (usize, &&str)| {
        let px = if ["B02", "B03", "B04", "B08"].contains(name) { 1068 } else { 534 };
        let geo = geo(px, 10_680.0 / px as f64);
        geotiff_bytes(px, &vec![1000 + optical(number, band); px * px], &geo, None).expect("a GeoTIFF")
    };
    [vec![radar(&vv), radar(&|_, _| vh(number))], S2_BANDS.iter().enumerate().map(tiff).collect()]
}

/// Both cells as folders of files.
fn unpacked(folder: &Path) {
    let products = [
        ("S1RTC", "S1A_IW_GRDH_1SDV_20220706T030000_20220706T030025_043979_054001_rtc", &["vv", "vh"][..]),
        ("S2L2A", "S2A_MSIL2A_20220706T085611_N0400_R007_T36KXC_20220706T153419", &S2_BANDS[..]),
    ];
    for (number, cell) in CELLS.iter().enumerate() {
        for ((sensor, product, names), bands) in products.iter().zip(tiffs(number)) {
            let folder = folder.join(sensor).join("195D").join(cell).join(product);
            std::fs::create_dir_all(&folder).expect("a folder");
            for (name, bytes) in names.iter().zip(bands) {
                std::fs::write(folder.join(format!("{name}.tif")), bytes).expect("written");
            }
        }
    }
}

/// The same in Parquet.
fn packed(folder: &Path) {
    let place = |(number, name): (usize, &&str)| CellPlace {
        name: name.to_string(),
        row: -195,
        col: 241 + number as i64,
        lat: -17.5,
        lon: 33.0,
        crs: "EPSG:32736".into(),
        left: left(number),
        top: TOP,
    };
    let cells: Vec<CellPlace> = CELLS.iter().enumerate().map(place).collect();
    major_tom(folder, &cells, |number| Ok(tiffs(number)), |_| {}).expect("written");
}

/// Where the mean of a linear function over coarse pixel `k` is read off: its middle but for what lies at the ends, as four
/// fine pixels make three coarse ones and the outer ones take a quarter of a neighbour.
fn place(k: usize) -> f64 {
    10.0 * k as f64 + [5.625, 5.0, 4.375][k % 3]
}

#[test]
fn radar_of_7_5_metres_is_averaged_by_area() {
    averaged_by_area("Major TOM, unpacked", unpacked);
}

#[test]
fn radar_of_7_5_metres_in_parquet_too() {
    averaged_by_area("Major TOM Core", packed);
}

fn averaged_by_area(format: &str, write: fn(&Path)) {
    let folder = tempfile::tempdir().expect("a folder");
    let (archive, out) = (folder.path().join("tom"), folder.path().join("store"));
    write(&archive);
    let cut = succeed(&["patches", "--archive", text(&archive), "--out", text(&out), "--json"]);
    let report: Value = serde_json::from_slice(&cut.stdout).expect("JSON");

    // 120 coarse pixels are 160 fine ones, so a patch is dropped where one of just these is missing.
    let gone = |row: usize, col: usize| 160 * (row + col) < WEDGE || (HOLE.0 / 160, HOLE.1 / 160) == (row, col);
    let places = || (0..64).map(|i| (i / 8, i % 8));
    let dropped = places().filter(|(row, col)| gone(*row, *col)).count();
    assert_eq!((dropped, &report["pairs"]), (11, &(128 - 11).into()));
    assert_eq!(report["dropped"], serde_json::json!({"S1 has missing pixels": 11}));
    assert_eq!(report["notes"]["S1 on a finer grid, averaged by area"], 1);
    let inspected = succeed(&["inspect", text(&out), "--json"]).stdout;
    let notes = String::from_utf8_lossy(&inspected).into_owned();
    assert!(notes.contains("S1 on a finer grid, averaged by area (1 scenes)"), "{notes}");
    assert_eq!(Store::open(&out).expect("a store").index().plan.archive, format);

    let store = Store::open(&out).expect("a store");
    let db = |linear: f64| (10.0 * linear.log10()) as f32;
    let mut seen = 0;
    for index in 0..store.len() {
        let pair = store.pair(index).expect("a pair");
        let cell = usize::from(pair.id.starts_with(CELLS[1]));
        let fine = cell == 0;
        let mut parts = pair.id.rsplit('_').map(|n| n.parse::<usize>().unwrap_or(usize::MAX));
        let (col, row) = (parts.next().expect("a column"), parts.next().expect("a row"));
        assert!(!fine || !gone(row, col), "{}", pair.id);
        seen += usize::from(fine);
        let at = |k: usize| if fine { place(k) } else { 10.0 * k as f64 + 5.0 };
        let (first, second) = pair.s1.split_at(14_400);
        for i in 0..14_400 {
            let (y, x) = (120 * row + i / 120, 120 * col + i % 120);
            let want = db(vv(at(x), at(y)));
            assert!((first[i] - want).abs() < 2e-5, "{}, pixel {i}: {} is not {want}", pair.id, first[i]);
            assert!((second[i] - db(vh(cell))).abs() < 2e-5, "{}, pixel {i}: {}", pair.id, second[i]);
        }
        let flat = |(i, band): (usize, &[f32])| band.iter().all(|v| *v == f32::from(optical(cell, i)));
        assert!(pair.s2.chunks_exact(14_400).enumerate().all(flat), "{}", pair.id);
        let transform = pair.geo.expect("a place").transform;
        let left = left(cell) + 1200.0 * col as f64;
        assert_eq!((transform[0], transform[1], transform[3]), (left, 10.0, TOP - 1200.0 * row as f64));
    }
    assert_eq!(seen, 64 - 11);
}
