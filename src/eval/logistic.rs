//! Multinomial logistic regression, the linear read-out of embeddings: plain, in double precision, deterministic.

use rayon::prelude::*;

/// Rows whose gradient is one sum; sums are added in order, so threads change nothing.
const CHUNK: usize = 256;
/// Iterations at most, and the largest gradient entry that counts as none.
const ITERATIONS: usize = 3000;
const TOLERANCE: f64 = 1e-6;

/// A fitted classifier over standardised features.
#[derive(Clone, Debug)]
pub struct Logistic {
    mean: Vec<f64>,
    /// 1 / standard deviation; 0 for a feature that never varies.
    scale: Vec<f64>,
    /// [classes, features + 1], the bias last.
    weights: Vec<f64>,
    classes: usize,
}

impl Logistic {
    /// Minimises the mean cross entropy of `x` [rows, features] with `labels` (below `classes`), plus `l2 / 2` times
    /// the squared weights, biases left out: Nesterov's accelerated gradient with the step 1 / L and a restart
    /// whenever it runs uphill (O'Donoghue and Candes 2015).
    pub fn fit(x: &[f32], features: usize, labels: &[usize], classes: usize, l2: f64) -> Self {
        let (mean, scale) = standard(x, features);
        let mut model = Logistic { mean, scale, weights: vec![0.0; classes * (features + 1)], classes };
        let rows = model.standardise(x);
        let width = features + 1;
        // The Hessian of the softmax is at most 1/2.
        let step = 1.0 / (0.55 * largest_eigenvalue(&rows, width) + l2);
        let mut ahead = model.weights.clone();
        let mut momentum = 1.0;
        for _ in 0..ITERATIONS {
            let gradient = gradient(&rows, width, labels, classes, &ahead, l2);
            if gradient.iter().all(|g| g.abs() < TOLERANCE) {
                break;
            }
            let next: Vec<f64> = ahead.iter().zip(&gradient).map(|(w, g)| w - step * g).collect();
            let uphill: f64 = gradient.iter().zip(next.iter().zip(&model.weights)).map(|(g, (a, b))| g * (a - b)).sum();
            if uphill > 0.0 {
                momentum = 1.0;
                ahead = next.clone();
            } else {
                let grown = (1.0 + f64::sqrt(1.0 + 4.0 * momentum * momentum)) / 2.0;
                let share = (momentum - 1.0) / grown;
                ahead = next.iter().zip(&model.weights).map(|(a, b)| a + share * (a - b)).collect();
                momentum = grown;
            }
            model.weights = next;
        }
        model
    }

    /// The likeliest class of every row of `x` [rows, features].
    pub fn predict(&self, x: &[f32]) -> Vec<usize> {
        let width = self.mean.len() + 1;
        let rows = self.standardise(x);
        rows.chunks(width)
            .map(|row| {
                let scores = scores(row, &self.weights);
                (0..self.classes).fold(0, |best, c| if scores[c] > scores[best] { c } else { best })
            })
            .collect()
    }

    /// Rows with a 1 behind them for the bias.
    fn standardise(&self, x: &[f32]) -> Vec<f64> {
        let row = |row: &[f32]| -> Vec<f64> {
            let values = row.iter().zip(self.mean.iter().zip(&self.scale));
            values.map(|(v, (m, s))| (f64::from(*v) - m) * s).chain([1.0]).collect()
        };
        x.chunks(self.mean.len()).flat_map(row).collect()
    }
}

/// Mean and 1 / standard deviation of every column.
fn standard(x: &[f32], features: usize) -> (Vec<f64>, Vec<f64>) {
    let rows = (x.len() / features).max(1) as f64;
    let mut mean = vec![0.0; features];
    let mut square = vec![0.0; features];
    x.chunks(features).for_each(|row| row.iter().zip(&mut mean).for_each(|(v, m)| *m += f64::from(*v) / rows));
    for row in x.chunks(features) {
        row.iter().zip(mean.iter().zip(&mut square)).for_each(|(v, (m, s))| *s += (f64::from(*v) - m).powi(2) / rows);
    }
    let scale = square.iter().zip(&mean).map(|(s, m)| {
        let deviation = s.sqrt();
        // Rounding leaves a constant feature with a little variance.
        if deviation > 1e-9 * m.abs().max(1e-30) { 1.0 / deviation } else { 0.0 }
    });
    (mean.clone(), scale.collect())
}

fn scores(row: &[f64], weights: &[f64]) -> Vec<f64> {
    weights.chunks(row.len()).map(|w| w.iter().zip(row).map(|(a, b)| a * b).sum()).collect()
}

fn gradient(rows: &[f64], width: usize, labels: &[usize], classes: usize, weights: &[f64], l2: f64) -> Vec<f64> {
    let chunks: Vec<Vec<f64>> = rows
        .par_chunks(CHUNK * width)
        .zip(labels.par_chunks(CHUNK))
        .map(|(rows, labels)| {
            let mut sum = vec![0.0; classes * width];
            for (row, label) in rows.chunks(width).zip(labels) {
                let mut p = scores(row, weights);
                let top = p.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                p.iter_mut().for_each(|s| *s = (*s - top).exp());
                let total: f64 = p.iter().sum();
                for (c, sum) in sum.chunks_mut(width).enumerate() {
                    let error = p[c] / total - f64::from(u8::from(c == *label));
                    sum.iter_mut().zip(row).for_each(|(s, v)| *s += error * v);
                }
            }
            sum
        })
        .collect();
    let count = labels.len().max(1) as f64;
    let mut sum = vec![0.0; classes * width];
    for chunk in chunks {
        sum.iter_mut().zip(chunk).for_each(|(s, c)| *s += c / count);
    }
    for (i, (s, w)) in sum.iter_mut().zip(weights).enumerate() {
        *s += if i % width + 1 == width { 0.0 } else { l2 * w };
    }
    sum
}

/// The largest eigenvalue of `rows^T rows / n`, by power iteration.
fn largest_eigenvalue(rows: &[f64], width: usize) -> f64 {
    let n = (rows.len() / width).max(1) as f64;
    // A start that no symmetry of the data can make orthogonal to the answer.
    let mut v: Vec<f64> = (0..width).map(|i| 1.0 + 0.5 * f64::sin(i as f64)).collect();
    let mut value = 1.0;
    for _ in 0..60 {
        let norm = v.iter().map(|x| x * x).sum::<f64>().sqrt();
        v.iter_mut().for_each(|x| *x /= norm);
        let mut next = vec![0.0; width];
        for row in rows.chunks(width) {
            let dot: f64 = row.iter().zip(&v).map(|(a, b)| a * b).sum();
            next.iter_mut().zip(row).for_each(|(s, r)| *s += dot * r / n);
        }
        value = next.iter().map(|x| x * x).sum::<f64>().sqrt();
        v = next;
    }
    value
}

/// How well classes are told.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Accuracy {
    /// Share of the rows told right.
    pub overall: f64,
    /// Mean over the classes there are of the share of their rows told right.
    pub mean_recall: f64,
}

impl Accuracy {
    pub fn of(truth: &[usize], told: &[usize], classes: usize) -> Self {
        let mut right = vec![0usize; classes];
        let mut count = vec![0usize; classes];
        for (t, p) in truth.iter().zip(told) {
            count[*t] += 1;
            right[*t] += usize::from(t == p);
        }
        let recalls: Vec<f64> =
            right.iter().zip(&count).filter(|(_, n)| **n > 0).map(|(r, n)| *r as f64 / *n as f64).collect();
        Accuracy {
            overall: right.iter().sum::<usize>() as f64 / truth.len().max(1) as f64,
            mean_recall: recalls.iter().sum::<f64>() / recalls.len().max(1) as f64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Rng;

    /// Three overlapping clouds in four features, one of them constant and one of a much larger unit.
    fn clouds(rows: usize, spread: f64) -> (Vec<f32>, Vec<usize>) {
        let mut rng = Rng::new(3, 5);
        let mut x = Vec::new();
        let labels: Vec<usize> = (0..rows).map(|i| i % 3).collect();
        for label in &labels {
            let centre = [[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]][*label];
            x.extend([
                (centre[0] + spread * rng.normal()) as f32,
                (1e4 * (centre[1] + spread * rng.normal())) as f32,
                7.7,
                rng.normal() as f32,
            ]);
        }
        (x, labels)
    }

    #[test]
    fn the_gradient_vanishes_at_the_solution() {
        let (x, labels) = clouds(700, 1.0);
        let l2 = 0.01;
        let model = Logistic::fit(&x, 4, &labels, 3, l2);
        let rows = model.standardise(&x);
        let left = gradient(&rows, 5, &labels, 3, &model.weights, l2);
        assert!(left.iter().all(|g| g.abs() < 2.0 * TOLERANCE), "{left:?}");
        // And it is the gradient of the loss: central differences.
        let loss = |w: &[f64]| -> f64 {
            let rows = rows.chunks(5).zip(&labels).map(|(row, label)| {
                let s = scores(row, w);
                s.iter().map(|v| v.exp()).sum::<f64>().ln() - s[*label]
            });
            let squares: f64 = w.chunks(5).flat_map(|w| &w[..4]).map(|v| v * v).sum();
            rows.sum::<f64>() / 700.0 + l2 / 2.0 * squares
        };
        let at: Vec<f64> = (0..15).map(|i| 0.1 * f64::from(i) - 0.7).collect();
        let exact = gradient(&rows, 5, &labels, 3, &at, l2);
        for (i, exact) in exact.iter().enumerate() {
            let moved = |by: f64| -> Vec<f64> {
                at.iter().enumerate().map(|(j, v)| v + by * f64::from(u8::from(i == j))).collect()
            };
            let slope = (loss(&moved(1e-5)) - loss(&moved(-1e-5))) / 2e-5;
            assert!((slope - exact).abs() < 1e-8, "{i}: {slope} {exact}");
        }
    }

    #[test]
    fn clear_classes_are_told_and_units_do_not_matter() {
        let (x, labels) = clouds(300, 0.2);
        let model = Logistic::fit(&x, 4, &labels, 3, 1e-3);
        assert_eq!(Accuracy::of(&labels, &model.predict(&x), 3), Accuracy { overall: 1.0, mean_recall: 1.0 });
        let again = Logistic::fit(&x, 4, &labels, 3, 1e-3);
        assert_eq!(model.weights, again.weights);
        // The constant feature carries nothing.
        assert!(model.weights.chunks(5).all(|w| w[2] == 0.0));
    }

    #[test]
    fn recall_weighs_classes_alike() {
        let accuracy = Accuracy::of(&[0, 0, 0, 2], &[0, 0, 0, 1], 4);
        assert_eq!((accuracy.overall, accuracy.mean_recall), (0.75, 0.5));
    }
}
