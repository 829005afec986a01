// Reconstruction loss over the masked patches.
//
//   error[b, q] = mask[b, q] * mean over v of |pred[b, 1 + q, v] - target[b, q, v]|^2 (or ^1)
//   loss = sum error / sum mask;   target = (image - mean_bq) * inv_bq, or the image itself
//
// pred [B, 1 + P, V], row 0 (CLS) unused; image [B, C, S, S]; mask [B, P]; V = edge * edge * C, channel fastest:
// v = (i * edge + j) * C + c is pixel (i, j) of the patch in channel c.
struct P {
    patches: u32,      // P, a square
    side: u32,         // patches a side of the image
    edge: u32,         // pixels a side of a patch
    channels: u32,
    rows: u32,         // workgroups with work
    absolute: u32,     // |e| instead of e^2
    normalise: u32,    // each patch's target by its own mean and unbiased variance
    accumulate: u32,
}
@group(0) @binding(0) var<uniform> p: P;

//@include grid
//@include workgroup
//@include row_sum

// Where pixel `pixel` of patch `row` of all patches lies in the image, channel 0.
fn image_at(row: u32, pixel: u32) -> u32 {
    let size = p.side * p.edge;
    let q = row % p.patches;
    let y = q / p.side * p.edge + pixel / p.edge;
    let x = q % p.side * p.edge + pixel % p.edge;
    return (row / p.patches * p.channels * size + y) * size + x;
}

// One workgroup a patch, a lane a pixel with its channels, so that lanes read neighbours of the image; patches that are
// not masked cost nothing. Bytes: pred and image of the masked patches once (the image thrice, from cache, with
// `normalise`). FLOPs: 3 a value.
@group(0) @binding(1) var<storage, read_write> error: array<f32>;
@group(0) @binding(2) var<storage, read_write> scale: array<vec2<f32>>;    // mean_bq, inv_bq
@group(0) @binding(3) var<storage, read> pred: array<f32>;
@group(0) @binding(4) var<storage, read> image: array<f32>;
@group(0) @binding(5) var<storage, read> mask: array<f32>;

@compute @workgroup_size(LANES)
fn patch_error(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
               @builtin(local_invocation_index) lane: u32) {
    let row = group_index(id, groups);
    if row >= p.rows {
        return;
    }
    let pixels = p.edge * p.edge;
    let plane = p.side * p.side * pixels;
    let values = f32(pixels * p.channels);
    if mask[row] == 0.0 {
        if lane == 0u {
            error[row] = 0.0;
        }
        return;
    }
    var mean = 0.0;
    var inv = 1.0;
    if p.normalise != 0u {
        var sum = 0.0;
        for (var i = lane; i < pixels; i += LANES) {
            let at = image_at(row, i);
            for (var c = 0u; c < p.channels; c++) {
                sum += image[at + c * plane];
            }
        }
        mean = row_sum(sum, lane, 0u) / values;
        var squares = 0.0;
        for (var i = lane; i < pixels; i += LANES) {
            let at = image_at(row, i);
            for (var c = 0u; c < p.channels; c++) {
                let e = image[at + c * plane] - mean;
                squares += e * e;
            }
        }
        inv = 1.0 / sqrt(row_sum(squares, lane, 1u) / (values - 1.0) + 1e-6);
    }
    let start = (row + row / p.patches + 1u) * pixels * p.channels;
    var total = 0.0;
    for (var i = lane; i < pixels; i += LANES) {
        let at = image_at(row, i);
        for (var c = 0u; c < p.channels; c++) {
            let e = abs(pred[start + i * p.channels + c] - (image[at + c * plane] - mean) * inv);
            total += select(e * e, e, p.absolute != 0u);
        }
    }
    let sum = row_sum(total, lane, 2u);
    if lane == 0u {
        error[row] = sum / values * mask[row];
        scale[row] = vec2(mean, inv);
    }
}

// loss = sum error / sum mask (0 if nothing is masked), share = 1 / sum mask. One workgroup in all; both are [64].
@group(0) @binding(1) var<storage, read_write> loss: array<f32>;
@group(0) @binding(2) var<storage, read_write> share_out: array<f32>;
@group(0) @binding(3) var<storage, read> errors: array<f32>;
@group(0) @binding(4) var<storage, read> masks: array<f32>;

@compute @workgroup_size(64)
fn finish(@builtin(local_invocation_index) lane: u32) {
    var part = 0.0;
    var masked = 0.0;
    for (var i = lane; i < p.rows; i += 64u) {
        part += errors[i];
        masked += masks[i];
    }
    let total = workgroup_sum(part, lane);
    let count = workgroup_sum(masked, lane);
    let inverse = select(0.0, 1.0 / count, count > 0.0);
    loss[lane] = select(0.0, total * inverse, lane == 0u);
    share_out[lane] = select(0.0, inverse, lane == 0u);
}

// dpred[b, 1 + q, v] = dloss * mask / (sum mask * V) * (2 e or sign e), dpred[b, 0] = 0. One workgroup a row of pred.
// Bytes: image and pred of the masked patches once, dpred once. FLOPs: 4 a value.
@group(0) @binding(1) var<storage, read_write> dpred: array<f32>;
@group(0) @binding(2) var<storage, read> scale_in: array<vec2<f32>>;
@group(0) @binding(6) var<storage, read> share: array<f32>;
@group(0) @binding(7) var<storage, read> dloss: array<f32>;

@compute @workgroup_size(LANES)
fn backward(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
            @builtin(local_invocation_index) lane: u32) {
    let group = group_index(id, groups);
    if group >= p.rows {
        return;
    }
    let pixels = p.edge * p.edge;
    let start = group * pixels * p.channels;
    let token = group % (p.patches + 1u);
    let row = group / (p.patches + 1u) * p.patches + max(token, 1u) - 1u;
    if token == 0u || mask[row] == 0.0 {
        if p.accumulate == 0u {
            for (var i = lane; i < pixels * p.channels; i += LANES) {
                dpred[start + i] = 0.0;
            }
        }
        return;
    }
    let plane = p.side * p.side * pixels;
    let factor = dloss[0] * mask[row] * share[0] / f32(pixels * p.channels);
    let norm = scale_in[row];
    for (var i = lane; i < pixels; i += LANES) {
        let at = image_at(row, i);
        for (var c = 0u; c < p.channels; c++) {
            let k = start + i * p.channels + c;
            let e = pred[k] - (image[at + c * plane] - norm.x) * norm.y;
            var slope = factor * select(2.0 * e, sign(e), p.absolute != 0u);
            if p.accumulate != 0u {
                slope += dpred[k];
            }
            dpred[k] = slope;
        }
    }
}
