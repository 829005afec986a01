use crate::harness::{In, check};
use csmoe::ops;
use csmoe::ops::reduce::{reference, segment_mean_reference};

#[test]
fn sums() {
    for n in
        [1, 2, 3, 7, 31, 63, 64, 65, 127, 128, 1021, 4095, 4096, 4097, 8191, 8193, 50_021, 262_144, 262_147, 600_011]
    {
        // Twice, so that the second gradient adds to the first.
        check(
            &format!("sum {n}"),
            &[In::normal(3, &[n])],
            |t, x| {
                let mean = ops::sum_scaled(t, x[0], 1.0 / n as f32)?;
                let sum = ops::sum_scaled(t, x[0], 0.5)?;
                ops::add(t, mean, sum)
            },
            |x| reference(&x[0], 0.5 + f64::from(1.0 / n as f32)),
        );
    }
}

#[test]
fn segment_means() {
    let shapes = [
        (1, 1, 1, 1),
        (1, 1, 5, 8),
        (2, 7, 3, 8),
        (2, 8, 3, 8),
        (2, 9, 3, 8),
        (1, 50, 768, 8),
        (2, 65, 64, 8),
        (3, 197, 31, 8),
        (2, 101, 192, 4),
        (1, 13, 17, 1),
        (1, 13, 17, 13),
        (1, 13, 17, 12),
        (2, 13, 17, 100),
        (5, 2, 63, 2),
        (5, 3, 65, 2),
        (64, 1, 1, 3),
        (1, 64, 1, 3),
        (1, 257, 96, 8),
    ];
    for (batch, tokens, width, length) in shapes {
        check(
            &format!("segment_mean {batch} {tokens} {width} {length}"),
            &[In::normal(4, &[batch, tokens, width])],
            |t, x| {
                let a = ops::segment_mean(t, x[0], length)?;
                let b = ops::segment_mean(t, x[0], length)?;
                ops::add(t, a, b)
            },
            |x| segment_mean_reference(&x[0], tokens, width, length).iter().map(|v| 2.0 * v).collect(),
        );
    }
}

#[test]
fn means_over_an_axis() {
    for (outer, count, inner) in [(1, 1, 1), (3, 7, 5), (1, 250, 3), (33, 2, 64)] {
        check(
            &format!("mean_axis {outer} {count} {inner}"),
            &[In::normal(5, &[outer * count, inner])],
            |t, x| ops::mean_axis(t, x[0], outer, count, inner),
            |x| segment_mean_reference(&x[0], count, inner, count),
        );
    }
}
