//! Training: folds a stream into a model.

mod classification;
mod evaluation;
mod label;
mod online;
mod regression;
#[cfg(test)]
mod speed;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use millstream_engine::batch::with_fields;
use millstream_engine::catalogue::{Kind, Planned, Problem, Problems, StepInput, StepKind, configuration, schema_of};
use millstream_engine::operator::{Power, Step};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use crate::inference::{Features, Spec};
use crate::models::{self, Task};
use label::Label;
use online::Online;

/// The column of what the model predicted before it learned the row: the probability of yes, or the value.
pub const PREDICTED: &str = "predicted";
/// The column of the class that the model predicted.
pub const PREDICTED_CLASS: &str = "predicted_class";

/// Learns from each row, after predicting it.
pub static KIND: StepKind = Kind {
    name: "online",
    about: "Learns from each row once, in order, after predicting it.\n\nRows go on with `predicted` (the probability \
            of yes, or the value) and, for a classifier, `predicted_class`. Features may be of any scale, but not null.",
    schema: schema_of::<TrainingConfig>,
    example: "{label: late, features: [distance, dep_hour], learner: {logistic_regression: {update: ftrl}}}",
    plan,
};

/// What a model learns, from what.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainingConfig {
    /// The column that it learns to tell: a boolean (or 0 and 1) for classifiers, a number for regressions.
    pub label: String,
    /// The columns that it looks at: numbers, booleans, or categories from `hash_category` or `one_hot`.
    pub features: Vec<String>,
    /// The kind of model, with its settings.
    #[schemars(schema_with = "models::schema")]
    pub learner: Value,
}

/// Checks a model's configuration against its stream.
pub fn plan(value: &Value, input: &StepInput<'_>) -> Planned<Step> {
    let config: TrainingConfig = configuration(value)?;
    let mut problems = Problems::default();
    let design = problems.take_all(
        models::plan(&config.learner)
            .map_err(|problems| problems.into_iter().map(|problem| problem.under("learner")).collect()),
    );
    let features = problems.take_all(Features::plan(input.schema, &config.features));
    if let Some(at) = config.features.iter().position(|name| *name == config.label) {
        let message = format!("`{}` is the label; a request cannot know it", config.label);
        problems.push(Problem::new(&format!("features.{at}"), "label-among-features", message));
    }
    let label = match &design {
        Some(design) => problems.take(Label::plan(input.schema, &config.label, design.task)),
        None => problems.take(input.column("label", &config.label)).and(None),
    };
    let mut added = vec![Field::new(PREDICTED, DataType::Float64, true)];
    if design.as_ref().is_some_and(|design| design.task == Task::Classification) {
        added.push(Field::new(PREDICTED_CLASS, DataType::Boolean, true));
    }
    for field in added.iter().filter(|field| input.schema.index_of(field.name()).is_ok()) {
        let message = format!("the stream already has a column `{}`, which the model adds", field.name());
        problems.push(Problem::new("", "name-clash", message).help("rename that column"));
    }
    problems.finish()?;
    let (Some(design), Some(features), Some(label)) = (design, features, label) else {
        unreachable!("what is missing has left a problem")
    };
    let schema = with_fields(input.schema, added);
    let spec = Arc::new(Spec { design, features, label: config.label });
    let output = schema.clone();
    let power = Power::fold(move || Online::new(spec.clone(), label.clone(), output.clone()));
    Ok(Step { schema, others: Vec::new(), power })
}
