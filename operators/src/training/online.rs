//! The fold: predict, judge, learn, row by row in order.
//!
//! ```text
//! rows ─► predict ─┬─ label is here ─────────────► judge ─► learn
//!                  └─ label comes later: waits ─┐
//! labels ───────────────────────────────────────┴► judge ─► learn
//! ```

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, SchemaRef};
use millstream_engine::batch::{self, Meta};
use millstream_engine::digest::{self, Digest};
use millstream_engine::operator::{Answer, Fold, Measure, Rejects, Snapshot};
use millstream_engine::processes::Helpers;
use millstream_engine::{Fault, Result};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::evaluation::{Evaluation, EvaluationConfig};
use super::examples::Examples;
use super::guard::{GuardPlan, Guarded};
use super::waiting::{self, Waiting, WaitingPlan};
use crate::inference::{Revision, Saved, Spec, Usual, accepted, read_weights};
use crate::models::{Example, Matrix};

/// All that makes a fold.
#[derive(Clone)]
pub(super) struct OnlinePlan {
    pub(super) spec: Arc<Spec>,
    pub(super) told: Examples,
    pub(super) evaluation: EvaluationConfig,
    /// The columns by which rows are judged apart.
    pub(super) slices: Vec<usize>,
    pub(super) guards: Vec<GuardPlan>,
    pub(super) waiting: Option<WaitingPlan>,
    /// Whether it learns; else rows only judge it.
    pub(super) learns: bool,
    /// By how many features answers are explained.
    pub(super) explain: usize,
    /// The output's.
    pub(super) schema: SchemaRef,
}

/// A model that learns.
pub(super) struct Online {
    plan: OnlinePlan,
    model: Guarded,
    evaluation: Evaluation,
    waiting: Option<Waiting>,
    /// What rows look like, where answers are explained.
    usual: Option<Usual>,
    examples: u64,
    /// How many rows were judged since it was made.
    judged: u64,
    buffers: Buffers,
}

/// Reused from batch to batch.
struct Buffers {
    matrix: Matrix,
    examples: Vec<Example>,
    outputs: Vec<f64>,
}

/// A stored fold: the model and the rows that wait as their snapshots, or as their digests.
#[derive(Deserialize, Serialize)]
struct State<'a, L> {
    /// What the model is, to tell a state of another one.
    spec: String,
    examples: u64,
    model: L,
    evaluation: Cow<'a, Evaluation>,
    waiting: Option<L>,
    usual: Cow<'a, Option<Usual>>,
}

/// Where a null stands in a column by which rows are judged apart.
const NULL: &str = "null";
/// What is told of a label for which no row waits.
const NOBODY: &str = "no row waits for this label: it came too late, too early, or twice";
/// By how long a label took, rows are judged apart: up to so many milliseconds.
const DELAYS_MS: [(i64, &str); 4] = [(60_000, "1 m"), (3_600_000, "1 h"), (86_400_000, "1 d"), (i64::MAX, "longer")];

impl OnlinePlan {
    /// Nothing judged yet.
    fn evaluation(&self) -> Evaluation {
        let (spec, is_labelled) = (&self.spec, self.spec.label.is_some());
        Evaluation::new(spec.design.task, spec.shape().classes, is_labelled, &self.evaluation)
    }
}

impl Online {
    pub(super) fn new(plan: OnlinePlan) -> Self {
        let (spec, shape) = (&plan.spec, plan.spec.shape());
        Self {
            model: Guarded::new(spec.design.clone(), shape, &plan.guards),
            evaluation: plan.evaluation(),
            waiting: plan.waiting.clone().map(Waiting::new),
            usual: (plan.explain > 0).then(|| Usual::new(shape)),
            examples: 0,
            judged: 0,
            buffers: Buffers { matrix: Matrix::new(shape), examples: Vec::new(), outputs: Vec::new() },
            plan,
        }
    }

    /// The texts by which rows are judged apart.
    fn slices(&self, rows: &RecordBatch) -> Result<Vec<StringArray>> {
        let texts = |at: &usize| {
            let texts = cast(rows.column(*at), &DataType::Utf8)?;
            let texts = texts.as_string::<i32>();
            Ok(if texts.null_count() == 0 {
                texts.clone()
            } else {
                texts.iter().map(|text| Some(text.unwrap_or(NULL))).collect()
            })
        };
        self.plan.slices.iter().map(texts).collect()
    }

    /// Rows of port 0 that can be used, with the numbers that they had in the input.
    fn usable(&mut self, rows: &RecordBatch, rejects: &mut Rejects) -> Result<(RecordBatch, Vec<usize>)> {
        let Buffers { matrix, examples, outputs } = &mut self.buffers;
        self.plan.spec.features.check(rows, rejects)?;
        self.plan.told.read(rows, examples, rejects)?;
        if !self.plan.spec.design.learns {
            self.plan.spec.say(&*self.model.model().frozen(), rows, rejects, matrix, outputs)?;
        }
        let mut numbers = Vec::new();
        if !rejects.is_empty() {
            let keep = rejects.keep(rows.num_rows());
            numbers.extend((0..rows.num_rows()).filter(|row| keep.value(*row)));
            let mut row = 0..rows.num_rows();
            examples.retain(|_| row.next().is_some_and(|row| keep.value(row)));
        }
        let rows = accepted(rows, rejects)?;
        self.plan.spec.features.read(&rows, matrix)?;
        if let Some(usual) = &mut self.usual {
            usual.see(matrix);
        }
        Ok((rows, numbers))
    }

    /// Learns rows whose labels are here, and takes back those that a changing stream takes back.
    fn learn_labelled(&mut self, rows: &RecordBatch, rejects: &mut Rejects) -> Result<RecordBatch> {
        let (rows, numbers) = self.usable(rows, rejects)?;
        let slices = self.slices(&rows)?;
        let number = |row: usize| numbers.get(row).copied().unwrap_or(row);
        let Buffers { matrix, examples, outputs } = &mut self.buffers;
        self.judged += rows.num_rows() as u64;
        let learns = self.plan.learns;
        self.examples += if learns { rows.num_rows() as u64 } else { 0 };
        let Some(diffs) = batch::diffs(&rows) else {
            self.model.learn(matrix, &lesson(learns, examples), outputs, number, rejects);
            self.evaluation.judge(outputs, examples, &slices);
            return output(&self.plan, &rows, outputs, examples);
        };
        let (mut kept, mut said, mut learned) = (Vec::new(), Vec::new(), Vec::new());
        for range in signs(diffs) {
            let mut part = Matrix::new(self.plan.spec.shape());
            range.clone().for_each(|row| part.push(matrix.row(row)));
            let part_examples = &examples[range.clone()];
            if diffs[range.start] < 0 {
                if learns {
                    self.model.learner().forget(&part, part_examples);
                }
                continue;
            }
            self.model.learn(&part, &lesson(learns, part_examples), outputs, |row| number(range.start + row), rejects);
            let parts: Vec<StringArray> = slices.iter().map(|texts| texts.slice(range.start, range.len())).collect();
            self.evaluation.judge(outputs, part_examples, &parts);
            said.extend_from_slice(outputs);
            learned.extend_from_slice(part_examples);
            kept.push(rows.slice(range.start, range.len()));
        }
        let rows = arrow::compute::concat_batches(&rows.schema(), &kept)?;
        output(&self.plan, &rows, &said, &learned)
    }

    /// Predicts rows whose labels come later, and lets them wait.
    fn let_wait(&mut self, rows: &RecordBatch, rejects: &mut Rejects) -> Result<RecordBatch> {
        let (rows, numbers) = self.usable(rows, rejects)?;
        let slices = self.slices(&rows)?;
        let times = Meta::of(&rows).time;
        let Some(waiting) = &self.waiting else {
            return Err(Fault::ours("a label that comes later is not waited for"));
        };
        let keys = waiting.keys(0, &rows)?;
        let (mut said, mut at) = (Vec::new(), 0);
        while at < rows.num_rows() {
            let number = numbers.get(at).copied().unwrap_or(at);
            self.give_up(times[at], number, rejects);
            let Some(waiting) = &mut self.waiting else { break };
            // Until one has waited long enough, nothing is learned, and rows may be predicted together.
            let mut part = Matrix::new(self.plan.spec.shape());
            let start = at;
            while at < rows.num_rows() && (at == start || !waiting.is_over(times[at])) {
                part.push(self.buffers.matrix.row(at));
                let (row, example) = (self.buffers.matrix.row(at), self.buffers.examples[at]);
                // What is predicted is filled in below: whether one has waited long enough does not depend on it.
                waiting.push((keys.row(at).data(), times[at]), row, example, (&slices, at));
                at += 1;
            }
            let asked = vec![Example { weight: 0.0, ..Example::of(0.0) }; at - start];
            self.model.learner().learn(&part, &asked, &mut self.buffers.outputs);
            waiting.predicted(&self.buffers.outputs, at - start);
            said.extend_from_slice(&self.buffers.outputs);
        }
        output(&self.plan, &rows, &said, &self.buffers.examples)
    }

    /// Takes labels to the rows that wait for them.
    fn take_labels(&mut self, rows: &RecordBatch, rejects: &mut Rejects) -> Result<()> {
        let mut labels = Vec::new();
        self.plan.told.read_later(rows, &mut labels, rejects)?;
        let keep = rejects.keep(rows.num_rows());
        let times = Meta::of(rows).time;
        let Some(waiting) = &self.waiting else { return Ok(()) };
        let keys = waiting.keys(1, rows)?;
        for row in (0..rows.num_rows()).filter(|row| keep.value(*row)) {
            self.give_up(times[row], row, rejects);
            let waiters = self.waiting.as_mut().map(|waiting| waiting.take(keys.row(row).data())).unwrap_or_default();
            if waiters.is_empty() {
                rejects.push(row, NOBODY);
            }
            for waiter in waiters {
                self.learn_waiter(&waiter, labels[row], times[row], row, rejects);
            }
        }
        Ok(())
    }

    /// Sees to the rows that have waited long enough at this time.
    fn give_up(&mut self, now_ms: i64, row: usize, rejects: &mut Rejects) {
        while self.waiting.as_ref().is_some_and(|waiting| waiting.is_over(now_ms)) {
            let Some((waiter, label)) = self.waiting.as_mut().and_then(Waiting::give_up) else { return };
            if let Some(label) = label {
                self.learn_waiter(&waiter, label, now_ms, row, rejects);
            }
        }
    }

    /// Judges what was predicted of a row when it came, and learns it.
    fn learn_waiter(&mut self, waiter: &waiting::Waiter, label: f64, now_ms: i64, row: usize, rejects: &mut Rejects) {
        let example = [waiter.example(label)];
        let waited = now_ms.saturating_sub(waiter.time_ms);
        let delay = DELAYS_MS.iter().find(|(most, _)| waited <= *most).map_or("longer", |(_, name)| name);
        let slices: Vec<StringArray> = waiter
            .slices
            .iter()
            .map(String::as_str)
            .chain([delay])
            .map(|text| StringArray::from_iter_values([text]))
            .collect();
        self.evaluation.judge(&waiter.outputs, &example, &slices);
        let matrix = waiting::matrix(self.plan.spec.shape(), std::slice::from_ref(waiter));
        let learns = self.plan.learns;
        self.model.learn(&matrix, &lesson(learns, &example), &mut self.buffers.outputs, |_| row, rejects);
        self.judged += 1;
        self.examples += u64::from(learns);
    }
}

/// The rows of port 0 with what was predicted.
fn output(plan: &OnlinePlan, rows: &RecordBatch, outputs: &[f64], examples: &[Example]) -> Result<RecordBatch> {
    let mut columns = rows.columns().to_vec();
    if let Ok(diff) = rows.schema_ref().index_of(batch::DIFF) {
        columns.remove(diff);
    }
    columns.extend(plan.spec.outputs.training_columns(outputs, examples));
    Ok(RecordBatch::try_new(plan.schema.clone(), columns)?)
}

/// What is taught by these examples: nothing, where nothing is to be learned.
fn lesson(learns: bool, examples: &[Example]) -> Cow<'_, [Example]> {
    if learns {
        return Cow::Borrowed(examples);
    }
    examples.iter().map(|example| Example { weight: 0.0, ..*example }).collect()
}

/// Runs of rows that are added, and of rows that are taken back.
fn signs(diffs: &[i64]) -> Vec<Range<usize>> {
    let mut at = 0;
    let run = |part: &[i64]| {
        at += part.len();
        at - part.len()..at
    };
    diffs.chunk_by(|a, b| a.signum() == b.signum()).map(run).collect()
}

impl Fold for Online {
    fn learn(&mut self, port: usize, rows: &RecordBatch, rejects: &mut Rejects) -> Result<RecordBatch> {
        if port == 1 {
            self.take_labels(rows, rejects)?;
            return Ok(RecordBatch::new_empty(self.plan.schema.clone()));
        }
        if self.waiting.is_some() { self.let_wait(rows, rejects) } else { self.learn_labelled(rows, rejects) }
    }

    fn helped_by(&mut self, helpers: &Helpers) {
        self.model.helped_by(helpers);
    }

    fn examples(&self) -> u64 {
        self.examples
    }

    fn changes(&self) -> u64 {
        self.judged
    }

    fn begin_with(&mut self, file: &[u8]) -> Result<()> {
        let does_not_fit = |why: String| Fault::definition(format!("it does not fit: {why}"));
        if !Saved::is_one(file) {
            if !self.plan.spec.design.learns {
                return self.model.take_file(file, &self.plan.spec.fitting()).map_err(does_not_fit);
            }
            let mut weights = read_weights(file).map_err(Fault::definition)?;
            return self.model.take(&mut weights).map_err(does_not_fit);
        }
        let saved = Saved::read(file).map_err(Fault::definition)?;
        saved.check(&self.plan.spec).map_err(Fault::definition)?;
        self.model.begin_with(&saved.learner).map_err(does_not_fit)?;
        self.examples = saved.examples;
        Ok(())
    }

    fn revision(&self) -> Arc<dyn Answer> {
        let revision = Revision::new(self.plan.spec.clone(), self.model.model().frozen(), self.examples);
        Arc::new(match &self.usual {
            Some(usual) => revision.explaining(usual.clone(), self.plan.explain),
            None => revision,
        })
    }

    fn measures(&self) -> Vec<Measure> {
        let mut measures = self.evaluation.measures(&self.plan.evaluation.by);
        if let Some(waiting) = &self.waiting {
            let (wait, unlabelled) = waiting.counts();
            measures.push(Measure::of_all("waiting", "model", wait as f64));
            measures.push(Measure::of_all("unlabelled", "model", unlabelled as f64));
        }
        let progress = self.model.model().progress().into_iter();
        measures.extend(progress.map(|(name, value)| Measure::of_all(name, "model", value)));
        measures.extend(self.model.changes().map(|changes| Measure::of_all("changes", "model", changes as f64)));
        measures
    }

    fn measure_anew(&mut self) {
        self.evaluation = self.plan.evaluation();
    }

    fn copy(&self) -> Snapshot {
        let (spec, examples) = (self.plan.spec.describe().to_string(), self.examples);
        let (evaluation, usual) = (Cow::Owned(self.evaluation.clone()), Cow::Owned(self.usual.clone()));
        let (model, waiting) = (self.model.copy(), self.waiting.as_ref().map(Waiting::copy));
        Box::new(move || {
            let waiting = waiting.map(|copy| ByteBuf::from(copy()));
            let state = State { spec, examples, model: ByteBuf::from(model()), evaluation, waiting, usual };
            postcard::to_stdvec(&state).expect("numbers and strings can be written to memory")
        })
    }

    fn digest(&self) -> Digest {
        digest::of_value(&State {
            spec: self.plan.spec.describe().to_string(),
            examples: self.examples,
            model: self.model.digest(),
            evaluation: Cow::Borrowed(&self.evaluation),
            waiting: self.waiting.as_ref().map(Waiting::digest),
            usual: Cow::Borrowed(&self.usual),
        })
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<()> {
        let kind = self.plan.spec.design.kind;
        let refused = |why: String| Fault::world(format!("the stored state of a model ({kind}) {why}"));
        let state: State<'_, ByteBuf> =
            postcard::from_bytes(snapshot).map_err(|error| refused("is damaged".to_owned()).because(error))?;
        let spec = self.plan.spec.describe().to_string();
        if state.spec != spec
            || !state.evaluation.is_like(&self.evaluation)
            || state.waiting.is_some() != self.waiting.is_some()
        {
            return Err(refused(format!("is of another model: stored {}, wanted {spec}", state.spec)));
        }
        let damaged = |why: String| refused(format!("is damaged: {why}"));
        if let (Some(waiting), Some(stored)) = (&mut self.waiting, &state.waiting) {
            let (outputs, slices) = (self.plan.spec.outputs.width(), self.plan.slices.len());
            waiting.restore(stored, self.plan.spec.shape(), outputs, slices).map_err(damaged)?;
        }
        let (shape, explains) = (self.plan.spec.shape(), self.usual.is_some());
        let usual = state.usual.into_owned();
        if usual.is_some() != explains || usual.as_ref().is_some_and(|usual| !usual.fits(shape)) {
            return Err(damaged("what is usual does not fit".to_owned()));
        }
        self.model.restore(&state.model).map_err(damaged)?;
        self.usual = usual;
        self.evaluation = state.evaluation.into_owned();
        self.examples = state.examples;
        Ok(())
    }
}
