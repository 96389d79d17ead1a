//! The fold: predict, judge, learn, row by row in order.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use millstream_engine::operator::{Answer, Fold, Measure, Rejects};
use millstream_engine::{Fault, Result};
use serde::{Deserialize, Serialize};

use super::evaluation::Evaluation;
use super::examples::Examples;
use crate::inference::{Revision, Spec, accepted};
use crate::models::{Example, Learner, Matrix};

/// A model that learns.
pub(super) struct Online {
    spec: Arc<Spec>,
    told: Examples,
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
    examples: Vec<Example>,
    outputs: Vec<f64>,
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
    pub(super) fn new(spec: Arc<Spec>, told: Examples, schema: SchemaRef) -> Self {
        let shape = spec.shape();
        Self {
            learner: (spec.design.make)(shape),
            evaluation: Evaluation::new(spec.design.task, shape.classes),
            buffers: Buffers { matrix: Matrix::new(shape), examples: Vec::new(), outputs: Vec::new() },
            spec,
            told,
            schema,
            examples: 0,
        }
    }

    fn output(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        let Buffers { outputs, examples, .. } = &self.buffers;
        let mut columns = rows.columns().to_vec();
        columns.extend(self.spec.outputs.training_columns(outputs, examples));
        Ok(RecordBatch::try_new(self.schema.clone(), columns)?)
    }
}

impl Fold for Online {
    fn learn(&mut self, rows: &RecordBatch, rejects: &mut Rejects) -> Result<RecordBatch> {
        let Buffers { matrix, examples, outputs } = &mut self.buffers;
        self.spec.features.check(rows, rejects)?;
        self.told.read(rows, examples, rejects)?;
        if !rejects.is_empty() {
            let keep = rejects.keep(rows.num_rows());
            let mut row = 0..rows.num_rows();
            examples.retain(|_| row.next().is_some_and(|row| keep.value(row)));
        }
        let rows = accepted(rows, rejects)?;
        self.spec.features.read(&rows, matrix)?;
        self.learner.learn(matrix, examples, outputs);
        self.evaluation.judge(outputs, examples);
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
            |why: String| Fault::world(format!("the stored state of a model ({}) {why}", self.spec.design.kind));
        let state: State =
            postcard::from_bytes(snapshot).map_err(|error| refused("is damaged".to_owned()).because(error))?;
        let spec = self.spec.describe().to_string();
        let is_alike = std::mem::discriminant(&state.evaluation) == std::mem::discriminant(&self.evaluation);
        if state.spec != spec || !is_alike {
            return Err(refused(format!("is of another model: stored {}, wanted {spec}", state.spec)));
        }
        self.learner.restore(&state.learner).map_err(|why| refused(format!("is damaged: {why}")))?;
        self.evaluation = state.evaluation;
        self.examples = state.examples;
        Ok(())
    }
}
