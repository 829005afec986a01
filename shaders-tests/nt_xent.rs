use crate::harness::{In, check, normal};
use csmoe::ops;
use csmoe::ops::nt_xent::{Contrast, reference};
use csmoe::ops::reduce::scalar_reference;

/// Normal vectors of length about 1, so that similarities are as in use.
fn features(seed: u64, batch: usize, width: usize) -> In {
    let data = normal(seed, batch * width).iter().map(|v| v / (width as f32).sqrt()).collect();
    In::Grad(vec![batch, width], data)
}

#[test]
fn nt_xents() {
    let shapes = [
        (1, 1),
        (1, 7),
        (2, 1),
        (2, 3),
        (3, 5),
        (4, 4),
        (5, 8),
        (7, 13),
        (8, 64),
        (16, 63),
        (16, 65),
        (31, 17),
        (32, 32),
        (33, 31),
        (63, 5),
        (64, 8),
        (65, 3),
        (2, 768),
        (9, 192),
        (97, 2),
    ];
    for (batch, width) in shapes {
        for contrast in [Contrast::NtXent, Contrast::Eq10] {
            if contrast == Contrast::Eq10 && batch == 1 {
                continue;
            }
            check(
                &format!("nt_xent {batch} {width} {contrast:?}"),
                &[features(12, batch, width), features(13, batch, width)],
                |t, x| ops::nt_xent(t, x[0], x[1], 0.5, contrast),
                |x| reference(&x[0], &x[1], width, 0.5, contrast),
            );
        }
    }
}

#[test]
fn nt_xents_add_their_gradients() {
    let (batch, width) = (6, 10);
    check(
        "nt_xent twice",
        &[features(14, 2 * batch, width)],
        |t, x| {
            let a = ops::nt_xent_stacked(t, x[0], 0.5, Contrast::NtXent)?;
            let b = ops::nt_xent_stacked(t, x[0], 0.2, Contrast::Eq10)?;
            ops::add(t, a, b)
        },
        |x| {
            let (a, b) = x[0].split_at(batch * width);
            let one = reference(a, b, width, 0.5, Contrast::NtXent)[0];
            scalar_reference(one + reference(a, b, width, 0.2f32.into(), Contrast::Eq10)[0])
        },
    );
    check(
        "nt_xent of views",
        &[features(14, 12, 64)],
        |t, x| {
            let parts = t.split(x[0], &[6, 6])?;
            let a = ops::nt_xent(t, parts[0], parts[1], 0.5, Contrast::NtXent)?;
            let b = ops::nt_xent(t, parts[1], parts[0], 0.5, Contrast::Eq10)?;
            ops::add(t, a, b)
        },
        |x| {
            let (a, b) = x[0].split_at(6 * 64);
            let one = reference(a, b, 64, 0.5, Contrast::NtXent)[0];
            scalar_reference(one + reference(b, a, 64, 0.5, Contrast::Eq10)[0])
        },
    );
}

#[test]
fn the_closed_forms_hold_on_the_gpu() {
    // Their gradients are 0 or nearly, so values only.
    let constant = |b: usize| In::Plain(vec![b, 1], vec![1.0; b]);
    let axes = |b: usize| In::Plain(vec![b, b], (0..b * b).map(|i| f32::from(u8::from(i / b == i % b))).collect());
    for b in [2usize, 16, 33] {
        let negatives = (2 * b - 2) as f64 * (-2f64).exp();
        for (contrast, alike, apart) in [
            (Contrast::NtXent, ((2 * b - 1) as f64).ln(), (1.0 + negatives).ln()),
            (Contrast::Eq10, ((b - 1) as f64).ln(), ((b - 1) as f64).ln() - 2.0),
        ] {
            for (inputs, expected) in [([constant(b), constant(b)], alike), ([axes(b), axes(b)], apart)] {
                check(
                    &format!("nt_xent closed form {b} {contrast:?}"),
                    &inputs,
                    |t, x| ops::nt_xent(t, x[0], x[1], 0.5, contrast),
                    |_| scalar_reference(expected),
                );
            }
        }
    }
}
