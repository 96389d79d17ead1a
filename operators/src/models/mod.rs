//! Models: pure arithmetic over rows of numbers, one example at a time.
//!
//! Here is no Arrow, no file and no clock; the exponential and the logarithm come from `libm`, so the same
//! examples in the same order give the same bits on every machine.
//!
//! A model is a [`Model`]; its file adds a [`ModelKind`] to [`KINDS`]. The loop over a batch is monomorphic:
//! types are erased around it, at [`Learner`] and [`Predictor`].

pub mod learner;
mod linear;
pub mod linear_regression;
pub mod logistic_regression;
#[cfg(test)]
mod oracles;
#[cfg(test)]
mod properties;
#[cfg(test)]
pub(crate) mod samples;
mod update;

use std::sync::{Arc, LazyLock};

use millstream_engine::catalogue::{Kind, Planned, Problem};
use schemars::{Schema, SchemaGenerator};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

pub use learner::{Learner, Matrix, Predictor};

/// All models.
pub static KINDS: &[&ModelKind] = &[&linear_regression::KIND, &logistic_regression::KIND];

/// A model's entry; its plan checks the hyper-parameters.
pub type ModelKind = Kind<fn(&Value) -> Planned<Design>>;

/// What a model learns to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// Yes or no; predictions are the probability of yes.
    Classification,
    /// A number.
    Regression,
}

/// What a row of features looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// How many numbers a row has.
    pub dense: usize,
    /// How many categories a row is in: one of each categorical column.
    pub active: usize,
    /// How many categories there are, over all columns.
    pub categories: usize,
}

/// One row of features.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// The numbers, all finite.
    pub dense: &'a [f64],
    /// The categories that the row is in, each below [`Shape::categories`] and none twice.
    pub active: &'a [u32],
}

/// A named row of a model's numbers, for artefacts.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Unique in its model.
    pub name: &'static str,
    /// The numbers.
    pub values: Vec<f64>,
}

/// A model that learns one example after the other. Serde gives its snapshot: equal models, equal bytes.
///
/// `scratch` is any buffer, for intermediate results, so that a row costs no allocation.
pub trait Model: Clone + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The probability of yes, or the value.
    fn predict(&self, row: Row<'_>, scratch: &mut Vec<f64>) -> f64;

    /// Learns an example, and gives what [`Model::predict`] gave just before.
    /// Whatever the finite inputs, no number in the model becomes infinite or NaN.
    fn learn(&mut self, row: Row<'_>, target: f64, scratch: &mut Vec<f64>) -> f64;

    /// What is needed to predict.
    fn tensors(&self) -> Vec<Tensor>;

    /// Whether this (restored) model takes rows of this shape.
    fn fits(&self, shape: Shape) -> bool;
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
    /// Makes it.
    pub make: Make,
}

/// The class that a probability of yes stands for.
pub fn class(probability: f64) -> bool {
    probability > 0.5
}

/// Plans `kind: {...}` or `kind`, problems below the kind's name.
pub fn plan(value: &Value) -> Planned<Design> {
    let names: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
    let (name, config) = component(value, "unknown-model", "model", &names).map_err(|problem| vec![problem])?;
    let kind = KINDS.iter().find(|kind| kind.name == name).expect("`component` gives one of the names");
    (kind.plan)(config).map_err(|problems| problems.into_iter().map(|problem| problem.under(name)).collect())
}

/// The schema of `kind: {...}` or `kind`, over all kinds.
pub fn schema(generator: &mut SchemaGenerator) -> Schema {
    let mut forms = vec![json!({"enum": KINDS.iter().map(|kind| kind.name).collect::<Vec<_>>()})];
    for kind in KINDS {
        let mut schema = (kind.schema)();
        schema.remove("$schema");
        if let Some(Value::Object(definitions)) = schema.remove("$defs") {
            generator.definitions_mut().extend(definitions);
        }
        let name = kind.name;
        forms.push(json!({
            "type": "object", "properties": {name: schema}, "required": [name], "additionalProperties": false,
            "description": kind.about,
        }));
    }
    Schema::try_from(json!({"oneOf": forms})).expect("an object is a schema")
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
