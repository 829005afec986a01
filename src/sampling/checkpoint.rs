//! Strata that are done, in a file beside the output: an interrupted run goes on from there, to the same bytes.
//!
//! The first line names the run (inputs' hashes and parameters); each other line is a stratum. A last line that was cut
//! off is ignored, a file of another run is an error.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::sample::Selection;
use crate::data::export::Replace;

/// The file of a run.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    /// What stands in it, until the first stratum is added: a run that fails before leaves no file.
    head: String,
    file: Mutex<Option<File>>,
    done: HashMap<(i32, i32), Selection>,
}

/// A stratum's line. Fitness goes as bits: text would round it.
#[derive(Serialize, Deserialize)]
struct Line {
    u: i32,
    v: i32,
    n_g: usize,
    wanted: usize,
    rows: Vec<u32>,
    before: u64,
    after: u64,
    curve: Vec<(usize, u64)>,
}

impl Checkpoint {
    /// Opens or begins the file for the run that `identity` describes.
    pub fn open(path: &Path, identity: &serde_json::Value) -> Result<Checkpoint> {
        let failed = || format!("{}: the checkpoint cannot be opened", path.display());
        let text = if path.exists() { std::fs::read_to_string(path).with_context(failed)? } else { String::new() };
        let mut done = HashMap::new();
        let mut whole = String::new();
        for (i, line) in text.split_inclusive('\n').enumerate() {
            if !line.ends_with('\n') {
                break;
            }
            if i == 0 {
                let found: serde_json::Value = serde_json::from_str(line).with_context(failed)?;
                if found != *identity {
                    bail!(
                        "{}: the checkpoint of a run with other inputs or parameters: delete it, or write elsewhere",
                        path.display()
                    );
                }
            } else {
                let line: Line = serde_json::from_str(line)
                    .with_context(|| format!("{}: row {i} is damaged: delete the file", path.display()))?;
                done.insert((line.u, line.v), line.selection());
            }
            whole.push_str(line);
        }
        if whole.is_empty() {
            whole = format!("{identity}\n");
        }
        Ok(Checkpoint { path: path.to_path_buf(), head: whole, file: Mutex::new(None), done })
    }

    /// What the first line of an earlier run's file says of `member`.
    pub fn recorded(path: &Path, member: &str) -> Option<String> {
        let text = std::fs::read_to_string(path).ok()?;
        let identity: serde_json::Value = serde_json::from_str(text.lines().next()?).ok()?;
        Some(identity[member].as_str()?.to_string())
    }

    /// How many strata are done already.
    pub fn len(&self) -> usize {
        self.done.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.done.is_empty()
    }

    /// What an earlier run selected in a stratum.
    pub fn find(&self, u: i32, v: i32) -> Option<Selection> {
        self.done.get(&(u, v)).cloned()
    }

    /// Adds a stratum.
    pub fn append(&self, s: &Selection) -> Result<()> {
        let curve = s.curve.iter().map(|c| (c.0, c.1.to_bits())).collect();
        let (before, after) = (s.before.to_bits(), s.after.to_bits());
        let line = Line { u: s.u, v: s.v, n_g: s.n_g, wanted: s.wanted, rows: s.rows.clone(), before, after, curve };
        let text = serde_json::to_string(&line)? + "\n";
        let failed = || format!("{}: cannot be written", self.path.display());
        let mut file = self.file.lock().unwrap_or_else(|e| e.into_inner());
        if file.is_none() {
            Replace::write_all(&self.path, self.head.as_bytes())?;
            *file = Some(OpenOptions::new().append(true).open(&self.path).with_context(failed)?);
        }
        file.as_mut().map_or(Ok(()), |f| f.write_all(text.as_bytes())).with_context(failed)
    }

    /// Removes the file: the run is complete.
    pub fn remove(self) -> Result<()> {
        let removed = if self.path.exists() { std::fs::remove_file(&self.path) } else { Ok(()) };
        removed.with_context(|| format!("{}: cannot be removed", self.path.display()))
    }
}

impl Line {
    fn selection(self) -> Selection {
        let curve = self.curve.into_iter().map(|c| (c.0, f64::from_bits(c.1))).collect();
        let (before, after) = (f64::from_bits(self.before), f64::from_bits(self.after));
        Selection { u: self.u, v: self.v, n_g: self.n_g, wanted: self.wanted, rows: self.rows, before, after, curve }
    }
}
