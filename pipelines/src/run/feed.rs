//! Fills topics from files and generators, as a producer would: in the order of time over all feeds, at full speed or
//! in step with the records' own timestamps.
//!
//! How far each feed has come is appended together with its records, so a feed that was interrupted goes on where it
//! stopped, and one that is done does nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, AsArray, BinaryArray, RecordBatch};
use arrow::datatypes::TimestampMillisecondType;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use millstream_connectors::broker::{Append, Broker, Message, Producer};
use millstream_connectors::formats::{self, Encoder};
use millstream_connectors::sources::World;
use millstream_engine::book::Book;
use millstream_engine::source::{Decoder, Position, Reader};
use millstream_engine::time::Stopwatch;
use millstream_engine::{Fault, Result};

use crate::plan;
use crate::run::journal;

/// Messages in one append, at most.
const APPEND_MESSAGES: usize = 4096;
/// How long a producer in step waits before it looks for what is due.
const STEP: Duration = Duration::from_millis(20);

/// All feeds of a pipeline.
pub struct Feeds {
    open: Vec<Feed>,
    producer: Box<dyn Producer>,
    /// The topic of how far each feed has come.
    progress: String,
    book: Arc<Book>,
}

struct Feed {
    name: String,
    topic: String,
    reader: Box<dyn Reader>,
    decoder: Box<dyn Decoder>,
    encoder: Box<dyn Encoder>,
    time: usize,
    key: Option<usize>,
    rows: Rows,
    /// Whether its source ends; then there is nothing more when it has nothing now.
    finite: bool,
    finished: bool,
}

/// Encoded rows that wait for their turn.
#[derive(Default)]
struct Rows {
    values: Option<BinaryArray>,
    times: Vec<i64>,
    keys: Vec<Option<Vec<u8>>>,
    /// For each row, where the feed goes on after it.
    after: Vec<Position>,
    at: usize,
}

impl Feeds {
    /// Opens all feeds where they stopped.
    pub fn open(pipeline: &plan::Pipeline, world: &World, broker: &dyn Broker, book: Arc<Book>) -> Result<Self> {
        let topics = crate::run::assemble::Topics::of(&pipeline.name);
        // Fences an older run before its progress is read.
        let producer = broker.producer(&topics.feeds)?;
        let mut reached: BTreeMap<Vec<u8>, Position> = BTreeMap::new();
        journal::read_all(broker, &topics.feeds, |value, key| {
            let position = serde_json::from_slice(value).map_err(|error| {
                Fault::world(format!("{} holds something else than positions", topics.feeds)).because(error)
            })?;
            reached.insert(key.unwrap_or_default().to_vec(), position);
            Ok(())
        })?;
        let open = |feed: &plan::Feed| Feed::open(feed, world, reached.get(feed.name.as_bytes()).copied());
        let feeds = pipeline.feeds.iter().map(open).collect::<Result<_>>()?;
        Ok(Self { open: feeds, producer, progress: topics.feeds, book })
    }

    /// Produces until all feeds are used up, or the run stops. `speed` is how many seconds of the records' time pass in a
    /// second; without it, nothing waits.
    pub fn run(mut self, speed: Option<f64>) -> Result<()> {
        let watch = Stopwatch::start();
        let mut first_ms = None;
        let mut pending = Pending::default();
        while !self.book.is_stopping() {
            let Some((feed, time_ms)) = self.earliest()? else {
                if self.open.iter().all(|feed| feed.finished) {
                    break;
                }
                self.append(&mut pending)?;
                std::thread::sleep(STEP);
                continue;
            };
            let first_ms = *first_ms.get_or_insert(time_ms);
            if let Some(speed) = speed {
                let due = |time_ms: i64| (time_ms - first_ms) as f64 / 1000.0 / speed;
                while due(time_ms) > watch.seconds() && !self.book.is_stopping() {
                    self.append(&mut pending)?;
                    std::thread::sleep(STEP);
                }
            }
            self.open[feed].take(&mut pending);
            if pending.count >= APPEND_MESSAGES {
                self.append(&mut pending)?;
            }
        }
        self.append(&mut pending)
    }

    /// The feed whose next row is the earliest, and that row's time.
    fn earliest(&mut self) -> Result<Option<(usize, i64)>> {
        let mut earliest = None;
        for (at, feed) in self.open.iter_mut().enumerate() {
            if let Some(time) = feed.next_time()?
                && earliest.is_none_or(|(_, best)| time < best)
            {
                earliest = Some((at, time));
            }
        }
        Ok(earliest)
    }

    fn append(&mut self, pending: &mut Pending) -> Result<()> {
        if pending.count == 0 {
            return Ok(());
        }
        let mut appends: Vec<Append> = std::mem::take(&mut pending.messages)
            .into_iter()
            .map(|(topic, messages)| Append { topic, messages })
            .collect();
        let progress = |(name, (position, timestamp_ms)): (String, (Position, i64))| Message {
            key: Some(name.into_bytes()),
            value: serde_json::to_vec(&position).ok(),
            timestamp_ms,
            ..Message::default()
        };
        let messages = std::mem::take(&mut pending.reached).into_iter().map(progress).collect();
        appends.push(Append { topic: self.progress.clone(), messages });
        pending.count = 0;
        while let Err(fault) = self.producer.append(&appends) {
            if !fault.retry || self.book.is_stopping() {
                return Err(fault);
            }
            eprintln!("feeds: {fault}; trying again");
            std::thread::sleep(STEP * 10);
        }
        Ok(())
    }
}

/// What the next append holds.
#[derive(Default)]
struct Pending {
    messages: BTreeMap<String, Vec<Message>>,
    reached: BTreeMap<String, (Position, i64)>,
    count: usize,
}

impl Feed {
    fn open(feed: &plan::Feed, world: &World, reached: Option<Position>) -> Result<Self> {
        let source = (feed.source.open)(world)?;
        let partitions = source.partitions()?;
        let start = Position { partition: partitions.first().copied().unwrap_or_default(), offset: 0 };
        let next = reached.unwrap_or(start);
        let later = partitions.iter().filter(|&&partition| partition > next.partition);
        let from: Vec<Position> =
            std::iter::once(next).chain(later.map(|&partition| Position { partition, offset: 0 })).collect();
        let decoder = match &feed.format {
            Some(format) => format.decoder.clone(),
            None => formats::rows_decoder(feed.columns.clone()),
        };
        Ok(Self {
            name: feed.name.clone(),
            topic: feed.topic.clone(),
            reader: source.open(&from)?,
            decoder: formats::limited(decoder, world.max_record_bytes)(),
            encoder: (feed.writes.encoder)(),
            time: feed.time,
            key: feed.key,
            rows: Rows::default(),
            finite: source.is_finite(),
            finished: false,
        })
    }

    /// The time of the next row; `None` when there is none now.
    fn next_time(&mut self) -> Result<Option<i64>> {
        while self.rows.at == self.rows.times.len() {
            if self.finished || !self.read()? {
                return Ok(None);
            }
        }
        Ok(Some(self.rows.times[self.rows.at]))
    }

    /// Reads the next rows; false when there are none now.
    fn read(&mut self) -> Result<bool> {
        let Some(raw) = self.reader.read(1 << 20, Duration::ZERO)? else {
            self.finished = self.finite;
            return Ok(false);
        };
        let decoded = self.decoder.decode(&raw)?;
        if let Some((record, reason)) = decoded.rejects.first() {
            let offset = raw.offsets[*record as usize];
            return Err(Fault::world(format!(
                "feed {}: row {offset} of file {} cannot be read: {reason}",
                self.name, raw.partition
            )));
        }
        let after = |record: &u32| Position { partition: raw.partition, offset: raw.offsets[*record as usize] + 1 };
        self.rows = Rows {
            times: self.times(&decoded.rows)?,
            keys: self.keys(&decoded.rows)?,
            after: decoded.record.iter().map(after).collect(),
            values: Some(self.encoder.encode(&decoded.rows)?),
            at: 0,
        };
        Ok(true)
    }

    fn times(&self, rows: &RecordBatch) -> Result<Vec<i64>> {
        let times = rows.column(self.time).as_primitive::<TimestampMillisecondType>();
        if times.null_count() > 0 {
            let name = rows.schema_ref().field(self.time).name();
            return Err(Fault::world(format!("feed {}: a row has no `{name}`, which tells when it is due", self.name)));
        }
        Ok(times.values().to_vec())
    }

    fn keys(&self, rows: &RecordBatch) -> Result<Vec<Option<Vec<u8>>>> {
        let Some(at) = self.key else { return Ok(vec![None; rows.num_rows()]) };
        let column = rows.column(at);
        let shown = ArrayFormatter::try_new(column, &FormatOptions::default())?;
        let key = |row| column.is_valid(row).then(|| shown.value(row).try_to_string().map(String::into_bytes));
        Ok((0..rows.num_rows()).map(|row| key(row).transpose()).collect::<std::result::Result<_, _>>()?)
    }

    /// Moves the next row into `pending`.
    fn take(&mut self, pending: &mut Pending) {
        let rows = &mut self.rows;
        let at = rows.at;
        let values = rows.values.as_ref().expect("rows that have times have values");
        let message = Message {
            key: rows.keys[at].take(),
            value: Some(values.value(at).to_vec()),
            timestamp_ms: rows.times[at],
            ..Message::default()
        };
        // A feed's own entry is there after its first row, so its names are copied once for each append.
        match pending.messages.get_mut(&self.topic) {
            Some(messages) => messages.push(message),
            None => drop(pending.messages.insert(self.topic.clone(), vec![message])),
        }
        match pending.reached.get_mut(&self.name) {
            Some(reached) => *reached = (rows.after[at], rows.times[at]),
            None => drop(pending.reached.insert(self.name.clone(), (rows.after[at], rows.times[at]))),
        }
        pending.count += 1;
        rows.at += 1;
    }
}
