//! Promoted versions on disk: `<folder>/<model>/<version>/` with the model's files and `metadata.json`.
//!
//! A version is named by the content of its files, written under a temporary name and renamed when all of it is
//! durable: so there is all of a version or nothing, and the same revision is never there twice.

mod gates;
mod measures;
mod promotion;
mod store;
#[cfg(test)]
mod tests;
mod version;

pub use gates::{Gate, Judged};
pub use measures::less_is_better;
pub use promotion::{DECISIVE, PromotionConfig, PromotionRule};
pub use store::{Listed, Registry};
pub use version::{Metadata, Promotion, Score, Version};
