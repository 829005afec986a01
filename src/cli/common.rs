//! What several commands share: the adapter, the model.

use crate::gpu::{AdapterChoice, Gpu, GpuError, describe};
use crate::model::Config;
use anyhow::{Context, Result};
use std::path::PathBuf;
use std::sync::Once;

/// `--adapter`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct AdapterArgs {
    /// Adapter by index or part of its name (`csmoe devices` lists them) [default: CSMOE_ADAPTER, else the best]
    #[arg(long, value_name = "NAME|INDEX")]
    pub adapter: Option<String>,
}

impl AdapterArgs {
    /// Opens the adapter; says once, on stderr, when it is a software one.
    ///
    /// # Errors
    /// No adapter at all, none of that name, a refused device.
    pub fn open_gpu(&self) -> Result<Gpu, GpuError> {
        let gpu = Gpu::open(&AdapterChoice::from_flag(self.adapter.as_deref()))?;
        if gpu.is_software() {
            say_software(&describe(&gpu.info));
        }
        Ok(gpu)
    }
}

/// The line about a software adapter, once a process.
pub fn say_software(adapter: &str) {
    static SAID: Once = Once::new();
    SAID.call_once(|| eprintln!("csmoe: no GPU here; a software one does the work: {adapter}"));
}

/// `--preset` and `--config`.
#[derive(Clone, Debug, clap::Args)]
pub struct ModelArgs {
    /// Model: csmoe-14, -16, -28, -32, -small, -tiny, csmae, csmae-sesd, -cecd, -cesd
    #[arg(long)]
    pub preset: Option<String>,
    /// TOML over the preset: the model's fields; a [train] table is for pretrain
    #[arg(long, value_name = "F")]
    pub config: Option<PathBuf>,
}

impl ModelArgs {
    /// The preset (else `default`) with the file over it.
    ///
    /// # Errors
    /// An unknown preset, a file that cannot be read or does not describe a model.
    pub fn resolve(&self, default: &str) -> Result<Config> {
        let preset = Config::preset(self.preset.as_deref().unwrap_or(default))?;
        let Some(file) = &self.config else { return Ok(preset) };
        let text = std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
        let mut table: toml::Table = text.parse().with_context(|| format!("{} is not valid TOML", file.display()))?;
        table.remove("train");
        preset.with_overrides(&toml::to_string(&table)?, file)
    }
}
