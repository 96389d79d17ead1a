//! Reading assigned partitions: messages are copied into columns, so that the client's memory is free again.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use millstream_engine::raw::NO_TIMESTAMP;
use millstream_engine::source::Position;
use millstream_engine::{Fault, Result};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers as _, Message};
use rdkafka::{Offset, TopicPartitionList};

use super::context::Context;
use super::{ANSWER, FIRST_ANSWER, hide_value, options, watermarks};
use crate::broker::columns::{Cells, Columns};
use crate::broker::{Fetched, Headers, TopicReader, faults};

/// The most records that are taken at once: empty ones cost no bytes, but memory all the same.
const RECORDS: usize = 100_000;

/// How long an end that was asked for is good, at least.
const ENDS: Duration = Duration::from_secs(1);

/// How many times as long as asking for ends took: so asking takes a small part of a reader's time, however slow the
/// servers are.
const ENDS_FACTOR: u32 = 10;

/// Reads one topic with a consumer of its own.
pub(super) struct Reader {
    consumer: BaseConsumer<Context>,
    context: Context,
    topic: String,
    /// In the order in which they take turns.
    cursors: Vec<Cursor>,
    turn: usize,
    /// Bytes that were taken from the client, but not given out.
    held_bytes: usize,
    /// What went wrong after the records that are held.
    failed: Option<Fault>,
    /// When to ask for ends again.
    ask_at: Instant,
    /// How long to wait for an end: twice as long each time that none comes.
    end_patience: Duration,
}

/// A place in one partition.
struct Cursor {
    next: Position,
    /// Batches that are full.
    ready: VecDeque<Fetched>,
    /// The one that is being filled.
    columns: Columns,
    /// All that was there has been read.
    at_end: bool,
    /// The end that the servers told.
    end: u64,
}

impl Reader {
    pub(super) fn open(options: &BTreeMap<String, String>, topic: &str, from: &[Position]) -> Result<Self> {
        let context = Context::default();
        let doing = || format!("read topic `{topic}`");
        let consumer: BaseConsumer<Context> = options::consumer(options)
            .create_with_context(context.clone())
            .map_err(|error| context.fault(doing(), hide_value(error)))?;
        let mut assignment = TopicPartitionList::with_capacity(from.len());
        for position in from {
            assignment
                .add_partition_offset(topic, position.partition as i32, Offset::Offset(position.offset as i64))
                .map_err(|error| context.fault(doing(), error))?;
        }
        consumer.assign(&assignment).map_err(|error| context.fault(doing(), error))?;
        let cursor = |next: &Position| Cursor {
            next: *next,
            ready: VecDeque::new(),
            columns: Columns::new(next.partition),
            at_end: false,
            end: next.offset,
        };
        let cursors = from.iter().map(cursor).collect();
        let topic = topic.to_owned();
        let (ask_at, end_patience) = (Instant::now(), FIRST_ANSWER);
        Ok(Self { consumer, context, topic, cursors, turn: 0, held_bytes: 0, failed: None, ask_at, end_patience })
    }

    /// Takes what the client has, up to `max_bytes`; waits for the first of it.
    fn fill(&mut self, max_bytes: usize, wait: Duration) {
        let (mut wait, mut taken) = (wait, 0);
        while self.failed.is_none() && self.held_bytes < max_bytes && taken < RECORDS {
            let Some(event) = self.consumer.poll(wait) else {
                return;
            };
            match event {
                Ok(message) => self.held_bytes += take(&mut self.cursors, &message, max_bytes),
                Err(KafkaError::PartitionEOF(partition)) => {
                    let cursor = self.cursors.iter_mut().find(|cursor| cursor.next.partition == partition as u32);
                    if let Some(cursor) = cursor {
                        cursor.at_end = true;
                    }
                    // The end of a partition is no record: go on waiting, but only in `read`'s own loop.
                    if !wait.is_zero() {
                        return;
                    }
                }
                Err(error) => self.failed = Some(self.explain(error)),
            }
            wait = Duration::ZERO;
            taken += 1;
        }
    }

    /// Gives out what is held, the partitions in turns.
    fn give(&mut self) -> Option<Fetched> {
        for step in 0..self.cursors.len() {
            let at = (self.turn + step) % self.cursors.len();
            let cursor = &mut self.cursors[at];
            let fetched = cursor.ready.pop_front().or_else(|| {
                let filled = !cursor.columns.is_empty();
                filled.then(|| cursor.columns.finish())
            });
            if let Some(fetched) = fetched {
                self.held_bytes -= fetched.records.bytes();
                self.turn = (at + 1) % self.cursors.len();
                return Some(fetched);
            }
        }
        None
    }

    /// A fault for an error of the client; it does not say which partition's offset was out of range.
    fn explain(&self, error: KafkaError) -> Fault {
        let out_of_range = [RDKafkaErrorCode::AutoOffsetReset, RDKafkaErrorCode::OffsetOutOfRange];
        if error.rdkafka_error_code().is_some_and(|code| out_of_range.contains(&code)) {
            for Cursor { next, .. } in &self.cursors {
                if let Ok((low, high)) = self.range(next.partition, ANSWER)
                    && (next.offset < low || next.offset > high)
                {
                    return faults::out_of_range(&self.topic, next.partition, next.offset, (low, high));
                }
            }
        }
        let places: Vec<String> =
            self.cursors.iter().map(|cursor| format!("{}@{}", cursor.next.partition, cursor.next.offset)).collect();
        self.context.fault(format!("read topic `{}` (partition@offset {})", self.topic, places.join(" ")), error)
    }

    /// Asks the servers for the ends. A reader at the end knows better: they count a transaction's marks as well.
    /// Where they do not answer in time, what was known before is still the best.
    fn ask(&mut self) {
        for at in 0..self.cursors.len() {
            let Cursor { next, at_end, .. } = self.cursors[at];
            if at_end {
                continue;
            }
            let Ok((_, end)) = self.range(next.partition, self.end_patience) else {
                self.end_patience = (2 * self.end_patience).min(ANSWER);
                // The others would keep it waiting as long.
                return;
            };
            self.cursors[at].end = end;
        }
    }

    fn range(&self, partition: u32, wait: Duration) -> KafkaResult<(u64, u64)> {
        watermarks(&self.consumer, &self.topic, partition, wait)
    }
}

/// Copies a message into its partition's columns; returns its bytes.
fn take(cursors: &mut [Cursor], message: &BorrowedMessage<'_>, max_bytes: usize) -> usize {
    let (partition, offset) = (message.partition() as u32, message.offset() as u64);
    let Some(cursor) = cursors.iter_mut().find(|cursor| cursor.next.partition == partition) else {
        return 0;
    };
    let cells = Cells {
        offset,
        // Messages of ancient producers have none.
        timestamp_ms: message.timestamp().to_millis().unwrap_or(NO_TIMESTAMP),
        key: message.key(),
        value: message.payload(),
    };
    if !cursor.columns.is_empty() && cursor.columns.bytes() + cells.bytes() > max_bytes {
        let full = cursor.columns.finish();
        cursor.ready.push_back(full);
    }
    let headers = message.headers().map_or_else(Headers::new, |headers| {
        let owned = |header: rdkafka::message::Header<'_, &[u8]>| {
            (header.key.to_owned(), header.value.unwrap_or_default().to_vec())
        };
        headers.iter().map(owned).collect()
    });
    cursor.columns.push(cells, headers);
    cursor.next.offset = offset + 1;
    cursor.at_end = false;
    cells.bytes()
}

impl TopicReader for Reader {
    fn read(&mut self, max_bytes: usize, wait: Duration) -> Result<Option<Fetched>> {
        let deadline = Instant::now() + wait;
        let mut patience = Duration::ZERO;
        loop {
            self.fill(max_bytes.max(1), patience);
            if let Some(fetched) = self.give() {
                return Ok(Some(fetched));
            }
            if let Some(fault) = self.failed.take() {
                return Err(fault);
            }
            patience = deadline.saturating_duration_since(Instant::now());
            if patience.is_zero() {
                return Ok(None);
            }
        }
    }

    fn ends(&mut self) -> Result<Vec<Position>> {
        let asked_at = Instant::now();
        if asked_at >= self.ask_at {
            self.ask();
            self.ask_at = Instant::now() + ENDS.max(ENDS_FACTOR * asked_at.elapsed());
        }
        let end = |cursor: &Cursor| {
            let offset = if cursor.at_end { cursor.next.offset } else { cursor.end.max(cursor.next.offset) };
            Position { partition: cursor.next.partition, offset }
        };
        Ok(self.cursors.iter().map(end).collect())
    }
}
