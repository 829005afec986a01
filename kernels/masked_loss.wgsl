// Reconstruction error of hidden patches.
//
//   error[b, m] = mean over v of |pred[b, m, v] - target[b, m, v]|^2 (or ^1)
//   target = (patch - mean) * inv, or the patch itself
//
// pred [B, M, V]; image [B, C, S, S]; hidden [B, M], 1 + the patch's number; V = edge * edge * C, channel fastest:
// v = (i * edge + j) * C + c is pixel (i, j) of the patch in channel c. One workgroup a patch, a lane a pixel with its
// channels, so that lanes read neighbours of the image.
struct P {
    rows: u32,         // B * M
    hidden: u32,       // M
    side: u32,         // patches a side of the image
    edge: u32,         // pixels a side of a patch
    absolute: u32,     // |e| instead of e^2
    normalise: u32,    // each patch's target by its own mean and unbiased variance
    nothing: u32,      // 0, which the driver does not know
}
// A loop of constant length is unrolled, and where the driver runs on the CPU both sides of a condition run.
override CHANNELS: u32 = 1u;
override ACCUMULATE: bool = false;
@group(0) @binding(0) var<uniform> p: P;
@group(0) @binding(1) var<storage, read> pred: array<f32>;
@group(0) @binding(2) var<storage, read> image: array<f32>;
@group(0) @binding(3) var<storage, read> hidden: array<u32>;

//@include grid
//@include row_sum

// n / edge for a small n: exact in f32, and cheap everywhere.
fn over_edge(n: u32) -> u32 {
    return u32((f32(n) + 0.5) / f32(p.edge));
}

// Where pixel `pixel` of row `row`'s patch lies in the image, channel 0.
fn image_at(row: u32, pixel: u32) -> u32 {
    let size = p.side * p.edge;
    let q = hidden[row] - 1u;
    let down = over_edge(pixel);
    let y = q / p.side * p.edge + down;
    let x = q % p.side * p.edge + pixel - down * p.edge;
    return (row / p.hidden * CHANNELS * size + y) * size + x;
}

const LINE: u32 = 16u;

// 0, after a look at the patch's cache lines, one a lane: on a CPU's vector units few waits for memory instead of many.
fn looked(row: u32, lane: u32) -> f32 {
    let values = p.edge * p.edge * CHANNELS;
    let plane = p.side * p.side * p.edge * p.edge;
    var seen = 0u;
    for (var v = lane * LINE; v < values; v += LANES * LINE) {
        seen |= bitcast<u32>(pred[row * values + v]) | bitcast<u32>(slope[row * values + v]);
    }
    for (var s = lane; s < p.edge * CHANNELS; s += LANES) {
        let c = over_edge(s);
        let at = image_at(row, (s - c * p.edge) * p.edge) + c * plane;
        seen |= bitcast<u32>(image[at]) | bitcast<u32>(image[at + p.edge - 1u]);
    }
    return bitcast<f32>(seen & p.nothing);
}

// Leaves the slope of each value too, (2 e or sign e) / V, so that the backward has no need of the pixels.
// Bytes: pred, slope and the patches once (the patches thrice, from cache, with `normalise`). FLOPs: 4 a value.
@group(0) @binding(4) var<storage, read_write> error: array<f32>; // [B, M]
@group(0) @binding(5) var<storage, read_write> slope: array<f32>; // as pred

@compute @workgroup_size(LANES)
fn patch_error(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
               @builtin(local_invocation_index) lane: u32) {
    let row = group_index(id, groups);
    if row >= p.rows {
        return;
    }
    let pixels = p.edge * p.edge;
    let plane = p.side * p.side * pixels;
    let values = f32(pixels * CHANNELS);
    var total = 0.0;
    if LANES < 64u {
        total = looked(row, lane);
    }
    var mean = 0.0;
    var inv = 1.0;
    if p.normalise != 0u {
        var sum = 0.0;
        for (var i = lane; i < pixels; i += LANES) {
            let at = image_at(row, i);
            for (var c = 0u; c < CHANNELS; c++) {
                sum += image[at + c * plane];
            }
        }
        mean = row_sum(sum, lane, 0u) / values;
        var squares = 0.0;
        for (var i = lane; i < pixels; i += LANES) {
            let at = image_at(row, i);
            for (var c = 0u; c < CHANNELS; c++) {
                let e = image[at + c * plane] - mean;
                squares += e * e;
            }
        }
        inv = 1.0 / sqrt(row_sum(squares, lane, 1u) / (values - 1.0) + 1e-6);
    }
    let start = row * pixels * CHANNELS;
    let share = 1.0 / values;
    for (var i = lane; i < pixels; i += LANES) {
        let at = image_at(row, i);
        for (var c = 0u; c < CHANNELS; c++) {
            let k = start + i * CHANNELS + c;
            let e = pred[k] - (image[at + c * plane] - mean) * inv;
            total += select(e * e, abs(e), p.absolute != 0u);
            slope[k] = share * select(2.0 * e, sign(e), p.absolute != 0u);
        }
    }
    let sum = row_sum(total, lane, 2u);
    if lane == 0u {
        error[row] = sum / values;
    }
}

// dpred = derror slope. Bytes: slope and dpred once. FLOPs: 1 a value.
@group(0) @binding(1) var<storage, read> slope_in: array<f32>;
@group(0) @binding(2) var<storage, read> derror: array<f32>;
@group(0) @binding(3) var<storage, read_write> dpred: array<f32>;

@compute @workgroup_size(LANES)
fn backward(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
            @builtin(local_invocation_index) lane: u32) {
    let row = group_index(id, groups);
    if row >= p.rows {
        return;
    }
    let values = p.edge * p.edge * CHANNELS;
    let start = row * values;
    var factor = derror[row];
    if LANES < 64u {
        var seen = 0u;
        for (var v = lane * LINE; v < values; v += LANES * LINE) {
            seen |= bitcast<u32>(slope_in[start + v]) | bitcast<u32>(dpred[start + v]);
        }
        factor += bitcast<f32>(seen & p.nothing);
    }
    for (var k = start + lane; k < start + values; k += LANES) {
        var sum = factor * slope_in[k];
        if ACCUMULATE {
            sum += dpred[k];
        }
        dpred[k] = sum;
    }
}
