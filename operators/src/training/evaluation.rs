//! Prequential evaluation: each prediction is judged by the label that came with it, before that was learned.
//!
//! Beside the model stand baselines that look at nothing but earlier labels. A model that does not beat them has
//! learned nothing from its features. All is counted row by row in order, so a checkpoint can hold it.

use millstream_engine::operator::Measure;
use serde::{Deserialize, Serialize};

use super::classification::Classification;
use super::regression::Regression;
use crate::models::{Example, Task};

/// The measures of one model and its baselines.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) enum Evaluation {
    /// Yes or no.
    Classification(Classification),
    /// A number.
    Regression(Regression),
    /// Nothing that can be judged.
    Unjudged,
}

impl Evaluation {
    /// Nothing judged yet.
    pub(super) fn new(task: Task, classes: usize) -> Self {
        match task {
            Task::Classification if classes <= 2 => Self::Classification(Classification::default()),
            Task::Regression => Self::Regression(Regression::default()),
            _ => Self::Unjudged,
        }
    }

    /// Judges outputs given before each of these examples was learned.
    pub(super) fn judge(&mut self, outputs: &[f64], examples: &[Example]) {
        let pairs = outputs.iter().zip(examples);
        match self {
            Self::Classification(evaluation) => {
                pairs.for_each(|(p, example)| evaluation.judge(*p, example.target > 0.5))
            }
            Self::Regression(evaluation) => pairs.for_each(|(y, example)| evaluation.judge(*y, example.target)),
            Self::Unjudged => {}
        }
    }

    /// The measures so far, always in the same order; none before there is something to judge.
    pub(super) fn measures(&self) -> Vec<Measure> {
        match self {
            Self::Classification(evaluation) => evaluation.measures(),
            Self::Regression(evaluation) => evaluation.measures(),
            Self::Unjudged => Vec::new(),
        }
    }
}

/// `part / whole`, and 0 where there is nothing to divide by.
pub(super) fn ratio(part: f64, whole: f64) -> f64 {
    if whole == 0.0 { 0.0 } else { part / whole }
}
