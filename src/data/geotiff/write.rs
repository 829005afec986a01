//! Writes GeoTIFFs: one file of named bands.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use gdal::DriverManager;
use gdal::Metadata;
use gdal::raster::{Buffer, GdalDataType, GdalType, RasterCreationOptions};
use gdal::spatial_ref::SpatialRef;
use gdal::vsi::get_vsi_mem_file_bytes_owned;

use super::super::export::write_atomic;
use super::super::{Error, Geo, Result};

/// A name for a file in GDAL's memory, which all threads share.
pub fn in_memory() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("/vsimem/csmoe-{}.tif", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Writes [C, px, px] pixels with their georeference; an interrupted write leaves nothing under the final name.
pub fn geotiff<T: GdalType + Copy>(
    path: &Path,
    bands: &[&str],
    px: usize,
    pixels: &[T],
    geo: Option<&Geo>,
) -> Result<()> {
    // One strip a band: a tile is read whole or not at all.
    let strip = format!("BLOCKYSIZE={px}");
    let options = ["COMPRESS=DEFLATE", "INTERLEAVE=BAND", predictor::<T>(), &strip];
    // Made in memory: GDAL does not report a disk that fills up when a file is closed.
    let bytes = encode(bands, px, pixels, geo, None, &options).map_err(|e| {
        Error::new(path.display(), format!("cannot be written: {e}"), "check the folder's free space and rights")
    })?;
    write_atomic(path, |file| file.write_all(&bytes))
}

/// One band as the bytes of a GeoTIFF, compressed and tiled as Major TOM's are.
pub fn geotiff_bytes<T: GdalType + Copy>(px: usize, pixels: &[T], geo: &Geo, nodata: Option<f64>) -> Result<Vec<u8>> {
    let options = ["COMPRESS=LZW", "TILED=YES", "BLOCKXSIZE=1024", "BLOCKYSIZE=1024"];
    let options = if px < 1024 { &options[..1] } else { &options[..] };
    encode(&[""], px, pixels, Some(geo), nodata, options)
        .map_err(|e| Error::new("a GeoTIFF in memory", format!("cannot be written: {e}"), "free some memory"))
}

fn encode<T: GdalType + Copy>(
    bands: &[&str],
    px: usize,
    pixels: &[T],
    geo: Option<&Geo>,
    nodata: Option<f64>,
    options: &[&str],
) -> gdal::errors::Result<Vec<u8>> {
    let memory = in_memory();
    let options = RasterCreationOptions::from_iter(options.iter().copied());
    let driver = DriverManager::get_driver_by_name("GTiff")?;
    let mut file = driver.create_with_band_type_with_options::<T, _>(&memory, px, px, bands.len(), &options)?;
    if let Some(geo) = geo {
        file.set_geo_transform(&geo.transform)?;
        file.set_spatial_ref(&SpatialRef::from_definition(&geo.crs)?)?;
    }
    for (index, (name, plane)) in bands.iter().zip(pixels.chunks_exact(px * px)).enumerate() {
        let mut band = file.rasterband(index + 1)?;
        if !name.is_empty() {
            band.set_description(name)?;
        }
        if nodata.is_some() {
            band.set_no_data_value(nodata)?;
        }
        band.write((0, 0), (px, px), &mut Buffer::new((px, px), plane.to_vec()))?;
    }
    file.close()?;
    get_vsi_mem_file_bytes_owned(&memory)
}

/// Differences between neighbours compress better than values.
fn predictor<T: GdalType>() -> &'static str {
    if T::datatype() == GdalDataType::Float32 { "PREDICTOR=3" } else { "PREDICTOR=2" }
}
