//! Operators: cleansing, training, the registry, inference, and the models' pure arithmetic.

pub mod cleansing;
pub mod expression;
pub mod inference;
pub mod models;
pub mod registry;
pub mod training;
