//! What an operator author writes: one small trait per power.
//!
//! | trait | state | runs on | example |
//! |---|---|---|---|
//! | [`Transform`] | none | the worker that has the rows, as they come | `require`, `derive` |
//! | [`Keyed`] | one value per key, in 256 bins | the worker of the key's bin | `standardise`, `join_as_of` |
//! | [`Relational`] | the same; gives any number of rows for one, takes rows back, acts as time passes | the same | `aggregate`, `join` |
//! | [`Fold`] | one value | one worker; each epoch that taught it makes a revision | a model |
//!
//! The engine owns everything else: capabilities, order, lanes, dead letters, metrics, snapshots.
//! Stateful operators see an epoch when the frontier has passed it, its rows in canonical order
//! (event time, then origin): first the rows of the serve lane, which read the state of before the
//! epoch, then those of the learn lane.
//!
//! Every operator keeps the engine's leading columns (see [`crate::batch`]) as they are.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::datatypes::SchemaRef;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::batch::Lane;
use crate::binding::Frontier;
use crate::digest::{self, Digest};
use crate::processes::Helpers;
pub use crate::state::relational::{Given, Order, Relational, Row};
use crate::state::{ErasedKeyed, Related, States};
use crate::{Fault, Result};

/// Rows that an operator could not take, with its reasons; and what else it has to say of its input.
#[derive(Debug, Default)]
pub struct Rejects {
    rows: Vec<(usize, String)>,
    repaired: u64,
    unmet: Vec<String>,
    noticed: Vec<Noticed>,
}

/// Something of note at a row, in JSON: it becomes a record in the pipeline's topic of events.
#[derive(Clone, Debug, PartialEq)]
pub struct Noticed {
    /// The row.
    pub row: usize,
    /// What happened: `drift`.
    pub kind: &'static str,
    /// All about it.
    pub about: Value,
}

impl Rejects {
    /// Marks input row `row` as a dead letter (and, if it asks, as an error answer).
    /// A rejected row must not be in the output. A row that is rejected twice keeps its first reason.
    pub fn push(&mut self, row: usize, reason: impl Into<String>) {
        self.rows.push((row, reason.into()));
    }

    /// Counts values that the operator has put in place of others, or of missing ones.
    pub fn repaired(&mut self, values: usize) {
        self.repaired += values as u64;
    }

    /// Tells that something that was expected of the rows does not hold.
    pub fn unmet(&mut self, expectation: impl Into<String>) {
        self.unmet.push(expectation.into());
    }

    /// Tells of something of note that happened at row `row`.
    pub fn notice(&mut self, row: usize, kind: &'static str, about: Value) {
        self.noticed.push(Noticed { row, kind, about });
    }

    /// What was of note, in the order in which it was told.
    pub fn noticed(&mut self) -> Vec<Noticed> {
        std::mem::take(&mut self.noticed)
    }

    /// How many values were repaired, and the expectations that do not hold, in the order in which they were told.
    pub fn remarks(&mut self) -> (u64, Vec<String>) {
        (std::mem::take(&mut self.repaired), std::mem::take(&mut self.unmet))
    }

    /// Whether no row was rejected.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The rejected rows in row order, each once, with its first reason.
    pub fn take(&mut self) -> Vec<(usize, String)> {
        let mut rows = std::mem::take(&mut self.rows);
        rows.sort_by_key(|(row, _)| *row);
        rows.dedup_by_key(|(row, _)| *row);
        rows
    }

    /// A mask of `len` rows that keeps what was not rejected.
    pub fn keep(&self, len: usize) -> BooleanArray {
        let mut keep = vec![true; len];
        for (row, _) in &self.rows {
            keep[*row] = false;
        }
        keep.into()
    }
}

/// An operator without state.
pub trait Transform: Send + Sync + 'static {
    /// The output rows, in input order. A row that is in neither the output nor `rejects` was dropped
    /// on purpose; in the serve lane it gets an error answer that says so.
    fn apply(&self, lane: Lane, rows: &RecordBatch, rejects: &mut Rejects) -> Result<RecordBatch>;
}

/// An operator with a state for each key.
///
/// One method serves both lanes: it reads [`States::get`] and then writes [`States::update`], which does
/// nothing in the serve lane. So a row gets the same columns in either lane, and serving cannot change state.
pub trait Keyed: Send + Sync + 'static {
    /// What is kept for a key. Its default is what an unknown key has.
    type State: Default + Serialize + DeserializeOwned + Send + Sync + 'static;

    /// The columns of input `port` that make its key; with none, all rows share one state.
    /// The types of the key columns must be the same on all ports.
    fn key(&self, port: usize) -> &[usize];

    /// How many numbers are kept for a key beside its state: see [`States::numbers`]. They lie side by side, without a way
    /// through other memory, and start as zeros.
    fn numbers(&self) -> usize {
        0
    }

    /// The output for `rows` of input `port`, in input order; `None` where the port only feeds state.
    /// In the learn lane an epoch's ports come in descending order, so that port 0 finds the others' state written. How
    /// much is in an epoch must not matter, so what port 0 finds there has to be looked up by event time: an epoch may
    /// already have brought younger rows. In the serve lane only port 0 is given rows.
    fn apply(
        &self,
        port: usize,
        rows: &RecordBatch,
        states: &mut States<'_, Self::State>,
        rejects: &mut Rejects,
    ) -> Result<Option<RecordBatch>>;

    /// Whether a state can no longer influence any row whose event time is at or after `watermark`
    /// (milliseconds). The engine then drops it at leisure, so dropping must not be visible in results.
    fn expired(&self, state: &Self::State, watermark: i64) -> bool;
}

/// A number that a fold reports about itself: to the progress line, the summary and the metrics.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measure {
    /// What is measured: `log_loss`, `accuracy`.
    pub name: &'static str,
    /// Who reached it: `model`, `majority`, `no_change`.
    pub who: &'static str,
    /// Over which rows: `all`, `last 1000`, `carrier=AA`.
    pub over: Cow<'static, str>,
    /// The value.
    pub value: f64,
}

impl Measure {
    /// What was measured over all rows.
    pub fn of_all(name: &'static str, who: &'static str, value: f64) -> Self {
        Self { name, who, over: Cow::Borrowed("all"), value }
    }
}

/// An operator that folds the whole learn lane into one state, and whose state answers: a model.
pub trait Fold: Send + 'static {
    /// Learns from `rows` of input `port` one after the other, and gives those of port 0 back with the columns that it adds
    /// (for a model: what it predicted before learning each). Rows of several ports come in the canonical order of all.
    fn learn(&mut self, port: usize, rows: &RecordBatch, rejects: &mut Rejects) -> Result<RecordBatch>;

    /// How many rows it has learned. This is the number of the revision: it grows with each example and
    /// does not depend on how the stream was cut into epochs.
    fn examples(&self) -> u64;

    /// Grows with each row that changes its state: an epoch in which it has grown makes a revision. Only what judges and does
    /// not learn changes without more examples.
    fn changes(&self) -> u64 {
        self.examples()
    }

    /// Has other processes compute for it from now on. What it learns does not depend on who computes.
    fn helped_by(&mut self, _helpers: &Helpers) {}

    /// Takes over what another has learned, from a file of its [artefacts](Answer::artefacts), or says what does not fit. What
    /// that had measured stays behind.
    fn begin_with(&mut self, _file: &[u8]) -> Result<()> {
        Err(Fault::definition("it cannot begin with what another has learned"))
    }

    /// An immutable copy of the present state for answering.
    fn revision(&self) -> Arc<dyn Answer>;

    /// What it has measured so far.
    fn measures(&self) -> Vec<Measure>;

    /// Forgets what it has measured, not what it has learned: what comes next is measured alone.
    fn measure_anew(&mut self);

    /// A copy of the present state, which gives its snapshot when there is time for that. A large state should lie in
    /// [parts](crate::part).
    fn copy(&self) -> Snapshot;

    /// The whole state: weights, optimiser, counters, evaluation. Equal states give equal bytes.
    fn snapshot(&self) -> Vec<u8> {
        self.copy()()
    }

    /// Takes over a state from [`Fold::snapshot`] of the same definition.
    fn restore(&mut self, snapshot: &[u8]) -> Result<()>;

    /// The digest of the whole state: different for states whose snapshots differ, and the same for equal ones. It is taken of each
    /// epoch that changed something: a large state should lie in [parts](crate::part).
    fn digest(&self) -> Digest {
        digest::of_bytes(&self.snapshot())
    }
}

/// Gives a state's snapshot.
pub type Snapshot = Box<dyn FnOnce() -> Vec<u8> + Send>;

/// The answering side of a revision.
pub trait Answer: Send + Sync + 'static {
    /// For each row that is not rejected, the answer's columns (without the engine's), in input order.
    fn answer(&self, rows: &RecordBatch, rejects: &mut Rejects) -> Result<RecordBatch>;

    /// The weights and metadata for people and the registry, as (file name, content) pairs.
    fn artefacts(&self) -> Result<Vec<(String, Vec<u8>)>>;
}

/// Chooses whose answer is given where several folds answer a request. It knows nothing but what is given here, so a replay
/// chooses the same.
pub trait Choose: Send + Sync + 'static {
    /// How well a fold does by what it has measured; NaN where nothing says it.
    fn score(&self, measures: &[Measure]) -> f64;

    /// Which of the folds most requests go to, by their scores, in the order of [`crate::graph::Asks::folds`].
    fn leader(&self, scores: &[f64]) -> usize;

    /// Which of them answers this row: `rows` are those that one of them was asked.
    fn choose(&self, scores: &[f64], rows: &RecordBatch, row: usize) -> usize;
}

/// Whose answer is given where several folds answer a request.
#[derive(Clone)]
pub enum Choosing {
    /// By what they have measured.
    Measured(Arc<dyn Choose>),
    /// By what another fold (a node) has learned: its answer to the request names one of the folds in its first column, a text, and
    /// says in its second with which probability. It is asked with the columns of the request that its own input has, too.
    Learned(usize),
}

/// What an operator can do, type-erased for the dataflow.
#[derive(Clone)]
pub enum Power {
    /// No state.
    Transform(Arc<dyn Transform>),
    /// State by key: [`Keyed`] or [`Relational`].
    Keyed(Arc<dyn ErasedKeyed>),
    /// One state; made once, on the worker that holds it.
    Fold(Folding),
}

/// Makes a fold in its initial state.
pub type MakeFold = Arc<dyn Fn() -> Box<dyn Fold> + Send + Sync>;

/// A [`Fold`] that was not started.
#[derive(Clone)]
pub struct Folding {
    /// Makes it.
    pub make: MakeFold,
    /// Whether its inputs may take back rows: see [`crate::batch::DIFF`].
    pub takes_changes: bool,
    /// What it begins with, if that is not nothing.
    pub begun: Option<Begun>,
}

/// What a fold begins with: then it answers from the first request on.
#[derive(Clone, Debug)]
pub struct Begun {
    /// What that had been learned through.
    pub learned_through: Arc<Frontier>,
    /// Whether it learns more.
    pub learns: bool,
}

impl Power {
    /// A stateless operator.
    pub fn transform(operator: impl Transform) -> Self {
        Self::Transform(Arc::new(operator))
    }

    /// An operator with state by key.
    pub fn keyed(operator: impl Keyed) -> Self {
        Self::Keyed(Arc::new(operator))
    }

    /// An operator on relations.
    pub fn relational(operator: impl Relational) -> Self {
        Self::Keyed(Arc::new(Related::new(operator)))
    }

    /// Whether it takes streams that change: see [`crate::batch::DIFF`]. A stateless operator treats a row that is taken back as
    /// it treated the row.
    pub fn takes_changes(&self) -> bool {
        match self {
            Self::Transform(_) => true,
            Self::Keyed(operator) => operator.takes_changes(),
            Self::Fold(folding) => folding.takes_changes,
        }
    }

    /// A fold, from what makes it in its initial state.
    pub fn fold<F: Fold>(make: impl Fn() -> F + Send + Sync + 'static) -> Self {
        Self::Fold(Folding { make: Arc::new(move || Box::new(make())), takes_changes: false, begun: None })
    }
}

/// A planned operator: checked against its inputs, not started.
#[derive(Clone)]
pub struct Step {
    /// Its output's schema, the engine's columns first.
    pub schema: SchemaRef,
    /// Names of the streams on ports 1, 2, …; port 0 is the stream that it stands in.
    pub others: Vec<String>,
    /// What runs.
    pub power: Power,
}
