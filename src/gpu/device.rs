//! Choosing an adapter and opening it.

use super::target::{WIDE_MESA, mesa};
use super::{GpuError, Pipeline, Target};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};

/// Which adapter to open: by index, by a part of its name, or the best one.
#[derive(Clone, Debug, Default)]
pub struct AdapterChoice(pub Option<String>);

impl AdapterChoice {
    /// `--adapter` if given, else the environment's `CSMOE_ADAPTER`, else the best.
    pub fn from_flag(flag: Option<&str>) -> Self {
        AdapterChoice(flag.map(str::to_string).or_else(|| std::env::var("CSMOE_ADAPTER").ok()))
    }

    /// The chosen one among [`adapters`].
    ///
    /// # Errors
    /// [`GpuError::NoAdapter`], [`GpuError::AdapterNotFound`].
    pub fn pick(&self, all: &[wgpu::Adapter]) -> Result<usize, GpuError> {
        if all.is_empty() {
            return Err(GpuError::NoAdapter);
        }
        let Some(asked) = &self.0 else { return Ok(0) };
        let names: Vec<String> = all.iter().map(|a| a.get_info().name).collect();
        let index = asked.parse().ok().filter(|i| *i < all.len());
        let named = || names.iter().position(|n| n.to_lowercase().contains(&asked.to_lowercase()));
        let have = || names.iter().enumerate().map(|(i, n)| format!("{i}: {n}")).collect::<Vec<_>>().join(", ");
        index.or_else(named).ok_or_else(|| GpuError::AdapterNotFound { asked: asked.clone(), have: have() })
    }

    /// Whether it chooses a GPU, and not a CPU that plays one, or nothing.
    pub fn is_hardware(&self) -> bool {
        let all = adapters();
        self.pick(&all).is_ok_and(|i| all[i].get_info().device_type != wgpu::DeviceType::Cpu)
    }
}

/// An opened device with its queue and its compiled pipelines.
pub struct Gpu {
    pub info: wgpu::AdapterInfo,
    pub limits: wgpu::Limits,
    pub features: wgpu::Features,
    pub target: Target,
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    pub(super) pipelines: Mutex<HashMap<String, Arc<Pipeline>>>,
    pub(super) cache: Option<wgpu::PipelineCache>,
    lost: Arc<OnceLock<String>>,
}

/// Whether llvmpipe should be told to use the CPU's whole vector registers, which it does not do by itself. Tells it:
/// `LP_NATIVE_VECTOR_WIDTH=512`, where there is AVX-512, a Mesa that gains, and the user has set nothing. It looks
/// when it is loaded, so the caller drops every adapter and asks again.
fn widen_vectors(info: &wgpu::AdapterInfo) -> bool {
    const NAME: &str = "LP_NATIVE_VECTOR_WIDTH";
    #[cfg(target_arch = "x86_64")]
    let wide = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
    #[cfg(not(target_arch = "x86_64"))]
    let wide = false;
    let gains = wide && info.name.contains("llvmpipe") && mesa(info).is_some_and(|v| v >= WIDE_MESA);
    if !gains || std::env::var_os(NAME).is_some() {
        return false;
    }
    // SAFETY: at most once a process, when its first device is opened. Rust's own readers of the environment take its
    // lock, and no driver has a device, and so no thread at work, yet.
    unsafe { std::env::set_var(NAME, "512") };
    true
}

fn instance() -> wgpu::Instance {
    wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends: wgpu::Backends::PRIMARY,
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    })
}

/// Discrete before integrated before anything else before software.
fn rank(info: &wgpu::AdapterInfo) -> u32 {
    match info.device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    }
}

/// Every adapter of this machine, best first.
pub fn adapters() -> Vec<wgpu::Adapter> {
    let mut all = pollster::block_on(instance().enumerate_adapters(wgpu::Backends::PRIMARY));
    all.sort_by_key(|a| rank(&a.get_info()));
    all
}

/// One line that names an adapter.
pub fn describe(info: &wgpu::AdapterInfo) -> String {
    format!("{} ({:?}, {:?}, {} {})", info.name, info.device_type, info.backend, info.driver, info.driver_info)
}

impl Gpu {
    /// Opens the chosen adapter with every limit it has and the features the kernels can use.
    ///
    /// # Errors
    /// [`GpuError::NoAdapter`], [`GpuError::AdapterNotFound`], [`GpuError::DeviceRefused`].
    pub fn open(choice: &AdapterChoice) -> Result<Self, GpuError> {
        let find = || -> Result<wgpu::Adapter, GpuError> {
            let mut all = adapters();
            Ok(all.swap_remove(choice.pick(&all)?))
        };
        let mut adapter = find()?;
        if widen_vectors(&adapter.get_info()) {
            // A driver reads its settings anew only once the last of its devices is gone.
            drop(adapter);
            adapter = find()?;
        }
        Self::open_adapter(&adapter)
    }

    fn open_adapter(adapter: &wgpu::Adapter) -> Result<Self, GpuError> {
        let info = adapter.get_info();
        let wanted = wgpu::Features::TIMESTAMP_QUERY
            | wgpu::Features::SHADER_F16
            | wgpu::Features::SUBGROUP
            | wgpu::Features::PIPELINE_CACHE
            | wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
        let features = adapter.features() & wanted;
        let limits = adapter.limits();
        let (device, queue) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor {
            label: Some("csmoe"),
            required_features: features,
            required_limits: limits.clone(),
            // SAFETY: experimental features are used only in kernels that are checked against references.
            experimental_features: unsafe { wgpu::ExperimentalFeatures::enabled() },
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            trace: wgpu::Trace::Off,
        }))
        .map_err(|e| GpuError::DeviceRefused(e.to_string()))?;
        let lost = Arc::new(OnceLock::new());
        let seen = lost.clone();
        device.set_device_lost_callback(move |reason, message| {
            let _ = seen.set(format!("{reason:?}: {message}"));
        });
        let cache = features.contains(wgpu::Features::PIPELINE_CACHE).then(|| {
            let data = cache_path(&info).and_then(|p| std::fs::read(p).ok());
            // SAFETY: the data was written by `save_pipelines` under this adapter's own key, and the driver
            // validates it; `fallback` starts empty when it does not fit.
            unsafe {
                device.create_pipeline_cache(&wgpu::PipelineCacheDescriptor {
                    label: Some("csmoe"),
                    data: data.as_deref(),
                    fallback: true,
                })
            }
        });
        Ok(Gpu {
            target: Target::of(&info, &limits),
            info,
            limits,
            features,
            device,
            queue,
            pipelines: Mutex::default(),
            cache,
            lost,
        })
    }

    /// The error to raise if the device is gone.
    pub fn check(&self) -> Result<(), GpuError> {
        match self.lost.get() {
            Some(why) => Err(GpuError::Lost(why.clone())),
            None => Ok(()),
        }
    }

    /// Blocks until the queue is empty.
    pub fn wait(&self) -> Result<(), GpuError> {
        self.device.poll(wgpu::PollType::wait_indefinitely()).map_err(|e| GpuError::Lost(e.to_string()))?;
        self.check()
    }

    /// Bytes of device memory in use, where the driver's allocations are counted.
    pub fn allocated(&self) -> Option<u64> {
        Some(self.device.generate_allocator_report()?.total_allocated_bytes)
    }

    /// Whether this is a CPU that plays a GPU.
    pub fn is_software(&self) -> bool {
        self.info.device_type == wgpu::DeviceType::Cpu
    }

    /// Writes the compiled pipelines to the cache folder, so that the next start is faster. Failing is harmless.
    pub fn save_pipelines(&self) {
        let (Some(cache), Some(path)) = (&self.cache, cache_path(&self.info)) else { return };
        let Some(data) = cache.get_data() else { return };
        let Some(folder) = path.parent() else { return };
        let temp = path.with_extension(format!("{}.tmp", std::process::id()));
        let written = std::fs::create_dir_all(folder)
            .and_then(|()| std::fs::write(&temp, data))
            .and_then(|()| std::fs::rename(&temp, &path));
        if written.is_err() {
            let _ = std::fs::remove_file(&temp);
        }
    }
}

/// The project's cache folder: `CSMOE_CACHE`, else the user's cache folder.
pub fn cache_folder() -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os("CSMOE_CACHE") {
        return Some(folder.into());
    }
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))?;
    Some(base.join("csmoe"))
}

fn cache_path(info: &wgpu::AdapterInfo) -> Option<PathBuf> {
    Some(cache_folder()?.join("pipelines").join(wgpu::util::pipeline_cache_key(info)?))
}
