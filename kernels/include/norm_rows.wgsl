// What the normalisations share: how rows are given out, and a row's values by fours. The file declares p, x, dy, dy_in
// and dx.

// The rows of workgroup `index`: all in one group.
struct Block {
    first: u32,
    end: u32,
    group: u32,
}

fn block_of(index: u32) -> Block {
    let g = index / p.blocks;
    let first = index % p.blocks * p.per;
    return Block(g * p.rows + first, g * p.rows + min(first + p.per, p.rows), g);
}

// The row of a lane of workgroup `index`, if there is one.
struct Row {
    index: u32,
    group: u32,
    there: bool,
}

fn row_of(index: u32, lane: u32) -> Row {
    let g = index / p.blocks;
    let r = index % p.blocks * LANES + lane;
    return Row(g * p.rows + r, g, g < p.groups && r < p.rows);
}

fn x_at(at: u32) -> vec4<f32> {
    return vec4<f32>(x[at], x[at + 1u], x[at + 2u], x[at + 3u]);
}

fn dy_at(at: u32) -> vec4<f32> {
    return vec4<f32>(dy[at], dy[at + 1u], dy[at + 2u], dy[at + 3u]);
}

fn total(v: vec4<f32>) -> f32 {
    return (v.x + v.y) + (v.z + v.w);
}

override ACCUMULATE: bool = false; // backward_x_lanes

fn put_dx(at: u32, value: vec4<f32>) {
    var d = value;
    if ACCUMULATE {
        d += vec4<f32>(dx[at], dx[at + 1u], dx[at + 2u], dx[at + 3u]);
    }
    dx[at] = d.x;
    dx[at + 1u] = d.y;
    dx[at + 2u] = d.z;
    dx[at + 3u] = d.w;
}

// 0, after a look at the next LANES rows of x and dy_in from column `first`, one a lane: on a CPU's vector units one wait
// for memory instead of many.
fn looked(near: u32, end: u32, first: u32, lane: u32) -> f32 {
    let at = min(near + lane, end - 1u) * p.d + first - lane;
    var seen = 0u;
    //@repeat ROWS
    seen |= bitcast<u32>(x[at + 0u * LANES]) | bitcast<u32>(dy_in[at + 0u * LANES]);
    //@end
    return bitcast<f32>(seen & p.nothing);
}
