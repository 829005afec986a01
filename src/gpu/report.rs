//! What each adapter of this machine can do, as plain data.

use super::{AdapterChoice, Target, adapters, describe};
use serde::Serialize;

/// The limits that shape launches and memory; bytes where not said otherwise.
#[derive(Clone, Debug, Serialize)]
pub struct Limits {
    pub max_buffer_size: u64,
    pub max_storage_buffer_binding_size: u64,
    /// Buffers.
    pub max_storage_buffers_per_shader_stage: u32,
    pub min_storage_buffer_offset_alignment: u32,
    /// Workgroups.
    pub max_compute_workgroups_per_dimension: u32,
    /// Invocations.
    pub max_compute_invocations_per_workgroup: u32,
    pub max_compute_workgroup_storage_size: u32,
}

/// A cooperative product C = A B + C the adapter has.
#[derive(Clone, Debug, Serialize)]
pub struct CooperativeMatrix {
    pub m: u32,
    pub n: u32,
    pub k: u32,
    /// Type of A and B.
    pub ab: String,
    /// Type of C.
    pub c: String,
}

/// What the kernels can use.
#[derive(Clone, Debug, Serialize)]
pub struct Features {
    pub f16: bool,
    pub subgroups: bool,
    /// Smallest and largest.
    pub subgroup_sizes: [u32; 2],
    pub timestamps: bool,
    pub pipeline_cache: bool,
    /// Empty without the feature.
    pub cooperative_matrices: Vec<CooperativeMatrix>,
}

/// One adapter.
#[derive(Clone, Debug, Serialize)]
pub struct AdapterReport {
    /// What `--adapter` takes.
    pub index: usize,
    pub name: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub backend: String,
    pub driver: String,
    /// A CPU that plays a GPU.
    pub software: bool,
    /// The one opened when no command line says otherwise.
    pub chosen: bool,
    pub limits: Limits,
    pub features: Features,
    /// What programs are recorded for on it.
    pub target: Target,
    /// All in one line.
    #[serde(skip)]
    pub line: String,
}

/// Every adapter of this machine, best first.
pub fn reports() -> Vec<AdapterReport> {
    let all = adapters();
    let chosen = AdapterChoice::from_flag(None).pick(&all).ok();
    all.iter().enumerate().map(|(index, adapter)| report(index, adapter, chosen == Some(index))).collect()
}

fn report(index: usize, adapter: &wgpu::Adapter, chosen: bool) -> AdapterReport {
    let (info, limits, features) = (adapter.get_info(), adapter.limits(), adapter.features());
    let kind = match info.device_type {
        wgpu::DeviceType::DiscreteGpu => "discrete",
        wgpu::DeviceType::IntegratedGpu => "integrated",
        wgpu::DeviceType::VirtualGpu => "virtual",
        wgpu::DeviceType::Cpu => "software",
        wgpu::DeviceType::Other => "other",
    };
    let cooperative = features.contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX);
    let matrices = if cooperative { adapter.cooperative_matrix_properties() } else { Vec::new() };
    let scalar = |t: wgpu::CooperativeScalarType| format!("{t:?}").to_lowercase();
    AdapterReport {
        index,
        kind: kind.to_string(),
        backend: info.backend.to_string(),
        driver: format!("{} {}", info.driver, info.driver_info).trim().to_string(),
        software: info.device_type == wgpu::DeviceType::Cpu,
        chosen,
        features: Features {
            f16: features.contains(wgpu::Features::SHADER_F16),
            subgroups: features.contains(wgpu::Features::SUBGROUP),
            subgroup_sizes: [info.subgroup_min_size, info.subgroup_max_size],
            timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY),
            pipeline_cache: features.contains(wgpu::Features::PIPELINE_CACHE),
            cooperative_matrices: matrices
                .iter()
                .map(|p| CooperativeMatrix {
                    m: p.m_size,
                    n: p.n_size,
                    k: p.k_size,
                    ab: scalar(p.ab_type),
                    c: scalar(p.cr_type),
                })
                .collect(),
        },
        target: Target::of(&info, &limits),
        limits: Limits {
            max_buffer_size: limits.max_buffer_size,
            max_storage_buffer_binding_size: limits.max_storage_buffer_binding_size,
            max_storage_buffers_per_shader_stage: limits.max_storage_buffers_per_shader_stage,
            min_storage_buffer_offset_alignment: limits.min_storage_buffer_offset_alignment,
            max_compute_workgroups_per_dimension: limits.max_compute_workgroups_per_dimension,
            max_compute_invocations_per_workgroup: limits.max_compute_invocations_per_workgroup,
            max_compute_workgroup_storage_size: limits.max_compute_workgroup_storage_size,
        },
        line: describe(&info),
        name: info.name,
    }
}
