//! y[s] = mean over i of ln min over j of angle(i, j), or sums over pairs i < j          kernels/geodesic.wgsl

use crate::gpu::Kernel;
use crate::tensor::{Tape, Tensor};
use crate::words;
use anyhow::{Result, bail};

const NEAREST: Kernel = Kernel::new("geodesic", "nearest");
const PAIRS: Kernel = Kernel::new("geodesic", "pairs");
/// Bins of the histogram of angles, over [0, pi].
const BINS: usize = 64;
/// Points at one place count as this far apart, radians: 0.6 m on Earth.
const LEAST: f64 = 1e-7;

/// What is measured in a set of points; angles are in radians.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// The mean of ln(angle to the nearest other point); 0 of a point alone.
    Nearest,
    /// The sum of the angles of all pairs.
    Angle,
    /// The sum of their logarithms.
    Log,
    /// The sum of the angles, and of each times its logarithm.
    Share,
    /// The Shannon entropy of the angles' histogram, 64 bins over [0, pi].
    Histogram,
}

/// A unit vector in the kernel's whole numbers, 2^30 - 1 to the unit (6 mm on Earth).
pub fn fixed(vector: [f64; 3]) -> [i32; 3] {
    vector.map(|a| (a * f64::from((1 << 30) - 1)).round() as i32)
}

/// Great-circle distances inside sets of points: `points` [N, 3] of [`fixed`], `members` [S, places] their numbers, of
/// which each set has the first `counts` [S] -> [S, 2]. Without gradients.
///
/// # Errors
/// Shapes that do not fit.
pub fn geodesic(t: &mut Tape, points: Tensor, members: Tensor, counts: Tensor, measure: Measure) -> Result<Tensor> {
    let [_, 3] = points.dims("geodesic: points")? else { bail!("geodesic: points: expected [N, 3]") };
    let [sets, stride] = members.dims("geodesic: members")?;
    let [same] = counts.dims("geodesic: counts")?;
    if same != sets {
        bail!("geodesic: {same} counts for {sets} sets");
    }
    let y = t.saved([sets, 2]);
    let (kernel, term, flops) = match measure {
        Measure::Nearest => (NEAREST, 0u32, 9.0),
        Measure::Angle => (PAIRS, 0, 20.0),
        Measure::Log => (PAIRS, 1, 22.0),
        Measure::Share => (PAIRS, 2, 22.0),
        Measure::Histogram => (PAIRS, 3, 20.0),
    };
    let args = [y.into(), points.into(), members.into(), counts.into()];
    t.launch(kernel, sets as u64, &args, words![sets, stride, term]).flops(flops * (sets * stride * stride) as f64);
    Ok(y)
}

/// The specification, for unit vectors [N, 3] of any length's rounding.
pub fn reference(points: &[f64], members: &[usize], counts: &[usize], measure: Measure) -> Vec<f64> {
    let stride = members.len() / counts.len();
    let angle = |a: usize, b: usize| {
        let (p, q) = (&points[3 * a..3 * a + 3], &points[3 * b..3 * b + 3]);
        let chord: f64 = p.iter().zip(q).map(|(x, y)| (x - y).powi(2)).sum::<f64>().sqrt();
        2.0 * (chord / 2.0).min(1.0).asin()
    };
    let mut y = Vec::new();
    for (set, &n) in members.chunks(stride).zip(counts) {
        let set = &set[..n];
        let others = |i: usize| (0..n).filter(move |&j| j != i).map(move |j| angle(set[i], set[j]));
        let pairs: Vec<f64> = (0..n).flat_map(|i| (0..i).map(move |j| angle(set[i], set[j]))).collect();
        let ln = |a: f64| a.max(LEAST).ln();
        y.extend(match measure {
            Measure::Nearest if n < 2 => [0.0, 0.0],
            Measure::Nearest => {
                [(0..n).map(|i| ln(others(i).fold(f64::INFINITY, f64::min))).sum::<f64>() / n as f64, 0.0]
            }
            Measure::Angle => [pairs.iter().sum(), 0.0],
            Measure::Log => [pairs.iter().map(|&a| ln(a)).sum(), 0.0],
            Measure::Share => [pairs.iter().sum(), pairs.iter().map(|&a| a * ln(a)).sum()],
            Measure::Histogram => {
                let mut bins = [0.0; BINS];
                let bin = |a: f64| ((a / std::f64::consts::PI * BINS as f64) as usize).min(BINS - 1);
                pairs.iter().for_each(|&a| bins[bin(a)] += 1.0 / pairs.len() as f64);
                [-bins.iter().filter(|p| **p > 0.0).map(|p| p * p.ln()).sum::<f64>(), 0.0]
            }
        });
    }
    y
}
