//! Appending: all in one transaction.

use std::sync::Arc;

use millstream_engine::{Result, failpoint};
use rusqlite::{Connection, ErrorCode, OptionalExtension, TransactionBehavior, params};

use super::chunk;
use super::store::{self, Store};
use crate::broker::partition::Partitioner;
use crate::broker::{Append, Message, Producer, faults};

/// Chunks are cut here: large enough that SQL costs nothing per record, small enough to read one at a time.
pub(super) const CHUNK_BYTES: usize = 1 << 20;

/// One producer of an id; the newest epoch wins.
pub(super) struct Appender {
    store: Arc<Store>,
    id: String,
    epoch: u64,
    max_record_bytes: usize,
    partitioner: Partitioner,
    /// The last commit failed in a way that says nothing about what is on the disk.
    open_outcome: bool,
}

impl Appender {
    pub(super) fn new(store: Arc<Store>, id: &str, max_record_bytes: usize) -> Result<Self> {
        let epoch = store
            .write()
            .query_row(
                "INSERT INTO producers VALUES (?1, 1) ON CONFLICT (id) DO UPDATE SET epoch = epoch + 1 RETURNING epoch",
                [id],
                |row| row.get(0),
            )
            .map_err(|error| store.fault(&format!("start producer `{id}`"), error))?;
        let partitioner = Partitioner::default();
        Ok(Self { store, id: id.to_owned(), epoch, max_record_bytes, partitioner, open_outcome: false })
    }

    fn check_sizes(&self, append: &Append) -> Result<()> {
        let sizes = append.messages.iter().map(Message::bytes).enumerate();
        match sizes.into_iter().find(|(_, bytes)| *bytes > self.max_record_bytes) {
            Some((index, bytes)) => Err(faults::too_large(&append.topic, index, bytes, self.max_record_bytes)),
            None => Ok(()),
        }
    }

    /// Writes one topic's messages within a transaction; gives the topic.
    fn write(&mut self, transaction: &Connection, append: &Append) -> Result<i64> {
        let doing = || format!("append to topic `{}`", append.topic);
        let (topic, partitions) = store::find(transaction, &append.topic)
            .map_err(|error| self.store.fault(&doing(), error))?
            .ok_or_else(|| faults::no_topic(&append.topic))?;
        let chosen = self.partitioner.assign(&append.topic, partitions, &append.messages)?;
        let mut by_partition: Vec<Vec<&Message>> = vec![Vec::new(); partitions as usize];
        for (message, partition) in append.messages.iter().zip(chosen) {
            by_partition[partition as usize].push(message);
        }
        for (partition, messages) in by_partition.iter().enumerate().filter(|(_, messages)| !messages.is_empty()) {
            write_partition(transaction, topic, partition as u32, messages)
                .map_err(|error| self.store.fault(&doing(), error))?;
        }
        Ok(topic)
    }
}

impl Producer for Appender {
    fn append(&mut self, appends: &[Append]) -> Result<()> {
        if self.open_outcome {
            return Err(faults::open_outcome(&self.id));
        }
        appends.iter().try_for_each(|append| self.check_sizes(append))?;
        let doing = format!("append as producer `{}`", self.id);
        let store = Arc::clone(&self.store);
        let mut connection = store.write();
        let transaction = failpoint::around("transaction.begin", || {
            connection.transaction_with_behavior(TransactionBehavior::Immediate)
        })
        .map_err(|error| store.fault(&doing, error))?;
        if newest(&transaction, &self.id).map_err(|error| store.fault(&doing, error))? != Some(self.epoch) {
            return Err(faults::fenced(&self.id));
        }
        let mut topics = Vec::with_capacity(appends.len());
        for append in appends {
            topics.push(failpoint::around("transaction.send", || self.write(&transaction, append))?);
        }
        failpoint::around("transaction.commit", || transaction.commit()).map_err(|error| {
            // Only a lock leaves a commit undone for certain; a failed fsync may have reached the disk or not.
            let passes = error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy);
            self.open_outcome = !passes;
            let mut fault = store.fault(&doing, error);
            fault.retry = passes;
            fault
        })?;
        drop(connection);
        topics.into_iter().for_each(|topic| store.bell(topic).ring());
        Ok(())
    }

    /// A local transaction costs no more than anything else that is durable.
    fn send(&mut self, appends: &[Append]) -> Result<()> {
        self.append(appends)
    }
}

fn newest(transaction: &Connection, id: &str) -> rusqlite::Result<Option<u64>> {
    transaction
        .prepare_cached("SELECT epoch FROM producers WHERE id = ?1")?
        .query_row([id], |row| row.get(0))
        .optional()
}

/// Inserts a partition's messages in chunks and moves its end.
fn write_partition(sql: &Connection, topic: i64, partition: u32, messages: &[&Message]) -> rusqlite::Result<()> {
    let mut end: u64 = sql
        .prepare_cached("UPDATE partitions SET end = end + ?3 WHERE topic = ?1 AND partition = ?2 RETURNING end - ?3")?
        .query_row(params![topic, partition, messages.len()], |row| row.get(0))?;
    let mut insert = sql.prepare_cached(
        "INSERT INTO chunks (topic, partition, base, count, bytes, checksum, data) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    let mut rest = messages;
    while !rest.is_empty() {
        let (chunk, tail) = rest.split_at(chunk_length(rest));
        let data = chunk::encode(chunk);
        let bytes: usize = chunk.iter().map(|message| weight(message)).sum();
        let checksum = store::checksum(topic, partition, end, chunk.len(), &data);
        insert.execute(params![topic, partition, end, chunk.len(), bytes, checksum.as_bytes(), data])?;
        end += chunk.len() as u64;
        rest = tail;
    }
    Ok(())
}

/// How many of the messages make one chunk: as many as fit, at least one.
fn chunk_length(messages: &[&Message]) -> usize {
    let mut bytes = 0;
    let fits = messages.iter().take_while(|message| {
        bytes += weight(message);
        bytes <= CHUNK_BYTES
    });
    fits.count().max(1)
}

/// What a message counts in a chunk: an empty one takes space as well.
fn weight(message: &Message) -> usize {
    message.bytes() + 16
}
