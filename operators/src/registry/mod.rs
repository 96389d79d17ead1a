//! Promoted versions: `<model>/<version>/` with the model's files and `metadata.json`, in a folder or in a bucket.
//!
//! A version is named by the content of its files, and comes and goes at one moment: so there is all of a version or nothing,
//! and the same revision is never there twice (`artefacts/`).
//!
//! What changes lies in a database, `registry.sqlite` beside the versions or `PostgreSQL`: aliases, tags, descriptions, the numbers
//! of versions, and a history that is only added to (`database/`). The versions are the truth: without the database all of them are
//! there, and a registry that never had one is as one whose database is empty. Versions of a model are numbered from 1 in the
//! order of their promotion; a number is not given twice, as long as the database is kept.

mod artefacts;
mod card;
mod changes;
mod compare;
mod database;
mod gates;
mod measures;
mod notes;
mod promotion;
mod select;
mod store;
mod tar;
#[cfg(test)]
mod tests;
mod transfer;
mod version;

pub use card::Recipe;
pub use changes::{About, Edit, Entry, Tolerance};
pub use compare::{Compared, Comparison, Difference};
pub use gates::{Gate, Judged};
pub use measures::{DECISIVE, best_baseline, decisive, less_is_better};
pub use notes::{Author, Event};
pub use promotion::{PromotionConfig, PromotionRule};
pub use select::select;
pub use store::{Listed, Notebook, Place, Registry, check_database};
pub use version::{DESCRIPTION, Drift, EXPLANATION, Metadata, Promotion, Score, Version};
