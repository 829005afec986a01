// The attentions of attention.wgsl for drivers that run on the CPU's vector units (llvmpipe), where heads are narrow. A
// lane keeps COLUMNS whole queries (backward_kv: keys) of d = 4 ROWS values in registers or on its stack and walks over the
// other side, whose rows are the same for the whole workgroup. Rows begin at vec4s.
//
//   forward       o = sum of exp(score - top) v, divided, where top is a score of the query that is rarely changed
//   slopes        every weight alpha, and the gradient of its score, into memory; with it dq, if WITH_Q
//   backward_kv   dv = sum of alpha dout, dk = sum of slope q, of all keys of a sequence by one workgroup
//
// A workgroup of the first two takes LANES COLUMNS queries of a sequence; value i of the COLUMNS rows of a lane is one
// vector. Every four dot products, or two sums, stand in a branch of their own, which is always taken without the driver
// knowing it: within one block it would order a whole step anew, loads first, and move everything through memory.
// FLOPs forward 4 Z Nq Nk d, slopes 4 (with dq 6), backward_kv 4;
// bytes 4 Z d (2 Nq + 2 Nk Nq / (LANES COLUMNS)) forward, and backward 8 Z Nq Nk written and read.

override LANES: u32 = 16u;
override WITH_Q: bool = false;
const ROWS: u32 = 1u;
const COLUMNS: u32 = 4u;
alias Columns = vec4<f32>;

//@include sequences

@group(0) @binding(1) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> dout: array<vec4<f32>>;        // backward
@group(0) @binding(3) var<storage, read_write> out: array<vec4<f32>>;   // o, dq or dk
@group(0) @binding(4) var<storage, read_write> out_v: array<vec4<f32>>; // dv
@group(0) @binding(5) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read> v: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read> o: array<vec4<f32>>;           // slopes
@group(0) @binding(8) var<storage, read_write> lse: array<f32>;         // forward: [Z, Nq] log of the denominator
@group(0) @binding(8) var<storage, read> lse_in: array<f32>;            // slopes
@group(0) @binding(9) var<storage, read_write> alpha: array<f32>;       // slopes: [Z - first, Nq, Nk rounded up to 4]
@group(0) @binding(10) var<storage, read_write> slope: array<f32>;      // the same
@group(0) @binding(5) var<storage, read> alpha_in: array<f32>;          // backward_kv
@group(0) @binding(6) var<storage, read> slope_in: array<f32>;

// Four values of each of a lane's rows.
struct Four {
    x: Columns,
    y: Columns,
    z: Columns,
    w: Columns,
}

fn zero() -> Four {
    return Four(Columns(0.0), Columns(0.0), Columns(0.0), Columns(0.0));
}

// Buffers by number, always a literal, so that one branch is left where `own` is used.
const Q: u32 = 0u;
const DOUT: u32 = 1u;
const O: u32 = 2u;

// Where the vec4s of a row begin.
fn row_at(lie: Lie, z: u32, row: u32) -> u32 {
    return (start(lie, z) + row * lie.row) / 4u;
}

// Values 4 i.. of the lane's rows: `row`, `row` + LANES, ... of `count`, the last repeated.
fn own(which: u32, lie: Lie, z: u32, row: u32, count: u32, i: u32) -> Four {
    var f: Four;
    //@repeat COLUMNS
    let at_0 = row_at(lie, z, min(row + 0u * LANES, count - 1u)) + i;
    var r_0: vec4<f32>;
    switch which {
        case Q: { r_0 = q[at_0]; }
        case DOUT: { r_0 = dout[at_0]; }
        default: { r_0 = o[at_0]; }
    }
    f.x[0u] = r_0.x;
    f.y[0u] = r_0.y;
    f.z[0u] = r_0.z;
    f.w[0u] = r_0.w;
    //@end
    return f;
}

// Values 4 i.. into the rows of the lane that there are, at most `columns` of them.
fn put(columns: u32, to_v: bool, lie: Lie, z: u32, row: u32, count: u32, i: u32, f: Four, add: bool) {
    //@repeat COLUMNS
    if 0u < columns && row + 0u * LANES < count {
        let at_0 = row_at(lie, z, row + 0u * LANES) + i;
        var r_0 = vec4<f32>(f.x[0u], f.y[0u], f.z[0u], f.w[0u]);
        if to_v {
            if add { r_0 += out_v[at_0]; }
            out_v[at_0] = r_0;
        } else {
            if add { r_0 += out[at_0]; }
            out[at_0] = r_0;
        }
    }
    //@end
}

// sum + a b over four values, in two halves so that the additions do not wait for each other.
struct Dot {
    a: Columns,
    b: Columns,
}

fn dot_four(sum: Dot, a: vec4<f32>, b: Four) -> Dot {
    return Dot(fma(Columns(a.z), b.z, fma(Columns(a.x), b.x, sum.a)), fma(Columns(a.w), b.w, fma(Columns(a.y), b.y, sum.b)));
}

fn add_four(sum: Four, a: vec4<f32>, b: Columns) -> Four {
    return Four(fma(Columns(a.x), b, sum.x), fma(Columns(a.y), b, sum.y), fma(Columns(a.z), b, sum.z),
                fma(Columns(a.w), b, sum.w));
}

fn scaled(f: Four, by: Columns) -> Four {
    return Four(f.x * by, f.y * by, f.z * by, f.w * by);
}

const RISE: f32 = 20.0;

@compute @workgroup_size(LANES)
fn forward(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let index = group_index(id, groups);
    let z = p.first + index / p.blocks;
    if z >= p.z {
        return;
    }
    let row = p.row + index % p.blocks * LANES * COLUMNS + lane;
    let quads = p.d / 4u;
    //@repeat ROWS
    let q_0 = own(Q, p.q, z, row, p.nq, 0u);
    var o_0 = zero();
    //@end
    // What was summed is scaled anew only where a score rises far above `top`: hardly ever after the first key, and no
    // weight is above e^RISE, so that f32 holds the sums of any sequence.
    var top = Columns(-3.4e38);
    var total = Columns(0.0);
    for (var j = 0u; j < p.nk; j += 1u) {
        let k_at = row_at(p.k, z, j);
        let v_at = row_at(p.v, z, j);
        var dot = Dot(Columns(0.0), Columns(0.0));
        //@repeat ROWS
        //@together 4 if 0u < quads
        dot = dot_four(dot, k[k_at + 0u], q_0);
        //@end
        let s = (dot.a + dot.b) * p.scale;
        let rises = s > top + RISE;
        if any(rises) {
            let factor = select(Columns(1.0), exp(top - s), rises);
            top = select(top, s, rises);
            total *= factor;
            //@repeat ROWS
            o_0 = scaled(o_0, factor);
            //@end
        }
        let weight = exp(s - top);
        total += weight;
        //@repeat ROWS
        //@together 2 if 0u < quads
        o_0 = add_four(o_0, v[v_at + 0u], weight);
        //@end
    }
    //@repeat ROWS
    put(COLUMNS, false, p.o, z, row, p.nq, 0u, scaled(o_0, 1.0 / total), false);
    //@end
    let l = top + log(total);
    //@repeat COLUMNS
    if row + 0u * LANES < p.nq { lse[z * p.nq + row + 0u * LANES] = l[0u]; }
    //@end
}

// Where the weights, and the slopes, of a query begin.
fn weights_at(z: u32, query: u32) -> u32 {
    return ((z - p.first) * p.nq + query) * padded_keys();
}

fn padded_keys() -> u32 {
    return (p.nk + 3u) / 4u * 4u;
}

@compute @workgroup_size(LANES)
fn slopes(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
          @builtin(local_invocation_index) lane: u32) {
    let index = group_index(id, groups);
    let z = p.first + index / p.blocks;
    if z >= p.z {
        return;
    }
    let row = p.row + index % p.blocks * LANES * COLUMNS + lane;
    let quads = p.d / 4u;
    // The order of additions is that of the products below, so that the slope of a lone key is exactly zero.
    var dot = Dot(Columns(0.0), Columns(0.0));
    //@repeat ROWS
    let q_0 = own(Q, p.q, z, row, p.nq, 0u);
    let g_0 = own(DOUT, p.o, z, row, p.nq, 0u);
    let o_0 = own(O, p.o, z, row, p.nq, 0u);
    dot = Dot(fma(o_0.z, g_0.z, fma(o_0.x, g_0.x, dot.a)), fma(o_0.w, g_0.w, fma(o_0.y, g_0.y, dot.b)));
    var dq_0 = zero();
    //@end
    let delta = dot.a + dot.b;
    var l: Columns;
    //@repeat COLUMNS
    let mine_0 = min(row + 0u * LANES, p.nq - 1u);
    let to_0 = weights_at(z, mine_0);
    l[0u] = lse_in[z * p.nq + mine_0];
    //@end
    for (var j = 0u; j < padded_keys(); j += 1u) {
        let near = min(j, p.nk - 1u);
        let k_at = row_at(p.k, z, near);
        let v_at = row_at(p.v, z, near);
        var s = Dot(Columns(0.0), Columns(0.0));
        var g = s;
        //@repeat ROWS
        //@together 4 if 0u < quads
        s = dot_four(s, k[k_at + 0u], q_0);
        //@end
        //@repeat ROWS
        //@together 4 if 0u < quads
        g = dot_four(g, v[v_at + 0u], g_0);
        //@end
        // Zeros beyond the last key.
        let weight = exp((s.a + s.b) * p.scale - l) * f32(j < p.nk);
        let by = weight * ((g.a + g.b) - delta) * p.scale;
        if WITH_Q {
            //@repeat ROWS
            //@together 2 if 0u < quads
            dq_0 = add_four(dq_0, k[k_at + 0u], by);
            //@end
        }
        // Last: after a store the driver would load the row again.
        //@repeat COLUMNS
        alpha[to_0 + j] = weight[0u];
        slope[to_0 + j] = by[0u];
        //@end
    }
    if WITH_Q {
        let add = (p.flags & ADD_Q) != 0u;
        //@repeat ROWS
        put(COLUMNS, false, p.q, z, row, p.nq, 0u, dq_0, add);
        //@end
    }
}

override LAST: u32 = 4u; // keys a lane takes of a sequence's last block
var<workgroup> queries: array<vec4<f32>, 2048>; // 32 KiB: by query ROWS vec4s of q, then ROWS of dout

// All queries of a sequence, and zeros up to a whole four of them, into workgroup memory.
fn copy_queries(z: u32, lane: u32) {
    let q_at = row_at(p.q, z, 0u);
    let g_at = row_at(p.o, z, 0u);
    for (var i = lane; i < (p.nq + 3u) / 4u * 4u * ROWS; i += LANES) {
        let query = min(i / ROWS, p.nq - 1u);
        let there = f32(i / ROWS < p.nq);
        let to = i / ROWS * 2u * ROWS + i % ROWS;
        queries[to] = there * q[q_at + query * (p.q.row / 4u) + i % ROWS];
        queries[to + ROWS] = there * dout[g_at + query * (p.o.row / 4u) + i % ROWS];
    }
}

// Gradients of `columns` keys a lane. Four queries a step, because what a loop carries is masked at every turn.
fn keys_from(row: u32, columns: u32, z: u32) {
    //@repeat ROWS
    var dk_0 = zero();
    var dv_0 = zero();
    //@end
    for (var i = 0u; i < p.nq; i += 4u) {
        let last = p.nq - 1u;
        let rows = vec4<u32>(weights_at(z, i), weights_at(z, min(i + 1u, last)), weights_at(z, min(i + 2u, last)),
                             weights_at(z, min(i + 3u, last)));
        var a: array<Columns, 4>;
        var b: array<Columns, 4>;
        //@repeat COLUMNS
        if 0u < columns {
            let at_0 = rows + vec4<u32>(min(row + 0u * LANES, p.nk - 1u));
            a[0][0u] = alpha_in[at_0.x];
            a[1][0u] = alpha_in[at_0.y];
            a[2][0u] = alpha_in[at_0.z];
            a[3][0u] = alpha_in[at_0.w];
            b[0][0u] = slope_in[at_0.x];
            b[1][0u] = slope_in[at_0.y];
            b[2][0u] = slope_in[at_0.z];
            b[3][0u] = slope_in[at_0.w];
        }
        //@end
        let at = i * 2u * ROWS;
        //@repeat ROWS
        dk_0 = add_four(dk_0, queries[at + 0u], b[0]);
        dk_0 = add_four(dk_0, queries[at + 2u * ROWS + 0u], b[1]);
        dk_0 = add_four(dk_0, queries[at + 4u * ROWS + 0u], b[2]);
        dk_0 = add_four(dk_0, queries[at + 6u * ROWS + 0u], b[3]);
        dv_0 = add_four(dv_0, queries[at + ROWS + 0u], a[0]);
        dv_0 = add_four(dv_0, queries[at + 3u * ROWS + 0u], a[1]);
        dv_0 = add_four(dv_0, queries[at + 5u * ROWS + 0u], a[2]);
        dv_0 = add_four(dv_0, queries[at + 7u * ROWS + 0u], a[3]);
        //@end
    }
    let add_k = (p.flags & ADD_K) != 0u;
    let add_v = (p.flags & ADD_V) != 0u;
    //@repeat ROWS
    put(columns, false, p.k, z, row, p.nk, 0u, dk_0, add_k);
    put(columns, true, p.v, z, row, p.nk, 0u, dv_0, add_v);
    //@end
}

@compute @workgroup_size(LANES)
fn backward_kv(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
               @builtin(local_invocation_index) lane: u32) {
    let z = p.first + group_index(id, groups);
    if z >= p.z {
        return;
    }
    copy_queries(z, lane);
    workgroupBarrier();
    for (var block = 0u; block < p.blocks; block += 1u) {
        keys_from(block * COLUMNS * LANES + lane, COLUMNS, z);
    }
    if LAST < COLUMNS {
        keys_from(p.blocks * COLUMNS * LANES + lane, LAST, z);
    }
}
