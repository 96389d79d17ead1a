//! Guards of a model: detectors watch its errors, and what a definition says is done when they have changed.
//!
//! ```text
//! example ─► learner ─► error ─► detector ─ change ─► warn · reset · quicken · challenger · roll_back
//! ```
//! All of it follows from the examples in their order, and is part of the state: a replay does the same.

use std::sync::Arc;

use millstream_engine::catalogue::{Planned, Problem, Problems};
use millstream_engine::digest::{self, Digest};
use millstream_engine::operator::{Rejects, Snapshot};
use millstream_engine::part::Part;
use millstream_engine::processes::Helpers;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize, Serializer};
use serde_bytes::ByteBuf;
use serde_json::{Value, json};

use crate::models::drift::{self, Detector, Level, Watcher};
use crate::models::onnx::Fitting;
use crate::models::{Design, Example, Happening, Learner, Matrix, Predictor, Shape, Task, Weights, likeliest};

/// What is done when a model's errors change.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GuardConfig {
    /// What watches the errors: 0 and 1 of a classifier, absolute ones of a regression.
    #[schemars(schema_with = "detectors")]
    pub detector: Value,
    /// What is done at a change; each change is an event and a metric, whatever is done.
    #[serde(default)]
    pub then: Action,
}

fn detectors(generator: &mut SchemaGenerator) -> Schema {
    drift::schema(generator)
}

/// What is done at a change.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Action {
    /// Nothing but to tell.
    #[default]
    Warn,
    /// The model begins anew, with nothing learned.
    Reset,
    /// Steps become longer for a while, of models that have a learning rate.
    Quicken {
        /// So many times as long: above 1, at most 1000.
        factor: f64,
        /// That fades over about so many examples: at least 1.
        examples: f64,
    },
    /// A new model learns beside the present one, and takes its place when it has done better over so many examples.
    Challenger {
        /// Over how many examples they are compared: at least 1.
        examples: u64,
    },
    /// The model goes back to what it was before the change: to a copy that is made every so many examples.
    RollBack {
        /// How many examples lie between two copies: at least 1.
        every_examples: u64,
    },
}

/// A checked [`GuardConfig`].
#[derive(Clone, Debug)]
pub(super) struct GuardPlan {
    watcher: Watcher,
    then: Action,
}

impl GuardPlan {
    /// Checks guards, problems below `drift.N`.
    pub(super) fn plan_all(configs: &[GuardConfig], design: &Design, learns: bool) -> Planned<Vec<Self>> {
        let mut problems = Problems::default();
        let mut guards = Vec::new();
        for (at, config) in configs.iter().enumerate() {
            let below = |problem: Problem| problem.under(&format!("drift.{at}"));
            let watcher = drift::plan(&config.detector)
                .map_err(|found| found.into_iter().map(|problem| below(problem.under("detector"))).collect());
            problems.take(config.then.check(design).map_err(|problem| below(problem.under("then"))));
            if !learns && config.then != Action::Warn {
                let message = format!("`{}` would change a model that learns nothing", config.then.name());
                problems.push(below(Problem::new("then", "learns-nothing", message).help("write `warn`")));
            }
            if !matches!(design.task, Task::Classification | Task::Regression) {
                let message = format!("`{}` has no errors that could be watched", design.kind);
                problems.push(below(Problem::new("", "nothing-to-watch", message)));
            }
            guards.extend(problems.take_all(watcher).map(|watcher| Self { watcher, then: config.then }));
        }
        problems.finish().map(|()| guards)
    }
}

impl Action {
    fn check(self, design: &Design) -> Result<(), Problem> {
        let refuse = |key: &str, message: &str| Err(Problem::new(key, "out-of-range", message));
        match self {
            Self::Quicken { .. } if !design.quickens => {
                let message = format!("`{}` has no learning rate", design.kind);
                Err(Problem::new("quicken", "cannot-quicken", message).help("reset it, or let a challenger start"))
            }
            Self::Quicken { factor, .. } if !(factor > 1.0 && factor <= 1000.0) => {
                refuse("quicken.factor", "the factor is above 1 and at most 1000")
            }
            Self::Quicken { examples, .. } if !(1.0..=1e12).contains(&examples) => {
                refuse("quicken.examples", "it lasts for at least 1 example")
            }
            Self::Challenger { examples: 0 } => refuse("challenger.examples", "0 examples compare nothing"),
            Self::RollBack { every_examples: 0 } => refuse("roll_back.every_examples", "0 examples teach nothing"),
            _ => Ok(()),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Warn => "warn",
            Self::Reset => "reset",
            Self::Quicken { .. } => "quicken",
            Self::Challenger { .. } => "challenger",
            Self::RollBack { .. } => "roll_back",
        }
    }
}

/// A learner and its guards.
pub(super) struct Guarded {
    design: Design,
    shape: Shape,
    learner: Box<dyn Learner>,
    guards: Vec<Guard>,
    challenger: Option<Challenger>,
    /// How many examples it learned.
    examples: u64,
    row: Matrix,
    outputs: Vec<f64>,
}

struct Guard {
    then: Action,
    kept: Kept,
}

/// What a guard remembers.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Kept {
    watcher: Watcher,
    /// How many changes there were.
    changes: u64,
    /// Snapshots of the model, the older one first: a change is found late, so the older one is gone back to.
    copies: [Part<ByteBuf>; 2],
}

/// A model that may take the place of the present one.
struct Challenger {
    learner: Box<dyn Learner>,
    count: Duel,
}

/// How the two have done.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
struct Duel {
    left: u64,
    /// The sum of the present model's losses less the challenger's.
    ahead: f64,
}

/// All that changes, as it is stored: a learner as what is written as its snapshot, or as its digest.
#[derive(Deserialize, Serialize)]
struct Stored<L> {
    learner: L,
    guards: Vec<Kept>,
    challenger: Option<(L, Duel)>,
    examples: u64,
}

/// A copy of a learner.
struct Frozen(Arc<dyn Predictor>);

impl Serialize for Frozen {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0.snapshot())
    }
}

impl Guarded {
    pub(super) fn new(design: Design, shape: Shape, guards: &[GuardPlan]) -> Self {
        let guard = |plan: &GuardPlan| Guard {
            then: plan.then,
            kept: Kept { watcher: plan.watcher.clone(), changes: 0, copies: Default::default() },
        };
        Self {
            learner: (design.make)(shape),
            guards: guards.iter().map(guard).collect(),
            challenger: None,
            examples: 0,
            row: Matrix::new(shape),
            outputs: Vec::new(),
            design,
            shape,
        }
    }

    /// Has other processes compute for the learner, and for all that may take its place.
    pub(super) fn helped_by(&mut self, helpers: &Helpers) {
        let (make, helpers) = (self.design.make.clone(), helpers.clone());
        self.learner.helped_by(&helpers);
        self.design.make = Arc::new(move |shape| {
            let mut learner = make(shape);
            learner.helped_by(&helpers);
            learner
        });
    }

    /// The model that answers.
    pub(super) fn learner(&mut self) -> &mut dyn Learner {
        &mut *self.learner
    }

    /// The same, to look at.
    pub(super) fn model(&self) -> &dyn Learner {
        &*self.learner
    }

    /// How many changes were found.
    pub(super) fn changes(&self) -> Option<u64> {
        (!self.guards.is_empty()).then(|| self.guards.iter().map(|guard| guard.kept.changes).sum())
    }

    /// Learns rows one after the other, and acts as soon as an error says that something has changed. `row_of` gives the row of
    /// the input that an example came from.
    pub(super) fn learn(
        &mut self,
        rows: &Matrix,
        examples: &[Example],
        outputs: &mut Vec<f64>,
        row_of: impl Fn(usize) -> usize,
        rejects: &mut Rejects,
    ) {
        if self.guards.is_empty() {
            self.learner.learn(rows, examples, outputs);
            return self.tell(row_of, rejects);
        }
        outputs.clear();
        for (at, example) in examples.iter().enumerate() {
            // What is done at a change has to be done before the next example, wherever batches are cut.
            self.row.copy_row(rows, at);
            let mut said = std::mem::take(&mut self.outputs);
            self.learner.learn(&self.row, std::slice::from_ref(example), &mut said);
            outputs.extend_from_slice(&said);
            self.examples += 1;
            let error = self.error(&said, example);
            self.tell(|_| row_of(at), rejects);
            self.challenge(example, error, row_of(at), rejects);
            self.watch(error, row_of(at), rejects);
            self.outputs = said;
        }
    }

    /// Tells what happened while the learner learned.
    fn tell(&mut self, row_of: impl Fn(usize) -> usize, rejects: &mut Rejects) {
        for Happening { row, kind, about } in self.learner.take_happenings() {
            rejects.notice(row_of(row), kind, about);
        }
    }

    fn error(&self, outputs: &[f64], example: &Example) -> f64 {
        match self.design.task {
            Task::Classification => f64::from(likeliest(outputs) != example.target as usize),
            _ => (outputs[0] - example.target).abs(),
        }
    }

    fn watch(&mut self, error: f64, row: usize, rejects: &mut Rejects) {
        for at in 0..self.guards.len() {
            let Guard { then, kept } = &mut self.guards[at];
            if let Action::RollBack { every_examples } = *then
                && self.examples.is_multiple_of(every_examples)
            {
                kept.copies.swap(0, 1);
                kept.copies[1] = Part::new(self.learner.snapshot().into());
            }
            let before = kept.watcher.mean();
            if kept.watcher.update(error) != Level::Change {
                continue;
            }
            kept.changes += 1;
            let about = json!({
                "examples": self.examples, "action": then.name(),
                "error_before": before, "error": kept.watcher.mean(),
            });
            rejects.notice(row, "drift", about);
            self.act(at);
        }
    }

    fn act(&mut self, guard: usize) {
        match self.guards[guard].then {
            Action::Warn => {}
            Action::Reset => self.learner = (self.design.make)(self.shape),
            Action::Quicken { factor, examples } => self.learner.quicken(factor, examples),
            Action::Challenger { examples } => {
                // One that is under way goes on: it knows less of the old than the present one.
                self.challenger.get_or_insert_with(|| Challenger {
                    learner: (self.design.make)(self.shape),
                    count: Duel { left: examples, ahead: 0.0 },
                });
            }
            Action::RollBack { .. } => {
                let copy = std::mem::take(&mut self.guards[guard].kept.copies[0]);
                if copy.is_empty() {
                    self.learner = (self.design.make)(self.shape);
                } else {
                    self.learner.restore(&copy).expect("it is a copy of this model");
                }
            }
        }
    }

    /// Teaches the challenger, which may take the model's place.
    fn challenge(&mut self, example: &Example, error: f64, row: usize, rejects: &mut Rejects) {
        let Some(mut challenger) = self.challenger.take() else { return };
        let mut said = Vec::new();
        challenger.learner.learn(&self.row, std::slice::from_ref(example), &mut said);
        challenger.count.ahead += error - self.error(&said, example);
        challenger.count.left -= 1;
        if challenger.count.left > 0 {
            self.challenger = Some(challenger);
            return;
        }
        let wins = challenger.count.ahead > 0.0;
        let about = json!({"examples": self.examples, "challenger_wins": wins, "less_error": challenger.count.ahead});
        rejects.notice(row, "challenge", about);
        if wins {
            self.learner = challenger.learner;
        }
    }

    /// Takes over what another learner has become, or says why it cannot.
    pub(super) fn begin_with(&mut self, snapshot: &[u8]) -> Result<(), String> {
        let mut learner = (self.design.make)(self.shape);
        learner.restore(snapshot)?;
        if learner.snapshot() != snapshot {
            return Err("it is not what a learner makes of it".to_owned());
        }
        self.begin(learner);
        Ok(())
    }

    /// Takes over weights of others, or says why it cannot.
    pub(super) fn take(&mut self, weights: &mut Weights) -> Result<(), String> {
        let mut learner = (self.design.make)(self.shape);
        learner.take(weights)?;
        weights.finish()?;
        self.begin(learner);
        Ok(())
    }

    /// Takes over a file of others, or says why it cannot.
    pub(super) fn take_file(&mut self, file: &[u8], fitting: &Fitting) -> Result<(), String> {
        let mut learner = (self.design.make)(self.shape);
        learner.take_file(file, fitting)?;
        self.begin(learner);
        Ok(())
    }

    /// Guards watch from here on, and go back no further.
    fn begin(&mut self, learner: Box<dyn Learner>) {
        for guard in self.guards.iter_mut().filter(|guard| matches!(guard.then, Action::RollBack { .. })) {
            let copy: Part<ByteBuf> = Part::new(learner.snapshot().into());
            guard.kept.copies = [copy.clone(), copy];
        }
        self.learner = learner;
    }

    fn stored<L>(&self, of: impl Fn(&dyn Learner) -> L) -> Stored<L> {
        Stored {
            learner: of(&*self.learner),
            guards: self.guards.iter().map(|guard| guard.kept.clone()).collect(),
            challenger: self.challenger.as_ref().map(|other| (of(&*other.learner), other.count)),
            examples: self.examples,
        }
    }

    /// See [`millstream_engine::operator::Fold::copy`].
    pub(super) fn copy(&self) -> Snapshot {
        let stored = self.stored(|learner| Frozen(learner.frozen()));
        Box::new(move || postcard::to_stdvec(&stored).expect("numbers can be written to memory"))
    }

    pub(super) fn digest(&self) -> Digest {
        digest::of_value(&self.stored(Learner::digest))
    }

    /// Takes over a state, or says why it cannot; then it is as before.
    pub(super) fn restore(&mut self, snapshot: &[u8]) -> Result<(), String> {
        let stored: Stored<ByteBuf> = postcard::from_bytes(snapshot).map_err(|error| error.to_string())?;
        if stored.guards.len() != self.guards.len() {
            return Err(format!("it has {} guards, not {}", stored.guards.len(), self.guards.len()));
        }
        for (guard, kept) in self.guards.iter().zip(&stored.guards) {
            let same = std::mem::discriminant(&guard.kept.watcher) == std::mem::discriminant(&kept.watcher);
            if !same || !kept.watcher.is_sound() {
                return Err("a detector's state is not one".to_owned());
            }
            for copy in kept.copies.iter().filter(|copy| !copy.is_empty()) {
                (self.design.make)(self.shape).restore(copy)?;
            }
        }
        let restored = |snapshot: &[u8]| {
            let mut learner = (self.design.make)(self.shape);
            learner.restore(snapshot).map(|()| learner)
        };
        let learner = restored(&stored.learner)?;
        let challenger = match stored.challenger {
            Some((_, Duel { left: 0, .. })) => return Err("a challenge has ended".to_owned()),
            Some((snapshot, count)) => Some(Challenger { learner: restored(&snapshot)?, count }),
            None => None,
        };
        self.learner = learner;
        self.challenger = challenger;
        self.examples = stored.examples;
        for (guard, kept) in self.guards.iter_mut().zip(stored.guards) {
            guard.kept = kept;
        }
        Ok(())
    }
}
