//! Hoeffding tree: a decision tree that grows with the stream (VFDT).

use std::sync::Arc;

use millstream_engine::catalogue::{Kind, Planned, Problems, configuration, schema_of};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::learner::Erased;
use super::onnx::{Expressed, Graph, Rows};
use super::random::Random;
use super::trees::class_tree::ClassTree;
use super::trees::{self, Criterion, Growth, Voting, all_columns, labelled, with_votes, within};
use super::{Design, Example, Explanation, Model, ModelKind, Names, Row, Shape, Task, Tensor};

/// Hoeffding tree.
pub static KIND: ModelKind = Kind {
    name: "hoeffding_tree",
    about: "A decision tree that grows with the stream, for any number of classes (VFDT).\n\n\
            Domingos and Hulten, \"Mining High-Speed Data Streams\" (2000), with naive Bayes in its leaves (Gama 2003). \
            A leaf splits as soon as one column is better than all others by more than chance allows; what is split \
            stays so. Takes columns of any scale as they are.",
    schema: schema_of::<Config>,
    example: "grace_period: 200",
    plan,
};

/// Settings of a tree of classes.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Config {
    /// How many examples a leaf sees between attempts to split it; from 1 to 1000000.
    pub(super) grace_period: u32,
    /// The probability that a split is not the best one, by Hoeffding's bound; from 1e-300 to 0.5.
    pub(super) delta: f64,
    /// When the bound is below this, columns count as equally good, and the best one is taken; from 0 to 1.
    pub(super) tau: f64,
    /// By what splits are judged.
    pub(super) criterion: Criterion,
    /// How leaves predict.
    pub(super) leaves: Voting,
    /// How many questions lead to a leaf at most; from 0 to 1000.
    pub(super) max_depth: u32,
    /// How many leaves there are at most; from 1 to 1000000. Each keeps four numbers for each class that it sees and each column.
    pub(super) max_leaves: u32,
    /// Whether a leaf stops to look at columns that are worse than its best one by more than chance allows. That saves
    /// memory and time, and costs naive Bayes what these columns say.
    pub(super) drop_poor_columns: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            grace_period: 200,
            delta: 1e-7,
            tau: 0.05,
            criterion: Criterion::InfoGain,
            leaves: Voting::Adaptive,
            max_depth: 64,
            max_leaves: 1024,
            drop_poor_columns: false,
        }
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
            criterion: self.criterion,
            voting: self.leaves,
            max_depth: self.max_depth,
            max_leaves: self.max_leaves,
            drop_poor_columns: self.drop_poor_columns,
            columns_per_leaf: 0,
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
    let make =
        move |shape: Shape| Erased::new(HoeffdingTree::new(shape, growth.clone()), Task::Classification, shape).boxed();
    Ok(Design::new(KIND.name, Task::Classification, parameters, Arc::new(make)))
}

/// One tree.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct HoeffdingTree {
    growth: Growth,
    classes: u32,
    tree: ClassTree,
}

impl HoeffdingTree {
    fn new(shape: Shape, growth: Growth) -> Self {
        let tree = ClassTree::new(shape, &growth, all_columns(shape), Random::new(0, 0));
        Self { growth, classes: shape.classes as u32, tree }
    }
}

impl Model for HoeffdingTree {
    fn predict(&self, row: Row<'_>, outputs: &mut [f64], scratch: &mut Vec<f64>) {
        with_votes(outputs, |votes| self.tree.vote(&self.growth, row, votes, scratch));
    }

    fn learn(&mut self, row: Row<'_>, example: Example, outputs: &mut [f64], scratch: &mut Vec<f64>) {
        let example = labelled(example, self.classes);
        with_votes(outputs, |votes| self.tree.learn(&self.growth, row, example, votes, scratch));
    }

    fn tensors(&self) -> Vec<Tensor> {
        self.tree.tensors("", self.classes as usize)
    }

    fn explain(&self, names: &Names) -> Explanation {
        self.tree.explain(names)
    }

    fn onnx(&self, graph: &mut Graph, rows: &Rows) -> Expressed {
        let classes = self.classes.max(2) as usize;
        let votes = trees::onnx::votes(graph, rows, self.growth.voting, classes, &[(&self.tree, 1.0)])?;
        Ok(graph.outputs(votes, classes))
    }

    fn fits(&self, shape: Shape) -> bool {
        self.classes as usize == shape.classes && self.tree.fits(shape)
    }
}
