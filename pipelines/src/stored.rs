//! What a pipeline has stored: in its state directory, in its topics, in its journal.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs::{self, File, TryLockError};
use std::path::Path;
use std::sync::Arc;

use millstream_connectors::broker::{Broker, Topic};
use millstream_engine::binding::Epoch;
use millstream_engine::checkpoint::{self, Listed, Store};
use millstream_engine::{Fault, Result};
use serde::Serialize;

use crate::audit::journal;
use crate::plan::Pipeline;
use crate::registry;
use crate::run::assemble::Topics;
use crate::run::journal::Record;
use crate::run::start;

/// What a pipeline has stored.
#[derive(Debug, Serialize)]
pub struct Stored {
    /// The pipeline's name.
    pub pipeline: String,
    /// Whether a run is on.
    pub locked: bool,
    /// Its checkpoints, newest first.
    pub checkpoints: Vec<Kept>,
    /// Bytes of each file or folder in the state directory.
    pub files: BTreeMap<String, u64>,
    /// Its topics, its own included.
    pub topics: Vec<Topic>,
    /// The journal.
    pub journal: Journal,
    /// How many versions each model has.
    pub versions: BTreeMap<String, Versions>,
}

/// A checkpoint.
#[derive(Debug, Serialize)]
pub struct Kept {
    /// The first epoch that is not in it.
    pub epoch: Epoch,
    /// Why it cannot be used; `None` if every object of it is what was written.
    pub damage: Option<String>,
    /// Bytes of its pieces.
    pub bytes: u64,
    /// Its sections: a node's state, or the rows of a source that wait for the watermark.
    pub sections: BTreeMap<String, Section>,
}

/// A section of a checkpoint.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Section {
    /// How many pieces it has: bins, or partitions.
    pub pieces: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// What the journal says.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Journal {
    /// How many records it has.
    pub records: u64,
    /// How many runs began.
    pub starts: u64,
    /// How many times something learned was undone.
    pub rollbacks: u64,
    /// How many records nobody can read.
    pub damaged: u64,
    /// The last epoch that was committed.
    pub last_epoch: Option<Epoch>,
}

/// A model's promoted versions.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Versions {
    /// How many there are.
    pub count: u64,
    /// How many of them are damaged.
    pub damaged: u64,
    /// The newest.
    pub newest: String,
}

/// Looks at all that a pipeline has stored; changes nothing.
pub fn stored(pipeline: &Pipeline, state: &Path, broker: &dyn Broker) -> Result<Stored> {
    let own = Topics::of(&pipeline.name);
    let mut topics = Vec::new();
    for name in pipeline.topics.iter().map(|(name, _)| name).chain(own.of_runs()) {
        topics.extend(broker.topic(name)?);
    }
    let mut journal = Journal::default();
    if topics.iter().any(|topic| topic.name == own.progress) {
        journal::each(broker, &own.progress, u64::MAX, |_, record| {
            journal.records += 1;
            match record {
                Some(Record::Start(_)) => journal.starts += 1,
                Some(Record::Progress(committed)) => journal.last_epoch = Some(committed.binding.epoch),
                Some(Record::Rollback(_)) => journal.rollbacks += 1,
                None => journal.damaged += 1,
            }
            Ok(())
        })?;
    }
    Ok(Stored {
        pipeline: pipeline.name.clone(),
        locked: is_locked(state)?,
        checkpoints: checkpoints(&start::open_store(pipeline, state)?)?,
        files: files(state)?,
        topics,
        journal,
        versions: versions(pipeline, state)?,
    })
}

fn is_locked(state: &Path) -> Result<bool> {
    let Ok(file) = File::open(state.join("lock")) else { return Ok(false) };
    match file.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => {
            Err(Fault::world(format!("cannot look at the lock of {}", state.display())).because(error))
        }
    }
}

fn checkpoints(store: &Arc<dyn Store>) -> Result<Vec<Kept>> {
    let kept = |listed: Listed| {
        let (mut bytes, mut sections) = (0, BTreeMap::new());
        let opened = listed.manifest.and_then(|manifest| {
            bytes = manifest.sections.values().map(checkpoint::Section::bytes).sum();
            let section = |of: &checkpoint::Section| Section { pieces: of.pieces.len(), bytes: of.bytes() };
            sections = manifest.sections.iter().map(|(name, of)| (name.clone(), section(of))).collect();
            checkpoint::open(store, manifest)
        });
        Kept { epoch: listed.epoch, damage: opened.err().map(|fault| fault.to_string()), bytes, sections }
    };
    Ok(checkpoint::list(&**store)?.into_iter().map(kept).collect())
}

fn versions(pipeline: &Pipeline, state: &Path) -> Result<BTreeMap<String, Versions>> {
    let mut versions: BTreeMap<String, Versions> = BTreeMap::new();
    if !registry::is_made(pipeline, state)? {
        return Ok(versions);
    }
    for listed in registry::open(pipeline, state)?.list()? {
        let of = versions.entry(listed.model).or_default();
        of.count += 1;
        of.damaged += u64::from(listed.version.is_err());
        of.newest = listed.id;
    }
    Ok(versions)
}

fn files(state: &Path) -> Result<BTreeMap<String, u64>> {
    let failed = |error| Fault::world(format!("cannot read {}", state.display())).because(error);
    let mut files = BTreeMap::new();
    if state.exists() {
        for entry in fs::read_dir(state).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            files.insert(entry.file_name().to_string_lossy().into_owned(), bytes(&entry.path()).map_err(failed)?);
        }
    }
    Ok(files)
}

/// Bytes of a file, or of all files in a folder; links are not followed.
fn bytes(path: &Path) -> std::io::Result<u64> {
    let found = match fs::symlink_metadata(path) {
        // A run may be clearing up.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        found => found?,
    };
    if !found.is_dir() {
        return Ok(found.len());
    }
    let mut sum = 0;
    for entry in fs::read_dir(path)? {
        sum += bytes(&entry?.path())?;
    }
    Ok(sum)
}

impl Stored {
    /// For people.
    pub fn text(&self) -> String {
        let lock = if self.locked { "a run is on" } else { "no run is on" };
        let mut text = format!("{}: {lock}\n\n", self.pipeline);
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{:<40}{:>10}{:>16}", "checkpoint", "pieces", "bytes");
        for Kept { epoch, damage, bytes, sections } in &self.checkpoints {
            let pieces: usize = sections.values().map(|section| section.pieces).sum();
            let damage = damage.as_ref().map_or_else(|| "sound".to_owned(), |why| format!("UNUSABLE: {why}"));
            let _ = writeln!(text, "{:<40}{pieces:>10}{bytes:>16}  {damage}", format!("before epoch {epoch}"));
            for (name, Section { pieces, bytes }) in sections {
                let _ = writeln!(text, "  {name:<38}{pieces:>10}{bytes:>16}");
            }
        }
        let _ = writeln!(text, "\n{:<40}{:>16}", "in the state directory", "bytes");
        for (name, bytes) in &self.files {
            let _ = writeln!(text, "{name:<40}{bytes:>16}");
        }
        let _ = writeln!(text, "\n{:<40}{:>10}{:>16}{:>16}", "topic", "partition", "first", "end");
        for topic in &self.topics {
            for (partition, (first, end)) in topic.partitions.iter().enumerate() {
                let _ = writeln!(text, "{:<40}{partition:>10}{first:>16}{end:>16}", topic.name);
            }
        }
        let _ = writeln!(text, "\n{:<40}{:>10}  newest", "model", "versions");
        for (model, Versions { count, damaged, newest }) in &self.versions {
            let damaged = if *damaged > 0 { format!(", {damaged} damaged") } else { String::new() };
            let _ = writeln!(text, "{model:<40}{count:>10}  {newest}{damaged}");
        }
        let Journal { records, starts, rollbacks, damaged, last_epoch } = &self.journal;
        let last = last_epoch.map_or_else(|| "no epoch yet".to_owned(), |epoch| format!("last epoch {epoch}"));
        let _ = writeln!(text, "\njournal: {records} records, {last}; {starts} starts, {rollbacks} rollbacks");
        if *damaged > 0 {
            let _ = writeln!(text, "{damaged} records of it cannot be read; `millstream audit` names them");
        }
        text
    }
}
