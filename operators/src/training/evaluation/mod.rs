//! Prequential evaluation: each prediction is judged by the label that came with it, before that was learned.
//!
//! Beside the model stand baselines that look at nothing but earlier labels. A model that does not beat them has
//! learned nothing from its features. All is counted row by row in order, so a checkpoint can hold it.
//!
//! ```text
//! outputs, example ─► judged: one error ─┬─► all rows         model and baselines
//!                                        ├─► the last n rows  model
//!                                        ├─► faded            model; each row counts a little less than the next
//!                                        └─► slices           model; rows with one value in a column
//! ```

mod choice;
mod classification;
mod exact;
mod logarithm;
mod ranking;
mod regression;
mod scopes;

use arrow::array::StringArray;
use millstream_engine::catalogue::{Problem, Problems};
use millstream_engine::operator::Measure;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::models::{Example, Task};
use choice::Choice;
use classification::Classification;
use ranking::Anomalies;
use regression::Regression;

/// How a model is judged, besides by all rows.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvaluationConfig {
    /// Judges the last so many rows, too: 0 (not at all) to 1,000,000.
    pub window: usize,
    /// Judges with each row counting so much of the next, too: 0 (not at all) to 0.999999. With 0.999 it is about the last
    /// thousand rows that count.
    pub fading: f64,
    /// Judges the rows of each value in these columns apart: texts, booleans, whole numbers. Of each column, the first hundred
    /// values are told apart.
    pub by: Vec<String>,
}

impl Default for EvaluationConfig {
    fn default() -> Self {
        Self { window: 0, fading: 0.999, by: Vec::new() }
    }
}

impl EvaluationConfig {
    /// Notes what is out of range, below `evaluate`.
    pub(super) fn check(&self, problems: &mut Problems) {
        let mut refuse = |path: &str, value: String, range: &str| {
            problems.push(Problem::new(path, "out-of-range", format!("{value} is not between {range}")));
        };
        if self.window > 1_000_000 {
            refuse("evaluate.window", self.window.to_string(), "0 and 1000000");
        }
        if !(0.0..=0.999_999).contains(&self.fading) {
            refuse("evaluate.fading", self.fading.to_string(), "0 and 0.999999");
        }
    }
}

/// The measures of one model and its baselines.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Evaluation(Judge);

#[derive(Clone, Debug, Deserialize, Serialize)]
enum Judge {
    /// One of some classes.
    Classification(Box<Classification>),
    /// A number.
    Regression(Box<Regression>),
    /// Which rows are unusual; judged where a label says it.
    Anomalies(Anomalies),
    /// Which action earns most.
    Choice(Choice),
    /// Nothing that can be judged.
    Unjudged,
}

impl Evaluation {
    /// Nothing judged yet.
    pub(super) fn new(task: Task, classes: usize, is_labelled: bool, config: &EvaluationConfig) -> Self {
        Self(match task {
            Task::Classification => Judge::Classification(Box::new(Classification::new(classes, config))),
            Task::Regression => Judge::Regression(Box::new(Regression::new(config))),
            Task::Anomaly if is_labelled => Judge::Anomalies(Anomalies::default()),
            Task::Choice => Judge::Choice(Choice::default()),
            Task::Anomaly | Task::Clustering => Judge::Unjudged,
        })
    }

    /// Whether both judge the same.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        std::mem::discriminant(&self.0) == std::mem::discriminant(&other.0)
    }

    /// Judges outputs given before each of these examples was learned; `slices` holds the texts of the columns by which rows are
    /// judged apart.
    pub(super) fn judge(&mut self, outputs: &[f64], examples: &[Example], slices: &[StringArray]) {
        let Some(width) = outputs.len().checked_div(examples.len()) else { return };
        let rows = outputs.chunks_exact(width.max(1)).zip(examples);
        let texts = |row: usize| slices.iter().map(move |texts| texts.value(row));
        match &mut self.0 {
            Judge::Classification(all) => all.judge(outputs, examples, texts),
            Judge::Regression(all) => {
                rows.enumerate().for_each(|(row, (out, of))| all.judge(out[0], of.target, texts(row)));
            }
            Judge::Anomalies(all) => rows.for_each(|(out, of)| all.judge(out[0], of.target > 0.5)),
            Judge::Choice(all) => rows.for_each(|(out, of)| all.judge(out, of)),
            Judge::Unjudged => {}
        }
    }

    /// The measures so far, always in the same order; none before there is something to judge.
    pub(super) fn measures(&self, slices: &[String]) -> Vec<Measure> {
        let mut measures = Vec::new();
        match &self.0 {
            Judge::Classification(all) => all.measures(slices, &mut measures),
            Judge::Regression(all) => all.measures(slices, &mut measures),
            Judge::Anomalies(all) => all.measures(&mut measures),
            Judge::Choice(all) => all.measures(&mut measures),
            Judge::Unjudged => {}
        }
        measures
    }
}

/// `part / whole`, and 0 where there is nothing to divide by.
fn ratio(part: f64, whole: f64) -> f64 {
    if whole == 0.0 { 0.0 } else { part / whole }
}
