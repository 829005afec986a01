//! The kernels by criterion: `cargo bench --bench kernels -- matmul`. Times are wall times of one forward and backward;
//! `csmoe::eval::bench` prints work per CPU-second and per cent of the adapter's own ceilings.

use criterion::{Criterion, Throughput};
use csmoe::eval::bench::cases;
use csmoe::gpu::{AdapterChoice, Gpu};
use std::time::Instant;

fn main() -> anyhow::Result<()> {
    let mut criterion = Criterion::default().sample_size(10).configure_from_args();
    let gpu = Gpu::open(&AdapterChoice::from_flag(None))?;
    eprintln!("on {}", csmoe::gpu::describe(&gpu.info));
    let mut group = criterion.benchmark_group("kernels");
    for case in cases()? {
        // Built at the first sample, so that a filter skips the others.
        let mut built = None;
        group.throughput(Throughput::Elements(1));
        group.bench_function(case.name, |bencher| {
            let (program, _store) = built.get_or_insert_with(|| case.build(&gpu).expect("a case that fits"));
            program.run(&gpu).and_then(|()| gpu.wait()).expect("a device");
            bencher.iter_custom(|times| {
                let start = Instant::now();
                program.repeat(&gpu, 0..program.launches().len(), times as usize).expect("a device");
                gpu.wait().expect("a device");
                start.elapsed()
            });
        });
    }
    group.finish();
    criterion.final_summary();
    Ok(())
}
