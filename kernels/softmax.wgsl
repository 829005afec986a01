// alpha = softmax(scale s) over the last axis and, by row, sum alpha ln(alpha + tiny): the middle of an attention whose
// matrix lies in memory, the unfused twin of attention.wgsl. A lane takes a row.   bytes 8 a value forward, 12 backward.
struct P {
    rows: u32,
    n: u32,
    scale: f32,
    accumulate: u32,
    has_entropy: u32,
}
@group(0) @binding(0) var<uniform> p: P;
@group(0) @binding(1) var<storage, read> s: array<f32>;
@group(0) @binding(2) var<storage, read_write> alpha: array<f32>;
@group(0) @binding(3) var<storage, read_write> entropies: array<f32>; // [rows]
const TINY: f32 = 1e-8;

//@include grid

@compute @workgroup_size(64)
fn forward(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let row = group_index(id, groups) * 64u + lane;
    if row >= p.rows {
        return;
    }
    let at = row * p.n;
    var top = s[at];
    for (var i = 1u; i < p.n; i += 1u) {
        top = max(top, s[at + i]);
    }
    var total = 0.0;
    for (var i = 0u; i < p.n; i += 1u) {
        let e = exp((s[at + i] - top) * p.scale);
        alpha[at + i] = e;
        total += e;
    }
    var h = 0.0;
    for (var i = 0u; i < p.n; i += 1u) {
        let a = alpha[at + i] / total;
        alpha[at + i] = a;
        h += a * log(a + TINY);
    }
    entropies[row] = h;
}

@group(0) @binding(1) var<storage, read> weights: array<f32>;
@group(0) @binding(2) var<storage, read> dweights: array<f32>;
@group(0) @binding(3) var<storage, read> dentropies: array<f32>; // if has_entropy
@group(0) @binding(4) var<storage, read_write> ds: array<f32>;

fn slope(a: f32, g: f32, factor: f32) -> f32 {
    if p.has_entropy == 0u {
        return g;
    }
    return g + factor * (log(a + TINY) + a / (a + TINY));
}

// ds = scale alpha (g - <alpha, g>), g the gradient of the weights with the entropy's share
@compute @workgroup_size(64)
fn backward(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
            @builtin(local_invocation_index) lane: u32) {
    let row = group_index(id, groups) * 64u + lane;
    if row >= p.rows {
        return;
    }
    let at = row * p.n;
    let factor = dentropies[row];
    var dot = 0.0;
    for (var i = 0u; i < p.n; i += 1u) {
        dot = fma(weights[at + i], slope(weights[at + i], dweights[at + i], factor), dot);
    }
    for (var i = 0u; i < p.n; i += 1u) {
        let a = weights[at + i];
        ds[at + i] = p.scale * a * (slope(a, dweights[at + i], factor) - dot)
            + select(0.0, ds[at + i], p.accumulate != 0u);
    }
}
