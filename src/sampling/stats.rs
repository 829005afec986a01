//! The figures of the paper's Table II, for the full set, a random one and a sample.
//!
//! Distances are great-circle, km. The average distance is exact up to [`EXACT`] points; beyond, cells are gathered into
//! blocks at their mean direction, weighted by their number. Nearest neighbours are exact always.

use std::collections::BTreeSet;

use rayon::prelude::*;
use serde::Serialize;

use super::distance::EARTH_RADIUS_KM;
use super::elementary::acos;
use super::lanes::{LANES, sum, vectorised};
use super::nearest::nearest_dots;
use super::sample::random_like;
use super::strata::{Cells, Stratum};

/// Points (or blocks) whose pairs are all visited.
pub const EXACT: usize = 16_384;

/// One column of the table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SetStats {
    pub tiles: usize,
    pub strata: usize,
    /// Strata that the sample has more than `min_tiles` tiles of: tiles per stratum and the nearest neighbour within are over these.
    pub strata_counted: usize,
    pub tiles_per_stratum_mean: f64,
    pub tiles_per_stratum_std: f64,
    pub average_distance_km: f64,
    /// Mean distance to the nearest tile: what the paper's table prints as "Min. distance".
    pub nearest_neighbour_mean_km: f64,
    pub minimum_distance_km: f64,
    /// Mean over all strata of two tiles or more of their average distance.
    pub within_stratum_macro_km: f64,
    /// The same, strata weighted by their tiles.
    pub within_stratum_tile_weighted_km: f64,
    /// Mean over strata of the mean distance to the nearest tile of the same stratum.
    pub nearest_neighbour_within_km: f64,
    /// "exact", or the size of the blocks in degrees.
    pub average_distance_method: String,
}

/// The three columns side by side.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    pub full: SetStats,
    pub random: SetStats,
    pub sample: SetStats,
}

/// The figures of a set of rows; figures per stratum are over the strata in `counted`.
pub fn set_stats(cells: &Cells, strata: &[Stratum], counted: &BTreeSet<(i32, i32)>) -> SetStats {
    let rows: Vec<u32> = strata.iter().flat_map(|s| s.rows.iter().copied()).collect();
    let vectors = cells.vectors(&rows);
    let (average, method) = mean_distance(&vectors);
    let near = nearest_km(&vectors);
    let parts: Vec<&Stratum> = strata.iter().filter(|s| s.rows.len() > 1).collect();
    let within: Vec<Within> = parts
        .par_iter()
        .with_max_len(1)
        .map(|s| {
            let vectors = cells.vectors(&s.rows);
            let average = mean_distance(&vectors).0 * EARTH_RADIUS_KM;
            let counted = counted.contains(&(s.u, s.v));
            Within { tiles: s.rows.len() as f64, average, nearest: mean(&nearest_km(&vectors)), counted }
        })
        .collect();
    let of = |f: fn(&Within) -> f64| within.iter().map(f).collect::<Vec<_>>();
    let of_counted = |f: fn(&Within) -> f64| within.iter().filter(|w| w.counted).map(f).collect::<Vec<_>>();
    let sizes = of_counted(|w| w.tiles);
    let sizes_mean = mean(&sizes);
    let weighted = of(|w| w.tiles * w.average).iter().sum::<f64>() / of(|w| w.tiles).iter().sum::<f64>();
    SetStats {
        tiles: rows.len(),
        strata: strata.len(),
        strata_counted: sizes.len(),
        tiles_per_stratum_mean: sizes_mean,
        tiles_per_stratum_std: mean(&sizes.iter().map(|s| (s - sizes_mean).powi(2)).collect::<Vec<_>>()).sqrt(),
        average_distance_km: average * EARTH_RADIUS_KM,
        nearest_neighbour_mean_km: mean(&near),
        minimum_distance_km: near.iter().copied().fold(f64::INFINITY, f64::min),
        within_stratum_macro_km: mean(&of(|w| w.average)),
        within_stratum_tile_weighted_km: weighted,
        nearest_neighbour_within_km: mean(&of_counted(|w| w.nearest)),
        average_distance_method: method,
    }
}

/// The figures of one stratum.
struct Within {
    tiles: f64,
    average: f64,
    nearest: f64,
    counted: bool,
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The distance of every point to its nearest neighbour, km.
pub fn nearest_km(vectors: &[[f64; 3]]) -> Vec<f64> {
    let dots = nearest_dots(vectors);
    dots.into_iter().map(|d| d.clamp(-1.0, 1.0).acos() * EARTH_RADIUS_KM).collect()
}

/// The mean angle of all pairs, radians, and how it was found.
pub fn mean_distance(vectors: &[[f64; 3]]) -> (f64, String) {
    let n = vectors.len() as f64;
    if vectors.len() <= EXACT {
        let weights = vec![1.0; vectors.len()];
        return (2.0 * pair_sum(vectors, &weights) / (n * (n - 1.0)), "exact".to_string());
    }
    let mut degrees = 0.125;
    let (centres, weights) = loop {
        let blocks = blocks(vectors, degrees);
        if blocks.0.len() <= EXACT {
            break blocks;
        }
        degrees *= 1.25;
    };
    (2.0 * pair_sum(&centres, &weights) / (n * (n - 1.0)), format!("blocks of {degrees:.2} degrees"))
}

/// Gathers points by squares of about `degrees`: their mean directions and counts.
fn blocks(vectors: &[[f64; 3]], degrees: f64) -> (Vec<[f64; 3]>, Vec<f64>) {
    let mut found = std::collections::BTreeMap::<(i32, i32), ([f64; 3], f64)>::new();
    for v in vectors {
        let (lat, lon) = (v[2].clamp(-1.0, 1.0).asin().to_degrees(), v[1].atan2(v[0]).to_degrees());
        let row = ((lat + 90.0) / degrees) as i32;
        let middle = ((f64::from(row) + 0.5) * degrees - 90.0).to_radians();
        let columns = (360.0 * middle.cos().max(0.0) / degrees).ceil().max(1.0);
        let column = ((lon + 180.0) / 360.0 * columns) as i32;
        let block = found.entry((row, column)).or_default();
        block.0 = std::array::from_fn(|k| block.0[k] + v[k]);
        block.1 += 1.0;
    }
    let unit = |s: [f64; 3]| {
        let length = (s[0] * s[0] + s[1] * s[1] + s[2] * s[2]).sqrt();
        s.map(|a| a / length)
    };
    found.into_values().map(|(s, n)| (unit(s), n)).unzip()
}

/// sum_{i<j} w_i w_j angle(i, j).
fn pair_sum(vectors: &[[f64; 3]], weights: &[f64]) -> f64 {
    let column = |k: usize| -> Vec<f64> { vectors.iter().map(|v| v[k]).chain([0.0; LANES]).collect() };
    let (x, y, z) = (column(0), column(1), column(2));
    let w: Vec<f64> = weights.iter().copied().chain([0.0; LANES]).collect();
    // Summed by rows in a fixed order: the result is the same for any number of threads.
    let rows: Vec<f64> =
        (0..vectors.len()).into_par_iter().with_min_len(64).map(|i| w[i] * row_sum(&x, &y, &z, &w, i)).collect();
    rows.iter().sum()
}

vectorised! {
/// sum_{j>i} w_j angle(i, j); the columns end with a chunk of weight zero.
fn row_sum<S>(x: &[f64], y: &[f64], z: &[f64], w: &[f64], i: usize) -> f64 {
    let p = [S::splat(x[i]), S::splat(y[i]), S::splat(z[i])];
    let mut total = S::splat(0.0);
    let mut k = i + 1;
    while k + LANES <= x.len() {
        let d = p[0].mul_add(S::load(x, k), p[1].mul_add(S::load(y, k), p[2].mul(S::load(z, k))));
        total = acos(d).mul_add(S::load(w, k), total);
        k += LANES;
    }
    sum(total)
}
}

/// The figures of the full set, of a random draw as large as the sample, and of the sample.
pub fn compare(
    cells: &Cells,
    strata: &[Stratum],
    sampled: &Cells,
    sample: &[Stratum],
    seed: u64,
    min_tiles: usize,
) -> Comparison {
    let drawn = random_like(strata, sample, seed);
    let counted: BTreeSet<(i32, i32)> =
        sample.iter().filter(|s| s.rows.len() > min_tiles).map(|s| (s.u, s.v)).collect();
    Comparison {
        full: set_stats(cells, strata, &counted),
        random: set_stats(cells, &cells.strata_of(&drawn), &counted),
        sample: set_stats(sampled, sample, &counted),
    }
}

/// A row's name, and its text for one set.
type StatsRow = (&'static str, fn(&SetStats) -> String);

impl Comparison {
    const ROWS: [StatsRow; 9] = [
        ("tiles", |s| s.tiles.to_string()),
        ("strata (counted)", |s| format!("{} ({})", s.strata, s.strata_counted)),
        ("tiles per stratum", |s| format!("{:.0} +- {:.0}", s.tiles_per_stratum_mean, s.tiles_per_stratum_std)),
        ("average distance, km", |s| format!("{:.0}", s.average_distance_km)),
        ("mean nearest-neighbour distance, km", |s| format!("{:.1}", s.nearest_neighbour_mean_km)),
        ("minimum distance, km", |s| format!("{:.2}", s.minimum_distance_km)),
        ("within stratum, mean over strata, km", |s| format!("{:.0}", s.within_stratum_macro_km)),
        ("within stratum, tile-weighted, km", |s| format!("{:.0}", s.within_stratum_tile_weighted_km)),
        ("nearest neighbour within stratum, km", |s| format!("{:.1}", s.nearest_neighbour_within_km)),
    ];

    /// Aligned text.
    pub fn text(&self) -> String {
        let line =
            |name: &str, cells: [String; 3]| format!("{name:<38}{:>18}{:>18}{:>18}\n", cells[0], cells[1], cells[2]);
        let head = line("", ["full", "random", "sample"].map(String::from));
        let rows = Self::ROWS.iter().map(|(name, f)| line(name, [&self.full, &self.random, &self.sample].map(f)));
        let methods = [&self.full, &self.random, &self.sample].map(|s| s.average_distance_method.as_str()).join(", ");
        head + &rows.collect::<String>() + &format!("average distance: {methods}; nearest neighbours: exact\n")
    }

    /// A Markdown table.
    pub fn markdown(&self) -> String {
        let row = |(name, f): &(&str, fn(&SetStats) -> String)| {
            let cells = [&self.full, &self.random, &self.sample].map(f);
            format!("| {name} | {} |\n", cells.join(" | "))
        };
        let rows: String = Self::ROWS.iter().map(row).collect();
        format!("| | full | random | sample |\n|---|---|---|---|\n{rows}")
    }
}
