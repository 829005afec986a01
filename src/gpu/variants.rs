//! The targets a device could be given, for those who check or measure them all.

use super::{DeviceClass, Gpu, Target};

/// A way to record programs for a device.
#[derive(Clone, Debug)]
pub struct Variant {
    pub name: &'static str,
    pub target: Target,
    /// What the device lacks for it, in words.
    pub lacks: Option<String>,
}

/// The target of a device of another class with the same limits.
fn of_class(class: DeviceClass, info: &wgpu::AdapterInfo, limits: &wgpu::Limits) -> Target {
    let mut info = info.clone();
    info.device_type = match class {
        DeviceClass::Software => wgpu::DeviceType::Cpu,
        DeviceClass::Hardware => wgpu::DeviceType::DiscreteGpu,
    };
    Target::of(&info, limits)
}

impl Target {
    /// What a usual device of a class is given: for recording without one.
    pub fn typical(class: DeviceClass) -> Self {
        let limits = wgpu::Limits { max_compute_workgroup_storage_size: 32 << 10, ..wgpu::Limits::default() };
        of_class(class, &wgpu::AdapterInfo::new(wgpu::DeviceType::Other, wgpu::Backend::Vulkan), &limits)
    }
}

impl Gpu {
    /// The device's own target first, then what a device of each class with these limits would be given, then the
    /// unfused twins. Some may record the same launches.
    pub fn variants(&self) -> Vec<Variant> {
        let of = |class| of_class(class, &self.info, &self.limits);
        let most = self.limits.max_compute_invocations_per_workgroup;
        [
            ("chosen", self.target.clone()),
            ("software", of(DeviceClass::Software)),
            ("hardware", of(DeviceClass::Hardware)),
            ("unfused", Target { fuse: !self.target.fuse, ..self.target.clone() }),
        ]
        .map(|(name, target)| {
            let lacks = (target.lanes > most).then(|| format!("workgroups of {} invocations", target.lanes));
            Variant { name, target, lacks }
        })
        .into()
    }
}
