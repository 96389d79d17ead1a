//! Gives the records of letters to their sources again, once whatever refused them is mended.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use millstream_connectors::broker::{Append, Broker, Failure, Message, Producer};
use millstream_engine::{Fault, Result};
use serde::Serialize;
use serde_json::json;

use super::past::Past;
use super::{Filter, Groups, Letter, group, originals, read, read_topic};
use crate::plan::Pipeline;
use crate::run::assemble::Topics;

/// Records in one append, and their bytes, at most about.
const APPEND_RECORDS: usize = 1000;
const APPEND_BYTES: usize = 8 << 20;
/// How often an append that certainly did nothing is tried again.
const TRIES: u32 = 5;

/// The header that tells a replayed record: the record that it was, `orders/0:1200`.
pub(super) const REPLAYED: &str = "replayed";

/// What to replay, and how.
#[derive(Clone, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own")]
pub struct Replay {
    /// Which letters.
    pub filter: Filter,
    /// Also those that were replayed already.
    pub again: bool,
    /// Also requests that were refused: they get another answer.
    pub requests: bool,
    /// Also records that a changed definition takes from the log by itself.
    pub rebuilt: bool,
    /// Only say what would be done.
    pub dry_run: bool,
}

/// What was replayed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Replayed {
    /// Records by the topic that they were given to.
    pub records: BTreeMap<String, u64>,
    /// Of those, the ones that had come as far as a step: another branch may have taken them.
    pub beyond_source: u64,
    /// Of those, the ones whose topic no longer holds them: they have no key, and the letter's time.
    pub without_original: u64,
    /// Records that were replayed before.
    pub already: u64,
    /// Records that a changed definition takes from the log by itself.
    pub rebuilt: u64,
    /// Requests, which were not asked for.
    pub requests: u64,
    /// Letters that cannot be replayed, by the reason.
    pub impossible: BTreeMap<String, u64>,
    /// Whether nothing was done.
    pub dry_run: bool,
}

/// The origins of all records that were replayed.
pub(super) fn replayed(broker: &dyn Broker, pipeline: &str) -> Result<BTreeSet<String>> {
    let mut origins = BTreeSet::new();
    read_topic(broker, &Topics::of(pipeline).replayed, |record| {
        origins.extend(record.key.map(|key| String::from_utf8_lossy(key).into_owned()));
        Ok(true)
    })?;
    Ok(origins)
}

impl Groups {
    /// The letters of a pipeline by kind.
    pub fn read(broker: &dyn Broker, pipeline: &str, filter: &Filter) -> Result<Self> {
        let replayed = replayed(broker, pipeline)?;
        let mut grouping = group::Grouping::default();
        let strange = read(broker, pipeline, filter, |letter| {
            grouping.add(&letter, replayed.contains(&letter.origin()));
            Ok(true)
        })?;
        Ok(grouping.finish(strange))
    }
}

/// Replays letters. Each append holds the records and what says that they were replayed, all or nothing: so it may be
/// broken off anywhere, and asked for again.
pub fn replay(pipeline: &Pipeline, broker: &dyn Broker, wanted: &Replay, now_ms: i64) -> Result<Replayed> {
    let topics = Topics::of(&pipeline.name);
    let mut done = Replayed { dry_run: wanted.dry_run, ..Replayed::default() };
    let past = Past::read(pipeline, broker)?;
    let mut seen = if wanted.again { BTreeSet::new() } else { replayed(broker, &pipeline.name)? };
    let mut before = seen.clone();
    let mut replaying =
        Replaying { pipeline, broker, topics: &topics, now_ms, producer: None, chosen: Vec::new(), bytes: 0 };
    read(broker, &pipeline.name, &wanted.filter, |letter| {
        let origin = letter.origin();
        // A record may have died in several branches.
        if !seen.insert(origin.clone()) {
            done.already += u64::from(before.remove(&origin));
            return Ok(true);
        }
        if letter.asked && !wanted.requests {
            done.requests += 1;
            return Ok(true);
        }
        if past.is_rebuilt(&letter) && !wanted.rebuilt {
            done.rebuilt += 1;
            return Ok(true);
        }
        match topic_of(pipeline, &letter) {
            Ok(topic) => replaying.add(topic, letter, &mut done)?,
            Err(why) => *done.impossible.entry(why).or_default() += 1,
        }
        Ok(true)
    })?;
    replaying.flush(&mut done)?;
    Ok(done)
}

/// The topic that a letter's record came from, or why it cannot go back.
fn topic_of(pipeline: &Pipeline, letter: &Letter) -> Result<String, String> {
    let requests = pipeline.requests.iter().map(|request| &request.source);
    let name = &letter.source;
    let Some(source) = pipeline.sources.iter().chain(requests).find(|source| source.name == *name) else {
        return Err(format!("the definition has no source `{name}` any more"));
    };
    let topic = source.source.topic.as_ref().map(|(topic, _)| topic.clone());
    topic.ok_or_else(|| {
        format!("`{name}` reads no topic, so nothing can be added to it: mend what it reads, and run from the start")
    })
}

struct Replaying<'a> {
    pipeline: &'a Pipeline,
    broker: &'a dyn Broker,
    topics: &'a Topics,
    now_ms: i64,
    producer: Option<Box<dyn Producer>>,
    /// Letters of the next append, with their topics.
    chosen: Vec<(String, Letter)>,
    bytes: usize,
}

impl Replaying<'_> {
    fn add(&mut self, topic: String, letter: Letter, done: &mut Replayed) -> Result<()> {
        self.bytes += letter.raw.as_ref().map_or(0, Vec::len);
        self.chosen.push((topic, letter));
        if self.chosen.len() >= APPEND_RECORDS || self.bytes >= APPEND_BYTES { self.flush(done) } else { Ok(()) }
    }

    fn flush(&mut self, done: &mut Replayed) -> Result<()> {
        let chosen = std::mem::take(&mut self.chosen);
        self.bytes = 0;
        if chosen.is_empty() {
            return Ok(());
        }
        let mut originals = self.originals(&chosen)?;
        let (mut messages, mut notes) = (BTreeMap::<String, Vec<Message>>::new(), Vec::new());
        for (topic, letter) in chosen {
            let original = originals.remove(&(topic.clone(), letter.partition, letter.offset));
            // A topic that was made anew has another record there.
            let original = original.filter(|original| letter.is_row || original.value == letter.raw);
            if letter.is_row && original.is_none() {
                let why = format!(
                    "the topic `{topic}` no longer holds the record, and the letter holds only the row that came of it"
                );
                *done.impossible.entry(why).or_default() += 1;
                continue;
            }
            done.without_original += u64::from(original.is_none());
            let sources = [letter.source.clone(), format!("{}/order", letter.source)];
            done.beyond_source += u64::from(!sources.contains(&letter.step));
            *done.records.entry(topic.clone()).or_default() += 1;
            notes.push(self.note(&topic, &letter));
            messages.entry(topic).or_default().push(again(&letter, original));
        }
        if done.dry_run {
            return Ok(());
        }
        messages.insert(self.topics.replayed.clone(), notes);
        let appends: Vec<Append> = messages.into_iter().map(|(topic, messages)| Append { topic, messages }).collect();
        self.append(&appends)
    }

    fn originals(&self, chosen: &[(String, Letter)]) -> Result<BTreeMap<(String, u32, u64), Message>> {
        let mut wanted: BTreeMap<(&str, u32), Vec<u64>> = BTreeMap::new();
        for (topic, letter) in chosen {
            wanted.entry((topic, letter.partition)).or_default().push(letter.offset);
        }
        let mut found = BTreeMap::new();
        for ((topic, partition), offsets) in wanted {
            for (offset, message) in originals::find(self.broker, topic, partition, &offsets)? {
                found.insert((topic.to_owned(), partition, offset), message);
            }
        }
        Ok(found)
    }

    /// What says that a record was replayed.
    fn note(&self, topic: &str, letter: &Letter) -> Message {
        let note = json!({"letter": letter.number, "topic": topic, "step": letter.step, "reason": letter.reason});
        Message {
            key: Some(letter.origin().into_bytes()),
            value: Some(note.to_string().into_bytes()),
            timestamp_ms: self.now_ms,
            ..Message::default()
        }
    }

    fn append(&mut self, appends: &[Append]) -> Result<()> {
        if self.producer.is_none() {
            self.broker.create(&self.topics.replayed, 1)?;
            // Whoever replays at the same time is fenced, so that no letter is replayed by both.
            self.producer = Some(self.broker.producer(&self.topics.replayed)?);
        }
        let producer = self.producer.as_mut().ok_or_else(|| Fault::ours("it was made just now"))?;
        let mut tries = 0;
        loop {
            let Err(fault) = producer.append(appends) else { return Ok(()) };
            tries += 1;
            match Failure::of(&fault) {
                Failure::Again if tries < TRIES => {}
                Failure::Open => {
                    let message = format!(
                        "{fault}; nobody knows whether the last records were appended: ask for the replay again, which \
                         leaves out what was ({})",
                        self.pipeline.name
                    );
                    return Err(Fault { message, ..fault });
                }
                Failure::Again | Failure::Refused | Failure::Fenced => return Err(fault),
            }
        }
    }
}

/// The record as it was, with a header that names it.
fn again(letter: &Letter, original: Option<Message>) -> Message {
    let mut message = original.unwrap_or_else(|| Message {
        value: letter.raw.clone(),
        timestamp_ms: letter.timestamp_ms,
        partition: Some(letter.partition),
        ..Message::default()
    });
    message.headers.retain(|(name, _)| name != REPLAYED);
    message.headers.push((REPLAYED.to_owned(), letter.origin().into_bytes()));
    message
}

impl Replayed {
    /// For people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let said = if self.dry_run { "would be given to" } else { "given to" };
        for (topic, records) in &self.records {
            let _ = writeln!(text, "{records} records {said} the topic {topic} again");
        }
        if self.records.is_empty() {
            text.push_str("nothing to replay\n");
        }
        let mut note = |count: u64, what: &str| {
            let _ = if count > 0 { writeln!(text, "{count} {what}") } else { Ok(()) };
        };
        note(
            self.beyond_source,
            "of them had come as far as a step: where another branch took them, it takes them twice, unless it has a \
             `deduplicate` step",
        );
        note(
            self.without_original,
            "of them are no longer in their topic: they go without a key, and with the letter's time",
        );
        note(self.already, "records were replayed before (`--again` replays them once more)");
        note(
            self.rebuilt,
            "records were refused by what has changed since: a run with the new definition takes them from the log, where \
             it makes state anew (`--rebuilt` replays them all the same, for sinks that saw nothing of it)",
        );
        note(self.requests, "requests were refused, and answered so (`--requests` asks them again)");
        for (why, letters) in &self.impossible {
            let _ = writeln!(text, "{letters} letters cannot be replayed: {why}");
        }
        text
    }
}
