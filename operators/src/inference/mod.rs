//! Answers requests with a revision.
//!
//! Features are read by the very code that training uses ([`Features`]), so a request is seen as an example would be.

mod artefacts;
mod features;
mod outputs;
pub mod policies;
mod reasons;
mod saved;

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use millstream_engine::Result;
use millstream_engine::batch::filter;
use millstream_engine::operator::{Answer, Rejects};

use crate::models::{Design, Matrix, Names, Predictor, Shape};

pub use artefacts::{ONNX, WEIGHTS, read_weights};
pub use features::{CATEGORIES, Feature, FeatureConfig, Features, Place, is_number};
pub use outputs::{Outputs, PREDICTED, PREDICTED_ACTION, PREDICTED_CLASS};
pub use reasons::{BECAUSE, Usual, can_explain};
pub use saved::{STATE, Saved};

/// What a model is, apart from what it has learned.
pub struct Spec {
    /// The kind of model, with its settings.
    pub design: Design,
    /// What it looks at.
    pub features: Features,
    /// The column that it learns to tell, if it needs one.
    pub label: Option<String>,
    /// What its outputs stand for.
    pub outputs: Outputs,
}

impl Spec {
    /// The shape of its rows.
    pub fn shape(&self) -> Shape {
        Shape { classes: self.outputs.classes(), ..self.features.shape() }
    }

    /// What the places of its rows are called.
    pub fn names(&self) -> Names {
        Names { classes: self.outputs.names(), ..self.features.names() }
    }
}

/// A model as it was after some number of examples.
pub struct Revision {
    spec: Arc<Spec>,
    predictor: Arc<dyn Predictor>,
    examples: u64,
    /// What rows usually look like, and by how many features answers are explained.
    explains: Option<(Usual, usize)>,
    schema: SchemaRef,
}

impl Revision {
    /// A revision from a frozen model.
    pub fn new(spec: Arc<Spec>, predictor: Arc<dyn Predictor>, examples: u64) -> Self {
        let schema = Arc::new(Schema::new(spec.outputs.answer_fields()));
        Self { spec, predictor, examples, explains: None, schema }
    }

    /// The same, with answers that say what the features that matter most add to them.
    #[must_use]
    pub fn explaining(self, usual: Usual, most: usize) -> Self {
        let fields = self.schema.fields().iter().map(|field| field.as_ref().clone()).chain([reasons::field()]);
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        Self { explains: Some((usual, most)), schema, ..self }
    }
}

/// The rows that were not rejected.
pub fn accepted(rows: &RecordBatch, rejects: &Rejects) -> Result<RecordBatch> {
    if rejects.is_empty() { Ok(rows.clone()) } else { filter(rows, &rejects.keep(rows.num_rows())) }
}

impl Answer for Revision {
    fn answer(&self, rows: &RecordBatch, rejects: &mut Rejects) -> Result<RecordBatch> {
        let Spec { features, outputs: meaning, .. } = &*self.spec;
        features.check(rows, rejects)?;
        let rows = accepted(rows, rejects)?;
        let (mut matrix, mut outputs) = (Matrix::new(self.spec.shape()), Vec::new());
        features.read(&rows, &mut matrix)?;
        self.predictor.predict(&matrix, &mut outputs);
        let mut columns = meaning.answer_columns(&rows, self.examples, &outputs);
        if let Some((usual, most)) = &self.explains {
            columns.push(reasons::reasons(&self.spec, &*self.predictor, (usual, *most), &matrix, &outputs));
        }
        Ok(RecordBatch::try_new(self.schema.clone(), columns)?)
    }

    fn artefacts(&self) -> Result<Vec<(String, Vec<u8>)>> {
        artefacts::write(&self.spec, &*self.predictor, self.examples)
    }
}
