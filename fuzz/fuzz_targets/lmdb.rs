//! Any bytes as an LMDB file: an error or entries inside the file.
#![no_main]
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(entries) = csmoe::data::archive::lmdb::entries(data, "fuzz.mdb") {
        assert!(entries.iter().all(|e| e.value.end <= data.len()));
    }
});
