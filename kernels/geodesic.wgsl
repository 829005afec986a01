// Great-circle distances inside sets of points on the unit sphere: what a candidate of the sampler is judged by.
//
//   nearest: y[s] = (mean over i of ln min over j of angle(i, j), 0)
//   pairs:   y[s] = (sum over i < j of f(angle), sum over i < j of g(angle)), or the entropy of their histogram
//
// Coordinates are whole numbers, unit vectors times 2^30 - 1: differences of neighbours are exact, so that a distance of
// 10 km keeps all its digits, of which a product of f32 vectors would lose most. One workgroup a set; a set's points pass
// through workgroup memory 64 at a time. Bytes: 16 a point of every set for each 64 of its points. FLOPs: 9 a pair
// (`nearest`), about 40 (`pairs`), n^2 pairs a set.
struct P {
    sets: u32,
    stride: u32,    // places a set has in `members`
    term: u32,      // of `pairs`: 0 angle, 1 ln angle, 2 angle and angle ln angle, 3 histogram entropy
}
@group(0) @binding(0) var<uniform> p: P;
@group(0) @binding(1) var<storage, read_write> y: array<vec2<f32>>;   // [sets]
@group(0) @binding(2) var<storage, read> points: array<i32>;          // [all points, 3]
@group(0) @binding(3) var<storage, read> members: array<u32>;         // [sets, stride], indices into points
@group(0) @binding(4) var<storage, read> counts: array<u32>;          // [sets]; nothing is done for fewer than 2

//@include grid
//@include workgroup

const UNIT: f32 = 9.313225754828403e-10;    // 1 / (2^30 - 1)
const PI: f32 = 3.14159265358979;
const BINS: u32 = 64u;

var<workgroup> tile: array<vec3<i32>, 64>;
var<workgroup> bins: array<atomic<u32>, 64>;

fn member(which: u32, i: u32) -> vec3<i32> {
    let at = members[which * p.stride + i] * 3u;
    return vec3<i32>(points[at], points[at + 1u], points[at + 2u]);
}

// The squared length of a difference or a sum of two points.
fn length2(v: vec3<i32>) -> f32 {
    let d = vec3<f32>(v) * UNIT;
    return fma(d.x, d.x, fma(d.y, d.y, d.z * d.z));
}

// 2 asin(sqrt(c2) / 2) for c2 <= 2: fitted, relative error 3e-8. The built-in asin need not be exact to three digits.
fn angle_of_chord2(c2: f32) -> f32 {
    let s2 = 0.25 * c2;
    var r = fma(s2, 0.109673983, -0.0900862165);
    r = fma(r, s2, 0.0755397537);
    r = fma(r, s2, 0.016731389);
    r = fma(r, s2, 0.0464808495);
    r = fma(r, s2, 0.0748811444);
    r = fma(r, s2, 0.166669547);
    return sqrt(c2) * fma(r, s2, 1.0);
}

// The angle between two points. Beyond a quarter of the globe it is known best from their sum: the way to the antipode.
fn angle_between(a: vec3<i32>, b: vec3<i32>) -> f32 {
    let c2 = length2(a - b);
    if c2 <= 2.0 {
        return angle_of_chord2(c2);
    }
    return PI - angle_of_chord2(length2(a + b));
}

// The logarithm of an angle; points at one place count as 0.6 m apart.
fn ln_angle(angle: f32) -> f32 {
    return log(max(angle, 1e-7));
}

// The angle of the nearest neighbour of point i, whose squared chord is `least`.
fn nearest_angle(which: u32, i: u32, n: u32, least: f32) -> f32 {
    if least <= 2.0 {
        return angle_of_chord2(least);
    }
    // All are beyond a quarter of the globe: only where next to nothing is selected.
    let own = member(which, i);
    var angle = PI;
    for (var j = 0u; j < n; j++) {
        angle = select(min(angle, angle_between(own, member(which, j))), angle, i == j);
    }
    return angle;
}

@compute @workgroup_size(64)
fn nearest(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let which = group_index(id, groups);
    if which >= p.sets {
        return;
    }
    let n = counts[which];
    var part = 0.0;
    for (var first = 0u; first < n; first += 64u) {
        let i = first + lane;
        let own = member(which, min(i, n - 1u));
        var least = 8.0;
        for (var start = 0u; start < n; start += 64u) {
            tile[lane] = member(which, min(start + lane, n - 1u));
            workgroupBarrier();
            let here = min(64u, n - start);
            for (var j = 0u; j < here; j++) {
                let c2 = length2(own - tile[j]);
                least = select(min(least, c2), least, start + j == i);
            }
            workgroupBarrier();
        }
        if i < n && n > 1u {
            part += ln_angle(nearest_angle(which, i, n, least));
        }
    }
    let total = workgroup_sum(part, lane);
    if lane == 0u {
        y[which] = vec2<f32>(total / f32(max(n, 1u)), 0.0);
    }
}

@compute @workgroup_size(64)
fn pairs(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
         @builtin(local_invocation_index) lane: u32) {
    let which = group_index(id, groups);
    if which >= p.sets {
        return;
    }
    let n = counts[which];
    atomicStore(&bins[lane], 0u);
    var one = 0.0;
    var two = 0.0;
    for (var first = 0u; first < n; first += 64u) {
        let i = first + lane;
        let own = member(which, min(i, n - 1u));
        // Sums of a block of their own: fewer terms to round.
        var block_one = 0.0;
        var block_two = 0.0;
        for (var start = first; start < n; start += 64u) {
            tile[lane] = member(which, min(start + lane, n - 1u));
            workgroupBarrier();
            let here = min(64u, n - start);
            for (var j = 0u; j < here; j++) {
                if start + j > i {
                    let angle = angle_between(own, tile[j]);
                    if p.term == 3u {
                        atomicAdd(&bins[min(u32(angle * (f32(BINS) / PI)), BINS - 1u)], 1u);
                    } else if p.term == 0u {
                        block_one += angle;
                    } else {
                        let ln = ln_angle(angle);
                        block_one += select(angle, ln, p.term == 1u);
                        block_two = fma(angle, ln, block_two);
                    }
                }
            }
            workgroupBarrier();
        }
        one += block_one;
        two += block_two;
    }
    if p.term == 3u {
        workgroupBarrier();
        let share = f32(atomicLoad(&bins[lane])) / max(0.5 * f32(n) * (f32(n) - 1.0), 1.0);
        one = select(0.0, -share * log(max(share, 1e-30)), share > 0.0);
    }
    let sum_one = workgroup_sum(one, lane);
    let sum_two = workgroup_sum(select(0.0, two, p.term == 2u), lane);
    if lane == 0u {
        y[which] = vec2<f32>(sum_one, sum_two);
    }
}
