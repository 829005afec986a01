//! What a trained model is asked, and whether the arithmetic under it is right.

pub mod doctor;
