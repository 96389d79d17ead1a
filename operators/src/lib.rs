//! Operators: cleansing, training, the registry, inference, profiles, sketches, and the models' pure arithmetic.

pub mod cleansing;
pub mod expression;
pub mod inference;
pub mod models;
pub mod profile;
pub mod registry;
pub mod sketch;
pub mod training;
