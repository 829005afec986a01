//! The threads that read.

use std::sync::mpsc::{Receiver, Sender, SyncSender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::{Batch, Cursor, PairSource, Result, Room, Sensor};

/// A batch to read.
pub struct Job<R> {
    pub start: Cursor,
    pub pairs: Vec<u32>,
    pub flips: Vec<u8>,
    /// Where its pixels go.
    pub room: [R; 2],
    pub reply: SyncSender<Result<Batch<R>>>,
}

/// Threads that take jobs in turn; dropping them waits for the jobs under way.
pub struct Readers<R> {
    jobs: Option<Sender<Job<R>>>,
    threads: Vec<JoinHandle<()>>,
}

impl<R: Room> Readers<R> {
    pub fn start(source: Arc<dyn PairSource>, threads: usize) -> Self {
        let (jobs, queue) = channel();
        let queue = Arc::new(Mutex::new(queue));
        let one = |_| {
            let (source, queue) = (source.clone(), queue.clone());
            std::thread::spawn(move || work(&*source, &queue))
        };
        Self { jobs: Some(jobs), threads: (0..threads).map(one).collect() }
    }

    pub fn send(&self, job: Job<R>) {
        if let Some(jobs) = &self.jobs {
            // A send fails only when every thread is gone; the answer's channel then says so.
            let _ = jobs.send(job);
        }
    }
}

impl<R> Drop for Readers<R> {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn work<R: Room>(source: &dyn PairSource, queue: &Mutex<Receiver<Job<R>>>) {
    let plane = source.tile_px() * source.tile_px();
    // One pair, which stays in the processor's own cache: a room may be slow memory that is written in order, once.
    let mut pair = [Sensor::S1, Sensor::S2].map(|sensor| vec![0.0; sensor.channels() * plane]);
    loop {
        // The lock is held while waiting, which only makes the other idle threads wait behind it.
        let Ok(job) = queue.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).recv() else { return };
        let Job { start, pairs, flips, room: [s1, s2], reply } = job;
        let batch = Batch { s1, s2, ids: vec![], labels: vec![], flips, start };
        let _ = reply.send(read(source, &pairs, batch, &mut pair));
    }
}

fn read<R: Room>(
    source: &dyn PairSource,
    pairs: &[u32],
    mut batch: Batch<R>,
    [s1, s2]: &mut [Vec<f32>; 2],
) -> Result<Batch<R>> {
    for (place, index) in pairs.iter().enumerate() {
        let placed = source.fill(*index as usize, s1, s2)?;
        batch.s1.put(place * s1.len(), s1);
        batch.s2.put(place * s2.len(), s2);
        batch.ids.push(placed.id);
        batch.labels.push(placed.label);
    }
    Ok(batch)
}
