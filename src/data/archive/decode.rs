//! One band out of a GeoTIFF, in a file or in memory.

use std::path::Path;

use gdal::raster::GdalDataType;
use gdal::vsi::{create_mem_file, unlink_mem_file};

use super::super::geotiff::raster::{georeference, open, unreadable};
use super::super::geotiff::write::in_memory;
use super::super::{Error, Geo, Result};
use super::Band;

/// Sides beyond this are no tile of any archive read whole, but a header that lies.
const LARGEST: usize = 16_384;

/// Decodes band 1 of a GeoTIFF file. `zero_is_missing`: Sentinel-2's mark of a missing pixel, which no tag tells.
pub fn file(path: &Path, name: &str, zero_is_missing: bool) -> Result<Band> {
    band(path, name, zero_is_missing, &path.display().to_string())
}

/// The same from a GeoTIFF's bytes; `from` names their place in errors.
pub fn bytes(data: Vec<u8>, name: &str, zero_is_missing: bool, from: &str) -> Result<Band> {
    let path = in_memory();
    let failed = |e| unreadable(Path::new(from), e);
    create_mem_file(&path, data).map_err(failed)?;
    let decoded = band(Path::new(&path), name, zero_is_missing, from);
    unlink_mem_file(&path).map_err(failed)?;
    decoded.map_err(|e| Error { subject: from.into(), problem: e.problem.replace(&path, from), remedy: e.remedy })
}

fn band(path: &Path, name: &str, zero_is_missing: bool, from: &str) -> Result<Band> {
    let dataset = open(path)?;
    let (width, height) = dataset.raster_size();
    if width.max(height) > LARGEST || width.min(height) == 0 {
        let problem = format!("{width} x {height} pixels, at most {LARGEST} x {LARGEST} are expected in a tile");
        return Err(Error::new(from, problem, "the file is damaged, fetch it again"));
    }
    let failed = |e| unreadable(path, e);
    let raster = dataset.rasterband(1).map_err(failed)?;
    let dtype = match raster.band_type() {
        GdalDataType::UInt8 => "uint8",
        GdalDataType::UInt16 => "uint16",
        GdalDataType::Int16 => "int16",
        GdalDataType::UInt32 => "uint32",
        GdalDataType::Int32 => "int32",
        GdalDataType::Float32 => "float32",
        GdalDataType::Float64 => "float64",
        other => {
            let problem = format!("numbers of type {other:?}, real ones of at most 64 bits are expected");
            return Err(Error::new(from, problem, "convert the file with gdal_translate -ot Float32"));
        }
    };
    let nodata = raster.no_data_value().map(|x| x as f32);
    let mut values =
        raster.read_as::<f32>((0, 0), (width, height), (width, height), None).map_err(failed)?.into_shape_and_vec().1;
    for x in &mut values {
        if !x.is_finite() || nodata == Some(*x) || zero_is_missing && *x == 0.0 {
            *x = f32::NAN;
        }
    }
    let (transform, crs) = georeference(&dataset);
    let geo = transform.map(|t| Geo::new(t, crs, width, height));
    Ok(Band { name: name.into(), dtype: dtype.into(), values, width, height, geo, from: from.into() })
}
