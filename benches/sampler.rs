//! The sampler: a part of the grid, one stratum, every fitness, all strata at once; how the time of one evaluation grows
//! with N_s and n_g, by the processor's own clock (drawn too); the GPU beside the CPU.
//!
//! cargo bench --bench sampler [-- grid|stratum|archive|scaling|gpu]
//! cargo bench --bench sampler -- rows CELLS OUT: makes a table of ten million rows for `csmoe annotate` and `sample`

use criterion::{BenchmarkId, Criterion, Throughput};
use csmoe::data::table::{Column, Field, Kind, Table, Writer};
use csmoe::gpu::{AdapterChoice, Gpu, describe};
use csmoe::sampling::area::Area;
use csmoe::sampling::backend::trial;
use csmoe::sampling::distance::{Points, unit_vector};
use csmoe::sampling::genetic::{Params, evolve};
use csmoe::sampling::grid::sites;
use csmoe::sampling::lanes::{Level, limit};
use csmoe::sampling::rng::Rng;
use csmoe::sampling::sample::{Judge, Wanted, sample};
use csmoe::sampling::strata::Cells;
use plotters::prelude::*;
use std::path::Path;
use std::time::Duration;

/// Points over two continents' worth of the globe.
fn points(n: usize) -> Points {
    let mut rng = Rng::new(1, 2, 3, 4);
    let vectors: Vec<[f64; 3]> = (0..n).map(|_| unit_vector(60.0 * rng.unit() - 10.0, 150.0 * rng.unit())).collect();
    Points::new(&vectors)
}

fn grid(c: &mut Criterion) {
    let area = Area::new().with_latitudes(30.0, 40.0);
    let mut group = c.benchmark_group("grid");
    group.throughput(Throughput::Elements(sites(&area).len() as u64));
    group.bench_function("cells and centres, 30-40 N", |b| b.iter(|| sites(&area)));
}

/// Time per evaluated candidate is the figure: elements are candidates.
fn stratum(c: &mut Criterion) {
    let mut group = c.benchmark_group("stratum");
    let params = Params { iterations: 200, ..Params::default() };
    group.throughput(Throughput::Elements(200 * (params.population - 1) as u64));
    let points = points(10_000);
    for name in ["nn-entropy", "hist-entropy", "log-distance", "norm-distance", "mean-distance"] {
        let params = Params { fitness: name.parse().expect("a fitness"), ..params };
        group.bench_function(BenchmarkId::new(name, "N_s 100, n_g 10000"), |b| {
            b.iter(|| evolve(&points, 100, &params, Rng::new(42, 1, 1, 0)))
        });
    }
    for level in [Level::Middle, Level::Plain] {
        if limit(level) == level {
            group.bench_function(format!("nn-entropy, vectors {level:?}"), |b| {
                b.iter(|| evolve(&points, 100, &params, Rng::new(42, 1, 1, 0)))
            });
        }
    }
    limit(Level::Wide);
}

fn cells(n: usize) -> Cells {
    let mut rng = Rng::new(5, 0, 0, 0);
    let mut cells = Cells::default();
    for _ in 0..n {
        let (lat, lon) = (120.0 * rng.unit() - 60.0, 360.0 * rng.unit() - 180.0);
        cells.push(lat, lon, (lat / 15.0) as i32, rng.below(5) as i32);
    }
    cells
}

fn archive(c: &mut Criterion) {
    let cells = cells(200_000);
    let (strata, params) = (cells.strata(), Params { iterations: 250, ..Params::default() });
    let mut group = c.benchmark_group("archive");
    group.throughput(Throughput::Elements(strata.len() as u64));
    group.bench_function("all strata, T 250", |b| {
        b.iter(|| sample(&cells, &strata, Wanted::PerStratum(100), &params, 42, Judge::Cpu, None, &|_| ()))
    });
}

/// CPU time of this thread: other programs on the machine do not count.
fn cpu_seconds() -> f64 {
    // SAFETY: the struct is plain numbers, which the call fills.
    let mut t: libc::timespec = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut t) };
    t.tv_sec as f64 + t.tv_nsec as f64 * 1e-9
}

/// CPU microseconds of one evaluation, breeding included, in a whole run: the first generations cost more than the last.
fn evaluation(wanted: usize, cells: usize) -> f64 {
    let points = points(cells);
    let params = Params { iterations: 2500, ..Params::default() };
    let start = cpu_seconds();
    evolve(&points, wanted, &params, Rng::new(42, 1, 1, 0));
    (cpu_seconds() - start) * 1e6 / (params.iterations * (params.population - 1)) as f64
}

fn scaling() -> anyhow::Result<()> {
    println!("one evaluation, T 2500, CPU time:");
    println!("{:>8}{:>10}{:>10}{:>26}", "N_s", "n_g", "us", "ns / (N_s log2 N_s)");
    let mut over_wanted = Vec::new();
    for wanted in [10, 30, 100, 300, 1000, 3000, 10_000] {
        let us = evaluation(wanted, 40_000);
        let n = wanted as f64;
        println!("{wanted:>8}{:>10}{us:>10.2}{:>26.2}", 40_000, us * 1e3 / (n * n.log2()));
        over_wanted.push((n, us));
    }
    let mut over_cells = Vec::new();
    for cells in [200, 1000, 5000, 25_000, 125_000, 600_000] {
        let us = evaluation(100, cells);
        println!("{:>8}{cells:>10}{us:>10.2}", 100);
        over_cells.push((cells as f64, us));
    }
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sampler-scaling.svg");
    let canvas = SVGBackend::new(&path, (960, 440)).into_drawing_area();
    canvas.fill(&WHITE)?;
    let (left, right) = canvas.split_horizontally(480);
    // N log N through the figure at 100.
    let at = over_wanted[2].1 / (100.0 * 100f64.log2());
    let bound: Vec<(f64, f64)> = over_wanted.iter().map(|&(n, _)| (n, at * n * n.log2())).collect();
    for (area, name, lines) in [
        (left, "N_s (n_g 40,000; grey: N_s log N_s)", vec![(bound, BLACK.mix(0.4)), (over_wanted, RED.mix(1.0))]),
        (right, "n_g (N_s 100)", vec![(over_cells, RED.mix(1.0))]),
    ] {
        let all = || lines.iter().flat_map(|l| l.0.iter().copied());
        let most = |f: fn((f64, f64)) -> f64| all().map(f).fold(0.0, f64::max);
        let least = |f: fn((f64, f64)) -> f64| all().map(f).fold(f64::MAX, f64::min);
        let (x, y) = (least(|p| p.0)..most(|p| p.0), (least(|p| p.1) * 0.5).min(1.0)..most(|p| p.1) * 2.0);
        let mut chart = ChartBuilder::on(&area)
            .margin(15)
            .x_label_area_size(40)
            .y_label_area_size(55)
            .build_cartesian_2d(x.log_scale(), y.log_scale())?;
        chart.configure_mesh().x_desc(name).y_desc("CPU time of an evaluation, us").draw()?;
        for (line, color) in lines {
            chart.draw_series([PathElement::new(line.clone(), color.stroke_width(2))])?;
            chart.draw_series(line.iter().map(|&p| Circle::new(p, 3, color.filled())))?;
        }
    }
    canvas.present()?;
    println!("drawn: {}", path.display());
    Ok(())
}

fn gpu() -> anyhow::Result<()> {
    let gpu = Gpu::open(&AdapterChoice::from_flag(None))?;
    println!("CPU beside {}, wall time of 25 generations of all strata:", describe(&gpu.info));
    let cells = cells(100_000);
    for wanted in [30, 100, 300] {
        let times = trial(&gpu, &cells, &cells.strata(), Wanted::PerStratum(wanted), &Params::default())?;
        let [cpu, gpu] = times.map(|t| t.as_secs_f64() * 1e3);
        println!("N_s {wanted:>4}: CPU {cpu:8.1} ms, GPU {gpu:8.1} ms, CPU / GPU {:.3}", cpu / gpu);
    }
    Ok(())
}

/// Writes ten million rows of metadata: the cells of an annotated table over and over, each time moved by up to 3 km.
fn rows(cells: &Path, out: &Path) -> anyhow::Result<()> {
    const ROWS: usize = 10_000_000;
    let table = Table::open(cells)?;
    let wanted = ["grid_cell", "centre_lat", "centre_lon"].map(|name| table.require(name));
    let wanted = wanted.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    let kinds = [Kind::Text, Kind::Float, Kind::Float];
    let fields = ["product_id", "centre_lat", "centre_lon"].into_iter().zip(kinds).map(|(n, k)| Field::new(n, k));
    let mut writer = Writer::create(out, fields.collect())?;
    let mut rng = Rng::new(7, 0, 0, 0);
    let (mut written, mut round) = (0, 0);
    while written < ROWS {
        table.read(&wanted, &mut |batch| {
            let rows = batch.rows.min(ROWS - written);
            let name = |row: usize| Some(format!("{}_{round}", batch.columns[0].text(row)).into());
            let mut moved = |column: usize| {
                let value = |row: usize| batch.columns[column].number(row).map(|x| x + 0.05 * (rng.unit() - 0.5));
                Column::Float((0..rows).map(value).map(|x| x.map(|x| x.clamp(-180.0, 180.0))).collect())
            };
            let (lat, lon) = (moved(1), moved(2));
            written += rows;
            writer.write(&[Column::Text((0..rows).map(name).collect()), lat, lon])
        })?;
        anyhow::ensure!(written > 0, "{}: no rows", cells.display());
        round += 1;
    }
    writer.finish()?;
    println!("{written} rows in {}", out.display());
    Ok(())
}

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    if let [what, cells, out] = &words[..]
        && what == "rows"
    {
        return rows(Path::new(cells), Path::new(out));
    }
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    grid(&mut criterion);
    stratum(&mut criterion);
    archive(&mut criterion);
    criterion.final_summary();
    let asked = |name: &str| words.is_empty() || words.iter().any(|w| w == name);
    if asked("scaling") {
        scaling()?;
    }
    if asked("gpu") {
        gpu()?;
    }
    Ok(())
}
