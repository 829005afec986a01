// Elementwise helpers. One lane an element; bytes: every argument once; FLOPs: at most two an element.
struct P {
    n: u32,
    value: f32,
    accumulate: u32,
}
@group(0) @binding(0) var<uniform> p: P;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<storage, read> x: array<f32>;

//@include grid

fn element(id: vec3<u32>, groups: vec3<u32>, lane: u32) -> u32 {
    return group_index(id, groups) * 64u + lane;
}

// y = value
@compute @workgroup_size(64)
fn fill(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let i = element(id, groups, lane);
    if i < p.n {
        y[i] = p.value;
    }
}

// y = value * x, or y += value * x
@compute @workgroup_size(64)
fn scale(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
         @builtin(local_invocation_index) lane: u32) {
    let i = element(id, groups, lane);
    if i < p.n {
        y[i] = p.value * x[i] + select(0.0, y[i], p.accumulate != 0u);
    }
}

@group(0) @binding(3) var<storage, read> z: array<f32>;

// y = x + z
@compute @workgroup_size(64)
fn add(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
       @builtin(local_invocation_index) lane: u32) {
    let i = element(id, groups, lane);
    if i < p.n {
        y[i] = x[i] + z[i];
    }
}
