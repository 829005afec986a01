//! `RUN/metrics.jsonl`, one object a step, and TensorBoard events beside it.

use super::events::EventFile;
use crate::loss::Terms;
use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

/// What one step reports.
#[derive(Clone, Debug)]
pub struct Record {
    /// Steps done, this one included.
    pub step: u64,
    pub terms: Terms,
    pub lr: f64,
    pub grad_norm: f32,
    pub pairs_per_s: f64,
    /// The part of the step's time between handing work to the GPU and having its results.
    pub gpu_share: f64,
    /// Of the step's time, spent waiting for pairs.
    pub data_share: f64,
    /// Nothing was changed: a value was not finite.
    pub skipped: bool,
    /// Terms of the validation part, on the steps that look at it.
    pub validation: Option<Terms>,
}

impl Record {
    /// Name and value of every number, `loss.total` first.
    pub fn numbers(&self) -> Vec<(String, f64)> {
        let mut all = vec![("loss.total".to_string(), f64::from(self.terms.total()))];
        let terms = self.terms.named().filter(|(n, _)| *n != "total");
        all.extend(terms.map(|(n, v)| (format!("loss.{n}"), f64::from(v))));
        all.push(("lr".into(), self.lr));
        all.push(("grad_norm".into(), f64::from(self.grad_norm)));
        all.push(("pairs_per_s".into(), self.pairs_per_s));
        all.push(("gpu_share".into(), self.gpu_share));
        all.push(("data_share".into(), self.data_share));
        if let Some(terms) = &self.validation {
            all.extend(terms.named().map(|(n, v)| (format!("val.{n}"), f64::from(v))));
        }
        all
    }

    pub fn json(&self) -> Value {
        let mut object = Map::new();
        object.insert("step".into(), json!(self.step));
        for (name, value) in self.numbers() {
            // A number JSON cannot hold becomes null.
            object.insert(name, json!(value));
        }
        if self.skipped {
            object.insert("skipped".into(), json!(true));
        }
        Value::Object(object)
    }
}

/// Both files of a run.
pub struct Log {
    lines: File,
    events: EventFile,
}

impl Log {
    /// Opens the log to go on after `step` steps: lines of later steps, which a resumed run does again, go away.
    ///
    /// # Errors
    /// Files that cannot be written.
    pub fn open(run: &Path, step: u64) -> Result<Self> {
        let file = run.join("metrics.jsonl");
        let kept: String = std::fs::read_to_string(&file)
            .unwrap_or_default()
            .lines()
            .filter(|l| {
                let value: Option<Value> = serde_json::from_str(l).ok();
                value.and_then(|v| v["step"].as_u64()).is_some_and(|s| s <= step)
            })
            .flat_map(|l| [l, "\n"])
            .collect();
        crate::data::export::write_atomic(&file, |f| f.write_all(kept.as_bytes()))?;
        let lines = OpenOptions::new().append(true).open(&file).with_context(|| format!("{}", file.display()))?;
        Ok(Log { lines, events: EventFile::create(run, step)? })
    }

    /// Appends a step.
    ///
    /// # Errors
    /// A full disk.
    pub fn append(&mut self, record: &Record) -> Result<()> {
        writeln!(self.lines, "{}", record.json()).context("metrics.jsonl cannot be written; is the disk full?")?;
        self.events.append(record.step, &record.numbers())
    }
}
