//! What is carried over from parent to child equals what is found from scratch, in plain f64.

use super::super::distance::{EARTH_RADIUS_KM, Points, haversine_km};
use super::super::fitness::{Fitness, PairTerm};
use super::super::genetic::evaluate;
use super::super::neighbours::{self, Candidate};
use super::super::pairs::{self, BINS, PairCandidate};
use super::super::rng::Rng;
use super::super::strata::Cells;
use super::cells;

const ALL: [Fitness; 5] = [
    Fitness::NearestEntropy,
    Fitness::HistogramEntropy,
    Fitness::LogDistance,
    Fitness::NormDistance,
    Fitness::MeanDistance,
];

/// The definitions, by haversine over all pairs, with nothing of the kernels.
fn by_definition(cells: &Cells, rows: &[u32], fitness: Fitness) -> f64 {
    let n = rows.len();
    let angle = |a: usize, b: usize| {
        let (a, b) = (rows[a] as usize, rows[b] as usize);
        haversine_km(cells.lat[a], cells.lon[a], cells.lat[b], cells.lon[b]) / EARTH_RADIUS_KM
    };
    let pairs: Vec<f64> = (0..n).flat_map(|i| (0..i).map(move |j| (i, j))).map(|(i, j)| angle(i, j)).collect();
    let count = pairs.len() as f64;
    match fitness {
        Fitness::NearestEntropy => {
            let nearest = |i| (0..n).filter(|&j| j != i).map(|j| angle(i, j)).fold(f64::INFINITY, f64::min);
            2.0 / n as f64 * (0..n).map(|i| nearest(i).ln()).sum::<f64>() + ((n - 1) as f64).ln()
        }
        Fitness::HistogramEntropy => {
            let mut bins = [0.0; BINS];
            pairs.iter().for_each(|d| bins[(d / std::f64::consts::PI * BINS as f64) as usize] += 1.0 / count);
            -bins.iter().filter(|p| **p > 0.0).map(|p| p * p.ln()).sum::<f64>()
        }
        Fitness::LogDistance => pairs.iter().map(|d| d.ln()).sum::<f64>() / count,
        Fitness::MeanDistance => pairs.iter().sum::<f64>() / count,
        Fitness::NormDistance => {
            let total: f64 = pairs.iter().sum();
            -pairs.iter().map(|d| d / total).map(|p| p * p.ln()).sum::<f64>() / count.ln()
        }
    }
}

fn rows_of(points: &Points, genes: &[u32]) -> Vec<u32> {
    genes.iter().map(|&g| points.original(g)).collect()
}

/// Some points leave, some come; often few, sometimes nearly all.
fn edit(genes: &mut Vec<u32>, total: u32, rng: &mut Rng) {
    let most = if rng.below(20) == 0 { genes.len() as u32 } else { 6 };
    for _ in 0..rng.below(most + 1) {
        if genes.len() > 2 {
            genes.remove(rng.below(genes.len() as u32) as usize);
        }
    }
    for _ in 0..rng.below(most + 1) {
        if let Err(at) = genes.binary_search(&rng.below(total)) {
            let low = if at == 0 { 0 } else { genes[at - 1] + 1 };
            let high = genes.get(at).copied().unwrap_or(total);
            if low < high {
                genes.insert(at, low + rng.below(high - low));
            }
        }
    }
}

#[test]
fn nearest_neighbours_after_ten_thousand_operations() {
    let cells = cells(3000, 1);
    let all: Vec<u32> = (0..cells.len() as u32).collect();
    let points = cells.points(&all);
    let mut rng = Rng::new(5, 0, 0, 0);
    let mut genes = rng.choose(points.len() as u32, 90);
    let (mut now, mut next, mut scratch) = (Candidate::default(), Candidate::default(), neighbours::Scratch::default());
    now.breed(&Candidate::default(), &genes, &points, &mut scratch);
    for step in 0..10_000 {
        edit(&mut genes, points.len() as u32, &mut rng);
        next.breed(&now, &genes, &points, &mut scratch);
        std::mem::swap(&mut now, &mut next);
        assert_eq!(now.genes(), genes);
        let carried = Fitness::from_nearest(now.mean_log_nearest(), genes.len());
        assert_eq!(carried.to_bits(), evaluate(&points, &genes, Fitness::NearestEntropy).to_bits(), "step {step}");
        if step % 500 == 0 || step == 9_999 {
            let exact = by_definition(&cells, &rows_of(&points, &genes), Fitness::NearestEntropy);
            assert!((carried - exact).abs() < 1e-9, "step {step}: {carried} {exact}");
        }
    }
}

#[test]
fn pair_sums_after_ten_thousand_operations() {
    let cells = cells(2000, 2);
    let all: Vec<u32> = (0..cells.len() as u32).collect();
    let points = cells.points(&all);
    for term in [PairTerm::Bin, PairTerm::Log, PairTerm::Distance, PairTerm::Share] {
        let mut rng = Rng::new(6, 0, 0, 0);
        let mut genes = rng.choose(points.len() as u32, 40);
        let (mut now, mut next, mut scratch) =
            (PairCandidate::default(), PairCandidate::default(), pairs::Scratch::default());
        now.breed(&PairCandidate::default(), &genes, &points, term, 200, &mut scratch);
        for step in 0..10_000 {
            edit(&mut genes, points.len() as u32, &mut rng);
            genes.truncate(200);
            next.breed(&now, &genes, &points, term, 200, &mut scratch);
            std::mem::swap(&mut now, &mut next);
            if step % 100 == 0 || step == 9_999 {
                let mut fresh = PairCandidate::default();
                fresh.breed(&PairCandidate::default(), &genes, &points, term, 200, &mut scratch);
                assert_eq!(now.sums(), fresh.sums(), "{term:?}, step {step}");
            }
        }
    }
}

#[test]
fn every_fitness_is_its_definition() {
    let cells = cells(1500, 3);
    let all: Vec<u32> = (0..cells.len() as u32).collect();
    let points = cells.points(&all);
    let mut rng = Rng::new(7, 0, 0, 0);
    for n in [2, 3, 7, 8, 9, 16, 17, 100, 131] {
        for fitness in ALL {
            let genes = rng.choose(points.len() as u32, n);
            let (ours, exact) =
                (evaluate(&points, &genes, fitness), by_definition(&cells, &rows_of(&points, &genes), fitness));
            // One pair has no distribution of shares.
            let exact = if n == 2 && fitness == Fitness::NormDistance { 0.0 } else { exact };
            assert!((ours - exact).abs() < 1e-9, "{fitness} of {n}: {ours} {exact}");
        }
    }
}

#[test]
fn points_a_hemisphere_apart() {
    let mut cells = Cells::default();
    [(0.0, 0.0), (0.0, 170.0), (85.0, 20.0)].iter().for_each(|&(lat, lon)| cells.push(lat, lon, 1, 1));
    for rows in [vec![0, 1], vec![0, 1, 2]] {
        let points = cells.points(&rows);
        let genes: Vec<u32> = (0..rows.len() as u32).collect();
        let exact = by_definition(&cells, &rows, Fitness::NearestEntropy);
        assert!((evaluate(&points, &genes, Fitness::NearestEntropy) - exact).abs() < 1e-12);
    }
}
