//! Every kernel against its f64 reference, on whatever adapter is here.

mod harness;

mod adamw;
mod basic;
mod cls_rows;
mod gram;
mod masked_loss;
mod nt_xent;
mod portability;
mod prepare;
mod reduce;
