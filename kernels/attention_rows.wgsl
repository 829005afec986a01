// The rows of an attention's matrix between its products: in place, [rows, quads] of vec4, of which the first n
// elements count and the rest are made zero.
//
//   weights   s -> alpha = softmax(scale s) and, by row, sum alpha ln(alpha + tiny)
//   slopes    s -> alpha, unless it is alpha already, and g, the gradient of alpha, -> that of s:
//             scale alpha (g - sum alpha g); the entropy's share is added to g
//
// SHARE lanes take a row: sixteen on a GPU, one where the driver runs on the CPU.   bytes 8 a value for each of s and g.

override LANES: u32 = 64u;
override SHARE: u32 = 16u;
override HAS_ENTROPY: bool = false;
override KEPT: bool = false; // slopes: s is alpha
const LOWEST: f32 = -3.4e38;
const TINY: f32 = 1e-8;

struct P {
    rows: u32,
    n: u32,
    quads: u32,
    first: u32, // number of the first row
    s_first: u32, // and its place in s
    scale: f32,
}
@group(0) @binding(0) var<uniform> p: P;
@group(0) @binding(1) var<storage, read_write> s: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> entropies: array<f32>; // of all rows, with HAS_ENTROPY

//@include grid

var<workgroup> shares: array<vec2<f32>, 64>;

fn total(x: vec4<f32>) -> f32 {
    return (x.x + x.y) + (x.z + x.w);
}

// Which of a row's quad are not beyond its last.
fn counts(i: u32) -> vec4<bool> {
    return vec4<u32>(i * 4u) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(p.n);
}

// Scaled scores, the lowest beyond the last.
fn scores(at: u32, i: u32) -> vec4<f32> {
    return select(vec4<f32>(LOWEST), s[at + i] * p.scale, counts(i));
}

// A row's log-sum-exp: the lanes' shares meet in the workgroup's memory and are added in their order.
fn log_sum_exp(at: u32, lane: u32) -> f32 {
    var top = LOWEST;
    var sum = 0.0;
    for (var i = lane % SHARE; i < p.quads; i += SHARE) {
        let x = scores(at, i);
        let before = top;
        top = max(max(max(x.x, x.y), max(x.z, x.w)), before);
        sum = sum * exp(before - top) + total(exp(x - top));
    }
    if SHARE == 1u { return top + log(sum); }
    shares[lane] = vec2<f32>(top, sum);
    workgroupBarrier();
    let first = lane / SHARE * SHARE;
    for (var i = 0u; i < SHARE; i += 1u) {
        top = max(top, shares[first + i].x);
    }
    sum = 0.0;
    for (var i = 0u; i < SHARE; i += 1u) {
        let share = shares[first + i];
        sum += share.y * exp(share.x - top);
    }
    workgroupBarrier();
    return top + log(sum);
}

fn row_total(value: f32, lane: u32) -> f32 {
    if SHARE == 1u { return value; }
    shares[lane].x = value;
    workgroupBarrier();
    var sum = 0.0;
    for (var i = 0u; i < SHARE; i += 1u) {
        sum += shares[lane / SHARE * SHARE + i].x;
    }
    return sum;
}

@compute @workgroup_size(LANES)
fn weights(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let first = group_index(id, groups) * (LANES / SHARE);
    if first >= p.rows {
        return;
    }
    let row = first + lane / SHARE;
    let there = row < p.rows;
    let at = (p.s_first + min(row, p.rows - 1u)) * p.quads;
    let l = log_sum_exp(at, lane);
    var h = 0.0;
    if there {
        for (var i = lane % SHARE; i < p.quads; i += SHARE) {
            let alpha = exp(scores(at, i) - l);
            s[at + i] = alpha;
            if HAS_ENTROPY { h += dot(alpha, log(alpha + TINY)); }
        }
    }
    if HAS_ENTROPY {
        h = row_total(h, lane);
        if there && lane % SHARE == 0u {
            entropies[p.first + row] = h;
        }
    }
}

@group(0) @binding(2) var<storage, read_write> g: array<vec4<f32>>; // as s
@group(0) @binding(3) var<storage, read> dentropy: array<f32>;      // gradient of the entropies, with HAS_ENTROPY

@compute @workgroup_size(LANES)
fn slopes(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
          @builtin(local_invocation_index) lane: u32) {
    let first = group_index(id, groups) * (LANES / SHARE);
    if first >= p.rows {
        return;
    }
    let row = first + lane / SHARE;
    let there = row < p.rows;
    let g_at = min(row, p.rows - 1u) * p.quads;
    let at = p.s_first * p.quads + g_at;
    var l = 0.0;
    if !KEPT { l = log_sum_exp(at, lane); }
    var factor = 0.0;
    if HAS_ENTROPY { factor = dentropy[p.first + min(row, p.rows - 1u)]; }
    var delta = 0.0;
    if there {
        for (var i = lane % SHARE; i < p.quads; i += SHARE) {
            var alpha: vec4<f32>;
            if KEPT {
                alpha = s[at + i];
            } else {
                alpha = exp(scores(at, i) - l);
                s[at + i] = alpha;
            }
            var slope = select(vec4<f32>(0.0), g[g_at + i], counts(i));
            if HAS_ENTROPY { slope += factor * (log(alpha + TINY) + alpha / (alpha + TINY)); }
            delta += dot(alpha, slope);
            g[g_at + i] = slope;
        }
    }
    delta = row_total(delta, lane);
    if there {
        for (var i = lane % SHARE; i < p.quads; i += SHARE) {
            g[g_at + i] = p.scale * s[at + i] * (g[g_at + i] - delta);
        }
    }
}
