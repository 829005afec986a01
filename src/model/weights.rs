//! safetensors in and out.
