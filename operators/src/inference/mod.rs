//! Answers requests with a revision.
//!
//! Features are read by the very code that training uses ([`Features`]), so a request is seen as an example would be.

mod artefacts;
mod features;
mod narrow;
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

use crate::models::onnx::{Fitting, Slot};
use crate::models::{Design, Matrix, Names, Predictor, Shape};

pub use artefacts::{ONNX, WEIGHTS, read_weights};
pub use features::{CATEGORIES, Feature, FeatureConfig, Features, Place, is_number};
pub use narrow::{Bits, Narrowed, Narrowing, narrow};
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

    /// What a model of others has to fit.
    pub fn fitting(&self) -> Fitting {
        let slot = |place: Place| match place {
            Place::Number(slot) => Slot::Number(slot),
            Place::Category { slot, offset, .. } => Slot::Category(slot, offset),
        };
        let features =
            self.features.columns().iter().map(|feature| (feature.name.clone(), slot(feature.place))).collect();
        Fitting { features, classes: self.outputs.names(), is_yes_or_no: self.outputs.is_yes_or_no() }
    }

    /// What a model says of the rows that were not rejected. A model of others may say nothing of some: these are rejected, too.
    pub fn say(
        &self,
        predictor: &dyn Predictor,
        all: &RecordBatch,
        rejects: &mut Rejects,
        matrix: &mut Matrix,
        outputs: &mut Vec<f64>,
    ) -> Result<RecordBatch> {
        loop {
            let rows = accepted(all, rejects)?;
            self.features.read(&rows, matrix)?;
            predictor.predict(matrix, outputs);
            let said = |outputs: &[f64]| outputs.iter().all(|value| value.is_finite());
            let mut said = outputs.chunks_exact(self.outputs.width()).map(said);
            if self.design.learns || said.clone().all(|is_said| is_said) {
                return Ok(rows);
            }
            let keep = rejects.keep(all.num_rows());
            for row in (0..all.num_rows()).filter(|row| keep.value(*row)) {
                if said.next() == Some(false) {
                    rejects.push(row, SILENT);
                }
            }
        }
    }
}

/// Why a row gets no answer of a model of others.
const SILENT: &str = "the model's file gives no number, or no probability, for this row";

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
        let (mut matrix, mut outputs) = (Matrix::new(self.spec.shape()), Vec::new());
        let rows = self.spec.say(&*self.predictor, rows, rejects, &mut matrix, &mut outputs)?;
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
