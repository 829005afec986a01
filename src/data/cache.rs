//! Decoded pairs kept in memory, for archives that fit.

use std::sync::{Arc, OnceLock};

use super::{Pair, PairSource, Report, Result, S1_BANDS, S2_BANDS};

/// A source that decodes each pair once.
pub struct Cached {
    source: Arc<dyn PairSource>,
    slots: Vec<OnceLock<Pair>>,
}

impl Cached {
    /// Wraps `source` if all its pairs fit into `budget` bytes, and gives it back as it is otherwise, or
    /// where the system keeps its pixels ready anyway.
    pub fn within(source: Arc<dyn PairSource>, budget: u64) -> Arc<dyn PairSource> {
        if source.mapped() || bytes(&*source) > budget {
            return source;
        }
        let slots = (0..source.len()).map(|_| OnceLock::new()).collect();
        Arc::new(Self { source, slots })
    }
}

/// Memory that all pairs of a source take when decoded.
pub fn bytes(source: &dyn PairSource) -> u64 {
    let plane = (source.tile_px() * source.tile_px()) as u64;
    let mask = 1;
    source.len() as u64 * plane * (4 * (S1_BANDS.len() + S2_BANDS.len()) as u64 + mask)
}

impl PairSource for Cached {
    fn len(&self) -> usize {
        self.source.len()
    }
    fn tile_px(&self) -> usize {
        self.source.tile_px()
    }
    fn describe(&self) -> &Report {
        self.source.describe()
    }
    fn id(&self, index: usize) -> Result<String> {
        self.source.id(index)
    }
    fn group(&self, index: usize) -> usize {
        self.source.group(index)
    }
    fn label(&self, index: usize) -> Option<u32> {
        self.source.label(index)
    }
    fn pair(&self, index: usize) -> Result<Pair> {
        if let Some(pair) = self.slots[index].get() {
            return Ok(pair.clone());
        }
        // Two threads may decode one pair at once; both get the same pixels and one copy stays.
        let pair = self.source.pair(index)?;
        Ok(self.slots[index].get_or_init(|| pair).clone())
    }
}
