//! Sinks: where rows go. One file each.

use std::path::PathBuf;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use millstream_engine::Result;
use millstream_engine::batch::{INDEX, META, OFFSET, PARTITION, SOURCE, TIME};
use millstream_engine::catalogue::{Kind, Planned};
use serde_json::Value;

use crate::broker::Append;

pub mod file;
pub mod stdout;
#[cfg(test)]
pub(crate) mod tests;
pub mod topic;

/// A sink's entry. It is planned against the schema of the rows that it gets, the engine's columns first;
/// those are not written unless a configuration asks for them.
pub type SinkKind = Kind<fn(&Value, &SchemaRef) -> Planned<PlannedSink>>;

/// A planned sink; nothing has been opened yet.
pub struct PlannedSink {
    /// The topic that it writes, if it does: the run creates it when it is missing on the embedded broker.
    pub topic: Option<(String, u32)>,
    /// Opens it; relative paths are relative to the given folder.
    pub open: OpenSink,
}

/// Opens a planned sink.
pub type OpenSink = Box<dyn Fn(&PathBuf) -> Result<Box<dyn Sink>> + Send + Sync>;

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
pub static KINDS: &[&SinkKind] = &[&topic::KIND, &file::KIND, &stdout::KIND];

/// The columns that a sink writes: those of the stream, and with `meta` each row's origin and event time before them.
#[derive(Clone)]
struct Written {
    columns: Vec<usize>,
    schema: SchemaRef,
}

impl Written {
    fn new(schema: &SchemaRef, meta: bool) -> Self {
        let origin: &[usize] = if meta { &[SOURCE, PARTITION, OFFSET, INDEX, TIME] } else { &[] };
        let columns: Vec<usize> = origin.iter().copied().chain(META..schema.fields().len()).collect();
        let schema = schema.project(&columns).expect("these columns are there").into();
        Self { columns, schema }
    }

    fn of(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        Ok(rows.project(&self.columns)?)
    }
}
