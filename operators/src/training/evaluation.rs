//! Prequential evaluation: each prediction is judged by the label that came with it, before that was learned.
//!
//! Beside the model stand baselines that look at nothing but earlier labels. A model that does not beat them has
//! learned nothing from its features. All is counted row by row in order, so a checkpoint can hold it.

use millstream_engine::operator::Measure;
use serde::{Deserialize, Serialize};

use super::classification::Classification;
use super::regression::Regression;
use crate::models::Task;

/// The measures of one model and its baselines.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) enum Evaluation {
    /// Yes or no.
    Classification(Classification),
    /// A number.
    Regression(Regression),
}

impl Evaluation {
    /// Nothing judged yet.
    pub(super) fn new(task: Task) -> Self {
        match task {
            Task::Classification => Self::Classification(Classification::default()),
            Task::Regression => Self::Regression(Regression::default()),
        }
    }

    /// What it is an evaluation of.
    pub(super) fn task(&self) -> Task {
        match self {
            Self::Classification(_) => Task::Classification,
            Self::Regression(_) => Task::Regression,
        }
    }

    /// Judges predictions made before each of these targets was learned.
    pub(super) fn judge(&mut self, predictions: &[f64], targets: &[f64]) {
        let pairs = predictions.iter().zip(targets);
        match self {
            Self::Classification(evaluation) => pairs.for_each(|(p, target)| evaluation.judge(*p, *target > 0.5)),
            Self::Regression(evaluation) => pairs.for_each(|(y, target)| evaluation.judge(*y, *target)),
        }
    }

    /// The measures so far, always in the same order; none before there is something to judge.
    pub(super) fn measures(&self) -> Vec<Measure> {
        match self {
            Self::Classification(evaluation) => evaluation.measures(),
            Self::Regression(evaluation) => evaluation.measures(),
        }
    }
}

/// `part / whole`, and 0 where there is nothing to divide by.
pub(super) fn ratio(part: f64, whole: f64) -> f64 {
    if whole == 0.0 { 0.0 } else { part / whole }
}
