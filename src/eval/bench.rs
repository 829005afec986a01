//! How fast the kernels are on an adapter, beside what the same adapter can do at most: its own best matrix product
//! and its own copy. On a shared machine the figure to trust is work per CPU-second (a software adapter's only clock).

use crate::gpu::Gpu;
use crate::loss::Objective;
use crate::model::{Batch, Config, Csmoe};
use crate::nn::{Block, Sequences};
use crate::ops::adamw::{self, Hyper, Options};
use crate::ops::{self, Mlp};
use crate::tensor::{Names, ParamStore, Params, Program, Rng, Tape, Tensor, Work};
use crate::train::{masks, write_masks};
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Instant;

/// A kernel's share of a case. Rates count the arithmetic of the formula and every argument's bytes once.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub case: String,
    pub kernel: String,
    pub launches: usize,
    pub ms: f64,
    pub cpu_ms: f64,
    pub gflop_per_s: f64,
    pub gflop_per_cpu_s: f64,
    pub gb_per_s: f64,
    pub gb_per_cpu_s: f64,
    /// Per cent of the adapter's best matrix product, by CPU time on a software adapter, else by wall time: the mean of what
    /// it reached right before this case and right after.
    pub of_matmul: f64,
    /// Per cent of the adapter's copy, the same.
    pub of_copy: f64,
}

/// What [`run`] found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub adapter: String,
    pub lanes: u32,
    /// The best ceilings of the run: GFLOP/s and GB/s, by CPU time on a software adapter, else by wall time.
    pub matmul_peak: f64,
    pub copy_peak: f64,
    pub rows: Vec<Row>,
}

/// CPU time of this process in seconds, or wall time where there is no such clock.
pub fn cpu_seconds() -> f64 {
    #[cfg(unix)]
    {
        let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the pointer is to a local of the right type; a failure leaves it zero.
        unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut t) };
        t.tv_sec as f64 + t.tv_nsec as f64 * 1e-9
    }
    #[cfg(not(unix))]
    {
        static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        START.get_or_init(Instant::now).elapsed().as_secs_f64()
    }
}

/// Records a case; what it returns is given a gradient.
type Record = Box<dyn Fn(&mut Tape) -> Result<Option<Tensor>>>;

/// A thing to time: parameters and what to record. What `record` returns is given a gradient.
pub struct Case {
    pub name: &'static str,
    params: Params,
    record: Record,
    fill: Option<Fill>,
}

type Fill = Box<dyn Fn(&Gpu, &Program) -> Result<()>>;

fn op(name: &'static str, record: impl Fn(&mut Tape) -> Result<Tensor> + 'static) -> Case {
    Case { name, params: Params::default(), record: Box::new(move |t| record(t).map(Some)), fill: None }
}

/// A differentiable input, named by its place.
fn x<const N: usize>(t: &mut Tape, shape: [usize; N]) -> Tensor {
    let name = format!("x{}", t.values());
    t.input_with_grad(name, shape)
}

fn linear([g, m, k, n]: [usize; 4]) -> impl Fn(&mut Tape) -> Result<Tensor> {
    move |t| {
        let (a, w, b) = (x(t, [g, m, k]), x(t, [g, n, k]), x(t, [g, n]));
        ops::linear(t, a, w, Some(b), None)
    }
}

fn heads([s, n, heads, d]: [usize; 4]) -> impl Fn(&mut Tape) -> Result<Tensor> {
    move |t| {
        let qkv = x(t, [s, n, 3 * heads * d]);
        ops::multi_head(t, qkv, heads)
    }
}

/// Pixels to a model's input, without a gradient.
fn prepare(name: &'static str, from: usize, to: usize) -> Case {
    let record = move |t: &mut Tape| {
        let raw = t.input("raw", [32, 10, from, from]);
        let [mean, inverse] = ["mean", "inverse"].map(|name| t.input(name, [10]));
        let flips = t.constant([32], &[0u32, 1, 2, 3].repeat(8));
        ops::prepare(t, raw, mean, inverse, flips, to).map(|_| None)
    };
    Case { name, params: Params::default(), record: Box::new(record), fill: None }
}

/// Dispatch, a cheap expert, combine.
fn routed([z, s, n, d]: [usize; 4], fuse: bool) -> impl Fn(&mut Tape) -> Result<Tensor> {
    move |t| {
        t.target.fuse = fuse;
        let (slots, tokens) = (x(t, [z, s, d]), x(t, [z, n, d]));
        let logits = ops::logits(t, slots, tokens)?;
        let (inputs, _) = ops::dispatch(t, logits, tokens, 1.0)?;
        ops::combine(t, logits, inputs)
    }
}

fn experts([g, m, d, h]: [usize; 4]) -> impl Fn(&mut Tape) -> Result<Tensor> {
    move |t| {
        let a = x(t, [1, m, g * d]);
        let p = Mlp { w1: x(t, [g, h, d]), b1: x(t, [g, h]), w2: x(t, [g, d, h]), b2: x(t, [g, d]) };
        ops::mlp(t, a, p, g, None)
    }
}

fn vit_block() -> Case {
    let (batch, tokens, dim) = (4, 197, 768);
    let mut params = Params::default();
    let block = Block::new(&mut params, &Names::new(["block"]), dim, 12, None);
    let record = move |t: &mut Tape| {
        let input = x(t, [1, batch * tokens, dim]);
        Ok(Some(block.forward(t, input, Sequences { batch, tokens })?.0))
    };
    Case { name: "ViT block 768, 12 heads, 197 tokens, batch 4", params, record: Box::new(record), fill: None }
}

fn tiny_step(batch: usize) -> Result<Case> {
    let model = Csmoe::for_training(Config::preset("csmoe-tiny")?);
    let params = model.params.clone();
    let config = model.config.clone();
    let record = move |t: &mut Tape| {
        let size = model.config.image_size;
        let images =
            model.sensors.iter().map(|s| t.input(format!("image.{s}"), [batch, s.channels(), size, size])).collect();
        let masks = model.mask_inputs(t, batch, model.config.kept());
        let objective = Objective::record(t, &model, &Batch { images, size: batch }, &masks)?;
        objective.backward(t)?;
        let hyper = t.input("hyper", [adamw::HYPER]);
        adamw::update(t, hyper, Some(objective.scalars), Options { decay_all: false, zero_gradients: false })?;
        Ok(None)
    };
    let fill = move |gpu: &Gpu, program: &Program| {
        write_masks(gpu, program, batch, config.patches(), &masks::draw(&config, batch, 1, 1))?;
        program.write(gpu, "hyper", &Hyper { lr: 0.0, step: 1, ..Hyper::default() }.values())
    };
    Ok(Case { name: "csmoe-tiny step, batch 32", params, record: Box::new(record), fill: Some(Box::new(fill)) })
}

/// The matrix product and the copy that the others are compared with.
const PEAK: &str = "matmul 1024 x 1024 x 1024";
const COPY: &str = "copy 16 MiB";

/// Everything there is to time.
pub fn cases() -> Result<Vec<Case>> {
    let width = 4 << 20;
    Ok(vec![
        op(PEAK, linear([1, 1024, 1024, 1024])),
        op(COPY, move |t| {
            let a = x(t, [width]);
            ops::scale(t, a, 1.0)
        }),
        op("matmul 4096 x 768 x 3072", linear([1, 4096, 768, 3072])),
        op("matmul 2 x (1632 x 192 x 768)", linear([2, 1632, 192, 768])),
        op("matmul 2 x (6464 x 96 x 384)", linear([2, 6464, 96, 384])),
        op("matmul 2 x (6464 x 384 x 96)", linear([2, 6464, 384, 96])),
        op("matmul 3232 x 96 x 1440", linear([1, 3232, 96, 1440])),
        op("experts 8 x (26 x 768 x 3072)", experts([8, 26, 768, 3072])),
        op("experts 4 x (416 x 192 x 768)", experts([4, 416, 192, 768])),
        op("attention B 4, 12 heads of 64, N 197", heads([4, 197, 12, 64])),
        op("attention B 64, 3 heads of 64, N 51", heads([64, 51, 3, 64])),
        op("attention B 32, 3 heads of 32, N 101", heads([32, 101, 3, 32])),
        op("dispatch + combine B 4, 200 x 197, D 768", routed([4, 200, 197, 768], true)),
        op("dispatch + combine unfused B 4, 200 x 197, D 768", routed([4, 200, 197, 768], false)),
        op("dispatch + combine B 64, 52 x 51, D 192", routed([64, 52, 51, 192], true)),
        op("dispatch + combine unfused B 64, 52 x 51, D 192", routed([64, 52, 51, 192], false)),
        op("layer_norm 6304 x 768", |t| {
            let (a, w, b) = (x(t, [1, 6304, 768]), x(t, [1, 768]), x(t, [1, 768]));
            ops::layer_norm(t, a, w, b, 1e-6)
        }),
        op("layer_norm 2 x 1632 x 192", |t| {
            let (a, w, b) = (x(t, [2, 1632, 192]), x(t, [2, 192]), x(t, [2, 192]));
            ops::layer_norm(t, a, w, b, 1e-6)
        }),
        op("rms_norm 6304 x 768", |t| {
            let (a, w) = (x(t, [1, 6304, 768]), x(t, [1, 768]));
            ops::rms_norm(t, a, Some(w), 27.7)
        }),
        op("add 4 Mi", move |t| {
            let (a, b) = (x(t, [width]), x(t, [width]));
            ops::add(t, a, b)
        }),
        prepare("prepare B 32, 10 bands of 120 px", 120, 120),
        prepare("prepare B 32, 10 bands, 120 to 224 px", 120, 224),
        vit_block(),
        tiny_step(32)?,
    ])
}

impl Case {
    /// Builds the forward and backward of the case, inputs filled with small numbers.
    ///
    /// # Errors
    /// Out of memory, a lost device.
    pub fn build(&self, gpu: &Gpu) -> Result<(Program, ParamStore)> {
        let mut t = Tape::new(gpu.target.clone(), self.params.clone());
        if let Some(y) = (self.record)(&mut t)? {
            let seed = t.input("seed", y.shape());
            t.backward_seed(y, seed);
            t.walk_back()?;
        }
        let store = ParamStore::new(gpu, self.params.clone(), true)?;
        store.init(gpu, 1);
        let program = t.compile(gpu, &store)?;
        let mut rng = Rng::new(1, 1);
        for (name, len) in program.inputs() {
            let data: Vec<f32> = (0..len).map(|_| rng.normal() as f32 * 0.1).collect();
            program.write(gpu, name, &data)?;
        }
        if let Some(fill) = &self.fill {
            fill(gpu, &program)?;
        }
        Ok((program, store))
    }
}

/// Seconds of CPU and of wall time that a launch takes: the best of some bursts.
fn time(gpu: &Gpu, program: &Program, launch: usize, burst: f64) -> Result<(f64, f64)> {
    let go = |times: usize| -> Result<(f64, f64)> {
        let (cpu, wall) = (cpu_seconds(), Instant::now());
        program.repeat(gpu, launch..launch + 1, times)?;
        gpu.wait()?;
        Ok(((cpu_seconds() - cpu) / times as f64, wall.elapsed().as_secs_f64() / times as f64))
    };
    let once = go(1)?.1.max(1e-6);
    let times = ((burst / once) as usize).clamp(1, 100);
    let mut best = (f64::MAX, f64::MAX);
    for _ in 0..5 {
        let (cpu, wall) = go(times)?;
        best = (best.0.min(cpu), best.1.min(wall));
    }
    Ok(best)
}

/// The matrix product and the copy that the others are compared with: a shared machine's pace changes by the minute.
struct Ceilings {
    matmul: (Program, ParamStore),
    copy: (Program, ParamStore),
}

impl Ceilings {
    fn new(gpu: &Gpu) -> Result<Self> {
        let build = |name: &str| -> Result<(Program, ParamStore)> {
            let case = cases()?.into_iter().find(|c| c.name == name).context("a ceiling is one of the cases")?;
            let built = case.build(gpu)?;
            built.0.run(gpu)?;
            gpu.wait()?;
            Ok(built)
        };
        Ok(Ceilings { matmul: build(PEAK)?, copy: build(COPY)? })
    }

    /// GFLOP/s and GB/s now, of the fastest launch of each.
    fn measure(&self, gpu: &Gpu) -> Result<(f64, f64)> {
        let best = |program: &Program, work: fn(&Work) -> f64| -> Result<f64> {
            let mut best = 0.0f64;
            for (n, launch) in program.launches().iter().enumerate() {
                let (cpu, wall) = time(gpu, program, n, 0.05)?;
                best = best.max(work(&launch.work) / if gpu.is_software() { cpu } else { wall } * 1e-9);
            }
            Ok(best)
        };
        Ok((best(&self.matmul.0, |w| w.flops)?, best(&self.copy.0, |w| w.bytes)?))
    }
}

/// Launches of one kernel in a case.
#[derive(Default)]
struct Sum {
    launches: usize,
    cpu: f64,
    wall: f64,
    flops: f64,
    bytes: f64,
}

/// Times every case whose name contains `filter`.
///
/// # Errors
/// No such case, out of memory, a lost device.
pub fn run(gpu: &Gpu, filter: &str, mut each: impl FnMut(&Row)) -> Result<Report> {
    let lower = filter.to_lowercase();
    let chosen: Vec<Case> = cases()?.into_iter().filter(|c| c.name.to_lowercase().contains(&lower)).collect();
    if chosen.is_empty() {
        let names: Vec<_> = cases()?.iter().map(|c| c.name).collect();
        bail!("no case is called like '{filter}'; there are: {}", names.join("; "));
    }
    let software = gpu.is_software();
    let ceilings = Ceilings::new(gpu)?;
    let mut before = ceilings.measure(gpu)?;
    let mut report = Report {
        adapter: crate::gpu::describe(&gpu.info),
        lanes: gpu.target.lanes,
        matmul_peak: before.0,
        copy_peak: before.1,
        rows: Vec::new(),
    };
    for case in chosen {
        let (program, _store) = case.build(gpu)?;
        // Compiles and touches everything.
        program.run(gpu)?;
        gpu.wait()?;
        let mut sums: BTreeMap<String, Sum> = BTreeMap::new();
        for (n, launch) in program.launches().iter().enumerate() {
            let (cpu, wall) = time(gpu, &program, n, if program.launches().len() > 50 { 0.005 } else { 0.05 })?;
            let work = launch.work;
            for key in [format!("{}::{}", launch.kernel.file, launch.kernel.entry), "all".to_string()] {
                let sum = sums.entry(key).or_default();
                sum.launches += 1;
                sum.cpu += cpu;
                sum.wall += wall;
                sum.flops += work.flops;
                sum.bytes += work.bytes;
            }
        }
        let after = ceilings.measure(gpu)?;
        let (matmul_peak, copy_peak) = ((before.0 + after.0) / 2.0, (before.1 + after.1) / 2.0);
        report.matmul_peak = report.matmul_peak.max(after.0);
        report.copy_peak = report.copy_peak.max(after.1);
        before = after;
        for (kernel, sum) in sums {
            let Sum { launches, cpu, wall, flops, bytes } = sum;
            let clock = if software { cpu } else { wall };
            let (rate, bandwidth) = (flops / clock * 1e-9, bytes / clock * 1e-9);
            let row = Row {
                case: case.name.to_string(),
                kernel,
                launches,
                ms: wall * 1e3,
                cpu_ms: cpu * 1e3,
                gflop_per_s: flops / wall * 1e-9,
                gflop_per_cpu_s: flops / cpu * 1e-9,
                gb_per_s: bytes / wall * 1e-9,
                gb_per_cpu_s: bytes / cpu * 1e-9,
                of_matmul: 100.0 * rate / matmul_peak,
                of_copy: 100.0 * bandwidth / copy_peak,
            };
            each(&row);
            report.rows.push(row);
        }
    }
    Ok(report)
}

impl std::fmt::Display for Row {
    /// One line of the table.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:48} {:28} {:4} {:9.3} ms {:7.1} GFLOP/s {:6.1} /CPU-s {:4.0} % {:7.2} GB/s {:6.2} /CPU-s {:4.0} %",
            self.case,
            self.kernel,
            self.launches,
            self.ms,
            self.gflop_per_s,
            self.gflop_per_cpu_s,
            self.of_matmul,
            self.gb_per_s,
            self.gb_per_cpu_s,
            self.of_copy,
        )
    }
}
