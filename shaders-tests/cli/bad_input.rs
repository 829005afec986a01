use crate::{csmoe, fail, small_config, succeed, text};
use std::path::Path;
use std::process::Command;

#[test]
fn mistakes_get_one_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = small_config(folder.path());
    let out = folder.path().join("run");
    let out = text(&out);
    let base =
        ["pretrain", "--data", "synth:8", "--tile-px", "24", "--config", text(&config), "--batch", "2", "--steps", "1"];
    let with = |more: &[&'static str]| -> Vec<String> {
        let args = base.iter().map(ToString::to_string).chain(["--out".into(), out.to_string()]);
        args.chain(more.iter().map(ToString::to_string)).collect()
    };
    let last_line = |args: Vec<String>| {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        fail(&args).1
    };
    assert!(last_line(with(&["--adapter", "no-such-gpu"])).contains("csmoe devices"));
    assert!(last_line(with(&["--preset", "csmoe-17"])).contains("csmoe-16"));
    let absent = folder.path().join("absent.toml");
    let args = ["pretrain", "--data", "synth:8", "--out", out, "--config", text(&absent)];
    assert!(fail(&args).1.contains("absent.toml"));
    let wrong = folder.path().join("wrong.toml");
    std::fs::write(&wrong, "expert = 3\n").expect("a writable folder");
    let args = ["pretrain", "--data", "synth:8", "--out", out, "--config", text(&wrong)];
    assert!(fail(&args).1.contains("expert"));
    let args = ["pretrain", "--data", "synth:none", "--out", out];
    assert!(fail(&args).1.contains("synth"));
}

#[test]
fn no_adapter_has_its_own_exit_code() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    let mut command = crate::csmoe(&["pretrain", "--data", "synth:8", "--out", text(&out)]);
    // A driver manifest that does not exist: the loader then finds none.
    let none = folder.path().join("none.json");
    let output = command.env("VK_DRIVER_FILES", &none).env("VK_ICD_FILENAMES", &none).output().expect("csmoe starts");
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{message}");
    assert!(message.contains("no GPU adapter"), "{message}");
}

#[test]
fn a_run_is_not_overwritten_or_changed() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = small_config(folder.path());
    let run = folder.path().join("run");
    let run = text(&run);
    let data =
        ["pretrain", "--data", "synth:8", "--tile-px", "24", "--config", text(&config), "--batch", "2", "--out", run];
    succeed(&[&data[..], &["--steps", "2"]].concat());
    assert!(fail(&[&data[..], &["--steps", "2"]].concat()).1.contains("--resume"));
    assert!(fail(&["pretrain", "--out", run, "--resume", "--steps", "9"]).1.contains("--steps 2"));

    // The newest checkpoint damaged: the run goes on from the one before, or says that there is none.
    let checkpoint = folder.path().join("run/checkpoints/step-000000002.safetensors");
    let bytes = std::fs::read(&checkpoint).expect("a checkpoint");
    std::fs::write(&checkpoint, &bytes[..bytes.len() / 2]).expect("a writable folder");
    assert!(fail(&["pretrain", "--out", run, "--resume"]).1.contains("checkpoints"));
}

#[test]
fn a_batch_that_does_not_fit_names_one_that_does() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    let args = ["pretrain", "--data", "synth:8", "--preset", "csmoe-16", "--batch", "4096", "--steps", "1"];
    let (_, line) = fail(&[&args[..], &["--out", text(&out)]].concat());
    assert!(line.contains("--batch") && line.contains("would fit"), "{line}");
    assert!(!out.join("model.safetensors").exists());
}

/// `csmoe ARGS` with `folder` on a disk of 256 KiB: its last line, and the files it left there. None where this user may
/// not mount one.
#[cfg(target_os = "linux")]
fn on_a_small_disk(folder: &Path, args: &[&str]) -> Option<(String, Vec<String>)> {
    let unshare = |script: &str, inner: Option<&Command>| {
        let mut command = Command::new("unshare");
        command.args(["-rm", "bash", "-c", script, text(folder)]);
        if let Some(inner) = inner {
            command.arg(inner.get_program()).args(inner.get_args());
        }
        command.output()
    };
    let mount = "mount -t tmpfs -o size=256k csmoe \"$0\"";
    if !unshare(mount, None).is_ok_and(|tried| tried.status.success()) {
        println!("skipped: no disk can be mounted here");
        return None;
    }
    let script = format!("{mount} && \"$@\" >/dev/null; status=$?; find \"$0\" -type f -printf '%f\\n'; exit $status");
    let output = unshare(&script, Some(&csmoe(args))).expect("unshare starts");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && !errors.contains("panicked"), "{args:?}: {errors}");
    let files = String::from_utf8_lossy(&output.stdout).lines().map(ToString::to_string).collect();
    Some((errors.lines().last().unwrap_or_default().to_string(), files))
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_leaves_nothing_half_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = small_config(folder.path());
    let (run, disk) = (folder.path().join("run"), folder.path().join("disk"));
    std::fs::create_dir(&disk).expect("a folder");
    let out = |name: &str| text(&disk.join(name)).to_string();
    let pretrain = |out: &str| -> Vec<String> {
        let args = ["pretrain", "--data", "synth:8", "--tile-px", "24", "--config", text(&config), "--batch", "2"];
        args.iter().chain(&["--steps", "2", "--out", out]).map(ToString::to_string).collect()
    };
    let all = pretrain(&out("run"));
    let args: Vec<&str> = all.iter().map(String::as_str).collect();
    let Some((line, files)) = on_a_small_disk(&disk, &args) else { return };
    assert!(line.contains("step-000000002.safetensors") && line.contains("free space"), "{line}");
    assert!(files.iter().any(|f| f == "metrics.jsonl"), "{files:?}");
    assert!(files.iter().all(|f| !f.contains("safetensors")), "{files:?}");

    let all = pretrain(text(&run));
    succeed(&all.iter().map(String::as_str).collect::<Vec<_>>());
    let e = out("e.npy");
    let embed = ["embed", "--checkpoint", text(&run), "--tile-px", "24", "--input", "synth:3000", "--out", &e];
    let (line, files) = on_a_small_disk(&disk, &embed).expect("as before");
    assert!(line.contains("e.npy") && line.contains("free space") && files.is_empty(), "{line} {files:?}");

    if cfg!(feature = "gdal") {
        let archive = out("archive");
        let synth = ["synth", "--pairs", "40", "--tile-px", "24", "--out", &archive];
        let (line, files) = on_a_small_disk(&disk, &synth).expect("as before");
        assert!(line.contains("free space"), "{line}");
        assert!(files.iter().all(|f| !f.starts_with('.') && f != "labels.csv"), "{files:?}");
    }
}

#[cfg(unix)]
#[test]
fn a_reader_that_goes_away_is_no_panic() {
    let inner = csmoe(&["summary", "--preset", "csmoe-16"]);
    let mut command = Command::new("bash");
    command.args(["-c", "\"$@\" | true", "bash"]).arg(inner.get_program()).args(inner.get_args());
    let output = command.output().expect("bash starts");
    assert!(!String::from_utf8_lossy(&output.stderr).contains("panicked"));
}
