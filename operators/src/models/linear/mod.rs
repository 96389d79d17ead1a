//! A weighted sum of the features, learned by one of the update rules: what regressions and the linear machine are made of.

mod boost;
mod model;
#[cfg(test)]
mod oracles;
#[cfg(test)]
mod properties;
mod scaling;
mod update;

use std::sync::Arc;

use millstream_engine::catalogue::{Planned, configuration};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub(super) use boost::Boost;
use model::Linear;
pub(super) use model::{Coordinate, listed};
pub(super) use scaling::{Scaling, dot};
pub(super) use update::{Rule, Update, with_full, with_full_update, with_rule, within};

use super::learner::Erased;
use super::onnx::{self, Graph};
use super::{Design, Make, ModelKind, Task, Tensor, Weights};

/// Settings of linear models.
#[derive(Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Config {
    /// How the weights move with each example.
    pub(super) update: Update,
}

/// Checks the settings of a classifier of yes and no.
pub(super) fn plan<L: Loss + Default>(kind: &ModelKind, value: &Value) -> Planned<Design> {
    let config: Config = configuration(&with_full_update(value)?)?;
    config.update.check()?;
    let design = design(kind, Task::Classification, L::default(), config.update, &config);
    Ok(Design { classes_max: 2, ..design })
}

/// Picks the update rule once for all rows.
pub(super) fn design<L: Loss>(
    kind: &ModelKind,
    task: Task,
    loss: L,
    update: Update,
    config: &impl Serialize,
) -> Design {
    let make = with_rule!(update, rule => make(task, loss, rule));
    let parameters = serde_json::to_value(config).expect("numbers can be written");
    Design { quickens: true, ..Design::new(kind.name, task, parameters, make) }
}

fn make<L: Loss, R: Rule>(task: Task, loss: L, rule: R) -> Make {
    Arc::new(move |shape| {
        Erased::new(Linear::new(shape, loss.clone(), rule), task, shape).quickening().taking().boxed()
    })
}

/// From the weighted sum to a prediction, and how wrong that is.
pub(super) trait Loss: Clone + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Whether a step of an example that counts once can overshoot the target.
    const OVERSHOOTS: bool;

    /// The prediction from the weighted sum.
    fn output(&self, sum: f64) -> f64;

    /// Takes note of a target, before the gradient is asked for.
    fn observe(&mut self, target: f64, weight: f64);

    /// The bounded derivative of the loss with regard to the sum, where `output` belongs to `sum`
    /// (unless [`Loss::observe`] moved it).
    fn gradient(&self, sum: f64, output: f64, target: f64) -> f64;

    /// The part of a step, at most 1, with which the sum moves towards what fits the target, and not past it:
    /// about the implicit step. The whole step would move the sum by `reach * gradient`.
    fn damping(&self, sum: f64, target: f64, gradient: f64, reach: f64) -> f64;

    /// What is needed to turn sums into predictions.
    fn tensors(&self) -> Vec<Tensor>;

    /// Takes these from others.
    fn take(&mut self, _weights: &mut Weights) -> Result<(), String> {
        Ok(())
    }

    /// The same in an ONNX graph as [`Loss::output`].
    fn onnx(&self, graph: &mut Graph, sum: onnx::Edge) -> onnx::Edge;

    /// What that sum is, in words.
    fn says(&self) -> &'static str;
}
