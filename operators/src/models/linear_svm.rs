//! The linear support vector machine: on which side of a plane a row lies, with a margin.

use millstream_engine::catalogue::{Kind, Planned, schema_of};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::linear::{self, Config, Loss};
use super::logistic_regression::logistic;
use super::onnx::{self, Graph};
use super::{Design, ModelKind, Tensor};

/// The linear support vector machine.
pub static KIND: ModelKind = Kind {
    name: "linear_svm",
    about: "Whether the label is true: a linear support vector machine, by hinge loss.\n\n\
            It learns from rows on the wrong side of the plane and from those within the margin, and leaves the others alone. \
            Its probability is the logistic function of the margin: right in order and in side, but not calibrated. \
            Takes columns of any scale as they are.",
    schema: schema_of::<Config>,
    example: "update: {sgd: {learning_rate: 0.05, l2: 0.0001}}",
    plan,
};

fn plan(value: &Value) -> Planned<Design> {
    linear::plan::<Hinge>(&KIND, value)
}

/// Hinge loss: how far a row is from being on the right side by 1.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Hinge;

/// -1 for no, 1 for yes.
#[inline]
pub(super) fn side(target: f64) -> f64 {
    if target > 0.5 { 1.0 } else { -1.0 }
}

impl Loss for Hinge {
    /// The gradient is never longer than 1.
    const OVERSHOOTS: bool = false;

    #[inline]
    fn output(&self, sum: f64) -> f64 {
        logistic(sum)
    }

    fn observe(&mut self, _: f64, _: f64) {}

    #[inline]
    fn gradient(&self, sum: f64, _: f64, target: f64) -> f64 {
        let side = side(target);
        if side * sum < 1.0 { -side } else { 0.0 }
    }

    /// No farther than to the margin.
    #[inline]
    fn damping(&self, sum: f64, target: f64, _: f64, reach: f64) -> f64 {
        let lacking = (1.0 - side(target) * sum).max(0.0);
        if reach > lacking { lacking / reach } else { 1.0 }
    }

    fn tensors(&self) -> Vec<Tensor> {
        Vec::new()
    }

    fn onnx(&self, graph: &mut Graph, sum: onnx::Edge) -> onnx::Edge {
        graph.apply("Sigmoid", &[sum])
    }

    fn says(&self) -> &'static str {
        ", whose sign decides"
    }
}
