// The weights of the attentions of attention.wgsl, for GPUs; their products with v, k, q and dout are left to
// matmul_blocks.wgsl. The weights of some sequences at a time lie in memory, [sequences, Nq, Nk rounded up to 4].
//
//   weights   alpha = softmax(scale q k^T), the rows' log-sum-exp, and their sum alpha ln(alpha + tiny)
//   slopes    alpha again, and the gradient of the scores, alpha (g - sum alpha g) scale with g = dout v^T, to which the
//             entropy adds its share
//
// A workgroup takes SIDE queries of one sequence and walks over its keys, SIDE at a time: 16 x 16 lanes, each with 4
// queries and the 4 keys that are 16 apart, copy DEPTH columns of both sides into workgroup memory and multiply. d and all
// strides divide by four.   FLOPs weights 2 Z Nq Nk d, slopes 4;   bytes 4 Z (d (Nq + Nk) + Nq Nk) at least, twice that.

const SIDE: u32 = 64u;
const DEPTH: u32 = 16u;
const STRIDE: u32 = DEPTH / 4u + 1u; // of a row's quads in workgroup memory: one more than the banks like
override HAS_ENTROPY: bool = false;

//@include sequences

@group(0) @binding(1) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> v: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> dout: array<vec4<f32>>; // slopes
@group(0) @binding(5) var<storage, read_write> lse: array<f32>;  // [Z, Nq]
@group(0) @binding(6) var<storage, read_write> alpha: array<f32>;
@group(0) @binding(7) var<storage, read_write> entropies: array<f32>; // [Z, Nq], with HAS_ENTROPY

// Buffers by number. The number is always a literal, so that one branch is left where a function is used.
const Q: u32 = 0u;
const K: u32 = 1u;
const V: u32 = 2u;
const DOUT: u32 = 3u;

fn load(which: u32, at: u32) -> vec4<f32> {
    switch which {
        case Q: { return q[at / 4u]; }
        case K: { return k[at / 4u]; }
        case V: { return v[at / 4u]; }
        default: { return dout[at / 4u]; }
    }
}

var<workgroup> a_tile: array<vec4<f32>, SIDE * STRIDE>;
var<workgroup> b_tile: array<vec4<f32>, SIDE * STRIDE>;
var<workgroup> shares: array<vec2<f32>, SIDE * 16u>;

// A lane's place among the 16 x 16: a subgroup of 32 owns 4 x 8, the fewest different vectors.
fn place(lane: u32) -> vec2<u32> {
    return vec2<u32>(lane / 32u % 2u * 8u + lane % 8u, lane / 64u * 4u + lane / 8u % 4u);
}

// The products of the lane's four rows of A with its four of B; column r is row r's. `a_at` and `b_at` are where the rows
// start that the lane copies.
fn dots(a: u32, a_at: u32, b: u32, b_at: u32, lane: u32) -> mat4x4<f32> {
    //@repeat 4
    var s_0 = vec4<f32>(0.0);
    //@end
    let at = place(lane);
    let own = lane / 4u * STRIDE + lane % 4u;
    for (var i = 0u; i < p.d; i += DEPTH) {
        let column = i + lane % 4u * 4u;
        var next_a = vec4<f32>(0.0);
        var next_b = vec4<f32>(0.0);
        if column < p.d {
            next_a = load(a, a_at + column);
            next_b = load(b, b_at + column);
        }
        workgroupBarrier();
        a_tile[own] = next_a;
        b_tile[own] = next_b;
        workgroupBarrier();
        for (var quad = 0u; quad < DEPTH / 4u; quad += 1u) {
            let x = b_tile[at.x * STRIDE + quad];
            let y = b_tile[(at.x + 16u) * STRIDE + quad];
            let z = b_tile[(at.x + 32u) * STRIDE + quad];
            let w = b_tile[(at.x + 48u) * STRIDE + quad];
            let m_x = vec4<f32>(x.x, y.x, z.x, w.x);
            let m_y = vec4<f32>(x.y, y.y, z.y, w.y);
            let m_z = vec4<f32>(x.z, y.z, z.z, w.z);
            let m_w = vec4<f32>(x.w, y.w, z.w, w.w);
            //@repeat 4
            let r_0 = a_tile[(at.y * 4u + 0u) * STRIDE + quad];
            s_0 = fma(vec4<f32>(r_0.x), m_x, s_0);
            s_0 = fma(vec4<f32>(r_0.y), m_y, s_0);
            s_0 = fma(vec4<f32>(r_0.z), m_z, s_0);
            s_0 = fma(vec4<f32>(r_0.w), m_w, s_0);
            //@end
        }
    }
    return mat4x4<f32>(s_0, s_1, s_2, s_3);
}

// The four keys of a lane from key `first` of a chunk on.
fn keys_of(first: u32) -> vec4<u32> {
    return vec4<u32>(first) + vec4<u32>(0u, 16u, 32u, 48u);
}

fn total(x: vec4<f32>) -> f32 {
    return (x.x + x.y) + (x.z + x.w);
}

fn put(at: u32, key: vec4<u32>, x: vec4<f32>) {
    if key.x < keys() { alpha[at + key.x] = x.x; }
    if key.y < keys() { alpha[at + key.y] = x.y; }
    if key.z < keys() { alpha[at + key.z] = x.z; }
    if key.w < keys() { alpha[at + key.w] = x.w; }
}

// What the lane itself put there.
fn got(at: u32, key: vec4<u32>, other: f32) -> vec4<f32> {
    let x = vec4<f32>(alpha[at + key.x], alpha[at + key.y], alpha[at + key.z], alpha[at + key.w]);
    return select(vec4<f32>(other), x, key < vec4<u32>(keys()));
}

// Where the weights of the lane's first row start, and the rows that it copies.
struct Block {
    z: u32,
    row: u32,  // the lane's first
    copy: u32, // the row of q it copies
    at: u32,
}

fn block_of(index: u32, lane: u32) -> Block {
    let z = p.first + index / p.blocks;
    let first = index % p.blocks * SIDE;
    let row = first + place(lane).y * 4u;
    return Block(z, row, min(first + lane / 4u, p.nq - 1u), ((z - p.first) * p.nq + row) * keys());
}

const LOWEST: f32 = -3.4e38;

@compute @workgroup_size(256)
fn weights(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let index = group_index(id, groups);
    if p.first + index / p.blocks >= p.z {
        return;
    }
    let mine = block_of(index, lane);
    let at = place(lane);
    let a_at = start(p.q, mine.z) + mine.copy * p.q.row;
    let b_start = start(p.k, mine.z);
    //@repeat 4
    let there_0 = mine.row + 0u < p.nq;
    let at_0 = mine.at + 0u * keys();
    let share_0 = (at.y * 4u + 0u) * 16u;
    var top_0 = LOWEST;
    var total_0 = 0.0;
    //@end
    for (var first = 0u; first < p.nk; first += SIDE) {
        let s = dots(Q, a_at, K, b_start + min(first + lane / 4u, p.nk - 1u) * p.k.row, lane);
        let key = keys_of(first + at.x);
        //@repeat 4
        let x_0 = select(s[0u] * p.scale, vec4<f32>(LOWEST), key >= vec4<u32>(p.nk));
        let new_0 = max(top_0, max(max(x_0.x, x_0.y), max(x_0.z, x_0.w)));
        total_0 = total_0 * exp(top_0 - new_0) + total(exp(x_0 - new_0));
        top_0 = new_0;
        if there_0 { put(at_0, key, x_0); }
        //@end
    }
    // The lanes' shares of a row meet in the workgroup's memory and are added in their order.
    //@repeat 4
    shares[share_0 + at.x] = vec2<f32>(top_0, total_0);
    //@end
    workgroupBarrier();
    for (var i = 0u; i < 16u; i += 1u) {
        //@repeat 4
        top_0 = max(top_0, shares[share_0 + i].x);
        //@end
    }
    //@repeat 4
    total_0 = 0.0;
    //@end
    for (var i = 0u; i < 16u; i += 1u) {
        //@repeat 4
        let other_0 = shares[share_0 + i];
        total_0 += other_0.y * exp(other_0.x - top_0);
        //@end
    }
    //@repeat 4
    let l_0 = top_0 + log(total_0);
    var h_0 = 0.0;
    //@end
    for (var first = 0u; first < p.nk; first += SIDE) {
        let key = keys_of(first + at.x);
        //@repeat 4
        if there_0 {
            let alpha_0 = exp(got(at_0, key, LOWEST) - l_0);
            put(at_0, key, alpha_0);
            if HAS_ENTROPY { h_0 += dot(alpha_0, log(alpha_0 + TINY)); }
        }
        //@end
    }
    if HAS_ENTROPY {
        workgroupBarrier();
        //@repeat 4
        shares[share_0 + at.x].x = h_0;
        //@end
        workgroupBarrier();
    }
    if at.x == 0u {
        //@repeat 4
        if there_0 {
            let row_0 = mine.z * p.nq + mine.row + 0u;
            lse[row_0] = l_0;
            if HAS_ENTROPY { entropies[row_0] = share_sum(share_0); }
        }
        //@end
    }
}

fn share_sum(at: u32) -> f32 {
    var sum = 0.0;
    for (var i = 0u; i < 16u; i += 1u) {
        sum += shares[at + i].x;
    }
    return sum;
}

@group(0) @binding(5) var<storage, read> lse_in: array<f32>;
@group(0) @binding(7) var<storage, read_write> slope: array<f32>;  // as alpha
@group(0) @binding(8) var<storage, read> dentropy: array<f32>; // gradient of the entropies, with HAS_ENTROPY

fn put_slope(at: u32, key: vec4<u32>, x: vec4<f32>) {
    if key.x < keys() { slope[at + key.x] = x.x; }
    if key.y < keys() { slope[at + key.y] = x.y; }
    if key.z < keys() { slope[at + key.z] = x.z; }
    if key.w < keys() { slope[at + key.w] = x.w; }
}

@compute @workgroup_size(256)
fn slopes(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
          @builtin(local_invocation_index) lane: u32) {
    let index = group_index(id, groups);
    if p.first + index / p.blocks >= p.z {
        return;
    }
    let mine = block_of(index, lane);
    let at = place(lane);
    let q_at = start(p.q, mine.z) + mine.copy * p.q.row;
    let o_at = start(p.o, mine.z) + mine.copy * p.o.row;
    let k_start = start(p.k, mine.z);
    let v_start = start(p.v, mine.z);
    //@repeat 4
    let there_0 = mine.row + 0u < p.nq;
    let at_0 = mine.at + 0u * keys();
    let share_0 = (at.y * 4u + 0u) * 16u;
    let row_0 = mine.z * p.nq + min(mine.row + 0u, p.nq - 1u);
    let l_0 = lse_in[row_0];
    var factor_0 = 0.0;
    if HAS_ENTROPY { factor_0 = dentropy[row_0]; }
    var delta_0 = 0.0;
    //@end
    for (var first = 0u; first < p.nk; first += SIDE) {
        let row = min(first + lane / 4u, p.nk - 1u);
        let s = dots(Q, q_at, K, k_start + row * p.k.row, lane);
        let g = dots(DOUT, o_at, V, v_start + row * p.v.row, lane);
        let key = keys_of(first + at.x);
        //@repeat 4
        let alpha_0 = select(exp(s[0u] * p.scale - l_0), vec4<f32>(0.0), key >= vec4<u32>(p.nk));
        var g_0 = g[0u];
        if HAS_ENTROPY { g_0 += factor_0 * (log(alpha_0 + TINY) + alpha_0 / (alpha_0 + TINY)); }
        delta_0 += dot(alpha_0, g_0);
        if there_0 {
            put(at_0, key, alpha_0);
            put_slope(at_0, key, g_0);
        }
        //@end
    }
    //@repeat 4
    shares[share_0 + at.x].x = delta_0;
    //@end
    workgroupBarrier();
    //@repeat 4
    delta_0 = share_sum(share_0);
    //@end
    for (var first = 0u; first < p.nk; first += SIDE) {
        let key = keys_of(first + at.x);
        //@repeat 4
        if there_0 {
            let g_0 = vec4<f32>(slope[at_0 + key.x], slope[at_0 + key.y], slope[at_0 + key.z], slope[at_0 + key.w]);
            put_slope(at_0, key, got(at_0, key, 0.0) * (g_0 - delta_0) * p.scale);
        }
        //@end
    }
}
