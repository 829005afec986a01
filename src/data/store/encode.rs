//! Pixels as the fewest bytes that give back the same numbers: whole ones as u16, repeated ones once.

use bytemuck::cast_slice;
use safetensors::Dtype;

/// A tensor of a shard.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

impl Tensor {
    /// A tensor of plain numbers.
    pub fn of<T: bytemuck::NoUninit>(dtype: Dtype, shape: &[usize], values: &[T]) -> Self {
        Self { dtype, shape: shape.to_vec(), bytes: cast_slice(values).to_vec() }
    }
}

/// Whether every 2 x 2 pixels of [.., px, px] are equal: a 20 m band on the 10 m grid.
fn repeated(pixels: &[f32], px: usize) -> bool {
    px.is_multiple_of(2)
        && pixels.chunks_exact(2 * px).all(|rows| {
            let (upper, lower) = rows.split_at(px);
            upper == lower && upper.chunks_exact(2).all(|two| two[0] == two[1])
        })
}

fn whole(pixels: &[f32]) -> bool {
    pixels.iter().all(|x| f32::from(*x as u16) == *x)
}

/// [patches][C, px, px] as one tensor [N, C, side, side] of u16 or f32, side = px or px / 2.
pub fn pixels(patches: &[&[f32]], channels: usize, px: usize) -> Tensor {
    let halve = !patches.is_empty() && patches.iter().all(|p| repeated(p, px));
    let side = if halve { px / 2 } else { px };
    let shape = vec![patches.len(), channels, side, side];
    let count = shape.iter().product();
    if patches.iter().all(|p| whole(p)) {
        let mut numbers: Vec<u16> = Vec::with_capacity(count);
        patches.iter().for_each(|p| thin(p, px, halve, |x| x as u16, &mut numbers));
        Tensor::of(Dtype::U16, &shape, &numbers)
    } else {
        let mut numbers: Vec<f32> = Vec::with_capacity(count);
        patches.iter().for_each(|p| thin(p, px, halve, |x| x, &mut numbers));
        Tensor::of(Dtype::F32, &shape, &numbers)
    }
}

/// Appends a patch, or every second pixel of every second row.
fn thin<T>(patch: &[f32], px: usize, halve: bool, number: impl Fn(f32) -> T, out: &mut Vec<T>) {
    match halve {
        true => patch.chunks_exact(2 * px).for_each(|rows| {
            out.extend(rows[..px].as_chunks::<2>().0.iter().map(|two| number(two[0])));
        }),
        false => out.extend(patch.iter().map(|x| number(*x))),
    }
}

/// One patch of [`pixels`] back: `bytes` [C, side, side] to [C, px, px].
pub fn restore(bytes: &[u8], dtype: Dtype, side: usize, px: usize, out: &mut [f32]) {
    match dtype {
        Dtype::U16 => spread(bytes.as_chunks::<2>().0, |b| f32::from(u16::from_le_bytes(*b)), side, px, out),
        _ => spread(bytes.as_chunks::<4>().0, |b| f32::from_le_bytes(*b), side, px, out),
    }
}

fn spread<B>(stored: &[B], number: impl Fn(&B) -> f32, side: usize, px: usize, out: &mut [f32]) {
    if side == px {
        out.iter_mut().zip(stored).for_each(|(x, b)| *x = number(b));
        return;
    }
    for (rows, line) in out.chunks_exact_mut(2 * px).zip(stored.chunks_exact(side)) {
        let (upper, lower) = rows.split_at_mut(px);
        upper.as_chunks_mut::<2>().0.iter_mut().zip(line).for_each(|(two, b)| *two = [number(b); 2]);
        lower.copy_from_slice(upper);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_numbers_come_back_from_the_fewest_bytes() {
        let px = 6;
        let coarse = |i: usize| ((i / 72) * 10 + i / 12 % 3 * 3 + i % 6 / 2) as f32;
        type Value<'a> = &'a dyn Fn(usize) -> f32;
        let cases: [(Value, Dtype, usize); 5] = [
            (&coarse, Dtype::U16, 3),
            (&|i| coarse(i) - 1.5, Dtype::F32, 3),
            (&|i| i as f32, Dtype::U16, 6),
            (&|i| -(i as f32), Dtype::F32, 6),
            (&|i| i as f32 * 1e4, Dtype::F32, 6),
        ];
        for (number, (value, dtype, side)) in cases.into_iter().enumerate() {
            let patches: Vec<Vec<f32>> = (0..3).map(|p| (0..2 * 36).map(|i| value(i + p)).collect()).collect();
            let patches = if side == 3 { vec![patches[0].clone(); 3] } else { patches };
            let views: Vec<&[f32]> = patches.iter().map(Vec::as_slice).collect();
            let tensor = pixels(&views, 2, px);
            assert_eq!((tensor.dtype, &tensor.shape[..]), (dtype, &[3, 2, side, side][..]), "case {number}");
            let size = tensor.bytes.len() / 3;
            for (patch, bytes) in patches.iter().zip(tensor.bytes.chunks_exact(size)) {
                let mut out = vec![f32::NAN; 72];
                restore(bytes, dtype, side, px, &mut out);
                assert_eq!(&out, patch, "case {number}");
            }
        }
    }
}
