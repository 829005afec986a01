// What the products of software devices share: sizes, bindings and how a lane reads and writes its columns. The file
// declares `a`.

override LANES: u32 = 16u;
override PACKED: bool = false;
const ROWS: u32 = 1u;
const COLUMNS: u32 = 4u;
alias Columns = vec4<f32>;
alias Values = Columns; // of gelu

//@include lie
//@include epilogue
//@include grid
//@include gelu

struct P {
    m: u32,
    n: u32,
    k: u32,
    row_blocks: u32,
    spans: u32,  // workgroups side by side along n
    blocks: u32, // blocks of columns each of them walks
    groups: u32,
    accumulate: u32,
    has_bias: u32,
    panels: u32,
    add_sums: u32, // sums += instead of =
    nothing: u32, // 0, which the driver does not know
    a: Lie,
    b: Lie,
    c: Lie,
}
@group(0) @binding(0) var<uniform> p: P;
@group(0) @binding(2) var<storage, read> b: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>; // [groups, n]
@group(0) @binding(4) var<storage, read_write> c: array<f32>;
@group(0) @binding(5) var<storage, read_write> extra: array<f32>; // as c
@group(0) @binding(6) var<storage, read> panels: array<vec4<f32>>; // b again: older drivers load a vec4 at the cost of one

fn b_at(at: u32, column: u32) -> Columns {
    var v: Columns;
    if PACKED {
        let quad = panels[at / 4u];
        //@repeat COLUMNS
        v[0u] = quad[0u];
        //@end
    } else {
        //@repeat COLUMNS
        v[0u] = b[at + 0u * column];
        //@end
    }
    return v;
}

fn bias_at(at: u32) -> Columns {
    var v: Columns;
    //@repeat COLUMNS
    v[0u] = bias[at + 0u];
    //@end
    return v;
}

// Between passes sums wait in c.
fn c_at(at: u32) -> Columns {
    var v: Columns;
    //@repeat COLUMNS
    v[0u] = c[at + 0u];
    //@end
    return v;
}

fn extra_at(at: u32) -> Columns {
    var v: Columns;
    //@repeat COLUMNS
    v[0u] = extra[at + 0u];
    //@end
    return v;
}

fn store(at: u32, v: Columns) {
    //@repeat COLUMNS
    c[at + 0u] = v[0u];
    //@end
}

fn store_gelu(at: u32, v: Columns) {
    let g = gelu(v);
    //@repeat COLUMNS
    c[at + 0u] = g.y[0u];
    extra[at + 0u] = g.slope[0u];
    //@end
}
