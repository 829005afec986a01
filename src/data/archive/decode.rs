//! One band out of a GeoTIFF, in a file or in memory.

use std::path::Path;

use gdal::Dataset;
use gdal::vsi::create_mem_file_from_ref;

use super::super::geotiff::keys;
use super::super::geotiff::raster::{FileBytes, crs, dtype_name, open_sized, transform, unreadable};
use super::super::geotiff::write::in_memory;
use super::super::{Error, Geo, Result};
use super::Band;

/// Sides beyond this are no tile of any archive read whole, but a header that lies: at most 64 MiB are made room for.
const LARGEST: usize = 4096;

/// Decodes band 1 of a GeoTIFF file. `zero_is_missing`: Sentinel-2's mark of a missing pixel, which no tag tells.
pub fn file(path: &Path, name: &str, zero_is_missing: bool) -> Result<Band> {
    let from = path.display().to_string();
    // Whole: a tile's file is small, and GDAL looks beside files on disk for a dozen others.
    let data = std::fs::read(path)
        .map_err(|e| Error::new(&from, format!("cannot be read as a GeoTIFF: {e}"), "fetch the file again"))?;
    bytes(data, name, zero_is_missing, &from)
}

/// The same from a GeoTIFF's bytes; `from` names their place in errors.
pub fn bytes(mut data: Vec<u8>, name: &str, zero_is_missing: bool, from: &str) -> Result<Band> {
    if data.is_empty() {
        // GDAL would free memory that nobody took.
        return Err(Error::new(from, "0 bytes, a GeoTIFF is expected", "fetch the file again"));
    }
    let (path, about, keys) = (in_memory(), FileBytes::of(&data), keys::of(&data));
    let memory = create_mem_file_from_ref(Path::new(&path), &mut data).map_err(|e| unreadable(Path::new(from), e))?;
    let opened = open_sized(Path::new(&path), about);
    let decoded = opened.and_then(|dataset| band(dataset, Path::new(&path), keys, name, zero_is_missing, from));
    drop(memory);
    decoded.map_err(|e| Error {
        subject: e.subject.replace(&path, from),
        problem: e.problem.replace(&path, from),
        remedy: e.remedy,
    })
}

fn band(
    dataset: Dataset,
    path: &Path,
    keys: Option<Vec<u8>>,
    name: &str,
    zero_is_missing: bool,
    from: &str,
) -> Result<Band> {
    let (width, height) = dataset.raster_size();
    if width.max(height) > LARGEST || width.min(height) == 0 {
        let problem = format!("{width} x {height} pixels, at most {LARGEST} x {LARGEST} are expected in a tile");
        return Err(Error::new(from, problem, "the file is damaged, fetch it again"));
    }
    let failed = |e| unreadable(path, e);
    let raster = dataset.rasterband(1).map_err(failed)?;
    let Some(dtype) = dtype_name(raster.band_type()) else {
        let problem = format!("numbers of type {:?}, real ones of at most 64 bits are expected", raster.band_type());
        return Err(Error::new(from, problem, "convert the file with gdal_translate -ot Float32"));
    };
    let nodata = raster.no_data_value().map(|x| x as f32);
    let mut values =
        raster.read_as::<f32>((0, 0), (width, height), (width, height), None).map_err(failed)?.into_shape_and_vec().1;
    for x in &mut values {
        if !x.is_finite() || nodata == Some(*x) || zero_is_missing && *x == 0.0 {
            *x = f32::NAN;
        }
    }
    let geo = transform(&dataset).map(|t| Geo::new(t, crs(&dataset, keys), width, height));
    Ok(Band { name: name.into(), dtype: dtype.into(), values, width, height, geo, from: from.into() })
}

#[cfg(test)]
mod tests {
    use super::super::super::geotiff::write::geotiff_bytes;
    use super::*;
    use crate::data::random::Stream;

    fn tiff(px: usize) -> Vec<u8> {
        let geo = Geo::new([600_000.0, 10.0, 0.0, 5e6, 0.0, -10.0], "EPSG:32633", px, px);
        geotiff_bytes(px, &(0..px * px).map(|i| i as u16).collect::<Vec<_>>(), &geo, None).unwrap()
    }

    #[test]
    fn bytes_are_decoded_where_they_lie() {
        let band = bytes(tiff(24), "B02", true, "part: row group 3").unwrap();
        assert_eq!((band.width, band.dtype.as_str(), band.values[25]), (24, "uint16", 25.0));
        assert!(band.values[0].is_nan(), "0 is missing");
        assert_eq!(band.geo.unwrap().crs, "EPSG:32633");
    }

    #[test]
    fn no_bytes_are_an_error() {
        let message = bytes(vec![], "B02", true, "part: row group 3").unwrap_err().to_string();
        assert!(message.starts_with("part: row group 3: 0 bytes"), "{message}");
    }

    #[test]
    fn no_room_is_made_for_pixels_that_the_file_cannot_hold() {
        let mut lying = tiff(24);
        for tag in [0, 1] {
            // ImageWidth and ImageLength: one number of two bytes.
            let place = lying.windows(10).position(|w| w == [tag, 1, 3, 0, 1, 0, 0, 0, 24, 0]).unwrap();
            lying[place + 8..][..2].copy_from_slice(&4000u16.to_le_bytes());
        }
        let (took, _) = crate::data::meter::measure(|| {
            let message = bytes(lying.clone(), "B02", true, "part").unwrap_err().to_string();
            assert!(message.contains("4000 x 4000 pixels, more than"), "{message}");
        });
        assert!(took < 100_000, "{took}");
    }

    #[test]
    fn what_is_no_geotiff_opens_no_other_file() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("other.tif"), tiff(24)).unwrap();
        let vrt = format!(
            "<VRTDataset rasterXSize=\"24\" rasterYSize=\"24\"><VRTRasterBand dataType=\"UInt16\" band=\"1\"><SimpleSource>\
             <SourceFilename>{}</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>",
            dir.path().join("other.tif").display()
        );
        let message = bytes(vrt.into_bytes(), "B02", true, "part").unwrap_err().to_string();
        assert!(message.starts_with("part: cannot be read as a GeoTIFF"), "{message}");
    }

    #[test]
    fn ruined_bytes_name_their_place() {
        let whole = tiff(24);
        let mut stream = Stream::new(5, &[]);
        let mut failed = 0;
        for round in 0..3000 {
            let mut ruin = whole.clone();
            if round % 10 == 0 {
                ruin.truncate(stream.below(whole.len()));
            }
            for _ in 0..1 + stream.below(6) {
                // Most of the header's words lie in the first 300 bytes or at the end.
                let at = if stream.below(2) == 0 { stream.below(ruin.len().max(1)) } else { stream.below(300) };
                if let Some(byte) = ruin.get_mut(at) {
                    *byte = stream.bits() as u8;
                }
            }
            match bytes(ruin, "B02", true, "part: row group 3") {
                Ok(band) => assert!(band.values.len() == band.width * band.height && band.width <= LARGEST),
                Err(e) => {
                    failed += 1;
                    let message = e.to_string();
                    assert!(message.contains("part: row group 3") && !message.contains('\n'), "{message}");
                }
            }
        }
        assert!(failed > 300, "{failed}");
    }
}
