//! The journal: what was committed, in its topic, one JSON record each.
//!
//! | `kind` | says |
//! |---|---|
//! | `start` | a run began (see [`Tenure`]): with which definition |
//! | `progress` | an epoch was committed: what it was made of, what it gave; written with all that it gave |
//! | `rollback` | what was learned after an epoch is undone |
//!
//! Sources are called by name, so that a record says the same whatever the definition numbers them.

use std::collections::{BTreeMap, BTreeSet};

use millstream_connectors::broker::{Broker, Message};
use millstream_engine::binding::{Binding, Epoch, Range};
use millstream_engine::publish::{Progress, Recorded, RevisionMark, Tally};
use millstream_engine::{Fault, Result, digest};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::origin::Named;
use crate::run::change::Change;
use crate::run::tenure::{self, Entry, Tenure};

/// A record, besides who started and when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Record {
    /// A run began.
    Start(Definition),
    /// An epoch was committed.
    Progress(Committed),
    /// What was learned after an epoch is undone.
    Rollback(Rollback),
}

/// With which definition a run works.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    /// The fingerprint of all of it.
    pub definition: String,
    /// The names of its sources and then of its requests, by index.
    pub sources: Vec<String>,
    /// The fingerprints of its parts, by name.
    pub fingerprints: BTreeMap<String, String>,
    /// What its models began with.
    #[serde(default, skip_serializing_if = "Named::is_empty")]
    pub origins: Named,
}

/// An epoch that was committed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    /// The offset of the start of the run that committed it.
    pub incarnation: u64,
    /// What it was made of.
    pub binding: Bound,
    /// By model: the revision after it.
    pub revisions: BTreeMap<String, RevisionMark>,
    /// What it answered.
    pub answers: Tally,
}

/// A binding whose sources are called by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    /// Its epoch.
    pub epoch: Epoch,
    /// The records that entered.
    pub ranges: Vec<Part>,
    /// The time that the epoch saw.
    pub now_ms: i64,
    /// The seed of its randomness.
    pub seed: u64,
    /// The partitions that held back nobody; none if they are those of the record before, which the same run wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<Vec<(String, u32)>>,
}

/// A range whose source is called by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The source's name.
    pub source: String,
    /// The partition.
    pub partition: u32,
    /// The first offset.
    pub lo: u64,
    /// The offset after the last.
    pub hi: u64,
    /// How many records there were.
    pub count: u64,
    /// Their digest.
    pub digest: String,
}

/// What was learned after an epoch is undone. Its requests stay answered, as they were.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollback {
    /// The last epoch that stays.
    pub to: Epoch,
    /// The version that made it wanted.
    pub version: String,
    /// Records that are not to be learned again.
    pub skip: Vec<Skip>,
}

/// Records that are never taken.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Skip {
    /// The source's name.
    pub source: String,
    /// The partition.
    pub partition: u32,
    /// The first offset.
    pub lo: u64,
    /// The offset after the last.
    pub hi: u64,
}

impl Definition {
    /// What a start says.
    pub fn says(&self) -> Result<Map<String, Value>> {
        match serde_json::to_value(self) {
            Ok(Value::Object(says)) => Ok(says),
            other => Err(Fault::ours(format!("a definition is no object: {other:?}"))),
        }
    }

    /// A source's name.
    fn name(&self, source: u32) -> Result<String> {
        let name = self.sources.get(source as usize).cloned();
        name.ok_or_else(|| Fault::ours(format!("there is no source {source}")))
    }

    fn index(&self, name: &str) -> Result<u32> {
        let index = self.sources.iter().position(|source| source == name);
        let unknown = || Fault::definition(format!("the journal speaks of a source `{name}`, which there is not"));
        index.map(|index| index as u32).ok_or_else(unknown)
    }
}

/// Writes progress records.
pub struct Writer {
    definition: Definition,
    /// The idle partitions in the newest record, as far as this run wrote it.
    idle: Option<Vec<(u32, u32)>>,
}

impl Writer {
    /// For a run with this definition.
    pub fn new(definition: Definition) -> Self {
        Self { definition, idle: None }
    }

    /// The next records, in order. Nothing changes until they are [written](Writer::wrote).
    pub fn messages<'a>(
        &'a self,
        incarnation: u64,
        epochs: impl Iterator<Item = &'a Progress>,
    ) -> Result<Vec<Message>> {
        let mut idle = self.idle.as_ref();
        let message = |progress: &'a Progress| {
            let names = idle.replace(&progress.binding.idle) != Some(&progress.binding.idle);
            self.message(incarnation, progress, names)
        };
        epochs.map(message).collect()
    }

    /// These epochs' records are written.
    pub fn wrote(&mut self, last: &Progress) {
        self.idle = Some(last.binding.idle.clone());
    }

    /// The next record follows a start.
    pub fn renew(&mut self) {
        self.idle = None;
    }

    fn message(&self, incarnation: u64, progress: &Progress, with_idle: bool) -> Result<Message> {
        let binding = &progress.binding;
        let part = |range: &Range| {
            Ok(Part {
                source: self.definition.name(range.source)?,
                partition: range.partition,
                lo: range.lo,
                hi: range.hi,
                count: range.count,
                digest: range.digest.clone(),
            })
        };
        let name = |&(source, partition): &(u32, u32)| Ok((self.definition.name(source)?, partition));
        let committed = Committed {
            incarnation,
            binding: Bound {
                epoch: binding.epoch,
                ranges: binding.ranges.iter().map(part).collect::<Result<_>>()?,
                now_ms: binding.now_ms,
                seed: binding.seed,
                idle: with_idle.then(|| binding.idle.iter().map(name).collect::<Result<_>>()).transpose()?,
            },
            revisions: progress.revisions.clone(),
            answers: progress.answers.clone(),
        };
        Record::Progress(committed).message(binding.now_ms)
    }
}

impl Record {
    /// As it is written.
    pub fn message(&self, timestamp_ms: i64) -> Result<Message> {
        let value = serde_json::to_vec(self)
            .map_err(|error| Fault::ours("a journal's record cannot be written").because(error))?;
        Ok(Message { value: Some(value), timestamp_ms, ..Message::default() })
    }

    /// As it was read.
    pub fn parse(topic: &str, entry: &Entry) -> Result<Self> {
        serde_json::from_slice(&entry.value).map_err(|error| {
            let has_no_kind = serde_json::from_slice::<Map<String, Value>>(&entry.value)
                .is_ok_and(|record| record.contains_key("binding") && !record.contains_key("kind"));
            if has_no_kind {
                return Fault::world(format!(
                    "{topic} was written by an older version of this program, which this one cannot continue; start anew \
                     with another --state (and other topics, if they are on Kafka)"
                ));
            }
            let place = format!("{topic} holds something else than a journal's records at offset {}", entry.offset);
            Fault::world(place).because(error)
        })
    }
}

/// What a journal says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// The offset that reading began at: what was before is not in here.
    pub from: u64,
    /// All starts, with their offsets.
    pub starts: Vec<(u64, Definition)>,
    /// All epochs, consecutive; rollbacks are applied.
    pub epochs: Vec<Past>,
    /// What rollbacks said is never to be taken.
    pub skips: BTreeSet<Skip>,
    /// Request sources: what their records asked stays answered.
    requests: BTreeSet<String>,
}

/// An epoch of the past.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Past {
    /// Where its record is.
    pub offset: u64,
    /// BLAKE3 of its record.
    pub digest: String,
    /// The record. Of an epoch that was undone, only the requests are left.
    pub committed: Committed,
    /// Whether a rollback has undone it: then a replay does not reach what was recorded.
    pub undone: bool,
    /// The start before it, an index into [`History::starts`]; `None` if reading began after that.
    pub start: Option<usize>,
}

impl History {
    /// Reads a journal from an offset up to the tenure's start. `requests` are the sources that ask.
    pub fn read(tenure: &Tenure, from: u64, requests: &BTreeSet<String>) -> Result<Self> {
        let mut history = Self { from, requests: requests.clone(), ..Self::default() };
        tenure.read(from, |entry| history.push(tenure.topic(), &entry))?;
        Ok(history)
    }

    /// Reads what a journal holds at present, without taking it over: a run may be going on.
    pub fn look(broker: &dyn Broker, topic: &str, from: u64, requests: &BTreeSet<String>) -> Result<Self> {
        let mut history = Self { from, requests: requests.clone(), ..Self::default() };
        tenure::look(broker, topic, from, |entry| history.push(topic, &entry))?;
        Ok(history)
    }

    fn push(&mut self, topic: &str, entry: &Entry) -> Result<()> {
        match Record::parse(topic, entry)? {
            Record::Start(definition) => self.starts.push((entry.offset, definition)),
            Record::Rollback(rollback) => self.undo(rollback),
            Record::Progress(committed) => {
                let epoch = committed.binding.epoch;
                if let Some(last) = self.epochs.last().filter(|last| last.epoch() + 1 != epoch) {
                    return Err(Fault::world(format!(
                        "{topic} holds epoch {epoch} (at offset {}) after epoch {} (at offset {}): its records were \
                         altered, or lost",
                        entry.offset,
                        last.epoch(),
                        last.offset
                    )));
                }
                self.epochs.push(Past {
                    offset: entry.offset,
                    digest: digest::of(&entry.value),
                    committed,
                    undone: false,
                    start: self.starts.len().checked_sub(1),
                });
            }
        }
        Ok(())
    }

    /// Learned records are bound anew, and so are decisions about who is waited for.
    fn undo(&mut self, rollback: Rollback) {
        self.skips.extend(rollback.skip);
        for past in self.epochs.iter_mut().filter(|past| past.epoch() > rollback.to) {
            past.undone = true;
            past.committed.binding.ranges.retain(|range| self.requests.contains(&range.source));
            past.committed.binding.idle = Some(Vec::new());
            past.committed.revisions.clear();
        }
    }

    /// With which definition the last epoch was committed; `None` if there is no epoch, or its start was not read.
    pub fn definition(&self) -> Option<&Definition> {
        self.epochs.last().and_then(|past| past.start).map(|start| &self.starts[start].1)
    }

    /// The epoch's record.
    pub fn past(&self, epoch: Epoch) -> Option<&Past> {
        let first = self.epochs.first()?.epoch();
        epoch.checked_sub(first).and_then(|at| self.epochs.get(at as usize))
    }

    /// The epochs from `epoch` on as the engine knows them, before which `idle` held back nobody. `since` says what has
    /// changed since a start, an index into [`History::starts`], or since before reading began: what is no longer the
    /// same is neither taken nor compared.
    pub fn recorded(
        &self,
        epoch: Epoch,
        idle: &[(String, u32)],
        definition: &Definition,
        since: impl Fn(Option<usize>) -> Change,
    ) -> Result<Vec<Recorded>> {
        let mut idle = indexed(idle, definition);
        let mut recorded = Vec::new();
        let mut changed: BTreeMap<Option<usize>, Change> = BTreeMap::new();
        for past in self.epochs.iter().filter(|past| past.epoch() >= epoch) {
            let change = changed.entry(past.start).or_insert_with(|| since(past.start));
            let bound = &past.committed.binding;
            if let Some(named) = &bound.idle {
                idle = indexed(named, definition);
            }
            let range = |part: &Part| {
                Ok(Range {
                    source: definition.index(&part.source)?,
                    partition: part.partition,
                    lo: part.lo,
                    hi: part.hi,
                    count: part.count,
                    digest: part.digest.clone(),
                })
            };
            let ranges = bound.ranges.iter().filter(|part| change.keeps_source(&part.source));
            let is_compared = |model: &String| change.has_same_sources && change.keeps(model);
            let revisions = past.committed.revisions.iter().filter(|(model, _)| is_compared(model));
            recorded.push(Recorded {
                binding: Binding {
                    epoch: bound.epoch,
                    ranges: ranges.map(range).collect::<Result<_>>()?,
                    now_ms: bound.now_ms,
                    seed: bound.seed,
                    idle: idle.clone(),
                },
                revisions: revisions.map(|(model, mark)| (model.clone(), mark.clone())).collect(),
                answers: (!past.undone && change.is_none).then(|| past.committed.answers.clone()),
            });
        }
        Ok(recorded)
    }
}

/// By index; a source that is gone holds back nobody.
fn indexed(idle: &[(String, u32)], definition: &Definition) -> Vec<(u32, u32)> {
    let index = |(name, partition): &(String, u32)| Some((definition.index(name).ok()?, *partition));
    let mut idle: Vec<_> = idle.iter().filter_map(index).collect();
    idle.sort_unstable();
    idle
}

impl Past {
    /// Its number.
    pub fn epoch(&self) -> Epoch {
        self.committed.binding.epoch
    }
}
