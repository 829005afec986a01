use crate::harness::{F32, In, check_on, compare, gpu, normal, targets};
use csmoe::gpu::Target;
use csmoe::ops::attention::{multi_head, multi_head_reference, reference};
use csmoe::ops::reduce::scalar_reference;
use csmoe::ops::{add, combine, dispatch, logits, scale, sum_scaled};
use csmoe::tensor::{ParamStore, Params, Tape};

/// Every shape with this adapter's choice of kernels, every third with the others.
fn cases(shapes: &[[usize; 4]]) -> impl Iterator<Item = (Target, [usize; 4])> {
    let own = gpu().target.clone();
    // Fused and unfused are held to one reference, each within its bounds.
    let unfused = Target { fuse: false, ..own.clone() };
    targets().into_iter().chain([unfused]).flat_map(move |t| {
        let step = if t.tiles && t.lanes != own.lanes { 3 } else { 1 };
        shapes.iter().step_by(step).map(move |s| (t.clone(), *s))
    })
}

#[test]
fn multi_head_matches_reference() {
    // [sequences, tokens, heads, head width]
    let shapes = [
        [1, 1, 1, 1],
        [1, 2, 1, 3],
        [1, 3, 2, 4],
        [2, 5, 1, 8],
        [1, 7, 3, 5],
        [2, 15, 2, 16],
        [1, 16, 1, 32],
        [1, 17, 2, 31],
        [2, 31, 1, 33],
        [1, 33, 2, 64],
        [1, 50, 3, 7],
        [3, 13, 4, 12],
        [1, 99, 1, 32],
        [1, 113, 1, 4],
        [1, 224, 1, 3],
        [1, 225, 1, 2],
        [1, 257, 1, 5],
        [1, 449, 1, 2],
        [2, 4, 5, 65],
        [1, 11, 2, 129],
        [1, 5, 2, 68],
        [2, 51, 3, 64],
        [1, 130, 1, 4],
        [1, 133, 1, 32],
    ];
    for (target, dims @ [s, n, heads, d]) in cases(&shapes) {
        check_on(
            &target,
            &format!("attention {dims:?}"),
            F32,
            &[In::normal(1, &[s, n, 3 * heads * d])],
            |t, x| multi_head(t, x[0], heads),
            |x| multi_head_reference(&x[0], dims),
        );
    }
}

#[test]
fn sequences_in_several_rounds() {
    // So small a binding keeps the weights of seven sequences of eight at a time.
    let dims @ [s, n, heads, d] = [8, 24, 1, 4];
    for target in targets() {
        check_on(
            &Target { max_binding: 16 << 10, ..target },
            "attention in rounds",
            F32,
            &[In::normal(1, &[s, n, 3 * heads * d])],
            |t, x| multi_head(t, x[0], heads),
            |x| multi_head_reference(&x[0], dims),
        );
    }
}

#[test]
fn scores_may_rise_or_fall_along_the_keys() {
    // By some 80 from one end to the other: what was summed so far has to be scaled anew on the way.
    let dims @ [s, n, heads, d] = [2, 120, 1, 32];
    let mut qkv = normal(1, s * n * 3 * d);
    for (row, values) in qkv.chunks_exact_mut(3 * d).enumerate() {
        let place = if row < n { row } else { 2 * n - 1 - row } as f32;
        values[..d].iter_mut().for_each(|q| *q = 0.5 + 0.1 * *q);
        values[d..2 * d].iter_mut().for_each(|k| *k = place / 4.0 * (1.0 + 0.05 * *k));
    }
    for target in targets() {
        check_on(
            &target,
            "attention over rising and falling scores",
            F32,
            &[In::Plain(vec![s, n, 3 * heads * d], qkv.clone())],
            |t, x| multi_head(t, x[0], heads),
            |x| multi_head_reference(&x[0], dims),
        );
    }
}

/// Runs dispatch and combine on `target`: the results, entropies and gradients of all inputs, by name.
fn routed(target: &Target, [z, s, n, d]: [usize; 4]) -> Vec<(String, Vec<f32>)> {
    let mut t = Tape::new(target.clone(), Params::default());
    let shapes = [("slots", [z, s, d]), ("keys", [z, n, d]), ("tokens", [z, n, d])];
    let [slots, keys, tokens] = shapes.map(|(name, shape)| t.input_with_grad(name, shape));
    let logits = logits(&mut t, slots, keys).expect("logits");
    let (inputs, entropy) = dispatch(&mut t, logits, tokens, 0.7).expect("dispatch");
    let o = combine(&mut t, logits, inputs).expect("combine");
    for (name, value) in [("o", o), ("entropy", entropy)] {
        let value = scale(&mut t, value, 1.0).expect("scale");
        t.output(name, value).expect("an output");
        let seed = t.input(format!("d{name}"), value.shape());
        t.backward_seed(value, seed);
    }
    t.walk_back().expect("the backward");
    for ((name, _), leaf) in shapes.iter().zip([slots, keys, tokens]) {
        let grad = t.grad(leaf).expect("a gradient");
        t.output(format!("grad of {name}"), grad).expect("an output");
    }
    let store = ParamStore::new(gpu(), Params::default(), false).expect("no parameters");
    let program = t.compile(gpu(), &store).expect("a program");
    let inputs: Vec<_> = program.inputs().map(|(name, len)| (name.to_string(), len)).collect();
    for (name, len) in inputs {
        let seed = name.bytes().map(u64::from).sum();
        let values: Vec<f32> = normal(seed, len).iter().map(|v| v * 0.4).collect();
        program.write(gpu(), &name, &values).expect("write");
    }
    program.run(gpu()).expect("run");
    let names: Vec<_> = program.output_names().map(str::to_string).collect();
    names.into_iter().map(|name| (name.clone(), program.read(gpu(), &name).expect("read"))).collect()
}

#[test]
fn fused_is_unfused() {
    let own = gpu().target.clone();
    for dims in MOE {
        let [fused, twin] = [true, false].map(|fuse| routed(&Target { fuse, ..own.clone() }, dims));
        for ((name, fused), (same, twin)) in fused.iter().zip(&twin) {
            assert_eq!(name, same);
            let twin: Vec<f64> = twin.iter().map(|v| f64::from(*v)).collect();
            compare(&format!("{dims:?}: {name}"), fused, &twin, 2e-5);
        }
    }
}

#[test]
fn routing_without_room_for_logits() {
    // A binding holds the tokens, not the logits of all sequences: dispatch and combine each make their own.
    let dims = [4, 24, 64, 8];
    let own = gpu().target.clone();
    let [small, large] =
        [16 << 10, own.max_binding].map(|max_binding| routed(&Target { max_binding, ..own.clone() }, dims));
    for ((name, small), (_, large)) in small.iter().zip(&large) {
        let large: Vec<f64> = large.iter().map(|v| f64::from(*v)).collect();
        compare(name, small, &large, 2e-5);
    }
}

#[test]
fn results_that_are_the_slots() {
    // Their gradient is the sum of what comes back through weights and values, with and without room for the logits.
    let [z, s, n, d] = [4, 24, 64, 8];
    let own = gpu().target.clone();
    for max_binding in [16 << 10, own.max_binding] {
        check_on(
            &Target { max_binding, ..own.clone() },
            &format!("combine of the slots themselves, bindings of {max_binding} bytes"),
            F32,
            &[In::normal(1, &[z, n, d]), In::normal(2, &[z, s, d])],
            |t, x| {
                let slots = scale(t, x[1], 0.3)?;
                let logits = logits(t, slots, x[0])?;
                combine(t, logits, slots)
            },
            |x| {
                let slots: Vec<f64> = x[1].iter().map(|v| v * f64::from(0.3f32)).collect();
                reference(&x[0], &slots, &slots, [z, n, s, d], 1.0).0
            },
        );
    }
}

/// [sequences, slots, tokens, width]
const MOE: [[usize; 4]; 22] = [
    [1, 1, 1, 1],
    [1, 1, 2, 3],
    [1, 2, 1, 4],
    [2, 4, 3, 5],
    [1, 8, 5, 8],
    [3, 7, 11, 2],
    [2, 8, 8, 16],
    [1, 15, 17, 31],
    [1, 16, 16, 32],
    [1, 17, 15, 33],
    [2, 24, 20, 24],
    [1, 56, 51, 12],
    [1, 31, 100, 8],
    [1, 104, 99, 6],
    [1, 112, 113, 4],
    [1, 113, 112, 3],
    [1, 225, 30, 4],
    [1, 30, 225, 4],
    [1, 140, 64, 4],
    [1, 64, 300, 4],
    [2, 40, 40, 65],
    [1, 8, 6, 257],
];

#[test]
fn dispatch_matches_reference() {
    for (target, dims @ [z, s, n, d]) in cases(&MOE) {
        // Value and entropy are both used, so that their gradients meet. Small values keep the weights soft.
        check_on(
            &target,
            &format!("dispatch {dims:?}"),
            F32,
            &[In::normal(1, &[z, s, d]), In::normal(2, &[z, n, d])],
            |t, x| {
                let slots = scale(t, x[0], 0.3)?;
                let tokens = scale(t, x[1], 0.5)?;
                let logits = logits(t, slots, tokens)?;
                let (o, entropy) = dispatch(t, logits, tokens, 2.0)?;
                let total = sum_scaled(t, entropy, 0.25)?;
                let flat = scale(t, o, 1.0)?.reshape([z * s * d])?;
                t.concat(&[total, flat])
            },
            |x| {
                let slots: Vec<f64> = x[0].iter().map(|v| v * f64::from(0.3f32)).collect();
                let tokens: Vec<f64> = x[1].iter().map(|v| v * 0.5).collect();
                let (o, w) = reference(&slots, &tokens, &tokens, [z, s, n, d], 0.5);
                let entropy: f64 = w.iter().map(|a| a * (a + 1e-8).ln()).sum::<f64>() * 0.25;
                let mut all = scalar_reference(entropy);
                all.extend(o);
                all
            },
        );
    }
}

#[test]
fn combine_matches_reference() {
    for (target, dims @ [z, s, n, d]) in cases(&MOE) {
        // As in a layer: the tokens are also what the result is added to.
        check_on(
            &target,
            &format!("combine {dims:?}"),
            F32,
            &[In::normal(1, &[z, n, d]), In::normal(2, &[z, s, d]), In::normal(3, &[z, s, d])],
            |t, x| {
                let slots = scale(t, x[1], 0.3)?;
                let logits = logits(t, slots, x[0])?;
                let o = combine(t, logits, x[2])?;
                add(t, o, x[0])
            },
            |x| {
                let slots: Vec<f64> = x[1].iter().map(|v| v * f64::from(0.3f32)).collect();
                let (o, _) = reference(&x[0], &slots, &x[2], [z, n, s, d], 1.0);
                o.iter().zip(&x[0]).map(|(a, b)| a + b).collect()
            },
        );
    }
}
