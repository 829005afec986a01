//! What a program is recorded for: the few numbers of a device that shape its launches. Plain data, so that
//! recording, counting and planning need no GPU.

use serde::Serialize;

/// The kinds of device whose best kernels differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceClass {
    /// A Vulkan driver that runs on the CPU (llvmpipe, SwiftShader).
    Software,
    /// A GPU, integrated or discrete.
    Hardware,
}

/// The first Mesa whose llvmpipe gains from 512-bit vectors (by half; Mesa 22 loses two thirds) and from tiles in
/// workgroup memory.
pub(super) const WIDE_MESA: u32 = 26;

/// As many processors as the largest GPUs have: work for these fills most.
const GPU_CORES: u32 = 128;

/// The driver's version, if it is Mesa.
pub(super) fn mesa(info: &wgpu::AdapterInfo) -> Option<u32> {
    info.driver_info.strip_prefix("Mesa ")?.split('.').next()?.parse().ok()
}

/// The numbers of a device that ops look at while recording.
#[derive(Clone, Debug, Serialize)]
pub struct Target {
    pub class: DeviceClass,
    /// Largest storage binding in bytes.
    pub max_binding: u64,
    /// Largest number of workgroups in one grid dimension.
    pub max_groups: u32,
    /// Alignment in bytes of a binding's offset.
    pub align: u64,
    /// Invocations a workgroup of the register-blocked kernels has.
    pub lanes: u32,
    /// A software device's processors; of a GPU, which does not tell, [`GPU_CORES`].
    pub cores: u32,
    /// Keep one operand's tile in workgroup memory (32 KiB), four steps of k a vec4: what llvmpipe likes.
    pub tiles: bool,
    /// Read the rows of a product where they lie instead of from such a tile: what an older llvmpipe likes.
    pub direct: bool,
    /// Use fused kernels; `false` records their unfused twins.
    pub fuse: bool,
}

impl Default for Target {
    /// The limits WebGPU guarantees, on a hardware device.
    fn default() -> Self {
        Target {
            class: DeviceClass::Hardware,
            max_binding: 128 << 20,
            max_groups: 65_535,
            align: 256,
            lanes: 64,
            cores: GPU_CORES,
            tiles: false,
            direct: false,
            fuse: true,
        }
    }
}

impl Target {
    /// Reads the numbers off an adapter.
    pub fn of(info: &wgpu::AdapterInfo, limits: &wgpu::Limits) -> Self {
        let class = match info.device_type {
            wgpu::DeviceType::Cpu => DeviceClass::Software,
            _ => DeviceClass::Hardware,
        };
        let old = mesa(info).is_some_and(|v| v < WIDE_MESA);
        Target {
            class,
            // Offsets inside kernels are 32-bit, so larger bindings would not be addressable.
            max_binding: limits.max_storage_buffer_binding_size.min((1 << 31) - 4),
            max_groups: limits.max_compute_workgroups_per_dimension,
            align: u64::from(limits.min_storage_buffer_offset_alignment.max(16)),
            // A software device's subgroup is its vector register: 16 floats of AVX-512, 8 of AVX2.
            lanes: match class {
                DeviceClass::Software => info.subgroup_max_size.clamp(4, 16),
                DeviceClass::Hardware => 64,
            },
            cores: match class {
                DeviceClass::Software => std::thread::available_parallelism().map_or(1, |n| n.get() as u32),
                DeviceClass::Hardware => GPU_CORES,
            },
            // Matrix product of 1024^3 there: 11.4 against 6.3 GFLOP per CPU-second.
            direct: old,
            tiles: class == DeviceClass::Software && limits.max_compute_workgroup_storage_size >= 32 << 10,
            fuse: true,
        }
    }

    /// How `groups` workgroups that would each add up `rows` rows are to share them on a GPU, which wants many: the number
    /// of shares, and the rows of each, `least` or more.
    pub fn shares(&self, groups: usize, rows: usize, least: usize) -> (usize, usize) {
        if self.class == DeviceClass::Software {
            return (1, rows);
        }
        // More parts would be added up for longer than they save.
        let wanted = (4 * self.cores as usize).div_ceil(groups).clamp(1, (rows / least).clamp(1, 32));
        let share = rows.div_ceil(wanted);
        (rows.div_ceil(share), share)
    }

    /// Splits `total` workgroups over a grid whose dimensions stay inside the limit: nearly square when one
    /// dimension is not enough. Kernels linearise with `x + y * num_workgroups.x` and check the end.
    pub fn grid(&self, total: u64) -> [u32; 3] {
        let max = u64::from(self.max_groups);
        if total <= max {
            return [total as u32, 1, 1];
        }
        let rows = total.div_ceil(max);
        let columns = total.div_ceil(rows);
        [columns as u32, rows as u32, 1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_cover_all_rows_and_none_is_empty() {
        let gpu = Target::default();
        for (groups, rows, least) in [(1, 1, 16), (12, 6304, 16), (3, 17, 16), (1, 1600, 1), (4000, 640, 16)] {
            let (shares, each) = gpu.shares(groups, rows, least);
            assert!(shares * each >= rows && (shares - 1) * each < rows, "{groups} {rows}: {shares} of {each}");
            assert!(shares <= 32 && (shares == 1 || each >= least), "{groups} {rows}: {shares} of {each}");
        }
        assert_eq!(gpu.shares(12, 6304, 16), (32, 197));
        let software = Target { class: DeviceClass::Software, ..gpu };
        assert_eq!(software.shares(12, 6304, 16), (1, 6304));
    }

    #[test]
    fn grids_cover_and_fit() {
        let target = Target::default();
        for total in [1, 7, 65_535, 65_536, 65_537, 1_000_003, 4_294_000_000] {
            let [x, y, z] = target.grid(total);
            assert!(x <= target.max_groups && y <= target.max_groups && z == 1);
            assert!(u64::from(x) * u64::from(y) >= total, "{total}");
            assert!(u64::from(x) * u64::from(y) < total + u64::from(x), "{total} wastes more than a row");
        }
    }
}
