//! Layers: structs of parameters with `new` and `forward`.
//!
//! Every layer has a leading group axis: the same layer of several encoders or decoders is one stack of parameters and
//! one launch. Values are [groups, batch * tokens, width] throughout.
//!
//! Architecture Invariant: nothing here names wgpu.

mod attention;
mod block;
mod linear;
mod mlp;
mod norm;
mod patch_embed;
mod soft_moe;

pub use attention::Attention;
pub use block::{Block, FeedForward};
pub use linear::Linear;
pub use mlp::Mlp;
pub use norm::{LayerNorm, RmsNorm};
pub use patch_embed::{PatchEmbed, sin_cos_table};
pub use soft_moe::{Router, Routing, Slots, SoftMoe, SoftMoeConfig};

/// How the rows of a value group into sequences: `batch` sequences of `tokens` in every group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequences {
    pub batch: usize,
    pub tokens: usize,
}
