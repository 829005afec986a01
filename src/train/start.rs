//! What a run is started with, and kept to when it is resumed.

use super::memory::largest_batch;
use super::settings::{Settings, Span};
use crate::data::export::write_atomic;
use crate::data::{PairSource, Part, Sampling, own_statistics, split, stats};
use crate::gpu::Gpu;
use crate::model::{Config, Csmoe};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Everything that decides a run: `RUN/resolved.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Start {
    pub train: Settings,
    pub model: Config,
}

fn file(run: &Path) -> PathBuf {
    run.join("resolved.toml")
}

impl Start {
    /// The defaults, and a preset's model.
    ///
    /// # Errors
    /// An unknown preset.
    pub fn fresh(preset: &str) -> Result<Self> {
        Ok(Start { train: Settings::default(), model: Config::preset(preset)? })
    }

    /// What the run in a folder was started with, if there is one to be resumed.
    ///
    /// # Errors
    /// A folder with a run that is not to be resumed, or that cannot be read.
    pub fn of_run(run: &Path, resume: bool) -> Result<Option<Self>> {
        if !resume && run.join("checkpoints").exists() {
            bail!("{} holds a run already: go on with --resume, or name another --out", run.display());
        }
        let file = file(run);
        if !resume || !file.exists() {
            return Ok(None);
        }
        let text = std::fs::read_to_string(&file).with_context(|| format!("{} cannot be read", file.display()))?;
        toml::from_str(&text).with_context(|| format!("{} does not describe a run", file.display())).map(Some)
    }

    /// With a file over it: the model's fields at the top, training's in `[train]`.
    ///
    /// # Errors
    /// A file that cannot be read or says what there is not.
    pub fn with_file(self, file: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
        let mut table: toml::Table = text.parse().with_context(|| format!("{} is not valid TOML", file.display()))?;
        let mut train = self.train;
        if let Some(over) = table.remove("train") {
            let over = over.as_table().cloned().with_context(|| format!("train of {} is no table", file.display()))?;
            let mut all = toml::Table::try_from(&train)?;
            all.extend(over);
            train = all.try_into().with_context(|| format!("[train] of {} is wrong", file.display()))?;
        }
        Ok(Start { train, model: self.model.with_overrides(&toml::to_string(&table)?, file)? })
    }

    /// Takes the statistics that the archive brings along, if it does.
    ///
    /// # Errors
    /// Statistics that cannot be read.
    pub fn take_statistics(&mut self) -> Result<bool> {
        let own = own_statistics(&self.train.data)?;
        let found = own.is_some();
        self.model.sensors = own.unwrap_or_else(|| self.model.sensors.clone());
        Ok(found)
    }

    /// The pairs that will train.
    pub fn training_pairs(&self, source: &dyn PairSource) -> Vec<u32> {
        split::members(source, self.train.split, Part::Train, self.train.seed)
    }

    /// Measures statistics on them; `done` hears of every pair.
    ///
    /// # Errors
    /// A pair that cannot be read.
    pub fn measure(&mut self, source: &dyn PairSource, pairs: &[u32], done: impl Fn(u32) + Sync) -> Result<()> {
        self.model.sensors = stats::measure(source, pairs, done)?;
        Ok(())
    }

    /// Takes the largest batch that fits, up to the one set, or to 32 on a CPU, which gains nothing from more.
    ///
    /// # Errors
    /// Not even one pair fits.
    pub fn fit_batch(&mut self, gpu: &Gpu, px: usize) -> Result<()> {
        let model = Csmoe::for_training(self.model.clone());
        let most = if gpu.is_software() { 32 } else { self.train.batch };
        self.train.batch = match largest_batch(gpu, &model, &self.train, px, most)? {
            Some(n) => n,
            None => bail!("not even a batch of 1 fits {}; try a smaller preset", gpu.info.name),
        };
        Ok(())
    }

    /// Writes `resolved.toml`, and `config.json` for whoever uses the weights.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn save(&self, run: &Path) -> Result<()> {
        std::fs::create_dir_all(run).with_context(|| format!("{} cannot be made", run.display()))?;
        let text = toml::to_string(self).context("the configuration cannot be written as TOML")?;
        write_atomic(&file(run), |f| f.write_all(text.as_bytes()))?;
        let config = serde_json::to_string_pretty(&self.model)?;
        Ok(write_atomic(&run.join("config.json"), |f| f.write_all(config.as_bytes()))?)
    }

    /// A resumed run keeps its settings: what is asked otherwise is refused, not ignored.
    ///
    /// # Errors
    /// Names the first flag that differs.
    pub fn refuse(&self, asked: &Start, run: &Path) -> Result<()> {
        let differs = self.flags().into_iter().zip(asked.flags()).find(|(was, is)| was != is);
        let other = (self != asked).then(|| ("--config", "another file".to_string()));
        match differs.map(|(was, _)| was).or(other) {
            Some((flag, was)) => {
                let run = run.display();
                bail!("{run} was started with {flag} {was}; leave {flag} out to resume, or start another run")
            }
            None => Ok(()),
        }
    }

    /// The settings that have a flag.
    fn flags(&self) -> Vec<(&'static str, String)> {
        let t = &self.train;
        let span = match t.span {
            Span::Steps(n) => ("--steps", n.to_string()),
            Span::Epochs(n) => ("--epochs", n.to_string()),
        };
        let default = || "its default".to_string();
        vec![
            ("--preset", self.model.preset.clone()),
            ("--data", t.data.clone()),
            ("--tile-px", t.tile_px.map_or_else(default, |px| px.to_string())),
            span,
            ("--batch", t.batch.to_string()),
            ("--accumulate", t.accumulate.to_string()),
            ("--seed", t.seed.to_string()),
            ("--lr", t.lr.to_string()),
            ("--warmup-epochs", t.warmup_epochs.to_string()),
            ("--clip", t.clip.to_string()),
            ("--validation", t.split.validation.to_string()),
            ("--val-by-tile", t.split.by_scene.to_string()),
            ("--balanced", (t.sampling == Sampling::Balanced).to_string()),
            ("--weights", t.weights.as_ref().map_or_else(|| "none".into(), |w| w.file.display().to_string())),
            ("--no-flips", (!t.flips).to_string()),
            ("--checkpoint-every", t.checkpoint_every.to_string()),
            ("--validate-every", t.validate_every.to_string()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Weights;

    #[test]
    fn what_differs_is_named() {
        let saved = Start::fresh("csmoe-tiny").unwrap();
        let run = Path::new("RUN");
        assert!(saved.refuse(&saved.clone(), run).is_ok());
        type Change = fn(&mut Start);
        let changes: [(&str, Change); 9] = [
            ("--preset csmoe-tiny;", |s| s.model.preset = "csmoe-small".into()),
            ("--epochs 150;", |s| s.train.span = Span::Steps(150)),
            ("--warmup-epochs 10;", |s| s.train.warmup_epochs = 3.0),
            ("--validation 0.05;", |s| s.train.split.validation = 0.1),
            ("--weights none;", |s| s.train.weights = Some(Weights { file: "w.csv".into(), crc32c: None })),
            ("--no-flips false;", |s| s.train.flips = false),
            ("--validate-every 100;", |s| s.train.validate_every = 7),
            ("--config another file;", |s| s.train.weight_decay = 0.0),
            ("--config another file;", |s| s.model.experts += 1),
        ];
        for (expected, change) in changes {
            let mut asked = saved.clone();
            change(&mut asked);
            let message = saved.refuse(&asked, run).unwrap_err().to_string();
            assert!(message.contains(&format!("RUN was started with {expected}")), "{message}");
        }
    }

    #[test]
    fn a_file_goes_over_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.toml");
        std::fs::write(&file, "experts = 2\n[train]\nlr = 0.5\nspan = { steps = 3 }\n").unwrap();
        let mut start = Start::fresh("csmoe-tiny").unwrap();
        start.train.seed = 7;
        let over = start.with_file(&file).unwrap();
        assert_eq!((over.train.seed, over.train.lr, over.train.span, over.model.experts), (7, 0.5, Span::Steps(3), 2));
        // The same file over the outcome changes nothing, and it comes back from disk as it was.
        assert!(over.clone().with_file(&file).unwrap() == over);
        over.save(dir.path()).unwrap();
        assert!(Start::of_run(dir.path(), true).unwrap() == Some(over));
        assert!(Start::of_run(dir.path(), false).unwrap().is_none());
        std::fs::write(&file, "[train]\nlearning = 1\n").unwrap();
        let message = format!("{:#}", Start::fresh("csmoe-tiny").unwrap().with_file(&file).unwrap_err());
        assert!(message.contains("learning"), "{message}");
    }
}
