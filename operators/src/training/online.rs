//! The fold: predict, judge, learn, row by row in order.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch};
use arrow::datatypes::SchemaRef;
use millstream_engine::operator::{Answer, Fold, Measure, Rejects};
use millstream_engine::{Fault, Result};
use serde::{Deserialize, Serialize};

use super::evaluation::Evaluation;
use super::label::Label;
use crate::inference::{Revision, Spec, accepted, classes};
use crate::models::{Learner, Matrix, Task};

/// A model that learns.
pub(super) struct Online {
    spec: Arc<Spec>,
    label: Label,
    /// The output's.
    schema: SchemaRef,
    learner: Box<dyn Learner>,
    evaluation: Evaluation,
    examples: u64,
    buffers: Buffers,
}

/// Reused from batch to batch.
struct Buffers {
    matrix: Matrix,
    targets: Vec<f64>,
    predictions: Vec<f64>,
}

/// A stored fold.
#[derive(Deserialize, Serialize)]
struct State {
    /// What the model is, to tell a state of another one.
    spec: String,
    examples: u64,
    learner: Vec<u8>,
    evaluation: Evaluation,
}

impl Online {
    pub(super) fn new(spec: Arc<Spec>, label: Label, schema: SchemaRef) -> Self {
        let shape = spec.features.shape();
        Self {
            learner: (spec.design.make)(shape),
            evaluation: Evaluation::new(spec.design.task),
            buffers: Buffers { matrix: Matrix::new(shape), targets: Vec::new(), predictions: Vec::new() },
            spec,
            label,
            schema,
            examples: 0,
        }
    }

    fn output(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        let predictions = &self.buffers.predictions;
        let mut columns: Vec<ArrayRef> = rows.columns().to_vec();
        columns.push(Arc::new(Float64Array::from(predictions.clone())));
        if self.spec.design.task == Task::Classification {
            columns.push(Arc::new(classes(predictions)));
        }
        Ok(RecordBatch::try_new(self.schema.clone(), columns)?)
    }
}

impl Fold for Online {
    fn learn(&mut self, rows: &RecordBatch, rejects: &mut Rejects) -> Result<RecordBatch> {
        let Buffers { matrix, targets, predictions } = &mut self.buffers;
        self.spec.features.check(rows, rejects)?;
        self.label.read(rows, targets, rejects)?;
        if !rejects.is_empty() {
            let keep = rejects.keep(rows.num_rows());
            let mut row = 0..rows.num_rows();
            targets.retain(|_| row.next().is_some_and(|row| keep.value(row)));
        }
        let rows = accepted(rows, rejects)?;
        self.spec.features.read(&rows, matrix)?;
        self.learner.learn(matrix, targets, predictions);
        self.evaluation.judge(predictions, targets);
        self.examples += rows.num_rows() as u64;
        self.output(&rows)
    }

    fn examples(&self) -> u64 {
        self.examples
    }

    fn revision(&self) -> Arc<dyn Answer> {
        Arc::new(Revision::new(self.spec.clone(), self.learner.frozen(), self.examples))
    }

    fn measures(&self) -> Vec<Measure> {
        self.evaluation.measures()
    }

    fn snapshot(&self) -> Vec<u8> {
        let state = State {
            spec: self.spec.describe().to_string(),
            examples: self.examples,
            learner: self.learner.snapshot(),
            evaluation: self.evaluation.clone(),
        };
        postcard::to_stdvec(&state).expect("numbers and strings can be written to memory")
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<()> {
        let refused =
            |why: String| Fault::world(format!("the stored state of the model of `{}` {why}", self.spec.label));
        let state: State =
            postcard::from_bytes(snapshot).map_err(|error| refused("is damaged".to_owned()).because(error))?;
        let spec = self.spec.describe().to_string();
        if state.spec != spec || state.evaluation.task() != self.spec.design.task {
            return Err(refused(format!("is of another model: stored {}, wanted {spec}", state.spec)));
        }
        self.learner.restore(&state.learner).map_err(|why| refused(format!("is damaged: {why}")))?;
        self.evaluation = state.evaluation;
        self.examples = state.examples;
        Ok(())
    }
}
