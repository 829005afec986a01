override LANES: u32 = 64u;
var<workgroup> partial: array<f32, 256>;

// The sum of one value per lane, for every lane, in a fixed order. `slot` keeps successive sums apart, so that one
// barrier is enough.
fn row_sum(value: f32, lane: u32, slot: u32) -> f32 {
    partial[slot * LANES + lane] = value;
    workgroupBarrier();
    var sum = 0.0;
    for (var i = 0u; i < LANES; i += 1u) {
        sum += partial[slot * LANES + i];
    }
    return sum;
}
