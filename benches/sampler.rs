//! The sampler: a part of the grid, one stratum over N_s and n_g, every fitness, all strata at once.
//!
//! cargo bench --bench sampler

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use csmoe::sampling::area::Area;
use csmoe::sampling::distance::{Points, unit_vector};
use csmoe::sampling::genetic::{Params, evolve};
use csmoe::sampling::grid::sites;
use csmoe::sampling::rng::Rng;
use csmoe::sampling::sample::{Judge, Wanted, sample};
use csmoe::sampling::strata::Cells;

const POPULATION: u64 = 10;

/// Points over two continents' worth of the globe.
fn points(n: usize) -> Points {
    let mut rng = Rng::new(1, 2, 3, 4);
    let vectors: Vec<[f64; 3]> = (0..n).map(|_| unit_vector(60.0 * rng.unit() - 10.0, 150.0 * rng.unit())).collect();
    Points::new(&vectors)
}

fn grid(c: &mut Criterion) {
    let area = Area::new().with_latitudes(30.0, 40.0);
    let mut group = c.benchmark_group("grid");
    group.sample_size(10).throughput(Throughput::Elements(sites(&area).len() as u64));
    group.bench_function("cells and centres, 30-40 N", |b| b.iter(|| sites(&area)));
}

/// Time per evaluated candidate is the figure: elements are candidates.
fn stratum(c: &mut Criterion) {
    let mut group = c.benchmark_group("stratum");
    group.sample_size(10);
    let params = Params { iterations: 200, ..Params::default() };
    group.throughput(Throughput::Elements(200 * (POPULATION - 1)));
    for (wanted, cells) in [
        (100, 300),
        (100, 1000),
        (100, 10_000),
        (100, 100_000),
        (10, 10_000),
        (300, 10_000),
        (1000, 10_000),
        (3000, 10_000),
    ] {
        let points = points(cells);
        let id = BenchmarkId::new("nn-entropy", format!("N_s {wanted}, n_g {cells}"));
        group.bench_function(id, |b| b.iter(|| evolve(&points, wanted, &params, Rng::new(42, 1, 1, 0))));
    }
    let points = points(10_000);
    for name in ["hist-entropy", "log-distance", "norm-distance", "mean-distance"] {
        let params = Params { fitness: name.parse().expect("a fitness"), ..params };
        group.bench_function(BenchmarkId::new(name, "N_s 100, n_g 10000"), |b| {
            b.iter(|| evolve(&points, 100, &params, Rng::new(42, 1, 1, 0)))
        });
    }
}

fn archive(c: &mut Criterion) {
    let mut rng = Rng::new(5, 0, 0, 0);
    let mut cells = Cells::default();
    for _ in 0..200_000 {
        let (lat, lon) = (120.0 * rng.unit() - 60.0, 360.0 * rng.unit() - 180.0);
        cells.push(lat, lon, (lat / 15.0) as i32, rng.below(5) as i32);
    }
    let (strata, params) = (cells.strata(), Params { iterations: 250, ..Params::default() });
    let mut group = c.benchmark_group("archive");
    group.sample_size(10).throughput(Throughput::Elements(strata.len() as u64));
    group.bench_function("all strata, T 250", |b| {
        b.iter(|| sample(&cells, &strata, Wanted::PerStratum(100), &params, 42, Judge::Cpu, None, &|_| ()))
    });
}

criterion_group!(benches, grid, stratum, archive);
criterion_main!(benches);
