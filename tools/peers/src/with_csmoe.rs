use crate::{Array, EPS, HEADS, Loaded, Loader};
use anyhow::{Context, Result, bail};
use csmoe::gpu::{AdapterChoice, Gpu};
use csmoe::ops::{self, Mlp};
use csmoe::tensor::{ParamStore, Params, Tape, Tensor};
use std::rc::Rc;

pub fn open() -> Result<Loader> {
    let gpu = Rc::new(Gpu::open(&AdapterChoice::from_flag(None))?);
    eprintln!("csmoe: {}", csmoe::gpu::describe(&gpu.info));
    Ok(Box::new(move |kind, inputs| load(&gpu, kind, inputs)))
}

/// q, k and v side by side in a row, as a linear layer of all three leaves them.
fn side_by_side(parts: &[Array]) -> Array {
    let width = parts[0].shape[2];
    let rows = (0..parts[0].data.len()).step_by(width);
    let data = rows.flat_map(|r| parts.iter().flat_map(move |p| &p.data[r..r + width])).copied().collect();
    Array { shape: vec![parts[0].shape[0], parts[0].shape[1], 3 * width], data }
}

/// The reverse, q before k before v.
fn one_after_another(data: &[f32], width: usize) -> Vec<f32> {
    (0..3).flat_map(|part| data.chunks(width).skip(part).step_by(3).flatten()).copied().collect()
}

/// One layer of three.
fn stacked(parts: &[Array]) -> Array {
    let mut shape = parts[0].shape.clone();
    shape[0] *= parts.len();
    Array { shape, data: parts.iter().flat_map(|p| &p.data).copied().collect() }
}

fn mlp(t: &mut Tape, x: Tensor, p: &[Tensor], residual: Option<Tensor>) -> Result<Tensor> {
    ops::mlp(t, x, Mlp { w1: p[0], b1: p[1], w2: p[2], b2: p[3] }, 1, residual)
}

fn record(t: &mut Tape, kind: &str, x: &[Tensor]) -> Result<Tensor> {
    match kind {
        "linear" => ops::linear(t, x[0], x[1], Some(x[2]), None),
        "layer_norm" => ops::layer_norm(t, x[0], x[1], x[2], EPS as _),
        "mlp" => mlp(t, x[0], &x[1..], None),
        "attention" => ops::multi_head(t, x[0], HEADS),
        "soft_moe" => {
            let logits = ops::logits(t, x[0], x[1])?;
            let (inputs, _) = ops::dispatch(t, logits, x[1], 1.0)?;
            ops::combine(t, logits, inputs)
        }
        "vit_block" => {
            let [_, batch, tokens, width] = x[0].dims("block: x")?;
            let rows = [1, batch * tokens, width];
            let input = x[0].reshape(rows)?;
            let normed = ops::layer_norm(t, input, x[1], x[2], EPS as _)?;
            let qkv = ops::linear(t, normed, x[3], Some(x[4]), None)?.reshape([batch, tokens, 3 * width])?;
            let mixed = ops::multi_head(t, qkv, HEADS)?.reshape(rows)?;
            let h = ops::linear(t, mixed, x[5], Some(x[6]), Some(input))?;
            let normed = ops::layer_norm(t, h, x[7], x[8], EPS as _)?;
            mlp(t, normed, &x[9..], Some(h))
        }
        other => bail!("no case is called '{other}'"),
    }
}

fn load(gpu: &Rc<Gpu>, kind: &str, inputs: &[Array]) -> Result<Loaded> {
    let inputs = match kind {
        "attention" => vec![side_by_side(inputs)],
        "vit_block" => [&inputs[..3], &[stacked(&inputs[3..6]), stacked(&inputs[6..9])], &inputs[9..]].concat(),
        _ => inputs.to_vec(),
    };
    let mut t = Tape::new(gpu.target.clone(), Params::default());
    // Layers carry how many of them are stacked in front: one.
    let stack: &[usize] = if matches!(kind, "attention" | "soft_moe") { &[] } else { &[1] };
    let name = |i: usize| format!("x{i}");
    let x: Vec<Tensor> = (inputs.iter().enumerate())
        .map(|(i, a)| t.input_with_grad(name(i), &[stack, &a.shape[..]].concat()[..]))
        .collect();
    let y = record(&mut t, kind, &x)?;
    let seed = t.input("seed", y.shape());
    t.backward_seed(y, seed);
    t.walk_back()?;
    t.output("y", y)?;
    let mut outputs = vec!["y".to_string()];
    for (i, x) in x.iter().enumerate() {
        let gradient = t.grad(*x).context("an input has no gradient")?;
        outputs.push(format!("d{i}"));
        t.output(&outputs[i + 1], gradient)?;
    }
    let store = ParamStore::new(gpu, Params::default(), true)?;
    let program = t.compile(gpu, &store)?;
    for (i, a) in inputs.iter().enumerate() {
        program.write(gpu, &name(i), &a.data)?;
    }
    program.write(gpu, "seed", &vec![1f32; y.elems()])?;
    let outputs: Vec<&str> = outputs.iter().map(String::as_str).collect();
    let mut values = program.run_and_read(gpu, &outputs)?.outputs;
    if kind == "attention" {
        values[1] = one_after_another(&values[1], inputs[0].shape[2] / 3);
    }
    let gpu = gpu.clone();
    let pass = move || {
        program.run(&gpu)?;
        Ok(gpu.wait()?)
    };
    Ok((Box::new(pass), values.concat()))
}
