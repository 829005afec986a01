//! Counts, strata, determinism, resuming, and that the algorithm never ends below its start.

use std::collections::BTreeSet;

use super::super::checkpoint::Checkpoint;
use super::super::fitness::Fitness;
use super::super::genetic::{Count, Mutation, Params};
use super::super::lanes::{Level, limit};
use super::super::sample::{Judge, Selection, Wanted, fitness, quotas, random, sample};
use super::super::stats::{EXACT, mean_distance, nearest_km, set_stats};
use super::super::strata::Cells;
use super::cells;

fn quick(fitness: Fitness) -> Params {
    Params { iterations: 60, fitness, ..Params::default() }
}

fn run(cells: &Cells, wanted: Wanted, params: &Params, threads: usize) -> Vec<Selection> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| sample(cells, &cells.strata(), wanted, params, 42, Judge::Cpu, None, &|_| ()).unwrap())
}

#[test]
fn every_sample_belongs_to_its_stratum_and_counts_hold() {
    let cells = cells(4000, 1);
    for count in [Count::Exact, Count::Band] {
        for name in ["nn-entropy", "hist-entropy", "log-distance", "norm-distance", "mean-distance"] {
            let params = Params { count, ..quick(name.parse().unwrap()) };
            for s in run(&cells, Wanted::PerStratum(30), &params, 2) {
                assert!(s.rows.iter().all(|&r| cells.climate[r as usize] == s.u && cells.thematic[r as usize] == s.v));
                assert!(s.rows.windows(2).all(|w| w[0] < w[1]), "a row twice, or out of order");
                let n = s.rows.len();
                let allowed = match count {
                    _ if s.n_g <= 30 => s.n_g..=s.n_g,
                    Count::Exact => 30..=30,
                    Count::Band => 27..=33.min(s.n_g),
                };
                assert!(allowed.contains(&n), "{count:?} {name}: {n} of {}", s.n_g);
                assert!(s.after >= s.before, "{name}: {} < {}", s.after, s.before);
                assert!((s.after - fitness(&cells, &s.rows, &params)).abs() < 1e-9, "{name}");
            }
        }
    }
}

#[test]
fn the_algorithm_gains_over_random() {
    let cells = cells(4000, 2);
    let strata = cells.strata();
    let params = Params { iterations: 400, ..Params::default() };
    for s in run(&cells, Wanted::PerStratum(40), &params, 2).iter().filter(|s| s.n_g > 400) {
        let stratum: Vec<_> = strata.iter().filter(|t| (t.u, t.v) == (s.u, s.v)).cloned().collect();
        let draws = (0..50).map(|seed| fitness(&cells, &random(&stratum, |_| 40, seed), &params));
        assert!(s.after > draws.fold(f64::NEG_INFINITY, f64::max), "stratum {} {}", s.u, s.v);
    }
}

#[test]
fn vectors_of_every_width_give_the_same() {
    let cells = cells(3000, 8);
    let strata = cells.strata();
    let all = || -> Vec<Vec<Selection>> {
        ["nn-entropy", "hist-entropy", "log-distance", "norm-distance", "mean-distance"]
            .iter()
            .map(|name| run(&cells, Wanted::PerStratum(40), &quick(name.parse().unwrap()), 2))
            .collect()
    };
    let (best, everything) = (limit(Level::Wide), BTreeSet::new());
    let expected = (all(), set_stats(&cells, &strata, &everything).average_distance_km);
    for most in [Level::Middle, Level::Plain] {
        let used = limit(most);
        // AVX2 itself runs wherever the processor has it.
        assert_eq!(used, most.min(best));
        assert_eq!((all(), set_stats(&cells, &strata, &everything).average_distance_km), expected, "{used:?}");
    }
    limit(Level::Wide);
}

#[test]
fn any_number_of_threads_gives_the_same() {
    let cells = cells(3000, 3);
    for fitness in [Fitness::NearestEntropy, Fitness::LogDistance] {
        let one = run(&cells, Wanted::PerStratum(25), &quick(fitness), 1);
        for threads in [2, 8] {
            assert_eq!(run(&cells, Wanted::PerStratum(25), &quick(fitness), threads), one);
        }
    }
}

#[test]
fn the_gpu_judges_as_the_cpu_does() {
    let gpu = crate::gpu::Gpu::open(&crate::gpu::AdapterChoice::from_flag(None)).unwrap();
    let cells = cells(3000, 3);
    let strata = cells.strata();
    for name in ["nn-entropy", "hist-entropy", "log-distance", "norm-distance", "mean-distance"] {
        let params = quick(name.parse().unwrap());
        let go = |params: &Params, judge, threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| sample(&cells, &strata, Wanted::PerStratum(25), params, 42, judge, None, &|_| ()).unwrap())
        };
        let one = go(&params, Judge::Gpu(&gpu), 1);
        for threads in [2, 8] {
            assert_eq!(go(&params, Judge::Gpu(&gpu), threads), one, "{name}, {threads} threads");
        }
        for s in &one {
            // The curve is the GPU's, the ends are judged in f64.
            let last = s.curve.last().unwrap().1;
            let bound = if name == "hist-entropy" { 0.02 } else { 1e-5 };
            assert!((last - s.after).abs() <= bound * s.after.abs().max(1.0), "{name}: {last} {}", s.after);
            assert!((s.after - fitness(&cells, &s.rows, &params)).abs() < 1e-9 && s.after >= s.before, "{name}");
        }
        // Rounding sends the two on different ways of equal worth.
        let gain = |all: &[Selection]| all.iter().map(|s| s.after - s.before).sum::<f64>();
        let (ours, theirs) = (gain(&one), gain(&go(&params, Judge::Cpu, 2)));
        assert!(ours > 0.8 * theirs && ours < 1.25 * theirs, "{name}: {ours} {theirs}");
        // Without generations both choose the best of the same random candidates.
        let still = Params { iterations: 0, ..params };
        assert_eq!(go(&still, Judge::Gpu(&gpu), 2), go(&still, Judge::Cpu, 2));
    }
    // No rounding decides among the first children: one generation is the same on both.
    let one = Params { iterations: 1, ..Params::default() };
    let go = |judge| sample(&cells, &strata, Wanted::PerStratum(25), &one, 42, judge, None, &|_| ()).unwrap();
    for (a, b) in go(Judge::Gpu(&gpu)).iter().zip(go(Judge::Cpu)) {
        assert_eq!(a.rows, b.rows);
    }
    // How long it takes is the machine's affair: beside other work a longer run may end sooner.
    super::super::backend::trial(&gpu, &cells, &strata, Wanted::PerStratum(25), &Params::default()).unwrap();
}

#[test]
fn an_interrupted_run_resumes_to_the_same() {
    let cells = cells(3000, 4);
    let strata = cells.strata();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.checkpoint.jsonl");
    let identity = serde_json::json!({ "seed": 42 });
    let go = |checkpoint: &Checkpoint| {
        sample(
            &cells,
            &strata,
            Wanted::PerStratum(25),
            &quick(Fitness::NearestEntropy),
            42,
            Judge::Cpu,
            Some(checkpoint),
            &|_| (),
        )
        .unwrap()
    };
    let whole = go(&Checkpoint::open(&path, &identity).unwrap());
    let text = std::fs::read_to_string(&path).unwrap();
    // Killed in the middle of a line, at every tenth of the file.
    for tenth in 0..10 {
        std::fs::write(&path, &text[..text.len() * tenth / 10]).unwrap();
        let checkpoint = Checkpoint::open(&path, &identity).unwrap();
        assert!(checkpoint.len() < strata.len());
        assert_eq!(go(&checkpoint), whole);
    }
    assert!(Checkpoint::open(&path, &identity).unwrap().len() == strata.len());
    let other = Checkpoint::open(&path, &serde_json::json!({ "seed": 43 })).unwrap_err();
    assert!(format!("{other:#}").contains("other inputs or parameters"), "{other:#}");
}

#[test]
fn totals_are_met() {
    let sizes = [5, 100, 3, 50, 1];
    assert_eq!(quotas(&sizes, Wanted::PerStratum(10)), [5, 10, 3, 10, 1]);
    for total in 0..=159 {
        let quotas = quotas(&sizes, Wanted::Total(total));
        assert_eq!(quotas.iter().sum::<usize>(), total);
        assert!(quotas.iter().zip(sizes).all(|(&q, s)| q <= s));
        // No stratum gives two more than another that could give more.
        let open: Vec<usize> = quotas.iter().zip(sizes).filter(|(q, s)| *q < s).map(|(&q, _)| q).collect();
        let most = quotas.iter().max().copied().unwrap_or(0);
        assert!(open.iter().all(|&q| most <= q + 1), "{total}: {quotas:?}");
    }
    assert_eq!(quotas(&sizes, Wanted::Total(1000)), sizes);
}

#[test]
fn random_equals_full_within_strata_in_expectation() {
    let cells = cells(3000, 5);
    let strata: Vec<_> = cells.strata().into_iter().filter(|s| s.rows.len() > 50).collect();
    let everything: BTreeSet<_> = strata.iter().map(|s| (s.u, s.v)).collect();
    let full = set_stats(&cells, &strata, &everything).within_stratum_macro_km;
    let draws: Vec<f64> = (0..200)
        .map(|seed| {
            set_stats(&cells, &cells.strata_of(&random(&strata, |_| 20, seed)), &everything).within_stratum_macro_km
        })
        .collect();
    let mean = draws.iter().sum::<f64>() / 200.0;
    let deviation = (draws.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / 199.0).sqrt();
    // Four standard errors of the mean.
    assert!((mean - full).abs() < 4.0 * deviation / 200f64.sqrt(), "{mean} {full} {deviation}");
}

#[test]
fn blocks_estimate_the_average_distance() {
    // Just more points than are visited exactly; the reference is the mean of all pairs by the library's arc cosine.
    let n = EXACT + 500;
    let cells = cells(n, 6);
    let vectors = cells.vectors(&(0..n as u32).collect::<Vec<_>>());
    let (estimate, method) = mean_distance(&vectors);
    assert!(method.contains("blocks"), "{method}");
    let rows = |i: usize| {
        vectors[..i].iter().map(|q| super::super::distance::dot(vectors[i], *q).clamp(-1.0, 1.0).acos()).sum::<f64>()
    };
    let exact = (0..n).map(rows).sum::<f64>() / (n as f64 * (n - 1) as f64 / 2.0);
    assert!((estimate / exact - 1.0).abs() < 1e-4, "{estimate} {exact}");
}

#[test]
fn a_single_tile_and_an_empty_set_have_no_neighbours() {
    assert!(nearest_km(&[]).is_empty());
    let error = sample(&Cells::default(), &[], Wanted::PerStratum(5), &Params::default(), 1, Judge::Cpu, None, &|_| ())
        .unwrap_err();
    assert!(format!("{error:#}").contains("no stratum"), "{error:#}");
    assert_eq!("literal".parse(), Ok(Mutation::Literal));
    assert!("2.5".parse::<Mutation>().is_err() && "x".parse::<Fitness>().is_err());
}
