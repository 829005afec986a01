//! `summary`, `devices`, `doctor`, `import`.

use crate::{csmoe, fail, small_config, succeed, text};
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde_json::Value;

fn json(args: &[&str]) -> Value {
    serde_json::from_slice(&succeed(args).stdout).unwrap_or_else(|e| panic!("csmoe {args:?}: {e}"))
}

#[test]
fn summary_counts_as_the_paper() {
    let s = json(&["summary", "--preset", "csmoe-16", "--batch", "2", "--json"]);
    assert_eq!(s["params_s2_path"], 271_160_832);
    assert_eq!(s["params_encoder"], 451_017_216);
    assert_eq!(s["params_total"], 459_309_568);
    assert_eq!(s["macs_full_s2_path"].as_u64().unwrap() - s["macs_paper_s2_path"].as_u64().unwrap(), 357_663_744);
    assert_eq!(s["c2c"], 26.81);
    assert_eq!(s["memory"][0]["batch"], 2);
    let of = |name: &str| s["memory"][0][name].as_u64().unwrap();
    let small = of("activations_bytes");
    // Four batches are read ahead, one is the step's own.
    assert_eq!(of("read_ahead_bytes"), 5 * 2 * 12 * 120 * 120 * 4);
    let learned = ["weights_bytes", "gradients_bytes", "moments_bytes"].map(|name| s[name].as_u64().unwrap());
    assert_eq!(of("total_bytes"), small + of("read_ahead_bytes") + learned.iter().sum::<u64>());
    let large = json(&["summary", "--preset", "csmoe-16", "--batch", "4", "--json"]);
    assert!(large["memory"][0]["activations_bytes"].as_u64().unwrap() > small);
    let page = String::from_utf8(succeed(&["summary", "--preset", "csmae"]).stdout).unwrap();
    assert!(page.contains("86838528") && page.contains("5.64 G"), "{page}");
}

#[test]
fn devices_lists_what_adapter_takes() {
    let found = json(&["devices", "--json"]);
    let first = &found["adapters"][0];
    assert_eq!(first["index"], 0);
    assert!(first["limits"]["max_storage_buffer_binding_size"].as_u64().unwrap() >= 128 << 20);
    assert!(first["target"]["lanes"].as_u64().unwrap() > 0);
}

#[test]
fn no_adapter_is_an_empty_list_and_its_own_exit_code() {
    let folder = tempfile::tempdir().expect("a folder");
    let none = folder.path().join("none.json");
    for command in ["devices", "doctor"] {
        let mut run = csmoe(&[command, "--json"]);
        let output = run.env("VK_DRIVER_FILES", &none).env("VK_ICD_FILENAMES", &none).output().expect("csmoe starts");
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(3), "{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
}

#[test]
fn doctor_passes_and_remembers() {
    let folder = tempfile::tempdir().expect("a folder");
    let doctor = |more: &[&str]| -> Value {
        let args = [&["doctor", "--json"], more].concat();
        // A cache of its own, but not for the software GPU, which lies in the usual one and is found by its driver file.
        let mut run = csmoe(&args);
        if std::env::var_os("CSMOE_RUNNER").is_none() {
            run.env("CSMOE_CACHE", folder.path());
        }
        let output = run.output().expect("csmoe starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("JSON")
    };
    let first = doctor(&["--fresh"]);
    assert_eq!(first["cached"], false);
    let failed = |c: &Value| c["status"] == "fail";
    assert!(!first["checks"].as_array().unwrap().iter().any(failed));
    assert!(first["kernels"].as_object().unwrap().contains_key("adamw::update"));
    let again = doctor(&[]);
    assert_eq!(again["cached"], true);
    // JSON may lose the last bit of a number.
    let names = |d: &Value| d["kernels"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&again), names(&first));
    assert_eq!(fail(&["doctor", "--adapter", "no-such-gpu"]).0, 3);
}

#[test]
fn a_vision_transformer_becomes_a_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = small_config(folder.path());
    let (config, out) = (text(&config), folder.path().join("run"));
    let file = folder.path().join("vit.safetensors");
    let weight = [0.5f32; 128 * 32];
    let view = |shape: &[usize]| {
        let bytes = shape.iter().product::<usize>() * 4;
        TensorView::new(Dtype::F32, shape.to_vec(), &bytemuck::cast_slice(&weight)[..bytes]).expect("a view")
    };
    let tensors = [
        ("model.cls_token", view(&[1, 1, 32])),
        ("model.blocks.0.attn.proj.weight", view(&[32, 32])),
        ("model.blocks.0.mlp.fc1.weight", view(&[128, 32])),
        ("model.head.weight", view(&[10, 32])),
    ];
    serialize_to_file(tensors, None, &file).expect("a writable folder");
    let import = |file: &str, more: &[&str]| -> Vec<String> {
        let base = ["import", "--from", file, "--out", text(&out), "--preset", "csmoe-tiny", "--config", config];
        base.iter().chain(more).map(ToString::to_string).collect()
    };
    let args = import(text(&file), &["--upcycle", "--json"]);
    let report = json(&args.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(report["format"], "timm");
    assert_eq!(report["matched"].as_array().unwrap().len(), 3);
    assert_eq!(report["matched"][1]["to"].as_array().unwrap().len(), 2, "one perceptron, two experts");
    assert_eq!(report["left_over"][0]["name"], "model.head.weight");
    // 32 of CLS, 32 x 32, twice 128 x 32.
    assert_eq!(report["params_imported"], 32 + 1024 + 2 * 4096);
    assert!(out.join("model.safetensors").exists() && out.join("config.json").exists());

    // Pickles and strangers are refused in one line, and nothing is written.
    std::fs::remove_dir_all(&out).expect("a folder");
    for (name, bytes) in
        [("a.ckpt", &b"PK\x03\x04"[..]), ("a.safetensors", b"\x80\x02}q\x00."), ("b.safetensors", b"no")]
    {
        let file = folder.path().join(name);
        std::fs::write(&file, bytes).expect("a writable folder");
        let args = import(text(&file), &[]);
        let (code, line) = fail(&args.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(code, 1);
        assert!(line.starts_with("csmoe:") && line.contains(name), "{line}");
        assert_eq!(line.contains("save_file"), name.starts_with('a'), "{line}");
    }
    assert!(!out.exists());
}
