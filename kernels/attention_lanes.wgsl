// The attentions of attention.wgsl for drivers that run on the CPU's vector units (llvmpipe), where heads are narrow. A
// lane keeps COLUMNS whole queries (backward_kv: keys) of d = 4 ROWS values in registers and walks over the other side,
// whose rows are the same for the whole workgroup: no barriers, no workgroup memory. Rows begin at vec4s.
//
// A workgroup takes LANES COLUMNS queries or keys of a sequence; value i of the COLUMNS rows of a lane is one vector.
// forward: o = sum of exp(score - top) v, divided, where top is a score of the query that is rarely changed.
// backward_q: dq, and every weight a and slope g' into memory.   backward_kv: dv = sum of a dout, dk = sum of g' q.
// FLOPs forward 4 Z Nq Nk d, backward_q 6, backward_kv 4;
// bytes 4 Z d (2 Nq + 2 Nk Nq / (LANES COLUMNS)) forward, and backward 8 Z Nq Nk written and read.

override LANES: u32 = 16u;
const ROWS: u32 = 1u;
const COLUMNS: u32 = 4u;
alias Columns = vec4<f32>;

//@include sequences

@group(0) @binding(1) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> v: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> dout: array<vec4<f32>>;        // backward
@group(0) @binding(5) var<storage, read_write> lse: array<f32>;         // forward: [Z, Nq] log of the denominator
@group(0) @binding(5) var<storage, read> lse_in: array<f32>;            // backward
@group(0) @binding(6) var<storage, read_write> out: array<vec4<f32>>;   // o, dq or dk
@group(0) @binding(7) var<storage, read_write> out_v: array<vec4<f32>>; // dv
@group(0) @binding(8) var<storage, read> o: array<vec4<f32>>;           // backward_q
@group(0) @binding(9) var<storage, read_write> kept: array<f32>;  // backward_q: [Z - first, Nq, 2, keys()], a and g'
@group(0) @binding(5) var<storage, read> kept_in: array<f32>;     // backward_kv

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

// Buffers by number, always a literal, so that one branch is left where a function is used.
const Q: u32 = 0u;
const K: u32 = 1u;
const V: u32 = 2u;
const DOUT: u32 = 3u;
const O: u32 = 4u;

// Where the vec4s of a row begin.
fn row_at(lie: Lie, z: u32, row: u32) -> u32 {
    return (start(lie, z) + row * lie.row) / 4u;
}

fn four_at(which: u32, at: u32) -> vec4<f32> {
    switch which {
        case Q: { return q[at]; }
        case K: { return k[at]; }
        case V: { return v[at]; }
        default: { return dout[at]; }
    }
}

// Values 4 i.. of the lane's rows: `row`, `row` + LANES, ... of `count`, the last repeated.
fn own(which: u32, lie: Lie, z: u32, row: u32, count: u32, i: u32) -> Four {
    var f: Four;
    //@repeat COLUMNS
    let at_0 = row_at(lie, z, min(row + 0u * LANES, count - 1u)) + i;
    var r_0: vec4<f32>;
    if which == O { r_0 = o[at_0]; } else { r_0 = four_at(which, at_0); }
    f.x[0u] = r_0.x;
    f.y[0u] = r_0.y;
    f.z[0u] = r_0.z;
    f.w[0u] = r_0.w;
    //@end
    return f;
}

fn put(to_v: bool, lie: Lie, z: u32, row: u32, count: u32, i: u32, f: Four, add: bool) {
    //@repeat COLUMNS
    if row + 0u * LANES < count {
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
        o_0 = add_four(o_0, v[v_at + 0u], weight);
        //@end
    }
    //@repeat ROWS
    put(false, p.o, z, row, p.nq, 0u, scaled(o_0, 1.0 / total), false);
    //@end
    let l = top + log(total);
    //@repeat COLUMNS
    if row + 0u * LANES < p.nq { lse[z * p.nq + row + 0u * LANES] = l[0u]; }
    //@end
}

@compute @workgroup_size(LANES)
fn backward_q(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
              @builtin(local_invocation_index) lane: u32) {
    let index = group_index(id, groups);
    let z = p.first + index / p.blocks;
    if z >= p.z {
        return;
    }
    let row = p.row + index % p.blocks * LANES * COLUMNS + lane;
    // The order of additions is that of the products below, so that the slope of a lone key is exactly zero.
    var dot = Dot(Columns(0.0), Columns(0.0));
    //@repeat ROWS
    let q_0 = own(Q, p.q, z, row, p.nq, 0u);
    let g_0 = own(DOUT, p.o, z, row, p.nq, 0u);
    let o_0 = own(O, p.o, z, row, p.nq, 0u);
    dot = Dot(fma(o_0.z, g_0.z, fma(o_0.x, g_0.x, dot.a)), fma(o_0.w, g_0.w, fma(o_0.y, g_0.y, dot.b)));
    var dq_0 = zero();
    //@end
    let d = dot.a + dot.b;
    var l: Columns;
    //@repeat COLUMNS
    let mine_0 = min(row + 0u * LANES, p.nq - 1u);
    let to_0 = ((z - p.first) * p.nq + mine_0) * 2u * keys();
    l[0u] = lse_in[z * p.nq + mine_0];
    //@end
    for (var j = 0u; j < p.nk; j += 1u) {
        let k_at = row_at(p.k, z, j);
        let v_at = row_at(p.v, z, j);
        var s = Dot(Columns(0.0), Columns(0.0));
        var g = s;
        //@repeat ROWS
        s = dot_four(s, k[k_at + 0u], q_0);
        g = dot_four(g, v[v_at + 0u], g_0);
        //@end
        let weight = exp((s.a + s.b) * p.scale - l);
        let slope = weight * ((g.a + g.b) - d) * p.scale;
        //@repeat ROWS
        dq_0 = add_four(dq_0, k[k_at + 0u], slope);
        //@end
        // Last: after a store the driver would load the row again.
        //@repeat COLUMNS
        kept[to_0 + j] = weight[0u];
        kept[to_0 + keys() + j] = slope[0u];
        //@end
    }
    let add = (p.flags & ADD_Q) != 0u;
    //@repeat ROWS
    put(false, p.q, z, row, p.nq, 0u, dq_0, add);
    //@end
}

@compute @workgroup_size(LANES)
fn backward_kv(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
               @builtin(local_invocation_index) lane: u32) {
    let index = group_index(id, groups);
    let z = p.first + index / p.blocks;
    if z >= p.z {
        return;
    }
    let row = p.row + index % p.blocks * LANES * COLUMNS + lane;
    //@repeat ROWS
    var dk_0 = zero();
    var dv_0 = zero();
    //@end
    for (var i = 0u; i < p.nq; i += 1u) {
        let q_at = row_at(p.q, z, i);
        let g_at = row_at(p.o, z, i);
        let weights = ((z - p.first) * p.nq + i) * 2u * keys();
        var weight: Columns;
        var slope: Columns;
        //@repeat COLUMNS
        let at_0 = weights + min(row + 0u * LANES, p.nk - 1u);
        weight[0u] = kept_in[at_0];
        slope[0u] = kept_in[at_0 + keys()];
        //@end
        //@repeat ROWS
        dk_0 = add_four(dk_0, four_at(Q, q_at + 0u), slope);
        dv_0 = add_four(dv_0, four_at(DOUT, g_at + 0u), weight);
        //@end
    }
    let add_k = (p.flags & ADD_K) != 0u;
    let add_v = (p.flags & ADD_V) != 0u;
    //@repeat ROWS
    put(false, p.k, z, row, p.nk, 0u, dk_0, add_k);
    put(true, p.v, z, row, p.nk, 0u, dv_0, add_v);
    //@end
}
