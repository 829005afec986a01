use crate::harness::{In, check};
use csmoe::ops::norms::{layer_norm, layer_norm_reference, rms_norm, rms_norm_reference};

/// [groups, rows, d]
const SHAPES: [[usize; 3]; 20] = [
    [1, 1, 1],
    [1, 1, 2],
    [1, 3, 7],
    [1, 5, 8],
    [1, 7, 9],
    [2, 1, 15],
    [2, 4, 16],
    [2, 3, 17],
    [2, 5, 31],
    [3, 2, 32],
    [3, 7, 33],
    [3, 11, 63],
    [1, 13, 64],
    [1, 2, 65],
    [2, 2, 127],
    [2, 3, 128],
    [1, 4, 129],
    [1, 17, 192],
    [2, 3, 257],
    [1, 2, 768],
];

#[test]
fn layer_norm_matches_reference() {
    for dims @ [g, rows, d] in SHAPES {
        if d == 1 {
            continue; // the value is b and every gradient but db is rounding
        }
        check(
            &format!("layer_norm {dims:?}"),
            &[In::normal(1, &[g, rows, d]), In::normal(2, &[g, d]), In::normal(3, &[g, d])],
            |t, x| layer_norm(t, x[0], x[1], x[2], 1e-2),
            |x| layer_norm_reference(&x[0], &x[1], &x[2], dims, f64::from(1e-2f32)),
        );
    }
}

#[test]
fn rms_norm_matches_reference() {
    for dims @ [g, rows, d] in SHAPES {
        let factor = (d as f64).sqrt();
        check(
            &format!("rms_norm {dims:?}"),
            &[In::normal(1, &[g, rows, d]), In::normal(2, &[g, d])],
            |t, x| rms_norm(t, x[0], Some(x[1]), factor as f32),
            |x| rms_norm_reference(&x[0], &x[1], dims, factor),
        );
        if d > 1 {
            check(
                &format!("unit vectors with a scale {dims:?}"),
                &[In::normal(1, &[g, rows, d]), In::normal(2, &[g, 1])],
                |t, x| rms_norm(t, x[0], Some(x[1]), 1.0),
                |x| rms_norm_reference(&x[0], &x[1], dims, 1.0),
            );
            check(
                &format!("unit vectors {dims:?}"),
                &[In::normal(1, &[g, rows, d])],
                |t, x| rms_norm(t, x[0], None, 1.0),
                |x| rms_norm_reference(&x[0], &[], dims, 1.0),
            );
        }
    }
}
