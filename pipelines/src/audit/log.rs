//! Reads one partition of a topic record by record.

use std::time::Duration;

use arrow::array::Array;
use millstream_connectors::broker::{Broker, Fetched, TopicReader};
use millstream_engine::raw::{Payload, RawBatch};
use millstream_engine::source::{Position, Reader};
use millstream_engine::{Fault, Result};

/// Bytes that are fetched at once, at most about.
const FETCH_BYTES: usize = 4 << 20;
/// How long a reader that is not at the end may take for the next records, and in how many steps that is waited for.
const WAITS: (u32, Duration) = (500, Duration::from_millis(20));

/// What a reader that can wait and tell whether more is there gives next; `None` at the end.
pub(super) trait Patient {
    /// The next records, after waiting so long at most.
    fn read_for(&mut self, wait: Duration) -> Result<Option<RawBatch>>;
    /// The end as far as known.
    fn end(&mut self) -> Result<u64>;

    /// The next records; `None` if `next` is the end.
    fn read_on(&mut self, next: u64) -> Result<Option<RawBatch>> {
        for turn in 0..=WAITS.0 {
            let wait = if turn == 0 { Duration::ZERO } else { WAITS.1 };
            if let Some(records) = self.read_for(wait)? {
                return Ok(Some(records));
            }
            if self.end()? <= next {
                return Ok(None);
            }
        }
        Ok(None)
    }
}

impl Patient for Box<dyn TopicReader> {
    fn read_for(&mut self, wait: Duration) -> Result<Option<RawBatch>> {
        Ok(self.read(FETCH_BYTES, wait)?.map(|Fetched { records, .. }| records))
    }

    fn end(&mut self) -> Result<u64> {
        Ok(self.ends()?.first().map_or(0, |end| end.offset))
    }
}

impl Patient for Box<dyn Reader> {
    fn read_for(&mut self, wait: Duration) -> Result<Option<RawBatch>> {
        self.read(FETCH_BYTES, wait)
    }

    fn end(&mut self) -> Result<u64> {
        Ok(self.ends()?.first().map_or(0, |end| end.offset))
    }
}

/// The first offset that is kept, and the end.
pub(super) fn kept(broker: &dyn Broker, topic: &str, partition: u32) -> Result<(u64, u64)> {
    let found = broker.topic(topic)?.ok_or_else(|| Fault::world(format!("there is no topic `{topic}`")))?;
    let kept = found.partitions.get(partition as usize).copied();
    kept.ok_or_else(|| Fault::world(format!("topic `{topic}` has no partition {partition}")))
}

/// One partition, from its first kept record.
pub(super) struct Log {
    reader: Box<dyn TopicReader>,
    batch: Option<(RawBatch, usize)>,
    /// The first offset that is kept.
    pub(super) first: u64,
    /// The end when it was opened; more may have come since.
    pub(super) end: u64,
    /// The offset after the last record that was given.
    next: u64,
}

impl Log {
    pub(super) fn open(broker: &dyn Broker, topic: &str, partition: u32) -> Result<Self> {
        let (first, end) = kept(broker, topic, partition)?;
        let reader = broker.open(topic, &[Position { partition, offset: first }])?;
        Ok(Self { reader, batch: None, first, end, next: first })
    }

    /// The next record's offset and value.
    pub(super) fn next(&mut self) -> Result<Option<(u64, Vec<u8>)>> {
        if self.batch.is_none() {
            self.batch = self.reader.read_on(self.next)?.map(|records| (records, 0));
        }
        let Some((records, row)) = &mut self.batch else { return Ok(None) };
        let Payload::Bytes(values) = &records.payload else { return Err(Fault::ours("topics hold bytes")) };
        let value = if values.is_valid(*row) { values.value(*row).to_vec() } else { Vec::new() };
        let offset = records.offsets[*row];
        *row += 1;
        if *row == records.len() {
            self.batch = None;
        }
        self.next = offset + 1;
        Ok(Some((offset, value)))
    }
}
