// Exact GELU (Hendrycks and Gimpel 2016), x Phi(x), and its derivative, Phi(x) + x phi(x). The file says what Values are: a vector.
struct Gelu {
    y: Values,
    slope: Values,
}

// Phi to 7.5e-8 (Abramowitz and Stegun 7.1.26).
fn gelu(x: Values) -> Gelu {
    let u = abs(x) * 0.70710678;
    let e = exp(-u * u);
    let t = 1.0 / (1.0 + 0.3275911 * u);
    let poly = t * (0.127414796 + t * (-0.142248368 + t * (0.7107068705 + t * (-0.7265760135 + t * 0.5307027145))));
    let tail = poly * e;
    let phi = select(1.0 - tail, tail, x < Values(0.0));
    return Gelu(x * phi, phi + x * 0.39894228 * e);
}
