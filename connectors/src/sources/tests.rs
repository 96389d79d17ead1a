//! Helpers of the sources' tests.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::BinaryArray;
use millstream_engine::raw::{Payload, RawBatch};
use millstream_engine::source::{Position, Source};
use millstream_engine::{Fault, Result};

use super::World;
use crate::broker::{Broker, Fetched, Producer, Topic, TopicReader};

/// A broker with one topic, `letters`, that holds `a b c` in each of its two partitions.
struct Letters;

impl Broker for Letters {
    fn topics(&self) -> Result<Vec<Topic>> {
        Ok(vec![Topic { name: "letters".to_owned(), partitions: vec![(0, 3), (0, 3)] }])
    }

    fn topic(&self, name: &str) -> Result<Option<Topic>> {
        Ok(self.topics()?.into_iter().find(|topic| topic.name == name))
    }

    fn create(&self, _: &str, _: u32) -> Result<()> {
        Err(Fault::ours("sources create no topics"))
    }

    fn open(&self, _: &str, from: &[Position]) -> Result<Box<dyn TopicReader>> {
        Ok(Box::new(LettersReader(from.to_vec())))
    }

    fn producer(&self, _: &str) -> Result<Box<dyn Producer>> {
        Err(Fault::ours("sources produce nothing"))
    }
}

struct LettersReader(Vec<Position>);

impl TopicReader for LettersReader {
    fn read(&mut self, _: usize, _: Duration) -> Result<Option<Fetched>> {
        let Some(position) = self.0.pop() else { return Ok(None) };
        let records = RawBatch {
            partition: position.partition,
            offsets: vec![0, 1, 2].into(),
            timestamps: vec![0; 3].into(),
            keys: None,
            headers: Vec::new(),
            payload: Payload::Bytes(BinaryArray::from(vec![b"a".as_slice(), b"b", b"c"])),
        };
        let start = position.offset as usize;
        Ok(Some(Fetched { records: records.slice(start, 3 - start), headers: Vec::new() }))
    }

    fn ends(&mut self) -> Result<Vec<Position>> {
        Ok(Vec::new())
    }
}

/// What sources may touch in tests.
pub(crate) fn world(folder: impl AsRef<Path>, max_record_bytes: usize) -> World {
    World { broker: Arc::new(Letters), folder: folder.as_ref().to_owned(), max_record_bytes }
}

/// Reads until nothing comes, `max_bytes` at a time.
pub(crate) fn read_all(source: &dyn Source, from: &[Position], max_bytes: usize) -> Vec<RawBatch> {
    let mut reader = source.open(from).expect("the positions are good");
    std::iter::from_fn(|| reader.read(max_bytes, Duration::ZERO).expect("readable")).collect()
}

/// One line for each record: `partition/offset content`.
pub(crate) fn shown(batches: &[RawBatch]) -> Vec<String> {
    let content = |batch: &RawBatch, row: usize| match &batch.payload {
        Payload::Bytes(values) => String::from_utf8_lossy(values.value(row)).into_owned(),
        Payload::Rows(rows) => crate::formats::tests::shown(&rows.slice(row, 1)).concat(),
    };
    let line =
        |batch: &RawBatch, row: usize| format!("{}/{} {}", batch.partition, batch.offsets[row], content(batch, row));
    batches.iter().flat_map(|batch| (0..batch.len()).map(move |row| line(batch, row))).collect()
}

/// Reading from each record on gives the rest of what reading from the start gives, however it is cut.
pub(crate) fn check_resuming(source: &dyn Source, partition: u32) {
    let read = |offset, max_bytes| shown(&read_all(source, &[Position { partition, offset }], max_bytes));
    let all = read(0, usize::MAX);
    for (at, line) in all.iter().enumerate() {
        let offset = line[line.find('/').unwrap_or(0) + 1..].split(' ').next().and_then(|offset| offset.parse().ok());
        for max_bytes in [1, 37, 1 << 20] {
            assert_eq!(
                read(offset.expect("as shown"), max_bytes),
                all[at..],
                "from {line}, {max_bytes} bytes at a time"
            );
        }
    }
}
