use crate::harness::{In, check, normal};
use csmoe::ops;
use csmoe::ops::prepare::reference;

#[test]
fn prepared_pixels() {
    let shapes = [
        (1, 1, 1, 1),
        (1, 1, 1, 5),
        (1, 2, 2, 3),
        (2, 1, 3, 2),
        (1, 3, 4, 8),
        (2, 2, 5, 7),
        (4, 2, 8, 8),
        (5, 3, 7, 7),
        (4, 1, 8, 4),
        (4, 2, 13, 31),
        (3, 10, 12, 22),
        (4, 2, 31, 13),
        (1, 1, 64, 63),
        (1, 1, 63, 64),
        (1, 1, 64, 65),
        (4, 2, 120, 224),
        (2, 2, 120, 120),
        (1, 1, 224, 120),
        (1, 1, 2, 97),
        (1, 2, 97, 1),
    ];
    for (batch, channels, from, size) in shapes {
        // Digital numbers as of a satellite: large, far from zero.
        let raw = normal(15, batch * channels * from * from).iter().map(|v| 2000.0 + 900.0 * v).collect();
        let mean: Vec<f32> = (0..channels).map(|c| 2000.0 - 50.0 * c as f32).collect();
        let inv_std: Vec<f32> = (0..channels).map(|c| 1.0 / (900.0 + 30.0 * c as f32)).collect();
        check(
            &format!("prepare {batch} {channels} {from} {size}"),
            &[
                In::Plain(vec![batch, channels, from, from], raw),
                In::Plain(vec![channels], mean),
                In::Plain(vec![channels], inv_std),
                In::Index(vec![batch], (0..batch as u32).map(|b| b % 4).collect()),
            ],
            |t, x| ops::prepare(t, x[0], x[1], x[2], x[3], size),
            |x| reference(&x[0], &x[1], &x[2], &x[3], [batch, channels, from], size),
        );
    }
}
