//! Any bytes as a file of Major TOM's images, beside metadata that names its first row group.
#![no_main]
use csmoe::data::archive::{ArchiveOptions, Reader, major_tom::MajorTom};
use libfuzzer_sys::fuzz_target;
use std::path::PathBuf;
use std::sync::OnceLock;

fuzz_target!(|data: &[u8]| {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    let root = ROOT.get_or_init(|| {
        let root = PathBuf::from(format!("/dev/shm/csmoe-fuzz-{}/Core-S2L2A", std::process::id()));
        std::fs::create_dir_all(root.join("images")).expect("a writable folder");
        std::fs::write(root.join("metadata.parquet"), include_bytes!("../seeds/metadata.parquet")).expect("written");
        root
    });
    std::fs::write(root.join("images/part_00001.parquet"), data).expect("a writable folder");
    if let Ok(Some(archive)) = MajorTom::find(root, &ArchiveOptions::default()) {
        // The reader keeps a thread's last file open.
        std::thread::scope(|s| {
            s.spawn(|| (0..archive.len()).for_each(|i| drop(archive.scene(i))));
        });
    }
});
