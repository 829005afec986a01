use crate::harness::{In, check};
use csmoe::ops;

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
