//! The engine: epochs, batches, lanes, operators and their state, mounted on timely dataflow.
//!
//! It knows no file format, no Kafka, no learning and no definition files.

pub mod batch;
pub mod binder;
pub mod binding;
pub mod book;
pub mod catalogue;
pub mod checkpoint;
pub mod digest;
pub mod failpoint;
pub mod fault;
pub mod graph;
mod intake;
pub mod metrics;
mod mount;
pub mod operator;
mod order;
pub mod part;
pub mod processes;
pub mod publish;
pub mod raw;
pub mod run;
pub mod sequence;
pub mod source;
pub mod state;
pub mod time;
pub mod trace;

pub use fault::{Blame, Fault, Result};
