// Grouped matrix products, C[g] = A[g] B[g], for GPUs: a workgroup of 8 x 8 lanes owns a block of C, 64 x 64, and walks
// along k, 16 steps at a time. Both operands' steps are copied into workgroup memory; a lane keeps 8 x 8 of C in
// registers and reads four vec4 for 64 multiplications. The next steps are on their way while these are used.
//
//   A     by vec4 along k, or along m (its transpose): read as it lies, four by four, and turned in registers
//   B     the same along n or k
//   C     by vec4 along n
//
// With `splits` over 1 workgroups share the sum of a block of C: each leaves its part in `c`, [groups, splits, m, n],
// which reduce::add_parts adds up, always in the same order. HAS_SUMS gives the sums of A's rows too, [groups, splits, m]:
// for the gradient of a weight, those of its bias.   FLOPs 2 G M N K;   bytes 4 G (M K + K N + M N) at least.

const SIDE: u32 = 64u; // of a block of C
const HALF: u32 = SIDE / 2u;
const QUADS: u32 = SIDE / 4u;
const DEPTH: u32 = 16u;
const STRIDE: u32 = QUADS + 1u; // of a step in workgroup memory: one more than the banks like
override A_ALONG_K: bool = true;
override B_ALONG_K: bool = true;
override HAS_SUMS: bool = false;
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
    add_sums: u32, // sums += instead of =
    pad: u32,
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
@group(0) @binding(6) var<storage, read_write> sums: array<vec4<f32>>;

var<workgroup> a_tile: array<vec4<f32>, DEPTH * STRIDE>;
var<workgroup> b_tile: array<vec4<f32>, DEPTH * STRIDE>;

// Four by four elements of A from row `m` and step `k` on, a vector a step: zero from step `end` on; rows beyond the last
// repeat others. `start` and all addresses count quads.
fn a_block(start: u32, m: u32, k: u32, end: u32) -> mat4x4<f32> {
    var v: mat4x4<f32>;
    if A_ALONG_K {
        if k < end {
            //@repeat 4
            v[0u] = a[start + min(m + 0u, p.m - 1u) * (p.a.row / 4u) + k / 4u];
            //@end
        }
        return transpose(v);
    }
    let at = start + min(m, p.m - 1u) / 4u;
    //@repeat 4
    if k + 0u < end { v[0u] = a[at + (k + 0u) * (p.a.col / 4u)]; }
    //@end
    return v;
}

// The same of B, from column `n` on.
fn b_block(start: u32, n: u32, k: u32, end: u32) -> mat4x4<f32> {
    var v: mat4x4<f32>;
    if B_ALONG_K {
        if k < end {
            //@repeat 4
            v[0u] = b[start + min(n + 0u, p.n - 1u) * (p.b.col / 4u) + k / 4u];
            //@end
        }
        return transpose(v);
    }
    let at = start + min(n, p.n - 1u) / 4u;
    //@repeat 4
    if k + 0u < end { v[0u] = b[at + (k + 0u) * (p.b.row / 4u)]; }
    //@end
    return v;
}

// Where in a tile the four by four of lane `i` go: its steps and its quad, so that neighbours read neighbours.
fn place(i: u32, along_k: bool) -> vec2<u32> {
    return select(vec2<u32>(i / QUADS * 4u, i % QUADS), vec2<u32>(i % 4u * 4u, i / 4u), along_k);
}

fn finish(out: u32, row: u32, column: u32, value: vec4<f32>) {
    if row >= p.m || column >= p.n {
        return;
    }
    let at = (start_of(p.c, out) + row * p.c.row + column) / 4u;
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

@compute @workgroup_size(64)
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
    let a_start = start_of(p.a, g) / 4u;
    let b_start = start_of(p.b, g) / 4u;
    // Of a subgroup of 32, 4 x 8 lanes: the fewest different vectors.
    let tx = lane % 8u;
    let ty = lane / 8u;
    // The lane's quarters of its part of C, low and high rows by low and high columns.
    var ll: mat4x4<f32>;
    var lh: mat4x4<f32>;
    var hl: mat4x4<f32>;
    var hh: mat4x4<f32>;
    // A lane copies four by four of each.
    let a_to = place(lane, A_ALONG_K);
    let b_to = place(lane, B_ALONG_K);
    let a_at = a_to.x * STRIDE + a_to.y;
    let b_at = b_to.x * STRIDE + b_to.y;
    var next_a = a_block(a_start, m + a_to.y * 4u, first + a_to.x, end);
    var next_b = b_block(b_start, n + b_to.y * 4u, first + b_to.x, end);
    var sum = vec4<f32>(0.0);
    for (var k = first; k < end; k += DEPTH) {
        workgroupBarrier();
        //@repeat 4
        a_tile[a_at + 0u * STRIDE] = next_a[0u];
        b_tile[b_at + 0u * STRIDE] = next_b[0u];
        //@end
        if HAS_SUMS { sum += (next_a[0] + next_a[1]) + (next_a[2] + next_a[3]); }
        workgroupBarrier();
        let ahead = k + DEPTH;
        next_a = a_block(a_start, m + a_to.y * 4u, ahead + a_to.x, end);
        next_b = b_block(b_start, n + b_to.y * 4u, ahead + b_to.x, end);
        //@repeat 16
        let al_0 = a_tile[0u * STRIDE + ty];
        let ah_0 = a_tile[0u * STRIDE + 8u + ty];
        let bl_0 = b_tile[0u * STRIDE + tx];
        let bh_0 = b_tile[0u * STRIDE + 8u + tx];
        ll[0] = fma(vec4<f32>(al_0.x), bl_0, ll[0]);
        lh[0] = fma(vec4<f32>(al_0.x), bh_0, lh[0]);
        hl[0] = fma(vec4<f32>(ah_0.x), bl_0, hl[0]);
        hh[0] = fma(vec4<f32>(ah_0.x), bh_0, hh[0]);
        ll[1] = fma(vec4<f32>(al_0.y), bl_0, ll[1]);
        lh[1] = fma(vec4<f32>(al_0.y), bh_0, lh[1]);
        hl[1] = fma(vec4<f32>(ah_0.y), bl_0, hl[1]);
        hh[1] = fma(vec4<f32>(ah_0.y), bh_0, hh[1]);
        ll[2] = fma(vec4<f32>(al_0.z), bl_0, ll[2]);
        lh[2] = fma(vec4<f32>(al_0.z), bh_0, lh[2]);
        hl[2] = fma(vec4<f32>(ah_0.z), bl_0, hl[2]);
        hh[2] = fma(vec4<f32>(ah_0.z), bh_0, hh[2]);
        ll[3] = fma(vec4<f32>(al_0.w), bl_0, ll[3]);
        lh[3] = fma(vec4<f32>(al_0.w), bh_0, lh[3]);
        hl[3] = fma(vec4<f32>(ah_0.w), bl_0, hl[3]);
        hh[3] = fma(vec4<f32>(ah_0.w), bh_0, hh[3]);
        //@end
    }
    var bias_l = vec4<f32>(0.0);
    var bias_h = vec4<f32>(0.0);
    let column = n + tx * 4u;
    if p.has_bias != 0u {
        bias_l = bias[(g * p.n + min(column, p.n - 4u)) / 4u];
        bias_h = bias[(g * p.n + min(column + HALF, p.n - 4u)) / 4u];
    }
    let row = m + ty * 4u;
    //@repeat 4
    finish(out, row + 0u, column, ll[0u] + bias_l);
    finish(out, row + 0u, column + HALF, lh[0u] + bias_h);
    finish(out, row + HALF + 0u, column, hl[0u] + bias_l);
    finish(out, row + HALF + 0u, column + HALF, hh[0u] + bias_h);
    //@end
    if HAS_SUMS {
        workgroupBarrier();
        a_tile[a_to.x / 4u * QUADS + a_to.y] = sum;
        workgroupBarrier();
        let quad = m / 4u + lane;
        if n == 0u && lane < QUADS && quad * 4u < p.m {
            sum = (a_tile[lane] + a_tile[QUADS + lane]) + (a_tile[2u * QUADS + lane] + a_tile[3u * QUADS + lane]);
            let to = out * p.m / 4u + quad;
            if p.add_sums != 0u { sum += sums[to]; }
            sums[to] = sum;
        }
    }
}
