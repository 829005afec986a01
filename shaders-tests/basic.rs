use crate::harness::{In, check, gpu};
use csmoe::gpu::Staging;
use csmoe::ops;
use csmoe::tensor::{ParamStore, Params, Tape};

#[test]
fn add_and_scale() {
    for n in [1, 3, 63, 64, 65, 257, 70_001] {
        check(
            &format!("add {n}"),
            &[In::normal(1, &[n]), In::normal(2, &[n])],
            |t, x| {
                let double = ops::scale(t, x[0], 2.0)?;
                ops::add(t, double, x[1])
            },
            |x| x[0].iter().zip(&x[1]).map(|(a, b)| 2.0 * a + b).collect(),
        );
    }
}

#[test]
fn views_carry_gradients() {
    check(
        "split and concat",
        &[In::normal(1, &[4, 64]), In::normal(2, &[2, 64])],
        |t, x| {
            let parts = t.split(x[0], &[1, 3])?;
            let a = ops::scale(t, parts[0], 3.0)?;
            let b = ops::scale(t, x[1], -1.0)?;
            let joined = t.concat(&[a, b])?;
            ops::add(t, joined, parts[1])
        },
        |x| (0..3 * 64).map(|i| if i < 64 { 3.0 * x[0][i] } else { -x[1][i - 64] } + x[0][64 + i]).collect(),
    );
}

#[test]
fn views_and_wholes_share_a_gradient() {
    let part = |x: &[f64], i: usize| x[i * 64..(i + 1) * 64].to_vec();
    let sum = |a: &[f64], b: &[f64], f: f64| -> Vec<f64> { a.iter().zip(b).map(|(a, b)| a + f * b).collect() };
    // The whole is used before, between and after its parts.
    for place in 0..3 {
        check(
            &format!("split and whole {place}"),
            &[In::normal(3, &[3, 64])],
            |t, x| {
                let early = if place == 0 { Some(ops::scale(t, x[0], 2.0)?) } else { None };
                let parts = t.split(x[0], &[1, 2])?;
                let middle = if place == 1 { Some(ops::scale(t, x[0], 2.0)?) } else { None };
                let a = ops::scale(t, parts[0], 3.0)?;
                let whole = match early.or(middle) {
                    Some(whole) => whole,
                    None => ops::scale(t, x[0], 2.0)?,
                };
                let whole = t.split(whole, &[1, 2])?[0];
                ops::add(t, a, whole)
            },
            |x| sum(&[0.0; 64], &part(&x[0], 0), 5.0),
        );
    }
    check(
        "two splits of one value",
        &[In::normal(4, &[3, 64])],
        |t, x| {
            let a = t.split(x[0], &[1, 2])?;
            let b = t.split(x[0], &[2, 1])?;
            let c = ops::scale(t, a[1], 3.0)?;
            ops::add(t, c, b[0])
        },
        |x| (0..128).map(|i| x[0][i] + 3.0 * x[0][64 + i]).collect(),
    );
    check(
        "a split of a part",
        &[In::normal(5, &[4, 64])],
        |t, x| {
            let outer = t.split(x[0], &[1, 3])?;
            let inner = t.split(outer[1], &[1, 2])?;
            let a = ops::scale(t, inner[0], 3.0)?;
            ops::add(t, a, outer[0])
        },
        |x| sum(&part(&x[0], 0), &part(&x[0], 1), 3.0),
    );
    check(
        "a part of which all parts are used",
        &[In::normal(6, &[4, 64])],
        |t, x| {
            let outer = t.split(x[0], &[1, 3])?;
            let inner = t.split(outer[1], &[2, 1])?;
            let a = ops::scale(t, inner[0], 3.0)?;
            let a = t.split(a, &[1, 1])?[1];
            let a = ops::add(t, a, inner[1])?;
            ops::add(t, a, outer[0])
        },
        |x| (0..64).map(|i| x[0][i] + 3.0 * x[0][128 + i] + x[0][192 + i]).collect(),
    );
}

#[test]
fn staged_inputs_are_inputs() {
    let gpu = gpu();
    let mut t = Tape::new(gpu.target.clone(), Params::default());
    let n = 7001;
    let (a, b) = (t.input("a", [n]), t.input("b", [n]));
    let sum = ops::add(&mut t, a, b).expect("shapes");
    t.output("sum", sum).expect("an output");
    let store = ParamStore::new(gpu, Params::default(), false).expect("a store");
    let program = t.compile(gpu, &store).expect("a program");
    program.write(gpu, "b", &vec![0.5f32; n]).expect("a write");
    let mut staged = Staging::new(gpu, n).expect("memory");
    for round in 0..3 {
        // In two parts, from a thread that is not the one that runs.
        let values: Vec<f32> = (0..n).map(|i| (i * (round + 1)) as f32).collect();
        std::thread::scope(|s| {
            s.spawn(|| values.chunks(5000).enumerate().for_each(|(i, part)| staged.put(5000 * i, part)));
        });
        let ran = program.run_staged(gpu, &mut [("a", &mut staged)], &["sum"]).expect("a run");
        assert!(ran.outputs[0].iter().zip(&values).all(|(sum, x)| *sum == x + 0.5), "round {round}");
    }
    let mut short = Staging::new(gpu, n - 1).expect("memory");
    assert!(program.run_staged(gpu, &mut [("a", &mut short)], &["sum"]).is_err());
    // Refused before it was given away.
    short.put(0, &[1.0]);
}
