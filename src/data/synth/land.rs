//! The land under a procedural tile: noise, regions of one class, and what covers each pixel.

use std::f32::consts::PI;

use super::spectra::*;
use crate::data::random::{Stream, hash, unit};

/// Smooth value noise over a tile in [-1, 1]: features of `width` pixels, then of half the width and half the strength, ...
fn field(key: u64, px: usize, width: f32, octaves: u32) -> Vec<f32> {
    let mut sum = vec![0.0; px * px];
    let whole = 2.0 - 0.5f32.powi(octaves as i32 - 1);
    for octave in 0..octaves {
        let (key, step, weight) =
            (hash(key, octave as u64), 2f32.powi(octave as i32) / width, 0.5f32.powi(octave as i32) / whole);
        let knots = ((px - 1) as f32 * step) as usize + 2;
        let knot = |k: usize| 2.0 * unit(hash(key, lattice((k % knots) as i32, (k / knots) as i32))) - 1.0;
        let values: Vec<f32> = (0..knots * knots).map(knot).collect();
        let ticks: Vec<(usize, f32)> = (0..px)
            .map(|i| {
                let (k, t) = ((i as f32 * step) as usize, (i as f32 * step).fract());
                (k, t * t * (3.0 - 2.0 * t))
            })
            .collect();
        for (row, (j, ty)) in sum.chunks_exact_mut(px).zip(&ticks) {
            let (above, below) = (&values[j * knots..(j + 1) * knots], &values[(j + 1) * knots..(j + 2) * knots]);
            for (out, (k, tx)) in row.iter_mut().zip(&ticks) {
                let top = above[*k] + tx * (above[k + 1] - above[*k]);
                let bottom = below[*k] + tx * (below[k + 1] - below[*k]);
                *out += weight * (top + ty * (bottom - top));
            }
        }
    }
    sum
}

fn lattice(x: i32, y: i32) -> u64 {
    (x as u32 as u64) << 32 | y as u32 as u64
}

/// The land of one tile.
pub struct Land {
    px: usize,
    climate: &'static Climate,
    /// Class of each pixel.
    pub classes: Vec<u8>,
    /// Region of each pixel, as a hash: what is constant within a region derives from it.
    regions: Vec<u64>,
    texture: Vec<f32>,
    moisture: Vec<f32>,
    clumps: Vec<f32>,
}

/// What covers one pixel.
pub struct Cover {
    /// Shares of the end members, summing to 1.
    pub shares: [f32; MEMBERS],
    /// Share under snow, over all the others.
    pub snow: f32,
    /// Texture that both sensors see, in about -1..1: canopy height, roughness, shade.
    pub relief: f32,
}

impl Land {
    /// Draws a tile of `px` pixels whose most frequent class is `class`.
    pub fn new(mut scene: Stream, class: u8, climate: &'static Climate, px: usize) -> Self {
        let mut noise = |width, octaves| field(scene.bits(), px, width, octaves);
        let (texture, moisture, clumps) = (noise(5.0, 3), noise(45.0, 2), noise(11.0, 3));
        let (bend_x, bend_y, river) = (noise(30.0, 3), noise(30.0, 3), noise(75.0, 3));
        let (size, key) = (scene.range(22.0, 44.0), scene.bits());
        // Voronoi cells whose borders are bent by noise.
        let bend = 0.45;
        let regions = (0..px * px)
            .map(|i| region(key, (i % px) as f32 / size + bend * bend_x[i], (i / px) as f32 / size + bend * bend_y[i]))
            .collect();
        let mut land = Self { px, climate, classes: vec![u8::MAX; px * px], regions, texture, moisture, clumps };
        if class != WATER && scene.unit() < 0.4 {
            let (level, width) = (scene.range(-0.2, 0.2), scene.range(0.025, 0.07));
            land.carve(river.iter().map(|height| (height - level).abs() < width));
        }
        land.assign(class, scene);
        land
    }

    /// Fills a river's bed, unless it would fill the tile.
    fn carve(&mut self, bed: impl Iterator<Item = bool> + Clone) {
        if bed.clone().filter(|wet| *wet).count() * 4 < self.px * self.px {
            self.classes.iter_mut().zip(bed).filter(|(_, wet)| *wet).for_each(|(class, _)| *class = WATER);
        }
    }

    /// Gives regions the scene's class until it covers half the tile, and the rest what the climate offers.
    fn assign(&mut self, class: u8, mut scene: Stream) {
        let mut areas = std::collections::BTreeMap::<u64, usize>::new();
        for (region, taken) in self.regions.iter().zip(&self.classes) {
            *areas.entry(*region).or_default() += (*taken == u8::MAX) as usize;
        }
        let mut order: Vec<(u64, usize)> = areas.into_iter().collect();
        scene.shuffle(&mut order);
        let (half, mut covered) = (self.px * self.px / 2 + 1, 0);
        let chosen: std::collections::BTreeMap<u64, u8> = order
            .into_iter()
            .map(|(region, area)| {
                let own = covered < half;
                covered += if own { area } else { 0 };
                (region, if own { class } else { scene.below(CLASSES.len()) as u8 })
            })
            .collect();
        for (taken, region) in self.classes.iter_mut().zip(&self.regions) {
            if *taken == u8::MAX {
                *taken = chosen[region];
            }
        }
    }

    /// What covers pixel `i`.
    pub fn cover(&self, i: usize) -> Cover {
        let (x, y) = ((i % self.px) as f32, (i / self.px) as f32);
        let (region, climate) = (self.regions[i], self.climate);
        let (fine, moist, clump) = (self.texture[i], self.moisture[i], self.clumps[i]);
        let draw = |salt: u64| unit(hash(region, salt));
        let mut shares = [0.0; MEMBERS];
        let mut relief = fine;
        // Green rather than dry: the climate, the region's own season, and wetter hollows.
        let green = (climate.green + 0.3 * (draw(1) - 0.5) + 0.3 * moist).clamp(0.02, 1.0);
        let herbs = |shares: &mut [f32; MEMBERS], amount: f32| {
            shares[LEAF] += amount * green;
            shares[STRAW] += amount * (1.0 - green);
        };
        let ground = |shares: &mut [f32; MEMBERS], amount: f32| {
            shares[SAND] += amount * climate.sand;
            shares[SOIL] += amount * (1.0 - climate.sand);
        };
        let trees = |shares: &mut [f32; MEMBERS], amount: f32| {
            shares[CANOPY] += amount * (1.0 - climate.needle);
            shares[NEEDLE] += amount * climate.needle;
        };
        let water = |shares: &mut [f32; MEMBERS], amount: f32, turbid: f32| {
            shares[TURBID] += amount * turbid;
            shares[CLEAR] += amount * (1.0 - turbid);
        };
        let class = self.classes[i];
        match class {
            WATER => {
                water(&mut shares, 1.0, (climate.turbid + 0.35 * moist).clamp(0.0, 1.0));
                relief = 0.3 * moist;
            }
            FOREST => {
                let closed = (0.85 + 0.25 * clump).clamp(0.4, 1.0);
                trees(&mut shares, closed);
                herbs(&mut shares, 1.0 - closed);
            }
            GRASSLAND => {
                herbs(&mut shares, 0.9 + 0.1 * clump);
                ground(&mut shares, 0.1 - 0.1 * clump);
                relief = 0.5 * fine;
            }
            CROPLAND => {
                let (edge, field) = grid(x, y, draw(2) * PI, 14.0 + 10.0 * draw(3), 8.0 + 6.0 * draw(4), region);
                if edge < 1.0 {
                    herbs(&mut shares, 1.0);
                } else {
                    // A field is bare, growing, or in full leaf.
                    let growth =
                        (1.5 * unit(hash(field, 5)) - 0.2 + 0.15 * moist).clamp(0.0, 1.0) * (0.4 + 0.6 * climate.green);
                    shares[LEAF] += growth;
                    shares[STRAW] += 0.25 * (1.0 - growth);
                    ground(&mut shares, 0.75 * (1.0 - growth));
                    relief = 0.35 * fine + 0.5 * (unit(hash(field, 6)) - 0.5);
                }
            }
            BUILT_UP => {
                let (edge, block) = grid(x, y, draw(2) * PI, 9.0 + 7.0 * draw(3), 7.0 + 5.0 * draw(4), region);
                if edge < 1.1 {
                    shares[STONE] = 1.0;
                } else {
                    let roof = (0.25 + 0.5 * unit(hash(block, 7)) + 0.5 * clump).clamp(0.05, 0.9);
                    shares[ROOF] = roof;
                    shares[STONE] = 0.6 * (1.0 - roof);
                    herbs(&mut shares, 0.4 * (1.0 - roof));
                }
            }
            BARE => {
                // Dunes and ridges across the region's wind.
                let angle = draw(2) * PI;
                let ridge = ((x * angle.cos() + y * angle.sin()) * 0.55 + 4.0 * clump).sin();
                let stone = (0.3 * (1.0 - climate.sand) + 0.2 * clump).clamp(0.0, 1.0);
                shares[STONE] = stone;
                ground(&mut shares, 1.0 - stone);
                relief = 0.5 * fine + 0.5 * ridge;
            }
            WETLAND => {
                let flooded = (0.4 + 0.9 * clump).clamp(0.0, 0.9);
                water(&mut shares, flooded, climate.turbid);
                shares[LEAF] += (1.0 - flooded) * 0.7 * (0.4 + 0.6 * climate.green);
                shares[SOIL] += (1.0 - flooded) * (1.0 - 0.7 * (0.4 + 0.6 * climate.green));
            }
            _ => {
                let bush = if clump > 0.0 { 0.75 } else { 0.15 };
                trees(&mut shares, 0.6 * bush);
                herbs(&mut shares, 0.4 * bush + 0.4 * (1.0 - bush));
                ground(&mut shares, 0.6 * (1.0 - bush));
            }
        }
        // Snow lies in patches on open ground, not on water, trees or roofs.
        let open = shares[LEAF] + shares[STRAW] + shares[SOIL] + shares[SAND] + 0.5 * shares[STONE];
        let snow = if climate.snow > 0.0 && class != WATER {
            open * (4.0 * (climate.snow - 0.5 + 0.6 * moist + 0.2 * clump)).clamp(0.0, 1.0)
        } else {
            0.0
        };
        Cover { shares, snow, relief }
    }
}

/// The cell of a jittered grid whose site is nearest.
fn region(key: u64, x: f32, y: f32) -> u64 {
    let (cx, cy) = (x.floor() as i32, y.floor() as i32);
    let mut best = (f32::INFINITY, 0);
    for (dx, dy) in (-1..=1).flat_map(|dy| (-1..=1).map(move |dx| (dx, dy))) {
        let cell = hash(key, lattice(cx + dx, cy + dy));
        let (sx, sy) = ((cx + dx) as f32 + unit(cell), (cy + dy) as f32 + unit(cell.rotate_left(24)));
        let distance = (sx - x) * (sx - x) + (sy - y) * (sy - y);
        if distance < best.0 {
            best = (distance, cell);
        }
    }
    best.1
}

/// A rotated grid of rectangles: distance to the nearest edge in pixels, and a hash of the rectangle.
fn grid(x: f32, y: f32, angle: f32, width: f32, height: f32, key: u64) -> (f32, u64) {
    let (sin, cos) = angle.sin_cos();
    let (u, v) = ((x * cos + y * sin) / width, (y * cos - x * sin) / height);
    let (fu, fv) = (u - u.floor(), v - v.floor());
    let edge = (fu.min(1.0 - fu) * width).min(fv.min(1.0 - fv) * height);
    (edge, hash(key, lattice(u.floor() as i32, v.floor() as i32)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_sum_to_one_and_neighbours_agree() {
        for (index, class) in (0..CLASSES.len() as u8).enumerate() {
            let climate = &CLIMATES[index % CLIMATES.len()];
            let px = 64;
            let land = Land::new(Stream::new(5, &[index as u64]), class, climate, px);
            for i in 0..px * px {
                let cover = land.cover(i);
                let sum: f32 = cover.shares.iter().sum();
                assert!(
                    (sum - 1.0).abs() < 1e-5 && cover.shares.iter().all(|s| *s >= -1e-6),
                    "class {}: {:?}",
                    land.classes[i],
                    cover.shares
                );
                assert!((0.0..=1.0).contains(&cover.snow));
            }
            // Spatial structure: a pixel nearly always has its right neighbour's class; at random it would have 1 in 8.
            let same = (0..px * px).filter(|i| i % px + 1 < px && land.classes[*i] == land.classes[i + 1]).count();
            assert!(same * 100 > 80 * px * (px - 1), "{same}");
        }
    }
}
