//! What a run did, beside its output: enough to repeat it, and nothing that differs when it is repeated.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::data::export::Replace;

/// A file that was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Input {
    pub path: String,
    pub bytes: u64,
    pub sha256: String,
}

impl Input {
    /// Reads the file once.
    pub fn of(path: &Path) -> Result<Input> {
        let failed = || format!("{}: cannot be read", path.display());
        let mut file = File::open(path).with_context(failed)?;
        let (mut hash, mut buffer, mut bytes) = (Sha256::new(), vec![0; 1 << 18], 0);
        loop {
            let n = file.read(&mut buffer).with_context(failed)?;
            if n == 0 {
                break;
            }
            hash.update(&buffer[..n]);
            bytes += n as u64;
        }
        let sha256 = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
        Ok(Input { path: path.display().to_string(), bytes, sha256 })
    }
}

/// The manifest's place: `sample.parquet` -> `sample.manifest.json`.
pub fn beside(out: &Path) -> PathBuf {
    out.with_extension("manifest.json")
}

/// Writes a manifest beside the output: the program's version, the command's own members, the inputs.
pub fn write(out: &Path, command: &str, inputs: &[Input], members: impl Serialize) -> Result<()> {
    let mut json = serde_json::json!({ "csmoe": env!("CARGO_PKG_VERSION"), "command": command, "inputs": inputs });
    if let (Some(json), serde_json::Value::Object(members)) = (json.as_object_mut(), serde_json::to_value(members)?) {
        json.extend(members);
    }
    Ok(Replace::write_all(&beside(out), (serde_json::to_string_pretty(&json)? + "\n").as_bytes())?)
}
