use crate::harness::{gpu, micro};
use csmoe::data::synth::Synth;
use csmoe::model::Csmoe;
use csmoe::train::{Observer, Pretrain, Record, Report, Settings, Span};
use std::sync::Arc;

/// Device memory after each step.
#[derive(Default)]
struct Memory(Vec<Option<u64>>);

impl Observer for Memory {
    fn planned(&mut self, _: &Report) {}
    fn step(&mut self, _: &Record) {
        self.0.push(gpu().allocated());
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
    let pretrain = Pretrain { gpu: gpu(), model: &model, settings: &settings, source, run: run.path(), resume: false };
    let mut memory = Memory::default();
    pretrain.train(&mut memory).expect("a run");
    let (early, late) = (memory.0[99].expect("counted allocations"), memory.0[999].expect("counted allocations"));
    assert_eq!(early, late);
    assert!(early > model.params.count() as u64 * 16, "{early} bytes hold no weights, gradients and moments");
}
