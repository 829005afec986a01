//! Any bytes as a shard of a store: opened and read, every patch.
#![no_main]
use csmoe::data::Sensor;
use csmoe::data::archive::BoaOffset;
use csmoe::data::store::{Plan, shard::Shard};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let plan = Plan {
        archive: "fuzz".into(),
        source: "fuzz".into(),
        sensors: vec![Sensor::S1, Sensor::S2],
        tile_px: 8,
        boa_offset: BoaOffset::Auto,
        scenes: 1,
        scenes_per_shard: 1,
        scene_list: 0,
        classes: vec!["a".into(), "b".into()],
    };
    let folder = std::path::Path::new("/dev/shm");
    let path = folder.join(format!("csmoe-fuzz-{}", std::process::id()));
    std::fs::write(&path, data).expect("a writable folder");
    if let Ok(shard) = Shard::open(&path, &plan) {
        let (mut s1, mut s2) = ([0.0; 2 * 64], [0.0; 10 * 64]);
        for i in 0..shard.len().min(64) {
            let _ = (shard.id(i), shard.geo(i), shard.label(i), shard.mask(i), shard.at(i));
            let _ = shard.fill(i, Some(&mut s1), Some(&mut s2));
        }
        let _ = shard.dropped().count();
    }
});
