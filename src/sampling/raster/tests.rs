use super::*;
use gdal::DriverManager;
use gdal::raster::{Buffer, RasterCreationOptions};

/// A raster of bytes whose value is a function of column and row.
fn write(
    path: &Path,
    transform: [f64; 6],
    epsg: u32,
    size: (usize, usize),
    nodata: Option<f64>,
    value: impl Fn(usize, usize) -> u8,
) {
    let options = RasterCreationOptions::from_iter(["TILED=YES", "BLOCKXSIZE=16", "BLOCKYSIZE=16"]);
    let driver = DriverManager::get_driver_by_name("GTiff").unwrap();
    let mut raster = driver.create_with_band_type_with_options::<u8, _>(path, size.0, size.1, 1, &options).unwrap();
    raster.set_geo_transform(&transform).unwrap();
    raster.set_spatial_ref(&SpatialRef::from_epsg(epsg).unwrap()).unwrap();
    let mut band = raster.rasterband(1).unwrap();
    band.set_no_data_value(nodata).unwrap();
    let data = (0..size.0 * size.1).map(|i| value(i % size.0, i / size.0)).collect();
    band.write((0, 0), size, &mut Buffer::new(size, data)).unwrap();
}

fn points(n: usize) -> Vec<Point> {
    let at = |i: usize, step: usize, range: f64| (i * step % 9973) as f64 / 9973.0 * range;
    (0..n).map(|i| Point { lat: 40.0 + at(i, 7919, 4.0), lon: 10.0 + at(i, 104_729, 4.0) }).collect()
}

#[test]
fn the_nearest_pixel_and_each_block_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tif");
    // 4 degrees square, 0.1 degree pixels: 40 x 40 in blocks of 16.
    write(&path, [10.0, 0.1, 0.0, 44.0, 0.0, -0.1], 4326, (40, 40), Some(0.0), |c, r| (c * 7 + r * 13) as u8);
    let mosaic = Mosaic::open(&path).unwrap();
    let points = points(5000);
    let (values, blocks) = mosaic.read(&points).unwrap();
    assert_eq!(blocks, 9);
    for (p, v) in points.iter().zip(values) {
        let (c, r) = (((p.lon - 10.0) / 0.1).floor() as usize, ((44.0 - p.lat) / 0.1).floor() as usize);
        let expected = (c.min(39) * 7 + r.min(39) * 13) as u8;
        assert_eq!(
            v,
            if r > 39 {
                Value::Outside
            } else if expected == 0 {
                Value::Nodata
            } else {
                Value::Class(i32::from(expected))
            },
            "{p:?}"
        );
    }
    assert_eq!(mosaic.read(&[Point { lat: 39.9, lon: 12.0 }]).unwrap().0, [Value::Outside]);
    let pixel = mosaic.pixel(Point { lat: 42.05, lon: 13.05 }).unwrap().unwrap();
    assert_eq!((pixel.row, pixel.column), (19, 30));
}

#[test]
fn tiles_are_one_raster() {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole.tif");
    let value = |c: usize, r: usize| (c * 3 + r * 5 % 200 + 1) as u8;
    write(&whole, [10.0, 0.1, 0.0, 44.0, 0.0, -0.1], 4326, (40, 40), None, value);
    let tiles = folder.path().join("tiles");
    std::fs::create_dir(&tiles).unwrap();
    for (i, j) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
        let origin = [10.0 + 2.0 * i as f64, 0.1, 0.0, 44.0 - 2.0 * j as f64, 0.0, -0.1];
        write(&tiles.join(format!("t_{i}_{j}.tif")), origin, 4326, (20, 20), None, |c, r| {
            value(c + 20 * i, r + 20 * j)
        });
    }
    // Off the seams of the tiles, where rounding may choose either side.
    let points: Vec<Point> = points(3000).into_iter().filter(|p| p.lat > 40.001).collect();
    let expected = Mosaic::open(&whole).unwrap().read(&points).unwrap().0;
    assert_eq!(Mosaic::open(&tiles).unwrap().read(&points).unwrap().0, expected);
    assert_eq!(Mosaic::open(&tiles.join("t_?_*.tif")).unwrap().read(&points).unwrap().0, expected);
    assert!(expected.iter().all(|v| matches!(v, Value::Class(_))));
    assert!(Mosaic::open(&tiles.join("x*.tif")).is_err());
}

#[test]
fn projected_and_rotated_rasters() {
    let folder = tempfile::tempdir().unwrap();
    // UTM 33 N, 1 km pixels around 12.5 E, 42 N: the value is the column.
    let utm = folder.path().join("utm.tif");
    write(&utm, [200_000.0, 1000.0, 0.0, 4_750_000.0, 0.0, -1000.0], 32633, (200, 200), Some(0.0), |c, _| c as u8);
    let mosaic = Mosaic::open(&utm).unwrap();
    assert!(mosaic.notes.iter().any(|n| n.contains("projected")), "{:?}", mosaic.notes);
    let zone = crate::sampling::utm::Zone { number: 33, north: true };
    for column in [1, 57, 199] {
        let (lat, lon) = zone.inverse(200_500.0 + 1000.0 * f64::from(column), 4_640_250.0);
        assert_eq!(mosaic.read(&[Point { lat, lon }]).unwrap().0, [Value::Class(column)]);
    }
    // Columns run north, rows run east.
    let turned = folder.path().join("turned.tif");
    write(&turned, [10.0, 0.0, 0.1, 40.0, 0.1, 0.0], 4326, (40, 40), None, |c, r| (c + 1 + 50 * (r / 10)) as u8);
    let mosaic = Mosaic::open(&turned).unwrap();
    assert!(mosaic.notes.iter().any(|n| n.contains("rotated")));
    let value = mosaic.read(&[Point { lat: 40.75, lon: 12.15 }]).unwrap().0;
    assert_eq!(value, [Value::Class(7 + 1 + 50 * 2)]);
}

#[test]
fn bad_rasters_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("a.tif");
    std::fs::write(&text, "no raster").unwrap();
    let message = format!("{:#}", Mosaic::open(&text).err().unwrap());
    assert!(message.contains("a.tif") && message.contains("GDAL"), "{message}");
    assert!(Mosaic::open(&folder.path().join("none.tif")).is_err());
    let fraction = folder.path().join("f.tif");
    let driver = DriverManager::get_driver_by_name("GTiff").unwrap();
    let mut raster = driver.create_with_band_type::<f32, _>(&fraction, 2, 2, 1).unwrap();
    raster.set_geo_transform(&[0.0, 1.0, 0.0, 2.0, 0.0, -1.0]).unwrap();
    raster.rasterband(1).unwrap().write((0, 0), (2, 2), &mut Buffer::new((2, 2), vec![1.0f32, 2.5, 3.0, 4.0])).unwrap();
    drop(raster);
    let message =
        format!("{:#}", Mosaic::open(&fraction).unwrap().read(&[Point { lat: 1.5, lon: 1.5 }]).err().unwrap());
    assert!(message.contains("row 0, column 1") && message.contains("2.5"), "{message}");
}
