//! Reading: chunks in order, the partitions in turns.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{Array, BinaryArray, new_null_array};
use arrow::buffer::ScalarBuffer;
use arrow::compute::concat;
use arrow::datatypes::DataType;
use millstream_engine::raw::{Payload, RawBatch};
use millstream_engine::source::Position;
use millstream_engine::{Fault, Result};
use rusqlite::{Connection, Row, params};

use super::chunk;
use super::producer::CHUNK_BYTES;
use super::store::{self, Bell, Store};
use crate::broker::{Fetched, TopicReader, faults};

/// How often another process's appends are looked for; those of this process are seen at once.
const POLL: Duration = Duration::from_millis(10);

/// Reads one topic over a connection of its own.
pub(super) struct Reader {
    store: Arc<Store>,
    connection: Connection,
    topic: i64,
    bell: Arc<Bell>,
    name: String,
    cursors: Vec<Cursor>,
    /// The cursor whose turn it is.
    turn: usize,
    /// `PRAGMA data_version` when nothing was left to read.
    idle_at: Option<i64>,
}

/// A place in one partition.
struct Cursor {
    next: Position,
    /// Records that were read from the file, but not yet given out.
    rest: Option<Fetched>,
}

impl Reader {
    pub(super) fn open(store: Arc<Store>, name: &str, from: &[Position]) -> Result<Self> {
        let connection = store.connect()?;
        let doing = format!("read topic `{name}`");
        let fault = |error| store.fault(&doing, error);
        let (topic, partitions) =
            store::find(&connection, name).map_err(fault)?.ok_or_else(|| faults::no_topic(name))?;
        for position in from {
            let range = store::range(&connection, topic, position.partition)
                .map_err(fault)?
                .ok_or_else(|| faults::no_partition(name, position.partition, partitions as usize))?;
            if position.offset < range.0 || position.offset > range.1 {
                return Err(faults::out_of_range(name, position.partition, position.offset, range));
            }
        }
        let cursors = from.iter().map(|next| Cursor { next: *next, rest: None }).collect();
        let bell = store.bell(topic);
        Ok(Self { store, connection, topic, bell, name: name.to_owned(), cursors, turn: 0, idle_at: None })
    }

    /// The next records that are there now.
    fn next(&mut self, max_bytes: usize) -> Result<Option<Fetched>> {
        // Taken before looking, so that what is appended meanwhile is looked for again.
        let version = self.version()?;
        if self.idle_at == Some(version) {
            return Ok(None);
        }
        for step in 0..self.cursors.len() {
            let at = (self.turn + step) % self.cursors.len();
            if self.cursors[at].rest.is_none() {
                self.cursors[at].rest = self.load(self.cursors[at].next, max_bytes)?;
            }
            let cursor = &mut self.cursors[at];
            if let Some(rest) = cursor.rest.take() {
                let (now, later) = split(rest, max_bytes);
                cursor.rest = later;
                cursor.next.offset += now.records.len() as u64;
                self.turn = (at + 1) % self.cursors.len();
                return Ok(Some(now));
            }
        }
        self.idle_at = Some(version);
        Ok(None)
    }

    /// A number that changes with every commit by another connection.
    fn version(&self) -> Result<i64> {
        let version = self
            .connection
            .prepare_cached("PRAGMA data_version")
            .and_then(|mut statement| statement.query_row([], |row| row.get(0)));
        version.map_err(|error| self.fault(error))
    }

    /// Reads the chunk at `from`; if it is small, those after it too, until they are as large as one.
    fn load(&self, from: Position, max_bytes: usize) -> Result<Option<Fetched>> {
        let mut statement = self
            .connection
            .prepare_cached(
                "SELECT base, count, bytes, checksum, data FROM chunks WHERE topic = ?1 AND partition = ?2 AND base >=
                 ifnull((SELECT max(base) FROM chunks WHERE topic = ?1 AND partition = ?2 AND base <= ?3), ?3)
                 ORDER BY base",
            )
            .map_err(|error| self.fault(error))?;
        let key = params![self.topic, from.partition, from.offset];
        let mut rows = statement.query(key).map_err(|error| self.fault(error))?;
        let (mut loaded, mut bytes, mut next) = (Vec::new(), 0, from.offset);
        while let Some(row) = rows.next().map_err(|error| self.fault(error))? {
            let head = Head::read(row).map_err(|error| self.fault(error))?;
            if head.base + head.count as u64 <= next {
                // The newest chunk, and all of it was read already.
                continue;
            }
            if !loaded.is_empty() && bytes + head.bytes > max_bytes.min(CHUNK_BYTES) {
                break;
            }
            if head.base > next {
                return Err(self.gap(from.partition, next, head.base));
            }
            bytes += head.bytes;
            let skip = (next - head.base) as usize;
            next = head.base + head.count as u64;
            loaded.push(slice(self.decode(row, from.partition, &head)?, skip, head.count - skip));
        }
        Ok(join(loaded, from))
    }

    /// Verifies and decodes a row.
    fn decode(&self, row: &Row<'_>, partition: u32, head: &Head) -> Result<Fetched> {
        let corrupt = |why: &str| {
            let last = head.base + head.count as u64 - 1;
            let what = format!("topic `{}` partition {partition} offsets {} to {last}", self.name, head.base);
            self.store.corrupt(&what, why)
        };
        let blob = |column| row.get_ref(column).map_err(|error| self.fault(error));
        let expected = blob(3)?.as_blob().map_err(|_| corrupt("the checksum is no blob"))?;
        let data = blob(4)?.as_blob().map_err(|_| corrupt("the records are no blob"))?;
        let found = store::checksum(self.topic, partition, head.base, head.count, data);
        if found.as_bytes() != expected {
            return Err(corrupt("the checksum does not match"));
        }
        let chunk = chunk::decode(data).map_err(corrupt)?;
        if chunk.values.len() != head.count {
            return Err(corrupt("the number of records does not match"));
        }
        let records = RawBatch {
            partition,
            offsets: (head.base..head.base + head.count as u64).collect(),
            timestamps: chunk.timestamps,
            keys: chunk.keys,
            headers: Vec::new(),
            payload: Payload::Bytes(chunk.values),
        };
        Ok(Fetched { records, headers: chunk.headers })
    }

    /// Records that should be there are not: retention has passed, or they were lost.
    fn gap(&self, partition: u32, wanted: u64, found: u64) -> Fault {
        match store::range(&self.connection, self.topic, partition) {
            Ok(Some(range)) if wanted < range.0 => faults::out_of_range(&self.name, partition, wanted, range),
            Ok(_) => {
                let what = format!("topic `{}` partition {partition}", self.name);
                self.store.corrupt(&what, &format!("offsets {wanted} to {} are missing", found - 1))
            }
            Err(error) => self.fault(error),
        }
    }

    fn fault(&self, error: rusqlite::Error) -> Fault {
        self.store.fault(&format!("read topic `{}`", self.name), error)
    }
}

impl TopicReader for Reader {
    fn read(&mut self, max_bytes: usize, wait: Duration) -> Result<Option<Fetched>> {
        let deadline = Instant::now() + wait;
        loop {
            let heard = self.bell.rung();
            if let Some(fetched) = self.next(max_bytes)? {
                return Ok(Some(fetched));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.bell.wait(heard, left.min(POLL));
        }
    }

    fn ends(&mut self) -> Result<Vec<Position>> {
        let end = |cursor: &Cursor| {
            let partition = cursor.next.partition;
            let range = store::range(&self.connection, self.topic, partition).map_err(|error| self.fault(error))?;
            Ok(Position { partition, offset: range.map_or(cursor.next.offset, |(_, end)| end) })
        };
        self.cursors.iter().map(end).collect()
    }
}

/// A chunk's row without its blob.
struct Head {
    base: u64,
    count: usize,
    bytes: usize,
}

impl Head {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self { base: row.get(0)?, count: row.get(1)?, bytes: row.get(2)? })
    }
}

fn slice(fetched: Fetched, start: usize, len: usize) -> Fetched {
    if len == fetched.records.len() {
        return fetched;
    }
    let headers = if fetched.headers.is_empty() { Vec::new() } else { fetched.headers[start..start + len].to_vec() };
    Fetched { records: fetched.records.slice(start, len), headers }
}

/// Cuts off what fits in `max_bytes`, one record at least.
fn split(fetched: Fetched, max_bytes: usize) -> (Fetched, Option<Fetched>) {
    let len = fetched.records.len();
    if fetched.records.bytes() <= max_bytes {
        return (fetched, None);
    }
    // The bytes of the first n records grow with n, so the cut can be searched for.
    let (mut fits, mut fits_not) = (1, len);
    while fits_not - fits > 1 {
        let middle = usize::midpoint(fits, fits_not);
        if fetched.records.slice(0, middle).bytes() <= max_bytes { fits = middle } else { fits_not = middle }
    }
    let later = (fits < len).then(|| slice(fetched.clone(), fits, len - fits));
    (slice(fetched, 0, fits), later)
}

/// Makes one batch of consecutive ones, so that many small appends do not become many small batches.
fn join(mut chunks: Vec<Fetched>, from: Position) -> Option<Fetched> {
    if chunks.len() < 2 {
        return chunks.pop();
    }
    let rows: usize = chunks.iter().map(|chunk| chunk.records.len()).sum();
    let columns = |of: &dyn Fn(&RawBatch) -> BinaryArray| {
        let parts: Vec<BinaryArray> = chunks.iter().map(|chunk| of(&chunk.records)).collect();
        let parts: Vec<&dyn Array> = parts.iter().map(|part| part as &dyn Array).collect();
        let joined = concat(&parts).expect("all are binary, and together no larger than a chunk");
        BinaryArray::from(joined.to_data())
    };
    let nulls = |rows| BinaryArray::from(new_null_array(&DataType::Binary, rows).to_data());
    let values = columns(&|records| match &records.payload {
        Payload::Bytes(values) => values.clone(),
        Payload::Rows(_) => nulls(records.len()),
    });
    let any_keys = chunks.iter().any(|chunk| chunk.records.keys.is_some());
    let keys = any_keys.then(|| columns(&|records| records.keys.clone().unwrap_or_else(|| nulls(records.len()))));
    let timestamps: Vec<i64> = chunks.iter().flat_map(|chunk| chunk.records.timestamps.iter().copied()).collect();
    let mut headers = Vec::new();
    if chunks.iter().any(|chunk| !chunk.headers.is_empty()) {
        for chunk in &mut chunks {
            chunk.headers.resize(chunk.records.len(), Vec::new());
            headers.append(&mut chunk.headers);
        }
    }
    let records = RawBatch {
        partition: from.partition,
        offsets: (from.offset..from.offset + rows as u64).collect(),
        timestamps: ScalarBuffer::from(timestamps),
        keys,
        headers: Vec::new(),
        payload: Payload::Bytes(values),
    };
    Some(Fetched { records, headers })
}
