//! Which pairs train and which validate.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::PairSource;
use super::random::Stream;

/// Which part of the archive a loader walks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// Shuffled each epoch, flipped at random; a last batch that would not be full is left for the next epoch's shuffle.
    Train,
    /// In fixed order, never flipped; the last batch is filled up from the start.
    Validation,
}

/// How the archive is divided.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Split {
    /// Share kept for validation, 0 for none; at least one pair (or scene) otherwise, if there are two.
    pub validation: f64,
    /// Keep all pairs cut from one scene on one side, so that neighbours do not leak.
    pub by_scene: bool,
}

impl Default for Split {
    fn default() -> Self {
        Self { validation: 0.05, by_scene: false }
    }
}

// Keeps this stream of a seed apart from the others.
const SPLIT: u64 = 101;

/// Indices of one part, ascending. The two parts are disjoint and cover the archive.
pub fn members(source: &dyn PairSource, split: Split, part: Part, seed: u64) -> Vec<u32> {
    let group = |index: usize| if split.by_scene { source.group(index) } else { index };
    let mut groups: Vec<usize> = (0..source.len()).map(group).collect();
    groups.sort_unstable();
    groups.dedup();
    let wanted = (groups.len() as f64 * split.validation).round() as usize;
    let held = if split.validation > 0.0 { wanted.clamp(1, groups.len().max(2) - 1) } else { 0 };
    let held = if groups.len() < 2 { 0 } else { held };
    Stream::new(seed, &[SPLIT]).shuffle(&mut groups);
    let held: HashSet<usize> = groups.into_iter().take(held).collect();
    let mine = |index: &usize| held.contains(&group(*index)) == (part == Part::Validation);
    (0..source.len()).filter(mine).map(|index| index as u32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::synth::Synth;
    use crate::data::{Pair, Report, Result};

    #[test]
    fn parts_are_disjoint_and_whole() {
        for (pairs, held) in [(1, 0), (2, 1), (10, 1), (100, 5), (1000, 50)] {
            let source = Synth::new(pairs, 1, 8);
            let part = |part| members(&source, Split::default(), part, 9);
            let (train, validation) = (part(Part::Train), part(Part::Validation));
            assert_eq!(validation.len(), held);
            let all: HashSet<u32> = train.iter().chain(&validation).copied().collect();
            assert_eq!((all.len(), train.len() + held), (pairs, pairs));
        }
    }

    #[test]
    fn scenes_stay_together() {
        struct Scenes(Synth);
        impl PairSource for Scenes {
            fn len(&self) -> usize {
                self.0.len()
            }
            fn tile_px(&self) -> usize {
                self.0.tile_px()
            }
            fn describe(&self) -> &Report {
                self.0.describe()
            }
            fn pair(&self, index: usize) -> Result<Pair> {
                self.0.pair(index)
            }
            fn group(&self, index: usize) -> usize {
                index / 10
            }
        }
        let source = Scenes(Synth::new(200, 1, 8));
        let split = Split { validation: 0.1, by_scene: true };
        let held = members(&source, split, Part::Validation, 5);
        assert_eq!(held.len(), 20);
        assert_eq!(held.iter().map(|i| i / 10).collect::<HashSet<_>>().len(), 2);
    }
}
