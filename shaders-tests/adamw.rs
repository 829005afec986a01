use crate::harness::{compare, gpu, normal};
use csmoe::ops;
use csmoe::ops::adamw::{Hyper, Options, reference};
use csmoe::tensor::{Init, Kind, Names, ParamStore, Params, Program, Rng, Tape};

/// Shapes of the parameters of a test; several names make a stack.
type Shapes<'a> = &'a [(usize, &'a [usize])];

struct Case {
    store: ParamStore,
    program: Program,
}

impl Case {
    /// A program that is nothing but the update, with bindings of at most `max_binding` bytes.
    fn new(shapes: Shapes, options: Options, max_binding: u64) -> Case {
        let mut params = Params::default();
        for (i, (pieces, shape)) in shapes.iter().enumerate() {
            params.add(Names::new([format!("p{i}")]).each(*pieces), shape, Init::Normal { std: 1.0 });
        }
        let mut target = gpu().target.clone();
        target.max_binding = max_binding;
        let mut t = Tape::new(target, params.clone());
        let hyper = t.input("hyper", [16]);
        let losses = t.input("losses", [128]);
        let stats = ops::adamw::update(&mut t, hyper, Some(losses), options).expect("update");
        t.output("stats", stats).expect("stats");
        let store = ParamStore::new(gpu(), params, true).expect("parameters");
        store.init(gpu(), 3);
        let program = t.compile(gpu(), &store).expect("compile");
        program.write(gpu(), "losses", &[1f32; 128]).expect("write");
        Case { store, program }
    }

    /// Sets every gradient, padding untouched.
    fn set_gradients(&self, f: impl Fn(usize) -> f32) {
        let mut chunks: Vec<Vec<f32>> = self.store.params.chunks().iter().map(|n| vec![0.0; *n]).collect();
        let mut k = 0;
        for (_, shape, chunk, at) in self.store.params.pieces() {
            for slot in &mut chunks[chunk][at..at + shape.iter().product::<usize>()] {
                *slot = f(k);
                k += 1;
            }
        }
        self.store.write_chunks(gpu(), Kind::Gradient, &chunks).expect("write");
    }

    fn step(&self, hyper: &Hyper) -> Vec<f32> {
        self.program.write(gpu(), "hyper", &hyper.values()).expect("write");
        self.program.run(gpu()).expect("run");
        self.program.read(gpu(), "stats").expect("read")
    }

    fn all(&self, kind: Kind) -> Vec<f32> {
        self.store.read_named(gpu(), kind).expect("read").into_iter().flat_map(|p| p.2).collect()
    }

    fn bits(&self) -> Vec<u32> {
        let kinds = [Kind::Weight, Kind::FirstMoment, Kind::SecondMoment];
        kinds.iter().flat_map(|k| self.all(*k)).map(f32::to_bits).collect()
    }
}

const MANY: Shapes = &[
    (1, &[1]),
    (1, &[2]),
    (1, &[3, 5]),
    (1, &[63]),
    (1, &[64]),
    (1, &[65]),
    (8, &[7]),
    (2, &[3, 31]),
    (1, &[1, 1, 97]),
    (3, &[127, 2]),
    (1, &[1021]),
    (1, &[64, 64]),
    (1, &[4095]),
    (1, &[4097]),
    (1, &[8191]),
    (4, &[129]),
    (1, &[2, 2, 2, 2]),
    (5, &[1]),
    (1, &[130, 130]),
    (1, &[33, 3]),
    (1, &[70_001]),
];

const PLAIN: Options = Options { decay_all: true, zero_gradients: false };

fn ten_steps(shapes: Shapes, options: Options, max_binding: u64, clip: Option<f64>) {
    let case = Case::new(shapes, options, max_binding);
    let mut w: Vec<f64> = case.all(Kind::Weight).iter().map(|x| f64::from(*x)).collect();
    let (mut m, mut v) = (vec![0.0; w.len()], vec![0.0; w.len()]);
    let pieces: Vec<(usize, bool)> =
        case.store.params.pieces().map(|p| (p.1.iter().product(), options.decay_all || p.1.len() >= 2)).collect();
    for step in 1..=10 {
        let hyper = Hyper {
            lr: 1e-2 / step as f64,
            weight_decay: 0.05,
            betas: [0.9, 0.999],
            clip,
            grad_scale: 0.25,
            step,
            ..Hyper::default()
        };
        let gradient = normal(100 + step, w.len());
        case.set_gradients(|i| gradient[i]);
        let stats = case.step(&hyper);
        let g: Vec<f64> = gradient.iter().map(|x| f64::from(*x)).collect();
        let norm = 0.25 * g.iter().map(|x| x * x).sum::<f64>().sqrt();
        let mut at = 0;
        for &(n, decays) in &pieces {
            let r = at..at + n;
            reference(&mut w[r.clone()], &g[r.clone()], &mut m[r.clone()], &mut v[r], norm, &hyper, decays);
            at += n;
        }
        let scale = 0.25 * clip.map_or(1.0, |c| (c / norm).min(1.0));
        let mut expected = vec![0.0; 64];
        expected[0] = norm;
        expected[2] = scale;
        compare("stats", &stats, &expected, 1e-6);
        assert!((f64::from(stats[2]) - scale).abs() <= 1e-6 * scale);
        compare("weights", &case.all(Kind::Weight), &w, 1e-6);
        compare("first moments", &case.all(Kind::FirstMoment), &m, 1e-6);
        compare("second moments", &case.all(Kind::SecondMoment), &v, 1e-6);
        let left = case.all(Kind::Gradient);
        assert!(left.iter().zip(&gradient).all(|(l, g)| *l == if options.zero_gradients { 0.0 } else { *g }));
    }
}

#[test]
fn ten_adamw_steps() {
    ten_steps(MANY, PLAIN, 128 << 20, None);
    ten_steps(MANY, Options { decay_all: false, zero_gradients: true }, 128 << 20, Some(5.0));
    // Windows of 4096 elements, and a norm below the clip.
    ten_steps(MANY, Options { decay_all: false, zero_gradients: false }, 16 << 10, Some(1e6));
}

#[test]
fn adamw_alone_on_every_size() {
    for n in [1, 2, 3, 4, 5, 7, 31, 61, 63, 64, 65, 127, 255, 256, 257, 1023, 4095, 4096, 4097, 12_289] {
        ten_steps(&[(1, &[n])], PLAIN, 16 << 10, Some(0.1));
    }
}

#[test]
fn windows_do_not_change_a_bit() {
    let run = |max_binding| {
        let case = Case::new(MANY, PLAIN, max_binding);
        let gradient = normal(50, case.store.params.count());
        case.set_gradients(|i| gradient[i]);
        let stats = case.step(&Hyper { clip: Some(1.0), ..Hyper::default() });
        (stats, case.bits())
    };
    assert!(run(128 << 20) == run(16 << 10));
}

#[test]
fn adamw_skips_what_is_not_finite() {
    let options = Options { decay_all: true, zero_gradients: true };
    let case = Case::new(MANY, options, 16 << 10);
    let n = case.store.params.count();
    case.set_gradients(|i| 0.01 * (i % 7) as f32);
    assert_eq!(case.step(&Hyper::default())[1], 0.0);
    let before = case.bits();
    let mut rng = Rng::new(1, 1);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -f32::NAN, 3e38] {
        let at = rng.below(n);
        case.set_gradients(|i| if i == at { bad } else { 1.0 });
        assert_eq!(case.step(&Hyper { step: 2, clip: Some(1.0), ..Hyper::default() })[1], 1.0, "a gradient of {bad}");
        assert!(case.bits() == before, "{bad} changed the state");
        assert!(case.all(Kind::Gradient).iter().all(|g| *g == 0.0), "{bad} stays in the gradients");
    }
    for bad in [f32::NAN, f32::INFINITY] {
        let mut losses = [1f32; 128];
        losses[rng.below(128)] = bad;
        case.program.write(gpu(), "losses", &losses).expect("write");
        case.set_gradients(|_| 1.0);
        assert_eq!(case.step(&Hyper { step: 2, ..Hyper::default() })[1], 1.0, "a loss of {bad}");
        assert!(case.bits() == before, "a loss of {bad} changed the state");
    }
    case.program.write(gpu(), "losses", &[1f32; 128]).expect("write");
    case.set_gradients(|_| 1.0);
    assert_eq!(case.step(&Hyper { step: 2, ..Hyper::default() })[1], 0.0);
    assert!(case.bits() != before);
}

#[test]
fn a_whole_step_is_one_program() {
    let (rows, count, width) = (3, 4, 65);
    let run = |accumulate: bool| -> Vec<f32> {
        let mut params = Params::default();
        params.add(Names::new(["unused"]), &[5], Init::Constant(1.0));
        let id = params.add(Names::new(["u"]).each(rows), &[count, width], Init::Normal { std: 0.3 });
        let mut t = Tape::new(gpu().target.clone(), params.clone());
        t.accumulate_params = accumulate;
        let u = t.param(id);
        let loss = ops::gram_square(&mut t, u).expect("gram");
        t.backward(&[(loss, 2.0)]).expect("backward");
        let hyper = t.input("hyper", [16]);
        let options = Options { decay_all: false, zero_gradients: accumulate };
        ops::adamw::update(&mut t, hyper, Some(loss), options).expect("update");
        t.output("loss", loss).expect("loss");
        let store = ParamStore::new(gpu(), params, true).expect("parameters");
        store.init(gpu(), 4);
        let program = t.compile(gpu(), &store).expect("compile");
        let initial = store.read_named(gpu(), Kind::Weight).expect("read");
        let mut w: Vec<f64> = initial.iter().skip(1).flat_map(|p| &p.2).map(|x| f64::from(*x)).collect();
        let (mut m, mut v) = (vec![0.0; w.len()], vec![0.0; w.len()]);
        let mut losses = Vec::new();
        for step in 1..=10 {
            let hyper = Hyper { lr: 1e-2, clip: Some(0.01), step, ..Hyper::default() };
            program.write(gpu(), "hyper", &hyper.values()).expect("write");
            program.run(gpu()).expect("run");
            losses.push(program.read::<f32>(gpu(), "loss").expect("read")[0]);
            let expected = ops::gram::reference(&w, count, width)[0];
            compare("loss", &losses[step as usize - 1..], &[expected], 1e-5);
            let mut g = vec![0.0; w.len()];
            for (i, slot) in g.iter_mut().enumerate() {
                let (e, d) = (i / width, i % width);
                for f in e / count * count..(e / count + 1) * count {
                    let dot: f64 = (0..width).map(|k| w[e * width + k] * w[f * width + k]).sum();
                    *slot += 2.0 * 4.0 / (rows * count * count) as f64 * dot * w[f * width + d];
                }
            }
            let norm = g.iter().map(|x| x * x).sum::<f64>().sqrt();
            reference(&mut w, &g, &mut m, &mut v, norm, &hyper, true);
        }
        assert!(losses[9] < losses[0]);
        losses
    };
    assert_eq!(run(false), run(true));
}
