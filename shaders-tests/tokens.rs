use crate::harness::{In, check, normal};
use csmoe::ops::tokens::{
    HIDDEN, assemble, assemble_reference, cls_rows, gather_rows, gather_rows_reference, patches, patches_reference,
    scatter, scatter_reference, spread_slots, spread_slots_reference,
};
use csmoe::ops::{add, scale};
use csmoe::tensor::Rng;

/// `kept` distinct patches of `all`, in random order, for each of `rows` sequences; and where each patch went.
fn masks(rows: usize, all: usize, kept: usize) -> (Vec<u32>, Vec<u32>) {
    let mut rng = Rng::new(3, (rows * 1000 + all) as u64);
    let (mut keep, mut restore) = (Vec::new(), Vec::new());
    for _ in 0..rows {
        let mut order: Vec<u32> = (0..all as u32).collect();
        for i in (1..all).rev() {
            order.swap(i, rng.below(i + 1));
        }
        let mut back = vec![HIDDEN; all];
        for (i, p) in order[..kept].iter().enumerate() {
            back[*p as usize] = i as u32;
        }
        keep.extend_from_slice(&order[..kept]);
        restore.extend(back);
    }
    (keep, restore)
}

#[test]
fn patches_match_reference() {
    for [b, c, across, patch] in [[1, 1, 1, 1], [1, 2, 3, 2], [2, 3, 2, 5], [3, 10, 4, 3], [2, 2, 7, 4], [1, 10, 5, 12]]
    {
        for kept in [1, across * across / 2, across * across] {
            if kept == 0 {
                continue;
            }
            let (keep, _) = masks(b, across * across, kept);
            let side = across * patch;
            let image = normal(1, b * c * side * side);
            check(
                &format!("patches {b} {c} {across} {patch} {kept}"),
                &[In::Plain(vec![b, c, side, side], image), In::Index(vec![b, kept], keep.clone())],
                |t, x| patches(t, x[0], x[1], patch),
                |x| patches_reference(&x[0], &keep, [b, c, side], patch),
            );
        }
    }
}

#[test]
fn assemble_matches_reference() {
    for [b, all, kept, d] in
        [[1, 1, 1, 1], [1, 4, 2, 3], [2, 9, 4, 8], [3, 16, 8, 31], [2, 25, 12, 64], [5, 7, 7, 65], [4, 49, 24, 33]]
    {
        let (keep, _) = masks(b, all, kept);
        check(
            &format!("assemble {b} {all} {kept} {d}"),
            &[
                In::normal(1, &[b, kept, d]),
                In::normal(2, &[d]),
                In::Plain(vec![all + 1, d], normal(3, (all + 1) * d)),
                In::Index(vec![b, kept], keep.clone()),
            ],
            |t, x| assemble(t, x[0], x[1], x[2], x[3]),
            |x| assemble_reference(&x[0], &x[1], &x[2], &keep, b),
        );
    }
}

#[test]
fn scatter_matches_reference() {
    for [targets, r, all, kept, d] in [
        [1, 1, 2, 1, 1],
        [1, 1, 4, 2, 3],
        [2, 2, 9, 4, 8],
        [2, 3, 16, 8, 31],
        [1, 4, 25, 12, 64],
        [2, 5, 7, 6, 65],
        [2, 2, 49, 24, 16],
    ] {
        let (keep, restore) = masks(r, all, kept);
        check(
            &format!("scatter {targets} {r} {all} {kept} {d}"),
            &[
                In::normal(1, &[targets, r, kept + 1, d]),
                In::normal(2, &[targets, d]),
                In::Plain(vec![all + 1, d], normal(3, (all + 1) * d)),
                In::Index(vec![r, kept], keep.clone()),
                In::Index(vec![r, all], restore.clone()),
            ],
            |t, x| {
                let visible = scale(t, x[0], 1.0)?;
                scatter(t, visible, x[1], x[2], x[3], x[4])
            },
            |x| scatter_reference(&x[0], &x[1], &x[2], &restore, [targets, r, kept, all, d]),
        );
    }
}

#[test]
fn spread_slots_matches_reference() {
    for ([g, e, p, d], batch) in
        [([1, 1, 1, 1], 1), ([1, 2, 3, 4], 2), ([2, 3, 1, 8], 3), ([2, 8, 5, 31], 4), ([1, 4, 7, 65], 5)]
    {
        check(
            &format!("spread_slots {g} {e} {p} {d} x {batch}"),
            &[In::normal(1, &[g, e, p, d])],
            |t, x| spread_slots(t, x[0], batch),
            |x| spread_slots_reference(&x[0], [g, e, p, d], batch),
        );
    }
}

#[test]
fn gather_rows_matches_reference() {
    for [z, r, n, m, d] in [
        [1, 1, 1, 1, 1],
        [2, 1, 3, 1, 3],
        [2, 2, 5, 5, 7],
        [4, 2, 50, 24, 31],
        [6, 3, 65, 40, 64],
        [2, 1, 101, 50, 65],
        [1, 1, 257, 2, 768],
    ] {
        let (index, _) = masks(r, n, m);
        let inputs = [In::normal(1, &[z, n, d]), In::Index(vec![r, m], index.clone())];
        let expected = |x: &[Vec<f64>]| gather_rows_reference(&x[0], &index, [z, n, m, d]);
        let name = format!("gather_rows {z} {r} {n} {m} {d}");
        check(&name, &inputs, |t, x| gather_rows(t, x[0], x[1]), expected);
        // A second gradient is added to the first.
        check(
            &format!("{name} twice"),
            &inputs,
            |t, x| {
                let (a, b) = (gather_rows(t, x[0], x[1])?, gather_rows(t, x[0], x[1])?);
                add(t, a, b)
            },
            |x| expected(x).iter().map(|v| 2.0 * v).collect(),
        );
        check(
            &format!("cls_rows {z} {n} {d}"),
            &inputs[..1],
            |t, x| cls_rows(t, x[0]),
            |x| gather_rows_reference(&x[0], &[0], [z, n, 1, d]),
        );
    }
}
