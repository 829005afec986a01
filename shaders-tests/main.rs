//! Every kernel against its f64 reference, on whatever adapter is here.

mod harness;

mod attention;
mod basic;
mod matmul;
mod norms;
mod portability;
mod reduce;
mod tokens;
