use crate::{csmoe, fail, small_config, succeed, text};
use serde_json::Value;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

fn metrics(run: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default();
    text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect()
}

/// Every number of a log but the speeds.
fn numbers(run: &Path) -> Vec<String> {
    let strip = |mut v: Value| {
        v.as_object_mut()
            .expect("an object")
            .retain(|name, _| !["pairs_per_s", "gpu_share", "data_share"].contains(&name.as_str()));
        v.to_string()
    };
    metrics(run).into_iter().map(strip).collect()
}

#[test]
fn a_killed_run_goes_on_bit_by_bit() {
    let folder = tempfile::tempdir().expect("a folder");
    killed_and_resumed(folder.path(), &[]);
}

#[test]
fn a_killed_run_draws_by_the_same_weights() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("weights.csv");
    let row = |i: usize| format!("synth42_{i:06},{}\n", [0.0, 0.5, 1.0, 4.0][i % 4]);
    let table = |rows: std::ops::Range<usize>| format!("id,weight\n{}", rows.map(row).collect::<String>());
    std::fs::write(&file, table(0..24)).expect("a writable folder");
    killed_and_resumed(folder.path(), &["--weights", text(&file)]);

    // Resumed, it wants the same weights: the table's own order and zeros written otherwise do not matter.
    let run = folder.path().join("whole");
    let resume = ["pretrain", "--out", text(&run), "--resume"];
    std::fs::write(&file, table(0..24).replace(",0\n", ",0.00\n")).expect("a writable folder");
    succeed(&resume);
    std::fs::write(&file, table(0..24).replace(",4\n", ",5\n")).expect("a writable folder");
    assert!(fail(&resume).1.contains("weights.csv: not the weights the run began with"));
    assert!(fail(&[&resume[..], &["--weights", "other.csv"]].concat()).1.contains("--weights"));
}

#[test]
fn weights_that_are_none_are_told_by_row() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = small_config(folder.path());
    let (file, run) = (folder.path().join("w.csv"), folder.path().join("run"));
    let args =
        ["pretrain", "--data", "synth:3", "--tile-px", "24", "--out", text(&run), "--steps", "2", "--batch", "2"];
    let args = [&args[..], &["--config", text(&config), "--weights", text(&file)]].concat();
    let all = "synth42_000000,1\nsynth42_000001,2\nsynth42_000002,0\n";
    let message = |table: &str| {
        std::fs::write(&file, table).expect("a writable folder");
        fail(&args).1
    };
    for (table, expected) in [
        (format!("id,weight\n{}", all.replace(",2", ",-2")), "w.csv: row 1, column `weight`: \"-2\" is not a weight"),
        (format!("id,weight\n{}", all.replace(",2", ",NaN")), "w.csv: row 1, column `weight`: \"NaN\" is not a weight"),
        (format!("id,weight\n{}", all.replace(",2", ",")), "w.csv: row 1, column `weight`: \"\" is not a weight"),
        (format!("id,weight\n{all}nobody,1\n"), "w.csv: row 3, column `id`: \"nobody\" is no patch or scene"),
        (format!("id,weight\n{all}synth42_000001,1\n"), "row 3, column `id`: \"synth42_000001\" has a weight in row 1"),
        ("id,weight\nsynth42_000001,1\n".into(), "w.csv: no weight for \"synth42_000000\""),
        (format!("id,weight\n{}", all.replace(",1", ",0").replace(",2", ",0")), "every training pair has weight 0"),
        ("id,weight\n".into(), "w.csv: no rows"),
        (format!("name,weight\n{all}"), "w.csv: no column `id`"),
        (format!("id,w\n{all}"), "w.csv: no column `weight`"),
        ("label,weight\nforest,1\nswamp,2\n".into(), "w.csv: row 1, column `label`: \"swamp\" is no class of"),
        ("label,weight\nforest,1\n".into(), "a class of"),
    ] {
        let said = message(&table);
        assert!(said.contains(expected), "{table}\n{said}");
        assert!(!run.join("resolved.toml").exists() || expected.contains("weight 0"), "{said}");
        let _ = std::fs::remove_dir_all(&run);
    }
    assert!(message("id,weight\n").contains("w.csv"));
    std::fs::remove_file(&file).expect("a file");
    assert!(fail(&args).1.contains("w.csv: cannot be read"));
    assert!(fail(&[&args[..], &["--balanced"]].concat()).1.contains("--help"));
}

fn killed_and_resumed(folder: &Path, extra: &[&str]) {
    let config = small_config(folder);
    let (whole, killed) = (folder.join("whole"), folder.join("killed"));
    let common = |out: &Path| -> Vec<String> {
        let out = text(out);
        let args = ["pretrain", "--data", "synth:24", "--tile-px", "24", "--out", out, "--steps", "40", "--batch", "4"];
        let more = ["--checkpoint-every", "5", "--validate-every", "10", "--config", text(&config)];
        args.iter().chain(&more).chain(extra).map(ToString::to_string).collect()
    };
    let strs = |v: &[String]| -> Vec<&'static str> { v.iter().map(|s| &*s.clone().leak()).collect() };
    succeed(&strs(&common(&whole)));

    // Killed twice, at moments nobody chose, then run to the end.
    for after in [3, 17] {
        let mut args = common(&killed);
        args.push("--resume".into());
        let mut child = csmoe(&strs(&args)).stderr(Stdio::null()).stdout(Stdio::null()).spawn().expect("csmoe starts");
        let began = Instant::now();
        while metrics(&killed).len() < after && began.elapsed() < Duration::from_secs(120) {
            std::thread::sleep(Duration::from_millis(5));
        }
        child.kill().expect("kill -9");
        child.wait().expect("an end");
        assert!(metrics(&killed).len() >= after, "the run never reached step {after}");
    }
    succeed(&["pretrain", "--out", text(&killed), "--resume"]);
    let bytes = |run: &Path| std::fs::read(run.join("model.safetensors")).expect("weights");
    assert!(bytes(&whole) == bytes(&killed), "the weights differ");
    assert_eq!(numbers(&whole), numbers(&killed));
    let state = |run: &Path| std::fs::read(run.join("checkpoints/step-000000040.safetensors")).expect("a checkpoint");
    assert!(state(&whole) == state(&killed), "the checkpoints differ");
}

#[test]
fn gradients_add_up_over_batches() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = small_config(folder.path());
    let run = folder.path().join("run");
    let args = ["pretrain", "--data", "synth:24", "--tile-px", "24", "--out", text(&run), "--steps", "30"];
    let more = ["--batch", "2", "--accumulate", "3", "--config", text(&config), "--json"];
    let output = succeed(&[&args[..], &more[..]].concat());
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let losses = &report["losses"]["loss.total"];
    assert!(losses["last"].as_f64() < losses["first"].as_f64(), "{report}");
    assert_eq!(metrics(&run).len(), 30);
}

#[test]
fn csmae_and_other_options_train() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, preset, extra) in [
        ("csmae", "csmae", "mlp = 'dense'\nimage_size = 30\npatch_size = 15\n"),
        ("cesd", "csmae-cesd", "image_size = 30\npatch_size = 15\ncross_depth = 2\n"),
        ("fixed", "csmoe-tiny", "slots = { fixed = 2 }\nrouter = 'unit'\nmask = 'disjoint'\nsort_visible = false\n"),
    ] {
        let config = folder.path().join(format!("{name}.toml"));
        let base = "dim = 32\nheads = 2\ndecoder = { dim = 16, depth = 1, heads = 2, common = true }\n";
        let depth = if name == "cesd" { "" } else { "sensor_depth = 1\ncross_depth = 1\n" };
        std::fs::write(&config, format!("{base}{depth}{extra}[train]\nlr = 1e-3\n")).expect("a writable folder");
        let run = folder.path().join(name);
        let args = ["pretrain", "--preset", preset, "--data", "synth:16", "--tile-px", "24", "--out", text(&run)];
        let more = ["--steps", "25", "--batch", "4", "--config", text(&config), "--json"];
        let output = succeed(&[&args[..], &more[..]].concat());
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let losses = &report["losses"]["loss.total"];
        assert!(losses["last"].as_f64() < losses["first"].as_f64(), "{name}: {report}");
    }
}

/// The real files as they lie: every reconstruction loss falls clearly.
#[test]
#[cfg(feature = "gdal")]
fn real_files_are_learned() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = small_config(folder.path());
    for (name, px) in [("terramesh", "24"), ("sen1floods11", "24")] {
        let Some(data) = crate::real_data(name) else { return };
        let run = folder.path().join(name);
        let args = ["pretrain", "--data", text(&data), "--tile-px", px, "--out", text(&run), "--steps", "120"];
        let more = ["--batch", "16", "--stats", "data", "--config", text(&config), "--json"];
        let output = succeed(&[&args[..], &more[..]].concat());
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        for loss in ["loss.umr.s1", "loss.umr.s2", "loss.cmr.s1", "loss.cmr.s2"] {
            let (first, last) = (&report["losses"][loss]["first"], &report["losses"][loss]["last"]);
            let fell = last.as_f64().expect("a number") / first.as_f64().expect("a number");
            println!("{name} {loss}: {first} -> {last}, {:.0} %", 100.0 * fell);
            assert!(fell < 0.9, "{name} {loss} fell to {fell:.2} of its start only");
        }
    }
}
