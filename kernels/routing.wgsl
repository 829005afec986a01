// Soft MoE's weights (Puigcerver et al. 2024, eq. 1 and 3) between its products. Logits, weights and their gradients are
// [Z, S, quads] of vec4: a row a slot, a column a token, of which the first n count; weights and gradients of logits are zero
// beyond.
//
//   dispatch            alpha = softmax(scale l) over a slot's tokens and, by slot, sum alpha ln(alpha + tiny)
//   combine             beta = softmax(l) over a token's slots
//   dispatch_backward   dl = scale alpha (g - sum alpha g), or +=, where g is the gradient of alpha and the entropy's share
//   combine_backward    dl = beta (g - sum beta g), or +=
//
// SHARE lanes take a row; a lane takes four columns.   bytes 8 a value forward, 12 or 16 backward

override LANES: u32 = 64u;
override SHARE: u32 = 16u;
override ACCUMULATE: bool = false;
override HAS_ENTROPY: bool = false; // whether there is a gradient of the entropies
const TINY: f32 = 1e-8;

struct P {
    rows: u32, // Z S
    n: u32,
    quads: u32,
    slots: u32,
    scale: f32,
}
@group(0) @binding(0) var<uniform> p: P;
@group(0) @binding(1) var<storage, read> s: array<vec4<f32>>;               // logits
@group(0) @binding(2) var<storage, read_write> weights: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> entropies: array<f32>;       // by slot
@group(0) @binding(1) var<storage, read> weights_in: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> g: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> dl: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> dentropy: array<f32>;              // by slot

//@include grid
//@include row_softmax

fn put(at: u32, value: vec4<f32>) {
    if ACCUMULATE { dl[at] += value; } else { dl[at] = value; }
}

@compute @workgroup_size(LANES)
fn dispatch(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
            @builtin(local_invocation_index) lane: u32) {
    let first = group_index(id, groups) * (LANES / SHARE);
    if first >= p.rows {
        return;
    }
    let r = row_of(first, lane);
    let l = log_sum_exp(r.at, lane);
    var h = 0.0;
    if r.there {
        for (var i = lane % SHARE; i < p.quads; i += SHARE) {
            let alpha = exp(scores(r.at, i) - l);
            weights[r.at + i] = alpha;
            h += dot(alpha, log(alpha + TINY));
        }
    }
    h = row_total(h, lane);
    if r.there && lane % SHARE == 0u {
        entropies[r.row] = h;
    }
}

// The gradient of a quad of a row's weights.
fn slope(at: u32, i: u32, alpha: vec4<f32>, factor: f32) -> vec4<f32> {
    let own = select(vec4<f32>(0.0), g[at + i], counts(i));
    if !HAS_ENTROPY { return own; }
    return own + factor * (log(alpha + TINY) + alpha / (alpha + TINY));
}

@compute @workgroup_size(LANES)
fn dispatch_backward(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                     @builtin(local_invocation_index) lane: u32) {
    let first = group_index(id, groups) * (LANES / SHARE);
    if first >= p.rows {
        return;
    }
    let r = row_of(first, lane);
    let factor = dentropy[r.row];
    var delta = 0.0;
    if r.there {
        for (var i = lane % SHARE; i < p.quads; i += SHARE) {
            let alpha = weights_in[r.at + i];
            delta += dot(alpha, slope(r.at, i, alpha, factor));
        }
    }
    delta = row_total(delta, lane);
    if r.there {
        for (var i = lane % SHARE; i < p.quads; i += SHARE) {
            let alpha = weights_in[r.at + i];
            put(r.at + i, p.scale * alpha * (slope(r.at, i, alpha, factor) - delta));
        }
    }
}

// Where a lane's four columns begin: it takes a quad of every row of a sequence.
fn column(index: u32) -> u32 {
    return index / p.quads * p.slots * p.quads + index % p.quads;
}

@compute @workgroup_size(LANES)
fn combine(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let index = group_index(id, groups) * LANES + lane;
    if index >= p.rows / p.slots * p.quads {
        return;
    }
    let first = column(index);
    let end = first + p.slots * p.quads;
    var top = vec4<f32>(LOWEST);
    for (var at = first; at < end; at += p.quads) {
        top = max(top, s[at]);
    }
    var sum = vec4<f32>(0.0);
    for (var at = first; at < end; at += p.quads) {
        sum += exp(s[at] - top);
    }
    let l = top + log(sum);
    for (var at = first; at < end; at += p.quads) {
        weights[at] = select(vec4<f32>(0.0), exp(s[at] - l), counts(index % p.quads));
    }
}

@compute @workgroup_size(LANES)
fn combine_backward(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                    @builtin(local_invocation_index) lane: u32) {
    let index = group_index(id, groups) * LANES + lane;
    if index >= p.rows / p.slots * p.quads {
        return;
    }
    let first = column(index);
    let end = first + p.slots * p.quads;
    var delta = vec4<f32>(0.0);
    for (var at = first; at < end; at += p.quads) {
        delta += weights_in[at] * g[at];
    }
    for (var at = first; at < end; at += p.quads) {
        put(at, select(vec4<f32>(0.0), weights_in[at] * (g[at] - delta), counts(index % p.quads)));
    }
}
