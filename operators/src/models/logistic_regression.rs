//! Logistic regression: the probability of yes.

use millstream_engine::catalogue::{Kind, Planned, schema_of};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::linear::{self, Config, Loss};
use super::onnx::{self, Graph};
use super::{Design, ModelKind, Tensor};

/// Logistic regression.
pub static KIND: ModelKind = Kind {
    name: "logistic_regression",
    about: "The probability that the label is true: a weighted sum of the features through the logistic function.\n\n\
            Takes columns of any scale as they are. Learns from each example once, in order.",
    schema: schema_of::<Config>,
    example: "update: {ftrl: {alpha: 0.1, l1: 0.5}}",
    plan,
};

fn plan(value: &Value) -> Planned<Design> {
    linear::plan::<Logistic>(&KIND, value)
}

/// The logistic function.
#[inline]
pub(super) fn logistic(sum: f64) -> f64 {
    1.0 / (1.0 + libm::exp(-sum))
}

/// Log loss through the logistic function.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Logistic;

impl Loss for Logistic {
    /// The gradient is never longer than 1.
    const OVERSHOOTS: bool = false;

    #[inline]
    fn output(&self, sum: f64) -> f64 {
        logistic(sum)
    }

    fn observe(&mut self, _: f64, _: f64) {}

    #[inline]
    fn gradient(&self, _: f64, output: f64, target: f64) -> f64 {
        output - target
    }

    /// The gradient changes by a quarter of the sum's change at most.
    #[inline]
    fn damping(&self, _: f64, _: f64, _: f64, reach: f64) -> f64 {
        1.0 / (1.0 + 0.25 * reach)
    }

    fn tensors(&self) -> Vec<Tensor> {
        Vec::new()
    }

    fn onnx(&self, graph: &mut Graph, sum: onnx::Edge) -> onnx::Edge {
        graph.apply("Sigmoid", &[sum])
    }

    fn says(&self) -> &'static str {
        ", through the logistic function"
    }
}
