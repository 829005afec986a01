use crate::harness::{In, check};
use csmoe::ops;
use csmoe::ops::gram::reference;

#[test]
fn gram_squares() {
    let shapes = [
        (1, 1, 1),
        (1, 1, 7),
        (1, 2, 1),
        (3, 2, 5),
        (2, 7, 13),
        (2, 8, 63),
        (2, 8, 64),
        (2, 8, 65),
        (1, 8, 768),
        (5, 4, 192),
        (2, 9, 31),
        (1, 16, 33),
        (1, 17, 8),
        (67, 3, 2),
        (64, 8, 16),
        (65, 1, 3),
        (1, 5, 1021),
        (4, 6, 97),
        (1, 11, 11),
        (33, 8, 1),
    ];
    for (rows, count, width) in shapes {
        check(
            &format!("gram_square {rows} {count} {width}"),
            &[In::normal(9, &[rows, count, width])],
            |t, x| ops::gram_square(t, x[0]),
            |x| reference(&x[0], count, width),
        );
    }
    check(
        "gram_square twice",
        &[In::normal(9, &[3, 4, 5])],
        |t, x| {
            let a = ops::gram_square(t, x[0])?;
            let b = ops::gram_square(t, x[0])?;
            ops::add(t, a, b)
        },
        |x| reference(&x[0], 4, 5).iter().map(|v| 2.0 * v).collect(),
    );
}
