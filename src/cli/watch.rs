//! What a training run shows while it lasts.

use crate::train::{Observer, Record, Report};
use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The progress bar, the first and last losses, and Ctrl-C.
pub struct Watch {
    pub bar: ProgressBar,
    parameters: usize,
    stop: Arc<AtomicBool>,
    /// Means over the first and the last steps, by name.
    pub first: Vec<(String, f64)>,
    pub last: Vec<(String, f64)>,
    /// Pairs a second and the GPU's share, means of all steps but the first, which compiles.
    pub speed: [f64; 2],
    seen: u64,
}

/// Steps that a reported first or last loss is the mean of, at most; short runs take a quarter.
const WINDOW: u64 = 10;

impl Watch {
    pub fn new(parameters: usize) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let flag = stop.clone();
        ctrlc::set_handler(move || {
            if flag.swap(true, Ordering::SeqCst) {
                std::process::exit(130);
            }
            eprintln!("\ncsmoe: finishing this step and writing a checkpoint; once more to stop at once");
        })?;
        let style = ProgressStyle::with_template("{bar:24} {pos}/{len}  {msg}  {eta} left")?;
        Ok(Watch {
            bar: ProgressBar::new(0).with_style(style),
            parameters,
            stop,
            first: Vec::new(),
            last: Vec::new(),
            speed: [0.0; 2],
            seen: 0,
        })
    }

    pub fn print(&self) {
        for ((name, first), (_, last)) in self.first.iter().zip(&self.last) {
            println!("{name:<14} {first:>9.4} -> {last:>9.4}");
        }
    }
}

impl Observer for Watch {
    fn planned(&mut self, r: &Report) {
        let mib = |b: u64| b as f64 / (1 << 20) as f64;
        let f = r.footprint;
        eprintln!(
            "csmoe: {:.1} M parameters; GPU memory {:.0} MiB: weights, gradients and moments {:.0}, activations {:.0}, validation {:.0}, pixels read ahead {:.0}; {} launches a step",
            self.parameters as f64 / 1e6,
            mib(f.total()),
            mib(f.parameters),
            mib(f.activations),
            mib(f.beside),
            mib(f.ahead),
            f.launches,
        );
        eprintln!(
            "csmoe: {} pairs to train on, {} to validate; {} steps of an epoch, {} in all{}",
            r.train_pairs,
            r.validation_pairs,
            r.steps_per_epoch,
            r.total_steps,
            if r.done > 0 { format!("; resuming after step {}", r.done) } else { String::new() },
        );
        self.bar.set_length(r.total_steps);
        self.bar.set_position(r.done);
        self.bar.reset_eta();
    }

    fn step(&mut self, record: &Record) {
        let numbers: Vec<(String, f64)> =
            record.numbers().into_iter().filter(|(n, _)| n.starts_with("loss.")).collect();
        self.seen += 1;
        let steps = self.seen.saturating_sub(1).max(1) as f64;
        let now = [record.pairs_per_s, record.gpu_share];
        self.speed.iter_mut().zip(now).for_each(|(mean, x)| *mean += (x - *mean) / steps);
        if self.seen == 1 {
            self.first = numbers.clone();
            self.last = numbers.clone();
        } else {
            let mean = |all: &mut Vec<(String, f64)>, weight: f64| {
                all.iter_mut().zip(&numbers).for_each(|(a, b)| a.1 += (b.1 - a.1) * weight);
            };
            let window = (self.bar.length().unwrap_or(0) / 4).clamp(1, WINDOW);
            if self.seen <= window {
                mean(&mut self.first, 1.0 / self.seen as f64);
            }
            mean(&mut self.last, (1.0 / self.seen as f64).max(1.0 / window as f64));
        }
        let [umr1, umr2, cmr1, cmr2, mi, ..] = record.terms.0;
        self.bar.set_message(format!(
            "loss {:.4} (s1<-s1 {umr1:.3} s2<-s2 {umr2:.3} s1<-s2 {cmr1:.3} s2<-s1 {cmr2:.3} mi {mi:.3})  {:.1} pairs/s",
            record.terms.total(),
            record.pairs_per_s,
        ));
        self.bar.set_position(record.step);
        if let Some(v) = &record.validation
            && !self.bar.is_hidden()
        {
            self.bar.println(format!("step {}: validation loss {:.4}", record.step, v.total()));
        }
    }

    fn warn(&mut self, message: String) {
        eprintln!("csmoe: {message}");
    }

    fn stop(&mut self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}
