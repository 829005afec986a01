// What happens to a product before it is stored.
override EPILOGUE: u32 = 0u;
const PLAIN: u32 = 0u;     // c = ab + bias, or c += ab
const RESIDUAL: u32 = 1u;  // c = extra + ab + bias
const GELU: u32 = 2u;      // c = GELU(ab + bias), extra = GELU'(ab + bias)
const SCALED: u32 = 3u;    // c = ab extra
