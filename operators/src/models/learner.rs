//! Batches of rows, and models with their types hidden behind them.

use std::sync::Arc;

use millstream_engine::digest::{self, Digest};
use millstream_engine::processes::Helpers;
use serde_json::Value;

use super::onnx::{Expressed, Fitting, Graph, Rows};
use super::{Example, Explanation, Forget, Model, Names, Quicken, Row, Shape, Take, Task, Tensor, Weights};

/// Rows of features, row after row; reused from batch to batch.
#[derive(Clone, Debug)]
pub struct Matrix {
    shape: Shape,
    len: usize,
    dense: Vec<f64>,
    active: Vec<u32>,
}

impl Matrix {
    /// No rows yet.
    pub fn new(shape: Shape) -> Self {
        Self { shape, len: 0, dense: Vec::new(), active: Vec::new() }
    }

    /// Makes it `len` rows, to be filled column by column.
    pub fn resize(&mut self, len: usize) {
        self.len = len;
        self.dense.resize(len * self.shape.dense, 0.0);
        self.active.resize(len * self.shape.active, 0);
    }

    /// Makes it the one row `row` of `other`, which has the same shape.
    pub fn copy_row(&mut self, other: &Self, row: usize) {
        self.resize(0);
        self.push(other.row(row));
    }

    /// Adds a row.
    pub fn push(&mut self, row: Row<'_>) {
        self.len += 1;
        self.dense.extend_from_slice(row.dense);
        self.active.extend_from_slice(row.active);
    }

    /// How many rows it has.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no rows.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Fills a column of numbers.
    pub fn set_dense(&mut self, column: usize, values: impl Iterator<Item = f64>) {
        for (cell, value) in self.dense.iter_mut().skip(column).step_by(self.shape.dense.max(1)).zip(values) {
            *cell = value;
        }
    }

    /// Fills a column of categories.
    pub fn set_active(&mut self, column: usize, values: impl Iterator<Item = u32>) {
        for (cell, value) in self.active.iter_mut().skip(column).step_by(self.shape.active.max(1)).zip(values) {
            *cell = value;
        }
    }

    /// The numbers and the categories of some rows, each row after row.
    pub fn rows(&self, from: usize, to: usize) -> (&[f64], &[u32]) {
        let Shape { dense, active, .. } = self.shape;
        (&self.dense[from * dense..to * dense], &self.active[from * active..to * active])
    }

    /// A row.
    #[inline]
    pub fn row(&self, row: usize) -> Row<'_> {
        let Shape { dense, active, .. } = self.shape;
        Row { dense: &self.dense[row * dense..][..dense], active: &self.active[row * active..][..active] }
    }
}

/// A [`Model`] that learns in batches, its type hidden.
///
/// Outputs lie one row after the other, [`Task::outputs`] for each.
pub trait Learner: Send + 'static {
    /// Learns the rows one after the other; `outputs` gets what was predicted just before each.
    fn learn(&mut self, rows: &Matrix, examples: &[Example], outputs: &mut Vec<f64>);

    /// Has other processes compute for it from now on: see [`millstream_engine::operator::Fold::helped_by`].
    fn helped_by(&mut self, _helpers: &Helpers) {}

    /// Takes back examples that were learned; only where [`super::Design::forgets`].
    fn forget(&mut self, rows: &Matrix, examples: &[Example]);

    /// Makes steps longer for a while: [`super::Quicken::quicken`]; only where [`super::Design::quickens`].
    fn quicken(&mut self, factor: f64, examples: f64);

    /// An immutable copy of the present state. It is made when learning goes on, and only while someone holds this.
    fn frozen(&self) -> Arc<dyn Predictor>;

    /// The whole state.
    fn snapshot(&self) -> Vec<u8> {
        self.frozen().snapshot()
    }

    /// The digest of the whole state: see [`millstream_engine::operator::Fold::digest`].
    fn digest(&self) -> Digest;

    /// Takes over a state from [`Learner::snapshot`], or says why it cannot.
    fn restore(&mut self, snapshot: &[u8]) -> Result<(), String>;

    /// Begins with weights of others, named and shaped as [`Predictor::tensors`] gives them, or says why it cannot; then it is of no
    /// use. Only for one that has learned nothing.
    fn take(&mut self, _weights: &mut Weights) -> Result<(), String> {
        Err(NO_WEIGHTS.to_owned())
    }

    /// Begins with a file of others, or says why it cannot. Only for one that never learns.
    fn take_file(&mut self, _file: &[u8], _fitting: &Fitting) -> Result<(), String> {
        Err(NO_WEIGHTS.to_owned())
    }

    /// How learning goes, for people: names and numbers.
    fn progress(&self) -> Vec<(&'static str, f64)> {
        Vec::new()
    }

    /// What happened while it learned the last rows, and is to be told; each is told once.
    fn take_happenings(&mut self) -> Vec<Happening> {
        Vec::new()
    }
}

/// Why most learners take no weights.
const NO_WEIGHTS: &str = "it begins with a state of its own kind, and not with weights of others";

/// Something that happened while a model learned.
#[derive(Clone, Debug, PartialEq)]
pub struct Happening {
    /// At which of the rows.
    pub row: usize,
    /// What it was: `step_refused`.
    pub kind: &'static str,
    /// More about it.
    pub about: Value,
}

/// A [`Model`] that does not change any more, its type hidden.
pub trait Predictor: Send + Sync + 'static {
    /// The outputs for each row.
    fn predict(&self, rows: &Matrix, outputs: &mut Vec<f64>);

    /// What is needed to predict.
    fn tensors(&self) -> Vec<Tensor>;

    /// What it has learned, for people.
    fn explain(&self, names: &Names) -> Explanation;

    /// Adds to an ONNX graph what gives the outputs that [`Predictor::predict`] gives, or says why that cannot be.
    fn onnx(&self, graph: &mut Graph, rows: &Rows) -> Expressed;

    /// The ONNX file that it is, where it is one of others.
    fn file(&self) -> Option<&[u8]> {
        None
    }

    /// What [`Learner::snapshot`] gave when this was made: with it, learning can go on from here.
    fn snapshot(&self) -> Vec<u8>;
}

/// Takes back an example: [`Forget::forget`].
type ForgetOne<M> = fn(&mut M, Row<'_>, Example, &mut Vec<f64>);

/// Takes weights of others: [`Take::take`].
type TakeWeights<M> = fn(&mut M, &mut Weights) -> Result<(), String>;

/// Hides a model's type outside the loop over its rows.
pub(super) struct Erased<M> {
    model: Arc<M>,
    shape: Shape,
    /// How many outputs there are for a row.
    outputs: usize,
    forget: Option<ForgetOne<M>>,
    quicken: Option<fn(&mut M, f64, f64)>,
    take: Option<TakeWeights<M>>,
    scratch: Vec<f64>,
}

impl<M: Model> Erased<M> {
    /// A model for rows of this shape.
    pub(super) fn new(model: M, task: Task, shape: Shape) -> Self {
        let outputs = task.outputs(shape.classes);
        Self { model: Arc::new(model), shape, outputs, forget: None, quicken: None, take: None, scratch: Vec::new() }
    }

    /// With the ability to forget.
    pub(super) fn forgetting(mut self) -> Self
    where
        M: Forget,
    {
        self.forget = Some(M::forget);
        self
    }

    /// With the ability to take longer steps.
    pub(super) fn quickening(mut self) -> Self
    where
        M: Quicken,
    {
        self.quicken = Some(M::quicken);
        self
    }

    /// With the ability to begin with weights of others.
    pub(super) fn taking(mut self) -> Self
    where
        M: Take,
    {
        self.take = Some(M::take);
        self
    }

    pub(super) fn boxed(self) -> Box<dyn Learner> {
        Box::new(self)
    }
}

impl<M: Model> Learner for Erased<M> {
    fn learn(&mut self, rows: &Matrix, examples: &[Example], outputs: &mut Vec<f64>) {
        let model = Arc::make_mut(&mut self.model);
        let scratch = &mut self.scratch;
        outputs.resize(rows.len() * self.outputs, 0.0);
        for ((row, example), outputs) in (0..).zip(examples).zip(outputs.chunks_exact_mut(self.outputs)) {
            if example.weight > 0.0 {
                model.learn(rows.row(row), *example, outputs, scratch);
            } else {
                model.predict(rows.row(row), outputs, scratch);
            }
        }
    }

    fn forget(&mut self, rows: &Matrix, examples: &[Example]) {
        let forget = self.forget.expect("planning lets only models forget that can");
        let model = Arc::make_mut(&mut self.model);
        for (row, example) in (0..rows.len()).zip(examples) {
            forget(model, rows.row(row), *example, &mut self.scratch);
        }
    }

    fn quicken(&mut self, factor: f64, examples: f64) {
        let quicken = self.quicken.expect("planning lets only models quicken that can");
        quicken(Arc::make_mut(&mut self.model), factor, examples);
    }

    fn take(&mut self, weights: &mut Weights) -> Result<(), String> {
        let take = self.take.ok_or(NO_WEIGHTS)?;
        take(Arc::make_mut(&mut self.model), weights)
    }

    fn frozen(&self) -> Arc<dyn Predictor> {
        Arc::new(Frozen { model: self.model.clone(), shape: self.shape, outputs: self.outputs })
    }

    fn digest(&self) -> Digest {
        digest::of_value(&(self.shape, &*self.model))
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), String> {
        let (shape, model): (Shape, M) = postcard::from_bytes(snapshot).map_err(|error| error.to_string())?;
        if shape != self.shape || !model.fits(shape) {
            return Err(format!("its rows are not of {:?}", self.shape));
        }
        self.model = Arc::new(model);
        Ok(())
    }
}

struct Frozen<M> {
    model: Arc<M>,
    shape: Shape,
    outputs: usize,
}

impl<M: Model> Predictor for Frozen<M> {
    fn predict(&self, rows: &Matrix, outputs: &mut Vec<f64>) {
        let mut scratch = Vec::new();
        outputs.resize(rows.len() * self.outputs, 0.0);
        for (row, outputs) in (0..).zip(outputs.chunks_exact_mut(self.outputs)) {
            self.model.predict(rows.row(row), outputs, &mut scratch);
        }
    }

    fn tensors(&self) -> Vec<Tensor> {
        self.model.tensors()
    }

    fn explain(&self, names: &Names) -> Explanation {
        self.model.explain(names)
    }

    fn onnx(&self, graph: &mut Graph, rows: &Rows) -> Expressed {
        self.model.onnx(graph, rows)
    }

    fn snapshot(&self) -> Vec<u8> {
        postcard::to_stdvec(&(self.shape, &*self.model)).expect("vectors of numbers can be written to memory")
    }
}
