//! The program itself, as a user runs it.

#[cfg(all(feature = "gdal", feature = "parquet"))]
mod archives;
mod bad_input;
mod eval;
#[cfg(all(feature = "gdal", feature = "parquet"))]
mod fine_radar;
mod info;
mod pretrain;
#[cfg(all(feature = "gdal", feature = "parquet"))]
mod sampler;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// `csmoe ARGS`, through the runner that gives a machine a software GPU if there is one (`CSMOE_RUNNER`).
pub fn csmoe(args: &[&str]) -> Command {
    let program = env!("CARGO_BIN_EXE_csmoe");
    let mut command = match std::env::var("CSMOE_RUNNER") {
        Ok(runner) => {
            let mut words = runner.split_whitespace();
            let mut command = Command::new(words.next().expect("CSMOE_RUNNER names a program"));
            command.args(words).arg(program);
            command
        }
        Err(_) => Command::new(program),
    };
    command.args(args);
    command
}

/// Runs to the end; the output must tell of success.
pub fn succeed(args: &[&str]) -> Output {
    let output = csmoe(args).output().expect("csmoe starts");
    assert!(output.status.success(), "csmoe {args:?} failed: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Runs to the end, which must be an error: gives its exit code and its last line.
pub fn fail(args: &[&str]) -> (i32, String) {
    let output = csmoe(args).output().expect("csmoe starts");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "csmoe {args:?} succeeded: {text}");
    assert!(!text.contains("panicked"), "csmoe {args:?} panicked: {text}");
    (output.status.code().unwrap_or(-1), text.lines().last().unwrap_or_default().to_string())
}

/// A folder of real data, or none: then the test is skipped, which in CI is a failure.
#[cfg(feature = "gdal")]
pub fn real_data(name: &str) -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data").join(name);
    if folder.exists() {
        return Some(folder);
    }
    assert!(std::env::var_os("CI").is_none(), "{} is absent", folder.display());
    println!("skipped: {} is absent", folder.display());
    None
}

/// A model of 24 x 24 pixels that trains in no time.
pub fn small_config(folder: &Path) -> PathBuf {
    let file = folder.join("small.toml");
    let text = "image_size = 24\npatch_size = 8\ndim = 32\nheads = 2\nsensor_depth = 1\nexperts = 2\n\
                decoder = { dim = 16, depth = 1, heads = 2 }\n[train]\nlr = 1e-3\nwarmup_epochs = 0\n";
    std::fs::write(&file, text).expect("a writable folder");
    file
}

pub fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}
