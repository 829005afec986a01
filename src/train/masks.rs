//! Which patches the encoder sees.

use crate::model::{Config, MaskMode};
use crate::ops::tokens::HIDDEN;
use crate::tensor::Rng;

/// The tables a program needs beside the kept patches themselves; R = sensors * B.
#[derive(Clone, Debug, PartialEq)]
pub struct Tables {
    /// [R, P]: each patch's index among the kept, or [`HIDDEN`].
    pub restore: Vec<u32>,
    /// By sensor [B, P - K]: the hidden patches' tokens, 1 + patch, in raster order.
    pub hidden: Vec<Vec<u32>>,
}

/// Tables for the kept patches of each sensor, [B, K].
pub fn tables(keep: &[Vec<u32>], batch: usize, patches: usize) -> Tables {
    let mut restore = Vec::new();
    let mut hidden = Vec::new();
    for sensor in keep {
        let mut tokens = Vec::new();
        for kept in sensor.chunks(sensor.len() / batch) {
            let mut row = vec![HIDDEN; patches];
            for (i, patch) in kept.iter().enumerate() {
                row[*patch as usize] = i as u32;
            }
            tokens.extend((1..).zip(&row).filter(|(_, at)| **at == HIDDEN).map(|(token, _)| token));
            restore.extend(row);
        }
        hidden.push(tokens);
    }
    Tables { restore, hidden }
}

/// Draws the kept patches of a batch, [s1, s2] of [B, K]: for every image `floor(P (1 - ratio))` patches, those with the
/// smallest noise. An image's draw depends on (seed, stream, its place in the batch) alone.
pub fn draw(config: &Config, batch: usize, seed: u64, stream: u64) -> [Vec<u32>; 2] {
    let (patches, kept) = (config.patches(), config.kept());
    let mut keep = [Vec::new(), Vec::new()];
    let order = |rng: &mut Rng| -> Vec<u32> {
        let noise: Vec<f64> = (0..patches).map(|_| rng.uniform()).collect();
        let mut order: Vec<u32> = (0..patches as u32).collect();
        order.sort_by(|a, b| noise[*a as usize].total_cmp(&noise[*b as usize]));
        order
    };
    for image in 0..batch {
        let mut rng = Rng::new(seed, stream.wrapping_mul(1 << 20).wrapping_add(image as u64));
        let first = order(&mut rng);
        let second = match config.mask {
            MaskMode::Random => order(&mut rng),
            MaskMode::Identical => first.clone(),
            // What the first hides comes first.
            MaskMode::Disjoint => first.iter().rev().copied().collect(),
        };
        for (out, order) in keep.iter_mut().zip([first, second]) {
            let mut chosen = order[..kept].to_vec();
            if config.sort_visible {
                chosen.sort_unstable();
            }
            out.extend(chosen);
        }
    }
    keep
}

/// Every patch of every image, in raster order: what inference sees.
pub fn all(batch: usize, patches: usize) -> Vec<u32> {
    (0..batch).flat_map(|_| 0..patches as u32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(mask: MaskMode, sort_visible: bool) -> Config {
        Config { mask, sort_visible, ..Config::preset("csmoe-tiny").unwrap() }
    }

    #[test]
    fn half_is_kept_and_each_once() {
        for mode in [MaskMode::Random, MaskMode::Identical, MaskMode::Disjoint] {
            let config = config(mode, true);
            let (p, k) = (config.patches(), config.kept());
            assert_eq!((p, k), (100, 50));
            let keep = draw(&config, 3, 7, 11);
            for sensor in &keep {
                for row in sensor.chunks(k) {
                    assert!(row.windows(2).all(|w| w[0] < w[1]) && row.iter().all(|x| (*x as usize) < p));
                }
            }
            let common = |b: usize| keep[0][b * k..][..k].iter().filter(|x| keep[1][b * k..][..k].contains(x)).count();
            for b in 0..3 {
                match mode {
                    MaskMode::Identical => assert_eq!(common(b), k),
                    MaskMode::Disjoint => assert_eq!(common(b), 0),
                    // Hypergeometric: 25 of 50 expected, 2.5 standard deviation.
                    MaskMode::Random => assert!((10..40).contains(&common(b)), "{}", common(b)),
                }
            }
        }
    }

    #[test]
    fn draws_repeat_and_differ_by_stream() {
        let config = config(MaskMode::Random, false);
        assert_eq!(draw(&config, 2, 1, 5), draw(&config, 2, 1, 5));
        assert_ne!(draw(&config, 2, 1, 5), draw(&config, 2, 1, 6));
        // An image's draw does not depend on how many follow it.
        assert_eq!(draw(&config, 1, 1, 5)[0][..], draw(&config, 2, 1, 5)[0][..50]);
    }

    #[test]
    fn tables_invert_keep() {
        let keep = [vec![2, 0], vec![1, 3]];
        let t = tables(&keep, 1, 4);
        assert_eq!(t.restore, [1, HIDDEN, 0, HIDDEN, HIDDEN, 0, HIDDEN, 1]);
        assert_eq!(t.hidden, [[2, 4], [1, 3]]);
    }
}
