//! The table of checks: every op of src/ops with its reference, at shapes whose edges cut through the kernels' blocks.

use super::measure::{Effort, Errors, In, Recorded, normal};
use super::update;
use crate::gpu::{Gpu, Target};
use crate::ops::geodesic::Measure;
use crate::ops::masked_loss::Error;
use crate::ops::nt_xent::Contrast;
use crate::ops::tokens::HIDDEN;
use crate::ops::{self, attention, geodesic, masked_loss, matmul, norms, nt_xent, prepare, reduce, tokens};
use crate::tensor::{Launch, Tape, Tensor};
use anyhow::Result;

type Op = Box<dyn Fn(&mut Tape, &[Tensor]) -> Result<Tensor>>;
type Reference = Box<dyn Fn(&[Vec<f64>]) -> Vec<f64>>;

enum Work {
    Op {
        inputs: Vec<In>,
        op: Op,
        reference: Reference,
    },
    /// The optimiser has parameters instead of inputs.
    Update,
}

/// One check.
pub struct Case {
    pub name: &'static str,
    /// Its groups start at aligned offsets, so that small bindings may split it.
    pub splits: bool,
    work: Work,
}

const EFFORT: Effort = Effort { coordinates: 4, directions: 1 };

impl Case {
    fn op(
        name: &'static str,
        inputs: Vec<In>,
        op: impl Fn(&mut Tape, &[Tensor]) -> Result<Tensor> + 'static,
        reference: impl Fn(&[Vec<f64>]) -> Vec<f64> + 'static,
    ) -> Self {
        Case { name, splits: false, work: Work::Op { inputs, op: Box::new(op), reference: Box::new(reference) } }
    }

    /// What it launches on a target; needs no GPU.
    ///
    /// # Errors
    /// Whatever the op reports.
    pub fn launches(&self, target: &Target) -> Result<Vec<Launch>> {
        Ok(match &self.work {
            Work::Op { inputs, op, .. } => Recorded::new(target, inputs, op)?.launches().to_vec(),
            Work::Update => update::record(target)?.0.launches().to_vec(),
        })
    }

    /// Runs it.
    ///
    /// # Errors
    /// A kernel the driver refuses, a lost device.
    pub fn measure(&self, gpu: &Gpu, target: &Target) -> Result<Errors> {
        match &self.work {
            Work::Op { inputs, op, reference } => Recorded::new(target, inputs, op)?.measure(gpu, EFFORT, reference),
            Work::Update => update::measure(gpu, target),
        }
    }
}

/// Every check.
pub fn all() -> Vec<Case> {
    let mut cases = basics();
    cases.extend(matmuls());
    cases.extend(attentions());
    cases.extend(normalisations());
    cases.extend(sequences());
    cases.extend(losses());
    cases.extend(distances());
    cases.push(Case { name: "adamw", splits: true, work: Work::Update });
    cases
}

fn scaled(x: &[f64], factor: f64) -> Vec<f64> {
    x.iter().map(|v| v * factor).collect()
}

fn sum(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(x, y)| x + y).collect()
}

fn basics() -> Vec<Case> {
    vec![
        Case::op(
            "add and scale",
            vec![In::normal(1, &[1021]), In::normal(2, &[1021])],
            |t, x| {
                let double = ops::scale(t, x[0], 2.0)?;
                ops::add(t, double, x[1])
            },
            |x| sum(&scaled(&x[0], 2.0), &x[1]),
        ),
        Case::op(
            // A part nobody used has a gradient of zero, which `fill` writes.
            "split",
            vec![In::normal(1, &[4, 64])],
            |t, x| {
                let parts = t.split(x[0], &[1, 3])?;
                ops::scale(t, parts[1], 3.0)
            },
            |x| scaled(&x[0][64..], 3.0),
        ),
        Case::op(
            "sum",
            vec![In::normal(3, &[8193])],
            |t, x| ops::sum_scaled(t, x[0], 0.5),
            |x| reduce::reference(&x[0], 0.5),
        ),
        Case::op(
            "segment_mean",
            vec![In::normal(4, &[2, 197, 33])],
            |t, x| ops::segment_mean(t, x[0], 8),
            |x| reduce::segment_mean_reference(&x[0], 197, 33, 8),
        ),
    ]
}

fn matmuls() -> Vec<Case> {
    let linear = |name: &'static str, dims @ [g, m, n, k]: [usize; 4]| {
        Case::op(
            name,
            vec![In::normal(1, &[g, m, k]), In::normal(2, &[g, n, k]), In::normal(3, &[g, n])],
            |t, x| ops::linear(t, x[0], x[1], Some(x[2]), None),
            move |x| matmul::reference(&x[0], &x[1], &x[2], dims),
        )
    };
    let (g, m, n) = (2, 33, 65);
    let (experts, rows, d, h) = (3, 17, 31, 66);
    let groups = g * experts;
    vec![
        linear("linear small", [3, 5, 7, 11]),
        linear("linear", [2, 65, 129, 130]),
        linear("linear aligned", [1, 128, 256, 128]),
        Case { splits: true, ..linear("linear of four groups", [4, 32, 64, 48]) },
        Case::op(
            "linear with residual",
            vec![In::normal(1, &[g, m, n]), In::normal(2, &[g, n, n])],
            |t, x| {
                let branch = ops::scale(t, x[0], 0.5)?;
                ops::linear(t, branch, x[1], None, Some(x[0]))
            },
            move |x| sum(&matmul::reference(&scaled(&x[0], 0.5), &x[1], &[], [g, m, n, n]), &x[0]),
        ),
        Case::op(
            "mlp with residual",
            vec![
                In::normal(1, &[1, m, n]),
                In::normal(2, &[1, h, n]),
                In::normal(3, &[1, h]),
                In::normal(4, &[1, n, h]),
                In::normal(5, &[1, n]),
            ],
            |t, x| {
                let branch = ops::scale(t, x[0], 0.1)?;
                ops::mlp(t, branch, ops::Mlp { w1: x[1], b1: x[2], w2: x[3], b2: x[4] }, 1, Some(x[0]))
            },
            move |x| sum(&mlp_reference(&scaled(&x[0], 0.1), &x[1..], [1, m, n, h]), &x[0]),
        ),
        Case::op(
            "experts",
            vec![
                In::normal(1, &[g, rows, experts * d]),
                In::normal(2, &[groups, h, d]),
                In::normal(3, &[groups, h]),
                In::normal(4, &[groups, d, h]),
                In::normal(5, &[groups, d]),
            ],
            move |t, x| ops::mlp(t, x[0], ops::Mlp { w1: x[1], b1: x[2], w2: x[3], b2: x[4] }, experts, None),
            move |x| {
                let apart = turn(&x[0], [g, rows, experts, d]);
                turn(&mlp_reference(&apart, &x[1..], [groups, rows, d, h]), [g, experts, rows, d])
            },
        ),
    ]
}

/// fc2(GELU(fc1(x))) of `g` groups; `p` is w1, b1, w2, b2.
fn mlp_reference(x: &[f64], p: &[Vec<f64>], [g, m, d, h]: [usize; 4]) -> Vec<f64> {
    let mut hidden = matmul::reference(x, &p[0], &p[1], [g, m, h, d]);
    hidden.iter_mut().for_each(|v| *v = matmul::gelu_reference(*v));
    matmul::reference(&hidden, &p[2], &p[3], [g, m, d, h])
}

/// [g, a, b, d] -> [g, b, a, d].
fn turn(x: &[f64], [g, a, b, d]: [usize; 4]) -> Vec<f64> {
    let mut y = Vec::with_capacity(x.len());
    for i in 0..g {
        for k in 0..b {
            for j in 0..a {
                y.extend_from_slice(&x[((i * a + j) * b + k) * d..][..d]);
            }
        }
    }
    y
}

fn attentions() -> Vec<Case> {
    let heads = |name: &'static str, dims @ [s, n, heads, d]: [usize; 4]| {
        Case::op(
            name,
            vec![In::normal(1, &[s, n, 3 * heads * d])],
            move |t, x| ops::multi_head(t, x[0], heads),
            move |x| attention::multi_head_reference(&x[0], dims),
        )
    };
    // Sequences, slots, tokens, width.
    let moe = [(2, 56, 50, 48), (1, 40, 99, 192), (2, 9, 21, 31)];
    let mut cases = vec![heads("attention", [2, 50, 3, 32]), heads("attention of odd sizes", [1, 113, 2, 31])];
    for (i, (z, s, n, d)) in moe.into_iter().enumerate() {
        let soft = 1.0 / (d as f32).sqrt();
        cases.push(Case::op(
            ["dispatch", "dispatch of wide tokens", "dispatch of odd sizes"][i],
            vec![In::normal(1, &[z, s, d]), In::normal(2, &[z, n, d])],
            move |t, x| {
                // Small values keep the weights soft; value and entropy are both used, so that their gradients meet.
                let slots = ops::scale(t, x[0], soft)?;
                let logits = ops::logits(t, slots, x[1])?;
                let (o, entropy) = ops::dispatch(t, logits, x[1], 2.0)?;
                let total = ops::sum_scaled(t, entropy, 0.25)?;
                let flat = ops::scale(t, o, 1.0)?.reshape([z * s * d])?;
                t.concat(&[total, flat])
            },
            move |x| {
                let slots = scaled(&x[0], soft.into());
                let (o, w) = attention::reference(&slots, &x[1], &x[1], [z, s, n, d], 0.5);
                let entropy = w.iter().map(|a| a * (a + 1e-8).ln()).sum::<f64>() * 0.25;
                let mut all = reduce::scalar_reference(entropy);
                all.extend(o);
                all
            },
        ));
        cases.push(Case::op(
            ["combine", "combine of wide tokens", "combine of odd sizes"][i],
            vec![In::normal(1, &[z, n, d]), In::normal(2, &[z, s, d]), In::normal(3, &[z, s, d])],
            move |t, x| {
                let slots = ops::scale(t, x[1], soft)?;
                let logits = ops::logits(t, slots, x[0])?;
                let o = ops::combine(t, logits, x[2])?;
                ops::add(t, o, x[0])
            },
            move |x| {
                let slots = scaled(&x[1], soft.into());
                sum(&attention::reference(&x[0], &slots, &x[2], [z, n, s, d], 1.0).0, &x[0])
            },
        ));
    }
    cases
}

/// Wide rows are shared by a workgroup's lanes, narrow ones taken by a lane each.
fn normalisations() -> Vec<Case> {
    let mut cases = norms_of(["layer_norm", "rms_norm", "unit vectors with a scale"], [2, 7, 257]);
    cases.extend(norms_of(["layer_norm, narrow", "rms_norm, narrow", "narrow unit vectors with a scale"], [2, 21, 36]));
    cases
}

fn norms_of(names: [&'static str; 3], dims: [usize; 3]) -> Vec<Case> {
    let [g, rows, d] = dims;
    let input = move || In::normal(1, &[g, rows, d]);
    let factor = (d as f64).sqrt();
    vec![
        Case::op(
            names[0],
            vec![input(), In::normal(2, &[g, d]), In::normal(3, &[g, d])],
            |t, x| ops::layer_norm(t, x[0], x[1], x[2], 1e-6),
            move |x| norms::layer_norm_reference(&x[0], &x[1], &x[2], dims, 1e-6),
        ),
        Case::op(
            names[1],
            vec![input(), In::normal(2, &[g, d])],
            move |t, x| ops::rms_norm(t, x[0], Some(x[1]), factor as f32),
            move |x| norms::rms_norm_reference(&x[0], &x[1], dims, factor),
        ),
        Case::op(
            names[2],
            vec![input(), In::normal(2, &[g, 1])],
            |t, x| ops::rms_norm(t, x[0], Some(x[1]), 1.0),
            move |x| norms::rms_norm_reference(&x[0], &x[1], dims, 1.0),
        ),
    ]
}

/// `kept` of `all` patches for each of `rows` sequences, and each patch's index among them.
fn masks(rows: usize, all: usize, kept: usize) -> (Vec<u32>, Vec<u32>) {
    let keep: Vec<u32> = (0..rows).flat_map(|r| (0..kept).map(move |i| ((i * 3 + r) % all) as u32)).collect();
    let mut restore = vec![HIDDEN; rows * all];
    for (i, patch) in keep.iter().enumerate() {
        restore[i / kept * all + *patch as usize] = (i % kept) as u32;
    }
    (keep, restore)
}

fn sequences() -> Vec<Case> {
    // 25 patches; steps of 3 meet none twice.
    let (b, c, side, patch, kept, d) = (3, 10, 5, 4, 12, 65);
    let (all, size) = (side * side, side * patch);
    let (keep, restore) = masks(b, all, kept);
    let index = |x: &[u32], columns: usize| In::Index(vec![x.len() / columns, columns], x.to_vec());
    let pixels = |seed, side: usize| In::Plain(vec![b, c, side, side], normal(seed, b * c * side * side));
    let [k1, k2, k3] = [keep.clone(), keep.clone(), keep.clone()];
    let table = || In::Plain(vec![all + 1, d], normal(3, (all + 1) * d));
    let resize = |name: &'static str, from: usize, to: usize| {
        Case::op(
            name,
            vec![
                pixels(15, from),
                In::Plain(vec![c], normal(16, c)),
                In::Plain(vec![c], vec![0.7; c]),
                In::Index(vec![b], (0..b as u32).collect()),
            ],
            move |t, x| ops::prepare(t, x[0], x[1], x[2], x[3], to),
            move |x| prepare::reference(&x[0], &x[1], &x[2], &x[3], [b, c, from], to),
        )
    };
    vec![
        Case::op(
            "patches",
            vec![pixels(1, size), index(&keep, kept)],
            move |t, x| ops::patches(t, x[0], x[1], patch),
            move |x| tokens::patches_reference(&x[0], &k1, [b, c, size], patch),
        ),
        Case::op(
            "assemble",
            vec![In::normal(1, &[b, kept, d]), In::normal(2, &[d]), table(), index(&keep, kept)],
            |t, x| ops::assemble(t, x[0], x[1], x[2], x[3]),
            move |x| tokens::assemble_reference(&x[0], &x[1], &x[2], &k2, b),
        ),
        Case::op(
            "scatter",
            vec![
                In::normal(1, &[2, b, kept + 1, d]),
                In::normal(2, &[2, d]),
                table(),
                index(&k3, kept),
                index(&restore, all),
            ],
            |t, x| ops::scatter(t, x[0], x[1], x[2], x[3], x[4]),
            move |x| tokens::scatter_reference(&x[0], &x[1], &x[2], &restore, [2, b, kept, all, d]),
        ),
        Case::op(
            "spread_slots",
            vec![In::normal(1, &[2, 8, 5, 31])],
            |t, x| ops::spread_slots(t, x[0], 3),
            |x| tokens::spread_slots_reference(&x[0], [2, 8, 5, 31], 3),
        ),
        Case::op(
            // Twice, so that the second gradient is added to the first.
            "gather_rows",
            vec![In::normal(10, &[2 * b, 65, d]), index(&k3, kept)],
            |t, x| {
                let (once, again) = (ops::gather_rows(t, x[0], x[1])?, ops::gather_rows(t, x[0], x[1])?);
                ops::add(t, once, again)
            },
            move |x| scaled(&tokens::gather_rows_reference(&x[0], &keep, [2 * b, 65, kept, d]), 2.0),
        ),
        resize("prepare", 13, 31),
        resize("prepare without resizing", 9, 9),
    ]
}

/// Sets of 3, 65 and 97 of 97 points that spiral around the globe.
fn distances() -> Vec<Case> {
    let place = |i: u32| {
        let (z, turn) = (1.0 - f64::from(2 * i + 1) / 97.0, f64::from(i) * 2.4);
        let radius = (1.0 - z * z).sqrt();
        geodesic::fixed([radius * turn.cos(), radius * turn.sin(), z])
    };
    let points: Vec<u32> = (0..97).flat_map(place).map(i32::cast_unsigned).collect();
    let members: Vec<u32> = (0..3 * 97).map(|i| (i * 31 + i / 97) % 97).collect();
    let case = |name: &'static str, measure: Measure| {
        let inputs = vec![
            In::Index(vec![97, 3], points.clone()),
            In::Index(vec![3, 97], members.clone()),
            In::Index(vec![3], vec![3, 65, 97]),
        ];
        let whole = |x: &[f64]| -> Vec<usize> { x.iter().map(|&v| v as usize).collect() };
        let unit = |v: &f64| f64::from((*v as u32).cast_signed()) / f64::from((1 << 30) - 1);
        Case::op(
            name,
            inputs,
            move |t, x| ops::geodesic(t, x[0], x[1], x[2], measure),
            move |x| {
                let points: Vec<f64> = x[0].iter().map(unit).collect();
                geodesic::reference(&points, &whole(&x[1]), &whole(&x[2]), measure)
            },
        )
    };
    vec![
        case("geodesic: nearest", Measure::Nearest),
        case("geodesic: sums", Measure::Share),
        case("geodesic: histogram", Measure::Histogram),
    ]
}

fn losses() -> Vec<Case> {
    let (b, c, side, patch, width) = (2, 3, 3, 4, 63);
    let (size, patches) = (side * patch, side * side);
    let hidden =
        || (1..=b as u32 * patches as u32).filter(|i| i % 3 != 0).map(|i| (i - 1) % patches as u32 + 1).collect();
    let count = patches * 2 / 3;
    let masked = |name: &'static str, error: Error, norm_pix: bool| {
        Case::op(
            name,
            vec![
                In::normal(6, &[b, count, patch * patch * c]),
                In::Plain(vec![b, c, size, size], normal(7, b * c * size * size)),
                In::Index(vec![b, count], hidden()),
            ],
            move |t, x| ops::masked_patch_loss(t, x[0], x[1], x[2], patch, error, norm_pix),
            move |x| masked_loss::reference(&x[0], &x[1], &x[2], [b, c, size], patch, error, norm_pix),
        )
    };
    let contrast = |name: &'static str, pairs: usize, kind: Contrast| {
        let features = move |seed| {
            let data = normal(seed, pairs * width).iter().map(|v| v / (width as f32).sqrt()).collect();
            In::Grad(vec![pairs, width], data)
        };
        Case::op(
            name,
            vec![features(12), features(13)],
            move |t, x| ops::nt_xent(t, x[0], x[1], 0.5, kind),
            move |x| nt_xent::reference(&x[0], &x[1], width, 0.5, kind),
        )
    };
    vec![
        masked("masked squared error", Error::Mse, false),
        masked("masked absolute error", Error::Mae, false),
        masked("masked error of normalised patches", Error::Mse, true),
        contrast("nt_xent", 33, Contrast::NtXent),
        contrast("nt_xent by eq. 10", 9, Contrast::Eq10),
        Case::op(
            "slot repulsion",
            vec![In::normal(9, &[5, 8, 65])],
            |t, x| ops::gram_square(t, x[0]),
            |x| ops::gram::reference(&x[0], 8, 65),
        ),
    ]
}
