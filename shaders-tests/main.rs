//! Every kernel against its f64 reference, on whatever adapter is here.

mod harness;

mod adamw;
mod attention;
mod basic;
mod eval;
mod geodesic;
mod gram;
mod masked_loss;
mod matmul;
mod norms;
mod nt_xent;
mod portability;
mod prepare;
mod reduce;
mod step;
mod tokens;
mod train;
