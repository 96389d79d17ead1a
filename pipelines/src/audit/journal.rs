//! The journal's records, as far as an audit needs them.

use millstream_connectors::broker::Broker;
use millstream_engine::Result;
use millstream_engine::binding::Epoch;
use millstream_engine::publish::Tally;
use serde::Deserialize;

use super::log::Log;

/// A record of the journal.
#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(super) enum Record {
    /// A run began.
    Start(Start),
    /// An epoch is committed.
    Progress(Progress),
    /// What was learned is undone.
    Rollback(Rollback),
}

#[derive(Deserialize)]
pub(super) struct Start {
    /// The sources' names, those of requests after the others.
    pub(super) sources: Vec<String>,
}

#[derive(Deserialize)]
pub(super) struct Progress {
    pub(super) binding: Binding,
    pub(super) answers: Option<Tally>,
}

#[derive(Deserialize)]
pub(super) struct Binding {
    pub(super) epoch: Epoch,
    pub(super) ranges: Vec<Range>,
}

#[derive(Clone, Deserialize)]
pub(super) struct Range {
    pub(super) source: String,
    pub(super) partition: u32,
    pub(super) lo: u64,
    pub(super) hi: u64,
    pub(super) count: u64,
    pub(super) digest: String,
}

#[derive(Deserialize)]
pub(super) struct Rollback {
    /// What was learned after this epoch is undone.
    pub(super) to: Epoch,
    /// Records that are never taken again.
    #[serde(default)]
    pub(super) skip: Vec<Skip>,
}

#[derive(Clone, Deserialize)]
pub(super) struct Skip {
    pub(super) source: String,
    pub(super) partition: u32,
    pub(super) lo: u64,
    pub(super) hi: u64,
}

/// Calls `each` with every record before `end`, and its offset; with `None` for what is no record of a journal.
pub(super) fn each(
    broker: &dyn Broker,
    topic: &str,
    end: u64,
    mut each: impl FnMut(u64, Option<Record>) -> Result<()>,
) -> Result<()> {
    let mut log = Log::open(broker, topic, 0)?;
    while let Some((offset, value)) = log.next()? {
        if offset >= end {
            break;
        }
        each(offset, serde_json::from_slice(&value).ok())?;
    }
    Ok(())
}
