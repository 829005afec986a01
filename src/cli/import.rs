//! `csmoe import`: weights of CSMAE or of a vision transformer under this model's names.

use super::common::ModelArgs;
use crate::data::Sensor;
use crate::data::export::write_atomic;
use crate::model::import::{Format, Imported, Options, Report, import};
use crate::model::weights;
use anyhow::{Context, Result, bail};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Import weights of CSMAE or of a timm/MAE vision transformer (safetensors)
#[derive(Debug, clap::Args)]
pub struct ImportArgs {
    /// Safetensors file with the names of CSMAE's, timm's or MAE's code
    #[arg(long, value_name = "FILE")]
    pub from: PathBuf,
    /// Folder to write: model.safetensors and config.json
    #[arg(long, value_name = "RUN")]
    pub out: PathBuf,
    /// Whose names the file has
    #[arg(long, value_parser = ["csmae", "timm", "auto"], default_value = "auto")]
    pub format: String,
    /// Whose weights those of a timm or MAE file become
    #[arg(long, value_parser = ["s1", "s2"], default_value = "s2")]
    pub sensor: String,
    #[command(flatten)]
    pub model: ModelArgs,
    /// Copy a dense perceptron into every expert of the Soft MoE in its place
    #[arg(long)]
    pub upcycle: bool,
    /// Seed of the tensors the file does not give
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
    /// Print a JSON object instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Runs the subcommand.
///
/// # Errors
/// A file that is not safetensors, names of another kind, nothing that fits, a folder that cannot be written.
pub fn run(args: ImportArgs) -> Result<()> {
    refuse_pickle(&args.from)?;
    let file = weights::read(&args.from)?;
    let named = || format!("{} cannot be imported", args.from.display());
    let format = match args.format.as_str() {
        "csmae" => Format::Csmae,
        "timm" => Format::Timm,
        _ => Format::detect(&file).with_context(named)?,
    };
    let config = match (format, &args.model.preset) {
        (Format::Timm, None) => bail!("a vision transformer fits more than one model: say which by --preset"),
        _ => args.model.resolve("csmae")?,
    };
    let sensor: Sensor = args.sensor.parse()?;
    let options = Options { format, sensor, upcycle: args.upcycle, seed: args.seed };
    let Imported { weights, report } = import(&config, &file, options).with_context(named)?;

    let text = serde_json::to_string_pretty(&config)?;
    write_atomic(&args.out.join("config.json"), |f| f.write_all(text.as_bytes()))?;
    let tensors = weights.iter().map(|(name, (shape, values))| (name.as_str(), &shape[..], &values[..]));
    weights::write(&args.out.join("model.safetensors"), tensors)?;
    match args.json {
        true => println!("{}", serde_json::to_string_pretty(&report)?),
        false => print(&report, &args.out),
    }
    Ok(())
}

/// PyTorch's own files hold programs as much as numbers; they are not opened here.
fn refuse_pickle(file: &Path) -> Result<()> {
    let mut start = [0u8; 4];
    let mut open = std::fs::File::open(file).with_context(|| format!("{} cannot be read", file.display()))?;
    let read = open.read(&mut start).with_context(|| format!("{} cannot be read", file.display()))?;
    let ending = file.extension().is_some_and(|e| ["ckpt", "pth", "pt", "bin"].iter().any(|p| e == *p));
    // A zip archive or a bare pickle.
    let pickled = read >= 2 && (start.starts_with(b"PK") || (start[0] == 0x80 && (2..=5).contains(&start[1])));
    if ending || pickled {
        let (from, to) = (file.display(), file.with_extension("safetensors"));
        let to = to.display();
        bail!(
            "{from} is a PyTorch pickle, not safetensors; where PyTorch is (and if you trust the file): python -c \"import torch, \
             safetensors.torch as s; d = torch.load('{from}', map_location='cpu', weights_only=False); \
             d = d.get('state_dict', d.get('model', d)); \
             s.save_file({{k: v.clone().contiguous() for k, v in d.items() if hasattr(v, 'shape')}}, '{to}')\""
        );
    }
    Ok(())
}

fn print(report: &Report, out: &Path) {
    let section = |title: &str, lines: Vec<String>| {
        println!("{title}: {}", lines.len());
        lines.iter().for_each(|l| println!("  {l}"));
    };
    let to = |names: &[String]| match names {
        [one] => one.clone(),
        [first, .., last] => format!("{first} ... {last} ({})", names.len()),
        [] => String::new(),
    };
    section("matched", report.matched.iter().map(|m| format!("{} -> {} {:?}", m.from, to(&m.to), m.shape)).collect());
    let change = |c: &crate::model::import::Change| {
        format!("{} {:?} -> {} {:?}: {}", c.from, c.from_shape, c.to, c.to_shape, c.how)
    };
    section("of them reshaped or reordered", report.reshaped.iter().map(change).collect());
    section("missing, started at random", report.missing.clone());
    let left = report.left_over.iter().map(|l| format!("{} {:?}: {}", l.name, l.shape, l.why)).collect();
    section("left over", left);
    println!(
        "{} of {} parameters imported; {} and config.json written",
        report.params_imported,
        report.params,
        out.join("model.safetensors").display()
    );
}
