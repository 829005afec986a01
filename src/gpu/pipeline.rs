//! Pipelines: a kernel's bindings are read from its own WGSL by naga, so nothing is declared twice.

use super::{Gpu, GpuError, Kernel, source};
use std::sync::Arc;

/// What a kernel declares at one binding of group 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    Uniform,
    Read,
    ReadWrite,
}

/// A compiled kernel.
pub struct Pipeline {
    pub raw: wgpu::ComputePipeline,
    pub layout: wgpu::BindGroupLayout,
    /// By binding number.
    pub bindings: Vec<Binding>,
}

/// The bindings an entry point uses, by number. Entry points of one file may reuse a number for different values.
///
/// # Errors
/// WGSL that does not parse or validate, an entry point that is missing, numbers with a gap.
pub fn bindings(text: &str, entry: &str) -> Result<Vec<Binding>, String> {
    let module = naga::front::wgsl::parse_str(text).map_err(|e| e.emit_to_string(text))?;
    let mut validator =
        naga::valid::Validator::new(naga::valid::ValidationFlags::all(), naga::valid::Capabilities::all());
    let info = validator.validate(&module).map_err(|e| e.emit_to_string(text))?;
    let index = module.entry_points.iter().position(|e| e.name == entry).ok_or("there is no such entry point")?;
    let used = info.get_entry_point(index);
    let mut found: Vec<(u32, Binding)> = module
        .global_variables
        .iter()
        .filter(|(handle, _)| !used[*handle].is_empty())
        .filter_map(|(_, v)| {
            let kind = match v.space {
                naga::AddressSpace::Uniform => Binding::Uniform,
                naga::AddressSpace::Storage { access } if access.contains(naga::StorageAccess::STORE) => {
                    Binding::ReadWrite
                }
                _ => Binding::Read,
            };
            Some((v.binding.as_ref()?.binding, kind))
        })
        .collect();
    found.sort_by_key(|(n, _)| *n);
    if found.iter().enumerate().any(|(i, (n, _))| i as u32 != *n) {
        let numbers: Vec<u32> = found.iter().map(|(n, _)| *n).collect();
        return Err(format!("its bindings are numbered {numbers:?}, not 0, 1, 2, ..."));
    }
    Ok(found.into_iter().map(|(_, kind)| kind).collect())
}

impl Gpu {
    /// Compiles a kernel with `constants` for its `override`s, once.
    ///
    /// # Errors
    /// [`GpuError::Validation`] with the compiler's message.
    pub fn pipeline(&self, kernel: Kernel, constants: &[(&'static str, f64)]) -> Result<Arc<Pipeline>, GpuError> {
        let key = format!("{kernel:?}{constants:?}");
        if let Some(found) = self.pipelines.lock().expect("no panic holds this lock").get(&key) {
            return Ok(found.clone());
        }
        let pipeline = Arc::new(self.compile(kernel, constants)?);
        self.pipelines.lock().expect("no panic holds this lock").insert(key, pipeline.clone());
        Ok(pipeline)
    }

    fn compile(&self, kernel: Kernel, constants: &[(&'static str, f64)]) -> Result<Pipeline, GpuError> {
        let what = format!("kernel {}::{}", kernel.file, kernel.entry);
        let refuse = |message: String| GpuError::Validation { what: what.clone(), message };
        let text = source(kernel);
        let bindings = bindings(&text, kernel.entry).map_err(&refuse)?;
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let mut checks = wgpu::ShaderRuntimeChecks::checked();
        if std::env::var_os("CSMOE_CHECKS").is_none() {
            checks.bounds_checks = !kernel.trusted;
            checks.force_loop_bounding = false;
            checks.int_div_checks = false;
        }
        let shader =
            wgpu::ShaderModuleDescriptor { label: Some(kernel.file), source: wgpu::ShaderSource::Wgsl(text.into()) };
        // SAFETY: the kernels are this crate's own; every loop of theirs counts up to a bound, and they divide by
        // sizes and strides that are not zero. Trusted ones index workgroup memory inside its bounds. The tests pass
        // with every check too (CSMOE_CHECKS=1).
        let shader = unsafe { self.device.create_shader_module_trusted(shader, checks) };
        let entries: Vec<_> = bindings
            .iter()
            .enumerate()
            .map(|(n, kind)| wgpu::BindGroupLayoutEntry {
                binding: n as u32,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer {
                    ty: match kind {
                        Binding::Uniform => wgpu::BufferBindingType::Uniform,
                        Binding::Read => wgpu::BufferBindingType::Storage { read_only: true },
                        Binding::ReadWrite => wgpu::BufferBindingType::Storage { read_only: false },
                    },
                    has_dynamic_offset: false,
                    min_binding_size: None,
                },
                count: None,
            })
            .collect();
        let layout = self.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some(kernel.entry),
            entries: &entries,
        });
        let pipeline_layout = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(kernel.entry),
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let raw = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(kernel.entry),
            layout: Some(&pipeline_layout),
            module: &shader,
            entry_point: Some(kernel.entry),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants,
                zero_initialize_workgroup_memory: false,
            },
            cache: self.cache.as_ref(),
        });
        match pollster::block_on(scope.pop()) {
            Some(e) => Err(refuse(e.to_string())),
            None => Ok(Pipeline { raw, layout, bindings }),
        }
    }
}
