//! The sources' records, read once more.

use std::collections::BTreeMap;
use std::sync::Arc;

use millstream_connectors::broker::Broker;
use millstream_connectors::sources::World;
use millstream_engine::Result;
use millstream_engine::digest::RecordsDigest;
use millstream_engine::raw::RawBatch;
use millstream_engine::source::{Position, Reader, Source};

use super::Place;
use super::log::Patient;
use crate::plan::Pipeline;
use crate::run::journal::{Part, Skip};

/// All sources, those of requests included.
pub(super) struct Inputs {
    broker: Arc<dyn Broker>,
    sources: BTreeMap<String, Input>,
    readers: BTreeMap<Place, Partition>,
    skips: Vec<Skip>,
}

struct Input {
    source: Arc<dyn Source>,
    topic: Option<String>,
}

/// A partition that is being read.
struct Partition {
    reader: Box<dyn Reader>,
    held: Option<RawBatch>,
    /// All before this was given.
    next: u64,
}

/// What was read for a range.
pub(super) struct Read {
    /// What the range holds now.
    pub(super) found: Found,
    /// The first and the last record before the range that no epoch has bound.
    pub(super) unbound: Option<(u64, u64)>,
    /// The records' offsets, where they were wanted and could be read.
    pub(super) offsets: Option<Vec<u64>>,
}

/// What a range holds now.
pub(super) enum Found {
    /// Retention has passed, or the definition no longer has the source: nothing can be said.
    Gone,
    /// The log does not go as far.
    Missing(String),
    /// These records.
    Records {
        /// How many.
        count: u64,
        /// Their digest.
        digest: String,
    },
}

impl Inputs {
    pub(super) fn open(pipeline: &Pipeline, world: &World) -> Result<Self> {
        let mut sources = BTreeMap::new();
        let requests = pipeline.requests.iter().map(|request| &request.source);
        for source in pipeline.sources.iter().chain(requests) {
            let topic = source.source.topic.as_ref().map(|(topic, _)| topic.clone());
            sources.insert(source.name.clone(), Input { source: (source.source.open)(world)?, topic });
        }
        Ok(Self { broker: world.broker.clone(), sources, readers: BTreeMap::new(), skips: Vec::new() })
    }

    /// The topic that a source reads; of another, its name.
    pub(super) fn topic(&self, source: &str) -> String {
        self.sources.get(source).and_then(|input| input.topic.clone()).unwrap_or_else(|| source.to_owned())
    }

    /// Passes over records from now on.
    pub(super) fn skip(&mut self, more: Vec<Skip>) {
        self.skips.extend(more);
    }

    /// Reads a range, and whatever lies between it and `expected`.
    pub(super) fn read(&mut self, range: &Part, expected: Option<u64>, with_offsets: bool) -> Result<Read> {
        let nothing = |found| Ok(Read { found, unbound: None, offsets: None });
        let Some(input) = self.sources.get(&range.source) else { return nothing(Found::Gone) };
        let place = (range.source.clone(), range.partition);
        let mut start = expected.map_or(range.lo, |expected| expected.min(range.lo));
        if self.readers.get(&place).is_none_or(|partition| partition.next != start) {
            if let Some(topic) = &input.topic {
                let kept = self.broker.topic(topic)?;
                let Some((first, end)) = kept.and_then(|kept| kept.partitions.get(range.partition as usize).copied())
                else {
                    return nothing(Found::Missing("there is no such partition".to_owned()));
                };
                if range.lo < first {
                    return nothing(Found::Gone);
                }
                if range.lo >= end {
                    return nothing(Found::Missing(format!("the log ends at offset {end}")));
                }
                start = start.max(first);
            }
            let from = Position { partition: range.partition, offset: start };
            let reader = input.source.open(&[from])?;
            self.readers.insert(place.clone(), Partition { reader, held: None, next: start });
        }
        let mine = |skip: &&Skip| skip.source == range.source && skip.partition == range.partition;
        let skips: Vec<(u64, u64)> = self.skips.iter().filter(mine).map(|skip| (skip.lo, skip.hi)).collect();
        let partition = self.readers.get_mut(&place).expect("it was inserted just now");
        let mut unbound: Option<(u64, u64)> = None;
        partition.take(range.lo, &skips, &mut |records| {
            let last = records.offsets[records.len() - 1];
            unbound = Some((unbound.map_or(records.offsets[0], |(first, _)| first), last));
        })?;
        let (mut count, mut digest, mut offsets) = (0, RecordsDigest::default(), Vec::new());
        partition.take(range.hi, &skips, &mut |records| {
            count += records.len() as u64;
            digest.update(records);
            if with_offsets {
                offsets.extend(records.offsets.iter());
            }
        })?;
        let offsets = with_offsets.then_some(offsets);
        Ok(Read { found: Found::Records { count, digest: digest.finish() }, unbound, offsets })
    }
}

impl Partition {
    /// Gives all records before `hi` that are not in `skips`.
    fn take(&mut self, hi: u64, skips: &[(u64, u64)], each: &mut dyn FnMut(&RawBatch)) -> Result<()> {
        while self.next < hi {
            let records = match self.held.take() {
                Some(records) => records,
                None => match self.reader.read_on(self.next)? {
                    Some(records) => records,
                    None => break,
                },
            };
            let taken = records.offsets.partition_point(|offset| *offset < hi);
            outside(&records.slice(0, taken), skips, each);
            if taken < records.len() {
                self.held = Some(records.slice(taken, records.len() - taken));
                break;
            }
            self.next = records.offsets[records.len() - 1] + 1;
        }
        self.next = hi.max(self.next);
        Ok(())
    }
}

/// Gives the parts of `records` that are in none of `skips`.
fn outside(records: &RawBatch, skips: &[(u64, u64)], each: &mut dyn FnMut(&RawBatch)) {
    let is_skipped = |offset: u64| skips.iter().any(|(lo, hi)| (*lo..*hi).contains(&offset));
    let mut start = 0;
    for at in 0..=records.len() {
        if at == records.len() || is_skipped(records.offsets[at]) {
            if start < at {
                each(&records.slice(start, at - start));
            }
            start = at + 1;
        }
    }
}
