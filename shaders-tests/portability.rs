//! Every kernel compiles for every platform, run or not: naga writes SPIR-V, MSL, HLSL and GLSL, Tint parses.

use csmoe::gpu::{Kernel, all_sources, source};
use naga::back::{glsl, hlsl, msl, spv};
use naga::valid::{Capabilities, ValidationFlags, Validator};
use std::process::Command;

/// Rows and columns of register blocks the ops use.
const BLOCKS: [[u32; 2]; 5] = [[1, 4], [16, 4], [32, 4], [16, 2], [32, 3]];

#[test]
fn naga_writes_every_language() {
    for (name, [rows, columns]) in all_sources().flat_map(|n| BLOCKS.map(|b| (n, b))) {
        let text = source(Kernel::new(name, "").rows(rows).columns(columns));
        let module =
            naga::front::wgsl::parse_str(&text).unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(&text)));
        let info = Validator::new(ValidationFlags::all(), Capabilities::all())
            .validate(&module)
            .unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(&text)));
        for entry in &module.entry_points {
            let what = format!("{name}::{} with {rows} x {columns}", entry.name);
            let constants = naga::back::PipelineConstants::default();
            let (module, info) = naga::back::pipeline_constants::process_overrides(
                &module,
                &info,
                Some((entry.stage, &entry.name)),
                &constants,
            )
            .unwrap_or_else(|e| panic!("{what}: {e}"));
            let at = spv::PipelineOptions { shader_stage: entry.stage, entry_point: entry.name.clone() };
            let words = spv::write_vec(&module, &info, &spv::Options::default(), Some(&at))
                .unwrap_or_else(|e| panic!("{what} to SPIR-V: {e}"));
            assert!(words.len() > 20, "{what}");
            let options = msl::Options { lang_version: (2, 4), fake_missing_bindings: true, ..Default::default() };
            let pipeline =
                msl::PipelineOptions { entry_point: Some((entry.stage, entry.name.clone())), ..Default::default() };
            let (metal, _) =
                msl::write_string(&module, &info, &options, &pipeline).unwrap_or_else(|e| panic!("{what} to MSL: {e}"));
            assert!(metal.contains("kernel void"), "{what}");
            let mut direct = String::new();
            let options = hlsl::Options {
                shader_model: hlsl::ShaderModel::V6_2,
                fake_missing_bindings: true,
                ..Default::default()
            };
            let pipeline = hlsl::PipelineOptions { entry_point: Some((entry.stage, entry.name.clone())) };
            hlsl::Writer::new(&mut direct, &options, &pipeline)
                .write(&module, &info, None)
                .unwrap_or_else(|e| panic!("{what} to HLSL: {e}"));
            assert!(direct.contains("numthreads"), "{what}");
            let mut open = String::new();
            let options = glsl::Options { version: glsl::Version::Desktop(450), ..Default::default() };
            let pipeline =
                glsl::PipelineOptions { shader_stage: entry.stage, entry_point: entry.name.clone(), multiview: None };
            glsl::Writer::new(
                &mut open,
                &module,
                &info,
                &options,
                &pipeline,
                naga::proc::BoundsCheckPolicies::default(),
            )
            .and_then(|mut w| w.write())
            .unwrap_or_else(|e| panic!("{what} to GLSL: {e}"));
            assert!(open.contains("local_size_x"), "{what}");
        }
    }
}

#[test]
fn tint_accepts_every_kernel() {
    if Command::new("tint").arg("--help").output().is_err() {
        println!("skipped: the program 'tint' is not here, so only naga has seen the kernels");
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, [rows, columns]) in all_sources().flat_map(|n| BLOCKS.map(|b| (n, b))) {
        let file = folder.path().join(format!("{name}-{rows}-{columns}.wgsl"));
        let mut text = source(Kernel::new(name, "").rows(rows).columns(columns));
        if text.contains("subgroup") {
            text = format!("enable subgroups;\n{text}");
        }
        std::fs::write(&file, text).expect("a writable folder");
        let run = Command::new("tint")
            .args(["--format", "wgsl", "-o"])
            .arg(folder.path().join("out.wgsl"))
            .arg(&file)
            .output();
        let run = run.expect("tint runs");
        assert!(run.status.success(), "{name} with {rows} x {columns}: {}", String::from_utf8_lossy(&run.stderr));
    }
}
