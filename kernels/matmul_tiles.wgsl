// The products of matmul.wgsl, C[g] = A[g] B[g], for drivers that run on the CPU's vector units (llvmpipe), where a
// uniform load from a buffer costs twice that from workgroup memory and a lane's load is a gather, packed or not.
//
//   A     any strides
//   B     panels (see matmul.wgsl), or any strides
//   C     rows c.row apart; n divides by COLUMNS
//
// A workgroup takes ROWS rows and walks `blocks` blocks of COLUMNS LANES columns. A pass of 4 STEPS steps of k first
// copies A's tile into workgroup memory, then keeps ROWS x COLUMNS sums a lane in registers while it multiplies 4 steps
// at a time; between passes the sums wait in C. B's share of a pass stays in the L2 cache. Two barriers a pass.
// COLUMNS is 4, or 3 where that leaves fewer lanes idle. Conditions are constants where they can be: this driver runs
// both sides of the others.   FLOPs 2 G M N K;
// bytes 4 G (M K N / (COLUMNS LANES blocks) + K N M / ROWS + 2 M N K / (4 STEPS)).

const STEPS: u32 = 2048u / ROWS / 16u * 16u; // A's tile is 32 KiB; LANES divides STEPS

//@include product

override HAS_SUMS: bool = false; // sums [groups, m] = the sums of A's rows; A's rows lie side by side
override K_FOURS: bool = false;  // k divides by 4, or zeros follow
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(7) var<storage, read_write> sums: array<f32>;
var<workgroup> tile: array<vec4<f32>, ROWS * STEPS>; // [row][k / 4], zero beyond k

// Four steps of a row of A.
fn a_quad(start: u32, k: u32) -> vec4<f32> {
    if K_FOURS {
        let at = start + min(k, (p.k - 1u) / 4u * 4u) * p.a.col;
        return vec4<f32>(a[at], a[at + p.a.col], a[at + 2u * p.a.col], a[at + 3u * p.a.col]);
    }
    let steps = vec4<u32>(k) + vec4<u32>(0u, 1u, 2u, 3u);
    let near = vec4<u32>(start) + min(steps, vec4<u32>(p.k - 1u)) * p.a.col;
    return select(vec4<f32>(0.0), vec4<f32>(a[near.x], a[near.y], a[near.z], a[near.w]), steps < vec4<u32>(p.k));
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

@compute @workgroup_size(LANES)
fn product(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let index = group_index(id, groups);
    let row = (index % p.row_blocks) * ROWS;
    let g = index / p.row_blocks / p.spans;
    if g >= p.groups {
        return;
    }
    let first_block = (index / p.row_blocks % p.spans) * p.blocks;
    let blocks = min(p.blocks, p.panels - first_block);
    let last = p.k - 1u;
    let a_start = start_of(p.a, g);
    let b_start = start_of(p.b, g);
    let b_col = select(p.b.col, 1u, PACKED);
    let b_row = select(p.b.row, 4u * LANES, PACKED);
    let c_row = p.c.row;
    let c_start = start_of(p.c, g) + row * c_row;
    let rows = min(ROWS, p.m - row); // of C
    for (var k0 = 0u; k0 < p.k; k0 += 4u * STEPS) {
        let steps = min(STEPS, (p.k - k0 + 3u) / 4u);
        let ks = min(4u * STEPS, p.k - k0);
        let flat = p.a.row == 1u;
        var seen = look(A, a_start + row * p.a.row + k0 * p.a.col, select(p.a.row, p.a.col, flat),
                        select(rows, ks, flat), select(ks, rows, flat), lane);
        // With more blocks of rows, others have read B into the cache.
        if p.row_blocks <= 2u && p.b.col == 1u {
            let left = first_block * LANES * COLUMNS;
            let width = min(blocks * LANES * COLUMNS, p.n - left);
            seen |= look(B, b_start + left + k0 * b_row, b_row, ks, width, lane);
        }
        workgroupBarrier();
        // Lanes side by side read what lies side by side in A. What they copy beyond the last step nobody reads.
        if flat {
            for (var r0 = 0u; r0 < ROWS; r0 += LANES) {
                let r = min(r0 + lane, ROWS - 1u);
                let start = a_start + min(row + r, p.m - 1u);
                var sum = vec4<f32>(0.0);
                for (var s = 0u; s < steps; s += 2u) {
                    let x = a_quad(start, k0 + 4u * s);
                    let y = a_quad(start, k0 + 4u * s + 4u);
                    tile[r * STEPS + s] = x;
                    tile[r * STEPS + s + 1u] = y;
                    sum += x + select(vec4<f32>(0.0), y, s + 1u < steps);
                }
                if HAS_SUMS && first_block == 0u && r0 + lane < rows {
                    let at = g * p.m + row + r;
                    let before = select(0.0, sums[at], k0 > 0u || p.add_sums != 0u);
                    sums[at] = before + ((sum.x + sum.y) + (sum.z + sum.w));
                }
            }
        } else {
            var start = a_start + row * p.a.row;
            var to = lane;
            for (var left = rows; left > 0u; left -= 1u) {
                for (var s = 0u; s < steps; s += LANES) {
                    tile[to + s] = a_quad(start, k0 + 4u * (s + lane));
                }
                start += p.a.row;
                to += STEPS;
            }
        }
        workgroupBarrier();
        for (var j = 0u; j < blocks; j += 1u) {
            let block = first_block + j;
            let column = (block * LANES + lane) * COLUMNS;
            let near = min(column, p.n - COLUMNS);
            var first = Columns(0.0);
            if p.has_bias != 0u && k0 == 0u {
                first = bias_at(g * p.n + near);
            }
            if k0 == 0u {
                let left = block * LANES * COLUMNS;
                let width = min(LANES * COLUMNS, p.n - left);
                seen |= look(C, c_start + left, c_row, rows, width, lane);
                if EPILOGUE != PLAIN {
                    seen |= look(EXTRA, c_start + left, c_row, rows, width, lane);
                }
            }
            first += bitcast<f32>(seen & p.nothing);
            //@repeat ROWS
            var acc_0 = first;
            //@end
            if k0 > 0u || p.accumulate != 0u {
                //@repeat ROWS
                acc_0 += c_at(c_start + min(0u, rows - 1u) * c_row + near);
                //@end
            } else if EPILOGUE == RESIDUAL {
                //@repeat ROWS
                acc_0 += extra_at(c_start + min(0u, rows - 1u) * c_row + near);
                //@end
            }
            let b_near = select(b_start + near * b_col, ((g * p.panels + block) * p.k * LANES + lane) * 4u, PACKED);
            for (var s = 0u; s < steps; s += 1u) {
                let k = k0 + 4u * s;
                let m_x = b_at(b_near + k * b_row, b_col);
                let m_y = b_at(b_near + min(k + 1u, last) * b_row, b_col);
                let m_z = b_at(b_near + min(k + 2u, last) * b_row, b_col);
                let m_w = b_at(b_near + min(k + 3u, last) * b_row, b_col);
                //@repeat ROWS
                let x_0 = tile[0u * STEPS + s];
                acc_0 = fma(Columns(x_0.x), m_x, acc_0);
                acc_0 = fma(Columns(x_0.y), m_y, acc_0);
                acc_0 = fma(Columns(x_0.z), m_z, acc_0);
                acc_0 = fma(Columns(x_0.w), m_w, acc_0);
                //@end
            }
            if EPILOGUE == SCALED && k0 + 4u * STEPS >= p.k {
                //@repeat ROWS
                acc_0 *= extra_at(c_start + min(0u, rows - 1u) * c_row + near);
                //@end
            }
            if column < p.n {
                let at = c_start + column;
                if EPILOGUE == GELU && k0 + 4u * STEPS >= p.k {
                    //@repeat ROWS
                    if 0u < rows { store_gelu(at + 0u * c_row, acc_0); }
                    //@end
                } else {
                    //@repeat ROWS
                    if 0u < rows { store(at + 0u * c_row, acc_0); }
                    //@end
                }
            }
        }
    }
}
