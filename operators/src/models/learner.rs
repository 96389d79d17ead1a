//! Batches of rows, and models with their types hidden behind them.

use std::sync::Arc;

use super::{Model, Row, Shape, Tensor};

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

    /// A row.
    #[inline]
    pub fn row(&self, row: usize) -> Row<'_> {
        let Shape { dense, active, .. } = self.shape;
        Row { dense: &self.dense[row * dense..][..dense], active: &self.active[row * active..][..active] }
    }
}

/// A [`Model`] that learns in batches, its type hidden.
pub trait Learner: Send + 'static {
    /// Learns the rows one after the other; `predictions` gets what was predicted just before each.
    fn learn(&mut self, rows: &Matrix, targets: &[f64], predictions: &mut Vec<f64>);

    /// An immutable copy of the present state. It is made when learning goes on, and only while someone holds this.
    fn frozen(&self) -> Arc<dyn Predictor>;

    /// The whole state.
    fn snapshot(&self) -> Vec<u8>;

    /// Takes over a state from [`Learner::snapshot`], or says why it cannot.
    fn restore(&mut self, snapshot: &[u8]) -> Result<(), String>;
}

/// A [`Model`] that does not change any more, its type hidden.
pub trait Predictor: Send + Sync + 'static {
    /// A prediction for each row.
    fn predict(&self, rows: &Matrix, predictions: &mut Vec<f64>);

    /// What is needed to predict.
    fn tensors(&self) -> Vec<Tensor>;
}

/// Hides a model's type outside the loop over its rows.
pub(super) struct Erased<M> {
    model: Arc<M>,
    shape: Shape,
    scratch: Vec<f64>,
}

impl<M: Model> Erased<M> {
    pub(super) fn boxed(model: M, shape: Shape) -> Box<dyn Learner> {
        Box::new(Self { model: Arc::new(model), shape, scratch: Vec::new() })
    }
}

impl<M: Model> Learner for Erased<M> {
    fn learn(&mut self, rows: &Matrix, targets: &[f64], predictions: &mut Vec<f64>) {
        let model = Arc::make_mut(&mut self.model);
        let scratch = &mut self.scratch;
        predictions.clear();
        predictions
            .extend((0..rows.len()).zip(targets).map(|(row, target)| model.learn(rows.row(row), *target, scratch)));
    }

    fn frozen(&self) -> Arc<dyn Predictor> {
        Arc::new(Frozen(self.model.clone()))
    }

    fn snapshot(&self) -> Vec<u8> {
        postcard::to_stdvec(&*self.model).expect("vectors of numbers can be written to memory")
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), String> {
        let model: M = postcard::from_bytes(snapshot).map_err(|error| error.to_string())?;
        if !model.fits(self.shape) {
            return Err(format!("its rows are not of {:?}", self.shape));
        }
        self.model = Arc::new(model);
        Ok(())
    }
}

struct Frozen<M>(Arc<M>);

impl<M: Model> Predictor for Frozen<M> {
    fn predict(&self, rows: &Matrix, predictions: &mut Vec<f64>) {
        let mut scratch = Vec::new();
        predictions.clear();
        predictions.extend((0..rows.len()).map(|row| self.0.predict(rows.row(row), &mut scratch)));
    }

    fn tensors(&self) -> Vec<Tensor> {
        self.0.tensors()
    }
}
