// AdamW (Loshchilov and Hutter 2019) over all parameters, with clipping by the global norm and steps that are skipped
// when a number is not finite.
//
//   g = scale * gradient, scale = grad_scale * min(1, clip / norm)
//   m = beta1 m + (1 - beta1) g;   v = beta2 v + (1 - beta2) g^2
//   w = w - lr decay w - lr (m / bias1) / (sqrt(v / bias2) + eps)
//
// Whether a number is finite is read off its bits: compilers may assume there are no others.
struct Hyper {
    lr: f32,
    beta1: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    eps: f32,
    decay: f32,
    inv_bias1: f32,         // 1 / (1 - beta1^step)
    inv_sqrt_bias2: f32,    // 1 / sqrt(1 - beta2^step)
    clip: f32,              // 0: no clipping
    grad_scale: f32,
}

//@include grid
//@include workgroup
//@include row_sum

fn is_finite(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7f800000u) != 0x7f800000u;
}

fn are_finite(x: vec4<f32>) -> bool {
    let exponent = vec4<u32>(0x7f800000u);
    return all((bitcast<vec4<u32>>(x) & exponent) != exponent);
}

// sums[first + i] = sum of squares of block i of 4096 gradients, infinity if one of them is not finite. One
// workgroup a block. Bytes: the gradients once. FLOPs: 2 a gradient.
struct Window {
    n: u32,
    first: u32,
    infinity: f32,
    losses: u32,
    zero: u32,
    blocks: u32,    // of 64 parameters before this window
    nothing: u32,   // 0, which the driver does not know
}
@group(0) @binding(0) var<uniform> p: Window;
@group(0) @binding(1) var<storage, read_write> sums: array<f32>;
@group(0) @binding(2) var<storage, read> gradient: array<vec4<f32>>;

@compute @workgroup_size(LANES)
fn squares(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let group = group_index(id, groups);
    if group >= (p.n + 1023u) / 1024u {
        return;
    }
    let end = min(p.n, (group + 1u) * 1024u);
    var sum = 0.0;
    var finite = true;
    var i = group * 1024u + lane;
    // Four at once: a loop's turn costs as much as several loads.
    for (; i + 3u * LANES < end; i += 4u * LANES) {
        let a = gradient[i];
        let b = gradient[i + LANES];
        let c = gradient[i + 2u * LANES];
        let d = gradient[i + 3u * LANES];
        finite = finite && are_finite(a) && are_finite(b) && are_finite(c) && are_finite(d);
        sum += (dot(a, a) + dot(b, b)) + (dot(c, c) + dot(d, d));
    }
    for (; i < end; i += LANES) {
        let g = gradient[i];
        finite = finite && are_finite(g);
        sum += dot(g, g);
    }
    let bad = row_sum(select(1.0, 0.0, finite), lane, 0u);
    let total = row_sum(select(0.0, sum, finite), lane, 1u);
    if lane == 0u {
        sums[p.first + group] = select(total, p.infinity, bad > 0.0);
    }
}

// stats = [norm of grad_scale * gradient, 1 if the step is skipped, scale, 0, ...]. One workgroup in all.
@group(0) @binding(1) var<storage, read_write> stats: array<f32>;    // [64]
@group(0) @binding(2) var<storage, read> sums_in: array<f32>;
@group(0) @binding(3) var<storage, read> hyper: Hyper;
@group(0) @binding(4) var<storage, read> losses: array<f32>;

@compute @workgroup_size(64)
fn decide(@builtin(local_invocation_index) lane: u32) {
    var sum = 0.0;
    var finite = true;
    for (var i = lane; i < p.n; i += 64u) {
        finite = finite && is_finite(sums_in[i]);
        sum += sums_in[i];
    }
    for (var i = lane; i < p.losses; i += 64u) {
        finite = finite && is_finite(losses[i]);
    }
    let bad = workgroup_sum(select(1.0, 0.0, finite), lane);
    let norm = hyper.grad_scale * sqrt(workgroup_sum(sum, lane));
    let skip = bad > 0.0 || !is_finite(norm);
    let clipped = hyper.clip > 0.0 && norm > hyper.clip;
    let scale = hyper.grad_scale * select(1.0, hyper.clip / norm, clipped);
    stats[lane] = select(select(select(0.0, scale, lane == 2u), select(0.0, 1.0, skip), lane == 1u), norm, lane == 0u);
}

// The update of n vec4, 64 a workgroup. Bit b of decays is whether block b of 64 parameters decays.
// Bytes: gradient once, weights and both moments twice. FLOPs: 16 a parameter.
@group(0) @binding(1) var<storage, read_write> w: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> g: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> m: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> v: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> h: Hyper;
@group(0) @binding(6) var<storage, read> decided: array<f32>;
@group(0) @binding(7) var<storage, read> decays: array<u32>;

// 0, after a look at the workgroup's cache lines of all four, one a lane: on a CPU's vector units that is one wait for
// memory instead of four.
fn looked(first: u32, lane: u32) -> f32 {
    let i = min(first + lane * (64u / LANES), p.n - 1u);
    let seen = bitcast<u32>(w[i].x) | bitcast<u32>(g[i].x) | bitcast<u32>(m[i].x) | bitcast<u32>(v[i].x);
    return bitcast<f32>(seen & p.nothing);
}

@compute @workgroup_size(LANES)
fn update(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
          @builtin(local_invocation_index) lane: u32) {
    let start = group_index(id, groups) * 64u;
    if start >= p.n {
        return;
    }
    let end = min(start + 64u, p.n);
    var scale = decided[2];
    if LANES < 64u {
        scale += looked(start, lane);
    }
    for (var i = start + lane; i < end; i += LANES) {
        if decided[1] == 0.0 {
            let block = p.blocks + i / 16u;
            let decay = f32((decays[block / 32u] >> (block % 32u)) & 1u) * h.lr * h.decay;
            let slope = scale * g[i];
            let first = h.beta1 * m[i] + h.one_minus_beta1 * slope;
            let second = h.beta2 * v[i] + h.one_minus_beta2 * slope * slope;
            m[i] = first;
            v[i] = second;
            let step = h.inv_bias1 * first / (h.inv_sqrt_bias2 * sqrt(second) + h.eps);
            w[i] = w[i] - decay * w[i] - h.lr * step;
        }
        if p.zero != 0u {
            g[i] = vec4(0.0);
        }
    }
}
