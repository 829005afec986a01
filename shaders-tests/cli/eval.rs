use crate::{fail, small_config, succeed, text};
use std::path::Path;

/// A run of no steps.
fn untrained(folder: &Path) -> String {
    let run = folder.join("run");
    let config = small_config(folder);
    let args = ["pretrain", "--data", "synth:8", "--tile-px", "24", "--config", text(&config), "--batch", "2"];
    succeed(&[&args[..], &["--steps", "0", "--out", text(&run)]].concat());
    text(&run).to_string()
}

fn json(output: std::process::Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stdout)))
}

#[test]
fn a_run_embeds_and_is_seen() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = untrained(folder.path());
    let path = |name: &str| text(&folder.path().join(name)).to_string();
    let common = ["--checkpoint", &run, "--tile-px", "24", "--json"];

    let out = path("e.npy");
    let embed = ["embed", "--sensor", "s1", "--input", "synth:11", "--batch", "4", "--out", &out];
    let report = json(succeed(&[&embed[..], &common[..]].concat()));
    assert_eq!((report["tiles"].as_u64(), report["dim"].as_u64()), (Some(11), Some(32)));
    let bytes = std::fs::read(&out).expect("a file");
    assert!(bytes.starts_with(b"\x93NUMPY") && bytes.len() == 128 + 11 * 32 * 4);

    if cfg!(feature = "parquet") {
        let out = path("e.parquet");
        succeed(&[&["embed", "--input", "synth:3", "--strategy", "mean_all", "--out", &out][..], &common[..]].concat());
        assert!(std::fs::read(&out).expect("a file").ends_with(b"PAR1"));
    }

    let out = path("step.safetensors");
    let args = ["verify-step", "--data", "synth:8", "--batch", "2", "--out", &out];
    let report = json(succeed(&[&args[..], &common[..]].concat()));
    assert!(report["losses"]["total"].as_f64().is_some_and(f64::is_finite) && Path::new(&out).exists());

    let out = path("r.png");
    let args = ["reconstruct", "--data", "synth:8", "--count", "2", "--out", &out];
    let report = json(succeed(&[&args[..], &common[..]].concat()));
    assert!(report["mse"]["s1->s2"].as_f64().is_some_and(|e| e > 0.0) && Path::new(&out).exists());

    let out = path("n.png");
    let args = ["neighbours", "--data", "synth:40", "--k", "3", "--queries", "2", "--out", &out];
    let report = json(succeed(&[&args[..], &common[..]].concat()));
    assert_eq!(report["drawn"][1]["nearest"].as_array().map(Vec::len), Some(3));

    let report = json(succeed(&[&["readout", "--data", "synth:80"][..], &common[..]].concat()));
    assert!(report["readout"]["trained"]["mean_recall"].as_f64().is_some_and(|r| (0.0..=1.0).contains(&r)));
}

#[test]
fn mistakes_get_one_line_and_leave_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = untrained(folder.path());
    let out = folder.path().join("e.npy");
    let embed = |run: &str, more: &[&str]| {
        let base = ["embed", "--checkpoint", run, "--tile-px", "24", "--out", text(&out)];
        let line = fail(&[&base[..], more].concat()).1;
        assert!(!out.exists());
        line
    };
    let input = ["--input", "synth:4"];
    assert!(embed("nowhere", &input).contains("nowhere/config.json"));
    assert!(embed(&run, &["--input", "synth:none"]).contains("synth"));
    assert!(embed(&run, &["--input", text(&folder.path().join("absent"))]).contains("absent"));
    assert!(embed(&run, &[&input[..], &["--strategy", "best"]].concat()).contains("--help"));
    let base = ["embed", "--checkpoint", &run, "--out", text(&out), "--input", "synth:4096", "--batch", "4096"];
    let line = fail(&[&base[..], &["--tile-px", "512"]].concat()).1;
    assert!(line.contains("--batch") && line.contains("would fit"), "{line}");
    let wrong = folder.path().join("e.csv");
    let args = ["embed", "--checkpoint", &run, "--input", "synth:4", "--out", text(&wrong)];
    assert!(fail(&args).1.contains(".npy"));

    // Half a checkpoint, then one of another model.
    let weights = Path::new(&run).join("model.safetensors");
    let whole = std::fs::read(&weights).expect("weights");
    std::fs::write(&weights, &whole[..whole.len() / 2]).expect("a writable folder");
    assert!(embed(&run, &input).contains("model.safetensors"));
    std::fs::write(&weights, &whole).expect("a writable folder");
    let config = Path::new(&run).join("config.json");
    let other = std::fs::read_to_string(&config).expect("a config").replace("\"dim\": 32", "\"dim\": 48");
    std::fs::write(&config, other).expect("a writable folder");
    let line = embed(&run, &input);
    assert!(line.contains("model.safetensors") && line.contains("should have"), "{line}");
}
