// Sums to a scalar and means over runs of tokens.
//
// sum:  x [n] -> partial [n / 4096]. One workgroup a block of 4096: a lane adds 64 elements, 64 apart, then the lanes
//       are added. Bytes: x once. FLOPs: n.
// finish:  y[0] = factor * sum of x [n], y[1..64] = 0. One workgroup in all, so n is a number of partials.
// spread:  dx = factor * dy[0]. One lane an element.
struct Sum {
    n: u32,
    factor: f32,
    accumulate: u32,
}
@group(0) @binding(0) var<uniform> s: Sum;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<storage, read> x: array<f32>;

//@include grid
//@include workgroup

@compute @workgroup_size(64)
fn sum(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
       @builtin(local_invocation_index) lane: u32) {
    let group = group_index(id, groups);
    if group >= (s.n + 4095u) / 4096u {
        return;
    }
    let end = min(s.n, (group + 1u) * 4096u);
    var part = 0.0;
    for (var i = group * 4096u + lane; i < end; i += 64u) {
        part += x[i];
    }
    let total = workgroup_sum(part, lane);
    if lane == 0u {
        y[group] = total;
    }
}

@compute @workgroup_size(64)
fn finish(@builtin(local_invocation_index) lane: u32) {
    var part = 0.0;
    for (var i = lane; i < s.n; i += 64u) {
        part += x[i];
    }
    let total = workgroup_sum(part, lane);
    y[lane] = select(0.0, s.factor * total, lane == 0u);
}

@compute @workgroup_size(64)
fn spread(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
          @builtin(local_invocation_index) lane: u32) {
    let i = group_index(id, groups) * 64u + lane;
    if i < s.n {
        y[i] = s.factor * x[0] + select(0.0, y[i], s.accumulate != 0u);
    }
}

// segment_mean:  x [B, tokens, width] -> y [B, parts, width], parts = ceil(tokens / length);
//       y[b, j] = mean of x[b, j length ..] up to the end of the segment or of the tokens. One lane an element of y.
// segment_mean_backward:  dx[b, i] = dy[b, i / length] / tokens in that segment. One lane an element of dx.
// Bytes: x and y once. FLOPs: one an element of x.
struct Mean {
    n: u32,
    tokens: u32,
    length: u32,
    parts: u32,
    width: u32,
    accumulate: u32,
}
@group(0) @binding(0) var<uniform> m: Mean;

@compute @workgroup_size(64)
fn segment_mean(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                @builtin(local_invocation_index) lane: u32) {
    let i = group_index(id, groups) * 64u + lane;
    if i >= m.n {
        return;
    }
    let row = i / m.width;
    let start = row % m.parts * m.length;
    let count = min(m.length, m.tokens - start);
    var at = (row / m.parts * m.tokens + start) * m.width + i % m.width;
    var total = 0.0;
    for (var k = 0u; k < count; k++) {
        total += x[at];
        at += m.width;
    }
    y[i] = total / f32(count);
}

@compute @workgroup_size(64)
fn segment_mean_backward(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                         @builtin(local_invocation_index) lane: u32) {
    let i = group_index(id, groups) * 64u + lane;
    if i >= m.n {
        return;
    }
    let row = i / m.width;
    let part = row % m.tokens / m.length;
    let count = min(m.length, m.tokens - part * m.length);
    let given = x[(row / m.tokens * m.parts + part) * m.width + i % m.width];
    y[i] = given / f32(count) + select(0.0, y[i], m.accumulate != 0u);
}
