//! Sources: where records come from. One file each.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use millstream_engine::Result;
use millstream_engine::catalogue::{Kind, Planned, Problem};
use millstream_engine::source::Source;
use serde_json::Value;

use self::intake::{Inlet, Receiver};
use crate::broker::Broker;

pub mod file;
pub mod generator;
pub mod http;
pub mod intake;
pub mod mqtt;
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
    /// What fills that topic, if its records come from where nobody keeps them. It has its topic once
    /// [`in_topic`](Self::in_topic) has said which.
    pub receiver: Option<PlannedReceiver>,
    /// Opens it.
    pub open: OpenSource,
}

/// What takes in records that cannot be read again, and puts them into a topic, from which they can.
pub struct PlannedReceiver {
    /// The topic that its configuration names.
    pub topic: Option<String>,
    /// How many partitions that topic gets where it has to be created.
    pub partitions: u32,
    /// Starts it.
    pub start: StartReceiver,
}

/// Starts a receiver.
pub type StartReceiver = Box<dyn Fn(Inlet) -> Result<Receiver> + Send + Sync>;

/// Opens a planned source.
pub type OpenSource = Box<dyn Fn(&World) -> Result<Arc<dyn Source>> + Send + Sync>;

impl PlannedSource {
    /// A source whose records come from a receiver: it reads the topic that the receiver fills.
    fn received(receiver: PlannedReceiver) -> Self {
        Self { receiver: Some(receiver), ..topic::reading("", 1, false) }.in_topic("")
    }

    /// A receiver fills the topic that its configuration names, or else `own`; other sources stay as they are.
    #[must_use]
    pub fn in_topic(self, own: &str) -> Self {
        let Some(receiver) = self.receiver else { return self };
        let reading = topic::reading(receiver.topic.as_deref().unwrap_or(own), receiver.partitions, false);
        Self { receiver: Some(receiver), ..reading }
    }
}

/// The problems of the topic that a receiver's configuration names, and of its number of partitions.
fn check_kept(topic: Option<&str>, partitions: u32) -> Planned<()> {
    topic::check("topic", topic.unwrap_or("own"), partitions)
}

/// The problem of a number that is outside of its range.
pub(crate) fn within(key: &str, value: f64, min: f64, max: f64) -> Result<(), Problem> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(Problem::new(key, "bad-value", format!("`{key}` must be from {min} to {max}")))
}

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
pub static KINDS: &[&SourceKind] = &[&topic::KIND, &http::KIND, &mqtt::KIND, &file::KIND, &generator::KIND];
