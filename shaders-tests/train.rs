use crate::harness::micro;
use csmoe::data::synth::Synth;
use csmoe::gpu::{AdapterChoice, Gpu};
use csmoe::model::Csmoe;
use csmoe::train::{Observer, Pretrain, Record, Report, Settings, Span};
use std::sync::Arc;

/// Device memory after each step.
struct Memory<'a>(&'a Gpu, Vec<u64>);

impl Observer for Memory<'_> {
    fn planned(&mut self, _: &Report) {}
    fn step(&mut self, _: &Record) {
        self.1.push(self.0.allocated().expect("counted allocations"));
    }
    fn warn(&mut self, message: String) {
        panic!("{message}");
    }
    fn stop(&mut self) -> bool {
        false
    }
}

#[test]
fn memory_is_the_same_at_step_100_and_1000() {
    let run = tempfile::tempdir().expect("a folder");
    let model = Csmoe::for_training(micro());
    let settings = Settings {
        batch: 2,
        span: Span::Steps(1000),
        validate_every: 250,
        checkpoint_every: 400,
        warmup_epochs: 0.0,
        ..Settings::default()
    };
    let source = Arc::new(Synth::new(40, 3, 24));
    // A device of its own: others allocate on the shared one.
    let gpu = &Gpu::open(&AdapterChoice::from_flag(None)).expect("an adapter");
    let pretrain = Pretrain { gpu, model: &model, settings: &settings, source, run: run.path(), resume: false };
    let mut memory = Memory(gpu, Vec::new());
    pretrain.train(&mut memory).expect("a run");
    let early = memory.1[99];
    assert_eq!(early, memory.1[999]);
    assert!(early > model.params.count() as u64 * 16, "{early} bytes hold no weights, gradients and moments");
}
