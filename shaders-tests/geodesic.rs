use crate::harness::{gpu, normal};
use csmoe::ops::geodesic::{Measure, fixed, geodesic, reference};
use csmoe::tensor::{ParamStore, Params, Rng, Tape};

const ALL: [Measure; 5] = [Measure::Nearest, Measure::Angle, Measure::Log, Measure::Share, Measure::Histogram];

/// Runs the kernel on `points`, of which set `s` has the first `counts[s]` of its row of `members`.
fn run(points: &[i32], members: &[u32], counts: &[u32], measure: Measure) -> Vec<f32> {
    let (gpu, sets) = (gpu(), counts.len());
    let mut t = Tape::new(gpu.target.clone(), Params::default());
    let [p, m, c] = [
        t.input("points", [points.len() / 3, 3]),
        t.input("members", [sets, members.len() / sets]),
        t.input("counts", [sets]),
    ];
    let y = geodesic(&mut t, p, m, c, measure).expect("shapes that fit");
    t.output("y", y).expect("an output");
    let program = t.compile(gpu, &ParamStore::new(gpu, Params::default(), false).expect("none")).expect("a program");
    program.write(gpu, "points", points).expect("points");
    program.write(gpu, "members", members).expect("members");
    program.write(gpu, "counts", counts).expect("counts");
    let y = program.run_and_read(gpu, &["y"]).expect("a run").outputs;
    assert_eq!(y, program.run_and_read(gpu, &["y"]).expect("a run").outputs, "a second run gave other bits");
    y.into_iter().next().expect("one output")
}

/// Unit vectors around a direction, `spread` wide; some at one place, some antipodes.
fn vectors(n: usize, spread: f64, seed: u64) -> Vec<[f64; 3]> {
    let (noise, mut rng) = (normal(seed, 3 * n), Rng::new(seed, 3));
    let mut all: Vec<[f64; 3]> = noise
        .chunks(3)
        .map(|c| {
            let v = [0.3 + spread * f64::from(c[0]), 0.5 + spread * f64::from(c[1]), spread * f64::from(c[2]) - 0.8];
            let length = v.iter().map(|a| a * a).sum::<f64>().sqrt();
            v.map(|a| a / length)
        })
        .collect();
    for i in 1..n {
        match rng.below(40) {
            0 => all[i] = all[i - 1],
            1 => all[i] = all[i - 1].map(|a| -a),
            _ => {}
        }
    }
    all
}

#[test]
fn geodesic_measures() {
    // From neighbours 6 km apart to the whole globe; sets of none, one, two, tile +- 1, primes.
    let shapes = [
        (5, 3, 2.0),
        (7, 7, 2.0),
        (100, 63, 2.0),
        (100, 64, 0.001),
        (100, 65, 0.3),
        (130, 97, 0.001),
        (500, 127, 2.0),
        (500, 128, 0.1),
        (500, 129, 0.01),
        (1000, 211, 0.003),
        (1500, 1021, 0.3),
    ];
    for (n, stride, spread) in shapes {
        let points = vectors(n, spread, n as u64);
        let whole: Vec<i32> = points.iter().flat_map(|&v| fixed(v)).collect();
        let mut rng = Rng::new(4, stride as u64);
        let counts: Vec<u32> =
            [0, 1, 2, 3, stride / 2, stride - 1, stride].iter().map(|&c| c.min(stride) as u32).collect();
        let members: Vec<u32> = counts
            .iter()
            .flat_map(|_| {
                let first = rng.below(n);
                (0..stride).map(|i| ((first + i) % n) as u32).collect::<Vec<_>>()
            })
            .collect();
        let (of_set, of_count): (Vec<usize>, Vec<usize>) =
            (members.iter().map(|&m| m as usize).collect(), counts.iter().map(|&c| c as usize).collect());
        let flat: Vec<f64> = whole.iter().map(|&x| f64::from(x) / f64::from((1 << 30) - 1)).collect();
        for measure in ALL {
            let got = run(&whole, &members, &counts, measure);
            let expected = reference(&flat, &of_set, &of_count, measure);
            for (i, (&g, &e)) in got.iter().zip(&expected).enumerate() {
                let pairs = (of_count[i / 2] * of_count[i / 2].saturating_sub(1) / 2).max(1) as f64;
                let bound = match measure {
                    Measure::Nearest => 2e-6,
                    Measure::Angle | Measure::Log | Measure::Share => 1e-5 * pairs,
                    // An angle at the edge of a bin may fall to either side.
                    Measure::Histogram => 1e-5 + 4.0 * pairs.ln().max(1.0) / pairs,
                };
                assert!(
                    (f64::from(g) - e).abs() <= bound,
                    "{measure:?} of {n} {stride} {spread}, at {i}: {g}, not {e}"
                );
            }
        }
    }
}

#[test]
fn neighbours_of_ten_kilometres_keep_their_digits() {
    // Two points 10 km apart at every place of a meridian: the chord's relative error is that of f32.
    for degrees in 0..90 {
        let at = |lat: f64| [lat.to_radians().cos(), 0.0, lat.to_radians().sin()];
        let (a, b) = (at(f64::from(degrees)), at(f64::from(degrees) + 0.09));
        let points: Vec<i32> = [a, b].iter().flat_map(|&v| fixed(v)).collect();
        let got = f64::from(run(&points, &[0, 1], &[2], Measure::Nearest)[0]);
        assert!((got - 0.09f64.to_radians().ln()).abs() < 2e-6, "{degrees}: {got}");
    }
}
