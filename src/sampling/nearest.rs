//! Nearest neighbours in a whole set, by a k-d tree over unit vectors.

use rayon::prelude::*;

use super::distance::dot;

/// Points of a leaf.
const LEAF: usize = 16;

/// The points in the tree's order: a node is a range, split at its middle; its axis goes by its widest extent.
struct Tree {
    points: Vec<[f64; 3]>,
    /// By the middle of a range, the axis that it is split along.
    axis: Vec<u8>,
}

/// For every point the dot product with its nearest neighbour (-2 for a point alone), in the order given.
pub fn nearest_dots(points: &[[f64; 3]]) -> Vec<f64> {
    let mut order: Vec<u32> = (0..points.len() as u32).collect();
    let mut axis = vec![0; points.len()];
    build(points, &mut order, &mut axis);
    let tree = Tree { points: order.iter().map(|&i| points[i as usize]).collect(), axis };
    // Neighbours in the tree search the same leaves: they go to one thread.
    let found: Vec<f64> = (0..points.len()).into_par_iter().with_min_len(1024).map(|i| tree.nearest(i)).collect();
    let mut dots = vec![0.0; points.len()];
    order.iter().zip(found).for_each(|(&i, d)| dots[i as usize] = d);
    dots
}

fn build(points: &[[f64; 3]], order: &mut [u32], axes: &mut [u8]) {
    if order.len() <= LEAF {
        return;
    }
    let extent = |k: usize| {
        let range =
            order.iter().map(|&i| points[i as usize][k]).fold((f64::MAX, f64::MIN), |(a, b), x| (a.min(x), b.max(x)));
        range.1 - range.0
    };
    let extents = [extent(0), extent(1), extent(2)];
    let axis = (0..3).fold(0, |best, k| if extents[k] > extents[best] { k } else { best });
    let middle = order.len() / 2;
    order.select_nth_unstable_by(middle, |&a, &b| points[a as usize][axis].total_cmp(&points[b as usize][axis]));
    axes[middle] = axis as u8;
    let (left, right) = order.split_at_mut(middle);
    let (left_axes, right_axes) = axes.split_at_mut(middle);
    rayon::join(|| build(points, left, left_axes), || build(points, &mut right[1..], &mut right_axes[1..]));
}

impl Tree {
    fn nearest(&self, own: usize) -> f64 {
        let mut best = -2.0;
        self.search(own, 0, self.points.len(), &mut best);
        best
    }

    fn search(&self, own: usize, from: usize, to: usize, best: &mut f64) {
        let p = self.points[own];
        if to - from <= LEAF {
            for i in from..to {
                let d = dot(p, self.points[i]);
                if i != own && d > *best {
                    *best = d;
                }
            }
            return;
        }
        let middle = from + (to - from) / 2;
        let axis = usize::from(self.axis[middle]);
        let d = dot(p, self.points[middle]);
        if middle != own && d > *best {
            *best = d;
        }
        let beyond = p[axis] - self.points[middle][axis];
        let (near, far) =
            if beyond < 0.0 { ((from, middle), (middle + 1, to)) } else { ((middle + 1, to), (from, middle)) };
        self.search(own, near.0, near.1, best);
        // Chord^2 = 2 - 2 dot; a rounding to the safe side.
        if beyond * beyond <= 2.0 - 2.0 * *best + 1e-15 {
            self.search(own, far.0, far.1, best);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampling::distance::unit_vector;
    use crate::sampling::rng::Rng;

    #[test]
    fn equals_all_pairs() {
        for n in [0, 1, 2, 16, 17, 33, 500, 3000] {
            let mut rng = Rng::new(n, 0, 0, 0);
            let place = |_| unit_vector(rng.unit() * 180.0 - 90.0, (rng.unit() * 40.0).floor() * 9.0);
            let points: Vec<[f64; 3]> = (0..n).map(place).collect();
            let all: Vec<f64> = (0..points.len())
                .map(|i| (0..points.len()).filter(|&j| j != i).map(|j| dot(points[i], points[j])).fold(-2.0, f64::max))
                .collect();
            assert_eq!(nearest_dots(&points), all, "{n}");
        }
    }
}
