// The products of matmul_tiles.wgsl for drivers to whom workgroup memory is no faster than a buffer (Mesa 22): A is read
// where it lies, four steps of k at a time that are the same for the whole workgroup.
//
//   A     steps side by side; k and every stride divide by 4
//   B     panels (see matmul.wgsl), or any strides
//   C     rows c.row apart; n divides by COLUMNS
//
// A workgroup keeps ROWS x COLUMNS LANES of C in registers over all of k: no barriers, and C is touched once.
// FLOPs 2 G M N K;   bytes 4 G (M K N / (COLUMNS LANES) + K N M / ROWS + M N).

//@include product

@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>;

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
    let column = (block * LANES + lane) * COLUMNS;
    let near = min(column, p.n - COLUMNS);
    let b_col = select(p.b.col, 1u, PACKED);
    let b_row = select(p.b.row, 4u * LANES, PACKED);
    let b_start = select(start_of(p.b, g) + near * b_col, ((g * p.panels + block) * p.k * LANES + lane) * 4u, PACKED);
    let c_start = start_of(p.c, g) + row * p.c.row;
    let a_start = start_of(p.a, g) + row * p.a.row;
    var first = Columns(0.0);
    if p.has_bias != 0u {
        first = bias_at(g * p.n + near);
    }
    //@repeat ROWS
    let a_0 = (a_start + min(0u, rows - 1u) * p.a.row) / 4u;
    var acc_0 = first;
    //@end
    if p.accumulate != 0u {
        //@repeat ROWS
        acc_0 += c_at(c_start + min(0u, rows - 1u) * p.c.row + near);
        //@end
    } else if EPILOGUE == RESIDUAL {
        //@repeat ROWS
        acc_0 += extra_at(c_start + min(0u, rows - 1u) * p.c.row + near);
        //@end
    }
    for (var k = 0u; k < p.k; k += 4u) {
        let m_x = b_at(b_start + k * b_row, b_col);
        let m_y = b_at(b_start + (k + 1u) * b_row, b_col);
        let m_z = b_at(b_start + (k + 2u) * b_row, b_col);
        let m_w = b_at(b_start + (k + 3u) * b_row, b_col);
        // Row after row: the sums of four at once would not stay in registers.
        //@repeat ROWS
        let x_0 = a[a_0 + k / 4u];
        acc_0 = fma(Columns(x_0.x), m_x, acc_0);
        acc_0 = fma(Columns(x_0.y), m_y, acc_0);
        acc_0 = fma(Columns(x_0.z), m_z, acc_0);
        acc_0 = fma(Columns(x_0.w), m_w, acc_0);
        //@end
    }
    if EPILOGUE == SCALED {
        //@repeat ROWS
        acc_0 *= extra_at(c_start + min(0u, rows - 1u) * p.c.row + near);
        //@end
    }
    if column < p.n {
        let at = c_start + column;
        if EPILOGUE == GELU {
            //@repeat ROWS
            if 0u < rows { store_gelu(at + 0u * p.c.row, acc_0); }
            //@end
        } else {
            //@repeat ROWS
            if 0u < rows { store(at + 0u * p.c.row, acc_0); }
            //@end
        }
    }
}
