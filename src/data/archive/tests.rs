//! The readers on real files; figures computed independently by tools/archive_goldens.py.

#[cfg(feature = "gdal")]
use super::cut::Cut;
use super::cut::{average, cut};
use super::*;

/// A folder of real data; None, said aloud, where it is not at hand.
pub fn real(folder: &str) -> Option<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data").join(folder);
    if path.exists() {
        return Some(path.display().to_string());
    }
    assert!(std::env::var_os("CI").is_none(), "CI must have {}", path.display());
    println!("skipped: {} is not here", path.display());
    None
}

#[cfg(feature = "gdal")]
fn first(spec: &str, options: &ArchiveOptions) -> (Scene, Cut) {
    let reader = open(spec, options).unwrap();
    let scene = reader.scene(0).unwrap();
    let cut = cut(&scene, reader.about().tile_px, false).unwrap();
    (scene, cut)
}

#[cfg(all(feature = "gdal", feature = "parquet"))]
fn mean(pixels: &[f32]) -> f64 {
    pixels.iter().map(|x| f64::from(*x)).sum::<f64>() / pixels.len() as f64
}

#[test]
#[cfg(all(feature = "gdal", feature = "parquet"))]
fn major_tom_as_it_lies() {
    let Some(root) = real("major_tom") else { return };
    let reader = open(&root, &ArchiveOptions::default()).unwrap();
    let about = reader.about();
    assert_eq!((about.format.as_str(), reader.len(), reader.id(0)), ("Major TOM Core", 1, "0U_199R".into()));
    assert_eq!(about.left_out, BTreeMap::from([("S2 scenes without S1".into(), 1)]));
    let (scene, cut) = first(&root, &ArchiveOptions::default());
    assert_eq!((cut.shape, scene.linear, scene.offset), ((8, 8), true, 1000.0));
    let goldens: serde_json::Value = serde_json::from_str(include_str!("goldens.json")).unwrap();
    let want = &goldens["major_tom"];
    let kept: Vec<_> = cut.patches.iter().filter(|p| p.dropped.is_none()).collect();
    assert_eq!(kept.len() as u64, want["kept"].as_u64().unwrap());
    assert_eq!(cut.dropped()[super::cut::S1_MISSING] as u64, want["dropped"].as_u64().unwrap());
    let places: Vec<[usize; 2]> = kept.iter().map(|p| [p.at.0, p.at.1]).collect();
    assert_eq!(serde_json::to_value(places).unwrap(), want["places"]);
    for golden in want["patches"].as_array().unwrap() {
        let at = golden["at"].as_array().unwrap();
        let at = (at[0].as_u64().unwrap() as usize, at[1].as_u64().unwrap() as usize);
        let patch = kept.iter().find(|p| p.at == at).unwrap();
        let bands = patch.s1.chunks_exact(14_400).chain(patch.s2.chunks_exact(14_400));
        for (band, golden) in bands.zip(golden["mean"].as_array().unwrap()) {
            assert!((mean(band) - golden.as_f64().unwrap()).abs() < 1e-4 * golden.as_f64().unwrap().abs());
        }
        let bounds = serde_json::to_value(patch.geo.as_ref().unwrap().bounds).unwrap();
        for (a, b) in bounds.as_array().unwrap().iter().zip(golden["bounds"].as_array().unwrap()) {
            assert!((a.as_f64().unwrap() - b.as_f64().unwrap()).abs() < 1e-6);
        }
    }
    // 20 m bands are repeated.
    let b05 = &kept[0].s2[4 * 14_400..5 * 14_400];
    assert!((0..14_400).all(|i| b05[i] == b05[i / 240 * 240 + i % 120 / 2 * 2]));
    let keep = ArchiveOptions { boa_offset: BoaOffset::Keep, ..Default::default() };
    let (_, kept_offset) = first(&root, &keep);
    let kept_offset = kept_offset.patches.iter().find(|p| p.dropped.is_none()).unwrap();
    assert!(kept[0].s2.iter().zip(&kept_offset.s2).all(|(a, b)| *a == (b - 1000.0).max(0.0)));
}

#[test]
#[cfg(all(feature = "gdal", feature = "parquet"))]
fn the_unpacked_form_holds_the_same_pixels() {
    let (Some(packed), Some(unpacked)) = (real("major_tom/Core-S2L2A"), real("major_tom_unpacked")) else { return };
    let only = Some(BTreeSet::from(["0U_199R".to_string()]));
    let options = ArchiveOptions { only, ..Default::default() };
    let ((_, a), (_, b)) = (first(&packed, &options), first(&unpacked, &options));
    assert_eq!(a.patches.len(), 64);
    assert!(a.patches == b.patches);
    let absent = ArchiveOptions { only: Some(BTreeSet::from(["1U_1R".to_string()])), ..Default::default() };
    let message = open(&packed, &absent).err().unwrap().to_string();
    assert!(message.contains("none of the 1 scenes"), "{message}");
}

#[test]
fn areas_are_averaged_and_gaps_spread() {
    // 4 pixels of 7.5 m are 3 of 10 m.
    let row = average(&[1.0, 2.0, 3.0, 4.0], (4, 1), (3, 1));
    for (got, want) in row.iter().zip([1.25, 2.5, 3.75]) {
        assert!((got - want).abs() < 1e-6, "{row:?}");
    }
    let square = average(&(0..16).map(|i| i as f32).collect::<Vec<_>>(), (4, 4), (2, 2));
    assert_eq!(square, [2.5, 4.5, 10.5, 12.5]);
    let mut gap = vec![1.0; 16];
    gap[5] = f32::NAN;
    let out = average(&gap, (4, 4), (2, 2));
    assert!(out[0].is_nan() && out[1..].iter().all(|x| *x == 1.0));
}

/// A scene of constant bands at 10 m, and S1 on any grid.
fn made(s1_px: usize, s1_value: impl Fn(usize) -> f32, shift: f64) -> Scene {
    let band = |name: &str, px: usize, values: Vec<f32>, shift: f64| {
        let step = 320.0 / px as f64;
        let geo = Geo::new([600_000.0 + shift, step, 0.0, 5e6, 0.0, -step], "EPSG:32633", px, px);
        Band {
            name: name.into(),
            dtype: String::new(),
            values,
            width: px,
            height: px,
            geo: Some(geo),
            from: name.into(),
        }
    };
    let s1 = super::super::S1_BANDS.map(|n| band(n, s1_px, (0..s1_px * s1_px).map(&s1_value).collect(), shift));
    let s2 = super::super::S2_BANDS.map(|n| band(n, 32, vec![500.0; 1024], 0.0));
    Scene { id: "a".into(), bands: s1.into_iter().chain(s2).collect(), linear: true, ..Scene::default() }
}

#[test]
fn finer_radar_is_resampled_and_other_grids_refused() {
    let result = cut(&made(48, |_| 0.01, 0.0), 16, false).unwrap();
    assert!(result.notes.iter().any(|n| n.contains("finer grid")));
    assert!(result.patches.len() == 4 && result.patches[3].s1.iter().all(|db| (db + 20.0).abs() < 1e-4));
    // A radar archive alone comes on the 10 m grid too; each of its pixels is 320 / 48 m.
    let mut alone = made(48, |_| 0.01, 0.0);
    alone.bands.truncate(2);
    let alone = cut(&alone, 16, false).unwrap();
    assert_eq!((alone.shape, alone.patches[3].s1.len(), alone.patches[3].s2.len()), ((2, 2), 512, 0));
    let message = cut(&made(32, |_| 0.01, 10.0), 16, false).unwrap_err().to_string();
    assert!(message.contains("geotransform"), "{message}");
    let zero = cut(&made(32, |i| if i == 0 { 0.0 } else { 0.01 }, 0.0), 16, false).unwrap();
    assert_eq!(zero.dropped(), BTreeMap::from([(super::cut::S1_NOT_POSITIVE, 1)]));
    let mut lacking = made(32, |_| 0.01, 0.0);
    lacking.bands.retain(|b| b.name != "B8A");
    let message = cut(&lacking, 16, false).unwrap_err().to_string();
    assert!(message.contains("bands B8A missing"), "{message}");
}

#[test]
fn the_baseline_decides_about_the_offset() {
    let name = |n: &str| format!("S2A_MSIL2A_20220706T085611_{n}_R007_T33NZA_20220706T153419");
    for (baseline, offset) in [("N0301", 0.0), ("N0400", 1000.0), ("N0511", 1000.0), ("N9999", 0.0)] {
        assert_eq!(BoaOffset::Auto.of(&name(baseline)), offset, "{baseline}");
        assert_eq!(BoaOffset::Keep.of(&name(baseline)), 0.0);
        assert_eq!(BoaOffset::Subtract.of(&name(baseline)), 1000.0);
    }
    assert_eq!(BoaOffset::Auto.of("38D_378R_2_3"), 0.0);
}

#[cfg(all(feature = "gdal", feature = "parquet"))]
mod layouts {
    use super::*;
    use crate::data::synth::Synth;
    use crate::data::synth::layouts::some_cells as cells;
    use crate::data::{Pair, PairSource};

    const PX: usize = 48;

    /// Every scene of `spec` in patches of the scene's own size.
    fn read(spec: &str) -> (About, Vec<(Scene, Cut)>) {
        let reader = open(spec, &ArchiveOptions { tile_px: Some(PX), ..Default::default() }).unwrap();
        let one = |i| {
            let scene = reader.scene(i).unwrap();
            let cut = cut(&scene, PX, false).unwrap();
            (scene, cut)
        };
        (reader.about().clone(), (0..reader.len()).map(one).collect())
    }

    fn same(cut: &Cut, pair: &Pair) {
        let [patch] = &cut.patches[..] else { panic!("{} patches", cut.patches.len()) };
        assert!(patch.dropped.is_none() && patch.s2 == pair.s2, "{}", pair.id);
        // Through a power and a logarithm in single precision.
        assert!(patch.s1.iter().zip(&pair.s1).all(|(a, b)| (a - b).abs() < 2e-5), "{}", pair.id);
    }

    #[test]
    fn major_tom_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let synth = Synth::new(3, 8, PX);
        synth.write_major_tom(dir.path(), &cells(3), |_| {}).unwrap();
        let (about, scenes) = read(dir.path().to_str().unwrap());
        assert_eq!((about.format.as_str(), scenes.len()), ("Major TOM Core", 3));
        for (i, (scene, cut)) in scenes.iter().enumerate() {
            assert_eq!((scene.id.clone(), scene.offset), (format!("{i}U_7R"), 1000.0));
            assert_eq!(scene.bands.iter().find(|b| b.name == "B05").unwrap().width, PX / 2);
            let geo = cut.patches[0].geo.as_ref().unwrap();
            assert_eq!((geo.transform[0], geo.crs.as_str()), (500_000.0 + i as f64, "EPSG:32631"));
            same(cut, &synth.pair(i).unwrap());
        }
    }

    #[test]
    fn big_earth_net_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let synth = Synth::new(9, 8, PX);
        synth.write_big_earth_net(dir.path(), |_| {}).unwrap();
        let (about, scenes) = read(dir.path().to_str().unwrap());
        assert_eq!((about.format.as_str(), about.classes.len(), scenes.len()), ("BigEarthNet v2", 19, 9));
        for (i, (scene, cut)) in scenes.iter().enumerate() {
            let pair = synth.pair(i).unwrap();
            same(cut, &pair);
            assert_eq!(cut.patches[0].s1, pair.s1, "decibels are stored as they are");
            let class = &about.classes[scene.labels[0] as usize];
            let own = &synth.describe().classes[pair.label.unwrap() as usize];
            let known = [("water", "Inland waters"), ("forest", "Broad-leaved forest"), ("built-up", "Urban fabric")];
            assert!(known.iter().all(|(a, b)| (own == a) == (class == b)), "{own} became {class}");
            let most = |c: u8| scene.mask.iter().flatten().filter(|m| **m == c).count();
            assert!(2 * most(scene.labels[0] as u8) > PX * PX);
        }
    }

    #[test]
    #[cfg(feature = "hdf5")]
    fn geo_bench_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let synth = Synth::new(20, 8, PX);
        synth.write_geo_bench(dir.path(), |_| {}).unwrap();
        let (about, mut scenes) = read(dir.path().to_str().unwrap());
        assert_eq!((about.format.as_str(), about.classes.len(), scenes.len()), ("GEO-Bench 1.0", 8, 20));
        scenes.sort_by(|a, b| a.0.id.cmp(&b.0.id));
        for (i, (scene, cut)) in scenes.iter().enumerate() {
            let pair = synth.pair(i).unwrap();
            same(cut, &pair);
            let own = &synth.describe().classes[pair.label.unwrap() as usize];
            assert_eq!(about.classes[scene.labels[0] as usize], *own);
        }
        // Not HDF5 at all, and half of a file.
        let path = dir.path().join("id_000003.hdf5");
        let whole = std::fs::read(&path).unwrap();
        for bytes in [&b"nonsense"[..], &[], &whole[..whole.len() / 2]] {
            std::fs::write(&path, bytes).unwrap();
            let reader = open(dir.path().to_str().unwrap(), &ArchiveOptions::default()).unwrap();
            let index = (0..20).find(|i| reader.id(*i) == "id_000003").unwrap();
            let message = reader.scene(index).unwrap_err().to_string();
            assert!(message.contains("id_000003.hdf5") && !message.contains('\n'), "{message}");
        }
    }

    #[test]
    fn damaged_parquet_names_file_and_row_group() {
        let dir = tempfile::tempdir().unwrap();
        Synth::new(2, 8, PX).write_major_tom(dir.path(), &cells(2), |_| {}).unwrap();
        let spec = dir.path().to_str().unwrap();
        let path = dir.path().join("Core-S2L2A/images/part_00001.parquet");
        let whole = std::fs::read(&path).unwrap();
        let mut stream = crate::data::random::Stream::new(3, &[]);
        let (mut failed, mut places) = (0, 0);
        for _ in 0..300 {
            let mut bytes = whole.clone();
            let at = stream.below(bytes.len());
            bytes[at] ^= 1 << stream.below(8);
            std::fs::write(&path, &bytes).unwrap();
            let reader = open(spec, &ArchiveOptions { tile_px: Some(PX), ..Default::default() }).unwrap();
            for i in 0..2 {
                // A thread of its own: the reader keeps the file that a thread read last open.
                let message = std::thread::scope(|s| s.spawn(|| reader.scene(i)).join().expect("no panic")).err();
                let Some(message) = message.map(|e| e.to_string()) else { continue };
                failed += 1;
                places += usize::from(message.contains("row group"));
                assert!(message.contains("part_00001.parquet") && !message.contains('\n'), "{message}");
            }
        }
        assert!(failed > 20 && places > 10, "{failed} {places}");
        for length in [0, 3, whole.len() / 2, whole.len() - 1] {
            std::fs::write(&path, &whole[..length]).unwrap();
            let reader = open(spec, &ArchiveOptions::default()).unwrap();
            let message = std::thread::scope(|s| s.spawn(|| reader.scene(0)).join().unwrap()).unwrap_err().to_string();
            assert!(message.contains("part_00001.parquet"), "{message}");
        }
    }
}

#[test]
#[cfg(feature = "gdal")]
fn big_earth_net_as_it_lies() {
    let (Some(folders), Some(lmdb)) = (real("bigearthnet_v2"), real("bigearthnet_v2/lmdb")) else { return };
    // S1 and S2 are of two places: the optical one is taken, the other counted.
    let reader = open(&folders, &ArchiveOptions::default()).unwrap();
    assert_eq!((reader.len(), reader.about().left_out.values().sum::<usize>()), (1, 1));
    let (scene, cut) = first(&folders, &ArchiveOptions::default());
    assert_eq!((scene.offset, cut.shape), (0.0, (1, 1)));
    let (_, from_lmdb) = first(&lmdb, &ArchiveOptions::default());
    assert_eq!(cut.patches[0].s2, from_lmdb.patches[0].s2);
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("data.mdb"), [7; 5000]).unwrap();
    let message = open(dir.path().to_str().unwrap(), &ArchiveOptions::default()).err().unwrap().to_string();
    assert!(message.contains("data.mdb: not a whole LMDB file"), "{message}");
}
