// o = softmax(scale q k^T) v without the matrix in memory (Dao et al. 2022), and its gradients by recomputation.
// The same kernels serve multi-head attention (a head's rows lie apart in a wider row) and Soft MoE, whose dispatch
// is attention of the slots over the tokens and whose combine is attention of the tokens over the slots.
//
// A workgroup takes ROWS rows of one sequence z and walks over the other side in chunks that fit its memory:
//   1. ROWS x CHUNK scores: a lane owns four columns of the chunk; the ROWS rows are the same for all lanes;
//   2. softmax by row: a lane owns a row;
//   3. ROWS x d results: a lane owns four columns of d.
// FLOPs forward 4 Z Nq Nk d, backward 10 (computed: 14);   bytes 4 Z d (2 Nq + 2 Nk) forward.

override LANES: u32 = 8u;
const ROWS: u32 = 1u;

//@include sequences

@group(0) @binding(1) var<storage, read> q: array<f32>;
@group(0) @binding(2) var<storage, read> k: array<f32>;

// ---------------------------------------------------------------------------------------------------- forward
const CHUNK: u32 = 224u;
const QUADS: u32 = CHUNK / 4u;
var<workgroup> scores: array<vec4<f32>, ROWS * QUADS>;
var<workgroup> row_max: array<f32, ROWS>;
var<workgroup> row_total: array<f32, ROWS>;
var<workgroup> row_factor: array<f32, ROWS>;

@group(0) @binding(3) var<storage, read> v: array<f32>;
@group(0) @binding(4) var<storage, read_write> o: array<f32>;
@group(0) @binding(5) var<storage, read_write> lse: array<f32>; // [Z, Nq] log of the softmax's denominator

@compute @workgroup_size(LANES)
fn forward(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let index = group_index(id, groups);
    let z = index / p.blocks;
    if z >= p.z {
        return;
    }
    let row = (index % p.blocks) * ROWS;
    let q_at = start(p.q, z);
    let k_at = start(p.k, z);
    let v_at = start(p.v, z);
    let o_at = start(p.o, z);
    //@repeat ROWS
    let q_0 = q_at + min(row + 0u, p.nq - 1u) * p.q.row;
    let o_0 = o_at + min(row + 0u, p.nq - 1u) * p.o.row;
    //@end
    for (var r = lane; r < ROWS; r += LANES) {
        row_max[r] = -3.4e38;
        row_total[r] = 0.0;
    }
    for (var chunk = 0u; chunk < p.nk; chunk += CHUNK) {
        let n = min(CHUNK, p.nk - chunk);
        let quads = (n + 3u) / 4u;
        workgroupBarrier();
        for (var j = lane; j < quads; j += LANES) {
            let column = chunk + j * 4u;
            let last = p.nk - 1u;
            var k_x = k_at + column * p.k.row;
            var k_y = k_at + min(column + 1u, last) * p.k.row;
            var k_z = k_at + min(column + 2u, last) * p.k.row;
            var k_w = k_at + min(column + 3u, last) * p.k.row;
            //@repeat ROWS
            var s_0 = vec4<f32>(0.0);
            //@end
            for (var i = 0u; i < p.d; i += 1u) {
                let key = vec4<f32>(k[k_x + i], k[k_y + i], k[k_z + i], k[k_w + i]);
                //@repeat ROWS
                s_0 = fma(vec4<f32>(q[q_0 + i]), key, s_0);
                //@end
            }
            let beyond = vec4<u32>(column) + vec4<u32>(0u, 1u, 2u, 3u) >= vec4<u32>(p.nk);
            //@repeat ROWS
            scores[0u * QUADS + j] = select(s_0 * p.scale, vec4<f32>(-3.4e38), beyond);
            //@end
        }
        workgroupBarrier();
        for (var r = lane; r < ROWS; r += LANES) {
            var top = vec4<f32>(-3.4e38);
            for (var j = 0u; j < quads; j += 1u) {
                top = max(top, scores[r * QUADS + j]);
            }
            let before = row_max[r];
            let new_max = max(max(max(top.x, top.y), max(top.z, top.w)), before);
            var sum = vec4<f32>(0.0);
            for (var j = 0u; j < quads; j += 1u) {
                let e = exp(scores[r * QUADS + j] - new_max);
                scores[r * QUADS + j] = e;
                sum += e;
            }
            let factor = exp(before - new_max);
            row_max[r] = new_max;
            row_factor[r] = factor;
            row_total[r] = row_total[r] * factor + (sum.x + sum.y) + (sum.z + sum.w);
        }
        workgroupBarrier();
        let done = chunk + CHUNK >= p.nk;
        for (var i = lane * 4u; i < p.d; i += LANES * 4u) {
            let last = p.d - 1u;
            let i_y = min(i + 1u, last);
            let i_z = min(i + 2u, last);
            let i_w = min(i + 3u, last);
            //@repeat ROWS
            var a_0 = vec4<f32>(0.0);
            //@end
            if chunk > 0u {
                //@repeat ROWS
                a_0 = row_factor[0u] * vec4<f32>(o[o_0 + i], o[o_0 + i_y], o[o_0 + i_z], o[o_0 + i_w]);
                //@end
            }
            for (var j = 0u; j < quads; j += 1u) {
                let token = chunk + j * 4u;
                //@repeat ROWS
                let w_0 = scores[0u * QUADS + j];
                //@end
                var at = v_at + token * p.v.row;
                var value = vec4<f32>(v[at + i], v[at + i_y], v[at + i_z], v[at + i_w]);
                //@repeat ROWS
                a_0 = fma(vec4<f32>(w_0.x), value, a_0);
                //@end
                at = v_at + min(token + 1u, p.nk - 1u) * p.v.row;
                value = vec4<f32>(v[at + i], v[at + i_y], v[at + i_z], v[at + i_w]);
                //@repeat ROWS
                a_0 = fma(vec4<f32>(w_0.y), value, a_0);
                //@end
                at = v_at + min(token + 2u, p.nk - 1u) * p.v.row;
                value = vec4<f32>(v[at + i], v[at + i_y], v[at + i_z], v[at + i_w]);
                //@repeat ROWS
                a_0 = fma(vec4<f32>(w_0.z), value, a_0);
                //@end
                at = v_at + min(token + 3u, p.nk - 1u) * p.v.row;
                value = vec4<f32>(v[at + i], v[at + i_y], v[at + i_z], v[at + i_w]);
                //@repeat ROWS
                a_0 = fma(vec4<f32>(w_0.w), value, a_0);
                //@end
            }
            //@repeat ROWS
            if row + 0u < p.nq {
                if done {
                    a_0 = a_0 / row_total[0u];
                }
                o[o_0 + i] = a_0.x;
                if i + 1u < p.d { o[o_0 + i + 1u] = a_0.y; }
                if i + 2u < p.d { o[o_0 + i + 2u] = a_0.z; }
                if i + 3u < p.d { o[o_0 + i + 3u] = a_0.w; }
            }
            //@end
        }
    }
    for (var r = lane; r < ROWS; r += LANES) {
        if row + r < p.nq {
            lse[z * p.nq + row + r] = row_max[r] + log(row_total[r]);
        }
    }
}

// -------------------------------------------------------------------------------------------- entropy, by row
@group(0) @binding(3) var<storage, read> lse_in: array<f32>;
@group(0) @binding(4) var<storage, read_write> entropies: array<f32>; // [Z Nq]
@group(0) @binding(5) var<storage, read_write> slopes: array<f32>;    // [Z Nq]

// By row of weights alpha: sum alpha ln(alpha + tiny); and sum alpha (ln(alpha + tiny) + alpha / (alpha + tiny)),
// the mean slope of the first under its own weights, which the softmax's gradient takes off. A lane owns a column.
@compute @workgroup_size(LANES)
fn entropy(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let index = group_index(id, groups);
    let z = index / p.blocks;
    if z >= p.z {
        return;
    }
    let row = (index % p.blocks) * ROWS;
    let q_at = start(p.q, z);
    let k_at = start(p.k, z);
    //@repeat ROWS
    let q_0 = q_at + min(row + 0u, p.nq - 1u) * p.q.row;
    let l_0 = lse_in[z * p.nq + min(row + 0u, p.nq - 1u)];
    var h_0 = vec2<f32>(0.0);
    //@end
    for (var column = lane; column < p.nk; column += LANES) {
        let key = k_at + column * p.k.row;
        //@repeat ROWS
        var s_0 = 0.0;
        //@end
        for (var i = 0u; i < p.d; i += 1u) {
            let x = k[key + i];
            //@repeat ROWS
            s_0 = fma(q[q_0 + i], x, s_0);
            //@end
        }
        //@repeat ROWS
        h_0 += entropy_terms(exp(s_0 * p.scale - l_0));
        //@end
    }
    // The lanes' shares of every row meet in the workgroup's memory and are added in the lanes' order.
    //@repeat ROWS
    shares[0u * LANES + lane] = h_0;
    //@end
    workgroupBarrier();
    for (var r = lane; r < ROWS; r += LANES) {
        var sum = vec2<f32>(0.0);
        for (var i = 0u; i < LANES; i += 1u) {
            sum += shares[r * LANES + i];
        }
        if row + r < p.nq {
            entropies[z * p.nq + row + r] = sum.x;
            slopes[z * p.nq + row + r] = sum.y;
        }
    }
}
var<workgroup> shares: array<vec2<f32>, ROWS * 64u>;

fn entropy_terms(alpha: f32) -> vec2<f32> {
    let l = log(alpha + TINY);
    return alpha * vec2<f32>(l, l + alpha / (alpha + TINY));
}

// --------------------------------------------------------------------------------------------------- backward
struct Delta {
    rows: u32, // Nq
    d: u32,
    z: u32,
    inner: u32,
    has_entropy: u32,
    pad_a: u32,
    pad_b: u32,
    pad_c: u32,
    o: Lie,
}
@group(0) @binding(0) var<uniform> e: Delta;
@group(0) @binding(1) var<storage, read> o_in: array<f32>;
@group(0) @binding(2) var<storage, read> do_in: array<f32>;
@group(0) @binding(3) var<storage, read> slopes_in: array<f32>;
@group(0) @binding(4) var<storage, read> dentropy: array<f32>; // gradient of the entropies
@group(0) @binding(5) var<storage, read_write> delta: array<f32>; // [Z Nq, 2]

// By row: sum of do o, plus the entropy's share; and the gradient of the entropy. One lane a row.
@compute @workgroup_size(64)
fn row_delta(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
             @builtin(local_invocation_index) lane: u32) {
    let i = group_index(id, groups) * 64u + lane;
    if i >= e.z * e.rows {
        return;
    }
    let z = i / e.rows;
    let at = e.o.base + (z / e.inner) * e.o.outer + (z % e.inner) * e.o.inner + (i % e.rows) * e.o.row;
    var sum = 0.0;
    for (var c = 0u; c < e.d; c += 1u) {
        sum = fma(o_in[at + c], do_in[at + c], sum);
    }
    var factor = 0.0;
    if e.has_entropy != 0u {
        factor = dentropy[i];
        sum += factor * slopes_in[i];
    }
    delta[i * 2u] = sum;
    delta[i * 2u + 1u] = factor;
}

// From a score, the log-sum-exp of its row, the gradient of its weight, delta and the entropy's factor:
// the weight, and the gradient of the scaled score.
fn score_grad(s: f32, l: f32, dw: f32, row: vec2<f32>) -> vec2<f32> {
    let alpha = exp(s * p.scale - l);
    var g = dw;
    if (p.flags & ENTROPY) != 0u {
        g += row.y * (log(alpha + TINY) + alpha / (alpha + TINY));
    }
    return vec2<f32>(alpha, alpha * (g - row.x) * p.scale);
}

@group(0) @binding(4) var<storage, read> dout: array<f32>;
@group(0) @binding(5) var<storage, read> lse_saved: array<f32>;
@group(0) @binding(6) var<storage, read> delta_in: array<f32>;
@group(0) @binding(7) var<storage, read_write> dq: array<f32>;

// dq: like forward, with the gradient of the scores in the place of the weights and k in that of v.
@compute @workgroup_size(LANES)
fn backward_q(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
              @builtin(local_invocation_index) lane: u32) {
    let index = group_index(id, groups);
    let z = index / p.blocks;
    if z >= p.z {
        return;
    }
    let row = (index % p.blocks) * ROWS;
    let q_at = start(p.q, z);
    let k_at = start(p.k, z);
    let v_at = start(p.v, z);
    let o_at = start(p.o, z);
    //@repeat ROWS
    let r_0 = min(row + 0u, p.nq - 1u);
    let q_0 = q_at + r_0 * p.q.row;
    let o_0 = o_at + r_0 * p.o.row;
    let l_0 = lse_saved[z * p.nq + r_0];
    let t_0 = vec2<f32>(delta_in[(z * p.nq + r_0) * 2u], delta_in[(z * p.nq + r_0) * 2u + 1u]);
    //@end
    for (var chunk = 0u; chunk < p.nk; chunk += CHUNK) {
        let n = min(CHUNK, p.nk - chunk);
        let quads = (n + 3u) / 4u;
        workgroupBarrier();
        for (var j = lane; j < quads; j += LANES) {
            let column = vec4<u32>(chunk + j * 4u) + vec4<u32>(0u, 1u, 2u, 3u);
            let near = min(column, vec4<u32>(p.nk - 1u));
            let ka = vec4<u32>(k_at) + near * p.k.row;
            let va = vec4<u32>(v_at) + near * p.v.row;
            //@repeat ROWS
            var s_0 = vec4<f32>(0.0);
            var g_0 = vec4<f32>(0.0);
            //@end
            for (var i = 0u; i < p.d; i += 1u) {
                let key = vec4<f32>(k[ka.x + i], k[ka.y + i], k[ka.z + i], k[ka.w + i]);
                //@repeat ROWS
                s_0 = fma(vec4<f32>(q[q_0 + i]), key, s_0);
                //@end
            }
            for (var i = 0u; i < p.d; i += 1u) {
                let value = vec4<f32>(v[va.x + i], v[va.y + i], v[va.z + i], v[va.w + i]);
                //@repeat ROWS
                g_0 = fma(vec4<f32>(dout[o_0 + i]), value, g_0);
                //@end
            }
            let within = vec4<f32>(column < vec4<u32>(p.nk));
            //@repeat ROWS
            scores[0u * QUADS + j] = within * vec4<f32>(
                score_grad(s_0.x, l_0, g_0.x, t_0).y, score_grad(s_0.y, l_0, g_0.y, t_0).y,
                score_grad(s_0.z, l_0, g_0.z, t_0).y, score_grad(s_0.w, l_0, g_0.w, t_0).y);
            //@end
        }
        workgroupBarrier();
        let add = chunk > 0u || (p.flags & ADD_Q) != 0u;
        for (var i = lane * 4u; i < p.d; i += LANES * 4u) {
            let last = p.d - 1u;
            let i_y = min(i + 1u, last);
            let i_z = min(i + 2u, last);
            let i_w = min(i + 3u, last);
            //@repeat ROWS
            var a_0 = vec4<f32>(0.0);
            //@end
            if add {
                //@repeat ROWS
                a_0 = vec4<f32>(dq[q_0 + i], dq[q_0 + i_y], dq[q_0 + i_z], dq[q_0 + i_w]);
                //@end
            }
            for (var j = 0u; j < quads; j += 1u) {
                let token = chunk + j * 4u;
                //@repeat ROWS
                let w_0 = scores[0u * QUADS + j];
                //@end
                var at = k_at + token * p.k.row;
                var key = vec4<f32>(k[at + i], k[at + i_y], k[at + i_z], k[at + i_w]);
                //@repeat ROWS
                a_0 = fma(vec4<f32>(w_0.x), key, a_0);
                //@end
                at = k_at + min(token + 1u, p.nk - 1u) * p.k.row;
                key = vec4<f32>(k[at + i], k[at + i_y], k[at + i_z], k[at + i_w]);
                //@repeat ROWS
                a_0 = fma(vec4<f32>(w_0.y), key, a_0);
                //@end
                at = k_at + min(token + 2u, p.nk - 1u) * p.k.row;
                key = vec4<f32>(k[at + i], k[at + i_y], k[at + i_z], k[at + i_w]);
                //@repeat ROWS
                a_0 = fma(vec4<f32>(w_0.z), key, a_0);
                //@end
                at = k_at + min(token + 3u, p.nk - 1u) * p.k.row;
                key = vec4<f32>(k[at + i], k[at + i_y], k[at + i_z], k[at + i_w]);
                //@repeat ROWS
                a_0 = fma(vec4<f32>(w_0.w), key, a_0);
                //@end
            }
            //@repeat ROWS
            if row + 0u < p.nq {
                dq[q_0 + i] = a_0.x;
                if i + 1u < p.d { dq[q_0 + i + 1u] = a_0.y; }
                if i + 2u < p.d { dq[q_0 + i + 2u] = a_0.z; }
                if i + 3u < p.d { dq[q_0 + i + 3u] = a_0.w; }
            }
            //@end
        }
    }
}

@group(0) @binding(7) var<storage, read_write> dk: array<f32>;
@group(0) @binding(8) var<storage, read_write> dv: array<f32>;

const HALF_CHUNK: u32 = 112u;
const HALF_QUADS: u32 = HALF_CHUNK / 4u;
var<workgroup> weights: array<vec4<f32>, ROWS * HALF_QUADS>;
var<workgroup> score_grads: array<vec4<f32>, ROWS * HALF_QUADS>;

// dk and dv: the workgroup's rows are keys, the chunks are queries.
@compute @workgroup_size(LANES)
fn backward_kv(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
               @builtin(local_invocation_index) lane: u32) {
    let index = group_index(id, groups);
    let z = index / p.blocks;
    if z >= p.z {
        return;
    }
    let row = (index % p.blocks) * ROWS;
    let q_at = start(p.q, z);
    let k_at = start(p.k, z);
    let v_at = start(p.v, z);
    let o_at = start(p.o, z);
    let same = (p.flags & SAME_KV) != 0u;
    //@repeat ROWS
    let r_0 = min(row + 0u, p.nk - 1u);
    let k_0 = k_at + r_0 * p.k.row;
    let v_0 = v_at + r_0 * p.v.row;
    //@end
    for (var chunk = 0u; chunk < p.nq; chunk += HALF_CHUNK) {
        let n = min(HALF_CHUNK, p.nq - chunk);
        let quads = (n + 3u) / 4u;
        workgroupBarrier();
        for (var j = lane; j < quads; j += LANES) {
            let column = vec4<u32>(chunk + j * 4u) + vec4<u32>(0u, 1u, 2u, 3u);
            let near = min(column, vec4<u32>(p.nq - 1u));
            let qa = vec4<u32>(q_at) + near * p.q.row;
            let oa = vec4<u32>(o_at) + near * p.o.row;
            //@repeat ROWS
            var s_0 = vec4<f32>(0.0);
            var g_0 = vec4<f32>(0.0);
            //@end
            for (var i = 0u; i < p.d; i += 1u) {
                let query = vec4<f32>(q[qa.x + i], q[qa.y + i], q[qa.z + i], q[qa.w + i]);
                //@repeat ROWS
                s_0 = fma(vec4<f32>(k[k_0 + i]), query, s_0);
                //@end
            }
            for (var i = 0u; i < p.d; i += 1u) {
                let grad = vec4<f32>(dout[oa.x + i], dout[oa.y + i], dout[oa.z + i], dout[oa.w + i]);
                //@repeat ROWS
                g_0 = fma(vec4<f32>(v[v_0 + i]), grad, g_0);
                //@end
            }
            let at = vec4<u32>(z * p.nq) + near;
            let l = vec4<f32>(lse_saved[at.x], lse_saved[at.y], lse_saved[at.z], lse_saved[at.w]);
            let t_x = vec2<f32>(delta_in[at.x * 2u], delta_in[at.x * 2u + 1u]);
            let t_y = vec2<f32>(delta_in[at.y * 2u], delta_in[at.y * 2u + 1u]);
            let t_z = vec2<f32>(delta_in[at.z * 2u], delta_in[at.z * 2u + 1u]);
            let t_w = vec2<f32>(delta_in[at.w * 2u], delta_in[at.w * 2u + 1u]);
            let within = vec4<f32>(column < vec4<u32>(p.nq));
            //@repeat ROWS
            let x_0 = score_grad(s_0.x, l.x, g_0.x, t_x);
            let y_0 = score_grad(s_0.y, l.y, g_0.y, t_y);
            let z_0 = score_grad(s_0.z, l.z, g_0.z, t_z);
            let w_0 = score_grad(s_0.w, l.w, g_0.w, t_w);
            weights[0u * HALF_QUADS + j] = within * vec4<f32>(x_0.x, y_0.x, z_0.x, w_0.x);
            score_grads[0u * HALF_QUADS + j] = within * vec4<f32>(x_0.y, y_0.y, z_0.y, w_0.y);
            //@end
        }
        workgroupBarrier();
        for (var i = lane * 4u; i < p.d; i += LANES * 4u) {
            let last = p.d - 1u;
            let i_y = min(i + 1u, last);
            let i_z = min(i + 2u, last);
            let i_w = min(i + 3u, last);
            //@repeat ROWS
            var a_0 = vec4<f32>(0.0);
            //@end
            if !same && (chunk > 0u || (p.flags & ADD_V) != 0u) {
                //@repeat ROWS
                a_0 = vec4<f32>(dv[v_0 + i], dv[v_0 + i_y], dv[v_0 + i_z], dv[v_0 + i_w]);
                //@end
            }
            for (var j = 0u; j < n; j += 1u) {
                let at = o_at + (chunk + j) * p.o.row;
                let grad = vec4<f32>(dout[at + i], dout[at + i_y], dout[at + i_z], dout[at + i_w]);
                //@repeat ROWS
                a_0 = fma(vec4<f32>(weights[0u * HALF_QUADS + j / 4u][j % 4u]), grad, a_0);
                //@end
            }
            if !same {
                //@repeat ROWS
                if row + 0u < p.nk {
                    dv[v_0 + i] = a_0.x;
                    if i + 1u < p.d { dv[v_0 + i + 1u] = a_0.y; }
                    if i + 2u < p.d { dv[v_0 + i + 2u] = a_0.z; }
                    if i + 3u < p.d { dv[v_0 + i + 3u] = a_0.w; }
                }
                a_0 = vec4<f32>(0.0);
                //@end
            }
            if chunk > 0u || (p.flags & ADD_K) != 0u {
                //@repeat ROWS
                a_0 += vec4<f32>(dk[k_0 + i], dk[k_0 + i_y], dk[k_0 + i_z], dk[k_0 + i_w]);
                //@end
            }
            for (var j = 0u; j < n; j += 1u) {
                let at = q_at + (chunk + j) * p.q.row;
                let query = vec4<f32>(q[at + i], q[at + i_y], q[at + i_z], q[at + i_w]);
                //@repeat ROWS
                a_0 = fma(vec4<f32>(score_grads[0u * HALF_QUADS + j / 4u][j % 4u]), query, a_0);
                //@end
            }
            //@repeat ROWS
            if row + 0u < p.nk {
                dk[k_0 + i] = a_0.x;
                if i + 1u < p.d { dk[k_0 + i + 1u] = a_0.y; }
                if i + 2u < p.d { dk[k_0 + i + 2u] = a_0.z; }
                if i + 3u < p.d { dk[k_0 + i + 3u] = a_0.w; }
            }
            //@end
        }
    }
}
