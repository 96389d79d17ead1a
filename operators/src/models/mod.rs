//! Models: pure arithmetic over rows of numbers, one example at a time.
//!
//! Here is no Arrow, no file and no clock; the exponential and the logarithm come from `libm`, so the same
//! examples in the same order give the same bits on every machine.
//!
//! A model is a [`Model`]; its file adds a [`ModelKind`] to [`KINDS`]. The loop over a batch is monomorphic:
//! types are erased around it, at [`Learner`] and [`Predictor`].

pub mod adaptive_random_forest;
pub mod adaptive_random_forest_regressor;
pub mod alma;
pub mod anytime;
pub mod autoencoder;
mod bandit;
mod bayes;
pub mod bernoulli_naive_bayes;
pub mod champion;
mod composite;
mod discriminant;
pub mod drift;
pub mod epsilon_greedy;
pub mod exp3;
mod factorization;
mod factorization_machine;
pub mod factorization_machine_classifier;
pub mod factorization_machine_regressor;
#[cfg(test)]
mod forgetting;
pub mod gaussian_naive_bayes;
pub mod half_space_trees;
pub mod hoeffding_adaptive_tree;
pub mod hoeffding_tree;
pub mod hoeffding_tree_regressor;
pub mod k_means;
pub mod learner;
pub mod leveraging_bagging;
mod linear;
pub mod linear_discriminant;
pub mod linear_regression;
pub mod linear_svm;
pub mod linear_ucb;
pub mod logistic_regression;
pub mod matrix_factorization;
pub mod mean;
pub mod multinomial_naive_bayes;
pub mod nearest_neighbors;
pub mod nearest_neighbors_regression;
mod neighbors;
mod network;
pub mod neural_network;
pub mod neural_network_regressor;
pub mod one_vs_rest;
pub mod online_bagging;
pub mod onnx;
mod packed;
pub mod passive_aggressive;
pub mod passive_aggressive_regression;
#[cfg(test)]
mod properties;
pub mod quadratic_discriminant;
mod random;
mod ranges;
pub mod ridge_regression;
pub mod robust_random_cut_forest;
#[cfg(test)]
pub(crate) mod samples;
pub mod softmax_regression;
mod spread;
pub mod stack;
pub mod streaming_gradient_boosted_trees;
pub mod streaming_random_patches;
mod sums;
mod symmetric;
pub mod thompson_sampling;
mod trees;
pub mod vote;
mod weights;

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use millstream_engine::catalogue::{Kind, Planned, Problem};
use millstream_engine::processes::Helper;
use schemars::{Schema, SchemaGenerator};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

pub use learner::{Happening, Learner, Matrix, Predictor};
use onnx::{Expressed, Graph, Rows};
pub use weights::Weights;

/// All models.
pub static KINDS: &[&ModelKind] = &[
    &adaptive_random_forest::KIND,
    &adaptive_random_forest_regressor::KIND,
    &alma::KIND,
    &autoencoder::KIND,
    &bernoulli_naive_bayes::KIND,
    &champion::KIND,
    &epsilon_greedy::KIND,
    &exp3::KIND,
    &factorization_machine_classifier::KIND,
    &factorization_machine_regressor::KIND,
    &gaussian_naive_bayes::KIND,
    &half_space_trees::KIND,
    &hoeffding_adaptive_tree::KIND,
    &hoeffding_tree::KIND,
    &hoeffding_tree_regressor::KIND,
    &k_means::KIND,
    &leveraging_bagging::KIND,
    &linear_discriminant::KIND,
    &linear_regression::KIND,
    &linear_svm::KIND,
    &linear_ucb::KIND,
    &logistic_regression::KIND,
    &matrix_factorization::KIND,
    &mean::KIND,
    &multinomial_naive_bayes::KIND,
    &nearest_neighbors::KIND,
    &nearest_neighbors_regression::KIND,
    &neural_network::KIND,
    &neural_network_regressor::KIND,
    &one_vs_rest::KIND,
    &online_bagging::KIND,
    &onnx::KIND,
    &passive_aggressive::KIND,
    &passive_aggressive_regression::KIND,
    &quadratic_discriminant::KIND,
    &ridge_regression::KIND,
    &robust_random_cut_forest::KIND,
    &softmax_regression::KIND,
    &stack::KIND,
    &streaming_gradient_boosted_trees::KIND,
    &streaming_random_patches::KIND,
    &thompson_sampling::KIND,
    &vote::KIND,
];

/// A model's entry; its plan checks the hyper-parameters.
pub type ModelKind = Kind<fn(&Value) -> Planned<Design>>;

/// What a model learns to tell, and so what its outputs are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// One of some classes: of two, the output is the probability of the second one (yes); of more, those of all.
    Classification,
    /// A number.
    Regression,
    /// How unusual a row is, from 0 (usual) to 1. Targets are not looked at.
    Anomaly,
    /// Which group a row belongs to: the outputs are its number, and the distance from its centre. Targets are not looked at.
    Clustering,
    /// Which of some actions promises most: the outputs are the probabilities with which it chooses each of them.
    /// Examples say which action was taken ([`Example::action`]), and the target is its reward.
    Choice,
}

impl Task {
    /// How many outputs there are for a row, where there are so many classes (or actions).
    pub fn outputs(self, classes: usize) -> usize {
        match self {
            Self::Classification if classes <= 2 => 1,
            Self::Classification | Self::Choice => classes,
            Self::Regression | Self::Anomaly => 1,
            Self::Clustering => 2,
        }
    }

    /// Whether there is something that examples say, and the model has to learn to tell.
    pub fn is_supervised(self) -> bool {
        !matches!(self, Self::Anomaly | Self::Clustering)
    }
}

/// What a row of features looks like, and among how many classes is chosen.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Shape {
    /// How many numbers a row has.
    pub dense: usize,
    /// How many categories a row is in: one of each categorical column.
    pub active: usize,
    /// How many categories there are, over all columns.
    pub categories: usize,
    /// How many classes (or actions) there are; 0 where nothing is chosen.
    pub classes: usize,
}

/// One row of features.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// The numbers, all finite.
    pub dense: &'a [f64],
    /// The categories that the row is in, each below [`Shape::categories`] and none twice.
    pub active: &'a [u32],
}

/// What there is to learn from a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Example {
    /// The index of the class, the number, or the reward: finite, at most [`TARGET_MAX`] in magnitude.
    pub target: f64,
    /// How much it counts, as if it came so often: finite, not negative. What counts 0 is predicted, and teaches nothing.
    pub weight: f64,
    /// The action that was taken; 0 where there are none.
    pub action: u32,
    /// The probability with which it was taken; 1 where nobody knows.
    pub propensity: f64,
}

impl Example {
    /// One that counts once, without an action.
    pub fn of(target: f64) -> Self {
        Self { target, weight: 1.0, action: 0, propensity: 1.0 }
    }
}

/// A named array of a model's numbers, for artefacts.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Unique in its model: `weights`, `trees/3/thresholds`.
    pub name: Cow<'static, str>,
    /// Its lengths in each direction, the slowest first.
    pub shape: Vec<usize>,
    /// The numbers, as many as the product of the lengths.
    pub values: Vec<f64>,
}

impl Tensor {
    /// A row of numbers.
    pub fn row(name: impl Into<Cow<'static, str>>, values: Vec<f64>) -> Self {
        Self { name: name.into(), shape: vec![values.len()], values }
    }

    /// Rows of numbers, all of one length.
    pub fn table(name: impl Into<Cow<'static, str>>, rows: usize, values: Vec<f64>) -> Self {
        let columns = values.len() / rows.max(1);
        Self { name: name.into(), shape: vec![rows, columns], values }
    }
}

/// What the places of a row are called.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Names {
    /// Of each number, its column.
    pub dense: Vec<String>,
    /// Of each column of categories, its name and its first category.
    pub categories: Vec<(String, u32)>,
    /// Of each class or action.
    pub classes: Vec<String>,
}

impl Names {
    /// The name of an action.
    pub fn action(&self, action: usize) -> String {
        self.classes.get(action).cloned().unwrap_or_else(|| format!("action {action}"))
    }

    /// The name of a category: its column, and its code there.
    pub fn category(&self, category: u32) -> String {
        match self.categories.iter().rfind(|(_, first)| *first <= category) {
            Some((column, first)) => format!("{column}={}", category - first),
            None => format!("category {category}"),
        }
    }
}

/// What a model says of itself, for people.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Explanation {
    /// How much each column or category matters, the most important first; what the numbers mean is said in `lines`.
    pub importances: Vec<(String, f64)>,
    /// The model as text: its form, then its weights, or its tree with indented branches.
    pub lines: Vec<String>,
}

/// A model that learns one example after the other. Serde gives its snapshot: equal models, equal bytes.
///
/// `outputs` is of the length [`Task::outputs`]; whatever was in it is overwritten. `scratch` is any buffer, for intermediate
/// results, so that a row costs no allocation. What is random comes from the model's own seed and counters, so that the same
/// examples give the same model on every machine.
pub trait Model: Clone + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Gives the outputs for a row.
    fn predict(&self, row: Row<'_>, outputs: &mut [f64], scratch: &mut Vec<f64>);

    /// Learns an example whose weight is not zero, and gives what [`Model::predict`] gave just before.
    /// Whatever the finite inputs, no number in the model becomes infinite or NaN.
    fn learn(&mut self, row: Row<'_>, example: Example, outputs: &mut [f64], scratch: &mut Vec<f64>);

    /// What is needed to predict.
    fn tensors(&self) -> Vec<Tensor>;

    /// What it has learned, for people.
    fn explain(&self, names: &Names) -> Explanation;

    /// Adds to an ONNX graph what gives the outputs that [`Model::predict`] gives, or says why that cannot be.
    fn onnx(&self, graph: &mut Graph, rows: &Rows) -> Expressed;

    /// Whether this (restored) model takes rows of this shape.
    fn fits(&self, shape: Shape) -> bool;
}

/// A model from which an example can be subtracted: what is left is the model that never saw it, bit for bit.
pub trait Forget: Model {
    /// Takes back an example that was learned, in any order.
    fn forget(&mut self, row: Row<'_>, example: Example, scratch: &mut Vec<f64>);
}

/// A model that can begin with weights of others.
pub trait Take: Model {
    /// Takes them over, or says what does not fit; then it is of no use. Nothing has been learned yet.
    fn take(&mut self, weights: &mut Weights) -> Result<(), String>;
}

/// A model whose steps can be made longer for a while, to follow a change.
pub trait Quicken: Model {
    /// From the next example on, steps are `factor` times as long; that fades over about `examples` examples.
    fn quicken(&mut self, factor: f64, examples: f64);
}

/// The largest magnitude of a target: its square must leave room for sums.
pub const TARGET_MAX: f64 = 1e100;

/// Makes a learner that has seen nothing.
pub type Make = Arc<dyn Fn(Shape) -> Box<dyn Learner> + Send + Sync>;

/// A model with checked hyper-parameters.
#[derive(Clone)]
pub struct Design {
    /// The kind's name.
    pub kind: &'static str,
    /// What it learns to tell.
    pub task: Task,
    /// Its hyper-parameters, defaults included.
    pub parameters: Value,
    /// The largest number of classes that it tells apart: 2 for a model of yes and no.
    pub classes_max: usize,
    /// Whether examples can be taken back from it.
    pub forgets: bool,
    /// Whether its steps can be made longer.
    pub quickens: bool,
    /// Whether it learns at all; else it only answers, as what it begins with.
    pub learns: bool,
    /// Makes it.
    pub make: Make,
}

impl Design {
    /// What takes any number of classes, and neither forgets nor quickens.
    pub fn new(kind: &'static str, task: Task, parameters: Value, make: Make) -> Self {
        Self { kind, task, parameters, classes_max: usize::MAX, forgets: false, quickens: false, learns: true, make }
    }
}

/// How many classes there may be at most: each costs a model about as much as another model.
pub const CLASSES_MAX: usize = 1000;

/// The class that a probability of yes stands for.
pub fn class(probability: f64) -> bool {
    probability > 0.5
}

/// The class that a row of outputs of a classifier stands for; of equal ones the first.
pub fn likeliest(outputs: &[f64]) -> usize {
    match outputs {
        [yes] => usize::from(class(*yes)),
        _ => (1..outputs.len()).fold(0, |best, at| if outputs[at] > outputs[best] { at } else { best }),
    }
}

/// The probability that a row of outputs of a classifier gives to a class.
pub fn probability(outputs: &[f64], class: usize) -> f64 {
    match outputs {
        [yes] if class == 0 => 1.0 - yes,
        [yes] => *yes,
        _ => outputs[class],
    }
}

/// Helps the models of another process.
pub fn helper() -> Box<dyn Helper> {
    network::helper()
}

/// Plans `kind: {...}` or `kind`, problems below the kind's name.
pub fn plan(value: &Value) -> Planned<Design> {
    let names: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
    let (name, config) = component(value, "unknown-model", "model", &names).map_err(|problem| vec![problem])?;
    let kind = KINDS.iter().find(|kind| kind.name == name).expect("`component` gives one of the names");
    (kind.plan)(config).map_err(|problems| problems.into_iter().map(|problem| problem.under(name)).collect())
}

/// The schema of `kind: {...}` or `kind`, over all kinds: a definition of its own, because some are made of others.
pub fn schema(generator: &mut SchemaGenerator) -> Schema {
    let forms = forms(generator, KINDS.iter().map(|kind| (kind.name, kind.about, (kind.schema)())));
    generator.definitions_mut().insert(composite::SCHEMA.to_owned(), json!({"title": "learner", "oneOf": forms}));
    Schema::new_ref(format!("#/$defs/{}", composite::SCHEMA))
}

/// The schema of one of some names, or one with its settings. Each is a name, what it is about, and the schema of its settings.
fn alternatives<'a>(
    generator: &mut SchemaGenerator,
    kinds: impl Iterator<Item = (&'a str, &'a str, Schema)>,
) -> Schema {
    Schema::try_from(json!({"oneOf": forms(generator, kinds)})).expect("an object is a schema")
}

fn forms<'a>(generator: &mut SchemaGenerator, kinds: impl Iterator<Item = (&'a str, &'a str, Schema)>) -> Vec<Value> {
    let mut forms = Vec::new();
    let mut bare = Vec::new();
    for (name, about, schema) in kinds {
        let mut schema = schema.to_value();
        refer(&mut schema, name);
        let object = schema.as_object_mut().expect("a configuration is an object");
        object.remove("$schema");
        if let Some(Value::Object(own)) = object.remove("$defs") {
            let own = own.into_iter().filter(|(name, _)| name != composite::SCHEMA);
            generator.definitions_mut().extend(own.map(|(own, schema)| (format!("{name}.{own}"), schema)));
        }
        if object.get("required").is_none_or(|required| required.as_array().is_none_or(Vec::is_empty)) {
            bare.push(name);
        }
        forms.push(json!({
            "type": "object", "properties": {name: schema}, "required": [name], "additionalProperties": false,
            "description": about,
        }));
    }
    forms.insert(0, json!({"enum": bare}));
    forms
}

/// A kind's definitions go under its name; all learners are the same for all.
fn refer(schema: &mut Value, kind: &str) {
    match schema {
        Value::Object(object) => {
            for (key, value) in object {
                match value {
                    Value::String(target) if key == "$ref" => {
                        if let Some(name) = target.strip_prefix("#/$defs/").filter(|name| *name != composite::SCHEMA) {
                            *target = format!("#/$defs/{kind}.{name}");
                        }
                    }
                    value => refer(value, kind),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| refer(item, kind)),
        _ => {}
    }
}

/// Splits `name` or `name: {config}`, and looks the name up in `names`.
fn component<'a>(
    value: &'a Value,
    code: &'static str,
    what: &str,
    names: &[&'a str],
) -> Result<(&'a str, &'a Value), Problem> {
    static EMPTY: LazyLock<Value> = LazyLock::new(|| Value::Object(Map::new()));
    let (name, config): (_, &Value) = match value {
        Value::String(name) => (name, &EMPTY),
        Value::Object(map) if map.len() == 1 => {
            let (name, config) = map.iter().next().expect("it has one entry");
            (name, if config.is_null() { &EMPTY } else { config })
        }
        _ => {
            let help = format!("write `{}` or `{}: {{...}}`", names[0], names[0]);
            return Err(
                Problem::new("", "bad-value", format!("a {what} is a name, or one name with its settings")).help(help)
            );
        }
    };
    match names.iter().find(|known| **known == name) {
        Some(known) => Ok((known, config)),
        None => {
            Err(Problem::new("", code, format!("there is no {what} `{name}`")).choices(name, names.iter().copied()))
        }
    }
}
