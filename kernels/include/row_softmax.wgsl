// Softmax over rows of `quads` vec4s that SHARE lanes of a workgroup take together, sixteen on a GPU, one where the driver runs
// on the CPU. The file declares p.rows, p.n, the elements of a row that count, p.quads, p.scale and s, the scores.
const LOWEST: f32 = -3.4e38;

var<workgroup> shares: array<vec2<f32>, 64>;

// A lane's row of those from `first` on, or the last, and where it begins.
struct Row {
    row: u32,
    there: bool,
    at: u32,
}

fn row_of(first: u32, lane: u32) -> Row {
    let row = first + lane / SHARE;
    let near = min(row, p.rows - 1u);
    return Row(near, row < p.rows, near * p.quads);
}

fn total(x: vec4<f32>) -> f32 {
    return (x.x + x.y) + (x.z + x.w);
}

// Which of a row's quad are not beyond its last.
fn counts(i: u32) -> vec4<bool> {
    return vec4<u32>(i * 4u) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(p.n);
}

// Scaled scores, the lowest beyond the last.
fn scores(at: u32, i: u32) -> vec4<f32> {
    return select(vec4<f32>(LOWEST), s[at + i] * p.scale, counts(i));
}

// A row's log-sum-exp: the lanes' shares meet in the workgroup's memory and are added in their order.
fn log_sum_exp(at: u32, lane: u32) -> f32 {
    var top = LOWEST;
    var sum = 0.0;
    for (var i = lane % SHARE; i < p.quads; i += SHARE) {
        let x = scores(at, i);
        let before = top;
        top = max(max(max(x.x, x.y), max(x.z, x.w)), before);
        sum = sum * exp(before - top) + total(exp(x - top));
    }
    if SHARE == 1u { return top + log(sum); }
    shares[lane] = vec2<f32>(top, sum);
    workgroupBarrier();
    let first = lane / SHARE * SHARE;
    for (var i = 0u; i < SHARE; i += 1u) {
        top = max(top, shares[first + i].x);
    }
    sum = 0.0;
    for (var i = 0u; i < SHARE; i += 1u) {
        let share = shares[first + i];
        sum += share.y * exp(share.x - top);
    }
    workgroupBarrier();
    return top + log(sum);
}

fn row_total(value: f32, lane: u32) -> f32 {
    if SHARE == 1u { return value; }
    shares[lane].x = value;
    workgroupBarrier();
    var sum = 0.0;
    for (var i = 0u; i < SHARE; i += 1u) {
        sum += shares[lane / SHARE * SHARE + i].x;
    }
    return sum;
}
