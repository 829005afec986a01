//! The optimiser against its reference: three clipped steps, and one that must change nothing.

use super::measure::{Error, Errors, normal};
use crate::gpu::{Gpu, Target};
use crate::ops::adamw::{self, HYPER, Hyper, Options, reference};
use crate::tensor::{Init, Kind, Names, ParamStore, Params, Tape};
use anyhow::Result;

/// The update of parameters of several sizes, stacks among them.
///
/// # Errors
/// None of its own.
pub fn record(target: &Target) -> Result<(Tape, Params)> {
    let mut params = Params::default();
    for (i, shape) in [&[1][..], &[63], &[3, 31], &[4097], &[65, 64]].into_iter().enumerate() {
        params.add(Names::new([format!("p{i}")]).each(1 + i % 2), shape, Init::Normal { std: 1.0 });
    }
    let mut t = Tape::new(target.clone(), params.clone());
    let hyper = t.input("hyper", [HYPER]);
    let loss = t.input("loss", [1]);
    let stats = adamw::update(&mut t, hyper, Some(loss), Options { decay_all: false, zero_gradients: false })?;
    t.output("stats", stats)?;
    Ok((t, params))
}

/// Runs it; the weights and moments after it are the value.
///
/// # Errors
/// A kernel the driver refuses, a lost device.
pub fn measure(gpu: &Gpu, target: &Target) -> Result<Errors> {
    let (tape, params) = record(target)?;
    let store = ParamStore::new(gpu, params, true)?;
    store.init(gpu, 3);
    let program = tape.compile(gpu, &store)?;
    let all = |kind: Kind| -> Result<Vec<f32>> {
        Ok(store.read_named(gpu, kind)?.into_iter().flat_map(|(_, _, values)| values).collect())
    };
    let pieces: Vec<(usize, bool)> =
        store.params.pieces().map(|(_, shape, ..)| (shape.iter().product(), shape.len() >= 2)).collect();
    let mut w: Vec<f64> = all(Kind::Weight)?.iter().map(|x| f64::from(*x)).collect();
    let (mut m, mut v) = (vec![0.0; w.len()], vec![0.0; w.len()]);
    for step in 1..=4u64 {
        // The last step has a loss that is not a number.
        program.write(gpu, "loss", &[if step == 4 { f32::NAN } else { 1.0 }])?;
        let gradient = normal(100 + step, w.len());
        write_gradients(gpu, &store, &gradient)?;
        let hyper = Hyper { lr: 1e-2, clip: Some(5.0), step, ..Hyper::default() };
        program.write(gpu, "hyper", &hyper.values())?;
        program.run(gpu)?;
        if step == 4 {
            break;
        }
        let g: Vec<f64> = gradient.iter().map(|x| f64::from(*x)).collect();
        let norm = g.iter().map(|x| x * x).sum::<f64>().sqrt();
        let mut at = 0;
        for &(n, decays) in &pieces {
            let r = at..at + n;
            reference(&mut w[r.clone()], &g[r.clone()], &mut m[r.clone()], &mut v[r], norm, &hyper, decays);
            at += n;
        }
    }
    let mut worst = Error::default();
    for (what, kind, expected) in [
        ("a weight", Kind::Weight, w),
        ("a first moment", Kind::FirstMoment, m),
        ("a second moment", Kind::SecondMoment, v),
    ] {
        let error = Error::of(what, &all(kind)?, &expected);
        if error.relative > worst.relative {
            worst = error;
        }
    }
    Ok(Errors { value: worst, gradient: Error::default() })
}

fn write_gradients(gpu: &Gpu, store: &ParamStore, values: &[f32]) -> Result<()> {
    let mut chunks: Vec<Vec<f32>> = store.params.chunks().iter().map(|n| vec![0.0; *n]).collect();
    let mut rest = values.iter();
    for (_, shape, chunk, at) in store.params.pieces() {
        let n: usize = shape.iter().product();
        chunks[chunk][at..at + n].iter_mut().zip(&mut rest).for_each(|(slot, value)| *slot = *value);
    }
    store.write_chunks(gpu, Kind::Gradient, &chunks)
}
