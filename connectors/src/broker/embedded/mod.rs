//! A durable log in one file, `broker.sqlite`: topics without a server. Several processes may use it at once.
//!
//! ```text
//! append ─► one transaction: check the producer's epoch, take offsets, insert chunks, move the ends ─► commit (fsync)
//! read   ─► chunks from the position on, one copy into Arrow's buffers ─► nothing? wait for a commit
//! ```
//! A row is a chunk: up to about 1 MiB of consecutive records of one partition, with a checksum. `SQLite` gives atomicity
//! and durability (write-ahead log, `synchronous = FULL`); readers never block the writer.

mod chunk;
mod producer;
mod reader;
mod store;

use std::path::Path;
use std::sync::Arc;

use millstream_engine::Result;
use millstream_engine::source::Position;
use rusqlite::TransactionBehavior;

use self::store::Store;
use super::{Broker, Producer, Topic, TopicReader, check_topic, faults};

/// Topics in a folder. Clones share one connection for writing.
#[derive(Clone, Debug)]
pub struct Embedded {
    store: Arc<Store>,
    max_record_bytes: usize,
}

impl Embedded {
    /// Opens `broker.sqlite` in `folder`; creates both if they are missing.
    pub fn open(folder: &Path) -> Result<Self> {
        Ok(Self { store: Arc::new(Store::open(folder)?), max_record_bytes: super::MAX_RECORD_BYTES })
    }

    /// Refuses records with more bytes of key, value and headers than this; 512 MiB at most.
    #[must_use]
    pub fn with_max_record_bytes(mut self, bytes: usize) -> Self {
        // A chunk must stay below SQLite's 1 GB for one value.
        self.max_record_bytes = bytes.min(512 << 20);
        self
    }

    /// Forgets the records before `before`, a chunk at a time; they can no longer be read.
    pub fn discard(&self, topic: &str, before: &[Position]) -> Result<()> {
        let mut connection = self.store.write();
        let doing = format!("discard records of topic `{topic}`");
        let transaction = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(|error| self.store.fault(&doing, error))?;
        let (id, partitions) = store::find(&transaction, topic)
            .map_err(|error| self.store.fault(&doing, error))?
            .ok_or_else(|| faults::no_topic(topic))?;
        for position in before {
            let range = store::range(&transaction, id, position.partition)
                .map_err(|error| self.store.fault(&doing, error))?
                .ok_or_else(|| faults::no_partition(topic, position.partition, partitions as usize))?;
            if position.offset > range.1 {
                return Err(faults::out_of_range(topic, position.partition, position.offset, range));
            }
            store::discard(&transaction, id, position).map_err(|error| self.store.fault(&doing, error))?;
        }
        transaction.commit().map_err(|error| self.store.fault(&doing, error))
    }
}

impl Broker for Embedded {
    fn topics(&self) -> Result<Vec<Topic>> {
        store::topics(&self.store.write(), None).map_err(|error| self.store.fault("list topics", error))
    }

    fn topic(&self, name: &str) -> Result<Option<Topic>> {
        let mut topics = store::topics(&self.store.write(), Some(name))
            .map_err(|error| self.store.fault(&format!("look up topic `{name}`"), error))?;
        Ok(topics.pop())
    }

    fn create(&self, name: &str, partitions: u32) -> Result<()> {
        check_topic(name, partitions)?;
        let mut connection = self.store.write();
        let has = store::create(&mut connection, name, partitions)
            .map_err(|error| self.store.fault(&format!("create topic `{name}`"), error))?;
        if has == partitions { Ok(()) } else { Err(faults::other_partitions(name, has as usize, partitions)) }
    }

    fn open(&self, topic: &str, from: &[Position]) -> Result<Box<dyn TopicReader>> {
        Ok(Box::new(reader::Reader::open(Arc::clone(&self.store), topic, from)?))
    }

    fn producer(&self, id: &str) -> Result<Box<dyn Producer>> {
        Ok(Box::new(producer::Appender::new(Arc::clone(&self.store), id, self.max_record_bytes)?))
    }
}
