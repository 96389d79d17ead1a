//! The registry as MLflow's clients know it: they search, read, alias, tag and download versions over HTTP.
//!
//! ```text
//! connection ─ server ─► request, under limits ─ routes ─► Registry ─ views ─► JSON, or a file's bytes
//! ```
//!
//! A registered model is a model with at least one version; a version's number is its place in the order of promotion, and
//! the registry's id stands in the tag `millstream.id`. Only what is noted of versions can be changed: versions come from
//! runs and imports, and go by `millstream models delete`.

mod filter;
mod routes;
mod server;
#[cfg(test)]
mod tests;
mod views;

pub use server::{Server, Settings};
