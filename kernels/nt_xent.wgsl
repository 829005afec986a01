// Contrastive loss of pairs: row i and row i + B of f [2B, D] belong together, pair(i) = (i + B) mod 2B.
//
//   sim_ij = <f_i, f_j> / T
//   loss = 1/(2B) sum_i (log sum_{j allowed for i} exp sim_ij - sim_{i,pair(i)})
//   NT-Xent: j != i is allowed.  Eq. 10: j of the other half is, but for pair(i).
struct P {
    rows: u32,      // 2B
    width: u32,     // D
    cross: u32,     // eq. 10
    factor: f32,
    accumulate: u32,
    offset: u32,
    n: u32,
}
@group(0) @binding(0) var<uniform> p: P;

//@include grid
//@include workgroup

fn pair(i: u32) -> u32 {
    return (i + p.rows / 2u) % p.rows;
}

fn allowed(i: u32, j: u32) -> bool {
    let half = p.rows / 2u;
    return select(j != i, (i < half) != (j < half) && j != pair(i), p.cross != 0u);
}

// f = a above b. One lane an element.
@group(0) @binding(1) var<storage, read_write> f_out: array<f32>;
@group(0) @binding(2) var<storage, read> a: array<f32>;
@group(0) @binding(3) var<storage, read> b: array<f32>;

@compute @workgroup_size(64)
fn stack(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
         @builtin(local_invocation_index) lane: u32) {
    let i = group_index(id, groups) * 64u + lane;
    if i < p.n {
        f_out[i] = a[i];
    } else if i < 2u * p.n {
        f_out[i] = b[i - p.n];
    }
}

// da = df from an offset. One lane an element.
@compute @workgroup_size(64)
fn unstack(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let i = group_index(id, groups) * 64u + lane;
    if i < p.n {
        f_out[i] = a[p.offset + i] + select(0.0, f_out[i], p.accumulate != 0u);
    }
}

// sim = factor * f f^T. A lane owns 4 x 4 elements in registers. Bytes: f and sim once (f 2B/4-fold from cache).
// FLOPs: 2 (2B)^2 D.
@group(0) @binding(1) var<storage, read_write> sim_out: array<f32>;
@group(0) @binding(2) var<storage, read> f: array<f32>;

@compute @workgroup_size(64)
fn similarity(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
              @builtin(local_invocation_index) lane: u32) {
    let block = group_index(id, groups) * 64u + lane;
    let blocks = (p.rows + 3u) / 4u;
    if block >= blocks * blocks {
        return;
    }
    let i = block / blocks * 4u;
    let j = block % blocks * 4u;
    let last = p.rows - 1u;
    let y_at = min(vec4(j, j + 1u, j + 2u, j + 3u), vec4(last)) * p.width;
//@repeat 4
    let x_at_0 = min(i + 0u, last) * p.width;
    var acc_0 = vec4(0.0);
//@end
    for (var k = 0u; k < p.width; k++) {
        let y = vec4(f[y_at.x + k], f[y_at.y + k], f[y_at.z + k], f[y_at.w + k]);
//@repeat 4
        acc_0 = fma(vec4(f[x_at_0 + k]), y, acc_0);
//@end
    }
//@repeat 4
    keep_similarity(i + 0u, j, acc_0);
//@end
}

fn keep_similarity(i: u32, j: u32, values: vec4<f32>) {
    var v = values;
    for (var c = 0u; c < 4u; c++) {
        if i < p.rows && j + c < p.rows {
            sim_out[i * p.rows + j + c] = p.factor * v[c];
        }
    }
}

// lse_i and the row's loss. One workgroup a row. Bytes: sim twice. FLOPs: 4 (2B)^2.
@group(0) @binding(1) var<storage, read_write> loss: array<f32>;
@group(0) @binding(2) var<storage, read_write> lse_out: array<f32>;
@group(0) @binding(3) var<storage, read> sim: array<f32>;

@compute @workgroup_size(64)
fn row_loss(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
            @builtin(local_invocation_index) lane: u32) {
    let row = group_index(id, groups);
    if row >= p.rows {
        return;
    }
    let start = row * p.rows;
    var most = -3.0e38;
    for (var j = lane; j < p.rows; j += 64u) {
        if allowed(row, j) {
            most = max(most, sim[start + j]);
        }
    }
    let top = workgroup_max(most, lane);
    var sum = 0.0;
    for (var j = lane; j < p.rows; j += 64u) {
        if allowed(row, j) {
            sum += exp(sim[start + j] - top);
        }
    }
    let total = top + log(workgroup_sum(sum, lane));
    if lane == 0u {
        lse_out[row] = total;
        loss[row] = total - sim[start + pair(row)];
    }
}

// c_ij = dloss * factor * (exp(sim_ij - lse_i) + exp(sim_ij - lse_j) where allowed, - 2 where j = pair(i)): the
// gradients of sim_ij and sim_ji together, factor = 1 / (2B T). One lane an element.
@group(0) @binding(1) var<storage, read_write> c_out: array<f32>;
@group(0) @binding(2) var<storage, read> lse: array<f32>;
@group(0) @binding(4) var<storage, read> dloss: array<f32>;

@compute @workgroup_size(64)
fn coefficients(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                @builtin(local_invocation_index) lane: u32) {
    let at = group_index(id, groups) * 64u + lane;
    if at >= p.rows * p.rows {
        return;
    }
    let i = at / p.rows;
    let j = at % p.rows;
    var c = 0.0;
    if allowed(i, j) {
        c = exp(sim[at] - lse[i]) + exp(sim[at] - lse[j]);
    }
    if j == pair(i) {
        c -= 2.0;
    }
    c_out[at] = dloss[0] * p.factor * c;
}

// df = c f. A lane owns 4 rows of 4 columns. Bytes: c, f and df once. FLOPs: 2 (2B)^2 D.
@group(0) @binding(1) var<storage, read_write> df: array<f32>;
@group(0) @binding(3) var<storage, read> c_in: array<f32>;

@compute @workgroup_size(64)
fn backward(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
            @builtin(local_invocation_index) lane: u32) {
    let block = group_index(id, groups) * 64u + lane;
    let columns = (p.width + 3u) / 4u;
    let i = block / columns * 4u;
    if i >= p.rows {
        return;
    }
    let d = block % columns * 4u;
    let d_at = min(vec4(d, d + 1u, d + 2u, d + 3u), vec4(p.width - 1u));
//@repeat 4
    let c_at_0 = min(i + 0u, p.rows - 1u) * p.rows;
    var acc_0 = vec4(0.0);
//@end
    for (var j = 0u; j < p.rows; j++) {
        let at = d_at + j * p.width;
        let y = vec4(f[at.x], f[at.y], f[at.z], f[at.w]);
//@repeat 4
        acc_0 = fma(vec4(c_in[c_at_0 + j]), y, acc_0);
//@end
    }
//@repeat 4
    keep_gradient(i + 0u, d, acc_0);
//@end
}

fn keep_gradient(i: u32, d: u32, values: vec4<f32>) {
    var v = values;
    for (var c = 0u; c < 4u; c++) {
        if i < p.rows && d + c < p.width {
            let at = i * p.width + d + c;
            df[at] = v[c] + select(0.0, df[at], p.accumulate != 0u);
        }
    }
}
