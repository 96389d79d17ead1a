//! Dead letters of a pipeline: read back from its topic, grouped, and given to their sources again.
//!
//! ```text
//! run ─► NAME.dead ─► read ─┬─► groups: what is wrong, since where
//!                           └─► replay ─┬─► the source's topic      in one append:
//!                                       └─► NAME.replayed           so none is given twice
//! ```

mod group;
mod originals;
mod past;
mod replay;

use std::collections::BTreeMap;
use std::time::Duration;

use arrow::array::Array;
use millstream_connectors::broker::{Broker, Fetched, Headers};
use millstream_engine::raw::Payload;
use millstream_engine::source::Position;
use millstream_engine::{Fault, Result};
use serde_json::{Value, json};

pub use group::{Group, Groups, groups};
pub use replay::{Replay, Replayed, replay};

use crate::pattern;
use crate::run::assemble::Topics;
use crate::run::time;

/// Bytes in a read.
const READ_BYTES: usize = 4 << 20;
/// So often, and so long each time, a reader is waited for that is not at the end.
const WAITS: (u32, Duration) = (300, Duration::from_millis(20));

/// A dead letter as it lies in its topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// Its number: its offset in the topic of dead letters.
    pub number: u64,
    /// When its epoch was bound, milliseconds since 1970.
    pub timestamp_ms: i64,
    /// The source, or the name of the requests.
    pub source: String,
    /// The record's partition.
    pub partition: u32,
    /// The record's offset.
    pub offset: u64,
    /// Whether it asked.
    pub asked: bool,
    /// Who could not take it.
    pub step: String,
    /// Why.
    pub reason: String,
    /// Its bytes; none for tombstones and for rows of sources that have no bytes.
    pub raw: Option<Vec<u8>>,
    /// Whether they are those of a row, as text: the record is only where it came from.
    pub is_row: bool,
}

impl Letter {
    /// `None` where it is something else.
    fn of(number: u64, timestamp_ms: i64, headers: &Headers, raw: Option<&[u8]>) -> Option<Self> {
        let headers: BTreeMap<&str, &[u8]> =
            headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
        let text = |name| headers.get(name).and_then(|value| std::str::from_utf8(value).ok());
        Some(Self {
            number,
            timestamp_ms,
            source: text("source")?.to_owned(),
            partition: text("partition")?.parse().ok()?,
            offset: text("offset")?.parse().ok()?,
            asked: text("lane")? == "serve",
            step: text("step")?.to_owned(),
            reason: text("reason")?.to_owned(),
            raw: raw.map(<[u8]>::to_vec),
            is_row: text("content") == Some("row"),
        })
    }

    /// The record that it was, for ever: `orders/0:1200`.
    pub fn origin(&self) -> String {
        format!("{}/{}:{}", self.source, self.partition, self.offset)
    }

    /// Its bytes as text, or in hexadecimal where they are none.
    pub fn content(&self) -> (&'static str, String) {
        match &self.raw {
            None => ("none", String::new()),
            Some(raw) => match std::str::from_utf8(raw) {
                Ok(text) => ("text", text.to_owned()),
                Err(_) => ("hex", hexadecimal(raw)),
            },
        }
    }

    /// For people.
    pub fn text(&self) -> String {
        let lane = if self.asked { ", a request" } else { "" };
        let (form, content) = self.content();
        let form = if form == "text" { String::new() } else { format!("({form}) ") };
        format!(
            "letter {} of {}\n  record  {}{lane}\n  step    {}\n  reason  {}\n  raw     {form}{content}\n",
            self.number,
            time(self.timestamp_ms),
            self.origin(),
            self.step,
            self.reason
        )
    }

    /// For programs.
    pub fn to_json(&self) -> Value {
        let (form, content) = self.content();
        json!({
            "letter": self.number, "time": time(self.timestamp_ms), "source": self.source, "partition": self.partition,
            "offset": self.offset, "lane": if self.asked { "serve" } else { "learn" }, "step": self.step,
            "reason": self.reason, "raw": if form == "none" { Value::Null } else { json!({form: content}) },
        })
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from_digit(u32::from(value), 16).unwrap_or_default();
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// Which letters.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Whose step is as this [pattern](pattern::matches) says.
    pub step: Option<String>,
    /// Whose source is.
    pub source: Option<String>,
    /// Whose reason is.
    pub reason: Option<String>,
    /// Which are not older, milliseconds since 1970.
    pub since_ms: Option<i64>,
}

impl Filter {
    /// Whether a letter is one of them.
    pub fn takes(&self, letter: &Letter) -> bool {
        let is =
            |wanted: &Option<String>, text: &str| wanted.as_ref().is_none_or(|wanted| pattern::matches(wanted, text));
        is(&self.step, &letter.step)
            && is(&self.source, &letter.source)
            && is(&self.reason, &letter.reason)
            && self.since_ms.is_none_or(|since| letter.timestamp_ms >= since)
    }
}

/// Calls `each` with the letters that there are, in order, until it says that it has enough; gives how many records of the
/// topic are none.
pub fn read(
    broker: &dyn Broker,
    pipeline: &str,
    filter: &Filter,
    mut each: impl FnMut(Letter) -> Result<bool>,
) -> Result<u64> {
    let mut strange = 0;
    read_topic(broker, &Topics::of(pipeline).dead, |record| {
        match Letter::of(record.offset, record.timestamp_ms, record.headers, record.value) {
            Some(letter) if filter.takes(&letter) => each(letter),
            Some(_) => Ok(true),
            None => {
                strange += 1;
                Ok(true)
            }
        }
    })?;
    Ok(strange)
}

/// A record, borrowed from what was fetched.
struct Record<'a> {
    offset: u64,
    timestamp_ms: i64,
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    headers: &'a Headers,
}

/// The records of a fetch.
fn records(fetched: &Fetched) -> Result<impl Iterator<Item = Record<'_>>> {
    static NONE: Headers = Headers::new();
    let raw = &fetched.records;
    let Payload::Bytes(values) = &raw.payload else { return Err(Fault::ours("topics hold bytes")) };
    Ok((0..raw.len()).map(|row| Record {
        offset: raw.offsets[row],
        timestamp_ms: raw.timestamps[row],
        key: raw.key(row),
        value: values.is_valid(row).then(|| values.value(row)),
        headers: fetched.headers.get(row).unwrap_or(&NONE),
    }))
}

/// Calls `each` with the records of a topic's first partition that are there at present, until it says that it has enough.
/// One that does not exist has none.
fn read_topic(broker: &dyn Broker, topic: &str, mut each: impl FnMut(Record<'_>) -> Result<bool>) -> Result<()> {
    let Some(found) = broker.topic(topic)? else { return Ok(()) };
    let Some((first, end)) = found.partitions.first().copied() else { return Ok(()) };
    let mut reader = broker.open(topic, &[Position { partition: 0, offset: first }])?;
    let (mut next, mut empty) = (first, 0);
    while next < end && empty <= WAITS.0 {
        let wait = if empty == 0 { Duration::ZERO } else { WAITS.1 };
        if let Some(fetched) = reader.read(READ_BYTES, wait)? {
            empty = 0;
            for record in records(&fetched)? {
                next = record.offset + 1;
                if !each(record)? {
                    return Ok(());
                }
            }
        } else if reader.ends()?.iter().all(|end| end.offset <= next) {
            // What is left are marks of transactions.
            break;
        } else {
            empty += 1;
        }
    }
    Ok(())
}
