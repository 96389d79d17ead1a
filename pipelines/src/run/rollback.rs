//! Undoes what was learned after a version: the journal says so, and the next run starts from there.

use millstream_connectors::broker::Append;
use millstream_engine::{Fault, Result, checkpoint};

use crate::origin::{self, Origins};
use crate::plan::Pipeline;
use crate::registry;
use crate::run::assemble::{self, Topics};
use crate::run::journal::{Definition, History, Record, Rollback, Skip};
use crate::run::state::StateDir;
use crate::run::tenure::{Appended, Tenure};
use crate::run::{Options, open_broker, start};

/// Records of a topic that are not to be learned again: `TOPIC/PARTITION:FROM-TO`, `TO` not included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Poison {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: u32,
    /// The first offset.
    pub from: u64,
    /// The offset after the last.
    pub to: u64,
}

impl std::str::FromStr for Poison {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let parse = || {
            let (topic, rest) = text.rsplit_once('/')?;
            let (partition, range) = rest.split_once(':')?;
            let (from, to) = range.split_once('-')?;
            let (from, to) = (from.parse().ok()?, to.parse().ok()?);
            let partition = partition.parse().ok()?;
            (from < to && !topic.is_empty()).then(|| Self { topic: topic.to_owned(), partition, from, to })
        };
        parse().ok_or_else(|| {
            format!("`{text}` is not TOPIC/PARTITION:FROM-TO, such as flights/0:1200-1300 for the offsets 1200 to 1299")
        })
    }
}

/// What was undone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RolledBack {
    /// The version, `model/id`.
    pub version: String,
    /// Its revision.
    pub revision: u64,
    /// The last epoch that stays.
    pub to: u64,
    /// How many epochs were undone.
    pub undone: u64,
}

/// Undoes what was learned after `version`. What was answered stays answered.
pub fn rollback(pipeline: &Pipeline, options: &Options, version: &str, poison: &[Poison]) -> Result<RolledBack> {
    let state = StateDir::lock(&options.state)?;
    let broker = match &options.broker {
        Some(broker) => broker.clone(),
        None => open_broker(pipeline, state.path())?,
    };
    let found = registry::open(pipeline, state.path())?.show(version)?;
    let (name, metadata) = (format!("{}/{}", found.metadata.model, found.id), found.metadata);
    if metadata.pipeline != pipeline.name {
        return Err(Fault::definition(format!("{name} is a version of pipeline {}", metadata.pipeline)));
    }
    let graph = assemble::graph(pipeline, &assemble::world(pipeline, broker.clone()))?;
    let topic = Topics::of(&pipeline.name).progress;
    let store = start::store(pipeline, options)?;
    let named = origin::recorded(pipeline, &*broker, &topic, store.as_ref())?;
    let origins = Origins::find(pipeline, state.path(), &named)?;
    let definition = Definition::of(pipeline, &graph, &origins)?;
    let mut tenure = Tenure::take(broker, &topic, definition.says()?, options.clock.now_ms())?;
    let requests = pipeline.requests.iter().map(|request| request.name.clone()).collect();
    let history = History::read(&tenure, tenure.first()?, &requests)?;
    let past = history.past(metadata.epoch).filter(|past| !past.undone);
    let mark = past.and_then(|past| past.committed.revisions.get(&metadata.model));
    if mark.is_none_or(|mark| mark.revision != metadata.revision) {
        return Err(Fault::definition(format!(
            "the journal does not hold epoch {} with revision {} of {}: it was undone, or is of another past",
            metadata.epoch, metadata.revision, metadata.model
        )));
    }
    let skip = skips(pipeline, &history, metadata.epoch, poison)?;
    check_start(pipeline, options, &history, metadata.epoch)?;
    let last = history.epochs.last().map_or(metadata.epoch, crate::run::journal::Past::epoch);
    let rollback = Rollback { to: metadata.epoch, version: name.clone(), skip };
    let message = Record::Rollback(rollback).message(options.clock.now_ms())?;
    match tenure.append(&[Append { topic, messages: vec![message] }])? {
        Appended::Done => {}
        Appended::Lost => {
            return Err(Fault::world(
                "nobody knows whether the rollback was written: look with `millstream state`, and ask for it again if not",
            ));
        }
    }
    Ok(RolledBack { version: name, revision: metadata.revision, to: metadata.epoch, undone: last - metadata.epoch })
}

/// The next run must find a way to that epoch.
fn check_start(pipeline: &Pipeline, options: &Options, history: &History, to: u64) -> Result<()> {
    if history.epochs.first().is_some_and(|first| first.epoch() == 0) {
        return Ok(());
    }
    let listed = start::store(pipeline, options)?.map_or_else(|| Ok(Vec::new()), |store| checkpoint::list(&*store))?;
    let leads_there = |listed: &checkpoint::Listed| {
        let before = listed.epoch.checked_sub(1).and_then(|before| history.past(before));
        listed.epoch <= to + 1 && listed.manifest.is_ok() && before.is_some_and(|past| !past.undone)
    };
    if listed.iter().any(leads_there) {
        return Ok(());
    }
    Err(Fault::world(format!(
        "there is no way back to epoch {to}: the journal no longer begins at epoch 0, and no checkpoint is that old"
    )))
}

/// The poison by source. What the version itself had learned cannot be skipped.
fn skips(pipeline: &Pipeline, history: &History, to: u64, poison: &[Poison]) -> Result<Vec<Skip>> {
    let mut skips = Vec::new();
    for Poison { topic, partition, from, to: end } in poison {
        let reads = |source: &&crate::plan::Source| source.source.topic.as_ref().is_some_and(|(name, _)| name == topic);
        let sources: Vec<_> = pipeline.sources.iter().filter(reads).collect();
        if sources.is_empty() {
            return Err(Fault::definition(format!("no source reads topic {topic}, so nothing of it can be skipped")));
        }
        for source in sources {
            let ranges = history.epochs.iter().filter(|past| past.epoch() <= to);
            let ranges = ranges.flat_map(|past| &past.committed.binding.ranges);
            let learned = ranges.filter(|range| range.source == source.name && range.partition == *partition);
            let learned = learned.map(|range| range.hi).max().unwrap_or(0);
            if *from < learned {
                return Err(Fault::definition(format!(
                    "the version had read {topic}/{partition} up to offset {learned} already: choose an older version, or \
                     skip from there on"
                )));
            }
            skips.push(Skip { source: source.name.clone(), partition: *partition, lo: *from, hi: *end });
        }
    }
    Ok(skips)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn poison_is_a_range_of_offsets() {
        let parsed = "a.b-c/12:5-9".parse::<Poison>();
        assert_eq!(parsed, Ok(Poison { topic: "a.b-c".to_owned(), partition: 12, from: 5, to: 9 }));
        for wrong in ["", "a", "a/0", "a/0:5", "a/0:9-9", "a/0:9-5", "a/x:1-2", "/0:1-2", "a/0:-1-2"] {
            assert!(wrong.parse::<Poison>().is_err(), "{wrong}");
        }
    }
}
