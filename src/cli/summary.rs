//! `csmoe summary`: parameters, MACs and memory of a model, beside the paper's row.

use super::common::{AdapterArgs, ModelArgs};
use crate::data::DEFAULT_TILE_PX;
use crate::gpu::Target;
use crate::model::Csmoe;
use crate::model::summary::Summary;
use crate::tensor::MemoryPlan;
use crate::train::{self, Settings};
use anyhow::Result;
use serde_json::json;

/// Count a model: parameters, multiply-accumulates, C2C, the memory of a training step
#[derive(Debug, clap::Args)]
pub struct SummaryArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Pairs in a training step whose memory is planned; may be repeated [default: 1, 8, 32]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub batch: Vec<u32>,
    /// Plan for this adapter (index or part of its name) instead of WebGPU's guaranteed limits
    #[arg(long, value_name = "NAME|INDEX")]
    pub adapter: Option<String>,
    /// Print a JSON object
    #[arg(long)]
    pub json: bool,
}

/// Runs the subcommand.
///
/// # Errors
/// An unknown preset, a configuration that does not fit itself, an adapter that is not there.
pub fn run(args: SummaryArgs) -> Result<()> {
    let config = args.model.resolve("csmoe-16")?;
    let target = match args.adapter {
        Some(name) => AdapterArgs { adapter: Some(name) }.open_gpu()?.target,
        None => Target::default(),
    };
    let batches = if args.batch.is_empty() { vec![1, 8, 32] } else { args.batch };
    let summary = Summary::of(&config);
    let model = Csmoe::for_training(config);
    let plan = |batch: &u32| {
        let settings = Settings { batch: *batch as usize, ..Settings::default() };
        let plan = train::plan(&model, &target, &settings, DEFAULT_TILE_PX)?;
        Ok(Planned { batch: settings.batch, plan, ahead: train::ring_bytes(&settings, DEFAULT_TILE_PX) })
    };
    let plans = batches.iter().map(plan).collect::<Result<Vec<_>>>()?;
    // Weights as they lie on the device, alignment included; a gradient and two moments for each.
    let weights = model.params.chunks().iter().sum::<usize>() as u64 * 4;
    match args.json {
        true => print_json(&summary, weights, &target, &plans)?,
        false => print(&summary, weights, &plans),
    }
    Ok(())
}

/// A training step at one batch, and the bytes of the pixels read ahead of it.
struct Planned {
    batch: usize,
    plan: MemoryPlan,
    ahead: u64,
}

impl Planned {
    fn total(&self, weights: u64) -> u64 {
        self.plan.total() + self.ahead + 4 * weights
    }
}

fn print_json(summary: &Summary, weights: u64, target: &Target, plans: &[Planned]) -> Result<()> {
    let mut report = serde_json::to_value(summary)?;
    let memory: Vec<_> = plans
        .iter()
        .map(|p| {
            let plan = &p.plan;
            json!({
                "batch": p.batch, "activations_bytes": plan.total(), "arenas_bytes": plan.arenas,
                "inputs_outputs_constants_bytes": plan.fixed, "unshared_bytes": plan.unshared,
                "read_ahead_bytes": p.ahead, "total_bytes": p.total(weights), "launches": plan.launches,
            })
        })
        .collect();
    report["weights_bytes"] = weights.into();
    report["gradients_bytes"] = weights.into();
    report["moments_bytes"] = (2 * weights).into();
    report["memory"] = memory.into();
    report["target"] = serde_json::to_value(target)?;
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(())
}

fn print(s: &Summary, weights: u64, plans: &[Planned]) {
    let m = |n: usize| format!("{:.2} M", n as f64 / 1e6);
    let g = |n: u64| format!("{:.2} G", n as f64 / 1e9);
    let mib = |n: u64| format!("{:.1} MiB", n as f64 / (1 << 20) as f64);
    let line = |name: &str, exact: String, short: String, paper: Option<String>| {
        println!("{name:<34} {exact:>15} {short:>11}   {}", paper.unwrap_or_default());
    };
    let slots = match s.slots_per_expert {
        0 => String::new(),
        p => format!(", {p} slots per expert"),
    };
    println!("{}: {} tokens{slots}", s.preset, s.tokens);
    line("", String::new(), String::new(), s.paper.map(|_| "paper".to_string()));
    let (params, macs) = (s.params_s2_path, s.macs_paper_s2_path);
    let paper = s.paper.map(|p| format!("{} M", p.params_m));
    line("parameters, S2 path", params.to_string(), m(params), paper);
    if s.params_s2_path != s.params_s2_path_trainable {
        line("  of them trained", s.params_s2_path_trainable.to_string(), m(s.params_s2_path_trainable), None);
    }
    line("parameters, S1 path", s.params_s1_path.to_string(), m(s.params_s1_path), None);
    line("parameters, encoder of both", s.params_encoder.to_string(), m(s.params_encoder), None);
    line("parameters, with decoders", s.params_total.to_string(), m(s.params_total), None);
    let paper = s.paper.map(|p| format!("{:.2} G", p.macs_g));
    line("MACs, S2 path, paper's convention", macs.to_string(), g(macs), paper);
    line("MACs, S2 path, with QK^T and AV", s.macs_full_s2_path.to_string(), g(s.macs_full_s2_path), None);
    line("C2C, M parameters / G MACs", String::new(), format!("{:.2}", s.c2c), s.paper.map(|p| p.c2c.to_string()));
    println!("\ntraining: weights {}, gradients as much, moments twice as much", mib(weights));
    let head = ["batch", "activations", "arenas", "pixels ahead", "all", "launches"];
    let row = |[batch, activations, arenas, ahead, all, launches]: [String; 6]| {
        println!("{batch:>7} {activations:>16} {arenas:>9} {ahead:>16} {all:>16} {launches:>10}");
    };
    row(head.map(String::from));
    for p in plans {
        let (arenas, launches) = (p.plan.arenas.len().to_string(), p.plan.launches.to_string());
        row([p.batch.to_string(), mib(p.plan.total()), arenas, mib(p.ahead), mib(p.total(weights)), launches]);
    }
}
