//! Publishes epochs: what an epoch gives becomes durable together, once every branch has passed it.
//!
//! ```text
//! workers ─ rows, answers, dead letters, revisions ─┐
//! the first worker of each process ─                │
//!            "all epochs before e have passed" ─────┴─► publisher ─► commit(epochs) ─► book.close
//! ```
//! A worker hands over what an epoch gives before it lets the frontier pass, and the channel keeps the order in which
//! calls happened, as does the line to another process; so when the passing is heard of each process, everything of the
//! epoch is here.

mod answers;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Duration;

use arrow::array::RecordBatch;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::batch::{Lane, Origin, canonical, ipc};
use crate::binding::{Binding, Epoch, Frontier, Watermark};
use crate::book::{Book, Entry, Request, Revision};
use crate::digest::AnswersDigest;
use crate::fault::{Fault, Result};
use crate::graph::Graph;
use crate::metrics::Metrics;
use crate::run::Turn;
use crate::time::Stopwatch;
use answers::{Answered, Choice, Leaders, Wanted};
pub use answers::{VERSION, no_version};

/// Epochs that share one commit, at most.
const GROUP_MAX: usize = 64;
/// The pause after a commit's first failure; it doubles with each that follows.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause between two tries of a failing commit.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(5);

/// A record that a step could not take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Where it came from.
    pub origin: Origin,
    /// Whether it taught or asked.
    pub lane: Lane,
    /// The step, or the source, that could not take it.
    pub step: Arc<str>,
    /// Why.
    pub reason: String,
    /// Its bytes as they were fetched; where there are none, the row as text.
    pub raw: Option<Vec<u8>>,
    /// Whether `raw` is a row as text: of a source of columns, or one that a step has made of several.
    pub is_row: bool,
}

/// Something of note that a step told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Notice {
    /// The place in the canonical order of the row at which it happened.
    pub place: Watermark,
    /// Who told it.
    pub step: Arc<str>,
    /// What happened: `drift`.
    pub kind: Cow<'static, str>,
    /// All about it.
    #[serde(with = "as_text")]
    pub about: Value,
}

/// JSON in a form that does not say of what kind its values are.
mod as_text {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use serde_json::Value;

    pub(super) fn serialize<S: Serializer>(value: &Value, serializer: S) -> Result<S::Ok, S::Error> {
        value.to_string().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
        serde_json::from_str(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// The answer to a request.
#[derive(Clone)]
pub struct Reply {
    /// The request.
    pub request: Request,
    /// What it got.
    pub outcome: Outcome,
    /// The same as it is written: see [`Commit::encode`].
    pub value: Vec<u8>,
    /// What others answered, whose answers were not given.
    pub others: Vec<Other>,
}

/// An answer that was not given.
#[derive(Clone)]
pub struct Other {
    /// The answer.
    pub outcome: Outcome,
    /// Whether it says the same as the one that was given.
    pub is_same: bool,
}

/// What a request got.
#[derive(Clone)]
pub enum Outcome {
    /// An answer.
    Answered {
        /// The answers of a batch.
        given: Arc<Given>,
        /// The row that is this request's.
        row: usize,
        /// The request's event time less the time that the revision had learned through, not below 0;
        /// `None` where the revision's input has no event time yet.
        staleness_ms: Option<i64>,
        /// With which probability this answer was given rather than another's, where that was drawn.
        chosen_with: Option<f64>,
    },
    /// An error.
    Refused {
        /// The step that refused.
        step: Arc<str>,
        /// Why.
        reason: String,
    },
}

/// What a fold answered to some rows.
pub struct Given {
    /// The fold, a node.
    pub fold: usize,
    /// The rows as they reached it.
    pub rows: RecordBatch,
    /// The answers' columns: a row for each of them.
    pub columns: RecordBatch,
    /// What answered.
    pub revision: Arc<Stamp>,
}

/// Which revision gave an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// The model's name.
    pub model: String,
    /// How many examples it had learned.
    pub revision: u64,
    /// What it had learned through.
    pub learned_through: Frontier,
}

/// A revision's number and digest, as recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevisionMark {
    /// How many examples it had learned.
    pub revision: u64,
    /// BLAKE3 of its whole state.
    pub digest: String,
}

/// The progress record of an epoch: the commit point. Everything about a run can be derived from these and the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// What the epoch was made of.
    pub binding: Binding,
    /// By model: the revision after the epoch.
    pub revisions: BTreeMap<String, RevisionMark>,
    /// The answers that the epoch gave.
    pub answers: Tally,
}

/// What is replayed of an epoch, and what of it is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// What the epoch is made of.
    pub binding: Binding,
    /// By model: the revision that it must reach; models that are not named may reach any.
    pub revisions: BTreeMap<String, RevisionMark>,
    /// What it must answer; `None` if it may answer anything.
    pub answers: Option<Tally>,
}

impl From<Progress> for Recorded {
    fn from(progress: Progress) -> Self {
        let Progress { binding, revisions, answers } = progress;
        Self { binding, revisions, answers: Some(answers) }
    }
}

/// How many answers there are, and [their digest](crate::digest::AnswersDigest).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// How many.
    pub count: u64,
    /// BLAKE3, in hexadecimal.
    pub digest: String,
}

/// What an epoch gives.
pub struct Published {
    /// The commit point's content.
    pub progress: Progress,
    /// For each output of the graph (by index), its rows in canonical order.
    pub outputs: BTreeMap<usize, RecordBatch>,
    /// Exactly one for each request of the epoch, in origin order.
    pub replies: Vec<Reply>,
    /// In origin order.
    pub dead_letters: Vec<DeadLetter>,
    /// In canonical order.
    pub notices: Vec<Notice>,
    /// By fold (node index): revisions made in the epoch.
    pub revisions: BTreeMap<usize, Revision>,
}

/// Makes epochs durable.
pub trait Commit: Send {
    /// An answer as it is written. The same request with the same outcome must give the same bytes in every run: they
    /// are part of what a replay is compared by.
    fn encode(&self, request: &Request, outcome: &Outcome, now_ms: i64) -> Result<Vec<u8>>;

    /// Makes these epochs durable: all, or none. A [`retry`](Fault::retry) fault is tried again.
    fn commit(&mut self, epochs: &[Published]) -> Result<()>;
}

/// What workers tell the publisher. What only the first of several processes gives does not go over a line, and comes last: variants that
/// are skipped are not numbered alike where they are written and read.
#[derive(Serialize, Deserialize)]
pub(crate) enum Event {
    Rows {
        epoch: Epoch,
        output: usize,
        #[serde(with = "ipc")]
        rows: RecordBatch,
    },
    Refused {
        epoch: Epoch,
        origins: Vec<Origin>,
        step: Arc<str>,
        reason: String,
    },
    Dead {
        epoch: Epoch,
        letters: Vec<DeadLetter>,
    },
    Noticed {
        epoch: Epoch,
        notices: Vec<Notice>,
    },
    /// [`Book::passed`] may have grown, after all was told that a process gives of the epochs before this one.
    Passed(Epoch),
    #[serde(skip)]
    Answers {
        epoch: Epoch,
        fold: usize,
        rows: RecordBatch,
        columns: RecordBatch,
        revision: Arc<Stamp>,
    },
    #[serde(skip)]
    Revised {
        epoch: Epoch,
        fold: usize,
        revision: Revision,
    },
}

/// Collects what an epoch gives.
#[derive(Default)]
struct Open {
    rows: BTreeMap<usize, Vec<RecordBatch>>,
    answers: Vec<Arc<Given>>,
    refused: BTreeMap<Origin, (Arc<str>, String)>,
    dead: Vec<DeadLetter>,
    notices: Vec<Notice>,
    revised: BTreeMap<usize, Revision>,
}

/// Epochs that become durable together.
struct Group {
    /// Those that no earlier run has committed.
    epochs: Vec<Published>,
    /// The epoch after the last one.
    end: Epoch,
    /// Bytes of their records.
    bytes: usize,
    watch: Stopwatch,
    /// The pause after the next failure.
    pause: Duration,
}

/// Publishes what the workers give: a part of a run. See the module's documentation.
pub(crate) struct Publisher {
    graph: Arc<Graph>,
    book: Arc<Book>,
    metrics: Arc<Metrics>,
    commit: Box<dyn Commit>,
    events: Receiver<Event>,
    /// What earlier runs committed: these epochs are compared, not published again.
    recorded: BTreeMap<Epoch, Recorded>,
    open: BTreeMap<Epoch, Open>,
    marks: BTreeMap<String, RevisionMark>,
    /// Every operator has passed all epochs before this one, and everything of them is here.
    passed: Epoch,
    /// Whether all workers are gone.
    ended: bool,
    /// What is being committed.
    group: Option<Group>,
    leaders: Leaders,
}

impl Publisher {
    pub(crate) fn new(
        graph: Arc<Graph>,
        book: Arc<Book>,
        metrics: Arc<Metrics>,
        commit: Box<dyn Commit>,
        events: Receiver<Event>,
        recorded: BTreeMap<Epoch, Recorded>,
        marks: BTreeMap<String, RevisionMark>,
    ) -> Self {
        Self {
            graph,
            book,
            metrics,
            commit,
            events,
            recorded,
            open: BTreeMap::new(),
            marks,
            passed: 0,
            ended: false,
            group: None,
            leaders: Leaders::default(),
        }
    }

    /// Waits until a worker tells something, or all are gone.
    pub(crate) fn wait(&mut self) {
        match self.events.recv() {
            Ok(event) => self.take(event),
            Err(_) => self.ended = true,
        }
    }

    /// Takes what the workers have told, and tries one commit if there is something to publish.
    pub(crate) fn turn(&mut self) -> Turn {
        self.publish().unwrap_or_else(|fault| {
            self.book.abort(fault);
            Turn::Done
        })
    }

    fn publish(&mut self) -> Result<Turn> {
        // All that is here already, so that more epochs may share the commit. What has passed is looked up before, for everything
        // of that is here then.
        let mut grows = true;
        while std::mem::take(&mut grows) {
            self.passed = self.book.passed();
            loop {
                match self.events.try_recv() {
                    Ok(event) => {
                        grows |= matches!(event, Event::Passed(_));
                        self.take(event);
                    }
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => {
                        self.ended = true;
                        break;
                    }
                }
            }
        }
        if self.book.is_aborted() {
            return Ok(Turn::Done);
        }
        let group = match self.group.take() {
            Some(group) => Some(group),
            None => self.next_group()?,
        };
        match group {
            Some(group) => self.commit(group),
            None if self.ended => Ok(Turn::Done),
            None => Ok(Turn::Waits),
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Rows { epoch, output, rows } => self.open(epoch).rows.entry(output).or_default().push(rows),
            Event::Answers { epoch, fold, rows, columns, revision } => {
                self.open(epoch).answers.push(Arc::new(Given { fold, rows, columns, revision }));
            }
            Event::Refused { epoch, origins, step, reason } => {
                let refused = &mut self.open(epoch).refused;
                for origin in origins {
                    let why = (step.clone(), reason.clone());
                    // On the ways to several folds, it may be refused twice, in any order.
                    match refused.entry(Origin { index: 0, ..origin }) {
                        Slot::Vacant(slot) => drop(slot.insert(why)),
                        Slot::Occupied(mut slot) if why < *slot.get() => drop(slot.insert(why)),
                        Slot::Occupied(_) => {}
                    }
                }
            }
            Event::Dead { epoch, letters } => self.open(epoch).dead.extend(letters),
            Event::Noticed { epoch, notices } => self.open(epoch).notices.extend(notices),
            Event::Revised { epoch, fold, revision } => drop(self.open(epoch).revised.insert(fold, revision)),
            Event::Passed(_) => {}
        }
    }

    fn open(&mut self, epoch: Epoch) -> &mut Open {
        self.open.entry(epoch).or_default()
    }

    /// The next epochs that have passed; those that are replayed are compared.
    fn next_group(&mut self) -> Result<Option<Group>> {
        let watch = Stopwatch::start();
        let (mut epochs, mut bytes) = (Vec::new(), 0);
        let first = self.book.published();
        let passed = self.passed.min(self.book.minted());
        let mut epoch = first;
        while epoch < passed && epochs.len() < GROUP_MAX {
            let open = self.open.remove(&epoch).unwrap_or_default();
            let entry = self.book.close(epoch).ok_or_else(|| Fault::ours(format!("epoch {epoch} was never bound")))?;
            bytes += entry.bytes;
            let published = self.assemble(open, &entry)?;
            match self.recorded.remove(&epoch) {
                Some(recorded) => {
                    verify(&recorded, &published.progress)?;
                    self.count(&published);
                }
                None => epochs.push(published),
            }
            epoch += 1;
        }
        Ok((epoch > first).then_some(Group { epochs, end: epoch, bytes, watch, pause: RETRY_PAUSE }))
    }

    /// Tries once to commit a group, and keeps it if that is to be tried again.
    fn commit(&mut self, mut group: Group) -> Result<Turn> {
        if !group.epochs.is_empty() {
            if let Err(fault) = self.commit.commit(&group.epochs) {
                // A run that is asked to end does not wait for a broker that is away: the next run binds these epochs anew.
                if !fault.retry || self.book.is_stopping() {
                    return Err(fault);
                }
                eprintln!("{fault}; trying again");
                self.metrics.commit_retries_total.inc();
                let pause = group.pause;
                group.pause = (pause * 2).min(RETRY_PAUSE_MAX);
                self.group = Some(group);
                return Ok(Turn::Pauses(pause));
            }
            self.metrics.commit_seconds.observe(group.watch.seconds());
            group.epochs.iter().for_each(|published| self.count(published));
        }
        self.book.set_published(group.end, group.bytes);
        self.book.prune_revisions(group.end.saturating_sub(1));
        self.metrics.epochs_published_total.inc_by(group.epochs.len() as u64);
        Ok(Turn::Worked)
    }

    /// Counts what was committed, now or by an earlier run.
    fn count(&self, published: &Published) {
        let is_answered = |reply: &&Reply| matches!(reply.outcome, Outcome::Answered { .. });
        let answered = published.replies.iter().filter(is_answered).count();
        self.metrics.answers("answered", answered);
        self.metrics.answers("refused", published.replies.len() - answered);
        for letter in &published.dead_letters {
            self.metrics.dead_letters(&letter.step, 1);
        }
        answers::count(&self.metrics, &self.graph, &published.replies);
    }

    fn assemble(&mut self, open: Open, entry: &Entry) -> Result<Published> {
        let graph = self.graph.clone();
        let choices = answers::choices(&graph, &self.book, entry.binding.epoch, &open.answers)?;
        let replies = self.replies(&open, entry, &choices)?;
        let mut answers = AnswersDigest::default();
        for reply in &replies {
            answers.update(reply.request.origin, &reply.value);
        }
        self.metrics.requests_total.inc_by(entry.requests.len() as u64);
        let mut outputs = BTreeMap::new();
        for (output, rows) in open.rows {
            outputs.insert(output, canonical(self.graph.schema(self.graph.outputs[output].from), &rows)?);
        }
        for (fold, revision) in &open.revised {
            let name = &self.graph.nodes[*fold].name;
            self.metrics.set_model(name, revision.number, &revision.measures);
            self.marks
                .insert(name.clone(), RevisionMark { revision: revision.number, digest: revision.digest.clone() });
        }
        let mut dead_letters = open.dead;
        dead_letters.sort_by(|a, b| (a.origin, &a.step).cmp(&(b.origin, &b.step)));
        let mut notices = open.notices;
        notices.extend(self.leaders.changes(&graph, &choices, entry));
        notices.sort_by(|a, b| (a.place, &a.step).cmp(&(b.place, &b.step)));
        Ok(Published {
            progress: Progress {
                revisions: self.marks.clone(),
                answers: answers.finish(),
                binding: (*entry.binding).clone(),
            },
            outputs,
            replies,
            dead_letters,
            notices,
            revisions: open.revised,
        })
    }

    /// One reply for each request: an answer, else why there is none.
    fn replies(&self, open: &Open, entry: &Entry, choices: &BTreeMap<u32, Choice<'_>>) -> Result<Vec<Reply>> {
        let mut answered = Answered::of(open.answers.as_slice(), &self.graph)?;
        let mut reply = |request: &Request| {
            let refused = || match open.refused.get(&request.origin) {
                Some((step, reason)) => Outcome::Refused { step: step.clone(), reason: reason.clone() },
                None => Outcome::Refused {
                    step: "engine".into(),
                    reason: "no step answered or refused the request".to_owned(),
                },
            };
            let wanted = answers::wanted(request, &self.graph);
            let mut outcomes = answered.take(request.origin, choices.get(&request.origin.source), &wanted).into_iter();
            let outcome = match wanted {
                Wanted::Nobody(outcome) => outcome,
                Wanted::Any | Wanted::Place(_) => outcomes.next().unwrap_or_else(refused),
            };
            let value = self.commit.encode(request, &outcome, entry.binding.now_ms)?;
            let other = |other| Other { is_same: answers::is_same(&outcome, &other), outcome: other };
            let others = outcomes.map(other).collect();
            Ok(Reply { request: request.clone(), outcome, value, others })
        };
        let replies = entry.requests.iter().map(&mut reply).collect::<Result<_>>()?;
        match answered.first() {
            Some(origin) => Err(Fault::ours(format!("an answer to no request of its epoch: {origin:?}"))),
            None => Ok(replies),
        }
    }
}

/// A replayed epoch must reach what was recorded.
fn verify(recorded: &Recorded, found: &Progress) -> Result<()> {
    let epoch = recorded.binding.epoch;
    for (model, mark) in &recorded.revisions {
        let reached = found.revisions.get(model);
        if reached != Some(mark) {
            let told = |mark: &RevisionMark| format!("revision {} with digest {}", mark.revision, mark.digest);
            let reached = reached.map_or_else(|| "has learned nothing".to_owned(), |mark| format!("is {}", told(mark)));
            return Err(Fault::world(format!(
                "replaying epoch {epoch} did not reach what was recorded: model {model} was {}, and {reached}. \
                 Was the definition or the program changed?",
                told(mark)
            )));
        }
    }
    if let Some(answers) = recorded.answers.as_ref().filter(|answers| **answers != found.answers) {
        let told = |tally: &Tally| format!("{} answers with digest {}", tally.count, tally.digest);
        return Err(Fault::world(format!(
            "replaying epoch {epoch} did not reach what was recorded: it gave {}; recorded were {}. Was the definition or \
             the program changed?",
            told(&found.answers),
            told(answers)
        )));
    }
    Ok(())
}
