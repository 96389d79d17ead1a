//! Checkpoints: all state for the epochs before one epoch, so that a restart replays only what came after.

mod store;

pub use store::{Object, Store};
