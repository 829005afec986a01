use crate::harness::{In, check};
use csmoe::ops;
use csmoe::ops::cls_rows::reference;

#[test]
fn first_rows() {
    for (batch, tokens, width) in [
        (1, 1, 1),
        (1, 1, 64),
        (2, 1, 3),
        (1, 2, 1),
        (3, 5, 7),
        (2, 50, 31),
        (2, 65, 63),
        (2, 65, 64),
        (2, 65, 65),
        (7, 197, 13),
        (1, 257, 768),
    ] {
        check(
            &format!("cls_rows {batch} {tokens} {width}"),
            &[In::normal(10, &[batch, tokens, width])],
            |t, x| ops::cls_rows(t, x[0]),
            |x| reference(&x[0], tokens, width),
        );
        check(
            &format!("cls_rows twice {batch} {tokens} {width}"),
            &[In::normal(11, &[batch, tokens, width])],
            |t, x| {
                let a = ops::cls_rows(t, x[0])?;
                let b = ops::cls_rows(t, x[0])?;
                ops::add(t, a, b)
            },
            |x| reference(&x[0], tokens, width).iter().map(|v| 2.0 * v).collect(),
        );
    }
}
