//! One contestant of the race (run.sh): does what race.py asks for, line by line, and says how long it took.

mod with_burn;
mod with_csmoe;
mod with_meganeura;

use anyhow::{Context, Result, bail};
use std::io::Write;
use std::time::Instant;

/// Heads of every attention.
pub const HEADS: usize = 12;
/// Of every layer norm.
pub const EPS: f32 = 1e-6;

#[derive(Clone)]
pub struct Array {
    pub shape: Vec<usize>,
    pub data: Vec<f32>,
}

/// One forward and backward, waited for.
pub type Pass = Box<dyn FnMut() -> Result<()>>;

/// The result and the gradient of every input for a gradient of ones, one after the other, and what computes them.
pub type Loaded = (Pass, Vec<f32>);

/// Makes a case's pass of its inputs.
pub type Loader = Box<dyn FnMut(&str, &[Array]) -> Result<Loaded>>;

/// Rows and columns swapped: csmoe keeps weights as [out, in], its peers as [in, out].
pub fn transposed(data: &[f32], columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|c| data[c..].iter().step_by(columns).copied()).collect()
}

/// Whether input `i` is a layer's weight.
pub fn is_weight(i: usize, shape: &[usize]) -> bool {
    i > 0 && shape.len() == 2
}

/// The inputs of a file, whose shapes are written like `768x768`.
fn read(file: &str, shapes: &[&str]) -> Result<Vec<Array>> {
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {file}"))?;
    let mut rest: &[f32] = bytemuck::try_cast_slice(&bytes).ok().context("not a file of f32")?;
    let array = |shape: &&str| {
        let shape = shape.split('x').map(|d| Ok(d.parse()?)).collect::<Result<Vec<usize>>>()?;
        let data = rest.split_off(..shape.iter().product()).context("the file is too short")?.to_vec();
        Ok(Array { shape, data })
    };
    shapes.iter().map(array).collect()
}

fn main() -> Result<()> {
    let name = std::env::args().nth(1).context("which contestant? csmoe, burn or meganeura")?;
    let mut load = match name.as_str() {
        "csmoe" => with_csmoe::open()?,
        "burn" => with_burn::open(),
        "meganeura" => with_meganeura::open(),
        other => bail!("no contestant is called '{other}'"),
    };
    let mut pass: Option<Pass> = None;
    for line in std::io::stdin().lines() {
        let line = line?;
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["load", kind, input, output, ref shapes @ ..] => {
                drop(pass.take());
                let (loaded, values) = load(kind, &read(input, shapes)?)?;
                std::fs::write(output, bytemuck::cast_slice(&values))?;
                pass = Some(loaded);
                println!("loaded");
            }
            ["burst", seconds] => {
                let (seconds, pass): (f64, _) = (seconds.parse()?, pass.as_mut().context("nothing is loaded")?);
                let (cpu, wall, mut times) = (csmoe::eval::bench::cpu_seconds(), Instant::now(), 0);
                while times == 0 || wall.elapsed().as_secs_f64() < seconds {
                    pass()?;
                    times += 1;
                }
                let cpu = csmoe::eval::bench::cpu_seconds() - cpu;
                println!("{times} {} {cpu}", wall.elapsed().as_secs_f64());
            }
            _ => bail!("what is '{line}'?"),
        }
        std::io::stdout().flush()?;
    }
    Ok(())
}
