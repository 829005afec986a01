//! A program: the launches of a tape with memory planned by lifetime, pipelines built and bindings made once.
//! Replaying it is one encoder, one pass, one submit.

use super::tape::{External, Place};
use super::{Arg, Launch, ParamStore, Tape, Work};
use crate::gpu::{
    Binding, Gpu, GpuError, Pipeline, Staging, download, new_buffer, read_staging, staging_buffer, upload,
};
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// Where the bytes of a program go; known before anything is allocated.
#[derive(Clone, Debug, Default, Serialize)]
pub struct MemoryPlan {
    /// Sizes in bytes of the buffers that values share over time.
    pub arenas: Vec<u64>,
    /// Inputs, outputs and constants.
    pub fixed: u64,
    /// What the values would take if none shared.
    pub unshared: u64,
    pub launches: usize,
}

impl MemoryPlan {
    /// All bytes the program allocates, parameters excluded.
    pub fn total(&self) -> u64 {
        self.arenas.iter().sum::<u64>() + self.fixed
    }
}

/// A share of a program's time.
#[derive(Clone, Debug, Serialize)]
pub struct Timing {
    pub kernel: String,
    pub scope: String,
    pub nanoseconds: f64,
    pub flops: f64,
    pub bytes: f64,
}

struct Step {
    pipeline: Arc<Pipeline>,
    bind_group: wgpu::BindGroup,
    grid: [u32; 3],
}

/// A compiled tape.
pub struct Program {
    steps: Vec<Step>,
    launches: Vec<Launch>,
    inputs: BTreeMap<String, (wgpu::Buffer, usize)>,
    outputs: BTreeMap<String, (wgpu::Buffer, usize)>,
    /// The next run, recorded while the GPU was at work on the last.
    ahead: Mutex<Option<wgpu::CommandBuffer>>,
    pub plan: MemoryPlan,
}

/// For every value that is planned, the arena it lives in.
struct Layout {
    arena_of: Vec<Option<usize>>,
    plan: MemoryPlan,
}

impl Tape {
    /// Assigns values to arenas so that two that live at once never share one. Greedy in program order: the
    /// smallest free arena that fits, else the largest free one grown, else a new one.
    fn layout(&self) -> Layout {
        let mut last = vec![usize::MAX; self.values.len()];
        for (n, launch) in self.launches.iter().enumerate() {
            for arg in &launch.args {
                last[self.resolve(arg.id).0] = n;
            }
        }
        let mut arena_of = vec![None; self.values.len()];
        let mut arenas: Vec<u64> = Vec::new();
        let mut free: Vec<usize> = Vec::new();
        let mut plan = MemoryPlan { launches: self.launches.len(), ..Default::default() };
        for (n, launch) in self.launches.iter().enumerate() {
            let roots: Vec<usize> = launch.args.iter().map(|a| self.resolve(a.id).0).collect();
            for &root in &roots {
                if !matches!(self.values[root].place, Place::Planned) || arena_of[root].is_some() {
                    continue;
                }
                let need = (self.values[root].elems as u64 * 4).next_multiple_of(256);
                plan.unshared += need;
                let fits = |a: &&usize| arenas[**a] >= need;
                let best = free.iter().filter(fits).min_by_key(|a| arenas[**a]);
                let chosen = match best.or_else(|| free.iter().max_by_key(|a| arenas[**a])).copied() {
                    Some(arena) => {
                        free.retain(|a| *a != arena);
                        arenas[arena] = arenas[arena].max(need);
                        arena
                    }
                    None => {
                        arenas.push(need);
                        arenas.len() - 1
                    }
                };
                arena_of[root] = Some(chosen);
            }
            for &root in &roots {
                if let Some(arena) = arena_of[root].filter(|a| last[root] == n && !free.contains(a)) {
                    free.push(arena);
                }
            }
        }
        for value in &self.values {
            if matches!(value.place, Place::Input(_) | Place::Output(_) | Place::Constant(_)) {
                plan.fixed += (value.elems as u64 * 4).max(16);
            }
        }
        plan.arenas = arenas;
        Layout { arena_of, plan }
    }

    /// The memory the program would take, without building it.
    pub fn plan(&self) -> MemoryPlan {
        self.layout().plan
    }

    /// Bytes of the largest binding.
    pub fn largest_binding(&self) -> u64 {
        self.launches.iter().flat_map(|l| &l.args).map(|a| a.len as u64 * 4).max().unwrap_or(0)
    }

    /// Sum of the launches' counted arithmetic.
    pub fn work(&self) -> Work {
        self.launches
            .iter()
            .fold(Work::default(), |sum, l| Work { flops: sum.flops + l.work.flops, bytes: sum.bytes + l.work.bytes })
    }

    /// Builds the program: allocates, compiles, binds.
    ///
    /// # Errors
    /// Out of memory, a binding over the adapter's limit (naming the value), a kernel the driver refuses.
    pub fn compile(self, gpu: &Gpu, store: &ParamStore) -> Result<Program> {
        let Layout { arena_of, plan } = self.layout();
        let mut arenas = Vec::new();
        for (n, bytes) in plan.arenas.iter().enumerate() {
            arenas.push(new_buffer(gpu, &format!("activations (arena {n} of {})", plan.arenas.len()), *bytes)?);
        }
        let mut own: BTreeMap<usize, wgpu::Buffer> = BTreeMap::new();
        let mut inputs = BTreeMap::new();
        let mut outputs = BTreeMap::new();
        for (id, value) in self.values.iter().enumerate() {
            let bytes = value.elems as u64 * 4;
            match &value.place {
                Place::Input(name) | Place::Output(name) => {
                    let buffer = new_buffer(gpu, name, bytes)?;
                    let table = if matches!(value.place, Place::Input(_)) { &mut inputs } else { &mut outputs };
                    if table.insert(name.clone(), (buffer.clone(), value.elems)).is_some() {
                        bail!("two values of one program are called '{name}'");
                    }
                    own.insert(id, buffer);
                }
                Place::Constant(data) => {
                    let buffer = new_buffer(gpu, "a constant", bytes)?;
                    upload(gpu, &buffer, 0, data);
                    own.insert(id, buffer);
                }
                _ => {}
            }
        }
        // The buffer and byte offset of an argument.
        let locate = |arg: &Arg| -> Result<(wgpu::Buffer, u64)> {
            let (root, offset) = self.resolve(arg.id);
            let at = (offset + arg.offset) as u64 * 4;
            Ok(match &self.values[root].place {
                Place::External(External::Param(kind, id)) => {
                    let (chunk, start, _) = self.params.place(*id);
                    (store.buffer(*kind, chunk)?.clone(), start as u64 * 4 + at)
                }
                Place::External(External::Chunk { kind, chunk, offset, .. }) => {
                    (store.buffer(*kind, *chunk)?.clone(), *offset as u64 * 4 + at)
                }
                Place::Planned => (arenas[arena_of[root].context("a value no launch writes")?].clone(), at),
                _ => (own[&root].clone(), at),
            })
        };
        let words = self.words_buffer(gpu)?;
        let stride = words_stride(gpu);
        let mut steps = Vec::new();
        for (n, launch) in self.launches.iter().enumerate() {
            let what = || format!("{} {}::{}", launch.scope, launch.kernel.file, launch.kernel.entry);
            let pipeline = gpu.pipeline(launch.kernel, &launch.constants)?;
            if pipeline.bindings.len() != launch.args.len() + 1 {
                bail!("{}: {} arguments for {} bindings", what(), launch.args.len(), pipeline.bindings.len() - 1);
            }
            let places = launch.args.iter().map(locate).collect::<Result<Vec<_>>>().with_context(what)?;
            let mut entries = vec![wgpu::BindGroupEntry {
                binding: 0,
                resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer: &words,
                    offset: n as u64 * stride,
                    size: std::num::NonZero::new(stride),
                }),
            }];
            for (i, ((buffer, offset), arg)) in places.iter().zip(&launch.args).enumerate() {
                let bytes = arg.len as u64 * 4;
                if bytes > gpu.target.max_binding {
                    let limit = gpu.target.max_binding;
                    let name = &self.values[arg.id].name;
                    return Err(GpuError::BindingTooLarge { what: format!("{} ({name})", what()), bytes, limit }.into());
                }
                if offset % gpu.target.align != 0 {
                    bail!(
                        "{}: argument {} starts at byte {offset}, not a multiple of {}",
                        what(),
                        i + 1,
                        gpu.target.align
                    );
                }
                for (other, (b, _)) in places.iter().enumerate().take(i) {
                    let (kind, kind_other) = (pipeline.bindings[i + 1], pipeline.bindings[other + 1]);
                    if b == buffer && kind != kind_other {
                        bail!(
                            "{}: arguments {} and {} share a buffer, one to read and one to write",
                            what(),
                            other + 1,
                            i + 1
                        );
                    }
                }
                // Whole vec4s: kernels may see the last partial one, inside the buffer's padding.
                let size = bytes.next_multiple_of(16).min(buffer.size() - offset);
                entries.push(wgpu::BindGroupEntry {
                    binding: i as u32 + 1,
                    resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                        buffer,
                        offset: *offset,
                        size: std::num::NonZero::new(size),
                    }),
                });
            }
            let scope = gpu.device.push_error_scope(wgpu::ErrorFilter::Validation);
            let bind_group = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some(launch.kernel.entry),
                layout: &pipeline.layout,
                entries: &entries,
            });
            if let Some(e) = pollster::block_on(scope.pop()) {
                return Err(GpuError::Validation { what: what(), message: e.to_string() }.into());
            }
            steps.push(Step { pipeline, bind_group, grid: launch.grid });
        }
        gpu.save_pipelines();
        Ok(Program { steps, launches: self.launches, inputs, outputs, ahead: Mutex::default(), plan })
    }

    /// Every launch's uniform words in one buffer, each at its own aligned offset.
    fn words_buffer(&self, gpu: &Gpu) -> Result<wgpu::Buffer> {
        let stride = words_stride(gpu) as usize;
        let mut bytes = vec![0u8; stride * self.launches.len().max(1)];
        for (launch, room) in self.launches.iter().zip(bytes.chunks_mut(stride)) {
            let data: &[u8] = bytemuck::cast_slice(&launch.words);
            if data.len() > stride {
                bail!("{}: {} words are more than {stride} bytes", launch.kernel.entry, launch.words.len());
            }
            room[..data.len()].copy_from_slice(data);
        }
        let buffer = gpu.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("launch parameters"),
            size: bytes.len() as u64,
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        upload(gpu, &buffer, 0, &bytes);
        Ok(buffer)
    }
}

fn words_stride(gpu: &Gpu) -> u64 {
    u64::from(gpu.limits.min_uniform_buffer_offset_alignment.max(256))
}

/// All of them in one pass.
fn record<'a>(encoder: &mut wgpu::CommandEncoder, steps: impl IntoIterator<Item = &'a Step>) {
    let mut pass = encoder.begin_compute_pass(&Default::default());
    for step in steps {
        pass.set_pipeline(&step.pipeline.raw);
        pass.set_bind_group(0, &step.bind_group, &[]);
        pass.dispatch_workgroups(step.grid[0], step.grid[1], step.grid[2]);
    }
}

/// One run of a program.
pub struct Ran {
    /// Those asked for, in that order.
    pub outputs: Vec<Vec<f32>>,
    /// From the submission to the last output: the GPU's share of a step.
    pub seconds: f64,
}

impl Program {
    /// Queues a write of an input for the next run.
    ///
    /// # Errors
    /// An unknown name or a wrong length.
    pub fn write<T: bytemuck::Pod>(&self, gpu: &Gpu, name: &str, data: &[T]) -> Result<()> {
        upload(gpu, self.input(name, size_of_val(data))?, 0, data);
        Ok(())
    }

    fn input(&self, name: &str, bytes: usize) -> Result<&wgpu::Buffer> {
        let (buffer, elems) = self.inputs.get(name).with_context(|| format!("the program has no input '{name}'"))?;
        if bytes != elems * 4 {
            bail!("input '{name}' has {elems} elements and was given {bytes} bytes");
        }
        Ok(buffer)
    }

    /// Names and lengths of the inputs.
    pub fn inputs(&self) -> impl Iterator<Item = (&str, usize)> {
        self.inputs.iter().map(|(name, (_, elems))| (name.as_str(), *elems))
    }

    /// Whether the program has an input of this name.
    pub fn has_input(&self, name: &str) -> bool {
        self.inputs.contains_key(name)
    }

    /// Submits one run. Does not wait.
    ///
    /// # Errors
    /// A lost device.
    pub fn run(&self, gpu: &Gpu) -> Result<(), GpuError> {
        gpu.check()?;
        gpu.queue.submit([self.recorded(gpu)]);
        Ok(())
    }

    fn recorded(&self, gpu: &Gpu) -> wgpu::CommandBuffer {
        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        record(&mut encoder, &self.steps);
        encoder.finish()
    }

    /// Submits some launches, `times` over, alone: what a benchmark times. Does not wait.
    ///
    /// # Errors
    /// A lost device.
    pub fn repeat(&self, gpu: &Gpu, launches: std::ops::Range<usize>, times: usize) -> Result<(), GpuError> {
        gpu.check()?;
        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        let steps = &self.steps[launches];
        record(&mut encoder, (0..times).flat_map(|_| steps));
        gpu.queue.submit([encoder.finish()]);
        Ok(())
    }

    /// Runs once and reads outputs back with the same submit; blocks until they are here.
    ///
    /// # Errors
    /// An unknown name, a lost device.
    pub fn run_and_read(&self, gpu: &Gpu, names: &[&str]) -> Result<Ran> {
        self.run_staged(gpu, &mut [], names)
    }

    /// The same, with some inputs copied from staging memory by that submit; it can be filled again after.
    ///
    /// # Errors
    /// An unknown name, a wrong length, a lost device.
    pub fn run_staged(&self, gpu: &Gpu, inputs: &mut [(&str, &mut Staging)], names: &[&str]) -> Result<Ran> {
        gpu.check()?;
        let mut before = gpu.device.create_command_encoder(&Default::default());
        let targets = inputs.iter().map(|(name, staged)| self.input(name, staged.len() * 4));
        let targets = targets.collect::<Result<Vec<_>>>()?;
        let outputs = names.iter().map(|n| self.output(n)).collect::<Result<Vec<_>>>()?;
        inputs.iter_mut().zip(targets).for_each(|((_, staged), target)| staged.copy_to(&mut before, target));
        let steps = self.ahead.lock().expect("no panic holds this lock").take();
        let steps = steps.unwrap_or_else(|| self.recorded(gpu));
        let bytes: u64 = outputs.iter().map(|(_, elems)| *elems as u64 * 4).sum();
        let staging = staging_buffer(gpu, bytes);
        let mut after = gpu.device.create_command_encoder(&Default::default());
        let mut at = 0;
        for (buffer, elems) in &outputs {
            after.copy_buffer_to_buffer(buffer, 0, &staging, at, *elems as u64 * 4);
            at += *elems as u64 * 4;
        }
        let commands = [before.finish(), steps, after.finish()];
        let began = Instant::now();
        gpu.queue.submit(commands);
        inputs.iter().for_each(|(_, staged)| staged.map());
        if gpu.check().is_ok() {
            *self.ahead.lock().expect("no panic holds this lock") = Some(self.recorded(gpu));
        }
        let all: Vec<f32> = read_staging(gpu, &staging, bytes)?;
        let seconds = began.elapsed().as_secs_f64();
        inputs.iter_mut().try_for_each(|(_, staged)| staged.open())?;
        let mut rest = &all[..];
        let mut take = |elems: usize| rest.split_off(..elems).unwrap_or_default().to_vec();
        Ok(Ran { outputs: outputs.iter().map(|(_, elems)| take(*elems)).collect(), seconds })
    }

    fn output(&self, name: &str) -> Result<&(wgpu::Buffer, usize)> {
        self.outputs.get(name).with_context(|| format!("the program has no output '{name}'"))
    }

    /// Reads an output back; blocks until the queue is done.
    ///
    /// # Errors
    /// An unknown name, a lost device.
    pub fn read<T: bytemuck::Pod>(&self, gpu: &Gpu, name: &str) -> Result<Vec<T>> {
        let (buffer, elems) = self.output(name)?;
        Ok(download(gpu, buffer, 0, *elems)?)
    }

    pub fn output_names(&self) -> impl Iterator<Item = &str> {
        self.outputs.keys().map(String::as_str)
    }

    pub fn launches(&self) -> &[Launch] {
        &self.launches
    }

    /// Runs once with a pass per launch and GPU timestamps around each.
    ///
    /// # Errors
    /// An adapter without timestamps, a lost device.
    pub fn profile(&self, gpu: &Gpu) -> Result<Vec<Timing>> {
        if !gpu.features.contains(wgpu::Features::TIMESTAMP_QUERY) {
            bail!("adapter '{}' has no timestamp queries", gpu.info.name);
        }
        let mut timings = Vec::new();
        let period = f64::from(gpu.queue.get_timestamp_period());
        // A query set holds at most 4096 entries.
        for (steps, launches) in self.steps.chunks(2048).zip(self.launches.chunks(2048)) {
            let count = steps.len() as u32 * 2;
            let queries = gpu.device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("profile"),
                ty: wgpu::QueryType::Timestamp,
                count,
            });
            let resolved = gpu.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("profile"),
                size: u64::from(count) * 8,
                usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
                mapped_at_creation: false,
            });
            let mut encoder = gpu.device.create_command_encoder(&Default::default());
            for (n, step) in steps.iter().enumerate() {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                    label: None,
                    timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                        query_set: &queries,
                        beginning_of_pass_write_index: Some(n as u32 * 2),
                        end_of_pass_write_index: Some(n as u32 * 2 + 1),
                    }),
                });
                pass.set_pipeline(&step.pipeline.raw);
                pass.set_bind_group(0, &step.bind_group, &[]);
                pass.dispatch_workgroups(step.grid[0], step.grid[1], step.grid[2]);
            }
            encoder.resolve_query_set(&queries, 0..count, &resolved, 0);
            gpu.queue.submit([encoder.finish()]);
            let ticks: Vec<u64> = download(gpu, &resolved, 0, count as usize)?;
            timings.extend(launches.iter().zip(ticks.chunks(2)).map(|(launch, t)| Timing {
                kernel: format!("{}::{}", launch.kernel.file, launch.kernel.entry),
                scope: launch.scope.clone(),
                nanoseconds: t[1].saturating_sub(t[0]) as f64 * period,
                flops: launch.work.flops,
                bytes: launch.work.bytes,
            }));
        }
        Ok(timings)
    }

    /// The pipelines in use, for `csmoe devices`.
    pub fn bindings(&self) -> impl Iterator<Item = &[Binding]> {
        self.steps.iter().map(|s| &s.pipeline.bindings[..])
    }
}
