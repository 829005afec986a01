use crate::{Array, EPS, HEADS, Loaded, Loader, is_weight, transposed};
use anyhow::{Result, bail};
use meganeura::{Graph, NodeId, SessionConfig};

pub fn open() -> Loader {
    Box::new(load)
}

/// An input as it has to lie: weights as [in, out], and sequences one by one, as tensors have no third axis.
fn pieces(i: usize, array: &Array) -> Vec<Array> {
    match array.shape[..] {
        [n, k] if is_weight(i, &array.shape) => vec![Array { shape: vec![k, n], data: transposed(&array.data, k) }],
        [_, rows, columns] => {
            let part = |data: &[f32]| Array { shape: vec![rows, columns], data: data.to_vec() };
            array.data.chunks(rows * columns).map(part).collect()
        }
        _ => vec![array.clone()],
    }
}

fn forward(g: &mut Graph, kind: &str, x: &[NodeId]) -> Result<NodeId> {
    Ok(match kind {
        "linear" => {
            let product = g.matmul(x[0], x[1]);
            g.bias_add(product, x[2])
        }
        "layer_norm" => g.layer_norm(x[0], x[1], x[2], EPS),
        "attention" => {
            let heads = HEADS as u32;
            let width = g.node(x[0]).ty.shape[1] as u32;
            g.multi_head_attn(x[0], x[1], x[2], heads, heads, width / heads, false)
        }
        "soft_moe" => {
            let (slots, tokens) = (x[0], x[1]);
            let logits = g.matmul_bt(slots, tokens);
            let dispatch = g.softmax(logits);
            let inputs = g.matmul(dispatch, tokens);
            let logits = g.matmul_bt(tokens, slots);
            let combine = g.softmax(logits);
            g.matmul(combine, inputs)
        }
        // Its GELU is another function.
        other => bail!("meganeura has no {other}"),
    })
}

fn load(kind: &str, inputs: &[Array]) -> Result<Loaded> {
    let laid: Vec<Vec<Array>> = inputs.iter().enumerate().map(|(i, a)| pieces(i, a)).collect();
    let name = |i: usize, piece: usize| format!("x{i}.{piece}");
    let mut g = Graph::new();
    let mut results = Vec::new();
    for piece in 0..laid[0].len() {
        let shapes = laid.iter().enumerate().map(|(i, pieces)| (name(i, piece), &pieces[piece].shape));
        let x: Vec<NodeId> = shapes.map(|(name, shape)| g.parameter(&name, shape)).collect();
        results.push(forward(&mut g, kind, &x)?);
    }
    let sums: Vec<NodeId> = results.iter().map(|y| g.sum_all(*y)).collect();
    let loss = sums[1..].iter().fold(sums[0], |a, b| g.add(a, *b));
    let lengths: Vec<usize> = results.iter().map(|y| g.node(*y).ty.num_elements()).collect();
    g.set_outputs([&[loss], &results[..]].concat());
    let config = SessionConfig { tune: true, ..SessionConfig::default() };
    let mut session = meganeura::build(&g, config).0;
    eprintln!("meganeura: {}", session.device_information().device_name);
    for (i, pieces) in laid.iter().enumerate() {
        for (piece, array) in pieces.iter().enumerate() {
            session.set_parameter(&name(i, piece), &array.data);
        }
    }
    session.step();
    session.wait();
    let mut values = Vec::new();
    for (piece, length) in lengths.into_iter().enumerate() {
        let mut y = vec![0.0; length];
        session.read_output_by_index(1 + piece, &mut y);
        values.extend(y);
    }
    for (i, pieces) in laid.iter().enumerate() {
        for (piece, array) in pieces.iter().enumerate() {
            let mut d = vec![0.0; array.data.len()];
            session.read_param_grad(&name(i, piece), &mut d);
            let weight = is_weight(i, &inputs[i].shape);
            values.extend(if weight { transposed(&d, array.shape[1]) } else { d });
        }
    }
    let pass = move || {
        session.step();
        session.wait();
        Ok(())
    };
    Ok((Box::new(pass), values))
}
