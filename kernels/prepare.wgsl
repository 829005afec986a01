// Raw pixels to what the model sees: flipped, resized, normalised.
//
//   y[b, c] = (resize(flip(raw[b, c])) - mean_c) * inv_std_c,   raw [B, C, from, from] -> y [B, C, to, to]
//
// Resizing is bicubic (a = -0.75), pixel centres at half integers, pixels beyond the border repeat it: PyTorch's
// interpolate(mode="bicubic", align_corners=False). Equal sizes are copied. Its weights add up to 1, so normalising
// before or after is the same; after is cheaper. Where a pixel falls is computed in integers, so it is exact.
// A workgroup takes a line of y in all channels. Bytes: raw and y once. FLOPs: 42 an element (2 without resizing).

override LANES: u32 = 64u; // one vector where the driver runs on the CPU
override RESIZES: bool = true;
override CHANNELS: u32 = 1u; // a loop of constant length is unrolled

struct P {
    n: u32,        // B to
    size: u32,     // from
    to: u32,
    nothing: u32,  // 0, which the driver does not know
}
@group(0) @binding(0) var<uniform> p: P;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<storage, read> raw: array<f32>;
@group(0) @binding(3) var<storage, read> mean: array<f32>;
@group(0) @binding(4) var<storage, read> inv_std: array<f32>;
@group(0) @binding(5) var<storage, read> flips: array<u32>;    // [B], bit 0 left-right, bit 1 top-bottom

//@include grid

// The four source pixels of target pixel i.
fn taps(i: u32) -> vec4<u32> {
    let first = floor_div((2 * i32(i) + 1) * i32(p.size) - i32(p.to), 2 * i32(p.to)) - 1;
    return vec4<u32>(clamp(vec4(first, first + 1, first + 2, first + 3), vec4(0), vec4(i32(p.size) - 1)));
}

// Their weights, from the distance t past the second (Keys 1981 with a = -0.75).
fn weights(i: u32) -> vec4<f32> {
    let at = (2 * i32(i) + 1) * i32(p.size) - i32(p.to);
    let t = f32(at - floor_div(at, 2 * i32(p.to)) * 2 * i32(p.to)) / f32(2u * p.to);
    let u = 1.0 - t;
    return vec4(outer(t + 1.0), inner(t), inner(u), outer(u + 1.0));
}

fn floor_div(a: i32, b: i32) -> i32 {
    return a / b - select(0, 1, a % b < 0);
}

fn inner(x: f32) -> f32 {
    return (1.25 * x - 2.25) * x * x + 1.0;
}

fn outer(x: f32) -> f32 {
    return ((-0.75 * x + 3.75) * x - 6.0) * x + 3.0;
}

fn row(at: u32, x: vec4<u32>, w: vec4<f32>) -> f32 {
    return dot(w, vec4(raw[at + x.x], raw[at + x.y], raw[at + x.z], raw[at + x.w]));
}

@compute @workgroup_size(LANES)
fn prepare(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let index = group_index(id, groups);
    if index >= p.n {
        return;
    }
    let image = index / p.to;
    let line = index - image * p.to;
    let flip = flips[image];
    let yy = select(line, p.to - 1u - line, (flip & 2u) != 0u);
    let r = taps(yy) * p.size;
    let u = weights(yy);
    let source_plane = image * CHANNELS * p.size * p.size;
    let out_line = (image * CHANNELS * p.to + line) * p.to;
    // On a CPU's vector units: a look at the line's cache lines in all bands, one a lane.
    var zero = 0.0;
    if LANES < 64u && !RESIZES {
        var seen = 0u;
        for (var i = lane * 16u; i < p.to; i += LANES * 16u) {
            for (var c = 0u; c < CHANNELS; c++) {
                let plane = c * p.size * p.size;
                seen |= bitcast<u32>(raw[source_plane + plane + yy * p.size + i]) | bitcast<u32>(y[out_line + plane + i]);
            }
        }
        zero = bitcast<f32>(seen & p.nothing);
    }
    for (var i = lane; i < p.to; i += LANES) {
        let xx = select(i, p.to - 1u - i, (flip & 1u) != 0u);
        let x = taps(xx);
        let w = weights(xx);
        var source_at = source_plane;
        var out_at = out_line + i;
        for (var c = 0u; c < CHANNELS; c++) {
            var value: f32;
            if RESIZES {
                let at_0 = row(source_at + r.x, x, w);
                let at_1 = row(source_at + r.y, x, w);
                let at_2 = row(source_at + r.z, x, w);
                let at_3 = row(source_at + r.w, x, w);
                value = dot(u, vec4(at_0, at_1, at_2, at_3));
            } else {
                value = raw[source_at + yy * p.size + xx];
            }
            y[out_at] = (value + zero - mean[c]) * inv_std[c];
            source_at += p.size * p.size;
            out_at += p.to * p.to;
        }
    }
}
