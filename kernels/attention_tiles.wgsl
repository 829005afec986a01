// The attentions of attention.wgsl for drivers that run on the CPU's vector units (llvmpipe): widths and strides divide
// by four, four steps of d or four keys are taken at a time, and everything a workgroup knows of its scores stays in
// its memory. There a uniform load is cheap and a lane's load is a gather, so ROWS rows share every gather; and both
// sides of a condition run, so those known when recording are constants.
//
// Two moves make all of it:
//   dots   cells = A B^T for ROWS rows of A and a chunk of rows of B: a lane four rows of B, a vec4 of sums a row of A
//   mix    out = cells X: a lane COLUMNS columns of X, which divide d
// forward: s = dots(q, k), softmax, o = mix(s, v).   backward_q: a = dots(q, k), g = dots(dout, v), dq = mix(g', k).
// backward_kv: dv = mix(a', dout), dk = mix(g', q) of the a' and g' that backward_q left in memory: computed again they
// would cost as much as all the rest.   FLOPs forward 4 Z Nq Nk d, backward_q 6, backward_kv 4.

override LANES: u32 = 16u;
override HAS_ENTROPY: bool = false;
override ONE_CHUNK: bool = false;  // a workgroup sees all of the other side at once
const ROWS: u32 = 1u;
const COLUMNS: u32 = 4u;
alias Columns = vec4<f32>;

//@include sequences

@group(0) @binding(1) var<storage, read> q: array<f32>;
@group(0) @binding(2) var<storage, read> k: array<f32>;
@group(0) @binding(3) var<storage, read> v: array<f32>;
@group(0) @binding(4) var<storage, read> dout: array<f32>;        // backward
@group(0) @binding(5) var<storage, read_write> saved: array<vec2<f32>>; // forward: [Z, Nq] log-sum-exp, entropy's slope
@group(0) @binding(6) var<storage, read_write> out: array<f32>;   // o, dq or dk
@group(0) @binding(7) var<storage, read_write> out_v: array<f32>; // dv
@group(0) @binding(8) var<storage, read_write> entropies: array<f32>;   // forward with HAS_ENTROPY: [Z, Nq]

// Buffers by number. The number is always a literal, so that one branch is left where a function is used.
const Q: u32 = 0u;
const K: u32 = 1u;
const V: u32 = 2u;
const DOUT: u32 = 3u;
const OUT: u32 = 4u;
const OUT_V: u32 = 5u;

fn load(which: u32, at: u32) -> f32 {
    switch which {
        case Q: { return q[at]; }
        case K: { return k[at]; }
        case V: { return v[at]; }
        case OUT: { return out[at]; }
        case OUT_V: { return out_v[at]; }
        default: { return dout[at]; }
    }
}

fn load_quad(which: u32, at: u32) -> vec4<f32> {
    return vec4<f32>(load(which, at), load(which, at + 1u), load(which, at + 2u), load(which, at + 3u));
}

fn load_columns(which: u32, at: u32) -> Columns {
    var x: Columns;
    //@repeat COLUMNS
    x[0u] = load(which, at + 0u);
    //@end
    return x;
}

fn before(to_v: bool, at: u32) -> Columns {
    var x: Columns;
    //@repeat COLUMNS
    if to_v { x[0u] = out_v[at + 0u]; } else { x[0u] = out[at + 0u]; }
    //@end
    return x;
}

fn store(to_v: bool, at: u32, x: Columns) {
    //@repeat COLUMNS
    if to_v { out_v[at + 0u] = x[0u]; } else { out[at + 0u] = x[0u]; }
    //@end
}

// Rows of a tensor.
struct Rows {
    start: u32,
    stride: u32,
    last: u32,
}

fn rows_of(lie: Lie, z: u32, count: u32) -> Rows {
    return Rows(start(lie, z), lie.row, count - 1u);
}

fn row_at(rows: Rows, row: u32) -> u32 {
    return rows.start + min(row, rows.last) * rows.stride;
}

//@include look

// A look at `count` rows from `row`, all of d wide.
fn look_at(which: u32, rows: Rows, row: u32, count: u32, lane: u32) -> u32 {
    return look(which, row_at(rows, row), rows.stride, min(count, rows.last + 1u - row), p.d, lane);
}

// Quad j of row r is cells[j * ROWS + r]. Forward keeps its rows' maximum, total and factor behind its scores; the
// backward halves the quads between weights and their gradients. 32 KiB in all.
const QUADS: u32 = 2048u / ROWS;
const CHUNK: u32 = QUADS - 1u;
const HALF: u32 = QUADS / 2u;
var<workgroup> cells: array<vec4<f32>, ROWS * QUADS>;

// cells[base + j] = the products of the rows of A from `row` with the four rows of B from `first + 4 j`.
fn dots(a: u32, a_rows: Rows, row: u32, b: u32, b_rows: Rows, first: u32, quads: u32, base: u32, lane: u32) {
    let seen = look_at(a, a_rows, row, ROWS, lane) | look_at(b, b_rows, first, 4u * quads, lane);
    let zero = bitcast<f32>(seen & p.nothing);
    //@repeat ROWS
    let a_0 = row_at(a_rows, row + 0u);
    //@end
    for (var block = 0u; block < quads; block += LANES) {
        let j = block + lane;
        let b_x = row_at(b_rows, first + 4u * j);
        let b_y = row_at(b_rows, first + 4u * j + 1u);
        let b_z = row_at(b_rows, first + 4u * j + 2u);
        let b_w = row_at(b_rows, first + 4u * j + 3u);
        //@repeat ROWS
        var s_0 = vec4<f32>(zero);
        //@end
        for (var i = 0u; i < p.d; i += 4u) {
            let x = load_quad(b, b_x + i);
            let y = load_quad(b, b_y + i);
            let z = load_quad(b, b_z + i);
            let w = load_quad(b, b_w + i);
            let m_x = vec4<f32>(x.x, y.x, z.x, w.x);
            let m_y = vec4<f32>(x.y, y.y, z.y, w.y);
            let m_z = vec4<f32>(x.z, y.z, z.z, w.z);
            let m_w = vec4<f32>(x.w, y.w, z.w, w.w);
            //@repeat ROWS
            let r_0 = load_quad(a, a_0 + i);
            s_0 = fma(vec4<f32>(r_0.x), m_x, s_0);
            s_0 = fma(vec4<f32>(r_0.y), m_y, s_0);
            s_0 = fma(vec4<f32>(r_0.z), m_z, s_0);
            s_0 = fma(vec4<f32>(r_0.w), m_w, s_0);
            //@end
        }
        if j < quads {
            //@repeat ROWS
            cells[(base + j) * ROWS + 0u] = s_0;
            //@end
        }
    }
}

// out = cells[base..] X, or += after each row's factor: the rows of `to` from `row`.
fn mix(x: u32, x_rows: Rows, first: u32, quads: u32, base: u32, to_v: bool, to: Rows, row: u32, add: bool,
       online: bool, done: bool, lane: u32) {
    let last = p.d / COLUMNS - 1u;
    var seen = look_at(x, x_rows, first, 4u * quads, lane);
    if to_v { seen |= look_at(OUT_V, to, row, ROWS, lane); } else { seen |= look_at(OUT, to, row, ROWS, lane); }
    let zero = bitcast<f32>(seen & p.nothing);
    for (var block = 0u; block <= last; block += LANES) {
        let i = min(block + lane, last) * COLUMNS;
        let mine = block + lane <= last;
        //@repeat ROWS
        var s_0 = Columns(zero);
        //@end
        for (var j = 0u; j < quads; j += 1u) {
            let token = first + 4u * j;
            let m_x = load_columns(x, row_at(x_rows, token) + i);
            let m_y = load_columns(x, row_at(x_rows, token + 1u) + i);
            let m_z = load_columns(x, row_at(x_rows, token + 2u) + i);
            let m_w = load_columns(x, row_at(x_rows, token + 3u) + i);
            //@repeat ROWS
            let r_0 = cells[(base + j) * ROWS + 0u];
            s_0 = fma(Columns(r_0.x), m_x, s_0);
            s_0 = fma(Columns(r_0.y), m_y, s_0);
            s_0 = fma(Columns(r_0.z), m_z, s_0);
            s_0 = fma(Columns(r_0.w), m_w, s_0);
            //@end
        }
        if add {
            //@repeat ROWS
            let before_0 = before(to_v, row_at(to, row + 0u) + i);
            //@end
            if online {
                //@repeat ROWS
                s_0 = fma(Columns(cells[CHUNK * ROWS + 0u].z), before_0, s_0);
                //@end
            } else {
                //@repeat ROWS
                s_0 += before_0;
                //@end
            }
        }
        if done {
            //@repeat ROWS
            s_0 = s_0 / cells[CHUNK * ROWS + 0u].y;
            //@end
        }
        if mine {
            //@repeat ROWS
            if row + 0u <= to.last { store(to_v, row_at(to, row + 0u) + i, s_0); }
            //@end
        }
    }
}

@compute @workgroup_size(LANES)
fn forward(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let index = group_index(id, groups);
    let z = p.first + index / p.blocks;
    if z >= p.z {
        return;
    }
    let row = (index % p.blocks) * ROWS;
    let q_rows = rows_of(p.q, z, p.nq);
    let k_rows = rows_of(p.k, z, p.nk);
    let v_rows = rows_of(p.v, z, p.nk);
    let o_rows = rows_of(p.o, z, p.nq);
    for (var r = lane; r < ROWS; r += LANES) {
        cells[CHUNK * ROWS + r] = vec4<f32>(-3.4e38, 0.0, 0.0, 0.0);
    }
    for (var chunk = 0u; chunk < p.nk; chunk += 4u * CHUNK) {
        let n = min(4u * CHUNK, p.nk - chunk);
        let quads = (n + 3u) / 4u;
        workgroupBarrier();
        dots(Q, q_rows, row, K, k_rows, chunk, quads, 0u, lane);
        workgroupBarrier();
        // Softmax: a lane a row.
        for (var r = lane; r < ROWS; r += LANES) {
            // Keys beyond the last repeat it, so that they do not change the maximum.
            var tops = vec4<f32>(-3.4e38);
            for (var j = 0u; j < quads; j += 1u) {
                tops = max(tops, cells[j * ROWS + r] * p.scale);
            }
            let old = cells[CHUNK * ROWS + r];
            let top = max(max(max(tops.x, tops.y), max(tops.z, tops.w)), old.x);
            var sum = vec4<f32>(0.0);
            for (var j = 0u; j < quads; j += 1u) {
                let within = vec4<u32>(4u * j) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(n);
                let e = select(vec4<f32>(0.0), exp(cells[j * ROWS + r] * p.scale - top), within);
                cells[j * ROWS + r] = e;
                sum += e;
            }
            let factor = exp(old.x - top);
            cells[CHUNK * ROWS + r] = vec4<f32>(top, old.y * factor + (sum.x + sum.y) + (sum.z + sum.w), factor, 0.0);
        }
        workgroupBarrier();
        let add = !ONE_CHUNK && chunk > 0u;
        let done = ONE_CHUNK || chunk + 4u * CHUNK >= p.nk;
        mix(V, v_rows, chunk, quads, 0u, false, o_rows, row, add, true, done, lane);
    }
    for (var r = lane; r < ROWS; r += LANES) {
        if row + r < p.nq {
            let at = z * p.nq + row + r;
            let stats = cells[CHUNK * ROWS + r];
            var slope = 0.0;
            // All keys are here: attention.wgsl's entropy needs no products of its own.
            if HAS_ENTROPY {
                var h = vec4<f32>(0.0);
                var s = vec4<f32>(0.0);
                for (var j = 0u; j < (p.nk + 3u) / 4u; j += 1u) {
                    let alpha = cells[j * ROWS + r] / stats.y;
                    let l = log(alpha + TINY);
                    h += alpha * l;
                    s += alpha * (l + alpha / (alpha + TINY));
                }
                entropies[at] = (h.x + h.y) + (h.z + h.w);
                slope = (s.x + s.y) + (s.z + s.w);
            }
            saved[at] = vec2<f32>(stats.x + log(stats.y), slope);
        }
    }
}

@group(0) @binding(5) var<storage, read> saved_in: array<vec2<f32>>;
// By row: the gradient of the entropy with ONE_CHUNK; else row_delta's sum and factor, two a row.
@group(0) @binding(8) var<storage, read> of_row: array<f32>;
@group(0) @binding(9) var<storage, read_write> kept: array<vec2<f32>>; // backward_q: [z - first, Nq, keys()] of a', g'
@group(0) @binding(5) var<storage, read> kept_in: array<vec2<f32>>;    // backward_kv

@compute @workgroup_size(LANES)
fn backward_q(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
              @builtin(local_invocation_index) lane: u32) {
    let index = group_index(id, groups);
    let z = p.first + index / p.blocks;
    if z >= p.z {
        return;
    }
    let row = (index % p.blocks) * ROWS;
    let q_rows = rows_of(p.q, z, p.nq);
    let k_rows = rows_of(p.k, z, p.nk);
    let v_rows = rows_of(p.v, z, p.nk);
    let o_rows = rows_of(p.o, z, p.nq);
    for (var chunk = 0u; chunk < p.nk; chunk += 4u * HALF) {
        let n = min(4u * HALF, p.nk - chunk);
        let quads = (n + 3u) / 4u;
        workgroupBarrier();
        dots(Q, q_rows, row, K, k_rows, chunk, quads, 0u, lane);
        dots(DOUT, o_rows, row, V, v_rows, chunk, quads, HALF, lane);
        workgroupBarrier();
        // From scores and the gradients of their weights to weights and the scores' gradients: a lane a row.
        for (var r = lane; r < ROWS; r += LANES) {
            let at = z * p.nq + min(row + r, p.nq - 1u);
            let saved = saved_in[at];
            var sum = vec4<f32>(0.0);
            for (var j = 0u; j < quads; j += 1u) {
                let within = vec4<u32>(4u * j) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(n);
                let alpha = select(vec4<f32>(0.0), exp(cells[j * ROWS + r] * p.scale - saved.x), within);
                cells[j * ROWS + r] = alpha;
                sum += alpha * cells[(HALF + j) * ROWS + r];
            }
            // The sum of dout o is that of weights and their gradients.
            var delta = (sum.x + sum.y) + (sum.z + sum.w);
            var factor = 0.0;
            if !ONE_CHUNK {
                delta = of_row[2u * at];
                factor = of_row[2u * at + 1u];
            } else if HAS_ENTROPY {
                factor = of_row[at];
                delta += factor * saved.y;
            }
            for (var j = 0u; j < quads; j += 1u) {
                let alpha = cells[j * ROWS + r];
                var g = cells[(HALF + j) * ROWS + r];
                if HAS_ENTROPY {
                    g += factor * (log(alpha + TINY) + alpha / (alpha + TINY));
                }
                g = alpha * (g - delta) * p.scale;
                cells[(HALF + j) * ROWS + r] = g;
                if row + r < p.nq {
                    let to = (at - p.first * p.nq) * keys() + chunk + 4u * j;
                    kept[to] = vec2<f32>(alpha.x, g.x);
                    kept[to + 1u] = vec2<f32>(alpha.y, g.y);
                    kept[to + 2u] = vec2<f32>(alpha.z, g.z);
                    kept[to + 3u] = vec2<f32>(alpha.w, g.w);
                }
            }
        }
        workgroupBarrier();
        let add = (p.flags & ADD_Q) != 0u || (!ONE_CHUNK && chunk > 0u);
        mix(K, k_rows, chunk, quads, HALF, false, q_rows, row, add, false, false, lane);
    }
}

@compute @workgroup_size(LANES)
fn backward_kv(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
               @builtin(local_invocation_index) lane: u32) {
    let index = group_index(id, groups);
    let z = p.first + index / p.blocks;
    if z >= p.z {
        return;
    }
    let row = (index % p.blocks) * ROWS;
    let q_rows = rows_of(p.q, z, p.nq);
    let k_rows = rows_of(p.k, z, p.nk);
    let v_rows = rows_of(p.v, z, p.nk);
    let o_rows = rows_of(p.o, z, p.nq);
    for (var chunk = 0u; chunk < p.nq; chunk += 4u * HALF) {
        let n = min(4u * HALF, p.nq - chunk);
        let quads = (n + 3u) / 4u;
        workgroupBarrier();
        // A lane a row, a key.
        for (var r = lane; r < ROWS; r += LANES) {
            let key = min(row + r, p.nk - 1u);
            for (var j = 0u; j < quads; j += 1u) {
                let query = vec4<u32>(4u * j) + vec4<u32>(0u, 1u, 2u, 3u);
                let near = vec4<u32>((z - p.first) * p.nq) + min(query + chunk, vec4<u32>(p.nq - 1u));
                let at = near * keys() + key;
                let a = kept_in[at.x];
                let b = kept_in[at.y];
                let c = kept_in[at.z];
                let d = kept_in[at.w];
                let within = query < vec4<u32>(n);
                cells[j * ROWS + r] = select(vec4<f32>(0.0), vec4<f32>(a.x, b.x, c.x, d.x), within);
                cells[(HALF + j) * ROWS + r] = select(vec4<f32>(0.0), vec4<f32>(a.y, b.y, c.y, d.y), within);
            }
        }
        workgroupBarrier();
        let add_v = (p.flags & ADD_V) != 0u || (!ONE_CHUNK && chunk > 0u);
        let add_k = (p.flags & ADD_K) != 0u || (!ONE_CHUNK && chunk > 0u);
        if (p.flags & SAME_KV) != 0u {
            mix(DOUT, o_rows, chunk, quads, 0u, false, k_rows, row, add_k, false, false, lane);
            mix(Q, q_rows, chunk, quads, HALF, false, k_rows, row, true, false, false, lane);
        } else {
            mix(DOUT, o_rows, chunk, quads, 0u, true, v_rows, row, add_v, false, false, lane);
            mix(Q, q_rows, chunk, quads, HALF, false, k_rows, row, add_k, false, false, lane);
        }
    }
}
