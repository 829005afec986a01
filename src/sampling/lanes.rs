//! Arithmetic on eight f64 at once: AVX-512, AVX2 or plain code, chosen at run time.
//!
//! Every operation is an exactly rounded IEEE one, and kernels fix their order, so results are the same bits on every
//! processor.

use std::sync::atomic::{AtomicU8, Ordering};

/// Lanes of a chunk.
pub const LANES: usize = 8;
/// Integers that [`Lanes::prefix`] compares at once.
pub const PREFIX: usize = 16;

/// Eight numbers. Comparisons with NaN are false.
pub trait Lanes: Copy {
    /// `a` in every lane.
    fn splat(a: f64) -> Self;
    /// `from[at..at + 8]`.
    fn load(from: &[f64], at: usize) -> Self;
    /// Into `to[at..at + 8]`.
    fn store(self, to: &mut [f64], at: usize);
    fn to_array(self) -> [f64; LANES];
    /// self * b + c, rounded once.
    fn mul_add(self, b: Self, c: Self) -> Self;
    fn add(self, b: Self) -> Self;
    fn sub(self, b: Self) -> Self;
    fn mul(self, b: Self) -> Self;
    fn div(self, b: Self) -> Self;
    fn sqrt(self) -> Self;
    fn abs(self) -> Self;
    /// Where self > b: x, elsewhere y.
    fn pick(self, b: Self, x: Self, y: Self) -> Self;
    /// Whether self > b anywhere.
    fn any_greater(self, b: Self) -> bool;
    /// A bit for each lane where self < b < c.
    fn below(self, b: Self, c: Self) -> u32;
    /// The greatest lane; NaN may count as anything.
    fn greatest(self) -> f64;
    /// The first lane equal to `a`, or 0.
    fn first_equal(self, a: f64) -> usize;
    /// How many of 16 integers are equal before the first that differ: `a[i..]` and `b[j..]`.
    fn prefix(a: &[u32], i: usize, b: &[u32], j: usize) -> usize;
    /// e and m in [1, 2) with self = m 2^e, for positive normal numbers.
    fn split(self) -> (Self, Self);
}

/// The sum of the lanes, in a fixed order.
#[inline(always)]
pub fn sum<S: Lanes>(c: S) -> f64 {
    let c = c.to_array();
    ((c[0] + c[4]) + (c[2] + c[6])) + ((c[1] + c[5]) + (c[3] + c[7]))
}

/// No vectors: the specification of the other two.
#[derive(Clone, Copy, Debug)]
pub struct Plain([f64; LANES]);

impl Plain {
    #[inline(always)]
    fn zip(self, b: Self, f: impl Fn(f64, f64) -> f64) -> Self {
        Plain(std::array::from_fn(|l| f(self.0[l], b.0[l])))
    }
}

impl Lanes for Plain {
    #[inline(always)]
    fn splat(a: f64) -> Self {
        Plain([a; LANES])
    }
    #[inline(always)]
    fn load(from: &[f64], at: usize) -> Self {
        Plain(from[at..at + LANES].try_into().expect("eight elements"))
    }
    #[inline(always)]
    fn store(self, to: &mut [f64], at: usize) {
        to[at..at + LANES].copy_from_slice(&self.0);
    }
    #[inline(always)]
    fn to_array(self) -> [f64; LANES] {
        self.0
    }
    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        Plain(std::array::from_fn(|l| self.0[l].mul_add(b.0[l], c.0[l])))
    }
    #[inline(always)]
    fn add(self, b: Self) -> Self {
        self.zip(b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, b: Self) -> Self {
        self.zip(b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, b: Self) -> Self {
        self.zip(b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, b: Self) -> Self {
        self.zip(b, |a, b| a / b)
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        Plain(self.0.map(f64::sqrt))
    }
    #[inline(always)]
    fn abs(self) -> Self {
        Plain(self.0.map(f64::abs))
    }
    #[inline(always)]
    fn pick(self, b: Self, x: Self, y: Self) -> Self {
        Plain(std::array::from_fn(|l| if self.0[l] > b.0[l] { x.0[l] } else { y.0[l] }))
    }
    #[inline(always)]
    fn any_greater(self, b: Self) -> bool {
        (0..LANES).any(|l| self.0[l] > b.0[l])
    }
    #[inline(always)]
    fn below(self, b: Self, c: Self) -> u32 {
        (0..LANES).map(|l| u32::from(self.0[l] < b.0[l] && b.0[l] < c.0[l]) << l).sum()
    }
    #[inline(always)]
    fn greatest(self) -> f64 {
        self.0.into_iter().fold(f64::NEG_INFINITY, |m, a| if a > m { a } else { m })
    }
    #[inline(always)]
    fn first_equal(self, a: f64) -> usize {
        self.0.iter().position(|&b| b == a).unwrap_or(0)
    }
    #[inline(always)]
    fn prefix(a: &[u32], i: usize, b: &[u32], j: usize) -> usize {
        a[i..i + PREFIX].iter().zip(&b[j..j + PREFIX]).take_while(|(a, b)| a == b).count()
    }
    #[inline(always)]
    fn split(self) -> (Self, Self) {
        let e = |a: f64| (a.to_bits() >> 52) as f64 - 1023.0;
        let m = |a: f64| f64::from_bits(a.to_bits() & 0x000F_FFFF_FFFF_FFFF | 0x3FF0_0000_0000_0000);
        (Plain(self.0.map(e)), Plain(self.0.map(m)))
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{LANES, Lanes, PREFIX};
    use std::arch::x86_64::*;

    /// AVX-512: one register. Only made inside functions that [`super::level`] lets run.
    #[derive(Clone, Copy)]
    pub struct Wide(__m512d);

    /// AVX2: two registers.
    #[derive(Clone, Copy)]
    pub struct Middle(__m256d, __m256d);

    // SAFETY, here and below: `vectorised!` calls code on these types only after the processor said that it has the
    // instructions, and `load` checks its bounds.
    macro_rules! wide {
        ($($name:ident($($arg:ident),*) = $instruction:ident;)*) => { $(
            #[inline(always)]
            fn $name(self, $($arg: Self),*) -> Self {
                Wide(unsafe { $instruction(self.0, $($arg.0),*) })
            }
        )* };
    }
    macro_rules! middle {
        ($($name:ident($($arg:ident),*) = $instruction:ident;)*) => { $(
            #[inline(always)]
            fn $name(self, $($arg: Self),*) -> Self {
                unsafe { Middle($instruction(self.0, $($arg.0),*), $instruction(self.1, $($arg.1),*)) }
            }
        )* };
    }

    impl Lanes for Wide {
        #[inline(always)]
        fn splat(a: f64) -> Self {
            Wide(unsafe { _mm512_set1_pd(a) })
        }
        #[inline(always)]
        fn load(from: &[f64], at: usize) -> Self {
            Wide(unsafe { _mm512_loadu_pd(from[at..at + LANES].as_ptr()) })
        }
        #[inline(always)]
        fn to_array(self) -> [f64; LANES] {
            let mut out = [0.0; LANES];
            unsafe { _mm512_storeu_pd(out.as_mut_ptr(), self.0) };
            out
        }
        #[inline(always)]
        fn store(self, to: &mut [f64], at: usize) {
            unsafe { _mm512_storeu_pd(to[at..at + LANES].as_mut_ptr(), self.0) }
        }
        #[inline(always)]
        fn below(self, b: Self, c: Self) -> u32 {
            unsafe {
                u32::from(_mm512_cmp_pd_mask::<_CMP_LT_OQ>(self.0, b.0) & _mm512_cmp_pd_mask::<_CMP_LT_OQ>(b.0, c.0))
            }
        }
        #[inline(always)]
        fn greatest(self) -> f64 {
            unsafe { _mm512_reduce_max_pd(self.0) }
        }
        #[inline(always)]
        fn first_equal(self, a: f64) -> usize {
            let mask = unsafe { _mm512_cmp_pd_mask::<_CMP_EQ_OQ>(self.0, _mm512_set1_pd(a)) };
            mask.trailing_zeros() as usize % LANES
        }
        #[inline(always)]
        fn prefix(a: &[u32], i: usize, b: &[u32], j: usize) -> usize {
            let (a, b) = (a[i..i + PREFIX].as_ptr(), b[j..j + PREFIX].as_ptr());
            let same = unsafe { _mm512_cmpeq_epi32_mask(_mm512_loadu_si512(a.cast()), _mm512_loadu_si512(b.cast())) };
            same.trailing_ones() as usize
        }
        wide! {
            mul_add(b, c) = _mm512_fmadd_pd;
            add(b) = _mm512_add_pd;
            sub(b) = _mm512_sub_pd;
            mul(b) = _mm512_mul_pd;
            div(b) = _mm512_div_pd;
            sqrt() = _mm512_sqrt_pd;
            abs() = _mm512_abs_pd;
        }
        #[inline(always)]
        fn pick(self, b: Self, x: Self, y: Self) -> Self {
            Wide(unsafe { _mm512_mask_blend_pd(_mm512_cmp_pd_mask::<_CMP_GT_OQ>(self.0, b.0), y.0, x.0) })
        }
        #[inline(always)]
        fn any_greater(self, b: Self) -> bool {
            unsafe { _mm512_cmp_pd_mask::<_CMP_GT_OQ>(self.0, b.0) != 0 }
        }
        #[inline(always)]
        fn split(self) -> (Self, Self) {
            unsafe {
                (
                    Wide(_mm512_getexp_pd(self.0)),
                    Wide(_mm512_getmant_pd::<_MM_MANT_NORM_1_2, _MM_MANT_SIGN_SRC>(self.0)),
                )
            }
        }
    }

    impl Lanes for Middle {
        #[inline(always)]
        fn splat(a: f64) -> Self {
            unsafe { Middle(_mm256_set1_pd(a), _mm256_set1_pd(a)) }
        }
        #[inline(always)]
        fn load(from: &[f64], at: usize) -> Self {
            let from = from[at..at + LANES].as_ptr();
            unsafe { Middle(_mm256_loadu_pd(from), _mm256_loadu_pd(from.add(4))) }
        }
        #[inline(always)]
        fn to_array(self) -> [f64; LANES] {
            let mut out = [0.0; LANES];
            unsafe {
                _mm256_storeu_pd(out.as_mut_ptr(), self.0);
                _mm256_storeu_pd(out.as_mut_ptr().add(4), self.1);
            }
            out
        }
        #[inline(always)]
        fn store(self, to: &mut [f64], at: usize) {
            let to = to[at..at + LANES].as_mut_ptr();
            unsafe {
                _mm256_storeu_pd(to, self.0);
                _mm256_storeu_pd(to.add(4), self.1);
            }
        }
        #[inline(always)]
        fn below(self, b: Self, c: Self) -> u32 {
            #[inline(always)]
            unsafe fn four(a: __m256d, b: __m256d, c: __m256d) -> u32 {
                unsafe {
                    let both = _mm256_and_pd(_mm256_cmp_pd::<_CMP_LT_OQ>(a, b), _mm256_cmp_pd::<_CMP_LT_OQ>(b, c));
                    _mm256_movemask_pd(both) as u32
                }
            }
            unsafe { four(self.0, b.0, c.0) | four(self.1, b.1, c.1) << 4 }
        }
        #[inline(always)]
        fn greatest(self) -> f64 {
            unsafe {
                let four = _mm256_max_pd(self.0, self.1);
                let two = _mm_max_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd::<1>(four));
                _mm_cvtsd_f64(_mm_max_sd(two, _mm_unpackhi_pd(two, two)))
            }
        }
        #[inline(always)]
        fn first_equal(self, a: f64) -> usize {
            let mask = unsafe {
                let a = _mm256_set1_pd(a);
                let low = _mm256_movemask_pd(_mm256_cmp_pd::<_CMP_EQ_OQ>(self.0, a));
                low | _mm256_movemask_pd(_mm256_cmp_pd::<_CMP_EQ_OQ>(self.1, a)) << 4
            };
            mask.trailing_zeros() as usize % LANES
        }
        #[inline(always)]
        fn prefix(a: &[u32], i: usize, b: &[u32], j: usize) -> usize {
            let (a, b) = (a[i..i + PREFIX].as_ptr(), b[j..j + PREFIX].as_ptr());
            #[inline(always)]
            unsafe fn eight(a: *const u32, b: *const u32) -> u32 {
                unsafe {
                    let same = _mm256_cmpeq_epi32(_mm256_loadu_si256(a.cast()), _mm256_loadu_si256(b.cast()));
                    _mm256_movemask_ps(_mm256_castsi256_ps(same)) as u32
                }
            }
            let same = unsafe { eight(a, b) | eight(a.add(8), b.add(8)) << 8 };
            same.trailing_ones() as usize
        }
        middle! {
            mul_add(b, c) = _mm256_fmadd_pd;
            add(b) = _mm256_add_pd;
            sub(b) = _mm256_sub_pd;
            mul(b) = _mm256_mul_pd;
            div(b) = _mm256_div_pd;
            sqrt() = _mm256_sqrt_pd;
        }
        #[inline(always)]
        fn abs(self) -> Self {
            unsafe {
                let sign = _mm256_set1_pd(-0.0);
                Middle(_mm256_andnot_pd(sign, self.0), _mm256_andnot_pd(sign, self.1))
            }
        }
        #[inline(always)]
        fn pick(self, b: Self, x: Self, y: Self) -> Self {
            unsafe {
                Middle(
                    _mm256_blendv_pd(y.0, x.0, _mm256_cmp_pd::<_CMP_GT_OQ>(self.0, b.0)),
                    _mm256_blendv_pd(y.1, x.1, _mm256_cmp_pd::<_CMP_GT_OQ>(self.1, b.1)),
                )
            }
        }
        #[inline(always)]
        fn any_greater(self, b: Self) -> bool {
            unsafe {
                let (low, high) = (_mm256_cmp_pd::<_CMP_GT_OQ>(self.0, b.0), _mm256_cmp_pd::<_CMP_GT_OQ>(self.1, b.1));
                _mm256_movemask_pd(_mm256_or_pd(low, high)) != 0
            }
        }
        #[inline(always)]
        fn split(self) -> (Self, Self) {
            #[inline(always)]
            unsafe fn half(a: __m256d) -> (__m256d, __m256d) {
                unsafe {
                    let bits = _mm256_castpd_si256(a);
                    // An integer below 2^52 put in the mantissa of 2^52 is that integer plus 2^52.
                    let shifted =
                        _mm256_or_si256(_mm256_srli_epi64::<52>(bits), _mm256_set1_epi64x(0x4330_0000_0000_0000));
                    let e =
                        _mm256_sub_pd(_mm256_castsi256_pd(shifted), _mm256_set1_pd(4_503_599_627_370_496.0 + 1023.0));
                    let m = _mm256_and_si256(bits, _mm256_set1_epi64x(0x000F_FFFF_FFFF_FFFF));
                    (e, _mm256_castsi256_pd(_mm256_or_si256(m, _mm256_set1_epi64x(0x3FF0_0000_0000_0000))))
                }
            }
            let ((e0, m0), (e1, m1)) = unsafe { (half(self.0), half(self.1)) };
            (Middle(e0, e1), Middle(m0, m1))
        }
    }
}
#[cfg(target_arch = "x86_64")]
pub use x86::{Middle, Wide};

/// Defines a function that runs on the widest vectors this processor has; all it calls per chunk must be `#[inline(always)]`.
/// In the body `$lanes` names the vector type.
macro_rules! vectorised {
    ($(#[$meta:meta])* $vis:vis fn $name:ident<$lanes:ident>($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[inline]
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body<$lanes: $crate::sampling::lanes::Lanes>($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                use $crate::sampling::lanes::{Level, Middle, Wide, level};
                #[target_feature(enable = "avx512f,avx512dq,avx512vl,avx512bw,avx2,fma")]
                fn wide($($arg: $ty),*) $(-> $ret)? {
                    body::<Wide>($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn middle($($arg: $ty),*) $(-> $ret)? {
                    body::<Middle>($($arg),*)
                }
                match level() {
                    // SAFETY: the processor has just said that it has these instructions.
                    Level::Wide => return unsafe { wide($($arg),*) },
                    // SAFETY: as above.
                    Level::Middle => return unsafe { middle($($arg),*) },
                    Level::Plain => {}
                }
            }
            body::<$crate::sampling::lanes::Plain>($($arg),*)
        }
    };
}
pub(crate) use vectorised;

/// What vector code this processor runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// What the target has anyway.
    Plain = 1,
    /// AVX2 and FMA.
    Middle = 2,
    /// AVX-512.
    Wide = 3,
}

/// The level in use; 0 before anyone asked.
static IN_USE: AtomicU8 = AtomicU8::new(0);

/// The level in use: the best of this processor, or the one of [`limit`].
#[inline]
pub fn level() -> Level {
    match IN_USE.load(Ordering::Relaxed) {
        3 => Level::Wide,
        2 => Level::Middle,
        1 => Level::Plain,
        _ => limit(Level::Wide),
    }
}

/// Uses no more than `most` from now on, for tests and benches: results are the same bits. Returns what is used.
#[cold]
pub fn limit(most: Level) -> Level {
    let level = detect().min(most);
    IN_USE.store(level as u8, Ordering::Relaxed);
    level
}

fn detect() -> Level {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            let wide = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512bw");
            return if wide { Level::Wide } else { Level::Middle };
        }
    }
    Level::Plain
}
