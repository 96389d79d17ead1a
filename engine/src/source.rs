//! What a connector author writes: a source that can be read again from any offset, and a decoder.

use std::time::Duration;

use arrow::array::RecordBatch;

use crate::Result;
use crate::raw::RawBatch;

/// A place in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Position {
    /// The partition.
    pub partition: u32,
    /// The offset of the next record.
    pub offset: u64,
}

/// A replayable input: the same offsets give the same records for ever.
pub trait Source: Send + Sync + 'static {
    /// The partitions that there are; more may appear later.
    fn partitions(&self) -> Result<Vec<u32>>;

    /// Starts reading at `from`; a partition without a position is not read.
    /// Retention that has passed a position is an error, never a skip.
    fn open(&self, from: &[Position]) -> Result<Box<dyn Reader>>;

    /// Whether it ends (files, bounded generators). A topic does not. The readers of one that ends give `None` only
    /// there, and nothing after it.
    fn is_finite(&self) -> bool;

    /// What tells whether it gives the same records as it did once: of files, their names, lengths and times of change.
    fn fingerprint(&self) -> Result<String> {
        Ok(String::new())
    }

    /// The line that names the values of a partition's records, where it has one (CSV files do).
    fn header(&self, _partition: u32) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }
}

/// Reads a source in offset order per partition. Its thread belongs to the engine.
pub trait Reader: Send {
    /// The next records, of one partition, about `max_bytes` of them (one larger record comes alone);
    /// `None` when there are none now, after waiting `wait` at most for some.
    fn read(&mut self, max_bytes: usize, wait: Duration) -> Result<Option<RawBatch>>;

    /// For each partition, the offset after its last record, as far as known: for lag and for idleness.
    fn ends(&mut self) -> Result<Vec<Position>>;
}

/// What a decoder made of some records.
pub struct Decoded {
    /// The rows, in record order, with the source's declared columns.
    pub rows: RecordBatch,
    /// For each row, the index of its record. Several rows may share one.
    pub record: Vec<u32>,
    /// Records that could not be read, with the reasons, in record order.
    pub rejects: Vec<(u32, String)>,
}

/// Turns records into typed columns. One instance a worker, so it may keep buffers, but it has no state:
/// equal records always give equal rows.
pub trait Decoder: Send {
    /// Decodes all records. A bad one is rejected; the rest is unharmed.
    fn decode(&mut self, raw: &RawBatch) -> Result<Decoded>;

    /// Says how the values of a partition's records are named: see [`Source::header`]. Decoders whose records name their
    /// values themselves need not know.
    fn name(&mut self, _partition: u32, _header: &[u8]) {}
}

/// Makes a decoder for each worker.
pub type MakeDecoder = std::sync::Arc<dyn Fn() -> Box<dyn Decoder> + Send + Sync>;
