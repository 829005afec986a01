// y = factor x / max(|x|, 1e-12) * gamma over the last axis: RMSNorm with factor sqrt(d), unit vectors with 1.
// gamma is a vector a group (stride 1), one number a group (stride 0) or absent.
// A workgroup takes `per` rows one after the other, or, in the entry points with `_lanes`, a lane takes a row, as in
// layer_norm.wgsl.
// Bytes 8 a value forward, 12 backward; FLOPs about 4.
struct P {
    rows: u32, // a group
    d: u32,
    groups: u32,
    factor: f32,
    has_gamma: u32,
    stride: u32,
    accumulate: u32,
    per: u32,    // rows a workgroup takes
    blocks: u32, // workgroups a group
    nothing: u32, // 0, which the driver does not know
}
@group(0) @binding(0) var<uniform> p: P;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> gamma: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;     // forward
@group(0) @binding(4) var<storage, read_write> norms: array<f32>; // forward: 1 / max(|x|, 1e-12) by row

const ROWS: u32 = 1u; // values of a row that a lane owns

//@include grid
//@include norm_rows
//@include row_sum

fn gamma_at(group: u32, i: u32) -> f32 {
    if p.has_gamma == 0u {
        return 1.0;
    }
    return gamma[group * select(1u, p.d, p.stride == 1u) + i * p.stride];
}

@compute @workgroup_size(LANES)
fn forward(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let block = block_of(group_index(id, groups));
    if block.group >= p.groups {
        return;
    }
    //@repeat ROWS
    let i_0 = min(lane + 0u * LANES, p.d - 1u);
    let m_0 = f32(lane + 0u * LANES < p.d);
    let g_0 = gamma_at(block.group, i_0) * p.factor;
    //@end
    for (var row = block.first; row < block.end; row += 1u) {
        let at = row * p.d;
        var squares = 0.0;
        //@repeat ROWS
        let x_0 = x[at + i_0];
        squares = fma(m_0 * x_0, x_0, squares);
        //@end
        workgroupBarrier();
        let inverse = 1.0 / max(sqrt(row_sum(squares, lane, 0u)), 1e-12);
        //@repeat ROWS
        y[at + i_0] = x_0 * inverse * g_0;
        //@end
        if lane == 0u {
            norms[row] = inverse;
        }
    }
}

fn gammas_at(group: u32, i: u32) -> vec4<f32> {
    return vec4<f32>(gamma_at(group, i), gamma_at(group, i + 1u), gamma_at(group, i + 2u), gamma_at(group, i + 3u));
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
    var squares = vec4<f32>(0.0);
    for (var i = 0u; i < p.d; i += 4u) {
        squares = fma(x_at(at + i), x_at(at + i), squares);
    }
    let inverse = 1.0 / max(sqrt(total(squares)), 1e-12);
    for (var i = 0u; i < p.d; i += 4u) {
        let v = x_at(at + i) * inverse * (gammas_at(g, i) * p.factor);
        y[at + i] = v.x;
        y[at + i + 1u] = v.y;
        y[at + i + 2u] = v.z;
        y[at + i + 3u] = v.w;
    }
    norms[row] = inverse;
}

@group(0) @binding(3) var<storage, read> saved: array<f32>;    // backward: norms
@group(0) @binding(4) var<storage, read> dy: array<f32>;       // backward
@group(0) @binding(5) var<storage, read_write> dx: array<f32>; // backward_x

// dx = factor / |x| (gamma dy - u <gamma dy, u>), u = x / |x|
@compute @workgroup_size(LANES)
fn backward_x(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
              @builtin(local_invocation_index) lane: u32) {
    let block = block_of(group_index(id, groups));
    if block.group >= p.groups {
        return;
    }
    //@repeat ROWS
    let i_0 = min(lane + 0u * LANES, p.d - 1u);
    let m_0 = f32(lane + 0u * LANES < p.d);
    let g_0 = gamma_at(block.group, i_0);
    //@end
    for (var row = block.first; row < block.end; row += 1u) {
        let at = row * p.d;
        let inverse = saved[row];
        var dot = 0.0;
        //@repeat ROWS
        let v_0 = g_0 * dy[at + i_0];
        let u_0 = x[at + i_0] * inverse;
        dot = fma(m_0 * v_0, u_0, dot);
        //@end
        workgroupBarrier();
        dot = row_sum(dot, lane, 0u);
        let scale = p.factor * inverse;
        if p.accumulate == 0u {
            //@repeat ROWS
            dx[at + i_0] = scale * (v_0 - u_0 * dot);
            //@end
        } else {
            //@repeat ROWS
            let d_0 = dx[at + i_0];
            //@end
            // The last column may be several lanes': all read it before one writes.
            storageBarrier();
            //@repeat ROWS
            dx[at + i_0] = d_0 + scale * (v_0 - u_0 * dot);
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
    let inverse = saved[row];
    var dots = vec4<f32>(0.0);
    for (var i = 0u; i < p.d; i += 4u) {
        dots = fma(gammas_at(g, i) * dy_at(at + i), x_at(at + i) * inverse, dots);
    }
    let dot = total(dots);
    let scale = p.factor * inverse;
    for (var i = 0u; i < p.d; i += 4u) {
        put_dx(at + i, scale * (gammas_at(g, i) * dy_at(at + i) - x_at(at + i) * inverse * dot));
    }
}

@group(0) @binding(2) var<storage, read> norms_in: array<f32>; // backward_gamma
@group(0) @binding(3) var<storage, read> dy_in: array<f32>;
@group(0) @binding(4) var<storage, read_write> dgamma: array<f32>;

// dgamma [groups, shares, d] = sum over a share of rows of factor dy x / |x|: a lane ROWS columns.
@compute @workgroup_size(LANES)
fn backward_gamma(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
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
    var sum_0 = 0.0;
    //@end
    let end = share.end;
    for (var near = share.first; near < end; near += LANES) {
        if LANES < 64u {
            sum_0 += looked(near, end, first, lane);
        }
        for (var r = near; r < min(near + LANES, end); r += 1u) {
            let at = r * p.d;
            let scale = norms_in[r] * p.factor;
            //@repeat ROWS
            sum_0 = fma(dy_in[at + i_0], x[at + i_0] * scale, sum_0);
            //@end
        }
    }
    let add = p.accumulate != 0u;
    //@repeat ROWS
    if first + 0u * LANES < p.d {
        let to_0 = out * p.d + i_0;
        dgamma[to_0] = sum_0 + select(0.0, dgamma[to_0], add);
    }
    //@end
}

// The same where gamma is one number a group: a workgroup a group.
@compute @workgroup_size(LANES)
fn backward_scale(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                  @builtin(local_invocation_index) lane: u32) {
    let g = group_index(id, groups);
    if g >= p.groups {
        return;
    }
    var sum = 0.0;
    for (var r = g * p.rows; r < (g + 1u) * p.rows; r += 1u) {
        for (var i = lane; i < p.d; i += LANES) {
            sum = fma(dy_in[r * p.d + i], x[r * p.d + i] * norms_in[r] * p.factor, sum);
        }
    }
    sum = row_sum(sum, lane, 0u);
    if lane == 0u {
        dgamma[g] = sum + select(0.0, dgamma[g], p.accumulate != 0u);
    }
}
