//! Adaptive random forest for numbers: randomised regression trees, each replaced when it goes out of date.

use std::sync::Arc;

use millstream_engine::catalogue::{Kind, Planned, Problem, Problems, configuration, schema_of};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::drift::{Adwin, Detector};
use super::learner::Erased;
use super::onnx::{Expressed, Graph, Rows};
use super::random::{Poisson, Random};
use super::trees::number_tree::{Growth, NumberTree};
use super::trees::{self, all_columns, grew, measured, report, within};
use super::{
    Design, Example, Explanation, Model, ModelKind, Names, Row, Shape, Task, Tensor, hoeffding_tree_regressor,
};

/// Adaptive random forest for numbers.
pub static KIND: ModelKind = Kind {
    name: "adaptive_random_forest_regressor",
    about: "A number: the mean of what many trees say that grow with the stream; each is replaced when it goes out of date.\n\n\
            Gomes et al., \"Adaptive random forests for data stream regression\" (2018). Each tree counts each example as often \
            as a Poisson variable says, and each of its leaves looks at a few columns chosen at random. When a tree's errors \
            seem to grow, another one starts to learn beside it, and takes its place when they do grow (ADWIN).",
    schema: schema_of::<Config>,
    example: "trees: 10",
    plan,
};

/// Errors beyond this many standard deviations of the target are, for ADWIN, as large as this.
const ERROR_MAX: f64 = 3.0;

/// Settings of the forest.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    /// How many trees there are; from 1 to 1000.
    trees: u32,
    /// How often a tree counts an example, on average; from 0.001 to 100.
    lambda: f64,
    /// How many columns each leaf looks at; left out: the square root of their number, and one more.
    columns: Option<u32>,
    /// A tree's errors seem to grow where ADWIN with this delta says so, and another tree starts beside it; above 0 and below 1.
    warning_delta: f64,
    /// A tree's errors have grown where ADWIN with this delta says so, and it is replaced; above 0 and below 1.
    drift_delta: f64,
    /// From it comes all that is random.
    seed: u64,
    /// The settings of each tree.
    tree: hoeffding_tree_regressor::Config,
}

impl Default for Config {
    fn default() -> Self {
        let tree = hoeffding_tree_regressor::Config { grace_period: 50, delta: 0.01, ..Default::default() };
        Self { trees: 10, lambda: 6.0, columns: None, warning_delta: 0.01, drift_delta: 0.001, seed: 1, tree }
    }
}

fn plan(value: &Value) -> Planned<Design> {
    let config: Config = configuration(value)?;
    let (mut problems, mut below) = (Problems::default(), Problems::default());
    within(&mut problems, "trees", config.trees, 1, 1000);
    within(&mut problems, "lambda", config.lambda, 1e-3, Poisson::MEAN_MAX);
    within(&mut problems, "columns", config.columns.unwrap_or(1), 1, 1_000_000);
    within(&mut problems, "warning_delta", config.warning_delta, 1e-300, 0.999_999);
    within(&mut problems, "drift_delta", config.drift_delta, 1e-300, 0.999_999);
    config.tree.check(&mut below);
    below.0.into_iter().map(|problem: Problem| problem.under("tree")).for_each(|problem| problems.push(problem));
    problems.finish()?;
    let parameters = serde_json::to_value(&config).expect("numbers can be written");
    let make = move |shape: Shape| Erased::new(Forest::new(shape, &config), Task::Regression, shape).boxed();
    Ok(Design::new(KIND.name, Task::Regression, parameters, Arc::new(make)))
}

/// A tree and how it does.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Member {
    tree: NumberTree,
    /// The tree that will take its place.
    successor: Option<NumberTree>,
    warning: Adwin,
    drift: Adwin,
    replaced: u32,
}

/// The forest.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Forest {
    growth: Growth,
    shape: [u32; 2],
    poisson: Poisson,
    random: Random,
    /// How many trees there ever were: each has its own sequence of random numbers.
    trees: u64,
    seed: u64,
    members: Vec<Member>,
}

impl Forest {
    fn new(shape: Shape, config: &Config) -> Self {
        let columns = (shape.dense + shape.active) as f64;
        let columns_per_leaf = config.columns.unwrap_or(columns.sqrt().round() as u32 + 1);
        let mut forest = Self {
            growth: Growth { columns_per_leaf, ..config.tree.growth() },
            shape: [shape.dense as u32, shape.active as u32],
            poisson: Poisson::new(config.lambda),
            random: Random::new(config.seed, 0),
            trees: 0,
            seed: config.seed,
            members: Vec::new(),
        };
        for _ in 0..config.trees {
            let (warning, drift) = (Adwin::new(config.warning_delta), Adwin::new(config.drift_delta));
            let tree = forest.sprout();
            forest.members.push(Member { tree, successor: None, warning, drift, replaced: 0 });
        }
        forest
    }

    /// A new tree.
    fn sprout(&mut self) -> NumberTree {
        self.trees = self.trees.wrapping_add(1);
        let [dense, active] = self.shape.map(|length| length as usize);
        let shape = Shape { dense, active, categories: 0, classes: 0 };
        NumberTree::new(shape, &self.growth, all_columns(shape), Random::new(self.seed, self.trees))
    }

    /// Lets a member learn; gives what it said before.
    fn teach(&mut self, at: usize, row: Row<'_>, (target, weight): (f64, f64), scratch: &mut Vec<f64>) -> f64 {
        let weight = weight * self.poisson.draw(&mut self.random);
        let member = &mut self.members[at];
        let predicted = if weight > 0.0 {
            if let Some(successor) = &mut member.successor {
                successor.learn(&self.growth, row, (target, weight), scratch);
            }
            member.tree.learn(&self.growth, row, (target, weight), scratch)
        } else {
            member.tree.predict(&self.growth, row, scratch)
        };
        let (_, deviation) = member.tree.scale();
        let error = if deviation > 0.0 { ((target - predicted).abs() / deviation).min(ERROR_MAX) } else { 0.0 };
        let error = error / ERROR_MAX;
        let warned = grew(&mut member.warning, error);
        if grew(&mut member.drift, error) {
            let successor = member.successor.take();
            let tree = successor.unwrap_or_else(|| self.sprout());
            let member = &mut self.members[at];
            member.tree = tree;
            member.warning.reset();
            member.drift.reset();
            member.replaced = member.replaced.saturating_add(1);
        } else if warned {
            let successor = self.sprout();
            self.members[at].successor = Some(successor);
        }
        predicted
    }
}

impl Model for Forest {
    fn predict(&self, row: Row<'_>, outputs: &mut [f64], scratch: &mut Vec<f64>) {
        let said = self.members.iter().map(|member| member.tree.predict(&self.growth, row, scratch));
        outputs[0] = said.sum::<f64>() / self.members.len() as f64;
    }

    fn learn(&mut self, row: Row<'_>, example: Example, outputs: &mut [f64], scratch: &mut Vec<f64>) {
        let example = measured(example);
        let said = (0..self.members.len()).map(|at| self.teach(at, row, example, scratch));
        outputs[0] = said.sum::<f64>() / self.members.len() as f64;
    }

    fn tensors(&self) -> Vec<Tensor> {
        let members = self.members.iter().enumerate();
        members.flat_map(|(at, member)| member.tree.tensors(&format!("trees/{at}/"))).collect()
    }

    fn explain(&self, names: &Names) -> Explanation {
        let trees = self.members.iter().map(|member| member.tree.importances());
        let mut lines = vec![format!(
            "mean of {} trees; importance: share of a column in what the splits are worth, averaged over the trees",
            self.members.len()
        )];
        lines.extend(self.members.iter().enumerate().map(|(at, member)| {
            let next =
                member.successor.as_ref().map_or(String::new(), |tree| format!(", a successor of {}", tree.size()));
            format!("tree {at}: {} leaves, replaced {} times{next}", member.tree.size(), member.replaced)
        }));
        Explanation { importances: report::averaged_importances(trees, names), lines }
    }

    fn onnx(&self, graph: &mut Graph, rows: &Rows) -> Expressed {
        let trees: Vec<_> = self.members.iter().map(|member| &member.tree).collect();
        let said = trees::onnx::numbers(graph, rows, &self.growth, &trees);
        let sum = graph.reduce("ReduceSum", said, 1, true);
        Ok(graph.scale(sum, 1.0 / trees.len() as f64))
    }

    fn fits(&self, shape: Shape) -> bool {
        self.shape == [shape.dense as u32, shape.active as u32]
            && !self.members.is_empty()
            && self.members.iter().all(|member| {
                std::iter::once(&member.tree).chain(&member.successor).all(|tree| tree.fits(shape, &self.growth))
                    && member.warning.is_sound()
                    && member.drift.is_sound()
            })
    }
}
