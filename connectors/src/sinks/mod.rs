//! Sinks: where rows go. One file each.

use std::path::PathBuf;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use millstream_engine::Result;
use millstream_engine::catalogue::{Kind, Planned};
use serde_json::Value;

use crate::broker::Append;

/// A sink's entry. It is planned against the schema of the rows that it gets, the engine's columns first;
/// those are not written unless a configuration asks for them.
pub type SinkKind = Kind<fn(&Value, &SchemaRef) -> Planned<PlannedSink>>;

/// A planned sink; nothing has been opened yet.
pub struct PlannedSink {
    /// The topic that it writes, if it does: the run creates it when it is missing on the embedded broker.
    pub topic: Option<(String, u32)>,
    /// Opens it; relative paths are relative to the given folder.
    pub open: Box<dyn Fn(&PathBuf) -> Result<Box<dyn Sink>> + Send + Sync>,
}

/// Writes rows.
pub trait Sink: Send {
    /// What the rows add to the transaction that commits their epoch, if the sink writes to a topic.
    /// `rows` are in canonical order.
    fn prepare(&mut self, rows: &RecordBatch) -> Result<Option<Append>>;

    /// Called once the epoch is committed, with the same rows: for sinks outside the broker, which therefore
    /// write at least once.
    fn committed(&mut self, rows: &RecordBatch) -> Result<()>;
}

/// All sinks.
pub static KINDS: &[&SinkKind] = &[];
