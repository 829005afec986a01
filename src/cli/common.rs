//! What several commands share: the adapter.

use crate::gpu::{AdapterChoice, Gpu, GpuError, describe};
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
            say_software(&gpu.info);
        }
        Ok(gpu)
    }
}

/// The line about a software adapter, once a process.
pub fn say_software(info: &wgpu::AdapterInfo) {
    static SAID: Once = Once::new();
    SAID.call_once(|| eprintln!("csmoe: no GPU here; a software one does the work: {}", describe(info)));
}
