//! The readers on real files; figures computed independently by tools/archive_goldens.py.

use super::cut::{Cut, S1_MISSING, average, cut};
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

fn first(spec: &str, options: &ArchiveOptions) -> (Scene, Cut) {
    let reader = open(spec, options).unwrap();
    let scene = reader.scene(0).unwrap();
    let cut = cut(&scene, reader.about().tile_px, false).unwrap();
    (scene, cut)
}

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
    assert_eq!(cut.dropped()[S1_MISSING] as u64, want["dropped"].as_u64().unwrap());
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
