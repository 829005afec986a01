// Grouped matrix products, C[g] = A[g] B[g], for GPUs: a workgroup of ROWS x ROWS lanes owns a square block of C, 8 ROWS
// wide, and walks along k, DEPTH steps at a time. Both operands' steps are copied into workgroup memory, k by k; a lane
// keeps 8 x 8 of C in registers and reads four vec4 for 64 multiplications. The next steps are on their way while these
// are used.
//
//   A     by vec4 along k, or along m (its transpose): read as it lies, four by four, and turned in registers
//   B     the same along n or k
//   C     by vec4 along n
//
// With `splits` over 1 workgroups share the sum of a block of C: each leaves its part in `c`, [groups, splits, m, n],
// which `add_parts` adds up, always in the same order.   FLOPs 2 G M N K;   bytes 4 G (M K + K N + M N) at least.

const ROWS: u32 = 16u; // lanes along either side of a block
const LANES: u32 = ROWS * ROWS;
const SIDE: u32 = 8u * ROWS;
const QUADS: u32 = 2u * ROWS;
const DEPTH: u32 = 16u;
const STRIDE: u32 = QUADS + 1u; // of a step in workgroup memory: one more than the banks like
override A_ALONG_K: bool = true;
override B_ALONG_K: bool = true;
alias Values = vec4<f32>; // of gelu

//@include lie
//@include epilogue
//@include grid
//@include gelu

struct P {
    m: u32,
    n: u32,
    k: u32,
    row_blocks: u32,
    column_blocks: u32,
    groups: u32,
    accumulate: u32,
    has_bias: u32,
    splits: u32,
    part: u32, // steps of k of a split
    pad_a: u32,
    pad_b: u32,
    a: Lie,
    b: Lie,
    c: Lie,
}
@group(0) @binding(0) var<uniform> p: P;
@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> b: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> bias: array<vec4<f32>>; // [groups, n]
@group(0) @binding(4) var<storage, read_write> c: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> extra: array<vec4<f32>>; // as c

var<workgroup> a_tile: array<vec4<f32>, DEPTH * STRIDE>;
var<workgroup> b_tile: array<vec4<f32>, DEPTH * STRIDE>;

// Four by four elements of A from row `m` and step `k` on, a vector a step: zero from step `end` on; rows beyond the last
// repeat others.
fn a_block(start: u32, m: u32, k: u32, end: u32) -> mat4x4<f32> {
    var v: mat4x4<f32>;
    if A_ALONG_K {
        if k < end {
            //@repeat 4
            v[0u] = a[(start + min(m + 0u, p.m - 1u) * p.a.row + k) / 4u];
            //@end
        }
        return transpose(v);
    }
    let at = start + min(m, (p.m - 1u) / 4u * 4u);
    //@repeat 4
    if k + 0u < end { v[0u] = a[(at + (k + 0u) * p.a.col) / 4u]; }
    //@end
    return v;
}

// The same of B, from column `n` on.
fn b_block(start: u32, n: u32, k: u32, end: u32) -> mat4x4<f32> {
    var v: mat4x4<f32>;
    if B_ALONG_K {
        if k < end {
            //@repeat 4
            v[0u] = b[(start + min(n + 0u, p.n - 1u) * p.b.col + k) / 4u];
            //@end
        }
        return transpose(v);
    }
    let at = start + min(n, p.n - 4u);
    //@repeat 4
    if k + 0u < end { v[0u] = b[(at + (k + 0u) * p.b.row) / 4u]; }
    //@end
    return v;
}

// Where in a tile the four by four of lane `i` go: its steps and its quad, so that neighbours read neighbours.
fn place(i: u32, along_k: bool) -> vec2<u32> {
    return select(vec2<u32>(i / QUADS * 4u, i % QUADS), vec2<u32>(i % 4u * 4u, i / 4u), along_k);
}

fn finish(at: u32, column: u32, value: vec4<f32>) {
    if column >= p.n {
        return;
    }
    switch EPILOGUE {
        case RESIDUAL: {
            c[at] = extra[at] + value;
        }
        case GELU: {
            let g = gelu(value);
            c[at] = g.y;
            extra[at] = g.slope;
        }
        case SCALED: {
            c[at] = value * extra[at];
        }
        default: {
            if p.accumulate != 0u {
                c[at] += value;
            } else {
                c[at] = value;
            }
        }
    }
}

@compute @workgroup_size(LANES)
fn product(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let index = group_index(id, groups);
    let m = index % p.row_blocks * SIDE;
    let n = index / p.row_blocks % p.column_blocks * SIDE;
    let out = index / p.row_blocks / p.column_blocks; // number of the group and its split
    let g = out / p.splits;
    if g >= p.groups {
        return;
    }
    let first = out % p.splits * p.part;
    let end = min(first + p.part, p.k);
    let a_start = start_of(p.a, g);
    let b_start = start_of(p.b, g);
    // A subgroup of 32 owns 4 x 8 lanes' blocks: the fewest different vectors.
    let across = max(ROWS / 8u, 1u);
    let tx = lane / 32u % across * 8u + lane % 8u;
    let ty = lane / 32u / across * 4u + lane / 8u % 4u;
    //@repeat 4
    var ll_0 = vec4<f32>(0.0);
    var lh_0 = vec4<f32>(0.0);
    var hl_0 = vec4<f32>(0.0);
    var hh_0 = vec4<f32>(0.0);
    //@end
    //@repeat COLUMNS
    // Half the lanes copy A, half B.
    let i_0 = (lane + 0u * LANES) % (4u * QUADS);
    let of_a_0 = lane + 0u * LANES < 4u * QUADS;
    let to_0 = place(i_0, select(B_ALONG_K, A_ALONG_K, of_a_0));
    let at_0 = to_0.x * STRIDE + to_0.y;
    var next_0: mat4x4<f32>;
    if of_a_0 {
        next_0 = a_block(a_start, m + to_0.y * 4u, first + to_0.x, end);
    } else {
        next_0 = b_block(b_start, n + to_0.y * 4u, first + to_0.x, end);
    }
    //@end
    for (var k = first; k < end; k += DEPTH) {
        workgroupBarrier();
        //@repeat COLUMNS
        if of_a_0 {
            a_tile[at_0] = next_0[0];
            a_tile[at_0 + STRIDE] = next_0[1];
            a_tile[at_0 + 2 * STRIDE] = next_0[2];
            a_tile[at_0 + 3 * STRIDE] = next_0[3];
        } else {
            b_tile[at_0] = next_0[0];
            b_tile[at_0 + STRIDE] = next_0[1];
            b_tile[at_0 + 2 * STRIDE] = next_0[2];
            b_tile[at_0 + 3 * STRIDE] = next_0[3];
        }
        //@end
        workgroupBarrier();
        let ahead = k + DEPTH;
        //@repeat COLUMNS
        if of_a_0 {
            next_0 = a_block(a_start, m + to_0.y * 4u, ahead + to_0.x, end);
        } else {
            next_0 = b_block(b_start, n + to_0.y * 4u, ahead + to_0.x, end);
        }
        //@end
        for (var i = 0u; i < DEPTH; i += 1u) {
            let a_l = a_tile[i * STRIDE + ty];
            let a_h = a_tile[i * STRIDE + ROWS + ty];
            let b_l = b_tile[i * STRIDE + tx];
            let b_h = b_tile[i * STRIDE + ROWS + tx];
            //@repeat 4
            ll_0 = fma(vec4<f32>(a_l[0u]), b_l, ll_0);
            lh_0 = fma(vec4<f32>(a_l[0u]), b_h, lh_0);
            hl_0 = fma(vec4<f32>(a_h[0u]), b_l, hl_0);
            hh_0 = fma(vec4<f32>(a_h[0u]), b_h, hh_0);
            //@end
        }
    }
    var bias_l = vec4<f32>(0.0);
    var bias_h = vec4<f32>(0.0);
    let column = n + tx * 4u;
    let half = 4u * ROWS;
    if p.has_bias != 0u {
        bias_l = bias[(g * p.n + min(column, p.n - 4u)) / 4u];
        bias_h = bias[(g * p.n + min(column + half, p.n - 4u)) / 4u];
    }
    let row = m + ty * 4u;
    let at = start_of(p.c, out) + row * p.c.row + column;
    //@repeat 4
    if row + 0u < p.m {
        finish((at + 0u * p.c.row) / 4u, column, ll_0 + bias_l);
        finish((at + 0u * p.c.row + half) / 4u, column + half, lh_0 + bias_h);
    }
    if row + half + 0u < p.m {
        finish((at + (half + 0u) * p.c.row) / 4u, column, hl_0 + bias_l);
        finish((at + (half + 0u) * p.c.row + half) / 4u, column + half, hh_0 + bias_h);
    }
    //@end
}
