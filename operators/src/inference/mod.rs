//! Answers requests with a revision.
//!
//! Features are read by the very code that training uses ([`Features`]), so a request is seen as an example would be.

mod artefacts;
mod features;

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Float64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use millstream_engine::Result;
use millstream_engine::batch::filter;
use millstream_engine::operator::{Answer, Rejects};

use crate::models::{Design, Matrix, Predictor, Task, class};

pub use artefacts::{METADATA, WEIGHTS};
pub use features::{CATEGORIES, Feature, Features, Place, is_number};

/// What a model is, apart from what it has learned.
pub struct Spec {
    /// The kind of model, with its settings.
    pub design: Design,
    /// What it looks at.
    pub features: Features,
    /// The column that it learns to tell.
    pub label: String,
}

/// A model as it was after some number of examples; answers with `prediction` (and `probability`).
pub struct Revision {
    spec: Arc<Spec>,
    predictor: Arc<dyn Predictor>,
    examples: u64,
    schema: SchemaRef,
}

impl Revision {
    /// A revision from a frozen model.
    pub fn new(spec: Arc<Spec>, predictor: Arc<dyn Predictor>, examples: u64) -> Self {
        let schema = answer_schema(spec.design.task);
        Self { spec, predictor, examples, schema }
    }
}

/// The columns of an answer.
pub fn answer_schema(task: Task) -> SchemaRef {
    let fields = match task {
        Task::Classification => vec![
            Field::new("prediction", DataType::Boolean, false),
            Field::new("probability", DataType::Float64, false),
        ],
        Task::Regression => vec![Field::new("prediction", DataType::Float64, false)],
    };
    Arc::new(Schema::new(fields))
}

/// The classes that probabilities stand for.
pub fn classes(probabilities: &[f64]) -> BooleanArray {
    probabilities.iter().map(|probability| Some(class(*probability))).collect()
}

/// The rows that were not rejected.
pub fn accepted(rows: &RecordBatch, rejects: &Rejects) -> Result<RecordBatch> {
    if rejects.is_empty() { Ok(rows.clone()) } else { filter(rows, &rejects.keep(rows.num_rows())) }
}

impl Answer for Revision {
    fn answer(&self, rows: &RecordBatch, rejects: &mut Rejects) -> Result<RecordBatch> {
        let Spec { features, design, .. } = &*self.spec;
        features.check(rows, rejects)?;
        let (mut matrix, mut predictions) = (Matrix::new(features.shape()), Vec::new());
        features.read(&accepted(rows, rejects)?, &mut matrix)?;
        self.predictor.predict(&matrix, &mut predictions);
        let mut columns: Vec<ArrayRef> = Vec::new();
        if design.task == Task::Classification {
            columns.push(Arc::new(classes(&predictions)));
        }
        columns.push(Arc::new(Float64Array::from(predictions)));
        Ok(RecordBatch::try_new(self.schema.clone(), columns)?)
    }

    fn artefacts(&self) -> Result<Vec<(String, Vec<u8>)>> {
        artefacts::write(&self.spec, &*self.predictor, self.examples)
    }
}
