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
// segment_mean_backward:  dx[b, i] = or += dy[b, i / length] / tokens in that segment.
// A workgroup takes 256 columns of a segment, so that what depends on the segment is the same for all lanes.
// Bytes: x and y once. FLOPs: one an element of x.
struct Mean {
    rows: u32,      // B parts
    tokens: u32,
    length: u32,
    parts: u32,
    width: u32,
    accumulate: u32,
}
override LANES: u32 = 64u; // of the segments' kernels: one vector where the driver runs on the CPU
@group(0) @binding(0) var<uniform> m: Mean;

struct Segment {
    row: u32,   // of y
    count: u32, // tokens
    at: u32,    // where the first of them begins
    first: u32, // columns
    end: u32,
}

fn segment_of(group: u32) -> Segment {
    let blocks = (m.width + 255u) / 256u;
    let row = group / blocks;
    let start = row % m.parts * m.length;
    let first = group % blocks * 256u;
    return Segment(row, min(m.length, m.tokens - start), (row / m.parts * m.tokens + start) * m.width, first,
                   min(first + 256u, m.width));
}

@compute @workgroup_size(LANES)
fn segment_mean(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                @builtin(local_invocation_index) lane: u32) {
    let segment = segment_of(group_index(id, groups));
    if segment.row >= m.rows {
        return;
    }
    let share = 1.0 / f32(segment.count);
    let to = segment.row * m.width;
    var i = segment.first + lane;
    // Four columns a lane at once: a loop's turn costs as much as several loads.
    for (; i + 3u * LANES < segment.end; i += 4u * LANES) {
        var total = vec4<f32>(0.0);
        for (var k = 0u; k < segment.count; k += 1u) {
            let c = segment.at + k * m.width + i;
            total += vec4<f32>(x[c], x[c + LANES], x[c + 2u * LANES], x[c + 3u * LANES]);
        }
        total *= share;
        y[to + i] = total.x;
        y[to + i + LANES] = total.y;
        y[to + i + 2u * LANES] = total.z;
        y[to + i + 3u * LANES] = total.w;
    }
    for (; i < segment.end; i += LANES) {
        var total = 0.0;
        for (var k = 0u; k < segment.count; k += 1u) {
            total += x[segment.at + k * m.width + i];
        }
        y[to + i] = total * share;
    }
}

@compute @workgroup_size(LANES)
fn segment_mean_backward(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                         @builtin(local_invocation_index) lane: u32) {
    let segment = segment_of(group_index(id, groups));
    if segment.row >= m.rows {
        return;
    }
    let part = 1.0 / f32(segment.count);
    let mean = segment.row * m.width;
    var i = segment.first + lane;
    for (; i + 3u * LANES < segment.end; i += 4u * LANES) {
        let c = mean + i;
        let share = part * vec4<f32>(x[c], x[c + LANES], x[c + 2u * LANES], x[c + 3u * LANES]);
        for (var k = 0u; k < segment.count; k += 1u) {
            let to = segment.at + k * m.width + i;
            var sum = share;
            if m.accumulate != 0u {
                sum += vec4<f32>(y[to], y[to + LANES], y[to + 2u * LANES], y[to + 3u * LANES]);
            }
            y[to] = sum.x;
            y[to + LANES] = sum.y;
            y[to + 2u * LANES] = sum.z;
            y[to + 3u * LANES] = sum.w;
        }
    }
    for (; i < segment.end; i += LANES) {
        let share = part * x[mean + i];
        for (var k = 0u; k < segment.count; k += 1u) {
            let to = segment.at + k * m.width + i;
            var sum = share;
            if m.accumulate != 0u {
                sum += y[to];
            }
            y[to] = sum;
        }
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
