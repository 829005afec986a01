// The first token of every sequence: x [B, tokens, width] -> y [B, width]. One lane an element of what is written, or,
// in scatter, a workgroup a row.
// Bytes: y twice, and for the first gradient dx once. FLOPs: none.
struct P {
    n: u32, // elements; rows of scatter
    tokens: u32,
    width: u32,
}
@group(0) @binding(0) var<uniform> p: P;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<storage, read> x: array<f32>;

//@include grid

override LANES: u32 = 64u; // of scatter

// y[b] = x[b, 0]
@compute @workgroup_size(64)
fn gather(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
          @builtin(local_invocation_index) lane: u32) {
    let i = group_index(id, groups) * 64u + lane;
    if i < p.n {
        y[i] = x[i / p.width * p.tokens * p.width + i % p.width];
    }
}

// dx[b, 0] = dy[b], dx elsewhere 0
@compute @workgroup_size(LANES)
fn scatter(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let row = group_index(id, groups);
    if row >= p.n {
        return;
    }
    for (var i = lane; i < p.width; i += LANES) {
        y[row * p.width + i] = select(0.0, x[row / p.tokens * p.width + i], row % p.tokens == 0u);
    }
}

// dx[b, 0] += dy[b]
@compute @workgroup_size(64)
fn scatter_add(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
               @builtin(local_invocation_index) lane: u32) {
    let i = group_index(id, groups) * 64u + lane;
    if i < p.n {
        y[i / p.width * p.tokens * p.width + i % p.width] += x[i];
    }
}
