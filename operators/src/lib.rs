//! Operators: cleansing, training, the registry, inference, sketches, and the models' pure arithmetic.

pub mod cleansing;
pub mod expression;
pub mod inference;
pub mod models;
pub mod registry;
pub mod sketch;
pub mod training;
