//! The engine: epochs, batches, lanes, operators and their state, mounted on timely dataflow.
//!
//! It knows no file format, no Kafka, no learning and no definition files.

pub mod batch;
pub mod binding;
pub mod catalogue;
pub mod fault;
pub mod operator;
pub mod raw;
pub mod source;
pub mod state;
pub mod time;

pub use fault::{Blame, Fault, Result};
