// y = (x - mean) / sqrt(var + eps) * w + b over the last axis.
// A workgroup takes `per` rows one after the other. Its lanes stride over the columns and keep the ROWS values that each
// owns in registers, w and b for all its rows, so that everything is read once. Lanes beyond the last column repeat it,
// value and all. Rows are contiguous; group g has `rows` of them and its own w and b.
// The entry points with `_lanes` give a lane a row and need no barrier: on drivers that run on the CPU's vector units a
// lane's load is a gather wherever it lies. There d divides by four.
// Bytes 8 a value forward, 12 backward;   FLOPs about 8 a value.
struct P {
    rows: u32, // a group
    d: u32,
    groups: u32,
    eps: f32,
    accumulate: u32,
    per: u32,    // rows a workgroup takes
    blocks: u32, // workgroups a group
    nothing: u32, // 0, which the driver does not know
}
@group(0) @binding(0) var<uniform> p: P;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> w: array<f32>;
@group(0) @binding(3) var<storage, read> b: array<f32>;            // forward
@group(0) @binding(4) var<storage, read_write> y: array<f32>;      // forward
@group(0) @binding(5) var<storage, read_write> stats: array<f32>;  // forward: mean, 1/std by row

const ROWS: u32 = 1u; // values of a row that a lane owns

//@include grid
//@include norm_rows
//@include row_sum

@compute @workgroup_size(LANES)
fn forward(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let block = block_of(group_index(id, groups));
    if block.group >= p.groups {
        return;
    }
    let n = f32(p.d);
    //@repeat ROWS
    let i_0 = min(lane + 0u * LANES, p.d - 1u);
    let m_0 = f32(lane + 0u * LANES < p.d);
    let w_0 = w[block.group * p.d + i_0];
    let b_0 = b[block.group * p.d + i_0];
    //@end
    for (var row = block.first; row < block.end; row += 1u) {
        let at = row * p.d;
        var sum = 0.0;
        //@repeat ROWS
        let x_0 = x[at + i_0];
        sum = fma(m_0, x_0, sum);
        //@end
        workgroupBarrier();
        let mean = row_sum(sum, lane, 0u) / n;
        var squares = 0.0;
        //@repeat ROWS
        let v_0 = x_0 - mean;
        squares = fma(m_0 * v_0, v_0, squares);
        //@end
        let inverse = inverseSqrt(row_sum(squares, lane, 1u) / n + p.eps);
        //@repeat ROWS
        y[at + i_0] = fma(v_0 * inverse, w_0, b_0);
        //@end
        if lane == 0u {
            stats[row * 2u] = mean;
            stats[row * 2u + 1u] = inverse;
        }
    }
}

fn w_at(at: u32) -> vec4<f32> {
    return vec4<f32>(w[at], w[at + 1u], w[at + 2u], w[at + 3u]);
}

@compute @workgroup_size(LANES)
fn forward_lanes(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                 @builtin(local_invocation_index) lane: u32) {
    let mine = row_of(group_index(id, groups), lane);
    if !mine.there {
        return;
    }
    let row = mine.index;
    let g = mine.group;
    let at = row * p.d;
    let n = f32(p.d);
    var sum = vec4<f32>(0.0);
    for (var i = 0u; i < p.d; i += 4u) {
        sum += x_at(at + i);
    }
    let mean = total(sum) / n;
    var squares = vec4<f32>(0.0);
    for (var i = 0u; i < p.d; i += 4u) {
        let v = x_at(at + i) - mean;
        squares = fma(v, v, squares);
    }
    let inverse = inverseSqrt(total(squares) / n + p.eps);
    for (var i = 0u; i < p.d; i += 4u) {
        let v = (x_at(at + i) - mean) * inverse * w_at(g * p.d + i);
        let add = g * p.d + i;
        y[at + i] = v.x + b[add];
        y[at + i + 1u] = v.y + b[add + 1u];
        y[at + i + 2u] = v.z + b[add + 2u];
        y[at + i + 3u] = v.w + b[add + 3u];
    }
    stats[row * 2u] = mean;
    stats[row * 2u + 1u] = inverse;
}

@group(0) @binding(3) var<storage, read> saved: array<f32>;     // backward: stats
@group(0) @binding(4) var<storage, read> dy: array<f32>;        // backward
@group(0) @binding(5) var<storage, read_write> dx: array<f32>;  // backward_x

// dx = 1/std (w dy - mean(w dy) - xhat mean(w dy xhat))
@compute @workgroup_size(LANES)
fn backward_x(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
              @builtin(local_invocation_index) lane: u32) {
    let block = block_of(group_index(id, groups));
    if block.group >= p.groups {
        return;
    }
    let n = f32(p.d);
    //@repeat ROWS
    let i_0 = min(lane + 0u * LANES, p.d - 1u);
    let m_0 = f32(lane + 0u * LANES < p.d);
    let w_0 = w[block.group * p.d + i_0];
    //@end
    for (var row = block.first; row < block.end; row += 1u) {
        let at = row * p.d;
        let mean = saved[row * 2u];
        let inverse = saved[row * 2u + 1u];
        var sum = 0.0;
        var dot = 0.0;
        //@repeat ROWS
        let v_0 = w_0 * dy[at + i_0];
        let h_0 = (x[at + i_0] - mean) * inverse;
        sum = fma(m_0, v_0, sum);
        dot = fma(m_0 * v_0, h_0, dot);
        //@end
        workgroupBarrier();
        let mean_v = row_sum(sum, lane, 0u) / n;
        let mean_vx = row_sum(dot, lane, 1u) / n;
        if p.accumulate == 0u {
            //@repeat ROWS
            dx[at + i_0] = inverse * (v_0 - mean_v - h_0 * mean_vx);
            //@end
        } else {
            //@repeat ROWS
            let d_0 = dx[at + i_0];
            //@end
            // The last column may be several lanes': all read it before one writes.
            storageBarrier();
            //@repeat ROWS
            dx[at + i_0] = d_0 + inverse * (v_0 - mean_v - h_0 * mean_vx);
            //@end
        }
    }
}

@compute @workgroup_size(LANES)
fn backward_x_lanes(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                    @builtin(local_invocation_index) lane: u32) {
    let mine = row_of(group_index(id, groups), lane);
    if !mine.there {
        return;
    }
    let row = mine.index;
    let g = mine.group;
    let at = row * p.d;
    let mean = saved[row * 2u];
    let inverse = saved[row * 2u + 1u];
    var sum = vec4<f32>(0.0);
    var dot = vec4<f32>(0.0);
    for (var i = 0u; i < p.d; i += 4u) {
        let v = w_at(g * p.d + i) * dy_at(at + i);
        sum += v;
        dot = fma(v, (x_at(at + i) - mean) * inverse, dot);
    }
    let mean_v = total(sum) / f32(p.d);
    let mean_vx = total(dot) / f32(p.d);
    for (var i = 0u; i < p.d; i += 4u) {
        let v = w_at(g * p.d + i) * dy_at(at + i);
        put_dx(at + i, inverse * (v - mean_v - (x_at(at + i) - mean) * inverse * mean_vx));
    }
}

@group(0) @binding(2) var<storage, read> stats_in: array<f32>; // backward_wb
@group(0) @binding(3) var<storage, read> dy_in: array<f32>;
@group(0) @binding(4) var<storage, read_write> dw: array<f32>;
@group(0) @binding(5) var<storage, read_write> db: array<f32>;

// dw = sum over a share of rows of dy xhat, db = sum of dy: a lane ROWS columns. Both [groups, shares, d].
@compute @workgroup_size(LANES)
fn backward_wb(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
               @builtin(local_invocation_index) lane: u32) {
    let wide = ROWS * LANES;
    let blocks = (p.d + wide - 1u) / wide;
    let index = group_index(id, groups);
    let out = index / blocks; // number of the group and its share of rows
    let share = block_of(out);
    let first = index % blocks * wide + lane;
    if share.group >= p.groups {
        return;
    }
    //@repeat ROWS
    let i_0 = min(first + 0u * LANES, p.d - 1u);
    var sum_w_0 = 0.0;
    var sum_b_0 = 0.0;
    //@end
    let end = share.end;
    for (var near = share.first; near < end; near += LANES) {
        if LANES < 64u {
            sum_b_0 += looked(near, end, first, lane);
        }
        for (var r = near; r < min(near + LANES, end); r += 1u) {
            let at = r * p.d;
            let mean = stats_in[r * 2u];
            let inverse = stats_in[r * 2u + 1u];
            //@repeat ROWS
            let v_0 = dy_in[at + i_0];
            sum_w_0 = fma(v_0, (x[at + i_0] - mean) * inverse, sum_w_0);
            sum_b_0 += v_0;
            //@end
        }
    }
    let add = p.accumulate != 0u;
    //@repeat ROWS
    if first + 0u * LANES < p.d {
        let to_0 = out * p.d + i_0;
        dw[to_0] = sum_w_0 + select(0.0, dw[to_0], add);
        db[to_0] = sum_b_0 + select(0.0, db[to_0], add);
    }
    //@end
}
