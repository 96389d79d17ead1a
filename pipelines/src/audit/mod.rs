//! Proves from the topics alone that nothing is lost, doubled or different: nothing runs, and nothing is written.
//!
//! ```text
//! journal ─ epoch by epoch ─► ranges ─► inputs: each range again, its records' digest
//!                                └────► answers: one for each bound request, their digest
//! ```
//! At most one epoch is in memory.

mod answers;
mod inputs;
pub(crate) mod journal;
mod log;
mod report;

use std::collections::{BTreeMap, BTreeSet};

use millstream_connectors::broker::Broker;
use millstream_connectors::sources::World;
use millstream_engine::Result;
use millstream_engine::batch::Origin;
use millstream_engine::binding::Epoch;
use millstream_engine::digest::AnswersDigest;

use crate::plan::Pipeline;
use crate::run::assemble::Topics;
use crate::run::journal::{Committed, Part, Record, Rollback};
use answers::{Answers, Requests};
use inputs::Inputs;
pub use report::{Check, Report, Wrong};

/// A partition of a source, by the source's name.
type Place = (String, u32);

/// Audits what the runs of a pipeline have left in its topics.
pub fn audit(pipeline: &Pipeline, world: &World) -> Result<Report> {
    let topic = Topics::of(&pipeline.name).progress;
    // The answers' ends first: whatever is before them was committed together with progress that is there by now.
    let answers = Answers::open(pipeline, &*world.broker)?;
    let survey = Survey::of(&*world.broker, &topic)?;
    let sources = pipeline.sources.iter().map(|source| source.name.clone());
    let mut audit = Audit {
        topic: topic.clone(),
        inputs: Inputs::open(pipeline, world)?,
        answers,
        report: Report::new(&pipeline.name, pipeline.delivery),
        next: if survey.is_whole { Some(0) } else { None },
        positions: BTreeMap::new(),
        lost: BTreeSet::new(),
        anywhere: !survey.is_whole,
        marks: BTreeMap::new(),
        survey,
        sources: sources.chain(pipeline.requests.iter().map(|request| request.name.clone())).collect(),
    };
    journal::each(&*world.broker, &topic, audit.survey.end, |offset, record| audit.record(offset, record))?;
    audit.finish()
}

/// Whether the log still holds everything that the pipeline's epochs were made of; `None` if there are no epochs yet.
pub fn log_is_whole(pipeline: &Pipeline, broker: &dyn Broker) -> Result<Option<bool>> {
    let journal = Topics::of(&pipeline.name).progress;
    if broker.topic(&journal)?.is_none() {
        return Ok(None);
    }
    let survey = Survey::of(broker, &journal)?;
    if survey.bound.is_empty() {
        return Ok(None);
    }
    let mut is_whole = survey.is_whole;
    for source in pipeline.sources.iter().chain(pipeline.requests.iter().map(|request| &request.source)) {
        let Some((topic, _)) = &source.source.topic else { continue };
        let partitions = broker.topic(topic)?.map(|topic| topic.partitions).unwrap_or_default();
        for (place, lo) in survey.begun.iter().filter(|(place, _)| place.0 == source.name) {
            is_whole &=
                partitions.get(place.1 as usize).is_some_and(|(first, end)| first <= lo && *end >= survey.bound[place]);
        }
    }
    Ok(Some(is_whole))
}

/// What has to be known of the journal before it is gone through.
struct Survey {
    /// The offset at which the audit ends.
    end: u64,
    /// Whether the journal is held from its beginning.
    is_whole: bool,
    /// The epochs that were rolled back to.
    marks: BTreeSet<Epoch>,
    /// For each partition, the first offset that was bound, and the one after the last.
    begun: BTreeMap<Place, u64>,
    bound: BTreeMap<Place, u64>,
}

impl Survey {
    fn of(broker: &dyn Broker, topic: &str) -> Result<Self> {
        let (first, end) = log::kept(broker, topic, 0)?;
        let mut survey =
            Self { end, is_whole: first == 0, marks: BTreeSet::new(), begun: BTreeMap::new(), bound: BTreeMap::new() };
        journal::each(broker, topic, end, |_, record| {
            match record {
                Some(Record::Progress(progress)) => {
                    for range in progress.binding.ranges {
                        let begun = survey.begun.entry((range.source.clone(), range.partition)).or_insert(range.lo);
                        *begun = range.lo.min(*begun);
                        let bound = survey.bound.entry((range.source, range.partition)).or_default();
                        *bound = range.hi.max(*bound);
                    }
                }
                Some(Record::Rollback(rollback)) => drop(survey.marks.insert(rollback.to)),
                Some(Record::Start(_)) | None => {}
            }
            Ok(())
        })?;
        Ok(survey)
    }
}

struct Audit {
    /// The journal's topic.
    topic: String,
    inputs: Inputs,
    answers: Answers,
    report: Report,
    survey: Survey,
    /// The epoch whose record should come next; not known where the journal's beginning is gone.
    next: Option<Epoch>,
    /// For each partition, the offset that should be bound next.
    positions: BTreeMap<Place, u64>,
    /// Partitions that were seen since progress was found missing. Of the others it is not known where they go on.
    lost: BTreeSet<Place>,
    /// Whether progress was found missing.
    anywhere: bool,
    /// Positions after the epochs that were rolled back to.
    marks: BTreeMap<Epoch, BTreeMap<Place, u64>>,
    /// The sources' names; a source's place here is its number in digests of answers.
    sources: Vec<String>,
}

impl Audit {
    fn record(&mut self, offset: u64, record: Option<Record>) -> Result<()> {
        match record {
            None => {
                let place = format!("{}/0 offset {offset}", self.topic);
                self.report.progress.wrong(place, "this is no record of a journal");
                Ok(())
            }
            Some(Record::Start(start)) => {
                self.sources = start.sources;
                Ok(())
            }
            Some(Record::Rollback(rollback)) => {
                self.roll_back(rollback);
                Ok(())
            }
            Some(Record::Progress(progress)) => self.progress(offset, &progress),
        }
    }

    fn progress(&mut self, offset: u64, progress: &Committed) -> Result<()> {
        let epoch = progress.binding.epoch;
        let place = format!("{}/0 offset {offset}", self.topic);
        self.report.progress.checked += 1;
        match self.next {
            Some(next) if epoch < next => {
                self.report
                    .progress
                    .wrong(place, format!("epoch {epoch} is recorded again; epoch {next} should be next"));
                return Ok(());
            }
            Some(next) if epoch > next => {
                let missing =
                    if epoch == next + 1 { format!("epoch {next}") } else { format!("epochs {next} to {}", epoch - 1) };
                self.report
                    .progress
                    .wrong(place.clone(), format!("the record of {missing} is missing before epoch {epoch}"));
                self.lost.clear();
                self.anywhere = true;
            }
            _ => {}
        }
        self.next = Some(epoch + 1);
        let mut digest = AnswersDigest::default();
        let (mut bound, mut complete) = (0, true);
        let mut asked: Vec<&Part> = Vec::new();
        for range in &progress.binding.ranges {
            if self.answers.is_asked(&range.source) {
                asked.push(range);
            } else {
                self.bound(epoch, range)?;
            }
        }
        let number = |source: &str| self.sources.iter().rposition(|other| other == source).unwrap_or(usize::MAX) as u32;
        let mut asked: Vec<(u32, &Part)> = asked.into_iter().map(|range| (number(&range.source), range)).collect();
        asked.sort_by_key(|(source, range)| (*source, range.partition));
        self.answers.begin();
        for (source, range) in asked {
            let requests = self.bound(epoch, range)?;
            bound += range.count;
            let taken = self.answers.take(range, requests, &mut self.report)?;
            complete &= taken.complete;
            for (offset, value) in taken.answers {
                digest.update(Origin { source, partition: range.partition, offset, index: 0 }, &value);
            }
        }
        let recorded = &progress.answers;
        self.report.digests.checked += 1;
        let found = digest.finish();
        if recorded.count != bound {
            let message = format!("epoch {epoch} records {} answers and binds {bound} requests", recorded.count);
            self.report.digests.wrong(place, message);
        } else if complete && (found.count, &found.digest) != (recorded.count, &recorded.digest) {
            let wheres = self.answers.span();
            let message =
                format!("the answers of epoch {epoch} are not those that it gave: one of {wheres} was altered");
            self.report.digests.wrong(place, message);
        } else if !complete {
            self.report.digests.unproven += 1;
        }
        if self.survey.marks.contains(&epoch) {
            self.marks.insert(epoch, self.positions.clone());
        }
        Ok(())
    }

    /// Checks a range and gives what is known of its requests, if it holds any.
    fn bound(&mut self, epoch: Epoch, range: &Part) -> Result<Requests> {
        let at: Place = (range.source.clone(), range.partition);
        let place =
            format!("{}/{} offsets {} to {}", self.inputs.topic(&range.source), range.partition, range.lo, range.hi);
        self.report.ranges.checked += 1;
        let known = self.positions.get(&at).copied();
        // Where progress is missing, what comes next cannot be told.
        let is_found = !self.anywhere || self.lost.contains(&at);
        self.lost.insert(at.clone());
        let expected = if is_found { Some(known.unwrap_or(0)) } else { None };
        if range.lo >= range.hi {
            self.report.ranges.wrong(place.clone(), format!("epoch {epoch} binds a range that is empty"));
        }
        if let Some(expected) = expected.filter(|expected| range.lo < *expected) {
            let message = format!("epoch {epoch} binds records again: all before offset {expected} were bound already");
            self.report.ranges.wrong(place.clone(), message);
        }
        self.positions.insert(at, range.hi);
        let asks = self.answers.is_asked(&range.source);
        let read = self.inputs.read(range, expected, asks)?;
        if let Some((first, last)) = read.unbound {
            let topic = self.inputs.topic(&range.source);
            let place = format!("{topic}/{} offsets {first} to {}", range.partition, last + 1);
            self.report
                .ranges
                .wrong(place, format!("no epoch binds these records; epoch {epoch} binds those after them"));
        }
        match read.found {
            inputs::Found::Gone => self.report.records.unproven += range.count,
            inputs::Found::Missing(why) => {
                self.report.records.checked += range.count;
                self.report.records.wrong(place, format!("the records of epoch {epoch} are not there: {why}"));
            }
            inputs::Found::Records { count, digest } => {
                self.report.records.checked += range.count;
                if (count, &digest) != (range.count, &range.digest) {
                    let message = format!(
                        "the records are not those that epoch {epoch} was made of: {count} records, digest {digest}; \
                         recorded are {}, {}",
                        range.count, range.digest
                    );
                    self.report.records.wrong(place, message);
                }
            }
        }
        // Without gaps, the offsets are known even if the records are gone.
        let dense = || range.hi.saturating_sub(range.lo) == range.count;
        let offsets = read.offsets.or_else(|| dense().then(|| (range.lo..range.hi).collect()));
        Ok(Requests { offsets, follows: is_found })
    }

    /// What was learned after an epoch is undone: its records are bound again, but for those that are skipped from now on.
    fn roll_back(&mut self, rollback: Rollback) {
        let to = self.marks.get(&rollback.to).cloned().unwrap_or_default();
        for (place, position) in &mut self.positions {
            if !self.answers.is_asked(&place.0) {
                *position = to.get(place).copied().unwrap_or(0);
            }
        }
        // The epochs between are as if they had taught nothing.
        for positions in self.marks.range_mut(rollback.to + 1..).map(|(_, positions)| positions) {
            for (place, position) in positions {
                if !self.answers.is_asked(&place.0) {
                    *position = to.get(place).copied().unwrap_or(0);
                }
            }
        }
        self.inputs.skip(rollback.skip);
    }

    fn finish(mut self) -> Result<Report> {
        for (place, bound) in &self.survey.bound {
            self.answers.bound(place, *bound, !self.anywhere || self.lost.contains(place));
        }
        self.answers.finish(&mut self.report)?;
        Ok(self.report.judged())
    }
}

#[cfg(test)]
mod tests;
