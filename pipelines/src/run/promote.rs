//! Promotes revisions into the registry as their epochs are committed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use millstream_engine::binding::Epoch;
use millstream_engine::book::Revision;
use millstream_engine::metrics::Metrics;
use millstream_engine::operator::Measure;
use millstream_engine::publish::{Notice, Published};
use millstream_engine::time::Stopwatch;
use millstream_engine::{Blame, Result};
use millstream_operators::registry::{
    Drift, Gate, Judged, Metadata, Promotion, PromotionRule, Registry, Score, Version,
};

/// A model that may be promoted.
pub struct Candidate {
    /// Its name.
    pub model: String,
    /// When its revisions become versions.
    pub rule: PromotionRule,
    /// What must hold of them then.
    pub gates: Vec<Gate>,
    /// Its newest committed revision: how many examples it had learned.
    pub examples: u64,
    /// Its newest version.
    pub parent: Option<Version>,
    /// What it began with, if that was not nothing: a version, or the digest of a file.
    pub began_with: Option<String>,
    /// What was noticed of its errors since its newest version.
    pub drifts: VecDeque<Drift>,
}

/// Writes versions. They are content-addressed and nothing refers to them before the commit, so writing one twice after a
/// crash does no harm.
pub struct Promoter {
    /// Where versions are.
    pub registry: Registry,
    /// The models, by their fold's node index.
    pub candidates: BTreeMap<usize, Candidate>,
    /// The pipeline's name.
    pub pipeline: String,
    /// The definition's digest.
    pub definition: String,
    /// The run's seed.
    pub seed: u64,
    /// Who runs it.
    pub user: String,
    /// When the run started.
    pub started_ms: i64,
    /// Runs since then.
    pub since_start: Stopwatch,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// When the last promotion could not be written, which is told once.
    pub failing: Option<Failing>,
    /// The same for the history.
    pub unnoted: bool,
    /// When a version was made that is not in the history yet.
    pub to_note_ms: Option<i64>,
    /// What epochs before this one have noticed is known.
    pub heard: Epoch,
    /// Versions that were made of revisions of epochs that may not be durable yet.
    pub promoted: Vec<(Epoch, Version)>,
}

/// A promotion that could not be written.
pub struct Failing {
    since: Stopwatch,
    /// For so long none is tried again.
    pause_seconds: f64,
}

/// While promotions fail, epochs wait for them at most this part of the time: a server that does not answer holds up what it has
/// nothing to do with.
const FAILING_PART: f64 = 0.1;

/// Who started this program.
pub fn user() -> String {
    std::env::var("USER").ok().filter(|user| !user.is_empty()).unwrap_or_else(|| "unknown".to_owned())
}

impl Candidate {
    /// Why a revision is to be promoted, if it is. Which gate holds it back is told.
    fn decide(&self, revision: &Revision, metrics: &Metrics) -> Result<Option<String>> {
        let Some(reason) = self.rule.decide(self.examples, revision.number, &revision.measures) else {
            return Ok(None);
        };
        let measures: Vec<Score> = revision.measures.iter().map(Into::into).collect();
        for gate in &self.gates {
            let Judged { gate, holds, because } = gate.judge(revision.number, &measures)?;
            if !holds {
                eprintln!("{}: revision {} is not promoted: not {gate} ({because})", self.model, revision.number);
                metrics.promotions_held_total.inc();
                return Ok(None);
            }
        }
        Ok(Some(reason))
    }
}

impl Promoter {
    /// The versions of this and later epochs, as far as they may not be durable yet.
    pub fn promoted_since(&self, epoch: Epoch) -> impl Iterator<Item = &Version> {
        self.promoted.iter().filter(move |(of, _)| *of >= epoch).map(|(_, version)| version)
    }

    /// Promotes what the rules say of these epochs' revisions. Epochs before them are durable.
    pub fn promote(&mut self, epochs: &[Published]) -> Result<()> {
        if let Some(first) = epochs.first().map(|epoch| epoch.progress.binding.epoch) {
            self.promoted.retain(|(of, _)| *of >= first);
        }
        for epoch in epochs {
            self.hear(epoch);
            for (fold, revision) in &epoch.revisions {
                self.consider(*fold, revision, epoch.progress.binding.now_ms)?;
            }
        }
        Ok(())
    }

    /// Remembers what an epoch has noticed of models' errors, once.
    fn hear(&mut self, published: &Published) {
        let epoch = published.progress.binding.epoch;
        if epoch < self.heard {
            return;
        }
        self.heard = epoch + 1;
        for Notice { place, step, kind, about } in
            published.notices.iter().filter(|of| Drift::EVENTS.contains(&&*of.kind))
        {
            let mut candidates = self.candidates.values_mut();
            let Some(Candidate { drifts, .. }) = candidates.find(|candidate| *candidate.model == **step) else {
                continue;
            };
            if drifts.len() == Drift::KEPT_MAX {
                drifts.pop_front();
            }
            drifts.push_back(Drift { time_ms: place.0, event: kind.to_string(), about: about.clone() });
        }
    }

    /// Writes the history of what was promoted, once it is committed: nobody waits for that. The folder is what counts, and the next
    /// change of the registry notes what was not.
    pub fn note(&mut self) {
        if let Some(now_ms) = self.to_note_ms.take()
            && let Err(fault) = self.registry.note_versions(now_ms)
            && !std::mem::replace(&mut self.unnoted, true)
        {
            eprintln!("a version is promoted, and its history is not written: {fault}");
        }
    }

    fn consider(&mut self, fold: usize, revision: &Revision, now_ms: i64) -> Result<()> {
        let Some(candidate) = self.candidates.get_mut(&fold) else { return Ok(()) };
        if self.failing.as_ref().is_some_and(|failing| failing.since.seconds() < failing.pause_seconds) {
            // As nothing is noted, the revision after the pause is decided about anew.
            return Ok(());
        }
        if let Some(reason) = candidate.decide(revision, &self.metrics)? {
            let metadata = Metadata {
                model: candidate.model.clone(),
                pipeline: self.pipeline.clone(),
                definition_digest: self.definition.clone(),
                revision: revision.number,
                epoch: revision.epoch,
                frontier: (*revision.frontier).clone(),
                since: candidate.parent.as_ref().map(|parent| parent.metadata.frontier.clone()),
                examples: revision.number,
                seed: Some(self.seed),
                device: Some(device(&revision.measures).to_owned()),
                measures: revision.measures.iter().map(Into::into).collect(),
                started_ms: self.started_ms,
                promoted_ms: now_ms,
                durations_seconds: BTreeMap::from([("since_start".to_owned(), self.since_start.seconds())]),
                reason,
                promoted_by: Some(self.user.clone()),
                parent: candidate.parent.as_ref().map(|parent| parent.id.clone()),
                began_with: candidate.began_with.clone(),
                drifts: candidate.drifts.iter().cloned().collect(),
            };
            let artefacts = revision.answer.artefacts()?;
            let watch = Stopwatch::start();
            match self.registry.promote(&Promotion { metadata, artefacts }) {
                Ok(version) => {
                    self.promoted.push((revision.epoch, version.clone()));
                    candidate.parent = Some(version);
                    candidate.drifts.clear();
                    self.to_note_ms = Some(now_ms);
                    if self.failing.take().is_some() {
                        eprintln!("{}: promoted again", candidate.model);
                    }
                }
                // A full disk must not keep answers back.
                Err(fault) if fault.blame == Blame::World => {
                    if self.failing.is_none() {
                        eprintln!("{} cannot be promoted: {fault}; a later revision is tried", candidate.model);
                    }
                    let pause_seconds = watch.seconds() / FAILING_PART;
                    self.failing = Some(Failing { since: Stopwatch::start(), pause_seconds });
                    self.metrics.promotions_failed_total.inc();
                    return Ok(());
                }
                Err(fault) => return Err(fault),
            }
        }
        candidate.examples = revision.number;
        Ok(())
    }
}

/// What learned: of what may learn elsewhere, there is a measure that says so.
fn device(measures: &[Measure]) -> &'static str {
    let elsewhere = measures.iter().any(|measure| measure.name == "on_device" && measure.value > 0.0);
    if elsewhere { "gpu" } else { "cpu" }
}
