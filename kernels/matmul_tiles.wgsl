// The products of matmul.wgsl, C[g] = A[g] B[g], for drivers that run on the CPU's vector units (llvmpipe), where a
// uniform load from a buffer costs twice that from workgroup memory and a lane's load is a gather, packed or not.
//
//   A     any strides
//   B     panels (see matmul.wgsl), or any strides
//   C     rows c.row apart; n divides by COLUMNS
//
// A workgroup takes ROWS rows and `blocks` blocks of COLUMNS LANES columns. A pass of 4 STEPS steps of k first copies A's
// tile into workgroup memory, then walks along it block by block, 4 steps at a time. A lane's ROWS x COLUMNS sums of a block
// are an array whose every index is a literal, so that they stay in registers or on its stack: those of up to four blocks
// from pass to pass, because gathers and scatters of C cost a sixth of all. Where one pass is all of k, as many blocks as
// there are follow one another.
// COLUMNS is 4, or 3 or 2 where that leaves fewer lanes idle. Conditions are constants where they can be: this driver runs
// both sides of the others.   FLOPs 2 G M N K;   bytes 4 G (M K N / (COLUMNS LANES blocks) + K N M / ROWS + M N).

const STEPS: u32 = 2048u / ROWS / 16u * 16u; // A's tile is 32 KiB; LANES divides STEPS

//@include product

override HAS_SUMS: bool = false; // sums [groups, m] = the sums of A's rows; A's rows lie side by side
override HELD: u32 = 0u;         // blocks, where there are several passes
override K_FOURS: bool = false;  // k divides by 4, or zeros follow
override COPIED: bool = true;    // else A is read where it lies: a copy pays from two blocks of columns on
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(7) var<storage, read_write> sums: array<f32>;
var<workgroup> tile: array<vec4<f32>, ROWS * STEPS>; // [row][k / 4], zero beyond k

// Four steps of a row of A.
fn a_quad(start: u32, k: u32) -> vec4<f32> {
    if K_FOURS {
        let at = start + min(k, (p.k - 1u) / 4u * 4u) * p.a.col;
        return vec4<f32>(a[at], a[at + p.a.col], a[at + 2u * p.a.col], a[at + 3u * p.a.col]);
    }
    let at = vec4<u32>(start + k * p.a.col) + vec4<u32>(0u, 1u, 2u, 3u) * p.a.col;
    let last = vec4<u32>(start + (p.k - 1u) * p.a.col);
    let near = min(at, last);
    return select(vec4<f32>(0.0), vec4<f32>(a[near.x], a[near.y], a[near.z], a[near.w]), at <= last);
}

// Buffers by number, always a literal, so that one branch is left where a function is used.
const A: u32 = 0u;
const B: u32 = 1u;
const C: u32 = 2u;
const EXTRA: u32 = 3u;

fn load(which: u32, at: u32) -> f32 {
    switch which {
        case A: { return a[at]; }
        case B: { return b[at]; }
        case C: { return c[at]; }
        default: { return extra[at]; }
    }
}

//@include look

alias Sums = array<Columns, ROWS>;

// A workgroup's rows of C, and where A and B of its group and those rows begin.
struct Place {
    g: u32,
    row: u32,
    rows: u32,
    a: u32,
    b: u32,
    c: u32,
    b_row: u32, // strides of B
    b_col: u32,
}

// A look at the lines of A's tile from step k0 of k.
fn look_at_a(at: Place, k0: u32, lane: u32) -> u32 {
    let ks = min(4u * STEPS, p.k - k0);
    let flat = p.a.row == 1u;
    return look(A, at.a + at.row * p.a.row + k0 * p.a.col, select(p.a.row, p.a.col, flat), select(at.rows, ks, flat),
                select(ks, at.rows, flat), lane);
}

// A's tile from step k0 of k into workgroup memory, `summed`: and its rows' sums. Lanes side by side read what lies side by
// side in A. What they copy beyond the last step nobody reads.
fn copy_tile(at: Place, k0: u32, steps: u32, summed: bool, lane: u32) {
    if p.a.row == 1u {
        for (var r0 = 0u; r0 < ROWS; r0 += LANES) {
            let r = min(r0 + lane, ROWS - 1u);
            let start = at.a + min(at.row + r, p.m - 1u);
            var sum = vec4<f32>(0.0);
            for (var s = 0u; s < steps; s += 2u) {
                let x = a_quad(start, k0 + 4u * s);
                let y = a_quad(start, k0 + 4u * s + 4u);
                tile[r * STEPS + s] = x;
                tile[r * STEPS + s + 1u] = y;
                sum += x + select(vec4<f32>(0.0), y, s + 1u < steps);
            }
            if HAS_SUMS && summed && r0 + lane < at.rows {
                let to = at.g * p.m + at.row + r;
                let before = select(0.0, sums[to], k0 > 0u || p.add_sums != 0u);
                sums[to] = before + ((sum.x + sum.y) + (sum.z + sum.w));
            }
        }
        return;
    }
    // Lanes go on from row to row, so that none is idle where rows are short; beyond the last row it is copied again.
    let down = LANES / steps;
    let along = LANES % steps;
    var r = lane / steps;
    var s = lane % steps;
    for (var left = at.rows * steps; left > 0u; left -= min(left, LANES)) {
        let near = min(r, at.rows - 1u);
        tile[near * STEPS + s] = a_quad(at.a + (at.row + near) * p.a.row, k0 + 4u * s);
        let over = s + along >= steps;
        r += down + select(0u, 1u, over);
        s += along - select(0u, steps, over);
    }
}

// A lane's first column of a block.
fn column_of(block: u32, lane: u32) -> u32 {
    return (block * LANES + lane) * COLUMNS;
}

// What a block's sums begin with; `before` was seen.
fn begin(acc: ptr<function, Sums>, at: Place, block: u32, before: u32, lane: u32) {
    let left = min(block * LANES * COLUMNS, p.n);
    let near = min(column_of(block, lane), p.n - COLUMNS);
    let width = min(LANES * COLUMNS, p.n - left);
    var seen = before | look(C, at.c + left, p.c.row, at.rows, width, lane);
    if EPILOGUE != PLAIN {
        seen |= look(EXTRA, at.c + left, p.c.row, at.rows, width, lane);
    }
    var first = Columns(bitcast<f32>(seen & p.nothing));
    if p.has_bias != 0u {
        first += bias_at(at.g * p.n + near);
    }
    //@repeat ROWS
    (*acc)[0u] = first;
    //@end
    if p.accumulate != 0u {
        //@repeat ROWS
        (*acc)[0u] += c_at(at.c + min(0u, at.rows - 1u) * p.c.row + near);
        //@end
    } else if EPILOGUE == RESIDUAL {
        //@repeat ROWS
        (*acc)[0u] += extra_at(at.c + min(0u, at.rows - 1u) * p.c.row + near);
        //@end
    }
}

// Adds `steps` fours of steps of k from k0 to a block's sums.
fn walk(acc: ptr<function, Sums>, at: Place, block: u32, k0: u32, steps: u32, lane: u32) {
    let last = p.k - 1u;
    let near = min(column_of(block, lane), p.n - COLUMNS);
    let b_near = select(at.b + near * at.b_col, ((at.g * p.panels + block) * p.k * LANES + lane) * 4u, PACKED);
    for (var s = 0u; s < steps; s += 1u) {
        let k = k0 + 4u * s;
        let m_x = b_at(b_near + k * at.b_row, at.b_col);
        let ks = vec4<u32>(k, k + 1u, k + 2u, k + 3u);
        let near_k = min(ks, vec4<u32>(last));
        var m_y = b_at(b_near + near_k.y * at.b_row, at.b_col);
        var m_z = b_at(b_near + near_k.z * at.b_row, at.b_col);
        var m_w = b_at(b_near + near_k.w * at.b_row, at.b_col);
        let a_at = vec4<u32>(at.a + at.row * p.a.row) + near_k * p.a.col;
        if !COPIED {
            let there = vec4<f32>(ks <= vec4<u32>(last));
            m_y *= there.y;
            m_z *= there.z;
            m_w *= there.w;
        }
        //@repeat ROWS
        var x_0: vec4<f32>;
        if COPIED {
            x_0 = tile[0u * STEPS + s];
        } else {
            let r_0 = min(0u, at.rows - 1u) * p.a.row;
            x_0 = vec4<f32>(a[a_at.x + r_0], a[a_at.y + r_0], a[a_at.z + r_0], a[a_at.w + r_0]);
        }
        (*acc)[0u] = fma(Columns(x_0.x), m_x, (*acc)[0u]);
        (*acc)[0u] = fma(Columns(x_0.y), m_y, (*acc)[0u]);
        (*acc)[0u] = fma(Columns(x_0.z), m_z, (*acc)[0u]);
        (*acc)[0u] = fma(Columns(x_0.w), m_w, (*acc)[0u]);
        //@end
    }
}

// Sums into C, by the epilogue.
fn finish(acc: ptr<function, Sums>, at: Place, block: u32, lane: u32) {
    let column = column_of(block, lane);
    let near = min(column, p.n - COLUMNS);
    if EPILOGUE == SCALED {
        //@repeat ROWS
        (*acc)[0u] *= extra_at(at.c + min(0u, at.rows - 1u) * p.c.row + near);
        //@end
    }
    if column < p.n {
        if EPILOGUE == GELU {
            //@repeat ROWS
            if 0u < at.rows { store_gelu(at.c + column + 0u * p.c.row, (*acc)[0u]); }
            //@end
        } else {
            //@repeat ROWS
            if 0u < at.rows { store(at.c + column + 0u * p.c.row, (*acc)[0u]); }
            //@end
        }
    }
}

@compute @workgroup_size(LANES)
fn product(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let index = group_index(id, groups);
    let row = (index % p.row_blocks) * ROWS;
    let g = index / p.row_blocks / p.spans;
    if g >= p.groups {
        return;
    }
    let first = (index / p.row_blocks % p.spans) * p.blocks;
    let end = min(first + p.blocks, p.panels);
    let at = Place(g, row, min(ROWS, p.m - row), start_of(p.a, g), start_of(p.b, g), start_of(p.c, g) + row * p.c.row,
                  select(p.b.row, 4u * LANES, PACKED), select(p.b.col, 1u, PACKED));
    var one: Sums;
    var two: Sums;
    var three: Sums;
    var four: Sums;
    if HELD == 0u {
        let seen = look_at_a(at, 0u, lane);
        let steps = (p.k + 3u) / 4u;
        if COPIED {
            copy_tile(at, 0u, steps, first == 0u, lane);
        }
        // Without a barrier the driver makes slower code of what follows, by a third.
        workgroupBarrier();
        for (var block = first; block < end; block += 1u) {
            begin(&one, at, block, seen, lane);
            walk(&one, at, block, 0u, steps, lane);
            finish(&one, at, block, lane);
        }
        return;
    }
    begin(&one, at, first, 0u, lane);
    if HELD > 1u { begin(&two, at, first + 1u, 0u, lane); }
    if HELD > 2u { begin(&three, at, first + 2u, 0u, lane); }
    if HELD > 3u { begin(&four, at, first + 3u, 0u, lane); }
    for (var k0 = 0u; k0 < p.k; k0 += 4u * STEPS) {
        let steps = min(STEPS, (p.k - k0 + 3u) / 4u);
        var seen = look_at_a(at, k0, lane);
        // With more blocks of rows, others have read B into the cache.
        if p.row_blocks <= 8u && p.b.col == 1u {
            let left = first * LANES * COLUMNS;
            let width = min(HELD * LANES * COLUMNS, p.n - left);
            seen |= look(B, at.b + left + k0 * at.b_row, at.b_row, min(4u * STEPS, p.k - k0), width, lane);
        }
        workgroupBarrier();
        copy_tile(at, k0, steps, first == 0u, lane);
        workgroupBarrier();
        one[0u] += bitcast<f32>(seen & p.nothing);
        walk(&one, at, first, k0, steps, lane);
        if HELD > 1u { walk(&two, at, first + 1u, k0, select(0u, steps, first + 1u < end), lane); }
        if HELD > 2u { walk(&three, at, first + 2u, k0, select(0u, steps, first + 2u < end), lane); }
        if HELD > 3u { walk(&four, at, first + 3u, k0, select(0u, steps, first + 3u < end), lane); }
    }
    finish(&one, at, first, lane);
    if HELD > 1u { finish(&two, at, first + 1u, lane); }
    if HELD > 2u { finish(&three, at, first + 2u, lane); }
    if HELD > 3u { finish(&four, at, first + 3u, lane); }
}
