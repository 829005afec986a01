// Elementwise helpers, four elements a lane and BLOCK quads a workgroup. Bytes: every argument once; FLOPs: at most
// two an element. Values lie in whole vec4s, but what follows a value's end may be another's: it is kept.
struct P {
    n: u32,
    value: f32,
    accumulate: u32,
}
@group(0) @binding(0) var<uniform> p: P;
@group(0) @binding(1) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> z: array<vec4<f32>>;

//@include grid

override LANES: u32 = 64u; // one vector where the driver runs on the CPU: it then walks memory straight on
const BLOCK: u32 = 512u;

fn put(i: u32, value: vec4<f32>) {
    if 4u * i + 3u < p.n {
        y[i] = value;
    } else {
        y[i] = select(y[i], value, vec4<u32>(4u * i) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(p.n));
    }
}

// y = value
@compute @workgroup_size(LANES)
fn fill(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let first = group_index(id, groups) * BLOCK;
    let end = min(first + BLOCK, (p.n + 3u) / 4u);
    for (var i = first + lane; i < end; i += LANES) {
        put(i, vec4<f32>(p.value));
    }
}

// y = value * x, or y += value * x
@compute @workgroup_size(LANES)
fn scale(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
         @builtin(local_invocation_index) lane: u32) {
    let first = group_index(id, groups) * BLOCK;
    let end = min(first + BLOCK, (p.n + 3u) / 4u);
    for (var i = first + lane; i < end; i += LANES) {
        var value = p.value * x[i];
        if p.accumulate != 0u {
            value += y[i];
        }
        put(i, value);
    }
}

// y = x + z
@compute @workgroup_size(LANES)
fn add(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
       @builtin(local_invocation_index) lane: u32) {
    let first = group_index(id, groups) * BLOCK;
    let end = min(first + BLOCK, (p.n + 3u) / 4u);
    for (var i = first + lane; i < end; i += LANES) {
        put(i, x[i] + z[i]);
    }
}
