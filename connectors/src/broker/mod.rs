//! Where topics live. One trait, three implementations: `embedded` (a durable log in the state directory),
//! `kafka`, and `simulated` (in memory, for tests).
//!
//! ```text
//! producer(id) ──► append([...]) ──► append([...]) ──► …      each append: all of it durable, or none
//!      │ fences every older producer of the same id: its next append fails
//!      ▼
//! open(topic, from) ──► read ──► read ──► …                   only what was appended completely is seen
//! ```

pub mod config;
pub mod embedded;
pub mod kafka;
pub mod simulated;

mod columns;
mod partition;

use std::time::Duration;

pub use millstream_engine::raw::Headers;
use millstream_engine::raw::RawBatch;
use millstream_engine::source::Position;
use millstream_engine::{Blame, Fault, Result};

/// A message to append.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Decides the partition, where `partition` does not.
    pub key: Option<Vec<u8>>,
    /// `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// Names need not be unique.
    pub headers: Headers,
    /// Milliseconds since 1970.
    pub timestamp_ms: i64,
    /// The partition; else chosen by the key's hash, else in turns.
    pub partition: Option<u32>,
}

/// Messages for one topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Append {
    /// The topic; it must exist.
    pub topic: String,
    /// In order; those of one partition keep it.
    pub messages: Vec<Message>,
}

/// Records of one partition as they were read.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// The records; their payload is bytes.
    pub records: RawBatch,
    /// The headers of each record; empty where no record has any.
    pub headers: Vec<Headers>,
}

/// A topic and its partitions.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// For each partition, in order: the first offset that is kept, and the offset after the last record.
    /// Where transactions leave marks in the log (Kafka), the end may lie some marks beyond the last record.
    pub partitions: Vec<(u64, u64)>,
}

/// Where topics live.
pub trait Broker: Send + Sync + 'static {
    /// All topics, by name, with their offsets.
    fn topics(&self) -> Result<Vec<Topic>>;

    /// One topic with its offsets; `None` if it does not exist.
    fn topic(&self, name: &str) -> Result<Option<Topic>>;

    /// Creates a topic. One that exists with as many partitions is left as it is; another number is an error.
    fn create(&self, name: &str, partitions: u32) -> Result<()>;

    /// Reads `topic` from `from`; a partition without a position is not read. A position before the first kept
    /// offset or beyond the end is an error.
    fn open(&self, topic: &str, from: &[Position]) -> Result<Box<dyn TopicReader>>;

    /// A producer that fences all older ones of the same `id`.
    fn producer(&self, id: &str) -> Result<Box<dyn Producer>>;
}

/// Reads topics; it never joins a consumer group and never commits offsets.
pub trait TopicReader: Send {
    /// The next committed records, of one partition, about `max_bytes` of them (one larger record comes alone);
    /// `None` when there are none now, after waiting `wait` at most.
    fn read(&mut self, max_bytes: usize, wait: Duration) -> Result<Option<Fetched>>;

    /// For each partition read, the offset after its last record, as far as known without waiting long.
    /// A reader that has read all there is reports the offset after the last record that it returned.
    fn ends(&mut self) -> Result<Vec<Position>>;
}

/// Appends atomically.
pub trait Producer: Send {
    /// Appends all messages to all their topics, or none; returns when they are durable.
    /// What is to be done after an error, [`Failure::of`] tells.
    fn append(&mut self, appends: &[Append]) -> Result<()>;

    /// Sends messages on their own: durable when it returns, visible at once, not all or none, not fenced. After an
    /// error, any of them may be there; sending them again may make them be there twice.
    fn send(&mut self, appends: &[Append]) -> Result<()>;
}

/// What the error of an append says about it, and so what is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nothing was appended; the very same call may succeed later.
    Again,
    /// Nothing was appended, and the same call would fail again.
    Refused,
    /// Nothing was appended: a newer producer of the same id has started.
    Fenced,
    /// Nobody knows. Never call this producer again, for what it sent may still arrive and would be taken for something
    /// newer: drop it, make a new one, which fences it, and read back what became of the append.
    Open,
}

impl Failure {
    /// What `fault` says. Whatever the world did and does not tell leaves the outcome open.
    pub fn of(fault: &Fault) -> Self {
        let marked = fault.source.as_ref().and_then(|source| source.downcast_ref::<faults::Marked>());
        match (marked, fault.blame) {
            _ if fault.retry => Self::Again,
            (Some(marked), _) => marked.failure,
            (None, Blame::World) => Self::Open,
            (None, _) => Self::Refused,
        }
    }
}

/// The largest record that brokers take unless told otherwise: 128 MiB.
pub const MAX_RECORD_BYTES: usize = 128 << 20;

impl Message {
    /// Bytes of key, value and headers.
    pub fn bytes(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.key.as_ref().map_or(0, Vec::len) + self.value.as_ref().map_or(0, Vec::len) + headers
    }
}

/// The faults that all brokers report in the same words.
mod faults {
    use std::error::Error;
    use std::fmt;

    use millstream_engine::Fault;

    use super::Failure;

    /// Underneath a fault: what it means for an append.
    #[derive(Debug)]
    pub(super) struct Marked {
        pub(super) failure: Failure,
        source: Option<Box<dyn Error + Send + Sync>>,
    }

    impl fmt::Display for Marked {
        fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            match &self.source {
                Some(source) => source.fmt(formatter),
                None => write!(formatter, "nothing was appended"),
            }
        }
    }

    impl Error for Marked {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.source.as_ref().map(|source| &**source as _)
        }
    }

    fn marked(failure: Failure, fault: Fault) -> Fault {
        let source = Some(Box::new(Marked { failure, source: fault.source }) as _);
        Fault { retry: false, source, ..fault }
    }

    /// The append has no effect, and would fail again.
    pub(super) fn refused(fault: Fault) -> Fault {
        marked(Failure::Refused, fault)
    }

    pub(super) fn no_topic(topic: &str) -> Fault {
        refused(Fault::world(format!("there is no topic `{topic}`")))
    }

    pub(super) fn no_partition(topic: &str, partition: u32, partitions: usize) -> Fault {
        refused(Fault::world(format!("topic `{topic}` has no partition {partition}: it has {partitions}")))
    }

    pub(super) fn other_partitions(topic: &str, has: usize, wanted: u32) -> Fault {
        Fault::definition(format!("topic `{topic}` exists with {has} partitions, not {wanted}"))
    }

    pub(super) fn out_of_range(topic: &str, partition: u32, offset: u64, (first, end): (u64, u64)) -> Fault {
        let place = format!("cannot read topic `{topic}` partition {partition} from offset {offset}");
        if offset < first {
            return Fault::world(format!("{place}: the first offset that is kept is {first} (the end is {end})"));
        }
        Fault::world(format!("{place}: the log ends at offset {end} (the first that is kept is {first})"))
    }

    pub(super) fn fenced(producer: &str) -> Fault {
        let fault = Fault::world(format!("producer `{producer}` is fenced: a newer producer with this id has started"));
        marked(Failure::Fenced, fault)
    }

    pub(super) fn too_large(topic: &str, index: usize, bytes: usize, max: usize) -> Fault {
        let what = format!("message {index} for topic `{topic}` has {bytes} bytes, more than the {max} allowed");
        refused(Fault::world(what))
    }

    pub(super) fn open_outcome(producer: &str) -> Fault {
        let what = format!("producer `{producer}` cannot go on: what became of its last append is not known");
        Fault::world(format!("{what}; make a new producer and read back"))
    }
}

/// The topic names that are accepted: `[a-zA-Z0-9._-]{1,249}`, not `.` or `..` (Kafka's rule).
pub fn check_topic_name(name: &str) -> std::result::Result<(), String> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if name.is_empty() || name.len() > 249 || name == "." || name == ".." || !name.bytes().all(legal) {
        return Err(format!("`{name}` is no topic name: use 1 to 249 of a-z A-Z 0-9 . _ -"));
    }
    Ok(())
}

/// A topic has so many partitions at most: more than any number of readers needs, and each costs.
pub const PARTITIONS_MAX: u32 = 10_000;

/// The numbers of partitions that are accepted: 1 to 10,000.
pub fn check_partitions(partitions: u32) -> std::result::Result<(), String> {
    if (1..=PARTITIONS_MAX).contains(&partitions) {
        return Ok(());
    }
    Err(format!("a topic has 1 to {PARTITIONS_MAX} partitions, not {partitions}"))
}

/// Whether a topic of this name with so many partitions may be made.
fn check_topic(name: &str, partitions: u32) -> Result<()> {
    check_topic_name(name).map_err(Fault::definition)?;
    check_partitions(partitions).map_err(|why| Fault::definition(format!("topic `{name}`: {why}")))
}
