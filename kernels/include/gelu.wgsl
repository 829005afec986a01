// The normal distribution function Phi at x to 7.5e-8 (Abramowitz and Stegun 7.1.26), and exp(-x^2 / 2).
fn normal(x: f32) -> vec2<f32> {
    let u = abs(x) * 0.70710678;
    let e = exp(-u * u);
    let t = 1.0 / (1.0 + 0.3275911 * u);
    let poly = t * (0.127414796 + t * (-0.142248368 + t * (0.7107068705 + t * (-0.7265760135 + t * 0.5307027145))));
    let tail = poly * e;
    return vec2<f32>(select(1.0 - tail, tail, x < 0.0), e);
}

// Exact GELU (Hendrycks and Gimpel 2016), x Phi(x), and its derivative, Phi(x) + x phi(x).
fn gelu(x: f32) -> vec2<f32> {
    let n = normal(x);
    return vec2<f32>(x * n.x, n.x + x * 0.39894228 * n.y);
}
