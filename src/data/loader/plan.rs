//! Which pairs come when: what decides the contents of every batch.

use std::collections::BTreeMap;

use super::super::random::{Stream, hash};
use super::super::split::members;
use super::{Cursor, Error, LoaderConfig, PairSource, Part, Result, Sampling};

// Coordinates that keep the streams of one seed apart.
const ORDER: u64 = 102;
const FLIPS: u64 = 103;
const DRAWS: u64 = 104;

/// The walk over one part of an archive.
pub struct Plan {
    seed: u64,
    batch: usize,
    part: Part,
    flips: bool,
    members: Vec<u32>,
    draws: Draws,
}

/// How an epoch's pairs are drawn from the members.
enum Draws {
    /// In the archive's order.
    InOrder,
    /// Each once, shuffled.
    Shuffled,
    /// Classes taking turns; members by class.
    Balanced(Vec<Vec<u32>>),
    /// As often as their weights say; one a member.
    Weighted(Vec<u64>),
}

impl Plan {
    /// The plan of a walk that begins at `cursor`.
    pub fn new(source: &dyn PairSource, config: &LoaderConfig, cursor: Cursor) -> Result<Self> {
        let name = &source.describe().name;
        if config.batch == 0 {
            return Err(Error::new("batch", "0 pairs", "take at least 1"));
        }
        let members = members(source, config.split, config.part, config.seed);
        if members.is_empty() {
            let part = if config.part == Part::Train { "training" } else { "validation" };
            let found = format!("{} pairs leave none for {part}", source.len());
            return Err(Error::new(name, found, "bring more pairs or change the validation share"));
        }
        if cursor.position >= members.len() as u64 {
            let problem =
                format!("the run stopped at pair {} of an epoch, this archive has {}", cursor.position, members.len());
            return Err(Error::new(name, problem, "resume with the archive, split and seed the run began with"));
        }
        let draws = match (config.part, &config.weights, config.sampling) {
            (Part::Validation, ..) => Draws::InOrder,
            (_, Some(weights), _) => Draws::Weighted(whole(&members, weights, name)?),
            (_, None, Sampling::Uniform) => Draws::Shuffled,
            (_, None, Sampling::Balanced) => {
                let mut strata = BTreeMap::<Option<u32>, Vec<u32>>::new();
                members.iter().for_each(|m| strata.entry(source.label(*m as usize)).or_default().push(*m));
                Draws::Balanced(strata.into_values().collect())
            }
        };
        let flips = config.flip && config.part == Part::Train;
        Ok(Self { seed: config.seed, batch: config.batch, part: config.part, flips, members, draws })
    }

    /// Pairs in this part.
    pub fn pairs(&self) -> usize {
        self.members.len()
    }

    /// Batches in an epoch, at least 1.
    pub fn batches(&self) -> usize {
        match self.part {
            Part::Train => (self.members.len() / self.batch).max(1),
            Part::Validation => self.members.len().div_ceil(self.batch),
        }
    }

    /// Where the batch after the one at `cursor` begins.
    pub fn after(&self, cursor: Cursor) -> Cursor {
        let position = cursor.position + self.batch as u64;
        // Judged by what is left, not by a count of batches, so that a run may be resumed with another batch size.
        let left = (self.members.len() as u64).saturating_sub(position);
        let ended = match self.part {
            Part::Train => left < self.batch as u64,
            Part::Validation => left == 0,
        };
        if ended { Cursor { epoch: cursor.epoch + 1, position: 0 } } else { Cursor { position, ..cursor } }
    }

    /// The pairs of the batch at `cursor`, given its epoch's order; filled up from the start.
    pub fn batch(&self, order: &[u32], cursor: Cursor) -> Vec<u32> {
        (0..self.batch).map(|i| order[(cursor.position as usize + i) % order.len()]).collect()
    }

    /// An epoch's draws, as many as there are members.
    pub fn order(&self, epoch: u64) -> Vec<u32> {
        let mut order = match &self.draws {
            Draws::InOrder => return self.members.clone(),
            Draws::Shuffled => self.members.clone(),
            Draws::Balanced(strata) => self.balanced(strata, epoch),
            Draws::Weighted(weights) => self.weighted(weights, epoch),
        };
        Stream::new(self.seed, &[ORDER, epoch]).shuffle(&mut order);
        order
    }

    /// The classes taking turns; each class walks shuffles of its own pairs.
    fn balanced(&self, strata: &[Vec<u32>], epoch: u64) -> Vec<u32> {
        let walk = |(s, pairs): (usize, &Vec<u32>)| {
            (Stream::new(self.seed, &[ORDER, epoch, s as u64]), pairs.clone(), pairs.len())
        };
        let mut walks: Vec<(Stream, Vec<u32>, usize)> = strata.iter().enumerate().map(walk).collect();
        let draw = |i: usize| {
            let (stream, pairs, next) = &mut walks[i % strata.len()];
            if *next == pairs.len() {
                stream.shuffle(pairs);
                *next = 0;
            }
            *next += 1;
            pairs[*next - 1]
        };
        (0..self.members.len()).map(draw).collect()
    }

    /// Systematic resampling: the weights lie end to end on a line, and equal steps from a random start fall on each
    /// member the floor or the ceiling of its expected number of times. Whole numbers, so that this is exact.
    fn weighted(&self, weights: &[u64], epoch: u64) -> Vec<u32> {
        let mut stream = Stream::new(self.seed, &[DRAWS, epoch]);
        // In a random order: neighbours in the archive would otherwise come in turns.
        let mut line: Vec<usize> = (0..self.members.len()).collect();
        stream.shuffle(&mut line);
        let (draws, total) = (line.len() as u128, weights.iter().map(|w| u128::from(*w)).sum::<u128>());
        let start = (u128::from(stream.bits()) << 64 | u128::from(stream.bits())) % total;
        let (mut end, mut drawn, mut order) = (0, 0, Vec::with_capacity(line.len()));
        for i in line {
            end += u128::from(weights[i]);
            let until = (end * draws + start) / total;
            order.extend((drawn..until).map(|_| self.members[i]));
            drawn = until;
        }
        order
    }

    /// What to do to a pair in an epoch.
    pub fn flip(&self, epoch: u64, pair: u32) -> u8 {
        if !self.flips {
            return 0;
        }
        (hash(Stream::new(self.seed, &[FLIPS, epoch]).key(), pair as u64) >> 62) as u8
    }
}

/// The members' weights as whole numbers, the largest 2^52: a sum over all members times their number is below 2^127.
/// What is above 0 stays so.
fn whole(members: &[u32], weights: &[f64], name: &str) -> Result<Vec<u64>> {
    let of = |member: &u32| weights.get(*member as usize).copied().filter(|w| *w >= 0.0 && w.is_finite());
    let mine: Option<Vec<f64>> = members.iter().map(of).collect();
    let mine =
        mine.ok_or_else(|| Error::new(name, "not every pair has a weight", "give each pair one of 0 or more"))?;
    let largest = mine.iter().copied().fold(0.0, f64::max);
    if largest == 0.0 {
        return Err(Error::new(name, "every training pair has weight 0", "give some of them a weight"));
    }
    let one = |w: &f64| if *w == 0.0 { 0 } else { ((w / largest * (1u64 << 52) as f64).round() as u64).max(1) };
    Ok(mine.iter().map(one).collect())
}
