// Sums to a scalar and means over runs of tokens.
//
// sum:  x [n] -> partial [n / 4096]. One workgroup a block of 4096: a lane adds 64 elements, 64 apart, then the lanes
//       are added. Bytes: x once. FLOPs: n.
// finish:  y[0] = factor * sum of x [n], y[1..64] = 0. One workgroup in all, so n is a number of partials.
// add_parts:  whole [groups, n] = or += the sum of parts [groups, splits, n], in their order. One lane an element.
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
        var sum = s.factor * x[0];
        if s.accumulate != 0u {
            sum += y[i];
        }
        y[i] = sum;
    }
}

// segment_mean:  x [B, tokens, width] -> y [B, parts, width], parts = ceil(tokens / length);
//       y[b, j] = mean of x[b, j length ..] up to the end of the segment or of the tokens.
// segment_mean_backward:  dx[b, i] = dy[b, i / length] / tokens in that segment.
// A workgroup writes 256 elements of one row, so that what depends on the row is the same for all lanes.
// Bytes: x and y once. FLOPs: one an element of x.
struct Mean {
    rows: u32,      // of what is written
    tokens: u32,
    length: u32,
    parts: u32,
    width: u32,
    accumulate: u32,
}
override LANES: u32 = 64u; // of the segments' kernels: one vector where the driver runs on the CPU
@group(0) @binding(0) var<uniform> m: Mean;

@compute @workgroup_size(LANES)
fn segment_mean(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                @builtin(local_invocation_index) lane: u32) {
    let blocks = (m.width + 255u) / 256u;
    let group = group_index(id, groups);
    let row = group / blocks;
    if row >= m.rows {
        return;
    }
    let start = row % m.parts * m.length;
    let count = min(m.length, m.tokens - start);
    let at = (row / m.parts * m.tokens + start) * m.width;
    let first = group % blocks * 256u;
    for (var i = first + lane; i < min(first + 256u, m.width); i += LANES) {
        var total = 0.0;
        for (var k = 0u; k < count; k++) {
            total += x[at + k * m.width + i];
        }
        y[row * m.width + i] = total / f32(count);
    }
}

@compute @workgroup_size(LANES)
fn segment_mean_backward(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                         @builtin(local_invocation_index) lane: u32) {
    let blocks = (m.width + 255u) / 256u;
    let group = group_index(id, groups);
    let row = group / blocks;
    if row >= m.rows {
        return;
    }
    let part = row % m.tokens / m.length;
    let share = 1.0 / f32(min(m.length, m.tokens - part * m.length));
    let at = (row / m.tokens * m.parts + part) * m.width;
    let first = group % blocks * 256u;
    for (var i = first + lane; i < min(first + 256u, m.width); i += LANES) {
        let k = row * m.width + i;
        var sum = share * x[at + i];
        if m.accumulate != 0u {
            sum += y[k];
        }
        y[k] = sum;
    }
}

struct Parts {
    n: u32,
    groups: u32,
    splits: u32,
    accumulate: u32,
}
@group(0) @binding(0) var<uniform> c: Parts;
@group(0) @binding(1) var<storage, read> parts: array<f32>;        // [groups, splits, n]
@group(0) @binding(2) var<storage, read_write> whole: array<f32>;  // [groups, n]

@compute @workgroup_size(64)
fn add_parts(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
             @builtin(local_invocation_index) lane: u32) {
    let i = group_index(id, groups) * 64u + lane;
    let g = i / c.n;
    if g >= c.groups {
        return;
    }
    var sum = 0.0;
    if c.accumulate != 0u {
        sum = whole[i];
    }
    var at = g * c.splits * c.n + i % c.n;
    for (var part = 0u; part < c.splits; part += 1u) {
        sum += parts[at];
        at += c.n;
    }
    whole[i] = sum;
}
