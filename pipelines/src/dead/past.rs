//! What has changed since letters were written.
//!
//! After a change of the definition, a run makes what comes after the changed part anew from the log, with the records that
//! were refused. Whoever has state has taken them then; a replay would give them a second time.

use std::collections::{BTreeMap, BTreeSet};

use millstream_connectors::broker::Broker;
use millstream_engine::Result;

use super::Letter;
use crate::fingerprint::{Fingerprints, Part, of_parts};
use crate::plan::Pipeline;
use crate::run::assemble::Topics;
use crate::run::journal::History;
use crate::run::tenure;

/// With which definition records were taken.
pub(super) struct Past {
    /// The fingerprints of the parts at each start.
    starts: Vec<Fingerprints>,
    /// By the time that an epoch saw, which its letters have: the start before it. Of epochs that saw the same, the first.
    epochs: BTreeMap<i64, Option<usize>>,
    now: Fingerprints,
    /// The parts that something with state comes after.
    remembered: BTreeSet<String>,
}

impl Past {
    pub(super) fn read(pipeline: &Pipeline, broker: &dyn Broker) -> Result<Self> {
        let topic = Topics::of(&pipeline.name).progress;
        let requests = pipeline.requests.iter().map(|request| request.name.clone()).collect();
        let history = match broker.topic(&topic)? {
            Some(_) => History::look(broker, &topic, tenure::range(broker, &topic)?.0, &requests)?,
            None => History::default(),
        };
        let mut epochs = BTreeMap::new();
        for past in &history.epochs {
            epochs.entry(past.committed.binding.now_ms).or_insert(past.start);
        }
        // What models began with is what the newest start says.
        let origins = history.starts.last().map(|(_, definition)| definition.origins.clone()).unwrap_or_default();
        let starts = history.starts.into_iter().map(|(_, definition)| definition.fingerprints).collect();
        let parts = pipeline.parts_with(&origins);
        let remembered = remembered(&parts);
        Ok(Self { starts, epochs, now: of_parts(parts), remembered })
    }

    /// Whether the record has been taken, or will be by the next run, without a replay.
    pub(super) fn is_rebuilt(&self, letter: &Letter) -> bool {
        let Letter { source, step, .. } = letter;
        let is_source =
            *step == *source || step.strip_prefix(source.as_str()).is_some_and(|part| part.starts_with('/'));
        let part = if is_source && !self.now.contains_key(step) { format!("source/{source}") } else { step.clone() };
        let start = self.epochs.get(&letter.timestamp_ms).copied().flatten();
        let was = start.and_then(|start| self.starts[start].get(&part));
        !letter.asked && self.remembered.contains(&part) && was.is_some_and(|was| self.now.get(&part) != Some(was))
    }
}

/// The parts that a step or model with state is, or reads, also through others.
fn remembered(parts: &[Part]) -> BTreeSet<String> {
    let reads: BTreeMap<&str, &Part> = parts.iter().map(|part| (part.name.as_str(), part)).collect();
    let is_node = |part: &&Part| !part.name.starts_with("source/") && !part.name.starts_with("request/");
    let mut ahead: Vec<&str> =
        parts.iter().filter(is_node).filter(|part| part.stateful).map(|part| part.name.as_str()).collect();
    let mut found = BTreeSet::new();
    while let Some(name) = ahead.pop() {
        if found.insert(name.to_owned()) {
            ahead.extend(reads.get(name).into_iter().flat_map(|part| part.reads.iter().map(String::as_str)));
        }
    }
    found
}
