//! Which tiles lie closest in the embedding, for the eye.

use super::Embeddings;
use crate::data::picture::{Rgb, Sheet, picture};
use crate::data::{ImageSource, Result};
use rayon::prelude::*;

/// Queries and their nearest tiles, nearest first, the query itself left out.
#[derive(Clone, Debug, PartialEq)]
pub struct Neighbours {
    pub queries: Vec<usize>,
    pub nearest: Vec<Vec<usize>>,
}

impl Neighbours {
    /// The `k` nearest by cosine of `count` queries spread evenly over the tiles; exact search, ties to the first tile.
    pub fn find(embeddings: &Embeddings, count: usize, k: usize) -> Self {
        let n = embeddings.ids.len();
        let unit: Vec<f32> = embeddings
            .values
            .chunks(embeddings.dim)
            .flat_map(|row| {
                let norm = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt().max(1e-12);
                row.iter().map(move |v| (f64::from(*v) / norm) as f32)
            })
            .collect();
        let row = |i: usize| &unit[i * embeddings.dim..][..embeddings.dim];
        let count = count.min(n);
        let queries: Vec<usize> = (0..count).map(|i| i * n / count).collect();
        let nearest = |query: &usize| -> Vec<usize> {
            let cosine = |i: usize| row(*query).iter().zip(row(i)).map(|(a, b)| a * b).sum::<f32>();
            let mut scored: Vec<(f32, usize)> = (0..n).filter(|i| i != query).map(|i| (cosine(i), i)).collect();
            scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            scored.into_iter().take(k).map(|(_, i)| i).collect()
        };
        let nearest = queries.par_iter().map(nearest).collect();
        Neighbours { queries, nearest }
    }

    /// Share of the neighbours that have their query's label; none if nothing is labelled.
    pub fn agreement(&self, labels: &[Option<u32>]) -> Option<f64> {
        let pairs = self.queries.iter().zip(&self.nearest);
        let same: Vec<bool> = pairs
            .filter_map(|(q, near)| labels[*q].map(|label| near.iter().map(move |i| labels[*i] == Some(label))))
            .flatten()
            .collect();
        (!same.is_empty()).then(|| same.iter().filter(|s| **s).count() as f64 / same.len() as f64)
    }
}

const SAME: [u8; 3] = [40, 160, 60];
const OTHER: [u8; 3] = [210, 60, 50];

/// Draws queries on the left and their neighbours beside them, framed green where the label is the query's and red
/// where it is another.
///
/// # Errors
/// A tile that cannot be read.
pub fn sheet(found: &Neighbours, embeddings: &Embeddings, source: &dyn ImageSource) -> Result<Sheet> {
    let k = found.nearest.first().map_or(0, Vec::len);
    let ranks: Vec<String> = (1..=k).map(|rank| format!("nearest {rank}")).collect();
    let titles: Vec<&str> = std::iter::once("query").chain(ranks.iter().map(String::as_str)).collect();
    let mut sheet = Sheet::new(&titles, 96);
    let paint = |i: usize| -> Result<Rgb> { Ok(picture(source.sensor(), &source.image(i)?.pixels, source.tile_px())) };
    for (query, near) in found.queries.iter().zip(&found.nearest) {
        let label = embeddings.labels[*query];
        let mut row = vec![paint(*query)?];
        for i in near {
            let mut tile = paint(*i)?;
            if let (Some(a), Some(b)) = (label, embeddings.labels[*i]) {
                frame(&mut tile, if a == b { SAME } else { OTHER });
            }
            row.push(tile);
        }
        let class = label.and_then(|l| source.describe().classes.get(l as usize));
        sheet.row(class.map_or("", String::as_str), row);
    }
    Ok(sheet)
}

fn frame(tile: &mut Rgb, colour: [u8; 3]) {
    let thick = (tile.width / 40).max(1);
    for (i, pixel) in tile.pixels.chunks_mut(3).enumerate() {
        let (x, y) = (i % tile.width, i / tile.width);
        if x.min(y).min(tile.width - 1 - x).min(tile.height - 1 - y) < thick {
            pixel.copy_from_slice(&colour);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(angles: &[f32]) -> Embeddings {
        Embeddings {
            ids: angles.iter().map(|a| a.to_string()).collect(),
            // Lengths differ: only directions count.
            values: angles
                .iter()
                .enumerate()
                .flat_map(|(i, a)| [a.cos(), a.sin()].map(|v| v * (i + 1) as f32))
                .collect(),
            dim: 2,
            places: vec![None; angles.len()],
            labels: angles.iter().map(|a| Some(u32::from(*a > 0.5))).collect(),
        }
    }

    #[test]
    fn the_nearest_direction_comes_first() {
        let embeddings = line(&[0.0, 0.9, 0.2, 1.0, 0.3]);
        let found = Neighbours::find(&embeddings, 5, 2);
        assert_eq!(found.nearest, [[2, 4], [3, 4], [4, 0], [1, 4], [2, 0]]);
        assert_eq!(found.agreement(&embeddings.labels), Some(0.8));
        assert_eq!(found.agreement(&[None; 5]), None);
        assert_eq!(Neighbours::find(&embeddings, 2, 9).queries, [0, 2]);
    }
}
