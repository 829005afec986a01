//! The nearest neighbours inside a candidate, carried over from its parent where nothing changed.
//!
//! A child shares most points with the candidate it was bred from. Only points that are new, or whose nearest
//! neighbour left, search again; new points then announce themselves to the rest. Searches walk outward through the
//! ranks and stop where the coordinate along the axis alone exceeds the distance in hand. A dot product has the same
//! bits from both sides, so the result *equals* a search from scratch.

use super::distance::Points;
use super::elementary::{acos, ln, log_ratio};
use super::lanes::{LANES, Lanes, PREFIX, sum, vectorised};

/// Guard elements before and after the points, so that chunks may reach over the ends; they are NaN: never nearest.
const PAD: usize = LANES;
/// Points on one side between renewals of a search's bound.
const STRIDE: usize = 4 * LANES;
/// Less than any dot product.
const FAR: f64 = -2.0;

/// A candidate: its points in ascending rank, and for each the dot product with its nearest neighbour.
#[derive(Clone, Debug, Default)]
pub struct Candidate {
    n: usize,
    /// Ranks in the stratum, ascending, then padding that no other candidate has.
    genes: Vec<u32>,
    /// Coordinates, padded on both sides.
    x: Vec<f64>,
    y: Vec<f64>,
    z: Vec<f64>,
    /// Along the axis, padded.
    key: Vec<f64>,
    /// Greatest dot product with another point, padded.
    near: Vec<f64>,
    /// The rank of that point, padded: as the bits of an f64, so that it moves with its dot product.
    who: Vec<f64>,
}

/// Working memory of [`Candidate::breed`].
#[derive(Clone, Debug, Default)]
pub struct Scratch {
    /// Ranks that the parent has and the child has not.
    gone: Vec<u32>,
    /// By rank, whether it is among them.
    is_gone: Vec<bool>,
    /// Positions that the parent did not have.
    fresh: Vec<u32>,
    /// Positions whose nearest neighbour left.
    bereft: Vec<u32>,
    /// By chunk, the least and greatest coordinate along the axis from where a new point can be nearest to one of its points.
    from: Vec<f64>,
    to: Vec<f64>,
}

impl Candidate {
    /// The points, as ascending ranks.
    pub fn genes(&self) -> &[u32] {
        &self.genes[..self.n]
    }

    /// For each point the dot product with its nearest neighbour.
    pub fn nearest(&self) -> &[f64] {
        &self.near[PAD..PAD + self.n]
    }

    /// Becomes the candidate `genes` (ascending ranks), bred from `parent`.
    pub fn breed(&mut self, parent: &Candidate, genes: &[u32], points: &Points, scratch: &mut Scratch) {
        breed(self, parent, genes, points, scratch);
    }

    /// The mean over the points of ln(distance to the nearest neighbour in radians); points at one place count as 0.6 m apart.
    pub fn mean_log_nearest(&self) -> f64 {
        mean_log_nearest(&self.near, self.n)
    }

    fn resize(&mut self, genes: &[u32]) {
        self.n = genes.len();
        self.genes.clear();
        self.genes.extend_from_slice(genes);
        self.genes.resize(self.n + PREFIX, u32::MAX);
        for column in [&mut self.x, &mut self.y, &mut self.z, &mut self.key, &mut self.near, &mut self.who] {
            column.resize(self.n + 2 * PAD, f64::NAN);
            column[..PAD].fill(f64::NAN);
        }
    }

    /// Copies `run` points of the parent, from its position `i` to `j` here, in whole chunks: what is copied too much lies
    /// in the padding or is written again by the next run.
    #[inline(always)]
    fn copy<S: Lanes>(&mut self, parent: &Candidate, i: usize, j: usize, run: usize) {
        let mut k = PAD;
        while k < run + PAD {
            S::load(&parent.x, i + k).store(&mut self.x, j + k);
            S::load(&parent.y, i + k).store(&mut self.y, j + k);
            S::load(&parent.z, i + k).store(&mut self.z, j + k);
            S::load(&parent.key, i + k).store(&mut self.key, j + k);
            S::load(&parent.near, i + k).store(&mut self.near, j + k);
            S::load(&parent.who, i + k).store(&mut self.who, j + k);
            k += LANES;
        }
    }
}

vectorised! {
fn breed<S>(child: &mut Candidate, parent: &Candidate, genes: &[u32], points: &Points, scratch: &mut Scratch) {
    let (n, old) = (genes.len(), parent.n);
    child.resize(genes);
    let Scratch { gone, is_gone, fresh, bereft, from, to } = scratch;
    is_gone.resize(points.len(), false);
    gone.clear();
    fresh.clear();
    let (mut i, mut j) = (0, 0);
    while i < old || j < n {
        let run = if i < old && j < n { common::<S>(parent, i, child, j) } else { 0 };
        child.copy::<S>(parent, i, j, run);
        (i, j) = (i + run, j + run);
        if j < n && (i == old || genes[j] < parent.genes[i]) {
            fresh.push(j as u32);
            j += 1;
        } else if i < old {
            gone.push(parent.genes[i]);
            i += 1;
        }
    }
    for &j in fresh.iter() {
        let (gene, at) = (genes[j as usize], j as usize + PAD);
        [child.x[at], child.y[at], child.z[at], child.key[at]] = points.at(gene);
        (child.near[at], child.who[at]) = (1.0, rank_bits(gene));
    }
    for column in [&mut child.x, &mut child.y, &mut child.z, &mut child.near] {
        column[PAD + n..].fill(f64::NAN);
    }
    // Where much is new, announcing costs more than searching.
    if fresh.len() * 3 > n {
        for j in 0..n {
            search::<S>(child, j);
        }
        return;
    }
    gone.iter().for_each(|&gene| is_gone[gene as usize] = true);
    bereft.resize(n, 0);
    let mut count = 0;
    for (j, &who) in child.who[PAD..PAD + n].iter().enumerate() {
        // no branch to mispredict
        bereft[count] = j as u32;
        count += usize::from(is_gone[who.to_bits() as usize]);
    }
    gone.iter().for_each(|&gene| is_gone[gene as usize] = false);
    let bereft = &bereft[..count];
    // Who searches anyway need not be told.
    bereft.iter().for_each(|&j| child.near[j as usize + PAD] = 1.0);
    reaches(child, from, to);
    for &j in fresh.iter() {
        announce::<S>(child, j as usize, from, to);
    }
    for &j in fresh.iter().chain(bereft) {
        search::<S>(child, j as usize);
    }
}
}

/// A rank to be carried along in a lane; never a number to reckon with.
#[inline(always)]
fn rank_bits(rank: u32) -> f64 {
    f64::from_bits(u64::from(rank))
}

/// How many genes the parent from position `i` and the child from `j` have in common before they first differ.
#[inline(always)]
fn common<S: Lanes>(parent: &Candidate, i: usize, child: &Candidate, j: usize) -> usize {
    let mut run = 0;
    loop {
        let same = S::prefix(&parent.genes, i + run, &child.genes, j + run);
        run += same;
        if same < PREFIX || i + run >= parent.n || j + run >= child.n {
            // The padding of both is alike, and no gene.
            return run.min(parent.n - i).min(child.n - j);
        }
    }
}

/// The dot products of the point `p` with the chunk that starts at the padded position `k`.
#[inline(always)]
fn dots<S: Lanes>(c: &Candidate, p: [S; 3], k: usize) -> S {
    let (x, y, z) = (S::load(&c.x, k), S::load(&c.y, k), S::load(&c.z, k));
    p[0].mul_add(x, p[1].mul_add(y, p[2].mul(z)))
}

#[inline(always)]
fn point<S: Lanes>(c: &Candidate, at: usize) -> [S; 3] {
    [S::splat(c.x[at]), S::splat(c.y[at]), S::splat(c.z[at])]
}

/// By lane the greatest dot product so far, and the chunk that it stands in.
struct Best<S> {
    dot: S,
    chunk: S,
}

impl<S: Lanes> Best<S> {
    /// Looks at the chunk at `k` on behalf of the point `p`.
    #[inline(always)]
    fn look(&mut self, c: &Candidate, p: [S; 3], k: usize) {
        let d = dots(c, p, k);
        self.chunk = d.pick(self.dot, S::splat(k as f64), self.chunk);
        self.dot = d.pick(self.dot, d, self.dot);
    }
}

/// Finds the nearest neighbour of the point at position `j`.
#[inline(always)]
fn search<S: Lanes>(c: &mut Candidate, j: usize) {
    let (end, at) = (c.n + PAD, j + PAD);
    let p = point::<S>(c, at);
    let key = c.key[at];
    let mut best = Best { dot: S::splat(FAR), chunk: S::splat(0.0) };
    let (mut low, mut high) = (at - LANES, at + 1 + LANES);
    best.look(c, p, low);
    best.look(c, p, at + 1);
    loop {
        // Chord^2 = 2 - 2 dot bounds the square of the difference along the axis; a rounding to the safe side.
        let within = 2.0 - 2.0 * best.dot.greatest() + 1e-12;
        // The bound is worth its renewal only now and then.
        let (until_low, until_high) = (low.saturating_sub(STRIDE).max(PAD), (high + STRIDE).min(end));
        while low > until_low && (c.key[low - 1] - key) * (c.key[low - 1] - key) < within {
            low -= LANES;
            best.look(c, p, low);
        }
        while high < until_high && (c.key[high] - key) * (c.key[high] - key) < within {
            best.look(c, p, high);
            high += LANES;
        }
        if (low > until_low || low <= PAD) && (high < until_high || high >= end) {
            break;
        }
    }
    let near = best.dot.greatest();
    let lane = best.dot.first_equal(near);
    let who = best.chunk.to_array()[lane] as usize + lane;
    c.near[at] = near;
    // Alone it is its own neighbour.
    c.who[at] = rank_bits(c.genes[if near == FAR { j } else { who - PAD }]);
}

/// From where along the axis a new point can matter to a point of each chunk.
#[inline(always)]
fn reaches(c: &Candidate, from: &mut Vec<f64>, to: &mut Vec<f64>) {
    let chunks = c.n.div_ceil(LANES);
    for bounds in [&mut *from, &mut *to] {
        // a whole number of chunks, the rest unreachable: NaN
        bounds.clear();
        bounds.resize(chunks.next_multiple_of(LANES), f64::NAN);
    }
    for (chunk, (from, to)) in from.iter_mut().zip(to).take(chunks).enumerate() {
        let (first, last) = (PAD + chunk * LANES, PAD + ((chunk + 1) * LANES).min(c.n) - 1);
        // The padding is NaN, which never is less.
        let near: &[f64; LANES] = c.near[first..first + LANES].try_into().expect("eight elements");
        let least = |a: f64, b: f64| if b < a { b } else { a };
        let low = least(least(least(1.0, near[0]), least(near[1], near[2])), least(near[3], near[4]));
        let low = least(low, least(least(1.0, near[5]), least(near[6], near[7])));
        let reach = (2.0 - 2.0 * low).max(0.0).sqrt() + 1e-12;
        (*from, *to) = (c.key[first] - reach, c.key[last] + reach);
    }
}

/// Tells every point that it may matter to that there is a new one at position `j`.
#[inline(always)]
fn announce<S: Lanes>(c: &mut Candidate, j: usize, from: &[f64], to: &[f64]) {
    let p = point::<S>(c, j + PAD);
    let (key, gene) = (S::splat(c.key[j + PAD]), S::splat(rank_bits(c.genes[j])));
    let mut block = 0;
    while block < from.len() {
        let mut reached = S::load(from, block).below(key, S::load(to, block));
        while reached != 0 {
            let k = PAD + (block + reached.trailing_zeros() as usize) * LANES;
            reached &= reached - 1;
            let d = dots(c, p, k);
            let (near, who) = (S::load(&c.near, k), S::load(&c.who, k));
            d.pick(near, d, near).store(&mut c.near, k);
            d.pick(near, gene, who).store(&mut c.who, k);
        }
        block += LANES;
    }
}

vectorised! {
/// The mean of ln acos d. For d >= 0, with u = 1 - d, it is ln(2u)/2 + ln(acos(1-u)/sqrt(2u)): the second is a polynomial,
/// and of the first many share one logarithm.
fn mean_log_nearest<S>(near: &[f64], n: usize) -> f64 {
    // Products of this many factors of 1e-14..2 are normal numbers.
    const FACTORS: usize = 16;
    let (zero, one, floor) = (S::splat(0.0), S::splat(1.0), S::splat(5e-15));
    let (mut total, mut product, mut factors) = (zero, one, 0);
    let mut k = PAD;
    while k < PAD + n {
        let d = S::load(near, k);
        if zero.any_greater(d) {
            // Neighbours more than a quarter of the globe away: only where next to nothing is selected.
            return mean_log_far::<S>(near, n);
        }
        let u = one.sub(d);
        let u = u.pick(floor, u, floor);
        // The padding is NaN: it counts for nothing.
        let inside = S::splat(-1.0);
        total = total.add(d.pick(inside, log_ratio(u), zero));
        product = product.mul(d.pick(inside, u.add(u), one));
        factors += 1;
        if factors == FACTORS {
            total = ln(product).mul_add(S::splat(0.5), total);
            (product, factors) = (one, 0);
        }
        k += LANES;
    }
    sum(ln(product).mul_add(S::splat(0.5), total)) / n as f64
}
}

/// The same, for any dot products.
#[inline(always)]
fn mean_log_far<S: Lanes>(near: &[f64], n: usize) -> f64 {
    let (floor, one) = (S::splat(1e-7), S::splat(1.0));
    let mut total = S::splat(0.0);
    let mut k = PAD;
    while k < PAD + n {
        let d = S::load(near, k);
        let angle = acos(d);
        let angle = angle.pick(floor, angle, floor);
        total = total.add(ln(d.pick(S::splat(-1.5), angle, one)));
        k += LANES;
    }
    sum(total) / n as f64
}
