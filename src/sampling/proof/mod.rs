//! What the sampler promises, checked on synthetic and on real cells.

mod carried_over;
mod chain;
mod selections;

use super::rng::Rng;
use super::strata::Cells;

/// Cells in patches of different sizes and shapes, with classes that follow them: strata of 1 to about a third of `n`.
fn cells(n: usize, seed: u64) -> Cells {
    let mut rng = Rng::new(seed, 0, 0, 9);
    let mut cells = Cells::default();
    for _ in 0..n {
        let patch = rng.below(6);
        let (lat, lon) = match patch {
            0 => (rng.unit() * 160.0 - 80.0, rng.unit() * 360.0 - 180.0),
            1 => (60.0 + rng.unit() * 5.0, rng.unit() * 170.0),
            2 => (rng.unit() * 50.0 - 40.0, -70.0 + rng.unit() * 2.0),
            _ => (f64::from(patch) * 10.0 + rng.unit(), f64::from(patch) * 20.0 + rng.unit() * 3.0),
        };
        cells.push(lat, lon, patch as i32, if rng.below(50) == 0 { 2 } else { 1 });
    }
    cells
}
