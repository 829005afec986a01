//! `csmoe devices`: the adapters of this machine.

use super::common::say_software;
use crate::gpu::{AdapterReport, GpuError, reports};
use anyhow::Result;

/// List the adapters: limits, features, and what kernels are chosen by
#[derive(Debug, clap::Args)]
pub struct DevicesArgs {
    /// Print a JSON object
    #[arg(long)]
    pub json: bool,
}

/// Runs the subcommand.
///
/// # Errors
/// [`GpuError::NoAdapter`] (exit code 3) after an empty list.
pub fn run(args: DevicesArgs) -> Result<()> {
    let adapters = reports();
    if args.json {
        println!("{}", serde_json::to_string_pretty(&serde_json::json!({ "adapters": adapters }))?);
    } else {
        adapters.iter().try_for_each(print)?;
    }
    match adapters.first() {
        None => return Err(GpuError::NoAdapter.into()),
        Some(best) if best.software => say_software(&best.line),
        Some(_) => {}
    }
    Ok(())
}

fn print(a: &AdapterReport) -> Result<()> {
    let (l, f) = (&a.limits, &a.features);
    let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
    let yes = |b: bool| if b { "yes" } else { "no" };
    println!("{}: {}{}", a.index, a.name, if a.chosen { "  (chosen)" } else { "" });
    println!("   {} by {}, {}", a.kind, a.backend, a.driver);
    println!(
        "   buffers of {}, bindings of {}, {} a kernel, aligned to {} bytes",
        mib(l.max_buffer_size),
        mib(l.max_storage_buffer_binding_size),
        l.max_storage_buffers_per_shader_stage,
        l.min_storage_buffer_offset_alignment
    );
    println!(
        "   workgroups of {} invocations with {} KiB, {} a dimension",
        l.max_compute_invocations_per_workgroup,
        l.max_compute_workgroup_storage_size >> 10,
        l.max_compute_workgroups_per_dimension
    );
    let [least, most] = f.subgroup_sizes;
    println!(
        "   f16 {}, subgroups {} ({least} to {most}), timestamps {}, pipeline cache {}",
        yes(f.f16),
        yes(f.subgroups),
        yes(f.timestamps),
        yes(f.pipeline_cache)
    );
    let matrices: Vec<String> =
        f.cooperative_matrices.iter().map(|p| format!("{}x{}x{} {} into {}", p.m, p.n, p.k, p.ab, p.c)).collect();
    println!("   cooperative matrices: {}", if matrices.is_empty() { "none".into() } else { matrices.join(", ") });
    println!("   target: {}", serde_json::to_string(&a.target)?);
    Ok(())
}
