//! Streaming gradient boosted trees: each tree learns what those before it leave to be explained.

use std::sync::Arc;

use millstream_engine::catalogue::{Kind, Planned, Problems, configuration, schema_of};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::learner::Erased;
use super::onnx::{Expressed, Graph, Rows};
use super::random::Random;
use super::trees::number_tree::{Growth, NumberTree, Predicting};
use super::trees::{self, all_columns, labelled, report, with_buffer, within};
use super::{Design, Example, Explanation, Model, ModelKind, Names, Row, Shape, Task, Tensor};

/// Streaming gradient boosted trees.
pub static KIND: ModelKind = Kind {
    name: "streaming_gradient_boosted_trees",
    about: "Shallow regression trees that grow with the stream, each on what those before it leave unexplained; for any number of classes.\n\n\
            Gunasekara, Pfahringer, Gomes and Bifet, \"Gradient boosted trees for evolving data streams\" (2024): each step has a \
            tree for each class (of two: one), which learns the gradient of the log loss over its curvature, with the curvature as \
            weight, over its own share of the columns. Trees follow changes by means that forget, instead of being replaced.",
    schema: schema_of::<Config>,
    example: "steps: 30",
    plan,
};

/// Settings.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    /// How many steps there are: as many trees, or as many for each class where there are more than two; from 1 to 1000.
    steps: u32,
    /// How much of what each tree says is taken; above 0, at most 1.
    learning_rate: f64,
    /// The share of the columns at which each tree looks; from 0.01 to 1.
    columns: f64,
    /// From how many examples, weighted by their curvature (at most a quarter), leaves remember the mean; older ones fade.
    /// From 1 to 1e12.
    memory: f64,
    /// How many examples, so weighted, a leaf sees between attempts to split it; from 1 to 1000000.
    grace_period: f64,
    /// The probability that a split is not the best one, by Hoeffding's bound; from 1e-300 to 0.5.
    delta: f64,
    /// When the bound is below this, columns count as equally good, and the best one is taken; from 0 to 1.
    tau: f64,
    /// How many questions lead to a leaf at most; from 0 to 1000.
    max_depth: u32,
    /// How many leaves each tree has at most; from 1 to 1000000.
    max_leaves: u32,
    /// From it comes all that is random.
    seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            steps: 30,
            learning_rate: 0.1,
            columns: 0.75,
            memory: 200.0,
            grace_period: 25.0,
            delta: 0.05,
            tau: 0.1,
            max_depth: 6,
            max_leaves: 32,
            seed: 1,
        }
    }
}

/// Sums of scores stay within this: probabilities near enough to 0 and 1.
const SCORE_MAX: f64 = 30.0;

/// What a tree learns stays within this, and its weight above that.
const TARGET_MAX: f64 = 4.0;
const CURVATURE_MIN: f64 = 1e-3;

fn plan(value: &Value) -> Planned<Design> {
    let config: Config = configuration(value)?;
    let mut problems = Problems::default();
    within(&mut problems, "steps", config.steps, 1, 1000);
    within(&mut problems, "learning_rate", config.learning_rate, 1e-6, 1.0);
    within(&mut problems, "columns", config.columns, 0.01, 1.0);
    within(&mut problems, "memory", config.memory, 1.0, 1e12);
    within(&mut problems, "grace_period", config.grace_period, 1.0, 1e6);
    within(&mut problems, "delta", config.delta, 1e-300, 0.5);
    within(&mut problems, "tau", config.tau, 0.0, 1.0);
    within(&mut problems, "max_depth", config.max_depth, 0, 1000);
    within(&mut problems, "max_leaves", config.max_leaves, 1, 1_000_000);
    problems.finish()?;
    let parameters = serde_json::to_value(&config).expect("numbers can be written");
    let make = move |shape: Shape| Erased::new(Boosted::new(shape, &config), Task::Classification, shape).boxed();
    Ok(Design::new(KIND.name, Task::Classification, parameters, Arc::new(make)))
}

/// The trees.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Boosted {
    growth: Growth,
    learning_rate: f64,
    shape: [u32; 3],
    /// Those of the first step, one for each score, then those of the next.
    trees: Vec<NumberTree>,
    /// The weight of the examples of each class, and a half: where scores begin.
    counts: Vec<f64>,
}

impl Boosted {
    fn new(shape: Shape, config: &Config) -> Self {
        let growth = Growth {
            grace_period: config.grace_period,
            delta: config.delta,
            tau: config.tau,
            predicting: Predicting::Mean,
            max_depth: config.max_depth,
            max_leaves: config.max_leaves,
            columns_per_leaf: 0,
            memory: config.memory,
        };
        let columns = all_columns(shape);
        let count = ((columns.len() as f64 * config.columns).round() as usize).max(2).min(columns.len());
        let trees = (0..config.steps as usize * scores(shape.classes)).map(|at| {
            let mut random = Random::new(config.seed, at as u64);
            let mut columns = columns.clone();
            random.choose(&mut columns, count);
            columns.truncate(count);
            columns.sort_unstable();
            NumberTree::new(shape, &growth, columns, random)
        });
        Self {
            trees: trees.collect(),
            growth,
            learning_rate: config.learning_rate,
            shape: [shape.dense as u32, shape.active as u32, shape.classes as u32],
            counts: vec![0.0; shape.classes.max(2)],
        }
    }

    /// Where the scores begin: at the logarithms of the shares of classes.
    fn begin(&self, sums: &mut [f64]) {
        let total: f64 = self.counts.iter().sum::<f64>() + 0.5 * self.counts.len() as f64;
        let log_share = |class: usize| libm::log((self.counts[class] + 0.5) / total);
        match sums {
            [sum] => *sum = log_share(1) - log_share(0),
            _ => sums.iter_mut().enumerate().for_each(|(class, sum)| *sum = log_share(class)),
        }
    }

    /// Lets the trees of all steps learn; `sums` become the scores from before.
    fn teach(&mut self, row: Row<'_>, (class, weight): (usize, f64), sums: &mut [f64], scratch: &mut Vec<f64>) {
        let (width, rate) = (sums.len(), self.learning_rate);
        with_buffer(width, |shares| {
            for step in self.trees.chunks_exact_mut(width) {
                shares.copy_from_slice(sums);
                probabilities(shares);
                for (at, ((tree, sum), share)) in step.iter_mut().zip(&mut *sums).zip(&*shares).enumerate() {
                    let wanted = if width == 1 { class == 1 } else { class == at };
                    let curvature = (share * (1.0 - share)).max(CURVATURE_MIN);
                    let target = ((f64::from(wanted) - share) / curvature).clamp(-TARGET_MAX, TARGET_MAX);
                    let said = tree.learn(&self.growth, row, (target, weight * curvature), scratch);
                    *sum = (*sum + rate * said).clamp(-SCORE_MAX, SCORE_MAX);
                }
            }
        });
        self.counts[class] += weight;
    }
}

/// How many scores there are for so many classes.
fn scores(classes: usize) -> usize {
    if classes <= 2 { 1 } else { classes }
}

/// Makes probabilities of scores: one is that of yes.
fn probabilities(scores: &mut [f64]) {
    if let [score] = scores {
        *score = 1.0 / (1.0 + libm::exp(-*score));
        return;
    }
    let best = scores.iter().fold(f64::NEG_INFINITY, |best, score| best.max(*score));
    let mut total = 0.0;
    for score in &mut *scores {
        *score = libm::exp(*score - best);
        total += *score;
    }
    scores.iter_mut().for_each(|score| *score /= total);
}

impl Model for Boosted {
    fn predict(&self, row: Row<'_>, outputs: &mut [f64], scratch: &mut Vec<f64>) {
        self.begin(outputs);
        for step in self.trees.chunks_exact(outputs.len()) {
            for (tree, sum) in step.iter().zip(&mut *outputs) {
                let said = tree.predict(&self.growth, row, scratch);
                *sum = (*sum + self.learning_rate * said).clamp(-SCORE_MAX, SCORE_MAX);
            }
        }
        probabilities(outputs);
    }

    fn learn(&mut self, row: Row<'_>, example: Example, outputs: &mut [f64], scratch: &mut Vec<f64>) {
        self.begin(outputs);
        let (class, weight) = labelled(example, self.shape[2]);
        self.teach(row, (class as usize, weight), outputs, scratch);
        probabilities(outputs);
    }

    fn tensors(&self) -> Vec<Tensor> {
        let mut begin = vec![0.0; scores(self.shape[2] as usize)];
        self.begin(&mut begin);
        let trees = self.trees.iter().enumerate().flat_map(|(at, tree)| tree.tensors(&format!("trees/{at}/")));
        let fixed = [Tensor::row("begin", begin), Tensor::row("learning_rate", vec![self.learning_rate])];
        fixed.into_iter().chain(trees).collect()
    }

    fn explain(&self, names: &Names) -> Explanation {
        let leaves: usize = self.trees.iter().map(NumberTree::size).sum();
        let line = format!(
            "sum of {} trees with {leaves} leaves in all; importance: share of a column in what the splits are worth, averaged over the trees",
            self.trees.len()
        );
        let trees = self.trees.iter().map(NumberTree::importances);
        Explanation { importances: report::averaged_importances(trees, names), lines: vec![line] }
    }

    fn onnx(&self, graph: &mut Graph, rows: &Rows) -> Expressed {
        let classes = self.shape[2].max(2) as usize;
        let width = scores(classes);
        let mut begin = vec![0.0; width];
        self.begin(&mut begin);
        let trees: Vec<&NumberTree> = self.trees.iter().collect();
        let said = trees::onnx::numbers(graph, rows, &self.growth, &trees);
        let steps = graph.scale(said, self.learning_rate);
        let mut sums = rows.repeat(graph, &begin);
        for first in (0..trees.len()).step_by(width) {
            let step = graph.columns(steps, first, first + width);
            sums = graph.add(sums, step);
            sums = graph.clamp(sums, -SCORE_MAX, SCORE_MAX);
        }
        Ok(if width == 1 { graph.apply("Sigmoid", &[sums]) } else { graph.softmax(sums) })
    }

    fn fits(&self, shape: Shape) -> bool {
        self.shape == [shape.dense as u32, shape.active as u32, shape.classes as u32]
            && self.counts.len() == shape.classes.max(2)
            && self.counts.iter().all(|count| *count >= 0.0 && count.is_finite())
            && self.trees.len().is_multiple_of(scores(shape.classes))
            && self.trees.iter().all(|tree| tree.fits(shape, &self.growth))
    }
}
