//! Hoeffding tree for numbers: a regression tree, or model tree, that grows with the stream (FIMT).

use std::sync::Arc;

use millstream_engine::catalogue::{Kind, Planned, Problems, configuration, schema_of};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::learner::Erased;
use super::onnx::{Expressed, Graph, Rows};
use super::random::Random;
use super::trees::number_tree::{Growth, NumberTree, Predicting};
use super::trees::{self, all_columns, measured, within};
use super::{Design, Example, Explanation, Model, ModelKind, Names, Row, Shape, Task, Tensor};

/// Hoeffding tree for numbers.
pub static KIND: ModelKind = Kind {
    name: "hoeffding_tree_regressor",
    about: "A number: a regression tree that grows with the stream.\n\n\
            Ikonomovska, Gama and Džeroski, \"Learning model trees from evolving data streams\" (2011), without its drift \
            detection. Splits lower the variance of the targets; a leaf predicts by their mean or by a linear model, \
            whichever errs less. Numbers are kept in 16 bins, laid by the first 64 rows of each leaf, so that memory is \
            bounded. Takes columns and targets of any scale as they are.",
    schema: schema_of::<Config>,
    example: "grace_period: 200",
    plan,
};

/// Settings of a tree of numbers.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Config {
    /// How many examples a leaf sees between attempts to split it; from 1 to 1000000.
    pub(super) grace_period: u32,
    /// The probability that a split is not the best one, by Hoeffding's bound; from 1e-300 to 0.5.
    pub(super) delta: f64,
    /// When the bound is below this, columns count as equally good, and the best one is taken; from 0 to 1.
    pub(super) tau: f64,
    /// How leaves predict.
    pub(super) leaves: Predicting,
    /// How many questions lead to a leaf at most; from 0 to 1000.
    pub(super) max_depth: u32,
    /// How many leaves there are at most; from 1 to 1000000. Each keeps about 50 numbers for each column.
    pub(super) max_leaves: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { grace_period: 200, delta: 1e-7, tau: 0.05, leaves: Predicting::Adaptive, max_depth: 64, max_leaves: 256 }
    }
}

impl Config {
    /// Notes all that is out of range.
    pub(super) fn check(&self, problems: &mut Problems) {
        within(problems, "grace_period", self.grace_period, 1, 1_000_000);
        within(problems, "delta", self.delta, 1e-300, 0.5);
        within(problems, "tau", self.tau, 0.0, 1.0);
        within(problems, "max_depth", self.max_depth, 0, 1000);
        within(problems, "max_leaves", self.max_leaves, 1, 1_000_000);
    }

    /// For trees whose leaves look at all their columns.
    pub(super) fn growth(&self) -> Growth {
        Growth {
            grace_period: f64::from(self.grace_period),
            delta: self.delta,
            tau: self.tau,
            predicting: self.leaves,
            max_depth: self.max_depth,
            max_leaves: self.max_leaves,
            columns_per_leaf: 0,
            memory: f64::MAX,
        }
    }
}

fn plan(value: &Value) -> Planned<Design> {
    let config: Config = configuration(value)?;
    let mut problems = Problems::default();
    config.check(&mut problems);
    problems.finish()?;
    let parameters = serde_json::to_value(&config).expect("numbers can be written");
    let growth = config.growth();
    let make = move |shape: Shape| {
        let tree = NumberTree::new(shape, &growth, all_columns(shape), Random::new(0, 0));
        Erased::new(HoeffdingTreeRegressor { growth: growth.clone(), tree }, Task::Regression, shape).boxed()
    };
    Ok(Design::new(KIND.name, Task::Regression, parameters, Arc::new(make)))
}

/// One tree.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct HoeffdingTreeRegressor {
    growth: Growth,
    tree: NumberTree,
}

impl Model for HoeffdingTreeRegressor {
    fn predict(&self, row: Row<'_>, outputs: &mut [f64], scratch: &mut Vec<f64>) {
        outputs[0] = self.tree.predict(&self.growth, row, scratch);
    }

    fn learn(&mut self, row: Row<'_>, example: Example, outputs: &mut [f64], scratch: &mut Vec<f64>) {
        outputs[0] = self.tree.learn(&self.growth, row, measured(example), scratch);
    }

    fn tensors(&self) -> Vec<Tensor> {
        self.tree.tensors("")
    }

    fn explain(&self, names: &Names) -> Explanation {
        self.tree.explain(names)
    }

    fn onnx(&self, graph: &mut Graph, rows: &Rows) -> Expressed {
        Ok(trees::onnx::numbers(graph, rows, &self.growth, &[&self.tree]))
    }

    fn fits(&self, shape: Shape) -> bool {
        self.tree.fits(shape, &self.growth)
    }
}
