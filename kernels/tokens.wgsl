// Pixels to patch rows, patch rows to token sequences, visible tokens back to full sequences, and rows picked of those.
// A workgroup takes a row, its lanes stride over the columns: where a row lies is worked out once. Sums take a lane a
// value. Bytes 8 a value; no arithmetic to speak of.
//
//@include grid

override STEPS: u32 = 1u;
override LANES: u32 = 64u; // one vector where the driver runs on the CPU

fn element(id: vec3<u32>, groups: vec3<u32>, lane: u32) -> u32 {
    return group_index(id, groups) * LANES + lane;
}

override CHANNELS: u32 = 1u;

struct Patches {
    total: u32, // rows
    kept: u32, // patches kept of an image
    size: u32, // image side
    rho: u32, // patch side
    nothing: u32, // 0, which the driver does not know
}
@group(0) @binding(0) var<uniform> q: Patches;
@group(0) @binding(1) var<storage, read> image: array<f32>; // [B, C, size, size]
@group(0) @binding(2) var<storage, read> keep: array<u32>;  // [B, kept]
@group(0) @binding(3) var<storage, read_write> rows: array<f32>; // [B, kept, C patch patch]

// n / rho for a small n: exact in f32, and cheap everywhere.
fn over_rho(n: u32) -> u32 {
    return u32((f32(n) + 0.5) / f32(q.rho));
}

// Row k of image b is patch keep[b, k], channel by channel as a convolution's weight lies.
@compute @workgroup_size(LANES)
fn patches(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let row = group_index(id, groups);
    if row >= q.total {
        return;
    }
    let area = q.rho * q.rho;
    let across = q.size / q.rho;
    let which = keep[row];
    let corner = (which / across * q.size + which % across) * q.rho;
    // On a CPU's vector units: a look at the patch's lines, first and last pixel, a cache line a lane.
    var zero = 0.0;
    if LANES < 64u {
        var seen = 0u;
        for (var s = lane; s < q.rho * CHANNELS; s += LANES) {
            let channel = over_rho(s);
            let line = corner + (s - channel * q.rho) * q.size;
            let at = (row / q.kept * CHANNELS + channel) * q.size * q.size + line;
            seen |= bitcast<u32>(image[at]) | bitcast<u32>(image[at + q.rho - 1u]);
        }
        zero = bitcast<f32>(seen & q.nothing);
    }
    for (var i = lane; i < area; i += LANES) {
        let y = over_rho(i);
        let at = corner + y * q.size + i - y * q.rho;
        for (var channel = 0u; channel < CHANNELS; channel += 1u) {
            rows[(row * CHANNELS + channel) * area + i] =
                image[(row / q.kept * CHANNELS + channel) * q.size * q.size + at] + zero;
        }
    }
}

struct Sequence {
    total: u32, // rows; values of a sum
    d: u32,
    batch: u32, // images; of the sum over hidden tokens, sequences that a lane adds
    kept: u32,
    patches: u32, // of a full image
    accumulate: u32,
    targets: u32,
    rows: u32, // sequences of one target
}
@group(0) @binding(0) var<uniform> p: Sequence;
@group(0) @binding(1) var<storage, read> embedded: array<f32>;        // [B, kept, d]
@group(0) @binding(2) var<storage, read> cls: array<f32>;             // [d]
@group(0) @binding(3) var<storage, read> position: array<f32>;        // [1 + patches, d]
@group(0) @binding(4) var<storage, read> kept_index: array<u32>;      // [B, kept]
@group(0) @binding(5) var<storage, read_write> sequence: array<f32>;  // [B, 1 + kept, d]

// sequence = cls + position 0, then every kept patch + its position
@compute @workgroup_size(LANES)
fn assemble(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
            @builtin(local_invocation_index) lane: u32) {
    let row = group_index(id, groups);
    if row >= p.total {
        return;
    }
    let token = row % (p.kept + 1u);
    let b = row / (p.kept + 1u);
    if token == 0u {
        for (var c = lane; c < p.d; c += LANES) {
            sequence[row * p.d + c] = cls[c] + position[c];
        }
    } else {
        let k = b * p.kept + token - 1u;
        let place_at = (kept_index[k] + 1u) * p.d;
        for (var c = lane; c < p.d; c += LANES) {
            sequence[row * p.d + c] = embedded[k * p.d + c] + position[place_at + c];
        }
    }
}

@group(0) @binding(1) var<storage, read> dsequence: array<f32>;
@group(0) @binding(2) var<storage, read_write> dembedded: array<f32>;

@compute @workgroup_size(LANES)
fn assemble_backward(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                     @builtin(local_invocation_index) lane: u32) {
    let row = group_index(id, groups);
    if row >= p.total {
        return;
    }
    let from_row = row / p.kept * (p.kept + 1u) + row % p.kept + 1u;
    for (var c = lane; c < p.d; c += LANES) {
        var value = dsequence[from_row * p.d + c];
        if p.accumulate != 0u {
            value += dembedded[row * p.d + c];
        }
        dembedded[row * p.d + c] = value;
    }
}

@group(0) @binding(2) var<storage, read_write> dcls: array<f32>;

// dcls = sum over the batch of the first token's gradient: one lane a column.
@compute @workgroup_size(LANES)
fn assemble_backward_cls(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                         @builtin(local_invocation_index) lane: u32) {
    let c = element(id, groups, lane);
    if c >= p.d {
        return;
    }
    var sum = select(0.0, dcls[c], p.accumulate != 0u);
    for (var b = 0u; b < p.batch; b += 1u) {
        sum += dsequence[b * (p.kept + 1u) * p.d + c];
    }
    dcls[c] = sum;
}

const HIDDEN: u32 = 0xffffffffu;
@group(0) @binding(1) var<storage, read> visible: array<f32>;    // [targets, rows, 1 + kept, d]
@group(0) @binding(2) var<storage, read> mask_token: array<f32>; // [targets, d]
@group(0) @binding(3) var<storage, read> place: array<f32>;      // positions, [1 + patches, d]
@group(0) @binding(4) var<storage, read> restore: array<u32>;    // [rows, patches]: index among the kept, or HIDDEN
@group(0) @binding(5) var<storage, read_write> full: array<f32>; // [targets, rows, 1 + patches, d]

// Row `row` over targets, sequences and tokens.
fn scatter_row(row: u32, lane: u32) {
    let token = row % (p.patches + 1u);
    let sequence_index = row / (p.patches + 1u);
    var from_index = 0u;
    if token > 0u {
        from_index = restore[sequence_index % p.rows * p.patches + token - 1u];
    }
    let hides = from_index == HIDDEN;
    let from_mask = sequence_index / p.rows * p.d;
    let from_row = (sequence_index * (p.kept + 1u) + select(from_index + min(token, 1u), 0u, hides)) * p.d;
    for (var i = 0u; i < STEPS; i += 1u) {
        let c = min(i * LANES + lane, p.d - 1u); // beyond the last: again the last
        full[row * p.d + c] = select(visible[from_row + c], mask_token[from_mask + c], hides) + place[token * p.d + c];
    }
}

// Kept tokens back in their places, the target's mask token elsewhere, all with their positions.
@compute @workgroup_size(LANES)
fn scatter(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let row = group_index(id, groups) * 4u;
    if row >= p.total {
        return;
    }
    //@repeat 4
    scatter_row(min(row + 0u, p.total - 1u), lane);
    //@end
}

@group(0) @binding(1) var<storage, read> dfull: array<f32>;
@group(0) @binding(2) var<storage, read> kept_place: array<u32>; // [rows, kept]
@group(0) @binding(3) var<storage, read_write> dvisible: array<f32>;

@compute @workgroup_size(LANES)
fn scatter_backward(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                    @builtin(local_invocation_index) lane: u32) {
    let row = group_index(id, groups);
    if row >= p.total {
        return;
    }
    let token = row % (p.kept + 1u);
    let sequence_index = row / (p.kept + 1u);
    var at = 0u;
    if token > 0u {
        at = kept_place[sequence_index % p.rows * p.kept + token - 1u] + 1u;
    }
    let start = (sequence_index * (p.patches + 1u) + at) * p.d;
    for (var c = lane; c < p.d; c += LANES) {
        var value = dfull[start + c];
        if p.accumulate != 0u {
            value += dvisible[row * p.d + c];
        }
        dvisible[row * p.d + c] = value;
    }
}

@group(0) @binding(2) var<storage, read> hidden: array<u32>; // restore again
@group(0) @binding(3) var<storage, read_write> dmask: array<f32>;

// dmask [targets, shares, d] = sum over the hidden tokens of a share of a target's sequences: one lane a column.
@compute @workgroup_size(LANES)
fn scatter_backward_mask(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                         @builtin(local_invocation_index) lane: u32) {
    let i = element(id, groups, lane);
    if i >= p.total {
        return;
    }
    let shares = (p.rows + p.batch - 1u) / p.batch;
    let target_index = i / p.d / shares;
    let first = i / p.d % shares * p.batch;
    var sum = select(0.0, dmask[i], p.accumulate != 0u);
    for (var r = first; r < min(first + p.batch, p.rows); r += 1u) {
        let start = (target_index * p.rows + r) * (p.patches + 1u);
        for (var k = 0u; k < p.patches; k += 4u) {
            //@repeat 4
            let patch_0 = min(k + 0u, p.patches - 1u);
            let counts_0 = k + 0u < p.patches && hidden[r * p.patches + patch_0] == HIDDEN;
            sum += select(0.0, dfull[(start + patch_0 + 1u) * p.d + i % p.d], counts_0);
            //@end
        }
    }
    dmask[i] = sum;
}

struct Table {
    total: u32, // rows; values of a sum
    d: u32,
    experts: u32,
    slots: u32, // per expert
    batch: u32,
    accumulate: u32,
}
@group(0) @binding(0) var<uniform> w: Table;
@group(0) @binding(1) var<storage, read> table: array<f32>;        // [G, experts, slots, d]
@group(0) @binding(2) var<storage, read_write> spread: array<f32>; // [G, B, slots, experts, d]

@compute @workgroup_size(LANES)
fn spread_slots(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                @builtin(local_invocation_index) lane: u32) {
    let row = group_index(id, groups);
    if row >= w.total {
        return;
    }
    let e = row % w.experts;
    let j = row / w.experts % w.slots;
    let g = row / w.experts / w.slots / w.batch;
    for (var c = lane; c < w.d; c += LANES) {
        spread[row * w.d + c] = table[((g * w.experts + e) * w.slots + j) * w.d + c];
    }
}

@group(0) @binding(1) var<storage, read> dspread: array<f32>;
@group(0) @binding(2) var<storage, read_write> dtable: array<f32>;

// Sum over the batch: one lane a value of the table.
@compute @workgroup_size(LANES)
fn spread_slots_backward(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                         @builtin(local_invocation_index) lane: u32) {
    let i = element(id, groups, lane);
    if i >= w.total {
        return;
    }
    let j = i / w.d % w.slots;
    let e = i / w.d / w.slots % w.experts;
    let g = i / w.d / w.slots / w.experts;
    var sum = select(0.0, dtable[i], w.accumulate != 0u);
    for (var b = 0u; b < w.batch; b += 1u) {
        sum += dspread[(((g * w.batch + b) * w.slots + j) * w.experts + e) * w.d + i % w.d];
    }
    dtable[i] = sum;
}

struct Gather {
    total: u32, // rows picked
    d: u32,
    tokens: u32, // of a sequence
    picked: u32, // of a sequence
    rows: u32, // of the index; sequences take turns
}
@group(0) @binding(0) var<uniform> g: Gather;
@group(0) @binding(1) var<storage, read> picks: array<u32>;        // [rows, picked]
@group(0) @binding(2) var<storage, read> source: array<f32>;       // [Z, tokens, d]
@group(0) @binding(3) var<storage, read_write> chosen: array<f32>; // [Z, picked, d]

// Where the token that row `row` of the chosen is begins.
fn pick_at(row: u32) -> u32 {
    let z = row / g.picked;
    return (z * g.tokens + picks[z % g.rows * g.picked + row % g.picked]) * g.d;
}

@compute @workgroup_size(LANES)
fn gather_rows(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
               @builtin(local_invocation_index) lane: u32) {
    let row = group_index(id, groups);
    if row >= g.total {
        return;
    }
    let at = pick_at(row);
    for (var c = lane; c < g.d; c += LANES) {
        chosen[row * g.d + c] = source[at + c];
    }
}

// dsource += dchosen where a row was picked: at most once
@compute @workgroup_size(LANES)
fn gather_rows_backward(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                        @builtin(local_invocation_index) lane: u32) {
    let row = group_index(id, groups);
    if row >= g.total {
        return;
    }
    let at = pick_at(row);
    for (var c = lane; c < g.d; c += LANES) {
        chosen[at + c] += source[row * g.d + c];
    }
}
