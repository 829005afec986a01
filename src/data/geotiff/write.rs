//! Writes GeoTIFFs: one file of named bands.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use gdal::DriverManager;
use gdal::Metadata;
use gdal::raster::{Buffer, GdalDataType, GdalType, RasterCreationOptions};
use gdal::spatial_ref::SpatialRef;
use gdal::vsi::get_vsi_mem_file_bytes_owned;

use super::super::export::write_atomic;
use super::super::{Error, Geo, Result};

/// Writes [C, px, px] pixels with their georeference; an interrupted write leaves nothing under the final name.
pub fn geotiff<T: GdalType + Copy>(
    path: &Path,
    bands: &[&str],
    px: usize,
    pixels: &[T],
    geo: Option<&Geo>,
) -> Result<()> {
    let failed = |e: gdal::errors::GdalError| {
        Error::new(path.display(), format!("cannot be written: {e}"), "check the folder's free space and rights")
    };
    // Made in memory: GDAL does not report a disk that fills up when a file is closed.
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let memory = format!("/vsimem/csmoe-{}.tif", NEXT.fetch_add(1, Ordering::Relaxed));
    let write = || -> gdal::errors::Result<Vec<u8>> {
        // One strip a band: a tile is read whole or not at all.
        let strip = format!("BLOCKYSIZE={px}");
        let options =
            RasterCreationOptions::from_iter(["COMPRESS=DEFLATE", "INTERLEAVE=BAND", predictor::<T>(), &strip]);
        let driver = DriverManager::get_driver_by_name("GTiff")?;
        let mut file = driver.create_with_band_type_with_options::<T, _>(&memory, px, px, bands.len(), &options)?;
        if let Some(geo) = geo {
            file.set_geo_transform(&geo.transform)?;
            file.set_spatial_ref(&SpatialRef::from_definition(&geo.crs)?)?;
        }
        for (index, (name, plane)) in bands.iter().zip(pixels.chunks_exact(px * px)).enumerate() {
            let mut band = file.rasterband(index + 1)?;
            band.set_description(name)?;
            band.write((0, 0), (px, px), &mut Buffer::new((px, px), plane.to_vec()))?;
        }
        file.close()?;
        get_vsi_mem_file_bytes_owned(&memory)
    };
    let bytes = write().map_err(failed)?;
    write_atomic(path, |file| file.write_all(&bytes))
}

/// Differences between neighbours compress better than values.
fn predictor<T: GdalType>() -> &'static str {
    if T::datatype() == GdalDataType::Float32 { "PREDICTOR=3" } else { "PREDICTOR=2" }
}
