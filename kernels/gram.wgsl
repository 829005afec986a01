// Slot repulsion: the mean squared inner product of the vectors of a row.
//
//   y = 1 / (R E^2) * sum over r, e, f of <u[r,e], u[r,f]>^2,   u [R, E, D]
struct P {
    rows: u32,
    count: u32,     // E
    width: u32,     // D
    factor: f32,    // 4 / (R E^2)
    accumulate: u32,
}
@group(0) @binding(0) var<uniform> p: P;
@group(0) @binding(1) var<storage, read_write> square: array<f32>;    // [R]
@group(0) @binding(2) var<storage, read_write> gram: array<f32>;      // [R, E, E]
@group(0) @binding(3) var<storage, read> u: array<f32>;

//@include grid
//@include workgroup

// gram[r,e,f] = <u[r,e], u[r,f]>, square[r] = sum of their squares. One workgroup a row, a lane a pair (the 64 pairs of
// 8 experts at once). Bytes: u once, E-fold from cache. FLOPs: 2 R E^2 D.
@compute @workgroup_size(64)
fn row_gram(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
            @builtin(local_invocation_index) lane: u32) {
    let row = group_index(id, groups);
    if row >= p.rows {
        return;
    }
    let pairs = p.count * p.count;
    var part = 0.0;
    for (var pair = lane; pair < pairs; pair += 64u) {
        let a = (row * p.count + pair / p.count) * p.width;
        let b = (row * p.count + pair % p.count) * p.width;
        var dot = 0.0;
        for (var k = 0u; k < p.width; k++) {
            dot = fma(u[a + k], u[b + k], dot);
        }
        gram[row * pairs + pair] = dot;
        part += dot * dot;
    }
    let total = workgroup_sum(part, lane);
    if lane == 0u {
        square[row] = total;
    }
}

// du[r,e] = dy * 4 / (R E^2) * sum over f of gram[r,e,f] u[r,f]. One workgroup a vector, of R E.
// Bytes: u and du once, u E-fold from cache. FLOPs: 2 R E^2 D.
@group(0) @binding(1) var<storage, read_write> du: array<f32>;
@group(0) @binding(2) var<storage, read> gram_in: array<f32>;
@group(0) @binding(4) var<storage, read> dy: array<f32>;

@compute @workgroup_size(64)
fn backward(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
            @builtin(local_invocation_index) lane: u32) {
    let e = group_index(id, groups);
    let row = e / p.count;
    if row >= p.rows {
        return;
    }
    let factor = dy[0] * p.factor;
    for (var d = lane; d < p.width; d += 64u) {
        var sum = 0.0;
        for (var f = 0u; f < p.count; f++) {
            sum = fma(gram_in[e * p.count + f], u[(row * p.count + f) * p.width + d], sum);
        }
        sum *= factor;
        if p.accumulate != 0u {
            sum += du[e * p.width + d];
        }
        du[e * p.width + d] = sum;
    }
}
