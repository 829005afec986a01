use crate::harness::{F32, In, check_on, gpu, targets};
use csmoe::gpu::Target;
use csmoe::ops::matmul::{gelu_reference, reference};
use csmoe::ops::{Mlp, linear, mlp, scale};

/// [groups, m, n, k]: ones, primes, tile sizes plus and minus one.
const SHAPES: [[usize; 4]; 32] = [
    [1, 1, 1, 1],
    [1, 1, 2, 3],
    [1, 2, 1, 5],
    [1, 3, 4, 4],
    [1, 15, 31, 7],
    [1, 16, 32, 8],
    [1, 17, 33, 9],
    [2, 1, 32, 64],
    [2, 16, 31, 1],
    [2, 17, 32, 16],
    [3, 5, 7, 11],
    [3, 13, 37, 29],
    [4, 31, 64, 12],
    [4, 33, 65, 13],
    [5, 2, 3, 128],
    [7, 11, 5, 3],
    [8, 26, 48, 24],
    [1, 64, 128, 32],
    [1, 63, 127, 31],
    [1, 65, 129, 33],
    [1, 100, 257, 19],
    [2, 49, 96, 50],
    // Widths that divide by four, around the tiled kernels' blocks and passes.
    [1, 1, 4, 4],
    [2, 5, 8, 7],
    [1, 17, 60, 256],
    [1, 31, 64, 260],
    [2, 33, 68, 12],
    [1, 48, 132, 516],
    [1, 65, 20, 253],
    [3, 26, 32, 16],
    [1, 200, 36, 24],
    [1, 193, 12, 8],
];

/// Every shape with every choice of kernels.
fn cases() -> impl Iterator<Item = (Target, [usize; 4])> {
    let tiles = gpu().target.direct.then(|| Target { direct: false, ..gpu().target.clone() });
    targets().into_iter().chain(tiles).flat_map(|t| SHAPES.map(|s| (t.clone(), s)))
}

#[test]
fn linear_matches_reference() {
    for (target, [g, m, n, k]) in cases() {
        check_on(
            &target,
            &format!("linear {g} x {m} x {n} x {k}"),
            F32,
            &[In::normal(1, &[g, m, k]), In::normal(2, &[g, n, k]), In::normal(3, &[g, n])],
            |t, x| linear(t, x[0], x[1], Some(x[2]), None),
            |x| reference(&x[0], &x[1], &x[2], [g, m, n, k]),
        );
    }
}

#[test]
fn linear_with_residual() {
    for (target, [g, m, n, _]) in cases() {
        // The residual also feeds the product, through another value, as in a block.
        check_on(
            &target,
            &format!("residual linear {g} x {m} x {n}"),
            F32,
            &[In::normal(1, &[g, m, n]), In::normal(2, &[g, n, n])],
            |t, x| {
                let branch = scale(t, x[0], 0.5)?;
                linear(t, branch, x[1], None, Some(x[0]))
            },
            |x| {
                let branch: Vec<f64> = x[0].iter().map(|v| v * 0.5).collect();
                let y = reference(&branch, &x[1], &[], [g, m, n, n]);
                y.iter().zip(&x[0]).map(|(y, r)| y + r).collect()
            },
        );
    }
}

#[test]
fn mlp_matches_reference() {
    // Its products differ from a linear layer's by what happens at their ends, so that a few shapes do.
    for (target, [g, m, h, k]) in cases().step_by(3) {
        check_on(
            &target,
            &format!("mlp {g} x {m} x {h} x {k}"),
            F32,
            &[
                In::normal(1, &[g, m, k]),
                In::normal(2, &[g, h, k]),
                In::normal(3, &[g, h]),
                In::normal(4, &[g, k, h]),
                In::normal(5, &[g, k]),
            ],
            |t, x| {
                let branch = scale(t, x[0], 0.5)?;
                mlp(t, branch, Mlp { w1: x[1], b1: x[2], w2: x[3], b2: x[4] }, 1, Some(x[0]))
            },
            |x| {
                let branch: Vec<f64> = x[0].iter().map(|v| v * 0.5).collect();
                let mut hidden = reference(&branch, &x[1], &x[2], [g, m, h, k]);
                hidden.iter_mut().for_each(|v| *v = gelu_reference(*v));
                let y = reference(&hidden, &x[3], &x[4], [g, m, k, h]);
                y.iter().zip(&x[0]).map(|(y, r)| y + r).collect()
            },
        );
    }
}

#[test]
fn experts_side_by_side() {
    let shapes = [
        [1, 2, 1, 4, 8],
        [2, 2, 5, 3, 7],
        [2, 8, 17, 12, 33],
        [1, 3, 33, 31, 16],
        [3, 4, 16, 16, 64],
        [1, 2, 200, 8, 12],
    ];
    for (target, [g, experts, m, d, h]) in targets().into_iter().flat_map(|t| shapes.map(|s| (t.clone(), s))) {
        let groups = g * experts;
        check_on(
            &target,
            &format!("experts {g} x {experts} x {m} x {d} x {h}"),
            F32,
            &[
                In::normal(1, &[g, m, experts * d]),
                In::normal(2, &[groups, h, d]),
                In::normal(3, &[groups, h]),
                In::normal(4, &[groups, d, h]),
                In::normal(5, &[groups, d]),
            ],
            |t, x| mlp(t, x[0], Mlp { w1: x[1], b1: x[2], w2: x[3], b2: x[4] }, experts, None),
            |x| {
                // [g, m, e, d] -> [g, e, m, d], the plain layer, and back.
                let turn = |x: &[f64], a: usize, b: usize| -> Vec<f64> {
                    let at = |i: usize, j: usize, k: usize, c: usize| x[((i * b + k) * a + j) * d + c];
                    let mut y = Vec::with_capacity(x.len());
                    for i in 0..g {
                        for j in 0..a {
                            for k in 0..b {
                                y.extend((0..d).map(|c| at(i, j, k, c)));
                            }
                        }
                    }
                    y
                };
                let mut hidden = reference(&turn(&x[0], experts, m), &x[1], &x[2], [groups, m, h, d]);
                hidden.iter_mut().for_each(|v| *v = gelu_reference(*v));
                turn(&reference(&hidden, &x[3], &x[4], [groups, m, d, h]), m, experts)
            },
        );
    }
}
