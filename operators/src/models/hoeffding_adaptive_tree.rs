//! Hoeffding adaptive tree: a Hoeffding tree whose branches are replaced when they go out of date.

use std::sync::Arc;

use millstream_engine::catalogue::{Kind, Planned, Problem, Problems, configuration, schema_of};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::learner::Erased;
use super::onnx::{Expressed, Graph, Rows};
use super::trees::adaptive_tree::{AdaptiveTree, Replacing};
use super::trees::{self, Growth, labelled, with_votes, within};
use super::{Design, Example, Explanation, Model, ModelKind, Names, Row, Shape, Task, Tensor, hoeffding_tree};

/// Hoeffding adaptive tree.
pub static KIND: ModelKind = Kind {
    name: "hoeffding_adaptive_tree",
    about: "A decision tree that grows with the stream and replaces branches that go out of date, for any number of classes.\n\n\
            Bifet and Gavaldà, \"Adaptive Learning from Evolving Data Streams\" (2009). At each question an ADWIN watches the \
            errors; when they grow, another branch starts to learn beside it, and takes its place as soon as it is better by \
            more than chance allows. (All examples count once: there is no bootstrap in the leaves.)",
    schema: schema_of::<Config>,
    example: "window: 300",
    plan,
};

/// Settings.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    /// When ADWIN with this delta says that the errors of a branch have grown, another one starts beside it; above 0 and below 1.
    drift_delta: f64,
    /// A branch and the one beside it are compared when both have seen so many examples; from 1 to 1000000.
    window: u32,
    /// The probability that a branch is replaced by one that is no better; above 0 and below 1.
    significance: f64,
    /// The settings of the tree.
    tree: hoeffding_tree::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self { drift_delta: 0.002, window: 300, significance: 0.05, tree: hoeffding_tree::Config::default() }
    }
}

fn plan(value: &Value) -> Planned<Design> {
    let config: Config = configuration(value)?;
    let (mut problems, mut below) = (Problems::default(), Problems::default());
    within(&mut problems, "drift_delta", config.drift_delta, 1e-300, 0.999_999);
    within(&mut problems, "window", config.window, 1, 1_000_000);
    within(&mut problems, "significance", config.significance, 1e-300, 0.999_999);
    config.tree.check(&mut below);
    below.0.into_iter().map(|problem: Problem| problem.under("tree")).for_each(|problem| problems.push(problem));
    problems.finish()?;
    let parameters = serde_json::to_value(&config).expect("numbers can be written");
    let Config { drift_delta, window, significance, tree } = config;
    let (growth, replacing) = (tree.growth(), Replacing { drift_delta, window: f64::from(window), significance });
    let make = move |shape: Shape| {
        let tree = AdaptiveTree::new(shape, &growth, replacing);
        let model = HoeffdingAdaptiveTree { growth: growth.clone(), classes: shape.classes as u32, tree };
        Erased::new(model, Task::Classification, shape).boxed()
    };
    Ok(Design::new(KIND.name, Task::Classification, parameters, Arc::new(make)))
}

/// One tree.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct HoeffdingAdaptiveTree {
    growth: Growth,
    classes: u32,
    tree: AdaptiveTree,
}

impl Model for HoeffdingAdaptiveTree {
    fn predict(&self, row: Row<'_>, outputs: &mut [f64], scratch: &mut Vec<f64>) {
        with_votes(outputs, |votes| self.tree.tree.vote(&self.growth, row, votes, scratch));
    }

    fn learn(&mut self, row: Row<'_>, example: Example, outputs: &mut [f64], scratch: &mut Vec<f64>) {
        let example = labelled(example, self.classes);
        with_votes(outputs, |votes| self.tree.learn(&self.growth, row, example, votes, scratch));
    }

    fn tensors(&self) -> Vec<Tensor> {
        self.tree.tree.tensors("", self.classes as usize)
    }

    fn explain(&self, names: &Names) -> Explanation {
        let mut explanation = self.tree.tree.explain(names);
        let line = format!(
            "branches replaced {} times; {} wait to take another one's place (their leaves are among those counted)",
            self.tree.replaced,
            self.tree.alternates()
        );
        explanation.lines.insert(1, line);
        explanation
    }

    fn onnx(&self, graph: &mut Graph, rows: &Rows) -> Expressed {
        let classes = self.classes.max(2) as usize;
        let votes = trees::onnx::votes(graph, rows, self.growth.voting, classes, &[(&self.tree.tree, 1.0)])?;
        Ok(graph.outputs(votes, classes))
    }

    fn fits(&self, shape: Shape) -> bool {
        self.classes as usize == shape.classes && self.tree.fits(shape)
    }
}
