//! The reader on real files, on files it wrote itself, and on bad ones.

use std::fs;
use std::path::PathBuf;

use super::*;
use crate::data::synth::Synth;
use crate::data::{Geo, S1_BANDS, S2_BANDS, open, open_images, open_with};

/// A folder of real data; None, said aloud, where it is not at hand.
fn real(folder: &str) -> Option<String> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/data").join(folder);
    if path.is_dir() {
        return Some(path.display().to_string());
    }
    assert!(std::env::var_os("CI").is_none(), "CI must have {}", path.display());
    println!("skipped: {} is not here", path.display());
    None
}

fn tile(px: usize) -> OpenOptions {
    OpenOptions { tile_px: Some(px), ..Default::default() }
}

const PX: usize = 32;

fn geo(px: usize) -> Geo {
    Geo::new([600_000.0, 10.0, 0.0, 5_000_000.0, 0.0, -10.0], "EPSG:32633", px, px)
}

/// A small archive of one scene: constant bands, decibels from -20.
struct Scene1 {
    dir: tempfile::TempDir,
    s1: Vec<f32>,
    s2: Vec<u16>,
}

impl Scene1 {
    fn new() -> Self {
        let s1 = (0..2 * PX * PX).map(|i| -20.0 + (i % 7) as f32).collect();
        let s2 = (0..10 * PX * PX).map(|i| 100 + (i / (PX * PX) * 100) as u16).collect();
        Self { dir: tempfile::tempdir().unwrap(), s1, s2 }
    }
    fn write(self) -> Self {
        write::geotiff(&self.path("S1/a.tif"), &S1_BANDS, PX, &self.s1, Some(&geo(PX))).unwrap();
        write::geotiff(&self.path("S2/a.tif"), &S2_BANDS, PX, &self.s2, Some(&geo(PX))).unwrap();
        self
    }
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
    fn open(&self, px: usize) -> Result<Pairs> {
        Pairs::open(self.dir.path(), &tile(px))
    }
    /// The error, which must be one line.
    fn fails(&self) -> String {
        let message = self.open(PX / 2).err().expect("must fail").to_string();
        assert!(!message.contains('\n') && message.matches("; ").count() >= 1, "{message}");
        message
    }
}

#[test]
fn terramesh_as_it_lies() {
    let Some(root) = real("terramesh") else { return };
    let pairs = open(&root, None).unwrap();
    assert_eq!((pairs.len(), pairs.tile_px()), (3, 120));
    println!("{}", pairs.describe());
    let index = (0..3).find(|i| pairs.pair(*i).unwrap().id == "38D_378R_2_3").unwrap();
    let pair = pairs.pair(index).unwrap();
    assert_eq!((pair.s1.len(), pair.s2.len(), pair.mask.unwrap().len()), (2 * 14_400, 10 * 14_400, 14_400));
    let geo = pair.geo.unwrap();
    assert_eq!(geo.crs, "EPSG:32736");
    assert!((geo.bounds[2] - geo.bounds[0] - 1200.0).abs() < 1e-6);
    let (lon, lat) = geo.lon_lat().unwrap()[0];
    assert!((33.0..36.0).contains(&lon) && (-4.0..-3.0).contains(&lat), "{lon} {lat}");
    let mean = |band: usize| pair.s2[band * 14_400..(band + 1) * 14_400].iter().sum::<f32>() / 14_400.0;
    // This dry place is brighter in B11 than anywhere else, and darkest in the blue.
    assert!(mean(7) > mean(3) && mean(3) > mean(2) && mean(2) > mean(0), "{:?}", (0..10).map(mean).collect::<Vec<_>>());
    assert!(pair.s1.iter().all(|db| (-40.0..10.0).contains(db)));
    assert_eq!(open(&root, Some(56)).unwrap().len(), 3 * 16);
}

#[test]
fn sen1floods11_as_it_lies() {
    let Some(root) = real("sen1floods11") else { return };
    let pairs = open(&root, None).unwrap();
    println!("{}", pairs.describe());
    assert_eq!(pairs.len(), 16);
    let pair = pairs.pair(6).unwrap();
    assert_eq!(pair.id, "Spain_7370579_1_2");
    let (first, geo) = (pairs.pair(0).unwrap().geo.unwrap(), pair.geo.unwrap());
    assert_eq!(geo.crs, "EPSG:4326");
    // One tile down, two to the right.
    let tile = 120.0 * geo.transform[1];
    assert!(
        (geo.bounds[0] - first.bounds[0] - 2.0 * tile).abs() < 1e-9
            && (first.bounds[3] - geo.bounds[3] - tile).abs() < 1e-9
    );
    assert!(pair.mask.unwrap().iter().all(|c| [0, 1, NO_CLASS].contains(c)));
    assert!(pair.s1.iter().chain(&pair.s2).all(|x| x.is_finite()));
    assert_eq!(pairs.group(6), 0);
}

#[test]
fn one_file_a_band_and_coarse_bands() {
    let (Some(unpacked), Some(ben)) = (real("major_tom_unpacked"), real("bigearthnet_v2")) else { return };
    let images = open_images(&unpacked, Sensor::S2, &tile(120)).unwrap();
    println!("{}", images.describe());
    // Some of the 64 tiles have missing pixels; all are accounted for.
    assert_eq!(images.len() + images.describe().dropped.values().sum::<usize>(), 64);
    let image = images.image(images.len() - 1).unwrap();
    assert_eq!(image.geo.unwrap().crs, "EPSG:32633");
    let b11 = &image.pixels[7 * 14_400..8 * 14_400];
    assert!((0..14_400).all(|i| b11[i] == b11[i / 240 * 240 + i % 120 / 2 * 2]));
    let patch = open_images(&ben, Sensor::S2, &OpenOptions::default()).unwrap();
    assert_eq!((patch.len(), patch.tile_px()), (1, 120));
    let radar = open_images(&ben, Sensor::S1, &OpenOptions::default()).unwrap().image(0).unwrap();
    let mean = radar.pixels[..14_400].iter().sum::<f32>() / 14_400.0;
    assert!((mean + 11.4497).abs() < 1e-3, "VV comes first: {mean}");
    let message = open(&ben, None).err().unwrap().to_string();
    assert!(message.contains("has a partner"), "{message}");
}

#[test]
fn eurosat_bands_and_class_folders() {
    let Some(root) = real("eurosat") else { return };
    let images = open_images(&root, Sensor::S2, &OpenOptions::default()).unwrap();
    assert_eq!((images.len(), images.tile_px()), (3, 64));
    assert_eq!(images.describe().classes, ["AnnualCrop", "Pasture", "SeaLake"]);
    let pasture = (0..3).map(|i| images.image(i).unwrap()).find(|i| i.label == Some(1)).unwrap();
    let mean = |band: usize| pasture.pixels[band * 4096..(band + 1) * 4096].iter().sum::<f32>() / 4096.0;
    // Means of the file's bands 13 (B8A), 11 (B11) and 8 (B08): B8A is last in these files.
    for (band, expected) in [(9, 4424.36), (7, 1758.77), (3, 3922.0)] {
        assert!((mean(band) - expected).abs() < 0.1, "{}: {}", S2_BANDS[band], mean(band));
    }
}

#[test]
fn what_synth_writes_is_what_it_holds() {
    let dir = tempfile::tempdir().unwrap();
    let synth = Synth::new(40, 11, 16);
    export::export(&synth, dir.path(), |_| {}).unwrap();
    let pairs = open(&dir.path().display().to_string(), Some(16)).unwrap();
    assert_eq!(pairs.len(), 40);
    assert_eq!(pairs.describe().classes, synth.describe().classes);
    for index in 0..40 {
        assert!(pairs.pair(index).unwrap() == synth.pair(index).unwrap(), "pair {index}");
    }
    let images = open_images(&dir.path().display().to_string(), Sensor::S1, &tile(16)).unwrap();
    assert!(images.image(3).unwrap() == crate::data::Half(synth, Sensor::S1).image(3).unwrap());
}

#[test]
fn tiles_with_missing_pixels_are_dropped_and_counted() {
    let mut scene = Scene1::new();
    scene.s1[0] = f32::NAN;
    scene.s2[3 * PX * PX + PX - 1] = 0;
    let scene = scene.write();
    let pairs = scene.open(PX / 2).unwrap();
    assert_eq!(pairs.len(), 2);
    assert_eq!(
        pairs.describe().dropped,
        [("S1 has missing pixels".into(), 1), ("S2 has missing pixels".into(), 1)].into()
    );
    assert_eq!(pairs.pair(0).unwrap().id, "a_1_0");
}

#[test]
fn linear_backscatter_becomes_decibels_and_says_so() {
    let mut scene = Scene1::new();
    scene.s1.fill(0.1);
    scene.s1[5] = 0.0;
    let scene = scene.write();
    let pairs = scene.open(PX / 2).unwrap();
    assert_eq!(pairs.describe().dropped, [("S1 is not above 0 before the logarithm".into(), 1)].into());
    assert!(pairs.pair(0).unwrap().s1.iter().all(|db| (db + 10.0).abs() < 1e-5));
    assert!(pairs.describe().notes.iter().any(|n| n.contains("decibels")));
}

#[test]
fn bands_can_be_named_and_reflectance_is_scaled() {
    let scene = Scene1::new().write();
    let reflectance: Vec<f64> = scene.s2.iter().map(|x| *x as f64 / 10_000.0).collect();
    let unnamed = [""; 10];
    write::geotiff(&scene.path("S2/a.tif"), &unnamed, PX, &reflectance, Some(&geo(PX))).unwrap();
    let mut order: Vec<String> = S2_BANDS.iter().map(|b| b.to_string()).collect();
    order.reverse();
    let options = OpenOptions { s2_bands: Some(order), ..tile(PX) };
    let pair = open_with(&scene.dir.path().display().to_string(), &options).unwrap().pair(0).unwrap();
    assert!((pair.s2[0] - 1000.0).abs() < 1e-2 && (pair.s2[9 * PX * PX] - 100.0).abs() < 1e-2);
    let pair = scene.open(PX).unwrap().pair(0).unwrap();
    assert!((pair.s2[0] - 100.0).abs() < 1e-2);
}

#[test]
fn bad_archives_fail_in_one_line_that_names_the_file() {
    let empty = tempfile::tempdir().unwrap();
    let message = Pairs::open(empty.path(), &tile(PX)).err().unwrap().to_string();
    assert!(message.contains("no GeoTIFF"), "{message}");
    let message = Pairs::open(&empty.path().join("absent"), &tile(PX)).err().unwrap().to_string();
    assert!(message.contains("absent") && message.contains("check that it exists"), "{message}");
    let text = empty.path().join("notes.txt");
    fs::write(&text, "no image").unwrap();
    let message = Images::open(&text, Sensor::S2, &tile(PX)).err().unwrap().to_string();
    assert!(message.contains("notes.txt") && message.contains("not a GeoTIFF"), "{message}");

    let scene = Scene1::new().write();
    let whole = fs::read(scene.path("S2/a.tif")).unwrap();
    for eighths in 0..8 {
        fs::write(scene.path("S2/a.tif"), &whole[..whole.len() * eighths / 8]).unwrap();
        let message = scene.fails();
        assert!(message.contains("S2/a.tif: cannot be read as a GeoTIFF"), "{eighths}/8: {message}");
    }

    let scene = Scene1::new().write();
    write::geotiff(&scene.path("S2/a.tif"), &S2_BANDS[..9], PX, &scene.s2[..9 * PX * PX], Some(&geo(PX))).unwrap();
    assert!(scene.fails().contains("S2 bands B8A missing"));

    let scene = Scene1::new().write();
    write::geotiff(&scene.path("S1/a.tif"), &S1_BANDS, PX / 2, &scene.s1[..PX * PX / 2], Some(&geo(PX / 2))).unwrap();
    assert!(scene.fails().contains("S2/a.tif: 32 x 32 pixels, but"));

    let scene = Scene1::new().write();
    let mut elsewhere = geo(PX);
    elsewhere.transform[0] += 10.0;
    write::geotiff(&scene.path("S1/a.tif"), &S1_BANDS, PX, &scene.s1, Some(&elsewhere)).unwrap();
    assert!(scene.fails().contains("geotransform"));
    elsewhere = Geo { crs: "EPSG:32634".into(), ..geo(PX) };
    write::geotiff(&scene.path("S1/a.tif"), &S1_BANDS, PX, &scene.s1, Some(&elsewhere)).unwrap();
    assert!(scene.fails().contains("coordinate system"));
    write::geotiff(&scene.path("S1/a.tif"), &S1_BANDS, PX, &scene.s1, None).unwrap();
    assert!(scene.fails().contains("georeferenced"));

    let mut scene = Scene1::new();
    scene.s1.fill(f32::NAN);
    assert!(scene.write().fails().contains("4 x S1 has missing pixels"));

    let scene = Scene1::new().write();
    fs::remove_dir_all(scene.path("S1")).unwrap();
    assert!(scene.fails().contains("no S1 images"));
}

#[test]
fn a_tiff_cut_in_its_pixels_is_refused() {
    // Uncompressed, so that the header stays whole and only the last rows are gone.
    let Some(root) = real("terramesh") else { return };
    let dir = tempfile::tempdir().unwrap();
    for folder in ["S1RTC", "S2L2A"] {
        fs::create_dir(dir.path().join(folder)).unwrap();
        let bytes = fs::read(format!("{root}/{folder}/38D_378R_2_3.tif")).unwrap();
        let keep = if folder == "S2L2A" { bytes.len() * 3 / 4 } else { bytes.len() };
        fs::write(dir.path().join(folder).join("a.tif"), &bytes[..keep]).unwrap();
    }
    let message = Pairs::open(dir.path(), &tile(112)).err().unwrap().to_string();
    assert!(message.contains("S2L2A/a.tif") && message.contains("fetch it again"), "{message}");
}
