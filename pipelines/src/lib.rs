//! Pipelines: reads a definition file, checks everything at once, and plans it.
//!
//! ```text
//! file ─ definition ─► tree with spans ─ check ─► Pipeline (planned, nothing opened)
//!                                          └────► Report (all findings at once)
//! ```

pub mod audit;
pub mod catalogue;
mod check;
pub mod ci;
pub mod dashboard;
pub mod dead;
pub mod definition;
pub mod diff;
pub mod fingerprint;
pub mod front;
pub mod graph;
pub mod learn;
pub mod list;
mod load;
pub mod optimise;
pub mod origin;
pub mod pattern;
pub mod plan;
pub mod profile;
pub mod registry;
pub mod registry_api;
pub mod report;
pub mod run;
pub mod schema;
pub mod shape;
pub mod stored;
pub mod sweep;
pub mod testing;

pub use check::check;
pub use load::{inspect, load};
