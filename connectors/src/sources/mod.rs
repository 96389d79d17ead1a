//! Sources: where records come from. One file each.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use millstream_engine::Result;
use millstream_engine::catalogue::{Kind, Planned};
use millstream_engine::source::Source;
use serde_json::Value;

use crate::broker::Broker;

pub mod file;
pub mod generator;
#[cfg(test)]
pub(crate) mod tests;
pub mod topic;

/// A source's entry.
pub type SourceKind = Kind<fn(&Value) -> Planned<PlannedSource>>;

/// A planned source; nothing has been opened yet.
pub struct PlannedSource {
    /// What its records are.
    pub content: Content,
    /// The format that its bytes are most likely in: what a definition that names none means.
    pub format: Option<&'static str>,
    /// The topic that it reads, if it does: the run creates it when it is missing on the embedded broker.
    pub topic: Option<(String, u32)>,
    /// Opens it.
    pub open: OpenSource,
}

/// Opens a planned source.
pub type OpenSource = Box<dyn Fn(&World) -> Result<Arc<dyn Source>> + Send + Sync>;

/// What a source's records are.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// Bytes: the definition names a format and the columns.
    Bytes,
    /// Rows in columns that the definition declares (Parquet); values are cast to the declared types.
    Rows,
    /// Rows in columns that the source knows without looking (a generator): none are declared.
    Known(SchemaRef),
}

/// What a source may touch when it opens.
#[derive(Clone)]
pub struct World {
    /// Where topics live.
    pub broker: Arc<dyn Broker>,
    /// What relative paths in the definition are relative to: its own folder.
    pub folder: PathBuf,
    /// The largest record that is taken, in bytes; larger ones become dead letters.
    pub max_record_bytes: usize,
}

/// All sources.
pub static KINDS: &[&SourceKind] = &[&topic::KIND, &file::KIND, &generator::KIND];
