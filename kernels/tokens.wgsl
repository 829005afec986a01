// Pixels to patch rows, patch rows to token sequences, and visible tokens back to full sequences.
// One lane a value, consecutive lanes consecutive values; bytes 8 a value; no arithmetic to speak of.
//
//@include grid

fn element(id: vec3<u32>, groups: vec3<u32>, lane: u32) -> u32 {
    return group_index(id, groups) * 64u + lane;
}

struct Patches {
    total: u32,
    kept: u32, // patches kept of an image
    channels: u32,
    size: u32, // image side
    rho: u32, // patch side
}
@group(0) @binding(0) var<uniform> q: Patches;
@group(0) @binding(1) var<storage, read> image: array<f32>; // [B, C, size, size]
@group(0) @binding(2) var<storage, read> keep: array<u32>;  // [B, kept]
@group(0) @binding(3) var<storage, read_write> rows: array<f32>; // [B, kept, C patch patch]

// Row k of image b is patch keep[b, k], channel by channel as a convolution's weight lies.
@compute @workgroup_size(64)
fn patches(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let i = element(id, groups, lane);
    if i >= q.total {
        return;
    }
    let area = q.rho * q.rho;
    let width = q.channels * area;
    let row = i / width;
    let inside = i % width;
    let channel = inside / area;
    let across = q.size / q.rho;
    let which = keep[row];
    let y = which / across * q.rho + inside % area / q.rho;
    let x = which % across * q.rho + inside % q.rho;
    rows[i] = image[((row / q.kept * q.channels + channel) * q.size + y) * q.size + x];
}

struct Sequence {
    total: u32,
    d: u32,
    batch: u32,
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
@compute @workgroup_size(64)
fn assemble(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
            @builtin(local_invocation_index) lane: u32) {
    let i = element(id, groups, lane);
    if i >= p.total {
        return;
    }
    let c = i % p.d;
    let token = i / p.d % (p.kept + 1u);
    let b = i / p.d / (p.kept + 1u);
    if token == 0u {
        sequence[i] = cls[c] + position[c];
    } else {
        let k = b * p.kept + token - 1u;
        sequence[i] = embedded[k * p.d + c] + position[(kept_index[k] + 1u) * p.d + c];
    }
}

@group(0) @binding(1) var<storage, read> dsequence: array<f32>;
@group(0) @binding(2) var<storage, read_write> dembedded: array<f32>;

@compute @workgroup_size(64)
fn assemble_backward(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                     @builtin(local_invocation_index) lane: u32) {
    let i = element(id, groups, lane);
    if i >= p.total {
        return;
    }
    let k = i / p.d % p.kept;
    let b = i / p.d / p.kept;
    let value = dsequence[(b * (p.kept + 1u) + k + 1u) * p.d + i % p.d];
    dembedded[i] = value + select(0.0, dembedded[i], p.accumulate != 0u);
}

@group(0) @binding(2) var<storage, read_write> dcls: array<f32>;

// dcls = sum over the batch of the first token's gradient: one lane a column.
@compute @workgroup_size(64)
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

// Kept tokens back in their places, the target's mask token elsewhere, all with their positions.
@compute @workgroup_size(64)
fn scatter(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let i = element(id, groups, lane);
    if i >= p.total {
        return;
    }
    let c = i % p.d;
    let token = i / p.d % (p.patches + 1u);
    let row = i / p.d / (p.patches + 1u); // over targets and rows
    let start = row * (p.kept + 1u) * p.d + c;
    var value = 0.0;
    if token == 0u {
        value = visible[start];
    } else {
        let from_index = restore[row % p.rows * p.patches + token - 1u];
        if from_index == HIDDEN {
            value = mask_token[row / p.rows * p.d + c];
        } else {
            value = visible[start + (from_index + 1u) * p.d];
        }
    }
    full[i] = value + place[token * p.d + c];
}

@group(0) @binding(1) var<storage, read> dfull: array<f32>;
@group(0) @binding(2) var<storage, read> kept_place: array<u32>; // [rows, kept]
@group(0) @binding(3) var<storage, read_write> dvisible: array<f32>;

@compute @workgroup_size(64)
fn scatter_backward(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                    @builtin(local_invocation_index) lane: u32) {
    let i = element(id, groups, lane);
    if i >= p.total {
        return;
    }
    let token = i / p.d % (p.kept + 1u);
    let row = i / p.d / (p.kept + 1u);
    var at = 0u;
    if token > 0u {
        at = kept_place[row % p.rows * p.kept + token - 1u] + 1u;
    }
    let value = dfull[(row * (p.patches + 1u) + at) * p.d + i % p.d];
    dvisible[i] = value + select(0.0, dvisible[i], p.accumulate != 0u);
}

@group(0) @binding(2) var<storage, read> hidden: array<u32>; // restore again
@group(0) @binding(3) var<storage, read_write> dmask: array<f32>;

// dmask = sum over the hidden tokens of a target's sequences: one lane a column.
@compute @workgroup_size(64)
fn scatter_backward_mask(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                         @builtin(local_invocation_index) lane: u32) {
    let i = element(id, groups, lane);
    if i >= p.targets * p.d {
        return;
    }
    let target_index = i / p.d;
    var sum = select(0.0, dmask[i], p.accumulate != 0u);
    for (var r = 0u; r < p.rows; r += 1u) {
        let start = (target_index * p.rows + r) * (p.patches + 1u);
        for (var k = 0u; k < p.patches; k += 1u) {
            if hidden[r * p.patches + k] == HIDDEN {
                sum += dfull[(start + k + 1u) * p.d + i % p.d];
            }
        }
    }
    dmask[i] = sum;
}

struct Table {
    total: u32,
    d: u32,
    experts: u32,
    slots: u32, // per expert
    batch: u32,
    accumulate: u32,
}
@group(0) @binding(0) var<uniform> w: Table;
@group(0) @binding(1) var<storage, read> table: array<f32>;        // [G, experts, slots, d]
@group(0) @binding(2) var<storage, read_write> spread: array<f32>; // [G, B, slots, experts, d]

@compute @workgroup_size(64)
fn spread_slots(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                @builtin(local_invocation_index) lane: u32) {
    let i = element(id, groups, lane);
    if i >= w.total {
        return;
    }
    let e = i / w.d % w.experts;
    let j = i / w.d / w.experts % w.slots;
    let g = i / w.d / w.experts / w.slots / w.batch;
    spread[i] = table[((g * w.experts + e) * w.slots + j) * w.d + i % w.d];
}

@group(0) @binding(1) var<storage, read> dspread: array<f32>;
@group(0) @binding(2) var<storage, read_write> dtable: array<f32>;

// Sum over the batch: one lane a value of the table.
@compute @workgroup_size(64)
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
