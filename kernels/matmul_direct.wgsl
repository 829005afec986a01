// The products of matmul_tiles.wgsl where a workgroup's rows of A would serve so few columns that copying them into
// workgroup memory costs more than it saves. A is read where it lies, a vec4 at a time that is the same for the whole
// workgroup: four steps of k of a row or, with ACROSS, four rows at a step.
//
//   A     steps side by side, or rows side by side (ACROSS); every other stride, and what lies side by side, divides by 4
//   B     panels (see matmul.wgsl), or any strides
//   C     rows c.row apart; n divides by COLUMNS
//
// A workgroup keeps ROWS x COLUMNS LANES of C in registers over all of k: no barriers, and C is touched once.
// FLOPs 2 G M N K;   bytes 4 G (M K N / (COLUMNS LANES) + K N M / ROWS + M N).

override ACROSS: bool = false;

//@include product

@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>;

// Four steps of the first of four rows, given one vec4 of each row (then `own` is it) or of each step.
fn steps_of(own: vec4<f32>, x: f32, y: f32, z: f32, w: f32) -> vec4<f32> {
    if ACROSS {
        return vec4<f32>(x, y, z, w);
    }
    return own;
}

// B at a step; zero beyond the last.
fn b_step(at: u32, k: u32, row: u32, col: u32) -> Columns {
    if K_FOURS {
        return b_at(at + k * row, col);
    }
    return select(Columns(0.0), b_at(at + min(k, p.k - 1u) * row, col), k < p.k);
}

@compute @workgroup_size(LANES)
fn product(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let index = group_index(id, groups);
    let row = (index % p.row_blocks) * ROWS;
    let block = index / p.row_blocks % p.panels;
    let g = index / p.row_blocks / p.panels;
    if g >= p.groups {
        return;
    }
    let rows = min(ROWS, p.m - row);
    let last = p.m - 1u;
    let column = (block * LANES + lane) * COLUMNS;
    let near = min(column, p.n - COLUMNS);
    let b_col = select(p.b.col, 1u, PACKED);
    let b_row = select(p.b.row, 4u * LANES, PACKED);
    let b_start = select(start_of(p.b, g) + near * b_col, ((g * p.panels + block) * p.k * LANES + lane) * 4u, PACKED);
    let c_start = start_of(p.c, g) + row * p.c.row;
    let a_start = start_of(p.a, g);
    var first = Columns(0.0);
    if p.has_bias != 0u {
        first = bias_at(g * p.n + near);
    }
    // Of rows 4 i, 4 i + 1, ...: where A begins, and the sums.
    //@repeat QUADS
    let r_0 = row + 4u * 0u;
    let ax_0 = (a_start + min(r_0, select(last, p.m - 4u, ACROSS)) * p.a.row) / 4u;
    let ay_0 = select((a_start + min(r_0 + 1u, last) * p.a.row) / 4u, ax_0, ACROSS);
    let az_0 = select((a_start + min(r_0 + 2u, last) * p.a.row) / 4u, ax_0, ACROSS);
    let aw_0 = select((a_start + min(r_0 + 3u, last) * p.a.row) / 4u, ax_0, ACROSS);
    var sx_0 = first;
    var sy_0 = first;
    var sz_0 = first;
    var sw_0 = first;
    //@end
    if p.accumulate != 0u {
        //@repeat QUADS
        sx_0 += c_at(c_start + min(4u * 0u, rows - 1u) * p.c.row + near);
        sy_0 += c_at(c_start + min(4u * 0u + 1u, rows - 1u) * p.c.row + near);
        sz_0 += c_at(c_start + min(4u * 0u + 2u, rows - 1u) * p.c.row + near);
        sw_0 += c_at(c_start + min(4u * 0u + 3u, rows - 1u) * p.c.row + near);
        //@end
    } else if EPILOGUE == RESIDUAL {
        //@repeat QUADS
        sx_0 += extra_at(c_start + min(4u * 0u, rows - 1u) * p.c.row + near);
        sy_0 += extra_at(c_start + min(4u * 0u + 1u, rows - 1u) * p.c.row + near);
        sz_0 += extra_at(c_start + min(4u * 0u + 2u, rows - 1u) * p.c.row + near);
        sw_0 += extra_at(c_start + min(4u * 0u + 3u, rows - 1u) * p.c.row + near);
        //@end
    }
    for (var k = 0u; k < p.k; k += 4u) {
        let m_x = b_step(b_start, k, b_row, b_col);
        let m_y = b_step(b_start, k + 1u, b_row, b_col);
        let m_z = b_step(b_start, k + 2u, b_row, b_col);
        let m_w = b_step(b_start, k + 3u, b_row, b_col);
        let last_k = p.k - 1u;
        let k_x = select(k, k * p.a.col, ACROSS) / 4u;
        let k_y = select(k, min(k + 1u, last_k) * p.a.col, ACROSS) / 4u;
        let k_z = select(k, min(k + 2u, last_k) * p.a.col, ACROSS) / 4u;
        let k_w = select(k, min(k + 3u, last_k) * p.a.col, ACROSS) / 4u;
        //@repeat QUADS
        let ox_0 = a[ax_0 + k_x];
        let oy_0 = a[ay_0 + k_y];
        let oz_0 = a[az_0 + k_z];
        let ow_0 = a[aw_0 + k_w];
        let x_0 = steps_of(ox_0, ox_0.x, oy_0.x, oz_0.x, ow_0.x);
        let y_0 = steps_of(oy_0, ox_0.y, oy_0.y, oz_0.y, ow_0.y);
        let z_0 = steps_of(oz_0, ox_0.z, oy_0.z, oz_0.z, ow_0.z);
        let w_0 = steps_of(ow_0, ox_0.w, oy_0.w, oz_0.w, ow_0.w);
        sx_0 = fma(Columns(x_0.x), m_x, sx_0);
        sy_0 = fma(Columns(y_0.x), m_x, sy_0);
        sz_0 = fma(Columns(z_0.x), m_x, sz_0);
        sw_0 = fma(Columns(w_0.x), m_x, sw_0);
        sx_0 = fma(Columns(x_0.y), m_y, sx_0);
        sy_0 = fma(Columns(y_0.y), m_y, sy_0);
        sz_0 = fma(Columns(z_0.y), m_y, sz_0);
        sw_0 = fma(Columns(w_0.y), m_y, sw_0);
        sx_0 = fma(Columns(x_0.z), m_z, sx_0);
        sy_0 = fma(Columns(y_0.z), m_z, sy_0);
        sz_0 = fma(Columns(z_0.z), m_z, sz_0);
        sw_0 = fma(Columns(w_0.z), m_z, sw_0);
        sx_0 = fma(Columns(x_0.w), m_w, sx_0);
        sy_0 = fma(Columns(y_0.w), m_w, sy_0);
        sz_0 = fma(Columns(z_0.w), m_w, sz_0);
        sw_0 = fma(Columns(w_0.w), m_w, sw_0);
        //@end
    }
    if column < p.n {
        let at = c_start + column;
        //@repeat QUADS
        if 4u * 0u < rows { store(at + 4u * 0u * p.c.row, sx_0); }
        if 4u * 0u + 1u < rows { store(at + (4u * 0u + 1u) * p.c.row, sy_0); }
        if 4u * 0u + 2u < rows { store(at + (4u * 0u + 2u) * p.c.row, sz_0); }
        if 4u * 0u + 3u < rows { store(at + (4u * 0u + 3u) * p.c.row, sw_0); }
        //@end
        finish_rows(at, rows);
    }
    if HAS_SUMS && block == 0u {
        // A lane a row; four partial sums, since k may be long.
        for (var r = lane; r < rows; r += LANES) {
            let start = a_start + row + r;
            var sum = vec4<f32>(0.0);
            for (var k = 0u; k < p.k; k += 4u) {
                let steps = vec4<u32>(k) + vec4<u32>(0u, 1u, 2u, 3u);
                let at = vec4<u32>(start) + min(steps, vec4<u32>(p.k - 1u)) * p.a.col;
                let four = vec4<f32>(a[at.x / 4u][at.x % 4u], a[at.y / 4u][at.y % 4u], a[at.z / 4u][at.z % 4u],
                                     a[at.w / 4u][at.w % 4u]);
                sum += select(vec4<f32>(0.0), four, steps < vec4<u32>(p.k));
            }
            let to = g * p.m + row + r;
            let before = select(0.0, sums[to], p.add_sums != 0u);
            sums[to] = before + ((sum.x + sum.y) + (sum.z + sum.w));
        }
    }
}
