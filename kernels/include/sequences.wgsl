// Attentions over many sequences: sizes, and how each tensor's rows lie. Element (z, row, i) of a tensor is at
// start(lie, z) + row lie.row + i.
struct Lie {
    outer: u32,
    inner: u32,
    row: u32,
    base: u32,
}

struct P {
    nq: u32,
    nk: u32,
    d: u32,
    z: u32,      // sequences `first`..z
    inner: u32,  // of them share an outer stride
    blocks: u32, // workgroups of a sequence; where one takes it whole, its blocks of equal size
    scale: f32,
    first: u32,
    flags: u32,
    row: u32, // of the first workgroup of a sequence
    pad_a: u32,
    pad_b: u32,
    q: Lie,
    k: Lie,
    v: Lie,
    o: Lie,
}
const ADD_Q: u32 = 1u;   // dq += instead of =
const ADD_K: u32 = 2u;
const ADD_V: u32 = 4u;
const SAME_KV: u32 = 8u; // k and v are one tensor: dk takes both gradients
const ENTROPY: u32 = 16u; // the gradient of sum alpha ln(alpha + 1e-8) is added to that of the weights
const TINY: f32 = 1e-8;

@group(0) @binding(0) var<uniform> p: P;

//@include grid

fn start(lie: Lie, z: u32) -> u32 {
    return lie.base + (z / p.inner) * lie.outer + (z % p.inner) * lie.inner;
}
