//! Any bytes as a GeoTIFF in memory.
#![no_main]
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(band) = csmoe::data::archive::decode::bytes(data.to_vec(), "B02", true, "fuzz.tif") {
        assert_eq!(band.values.len(), band.width * band.height);
    }
});
