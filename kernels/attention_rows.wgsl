// The rows of an attention's matrix between its products: in place, [rows, quads] of vec4, of which the first n
// elements count and the rest are made zero.
//
//   weights   s -> alpha = softmax(scale s)
//   slopes    s -> alpha, and g, the gradient of alpha, -> that of s: scale alpha (g - sum alpha g)
//
// SHARE lanes take a row.   bytes 8 a value for each of s and g.

override LANES: u32 = 64u;
override SHARE: u32 = 16u;

struct P {
    rows: u32,
    n: u32,
    quads: u32,
    scale: f32,
}
@group(0) @binding(0) var<uniform> p: P;
@group(0) @binding(1) var<storage, read_write> s: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> g: array<vec4<f32>>; // as s

//@include grid
//@include row_softmax

@compute @workgroup_size(LANES)
fn weights(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let first = group_index(id, groups) * (LANES / SHARE);
    if first >= p.rows {
        return;
    }
    let r = row_of(first, lane);
    let l = log_sum_exp(r.at, lane);
    if r.there {
        for (var i = lane % SHARE; i < p.quads; i += SHARE) {
            s[r.at + i] = exp(scores(r.at, i) - l);
        }
    }
}

@compute @workgroup_size(LANES)
fn slopes(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
          @builtin(local_invocation_index) lane: u32) {
    let first = group_index(id, groups) * (LANES / SHARE);
    if first >= p.rows {
        return;
    }
    let r = row_of(first, lane);
    let l = log_sum_exp(r.at, lane);
    var delta = 0.0;
    if r.there {
        for (var i = lane % SHARE; i < p.quads; i += SHARE) {
            let alpha = exp(scores(r.at, i) - l);
            let slope = select(vec4<f32>(0.0), g[r.at + i], counts(i));
            delta += dot(alpha, slope);
            s[r.at + i] = alpha;
            g[r.at + i] = slope;
        }
    }
    delta = row_total(delta, lane);
    if r.there {
        for (var i = lane % SHARE; i < p.quads; i += SHARE) {
            g[r.at + i] = p.scale * s[r.at + i] * (g[r.at + i] - delta);
        }
    }
}
