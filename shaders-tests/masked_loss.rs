use crate::harness::{In, check, normal};
use csmoe::ops;
use csmoe::ops::masked_loss::{Error, reference};
use csmoe::tensor::Rng;

fn inputs(batch: usize, channels: usize, side: usize, patch: usize, ratio: f64, error: Error) -> [In; 3] {
    let (size, patches) = (side * patch, side * side);
    let mut rng = Rng::new(8, 8);
    let count = ((patches as f64 * ratio) as usize).max(1);
    let mut hidden = Vec::new();
    for _ in 0..batch {
        let mut tokens: Vec<u32> = (1..=patches as u32).collect();
        while tokens.len() > count {
            tokens.remove(rng.below(tokens.len()));
        }
        hidden.extend(tokens);
    }
    let shape = vec![batch, count, patch * patch * channels];
    // Predictions on both sides of the pixels: an absolute error has no slope where they meet.
    let apart = if error == Error::Mae { 8.0 } else { 0.0 };
    let pred = normal(6, shape.iter().product()).iter().map(|v| v + apart * v.signum()).collect();
    [
        In::Grad(shape, pred),
        In::Plain(vec![batch, channels, size, size], normal(7, batch * channels * size * size)),
        In::Index(vec![batch, count], hidden),
    ]
}

#[test]
fn masked_patch_losses() {
    let shapes = [
        (1, 1, 1, 2),
        (1, 1, 2, 3),
        (2, 2, 3, 2),
        (1, 10, 2, 8),
        (3, 3, 2, 5),
        (2, 2, 7, 2),
        (1, 1, 3, 9),
        (2, 1, 4, 8),
        (1, 13, 2, 7),
        (2, 10, 3, 12),
        (1, 2, 14, 4),
    ];
    for (batch, channels, side, patch) in shapes {
        for (error, norm_pix) in [(Error::Mse, false), (Error::Mae, false), (Error::Mse, true)] {
            check(
                &format!("masked_patch_loss {batch} {channels} {side} {patch} {error:?} {norm_pix}"),
                &inputs(batch, channels, side, patch, 0.7, error),
                |t, x| ops::masked_patch_loss(t, x[0], x[1], x[2], patch, error, norm_pix),
                |x| reference(&x[0], &x[1], &x[2], [batch, channels, side * patch], patch, error, norm_pix),
            );
        }
    }
}

#[test]
fn masked_patch_losses_add_their_gradients() {
    let [pred, image, mask] = inputs(2, 3, 3, 4, 0.5, Error::Mae);
    check(
        "masked_patch_loss twice",
        &[pred, image, mask],
        |t, x| {
            let a = ops::masked_patch_loss(t, x[0], x[1], x[2], 4, Error::Mse, false)?;
            let b = ops::masked_patch_loss(t, x[0], x[1], x[2], 4, Error::Mae, true)?;
            ops::add(t, a, b)
        },
        |x| {
            let one = |e, n| reference(&x[0], &x[1], &x[2], [2, 3, 12], 4, e, n);
            one(Error::Mse, false).iter().zip(one(Error::Mae, true)).map(|(a, b)| a + b).collect()
        },
    );
}
