//! Where a run starts: from the newest checkpoint that the journal vouches for, else from the beginning.
//!
//! ```text
//! journal   start P(0) P(1) … P(c-1) P(c) P(c+1) … start
//!                               ▲    └─ replayed ─┘
//! checkpoint c ── its note ─────┘    exactly this record, and nobody has undone it
//! ```
//! A checkpoint alone proves nothing: the journal may have been rolled back, cut short or made anew since.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use millstream_engine::binding::Epoch;
use millstream_engine::publish::Recorded;
use millstream_engine::{Fault, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::fingerprint::Part;
use crate::run::change::Change;
use crate::run::journal::{Definition, History, Skip};

/// What a checkpoint's manifest keeps of its run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// With what it was made.
    #[serde(flatten)]
    pub definition: Definition,
    /// Reading the journal can begin here: the record before the checkpoint is not before it.
    pub journal_from: u64,
    /// BLAKE3 of the progress record of the last epoch before the checkpoint.
    pub progress: String,
    /// The partitions that held back nobody in that epoch.
    pub idle: Vec<(String, u32)>,
    /// What rollbacks so far said is never to be taken.
    pub skips: BTreeSet<Skip>,
}

/// A checkpoint as its manifest tells.
pub struct Candidate {
    /// It holds all state for the epochs before this one.
    pub epoch: Epoch,
    /// Its note, or what is wrong with its manifest.
    pub note: Result<Note>,
}

/// Where to start.
#[derive(Debug)]
pub struct Decision<C> {
    /// From which checkpoint; `None` from the beginning.
    pub checkpoint: Option<C>,
    /// What of it fits the definition.
    pub change: Change,
    /// What to replay after it.
    pub replay: Vec<Recorded>,
    /// What is never to be taken.
    pub skips: BTreeSet<Skip>,
    /// What the journal says, as far as it was read.
    pub history: History,
    /// The checkpoints that cannot be used, and why.
    pub passed_over: Vec<String>,
}

/// What choosing needs to know and to look at.
pub struct Choice<'a, C> {
    /// The journal's topic, for messages.
    pub topic: &'a str,
    /// The definition of the run that starts.
    pub definition: &'a Definition,
    /// Its parts.
    pub parts: &'a [Part],
    /// Whether state that can be neither kept nor rebuilt may be lost.
    pub accept_loss: bool,
    /// All checkpoints, newest first.
    pub candidates: &'a [Candidate],
    /// Reads the journal from an offset, or from the first that is kept.
    pub read: &'a mut dyn FnMut(Option<u64>) -> Result<History>,
    /// Opens a candidate, and checks all of it.
    pub open: &'a mut dyn FnMut(usize) -> Result<C>,
    /// Whether the log holds everything that was bound.
    pub is_log_whole: &'a mut dyn FnMut() -> Result<bool>,
}

/// The journal, given back, and why no checkpoint can be used.
type NoneFits = (History, Vec<String>);

impl<C> Choice<'_, C> {
    /// Chooses where to start, or says why there is no way to go on.
    pub fn choose(mut self) -> Result<Decision<C>> {
        let candidates = self.candidates;
        let usable = candidates.iter().filter_map(|candidate| candidate.note.as_ref().ok());
        let from = usable.filter(|note| self.since(&note.definition).keeps_all()).map(|note| note.journal_from).min();
        let history = (self.read)(from)?;
        let (history, mut passed_over) = match self.newest(history, &Change::keeps_all)? {
            Ok(decision) => return Ok(decision),
            Err(none) => none,
        };
        let history = if from.is_some() { (self.read)(None)? } else { history };
        // Of what retention has removed, the newest checkpoint may still know.
        let noted =
            || candidates.iter().find_map(|candidate| candidate.note.as_ref().ok()).map(|note| &note.definition);
        let change = history.definition().or_else(noted).map(|old| self.since(old)).unwrap_or_default();
        if !history.epochs.is_empty() && !change.keeps_all() {
            // Whatever is not kept is made again from all that there was.
            let is_whole = history.epochs[0].epoch() == 0 && (self.is_log_whole)()?;
            if !is_whole {
                if !self.accept_loss && !change.changed.is_empty() {
                    return Err(loss(&change));
                }
                return match self.newest(history, &|_| true)? {
                    Ok(decision) => Ok(decision),
                    Err((history, more)) => {
                        passed_over = more;
                        check_beginning(self.topic, &history, candidates, &passed_over)?;
                        Err(loss(&change))
                    }
                };
            }
        }
        check_beginning(self.topic, &history, candidates, &passed_over)?;
        let skips = history.skips.clone();
        self.decide(None, change, (0, &[]), None, skips, history, passed_over)
    }

    /// What has changed since an older definition.
    fn since(&self, old: &Definition) -> Change {
        Change::between(old, self.definition, self.parts)
    }

    /// The newest checkpoint that the journal vouches for, of those whose change is `fit`; else why there is none.
    fn newest(
        &mut self,
        history: History,
        fit: &dyn Fn(&Change) -> bool,
    ) -> Result<std::result::Result<Decision<C>, NoneFits>> {
        let mut passed_over = Vec::new();
        for (at, candidate) in self.candidates.iter().enumerate() {
            let found = fits(candidate, &history).and_then(|note| {
                let change = self.since(&note.definition);
                if !fit(&change) {
                    return Err(Fault::world("it was made with another definition"));
                }
                Ok((note, change, (self.open)(at)?))
            });
            match found {
                Ok((note, change, checkpoint)) => {
                    let skips = note.skips.union(&history.skips).cloned().collect();
                    let start = (candidate.epoch, note.idle.as_slice());
                    let base = Some(&note.definition);
                    return self.decide(Some(checkpoint), change, start, base, skips, history, passed_over).map(Ok);
                }
                // The broker or the disk may be back soon; an older checkpoint would only take longer.
                Err(fault) if fault.retry => return Err(fault),
                Err(fault) => passed_over.push(format!("checkpoint {}: {fault}", candidate.epoch)),
            }
        }
        Ok(Err((history, passed_over)))
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of a decision")]
    fn decide(
        &self,
        checkpoint: Option<C>,
        change: Change,
        (epoch, idle): (Epoch, &[(String, u32)]),
        base: Option<&Definition>,
        skips: BTreeSet<Skip>,
        history: History,
        passed_over: Vec<String>,
    ) -> Result<Decision<C>> {
        let since = |start: Option<usize>| {
            let old = start.map(|start| &history.starts[start].1).or(base);
            old.map_or_else(
                || Change { is_none: true, has_same_sources: true, ..Change::default() },
                |old| self.since(old),
            )
        };
        let replay = history.recorded(epoch, idle, self.definition, since)?;
        Ok(Decision { checkpoint, change, replay, skips, history, passed_over })
    }
}

fn loss(change: &Change) -> Fault {
    let lost: Vec<String> = change.changed.iter().map(|(part, why)| format!("{part} ({why})")).collect();
    Fault::definition(format!(
        "the definition has changed, and the log no longer holds what it takes to rebuild {}; `millstream diff OLD NEW` \
         shows all of it. Restore the definition, start anew with another --state (and other topics, if they are on Kafka), \
         or give up what is lost with --accept-loss",
        lost.join(", ")
    ))
}

/// A candidate's note, if the journal holds exactly the record that it follows.
fn fits<'a>(candidate: &'a Candidate, history: &History) -> Result<&'a Note> {
    let unfit = |why: String| Err(Fault::world(why));
    let note = candidate.note.as_ref().map_err(|fault| Fault::world(&fault.message))?;
    let Some(before) = candidate.epoch.checked_sub(1) else {
        return unfit("it holds the state before the first epoch".to_owned());
    };
    let Some(past) = history.past(before) else {
        return match (history.epochs.first(), history.epochs.last()) {
            (Some(first), _) if before < first.epoch() => {
                unfit(format!("the journal no longer holds epoch {before}: it begins with epoch {}", first.epoch()))
            }
            (_, Some(last)) => {
                unfit(format!("the journal does not hold epoch {before}: it ends with epoch {}", last.epoch()))
            }
            _ => unfit(format!("the journal does not hold epoch {before}, nor any other")),
        };
    };
    if past.digest != note.progress {
        return unfit(format!("it follows another epoch {before} than the journal holds"));
    }
    if past.undone {
        return unfit(format!("a rollback has undone epoch {before}"));
    }
    Ok(note)
}

/// Without a checkpoint, the journal must hold everything.
fn check_beginning(topic: &str, history: &History, candidates: &[Candidate], passed_over: &[String]) -> Result<()> {
    let none_fits = || {
        let reasons = if passed_over.is_empty() { "there is none".to_owned() } else { passed_over.join("; ") };
        format!("no checkpoint can be used ({reasons})")
    };
    match (history.epochs.first(), candidates.first()) {
        (Some(first), _) if first.epoch() > 0 => Err(Fault::world(format!(
            "{topic} begins with epoch {}: retention has removed what was before, and {}. Restore a checkpoint, or start \
             anew with another --state (and other topics, if they are on Kafka); and let the topic keep all its records \
             (retention.ms=-1, cleanup.policy=delete)",
            first.epoch(),
            none_fits()
        ))),
        (None, Some(newest)) => Err(Fault::world(format!(
            "{topic} holds no epoch, although there are checkpoints, the newest of epoch {}: was the topic created anew, or \
             has retention removed all? {}. Restore the topic, or start anew with another --state (and other topics, if \
             they are on Kafka)",
            newest.epoch,
            none_fits()
        ))),
        _ => Ok(()),
    }
}

/// What was committed lately, for the notes of checkpoints: shared by who commits and who writes them.
pub struct Ledger {
    definition: Definition,
    skips: BTreeSet<Skip>,
    inner: Mutex<Pages>,
}

/// Epochs that were committed since the last note, at most; a checkpoint behind them is not written.
const PAGES_MAX: usize = 1 << 16;

#[derive(Default)]
struct Pages {
    pages: VecDeque<Page>,
}

struct Page {
    epoch: Epoch,
    /// BLAKE3 of the progress record.
    digest: String,
    /// Where it is, or an offset before that.
    from: u64,
    idle: Arc<Vec<(u32, u32)>>,
}

impl Ledger {
    /// Of a run that replays what was decided.
    pub fn new<C>(definition: Definition, decision: &Decision<C>) -> Self {
        let mut pages = Pages::default();
        for recorded in &decision.replay {
            if let Some(past) = decision.history.past(recorded.binding.epoch) {
                pages.add(recorded.binding.epoch, past.digest.clone(), past.offset, &recorded.binding.idle);
            }
        }
        Self { definition, skips: decision.skips.clone(), inner: Mutex::new(pages) }
    }

    fn lock(&self) -> MutexGuard<'_, Pages> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An epoch was committed; its record is at `from` or after.
    pub fn add(&self, epoch: Epoch, digest: String, from: u64, idle: &[(u32, u32)]) {
        let mut pages = self.lock();
        pages.add(epoch, digest, from, idle);
        while pages.pages.len() > PAGES_MAX {
            pages.pages.pop_front();
        }
    }

    /// The note of the checkpoint that holds all state for the epochs before `epoch`. What is before that is forgotten.
    pub fn note(&self, epoch: Epoch) -> Result<Note> {
        let mut pages = self.lock();
        while pages.pages.front().is_some_and(|page| page.epoch + 1 < epoch) {
            pages.pages.pop_front();
        }
        let page = pages.pages.front().filter(|page| page.epoch + 1 == epoch);
        let page = page.ok_or_else(|| {
            Fault::world(format!("checkpoint {epoch} comes too late: what was committed before it is no longer known"))
        })?;
        let name = |&(source, partition): &(u32, u32)| (self.definition.sources[source as usize].clone(), partition);
        Ok(Note {
            definition: self.definition.clone(),
            journal_from: page.from,
            progress: page.digest.clone(),
            idle: page.idle.iter().map(name).collect(),
            skips: self.skips.clone(),
        })
    }

    /// What writes notes into manifests.
    pub fn notes(self: &Arc<Self>) -> NoteMaker {
        let ledger = self.clone();
        Box::new(move |epoch| {
            serde_json::to_value(ledger.note(epoch)?)
                .map_err(|error| Fault::ours("a checkpoint's note cannot be written").because(error))
        })
    }
}

/// Makes the note of the checkpoint at an epoch.
pub type NoteMaker = Box<dyn FnMut(Epoch) -> Result<Value> + Send>;

impl Pages {
    fn add(&mut self, epoch: Epoch, digest: String, from: u64, idle: &[(u32, u32)]) {
        // They seldom change.
        let last = self.pages.back().map(|page| page.idle.clone()).filter(|last| **last == idle);
        let idle = last.unwrap_or_else(|| Arc::new(idle.to_vec()));
        self.pages.push_back(Page { epoch, digest, from, idle });
    }
}

#[cfg(test)]
mod tests;
