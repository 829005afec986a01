// Grouped matrix products, C[g] = A[g] B[g], on any device and in any shape; matmul_tiles.wgsl does the same faster
// where it can. One idea: B is packed into panels once, and a
// workgroup then keeps ROWS x (4 LANES) of C in registers while it walks along k.
//
//   A     any strides: element (m, k) at a_row m + a_col k, so that A or its transpose is read as it lies
//   B     panels [N / (4 LANES)][K][LANES] of vec4, zero beyond N
//   C     rows c_row apart
//
// A lane owns four columns and ROWS rows: per k one vec4 of B (its neighbours' lie beside it) and ROWS values of A
// that are the same for the whole workgroup. No shared memory, no barriers. Workgroups run along m first, so that
// neighbours share a panel.   FLOPs 2 G M N K;   bytes 4 G (M K + K N + M N) at least.

override LANES: u32 = 8u;
const ROWS: u32 = 1u;
alias Values = vec4<f32>; // of gelu

//@include lie
//@include epilogue

struct P {
    m: u32,
    n: u32,
    k: u32,
    row_blocks: u32,
    panels: u32,
    groups: u32,
    accumulate: u32,
    has_bias: u32,
    a: Lie,
    c: Lie,
}
@group(0) @binding(0) var<uniform> p: P;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> bias: array<f32>; // [groups, n]
@group(0) @binding(4) var<storage, read_write> c: array<f32>;
@group(0) @binding(5) var<storage, read_write> extra: array<f32>; // as c

//@include grid
//@include gelu

fn bias_at(g: u32, column: u32) -> vec4<f32> {
    if p.has_bias == 0u {
        return vec4<f32>(0.0);
    }
    let at = g * p.n;
    let last = p.n - 1u;
    return vec4<f32>(bias[at + min(column, last)], bias[at + min(column + 1u, last)],
                     bias[at + min(column + 2u, last)], bias[at + min(column + 3u, last)]);
}

fn finish(at: u32, value: f32, slope: f32) {
    switch EPILOGUE {
        case RESIDUAL: {
            c[at] = extra[at] + value;
        }
        case GELU: {
            c[at] = value;
            extra[at] = slope;
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

fn store(at: u32, column: u32, value: vec4<f32>) {
    var g = Gelu(value, Values(0.0));
    if EPILOGUE == GELU {
        g = gelu(value);
    }
    if column < p.n { finish(at, g.y.x, g.slope.x); }
    if column + 1u < p.n { finish(at + 1u, g.y.y, g.slope.y); }
    if column + 2u < p.n { finish(at + 2u, g.y.z, g.slope.z); }
    if column + 3u < p.n { finish(at + 3u, g.y.w, g.slope.w); }
}

@compute @workgroup_size(LANES)
fn product(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let index = group_index(id, groups);
    let row = (index % p.row_blocks) * ROWS;
    let panel = index / p.row_blocks; // over all groups
    let g = panel / p.panels;
    if g >= p.groups {
        return;
    }
    let column = ((panel % p.panels) * LANES + lane) * 4u;
    let start = start_of(p.a, g);
    let first = bias_at(g, column);
    //@repeat ROWS
    let row_0 = start + min(row + 0u, p.m - 1u) * p.a.row;
    var acc_0 = first;
    //@end
    var at_b = panel * p.k * LANES + lane;
    for (var k = 0u; k < p.k; k += 1u) {
        let v = b[at_b];
        let ka = k * p.a.col;
        //@repeat ROWS
        acc_0 = fma(vec4<f32>(a[row_0 + ka]), v, acc_0);
        //@end
        at_b += LANES;
    }
    let out = start_of(p.c, g) + row * p.c.row + column;
    //@repeat ROWS
    if row + 0u < p.m { store(out + 0u * p.c.row, column, acc_0); }
    //@end
}

struct Pack {
    n: u32,
    k: u32,
    panels: u32,
    groups: u32,
    chunks: u32,  // workgroups a panel
    columns: u32, // a lane: 4, or fewer of which the last is not used
    nothing: u32, // 0, which the driver does not know
    pad: u32,
    b: Lie, // row: from one k to the next; col: from one n to the next
}
@group(0) @binding(0) var<uniform> q: Pack;
@group(0) @binding(1) var<storage, read> source: array<f32>;
@group(0) @binding(2) var<storage, read_write> packed: array<vec4<f32>>;

const CHUNK: u32 = 64u;
const SOURCE: u32 = 0u;

fn load(which: u32, at: u32) -> f32 {
    return source[at];
}

//@include look

// B of any strides into panels: a workgroup CHUNK steps of k of a panel, a lane four columns.
@compute @workgroup_size(LANES)
fn pack(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let index = group_index(id, groups);
    let panel = index / q.chunks;
    let g = panel / q.panels;
    if g >= q.groups {
        return;
    }
    let n = vec4<u32>(((panel % q.panels) * LANES + lane) * q.columns) + vec4<u32>(0u, 1u, 2u, 3u);
    var at = vec4<u32>(start_of(q.b, g)) + min(n, vec4<u32>(q.n - 1u)) * q.b.col;
    let first = index % q.chunks * CHUNK;
    let end = min(first + CHUNK, q.k);
    at += first * q.b.row;
    var zero = 0.0;
    if LANES < 64u && q.b.col == 1u {
        let wide = LANES * q.columns;
        let corner = start_of(q.b, g) + (panel % q.panels) * wide + first * q.b.row;
        zero = bitcast<f32>(look(SOURCE, corner, q.b.row, end - first, wide, lane) & q.nothing);
    }
    for (var k = first; k < end; k += 1u) {
        let value = vec4<f32>(source[at.x], source[at.y], source[at.z], source[at.w]);
        packed[(panel * q.k + k) * LANES + lane] = select(vec4<f32>(0.0), value + zero, n < vec4<u32>(q.n));
        at += q.b.row;
    }
}

struct Sum {
    rows: u32,
    n: u32,
    groups: u32,
    blocks: u32, // workgroups a group
    accumulate: u32,
    pad_a: u32,
    pad_b: u32,
    pad_c: u32,
    terms: Lie,
}
@group(0) @binding(0) var<uniform> s: Sum;
@group(0) @binding(1) var<storage, read> terms: array<f32>;
@group(0) @binding(2) var<storage, read_write> sums: array<f32>; // [groups, n]

// sums[g, n] = sum over rows, the gradient of a bias: four columns a lane.
@compute @workgroup_size(LANES)
fn column_sums(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
               @builtin(local_invocation_index) lane: u32) {
    let index = group_index(id, groups);
    let g = index / s.blocks;
    let first = ((index % s.blocks) * LANES + lane) * 4u;
    if g >= s.groups || first >= s.n {
        return;
    }
    let n = min(vec4<u32>(first) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(s.n - 1u));
    var sum = vec4<f32>(0.0);
    var at = vec4<u32>(start_of(s.terms, g)) + n;
    for (var r = 0u; r < s.rows; r += 1u) {
        sum += vec4<f32>(terms[at.x], terms[at.y], terms[at.z], terms[at.w]);
        at += s.terms.row;
    }
    let to = vec4<u32>(g * s.n) + n;
    if s.accumulate != 0u {
        sum += vec4<f32>(sums[to.x], sums[to.y], sums[to.z], sums[to.w]);
    }
    // Columns beyond the last repeat it, value and all.
    sums[to.x] = sum.x;
    sums[to.y] = sum.y;
    sums[to.z] = sum.z;
    sums[to.w] = sum.w;
}
