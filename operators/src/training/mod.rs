//! Training: folds a stream into a model.

mod evaluation;
mod examples;
mod guard;
mod online;
#[cfg(test)]
mod tests;
mod trials;
mod waiting;

use std::sync::Arc;

use arrow::datatypes::{DataType, Schema};
use millstream_engine::batch::{DIFF, with_fields};
use millstream_engine::catalogue::{Kind, Planned, Problem, Problems, StepInput, StepKind, configuration, schema_of};
use millstream_engine::operator::{Folding, MakeFold, Power, Step};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

pub use trials::{STANDING, STANDING_ROWS, Trials, TrialsPlan};

use crate::inference::{FeatureConfig, Features, Outputs, Spec, can_explain};
use crate::models::{self, CLASSES_MAX, Design, Task};
use evaluation::EvaluationConfig;
use examples::Examples;
use guard::{GuardConfig, GuardPlan};
use online::{Online, OnlinePlan};
use waiting::{LaterLabel, WaitingPlan};

/// Learns from each row, after predicting it.
pub static KIND: StepKind = Kind {
    name: "online",
    about: "Learns from each row once, in order, after predicting it.\n\nRows go on with `predicted` (the probability \
            of yes or of the class that was said, or the value) and, for a classifier, `predicted_class`. Features may be of \
            any scale, but not null.",
    schema: schema_of::<TrainingConfig>,
    example: "{label: late, features: [distance, dep_hour], learner: {logistic_regression: {update: ftrl}}}",
    plan,
};

/// What a model learns, from what.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainingConfig {
    /// The column that it learns to tell: a boolean (or 0 and 1), one of `classes`, a number, or an action's reward. Models that
    /// find groups or what is unusual need none.
    pub label: Option<LabelConfig>,
    /// The label's possible values, as text, where it is not yes or no. Other labels are dead letters.
    pub classes: Option<Vec<Value>>,
    /// The columns that it looks at: numbers, booleans, or categories from `hash_category`, `ordinal_category` or `one_hot`;
    /// `{cross: [a, b], buckets: 4096}` is a feature for each combination of categories.
    pub features: Vec<FeatureConfig>,
    /// A column that says how much an example counts, as if it came so often; without it, each counts once.
    pub weight: Option<String>,
    /// For a model that chooses: the column that says which action was taken.
    pub action: Option<String>,
    /// For a model that chooses: the actions that there are.
    pub actions: Option<Vec<Value>>,
    /// For a model that chooses: the column that says with which probability the action was taken.
    pub propensity: Option<String>,
    /// By how many features each answer is explained, those first that matter most for it: what they add to the prediction, beside what
    /// it would be if each alone were as usual. It costs a prediction more for each feature of the model. 0 is none.
    #[serde(default)]
    #[schemars(range(max = 1000))]
    pub explain: u32,
    /// How it is judged, besides by all rows.
    #[serde(default)]
    pub evaluate: EvaluationConfig,
    /// What watches its errors, and what is done when they change.
    #[serde(default)]
    pub drift: Vec<GuardConfig>,
    /// Whether it learns. Without, it answers as what it begins with (`from`) for ever, and rows only judge it.
    #[serde(default = "yes")]
    pub learns: bool,
    /// The kind of model, with its settings.
    #[schemars(schema_with = "models::schema")]
    pub learner: Value,
}

fn yes() -> bool {
    true
}

/// What a model learns to tell.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum LabelConfig {
    /// A column of the same stream.
    Column(String),
    /// A column of another stream, whose records come later.
    Later(LaterLabel),
}

impl LabelConfig {
    /// The column's name.
    pub fn column(&self) -> &str {
        match self {
            Self::Column(name) => name,
            Self::Later(later) => &later.column,
        }
    }
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
    // Which action earns most can be learned without them.
    if config.features.is_empty() && design.as_ref().is_none_or(|design| design.task != Task::Choice) {
        problems.push(Problem::new("features", "no-features", "a model needs at least one feature"));
    }
    if let Some(LabelConfig::Column(label)) = &config.label
        && let Some(at) = config.features.iter().position(|feature| feature.columns().contains(label))
    {
        let message = format!("`{label}` is the label; a request cannot know it");
        problems.push(Problem::new(&format!("features.{at}"), "label-among-features", message));
    }
    config.evaluate.check(&mut problems);
    let slices = slices(&config.evaluate, input, &mut problems);
    let Some(design) = design else {
        // At least the columns that it names are looked up.
        let label = config.label.as_ref().map(|label| label.column().to_owned());
        let told = [&label, &config.weight, &config.action, &config.propensity];
        let is_later = matches!(config.label, Some(LabelConfig::Later(_)));
        for (key, name) in ["label", "weight", "action", "propensity"].into_iter().zip(told).skip(usize::from(is_later))
        {
            name.as_ref().map(|name| problems.take(input.column(key, name)));
        }
        return Err(problems.0);
    };
    if config.learns && !design.learns {
        let message = format!("`{}` only answers", design.kind);
        let help = "write `learns: false`, and which file it is: `from: {file: model.onnx}`";
        problems.push(Problem::new("learns", "learns-nothing", message).help(help));
    }
    let outputs = outputs(&config, &design, &mut problems);
    let told = Examples::plan(input, &config, design.task, &outputs, &mut problems);
    let explain = config.explain as usize;
    if explain > 0 && !can_explain(design.task) {
        let message = format!("what `{}` says is no single number that features could add to", design.kind);
        problems.push(Problem::new("explain", "bad-value", message).help("leave it out"));
    }
    let guards = problems.take_all(GuardPlan::plan_all(&config.drift, &design, config.learns));
    let number = |value: &Value| Examples::constant(value, design.task, &outputs);
    let waiting = match &config.label {
        Some(LabelConfig::Later(later)) => problems.take_all(WaitingPlan::plan(later, input, number)),
        _ => None,
    };
    let takes_changes = design.forgets && waiting.is_none() && config.drift.is_empty();
    let added = outputs.training_fields();
    for field in added.iter().filter(|field| input.schema.index_of(field.name()).is_ok()) {
        let message = format!("the stream already has a column `{}`, which the model adds", field.name());
        problems.push(Problem::new("", "name-clash", message).help("rename that column"));
    }
    problems.finish()?;
    let Some(features) = features else { unreachable!("what is missing has left a problem") };
    let Some(guards) = guards else { unreachable!("what is missing has left a problem") };
    let mut evaluation = config.evaluate;
    let others = match &config.label {
        // By how long it took, too.
        Some(LabelConfig::Later(later)) => {
            evaluation.by.push("label after".to_owned());
            vec![later.from.clone()]
        }
        _ => Vec::new(),
    };
    // A prediction is made once, when the row comes: what goes on is never taken back.
    let kept: Vec<_> = input.schema.fields().iter().filter(|field| field.name() != DIFF).cloned().collect();
    let schema = with_fields(&Schema::new_with_metadata(kept, input.schema.metadata().clone()), added);
    let label = config.label.map(|label| label.column().to_owned());
    let spec = Arc::new(Spec { design, features, label, outputs });
    let learns = config.learns;
    let plan = OnlinePlan { spec, told, evaluation, slices, guards, waiting, learns, explain, schema: schema.clone() };
    let make: MakeFold = Arc::new(move || Box::new(Online::new(plan.clone())));
    Ok(Step { schema, others, power: Power::Fold(Folding { make, takes_changes, begun: None }) })
}

/// The columns by which rows are judged apart.
fn slices(config: &EvaluationConfig, input: &StepInput<'_>, problems: &mut Problems) -> Vec<usize> {
    let mut slices = Vec::new();
    for (at, name) in config.by.iter().enumerate() {
        let path = format!("evaluate.by.{at}");
        let Some(column) = problems.take(input.column(&path, name)) else { continue };
        let kind = input.schema.field(column).data_type();
        if !(kind == &DataType::Utf8 || kind == &DataType::Boolean || kind.is_integer()) {
            let message = format!("`{name}` is {kind}, which has too many values");
            let help = "derive a text, a boolean or a whole number from it";
            problems.push(Problem::new(&path, "slice-type", message).help(help));
        }
        slices.push(column);
    }
    slices
}

/// What a model's outputs stand for: checks the names of classes or actions.
fn outputs(config: &TrainingConfig, design: &Design, problems: &mut Problems) -> Outputs {
    let (key, listed) = match design.task {
        Task::Choice => ("actions", &config.actions),
        _ => ("classes", &config.classes),
    };
    for (key, listed, task) in
        [("classes", &config.classes, Task::Classification), ("actions", &config.actions, Task::Choice)]
    {
        if listed.is_some() && design.task != task {
            let message = format!("`{}` takes no `{key}`", design.kind);
            problems.push(Problem::new(key, "bad-value", message).help("leave it out, or use another learner"));
        }
    }
    if design.task == Task::Choice && listed.is_none() {
        let message = "`actions` is missing: the model chooses among them";
        problems.push(Problem::new("actions", "needed-by-learner", message).help("list them: `actions: [a, b]`"));
    }
    let names = listed.iter().flatten().map(name).collect::<Vec<_>>();
    if listed.is_some() && !(2..=CLASSES_MAX).contains(&names.len()) {
        let message = format!("{} are listed, and there have to be 2 to {CLASSES_MAX}", names.len());
        problems.push(Problem::new(key, "out-of-range", message));
    }
    for (at, twice) in names.iter().enumerate().filter(|(at, name)| names[..*at].contains(name)) {
        problems.push(Problem::new(&format!("{key}.{at}"), "duplicate-class", format!("`{twice}` is listed twice")));
    }
    if design.task == Task::Classification && names.len() > design.classes_max {
        let message = format!("`{}` tells {} classes apart, not {}", design.kind, design.classes_max, names.len());
        let help = "put it into `one_vs_rest: {of: ...}`, or use a learner for several classes";
        problems.push(Problem::new("classes", "too-many-classes", message).help(help));
    }
    Outputs::new(design.task, names)
}

/// A class as text: numbers and booleans may be written as such.
fn name(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
