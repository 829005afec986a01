// y = (x - mean) / sqrt(var + eps) * w + b over the last axis.
// A workgroup takes a row; its lanes stride over the columns. Rows are contiguous; group g has `rows` of them and
// its own w and b.   bytes 8 a value forward, 12 backward;   FLOPs about 8 a value.
struct P {
    rows: u32, // a group
    d: u32,
    groups: u32,
    eps: f32,
    accumulate: u32,
}
@group(0) @binding(0) var<uniform> p: P;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> w: array<f32>;
@group(0) @binding(3) var<storage, read> b: array<f32>;            // forward
@group(0) @binding(4) var<storage, read_write> y: array<f32>;      // forward
@group(0) @binding(5) var<storage, read_write> stats: array<f32>;  // forward: mean, 1/std by row

//@include grid
//@include row_sum

@compute @workgroup_size(LANES)
fn forward(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let row = group_index(id, groups);
    if row >= p.rows * p.groups {
        return;
    }
    let at = row * p.d;
    let at_w = (row / p.rows) * p.d;
    let n = f32(p.d);
    var sum = 0.0;
    for (var i = lane; i < p.d; i += LANES) {
        sum += x[at + i];
    }
    let mean = row_sum(sum, lane, 0u) / n;
    var squares = 0.0;
    for (var i = lane; i < p.d; i += LANES) {
        let v = x[at + i] - mean;
        squares = fma(v, v, squares);
    }
    let inverse = inverseSqrt(row_sum(squares, lane, 1u) / n + p.eps);
    for (var i = lane; i < p.d; i += LANES) {
        y[at + i] = fma((x[at + i] - mean) * inverse, w[at_w + i], b[at_w + i]);
    }
    if lane == 0u {
        stats[row * 2u] = mean;
        stats[row * 2u + 1u] = inverse;
    }
}

@group(0) @binding(3) var<storage, read> saved: array<f32>;     // backward: stats
@group(0) @binding(4) var<storage, read> dy: array<f32>;        // backward
@group(0) @binding(5) var<storage, read_write> dx: array<f32>;  // backward_x

// dx = 1/std (w dy - mean(w dy) - xhat mean(w dy xhat))
@compute @workgroup_size(LANES)
fn backward_x(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
              @builtin(local_invocation_index) lane: u32) {
    let row = group_index(id, groups);
    if row >= p.rows * p.groups {
        return;
    }
    let at = row * p.d;
    let at_w = (row / p.rows) * p.d;
    let mean = saved[row * 2u];
    let inverse = saved[row * 2u + 1u];
    var sum = 0.0;
    var dot = 0.0;
    for (var i = lane; i < p.d; i += LANES) {
        let v = w[at_w + i] * dy[at + i];
        sum += v;
        dot = fma(v, (x[at + i] - mean) * inverse, dot);
    }
    let n = f32(p.d);
    let mean_v = row_sum(sum, lane, 0u) / n;
    let mean_vx = row_sum(dot, lane, 1u) / n;
    for (var i = lane; i < p.d; i += LANES) {
        let xhat = (x[at + i] - mean) * inverse;
        let value = inverse * (w[at_w + i] * dy[at + i] - mean_v - xhat * mean_vx);
        if p.accumulate != 0u {
            dx[at + i] += value;
        } else {
            dx[at + i] = value;
        }
    }
}

@group(0) @binding(2) var<storage, read> stats_in: array<f32>; // backward_wb
@group(0) @binding(3) var<storage, read> dy_in: array<f32>;
@group(0) @binding(4) var<storage, read_write> dw: array<f32>;
@group(0) @binding(5) var<storage, read_write> db: array<f32>;

// dw = sum over rows of dy xhat, db = sum of dy: one lane a column.
@compute @workgroup_size(LANES)
fn backward_wb(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
               @builtin(local_invocation_index) lane: u32) {
    let blocks = (p.d + LANES - 1u) / LANES;
    let index = group_index(id, groups);
    let g = index / blocks;
    let i = (index % blocks) * LANES + lane;
    if g >= p.groups || i >= p.d {
        return;
    }
    var sum_w = 0.0;
    var sum_b = 0.0;
    for (var r = g * p.rows; r < (g + 1u) * p.rows; r += 1u) {
        let v = dy_in[r * p.d + i];
        sum_w = fma(v, (x[r * p.d + i] - stats_in[r * 2u]) * stats_in[r * 2u + 1u], sum_w);
        sum_b += v;
    }
    let at = g * p.d + i;
    if p.accumulate != 0u {
        sum_w += dw[at];
        sum_b += db[at];
    }
    dw[at] = sum_w;
    db[at] = sum_b;
}
