// How a matrix of every group lies: element (row, col) of group g is at start_of(lie, g) + row lie.row + col lie.col,
// so that A or its transpose is read as it lies and the experts' rows may lie one beside the other.
struct Lie {
    row: u32,
    col: u32,
    outer: u32,
    inner_stride: u32,
    inner: u32,
    first: u32, // the number of the binding's first group
    base: u32,
    pad: u32,
}

fn start_of(lie: Lie, g: u32) -> u32 {
    let index = lie.first + g;
    return lie.base + index / lie.inner * lie.outer + index % lie.inner * lie.inner_stride;
}
