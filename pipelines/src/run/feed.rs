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
use millstream_connectors::broker::{Append, Broker, Message};
use millstream_connectors::formats::{self, Encoder};
use millstream_connectors::sources::World;
use millstream_engine::book::Book;
use millstream_engine::source::{Decoder, Position, Reader};
use millstream_engine::time::Stopwatch;
use millstream_engine::{Fault, Result, failpoint};

use crate::plan;
use crate::run::assemble;
use crate::run::tenure::{Appended, Tenure};

/// Messages in one append, at most.
const APPEND_MESSAGES: usize = 4096;
/// How long a producer in step waits before it looks for what is due.
const STEP: Duration = Duration::from_millis(20);

/// All feeds of a pipeline.
pub struct Feeds {
    open: Vec<Feed>,
    /// The right to write the topic of how far each feed has come, and with it those that the feeds fill.
    tenure: Tenure,
    /// What is to be appended next.
    pending: Pending,
    /// What is being appended, until it is known to be there.
    batch: Option<Batch>,
    /// The time of the first row.
    first_ms: Option<i64>,
    book: Arc<Book>,
}

/// What a turn of the feeds has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Records were appended.
    Fed,
    /// Nothing is due now.
    Waits,
    /// All feeds are used up.
    Done,
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
    pub fn open(
        pipeline: &plan::Pipeline,
        world: &World,
        broker: Arc<dyn Broker>,
        book: Arc<Book>,
        now_ms: i64,
    ) -> Result<Self> {
        let topic = assemble::Topics::of(&pipeline.name).feeds;
        let tenure = Tenure::take(broker, &topic, serde_json::Map::new(), now_ms)?;
        let mut reached: BTreeMap<Vec<u8>, Position> = BTreeMap::new();
        tenure.read(tenure.first()?, |entry| {
            let Some(feed) = entry.key else { return Ok(()) };
            let position = serde_json::from_slice(&entry.value)
                .map_err(|error| Fault::world(format!("{topic} holds something else than positions")).because(error))?;
            reached.insert(feed, position);
            Ok(())
        })?;
        let open = |feed: &plan::Feed| Feed::open(feed, world, reached.get(feed.name.as_bytes()).copied());
        let open = pipeline.feeds.iter().map(open).collect::<Result<_>>()?;
        Ok(Self { open, tenure, pending: Pending::default(), batch: None, first_ms: None, book })
    }

    /// Tells, at any time, whether another run has taken over: fails if so.
    pub fn watch(&self) -> impl Fn() -> Result<()> + Send + Sync + 'static {
        self.tenure.watch()
    }

    /// Produces until all feeds are used up, or the run stops. `speed` is how many seconds of the records' time pass in a
    /// second; without it, nothing waits.
    pub fn run(mut self, speed: Option<f64>) -> Result<()> {
        let watch = Stopwatch::start();
        loop {
            let passed_ms = speed.map(|speed| (watch.seconds() * speed * 1000.0) as i64);
            match self.turn(passed_ms) {
                Ok(Turn::Done) => return Ok(()),
                Ok(_) if self.book.is_stopping() => return Ok(()),
                Ok(Turn::Fed) => {}
                Ok(Turn::Waits) => std::thread::sleep(STEP),
                Err(fault) if fault.retry && !self.book.is_stopping() => {
                    eprintln!("feeds: {fault}; trying again");
                    self.book.pause(STEP * 10);
                }
                Err(fault) => return Err(fault),
            }
        }
    }

    /// Appends what is due: rows that are at most `passed_ms` younger than the first, or all; some thousands at most. What
    /// fails with a fault that is to be retried is tried again in the next turn.
    pub fn turn(&mut self, passed_ms: Option<i64>) -> Result<Turn> {
        while self.batch.is_none() && self.pending.count < APPEND_MESSAGES {
            let Some((feed, time_ms)) = self.earliest()? else { break };
            let first_ms = *self.first_ms.get_or_insert(time_ms);
            if passed_ms.is_some_and(|passed_ms| time_ms.saturating_sub(first_ms) > passed_ms) {
                break;
            }
            self.open[feed].take(&mut self.pending);
        }
        if self.pending.count > 0 {
            self.batch = Some(std::mem::take(&mut self.pending).batch(self.tenure.topic()));
        }
        if let Some(batch) = &self.batch {
            append(&mut self.tenure, batch)?;
            self.batch = None;
            return Ok(Turn::Fed);
        }
        let is_done = |feed: &Feed| feed.finished && feed.rows.at == feed.rows.times.len();
        Ok(if self.open.iter().all(is_done) { Turn::Done } else { Turn::Waits })
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
}

/// Appends records, and how far the feeds have come with them.
fn append(tenure: &mut Tenure, batch: &Batch) -> Result<()> {
    loop {
        if tenure.is_lost() {
            // The positions are there only if the records are.
            let tail = tenure.renew()?;
            let is_there = |message: &Message| {
                tail.iter().any(|entry| entry.key == message.key && Some(&entry.value) == message.value.as_ref())
            };
            if batch.reached().iter().all(is_there) {
                return Ok(());
            }
        }
        if let Appended::Done = failpoint::around("feed.append", || tenure.append(&batch.0))? {
            return Ok(());
        }
    }
}

/// An append: records for the feeds' topics, and last the messages of how far they have come.
struct Batch(Vec<Append>);

impl Batch {
    fn reached(&self) -> &[Message] {
        self.0.last().map_or(&[], |append| &append.messages)
    }
}

/// What the next append holds.
#[derive(Default)]
struct Pending {
    messages: BTreeMap<String, Vec<Message>>,
    reached: BTreeMap<String, (Position, i64)>,
    count: usize,
}

impl Pending {
    /// With how far the feeds have come, for the topic that keeps it.
    fn batch(self, topic: &str) -> Batch {
        let records = self.messages.into_iter().map(|(topic, messages)| Append { topic, messages });
        let message = |(name, (position, timestamp_ms)): (String, (Position, i64))| Message {
            key: Some(name.into_bytes()),
            value: serde_json::to_vec(&position).ok(),
            timestamp_ms,
            ..Message::default()
        };
        let reached = self.reached.into_iter().map(message).collect();
        Batch(records.chain([Append { topic: topic.to_owned(), messages: reached }]).collect())
    }
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
        let decoder = formats::named(assemble::feed_decoder(feed), &*source)?;
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
