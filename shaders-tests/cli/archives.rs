//! `synth`, `patches`, `inspect`, `stats-bands`, and training on what they make.

use crate::{csmoe, fail, real_data, small_config, succeed, text};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

fn json(args: &[&str]) -> Value {
    serde_json::from_slice(&succeed(args).stdout).unwrap_or_else(|e| panic!("csmoe {args:?}: {e}"))
}

fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(dir).expect("a folder").map(|e| e.expect("an entry"));
    entries.map(|e| (e.file_name().into_string().expect("UTF-8"), std::fs::read(e.path()).expect("read"))).collect()
}

#[test]
fn sample_to_patches_to_training() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let (archive, sample, store, run) = (at("archive"), at("sample.csv"), at("store"), at("run"));
    succeed(&["synth", "--layout", "major-tom", "--pairs", "6", "--tile-px", "72", "--out", text(&archive)]);
    // A sample of three cells, one of which the archive lacks.
    let all = json(&["inspect", text(&archive), "--tile-px", "24", "--json"]);
    assert_eq!((&all["scenes"], &all["pairs"]), (&6.into(), &54.into()));
    let listed = csmoe::data::table::Table::open(&archive.join("Core-S2L2A/metadata.parquet")).expect("metadata");
    let mut cells = Vec::new();
    let column = listed.require("grid_cell").expect("a column");
    listed
        .read(&[column], &mut |batch| {
            cells.extend((0..batch.rows).map(|r| batch.columns[0].text(r)));
            Ok(())
        })
        .expect("rows");
    std::fs::write(&sample, format!("grid_cell\n{}\n{}\n1D_1L\n", cells[1], cells[4])).expect("written");
    let cut = [
        "patches",
        "--archive",
        text(&archive),
        "--sample",
        text(&sample),
        "--tile-px",
        "24",
        "--out",
        text(&store),
        "--json",
    ];
    let report = json(&cut);
    assert_eq!((&report["pairs"], &report["complete"]), (&18.into(), &true.into()));
    assert_eq!(report["left_out"]["sampled, but not in the archive"], 1);

    let picture = at("sheet.png");
    let found = json(&["inspect", text(&store), "--json", "--verify", "--out", text(&picture)]);
    assert_eq!((&found["pairs"], &found["tile_px"]), (&18.into(), &24.into()));
    assert_eq!(found["bands"][0], "VV");
    for name in ["mean", "std", "min", "max", "dtype"] {
        assert_eq!(found[name].as_array().map(Vec::len), Some(12), "{name}");
    }
    assert!(found["dropped"].is_object() && picture.metadata().expect("a picture").len() > 1000);
    let measured = json(&["stats-bands", text(&store), "--json"]);
    let close = |a: &Value, b: &Value| (a.as_f64().unwrap() - b.as_f64().unwrap()).abs() < 1e-3;
    assert!(close(&measured["s2"]["mean"][3], &found["mean"][5]));

    let config = small_config(folder.path());
    let train = [
        "pretrain",
        "--data",
        text(&store),
        "--config",
        text(&config),
        "--out",
        text(&run),
        "--steps",
        "3",
        "--batch",
        "4",
        "--json",
    ];
    assert_eq!(json(&train)["steps"], 3);
    let used: Value = serde_json::from_slice(&std::fs::read(run.join("config.json")).expect("config")).expect("JSON");
    assert!(close(&used["sensors"]["s2"]["mean"][0], &found["mean"][2]), "the store's own statistics");
    let vectors = at("e.npy");
    let embedded =
        json(&["embed", "--checkpoint", text(&run), "--input", text(&store), "--out", text(&vectors), "--json"]);
    assert_eq!(embedded["tiles"], 18);
    let (_, message) = fail(&["pretrain", "--data", text(&store), "--tile-px", "48", "--out", text(&at("other"))]);
    assert!(message.contains("holds patches of 24 px"), "{message}");
}

#[test]
fn a_constant_band_is_told_and_only_training_refuses_it() {
    use csmoe::data::geotiff::write::geotiff;
    use csmoe::data::{Geo, S1_BANDS, S2_BANDS};
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let (archive, store) = (at("archive"), at("store"));
    const PLANE: usize = 24 * 24;
    for pair in 0..8 {
        let geo = Geo::new([240.0 * pair as f64, 10.0, 0.0, 5e6, 0.0, -10.0], "EPSG:32633", 24, 24);
        let radar: Vec<f32> = (0..2 * PLANE).map(|i| -5.0 - ((i + pair) % 13) as f32).collect();
        let flat = |i: usize| S2_BANDS[i / PLANE] == "B12";
        let optical: Vec<u16> =
            (0..10 * PLANE).map(|i| if flat(i) { 1500 } else { 200 + (i + pair) as u16 % 700 }).collect();
        let file = |sensor: &str| archive.join(sensor).join(format!("{pair}.tif"));
        geotiff(&file("S1"), &S1_BANDS, 24, &radar, Some(&geo)).expect("written");
        geotiff(&file("S2"), &S2_BANDS, 24, &optical, Some(&geo)).expect("written");
    }
    let cut = json(&["patches", "--archive", text(&archive), "--out", text(&store), "--json"]);
    assert_eq!((&cut["pairs"], &cut["notes"]), (&8.into(), &serde_json::json!({"band B12 is constant": 8})));
    let found = json(&["inspect", text(&store), "--json"]);
    let constant = 2 + S2_BANDS.iter().position(|b| *b == "B12").expect("a band");
    let spread = |c: usize| found["std"][c].as_f64().expect("a number");
    assert_eq!((&found["mean"][constant], spread(constant)), (&1500.0.into(), 0.0));
    assert!((0..12).all(|c| c == constant || spread(c) > 1.0), "{found}");
    assert!(found["notes"].to_string().contains("band B12 is constant (8 scenes)"), "{found}");
    assert_eq!(json(&["stats-bands", text(&store), "--json"])["s2"]["std"][constant - 2], 0.0);

    let (config, run) = (small_config(folder.path()), at("run"));
    let train = ["pretrain", "--data", text(&store), "--config", text(&config), "--out", text(&run), "--batch", "2"];
    for statistics in ["auto", "data"] {
        let (_, message) = fail(&[&train[..], &["--steps", "1", "--stats", statistics]].concat());
        assert!(message.contains("band B12 is constant") && message.contains("--stats published"), "{message}");
    }
    succeed(&[&train[..], &["--steps", "1", "--stats", "published"]].concat());
}

#[test]
fn killed_at_any_moment_the_store_ends_with_the_same_bytes() {
    let folder = tempfile::tempdir().expect("a folder");
    let (whole, killed) = (folder.path().join("whole"), folder.path().join("killed"));
    let began = std::time::Instant::now();
    fn cut(out: &Path) -> [&str; 7] {
        ["patches", "--archive", "synth:4000", "--tile-px", "32", "--out", text(out)]
    }
    succeed(&cut(&whole));
    let long = began.elapsed();
    let mut kills = 0;
    for part in [3, 5, 2] {
        let mut child = csmoe(&cut(&killed))
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("csmoe starts");
        std::thread::sleep((long / part).max(Duration::from_millis(5)));
        kills += usize::from(child.try_wait().expect("a child").is_none());
        let _ = child.kill();
        let _ = child.wait();
    }
    succeed(&cut(&killed));
    assert!(kills > 0, "every run was over before it was killed");
    assert!(files(&killed) == files(&whole), "{:?}", files(&killed).keys());
}

/// On a disk that fills up and is then made larger.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_leaves_a_store_that_resumes() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let (disk, whole, copy) = (at("disk"), at("whole"), at("copy"));
    std::fs::create_dir(&disk).expect("a folder");
    let store = disk.join("store");
    fn cut(out: &Path) -> [&str; 7] {
        ["patches", "--archive", "synth:1500", "--tile-px", "16", "--out", text(out)]
    }
    succeed(&cut(&whole));
    let script = "mount -t tmpfs -o size=4m csmoe \"$0\" || exit 9\n\"$@\" && exit 8\nls -a \"$0/store\"\n\
                  mount -o remount,size=64m \"$0\" && \"$@\" && cp -r \"$0/store\" \"$0/../copy\"";
    let inner = csmoe(&cut(&store));
    let mut command = std::process::Command::new("unshare");
    command.args(["-rm", "bash", "-c", script, text(&disk)]).arg(inner.get_program()).args(inner.get_args());
    let Ok(output) = command.output() else { return };
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.code() == Some(9) || errors.starts_with("unshare") {
        println!("skipped: no disk can be mounted here");
        return;
    }
    assert!(output.status.success(), "{:?} {errors}", output.status);
    assert!(errors.contains("cannot be written") && errors.contains("free space"), "{errors}");
    let listed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(listed.contains("index.json") && !listed.contains(".part"), "{listed}");
    assert!(files(&copy) == files(&whole), "{:?}", files(&copy).keys());
}

#[test]
fn unreadable_scenes_stop_or_are_counted() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let (archive, stopped, store) = (at("archive"), at("stopped"), at("store"));
    succeed(&["synth", "--layout", "bigearthnet", "--pairs", "3", "--tile-px", "24", "--out", text(&archive)]);
    let mut found = vec![archive.join("BigEarthNet-S2")];
    while found[0].is_dir() {
        let mut inside: Vec<_> =
            std::fs::read_dir(&found[0]).expect("a folder").map(|e| e.expect("an entry").path()).collect();
        inside.sort();
        found = inside;
    }
    let bytes = std::fs::read(&found[1]).expect("a band");
    std::fs::write(&found[1], &bytes[..bytes.len() / 2]).expect("written");
    let (_, message) = fail(&["patches", "--archive", text(&archive), "--tile-px", "24", "--out", text(&stopped)]);
    assert!(message.contains(text(&found[1])), "{message}");
    let args = ["patches", "--archive", text(&archive), "--tile-px", "24", "--on-error", "skip", "--out", text(&store)];
    let output = succeed(&args);
    let (said, skipped) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(said.starts_with("2 patches") && said.contains("1 unreadable"), "{said}");
    assert!(skipped.contains("skipped: ") && skipped.contains(text(&found[1])), "{skipped}");
    // Pairs of GeoTIFFs are read on opening already.
    let (pairs, store) = (at("pairs"), at("pairs-store"));
    succeed(&["synth", "--pairs", "3", "--tile-px", "24", "--out", text(&pairs)]);
    let first =
        std::fs::read_dir(pairs.join("S1")).expect("a folder").next().expect("an image").expect("an entry").path();
    std::fs::write(&first, "nothing").expect("written");
    let output =
        succeed(&["patches", "--archive", text(&pairs), "--on-error", "skip", "--out", text(&store), "--json"]);
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&said["pairs"], &said["skipped"], &said["left_out"]["unreadable"]), (&2.into(), &1.into(), &1.into()));
    assert!(String::from_utf8_lossy(&output.stderr).contains(text(&first)));
}

#[test]
fn real_archives_are_told_apart() {
    let Some(data) = real_data("") else { return };
    for (folder, format, scenes) in [
        ("major_tom", "Major TOM Core", 1),
        ("major_tom_unpacked", "Major TOM, unpacked", 1),
        ("bigearthnet_v2", "BigEarthNet v2", 1),
        ("bigearthnet_v2/lmdb", "BigEarthNet v2, LMDB", 1),
        ("terramesh", "GeoTIFF", 3),
        ("eurosat", "GeoTIFF", 3),
        ("sen1floods11", "GeoTIFF", 16),
    ] {
        let found = json(&["inspect", text(&data.join(folder)), "--json"]);
        assert_eq!((found["format"].as_str(), found["scenes"].as_u64()), (Some(format), Some(scenes)), "{folder}");
        assert!(found["pairs"].as_u64() > Some(0), "{folder}");
    }
}

#[test]
fn what_cannot_be_cut_is_told_in_a_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let (empty, out) = (folder.path().join("empty"), folder.path().join("out"));
    std::fs::create_dir(&empty).expect("a folder");
    let (_, message) = fail(&["patches", "--archive", text(&empty), "--out", text(&out)]);
    assert!(message.contains("no GeoTIFF"), "{message}");
    let (_, message) = fail(&["patches", "--archive", "nowhere", "--out", text(&out)]);
    assert!(message.contains("nowhere: no such file"), "{message}");
    // Pairs whose optical half is ruined are not an archive of radar.
    let pairs = folder.path().join("pairs");
    succeed(&["synth", "--pairs", "1", "--tile-px", "16", "--out", text(&pairs)]);
    let optical =
        std::fs::read_dir(pairs.join("S2")).expect("a folder").next().expect("a file").expect("an entry").path();
    std::fs::write(&optical, "nothing").expect("written");
    let (_, message) = fail(&["patches", "--archive", text(&pairs), "--out", text(&out)]);
    assert!(message.contains(text(&optical)), "{message}");
    std::fs::create_dir(&out).expect("a folder");
    std::fs::write(out.join("mine.txt"), "mine").expect("written");
    let (_, message) = fail(&["patches", "--archive", "synth:4", "--out", text(&out)]);
    assert!(message.contains("neither empty nor a store"), "{message}");
    let (_, message) = fail(&["inspect", text(&empty)]);
    assert!(message.contains("no GeoTIFF"), "{message}");
    let (_, message) = fail(&["stats-bands", text(&empty)]);
    assert!(message.contains("index.json"), "{message}");
}
