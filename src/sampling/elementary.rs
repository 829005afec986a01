//! The arc cosine and the logarithm of eight numbers at once, to the last digits of f64.

use super::lanes::Lanes;

/// acos(1 - u) / sqrt(2 u) on [0, 1]: Chebyshev economisation of its Taylor series, |error| < 2e-16.
const ACOS: [f64; 19] = [
    1.0,
    0.083_333_333_333_323_49,
    0.018_750_000_001_162_413,
    0.005_580_357_088_507_348,
    0.001_898_872_867_483_329_8,
    0.000_699_109_877_778_776_8,
    0.000_271_336_534_718_340_2,
    0.000_107_714_011_893_507_13,
    5.210_691_930_084_304e-5,
    -7.066_119_637_457_912e-6,
    8.198_522_318_920_595e-5,
    -0.000_154_941_315_828_919_79,
    0.000_260_923_913_440_578,
    -0.000_320_532_524_455_055_9,
    0.000_296_911_935_116_394_17,
    -0.000_198_138_633_570_800_53,
    9.108_286_674_981_246e-5,
    -2.580_144_274_116_013e-5,
    3.480_003_160_888_493_3e-6,
];

/// ln(acos(1 - u) / sqrt(2 u)) on [0, 1], in the same way, |error| < 6e-16.
const LOG_RATIO: [f64; 17] = [
    3.616_900_044_543_396_5e-16,
    0.083_333_333_333_127_69,
    0.015_277_777_797_162_552,
    0.004_210_757_655_644_289,
    0.001_376_226_631_494_968_7,
    0.000_494_094_573_098_757_7,
    0.000_189_777_251_362_979_9,
    6.795_944_342_348_64e-5,
    5.747_170_777_667_917_7e-5,
    -6.221_960_546_112_158e-5,
    0.000_160_822_172_927_101_2,
    -0.000_234_485_949_019_403_52,
    0.000_264_664_885_771_768_66,
    -0.000_208_329_174_153_063_57,
    0.000_112_225_181_745_576_4,
    -3.670_038_319_010_56e-5,
    5.739_487_769_196_796e-6,
];

/// The arc cosine of dot products of unit vectors; values a rounding beyond 1 count as 1, NaN stays NaN.
#[inline(always)]
pub fn acos<S: Lanes>(d: S) -> S {
    let (zero, one) = (S::splat(0.0), S::splat(1.0));
    let u = one.sub(d.abs());
    let u = zero.pick(u, zero, u);
    let mut p = S::splat(ACOS[18]);
    for &c in ACOS[..18].iter().rev() {
        p = p.mul_add(u, S::splat(c));
    }
    let near = u.add(u).sqrt().mul(p);
    zero.pick(d, S::splat(std::f64::consts::PI).sub(near), near)
}

/// ln(acos(1 - u) / sqrt(2 u)) for u in [0, 1].
#[inline(always)]
pub fn log_ratio<S: Lanes>(u: S) -> S {
    let mut p = S::splat(LOG_RATIO[16]);
    for &c in LOG_RATIO[..16].iter().rev() {
        p = p.mul_add(u, S::splat(c));
    }
    p
}

/// The natural logarithm of positive normal numbers: m 2^e with m in (sqrt(1/2), sqrt(2)], ln m = 2 atanh((m-1)/(m+1)).
#[inline(always)]
pub fn ln<S: Lanes>(x: S) -> S {
    let one = S::splat(1.0);
    let (e, m) = x.split();
    let root = S::splat(std::f64::consts::SQRT_2);
    let e = m.pick(root, e.add(one), e);
    let m = m.pick(root, m.mul(S::splat(0.5)), m);
    let s = m.sub(one).div(m.add(one));
    let s2 = s.mul(s);
    let mut p = S::splat(1.0 / 21.0);
    for k in [19.0, 17.0, 15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0] {
        p = p.mul_add(s2, S::splat(1.0 / k));
    }
    e.mul_add(S::splat(std::f64::consts::LN_2), s.add(s).mul(p.mul_add(s2, one)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampling::lanes::{LANES, Plain, vectorised};

    vectorised! { fn fast_acos<S>(d: &[f64]) -> [f64; LANES] { acos(S::load(d, 0)).to_array() } }
    vectorised! { fn fast_ln<S>(d: &[f64]) -> [f64; LANES] { ln(S::load(d, 0)).to_array() } }

    #[test]
    fn acos_agrees_with_the_library() {
        let all: Vec<f64> = (0..80_000).map(|i| f64::from(i) / 39_999.5 - 1.0).collect();
        for d in all.chunks_exact(LANES) {
            for (&d, ours) in d.iter().zip(fast_acos(d)) {
                assert!((ours - d.acos()).abs() < 1e-15, "acos {d}: {ours} {}", d.acos());
            }
        }
        assert_eq!(fast_acos(&[1.0 + 1e-15; LANES])[0], 0.0);
        assert!(fast_acos(&[f64::NAN; LANES])[0].is_nan());
    }

    #[test]
    fn ln_agrees_with_the_library() {
        let all: Vec<f64> =
            (-60..60).flat_map(|e| (0..80).map(move |m| (1.0 + f64::from(m) / 80.0) * 2f64.powi(e))).collect();
        for x in all.chunks_exact(LANES) {
            for (&x, ours) in x.iter().zip(fast_ln(x)) {
                assert!((ours - x.ln()).abs() <= 4e-16 * x.ln().abs().max(0.5), "ln {x}: {ours} {}", x.ln());
            }
        }
    }

    vectorised! { fn fast_log_ratio<S>(d: &[f64]) -> [f64; LANES] { log_ratio(S::load(d, 0)).to_array() } }

    #[test]
    fn log_ratio_agrees_with_the_library() {
        let all: Vec<f64> = (1..=8000).map(|i| f64::from(i) / 8000.0).collect();
        for u in all.chunks_exact(LANES) {
            for (&u, ours) in u.iter().zip(fast_log_ratio(u)) {
                let exact = ((1.0 - u).acos() / (2.0 * u).sqrt()).ln();
                assert!((ours - exact).abs() < 1e-12, "{u}: {ours} {exact}");
            }
        }
    }

    #[test]
    fn vectors_give_the_bits_of_plain_code() {
        let all: Vec<f64> = (0..8000).map(|i| f64::from(i) / 8000.0 + 1e-9).collect();
        for d in all.chunks_exact(LANES) {
            assert_eq!(fast_acos(d), acos(Plain::load(d, 0)).to_array());
            assert_eq!(fast_ln(d), ln(Plain::load(d, 0)).to_array());
        }
    }
}
