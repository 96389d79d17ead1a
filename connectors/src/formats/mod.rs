//! Formats: bytes into typed columns, and back. One file each.

use std::sync::Arc;

use arrow::array::{BinaryArray, RecordBatch};
use arrow::datatypes::SchemaRef;
use millstream_engine::Result;
use millstream_engine::catalogue::{Kind, Planned};
use millstream_engine::source::MakeDecoder;
use serde_json::Value;

/// A format's entry. It is planned against the declared columns (without the engine's), which it decodes into or encodes.
pub type FormatKind = Kind<fn(&Value, &SchemaRef) -> Planned<Format>>;

/// A planned format.
#[derive(Clone)]
pub struct Format {
    /// Bytes into columns.
    pub decoder: MakeDecoder,
    /// Columns into bytes.
    pub encoder: MakeEncoder,
}

/// Makes an encoder.
pub type MakeEncoder = Arc<dyn Fn() -> Box<dyn Encoder> + Send + Sync>;

/// Turns rows into records.
pub trait Encoder: Send {
    /// One record for each row. `rows` have the schema that the format was planned with.
    fn encode(&mut self, rows: &RecordBatch) -> Result<BinaryArray>;
}

/// All formats.
pub static KINDS: &[&FormatKind] = &[];
