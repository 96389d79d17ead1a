//! Robust random cut forest: how unusual a row is, by how much it changes what is known of the rows before.
//!
//! Guha, Mishra, Roy and Schrijvers, "Robust Random Cut Forest Based Anomaly Detection on Streams" (ICML 2016): random cut trees over the rows of a
//! sliding window, kept by inserting and deleting single rows; and the collusive displacement as the score.

#[cfg(test)]
mod tests;
mod tree;

use std::collections::VecDeque;
use std::sync::Arc;

use millstream_engine::catalogue::{Kind, Planned, Problem, Problems, configuration, schema_of};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::learner::Erased;
use super::onnx::{Expressed, Graph, NotExpressible, Rows};
use super::random::Random;
use super::spread::Spread;
use super::{Design, Example, Explanation, Model, ModelKind, Names, Row, Shape, Task, Tensor};
use tree::{Cut, Tree, UNIT};

/// Robust random cut forest.
pub static KIND: ModelKind = Kind {
    name: "robust_random_cut_forest",
    about: "How unusual a row is, from 0 to 1: how much simpler the newest rows would be told apart without it.\n\n\
            Robust random cut forest (Guha and others 2016). Each tree tells the rows of a window apart by cuts drawn by chance, more often along columns in \
            which they are far apart. A row is unusual where few cuts part it, alone or with a few like it, from many others. \
            That is its collusive displacement c, from 0 to the window's size n, a mean over the trees; the score is log(1 + c) / log(1 + n). \
            Numbers count as deviations from their mean so far. Categories have a place by chance, another one in each tree. \
            Finds odd rows in fewer rows than `half_space_trees`, also small crowds of them, and takes far more time and memory.",
    schema: schema_of::<Config>,
    example: "trees: 20\nwindow: 128",
    plan,
};

/// Settings of a robust random cut forest.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Config {
    /// How many trees there are, from 1 to 1000. Time and memory go in proportion.
    trees: u32,
    /// How many rows a tree has: the newest ones; from 2 to 10,000. Memory goes in proportion.
    window: u32,
    /// What cuts are drawn by.
    seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { trees: 40, window: 256, seed: 0 }
    }
}

impl Config {
    fn check(&self) -> Planned<()> {
        let mut problems = Problems::default();
        for (path, value, low, high) in [("trees", self.trees, 1, 1000), ("window", self.window, 2, 10_000)] {
            if !(low..=high).contains(&value) {
                problems.push(Problem::new(path, "out-of-range", format!("{value} is not between {low} and {high}")));
            }
        }
        problems.finish()
    }
}

fn plan(value: &Value) -> Planned<Design> {
    let config: Config = configuration(value)?;
    config.check()?;
    let parameters = serde_json::to_value(config).expect("numbers can be written");
    let make = move |shape| Erased::new(Forest::new(config, shape), Task::Anomaly, shape).boxed();
    Ok(Design::new(KIND.name, Task::Anomaly, parameters, Arc::new(make)))
}

/// A number lies at most so many deviations off.
const FARTHEST: f64 = 1e6;

/// A row of the window.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Point {
    numbers: Vec<f32>,
    categories: Vec<u32>,
    mass: u32,
}

/// The model.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(try_from = "Stored", into = "Stored")]
struct Forest {
    config: Config,
    active: u32,
    spreads: Vec<Spread>,
    /// The oldest first.
    points: VecDeque<Point>,
    mass: u32,
    rows: u64,
    trees: Vec<Tree>,
}

/// What is stored: the trees' masses and boxes follow from the points.
#[derive(Deserialize, Serialize)]
struct Stored {
    config: Config,
    active: u32,
    spreads: Vec<Spread>,
    points: VecDeque<Point>,
    rows: u64,
    trees: Vec<Vec<Cut>>,
}

impl From<Forest> for Stored {
    fn from(forest: Forest) -> Self {
        let trees = forest.trees.iter().map(Tree::cuts).collect();
        let Forest { config, active, spreads, points, rows, .. } = forest;
        Self { config, active, spreads, points, rows, trees }
    }
}

impl TryFrom<Stored> for Forest {
    type Error = &'static str;

    fn try_from(stored: Stored) -> Result<Self, Self::Error> {
        let Stored { config, active, spreads, points, rows, trees } = stored;
        let right = |point: &Point| {
            point.numbers.len() == spreads.len()
                && point.categories.len() == active as usize
                && point.numbers.iter().all(|number| number.is_finite())
                && point.mass > 0
        };
        let mass = points.iter().try_fold(0_u32, |mass, point| mass.checked_add(point.mass));
        let mass = mass.filter(|mass| config.check().is_ok() && *mass <= config.window * UNIT).ok_or("wrong masses")?;
        if !points.iter().all(right) || points.len() > config.window as usize || trees.len() != config.trees as usize {
            return Err("the points are not those of the trees");
        }
        let columns = spreads.len() + active as usize;
        let tree = |(tree, cuts): (u64, &Vec<Cut>)| {
            let coordinates = |point: &Point| {
                let mut coordinates = Vec::new();
                place(config.seed, tree, &point.numbers, &point.categories, &mut coordinates);
                (coordinates, point.mass)
            };
            Tree::of(columns, cuts, points.iter().map(coordinates))
        };
        let trees: Option<Vec<Tree>> = (0..).zip(&trees).map(tree).collect();
        Ok(Self {
            trees: trees.ok_or("the points do not lie in the trees")?,
            config,
            active,
            spreads,
            points,
            mass,
            rows,
        })
    }
}

/// A row's coordinates in a tree: its numbers, then where its categories lie there.
#[inline]
fn place(seed: u64, tree: u64, numbers: &[f32], categories: &[u32], coordinates: &mut Vec<f32>) {
    coordinates.clear();
    coordinates.extend_from_slice(numbers);
    let chance = |category: &u32| Random::new(seed ^ u64::from(*category) << 32, tree).uniform() as f32;
    coordinates.extend(categories.iter().map(chance));
}

impl Forest {
    fn new(config: Config, shape: Shape) -> Self {
        let trees = vec![Tree::new(shape.dense + shape.active); config.trees as usize];
        let (active, spreads) = (shape.active as u32, vec![Spread::default(); shape.dense]);
        Self { config, active, spreads, points: VecDeque::new(), mass: 0, rows: 0, trees }
    }

    #[inline]
    fn numbers(&self, dense: &[f64]) -> Vec<f32> {
        self.spreads.iter().zip(dense).map(|(spread, x)| spread.standard(*x, FARTHEST) as f32).collect()
    }

    #[inline]
    fn random(&self, tree: usize) -> Random {
        Random::new(self.config.seed.wrapping_add(self.rows), tree as u64)
    }

    /// From the sum of the trees' displacements.
    fn score(&self, displacements: f64) -> f64 {
        let mean = displacements / f64::from(self.config.trees);
        (libm::log1p(mean) / libm::log1p(f64::from(self.config.window))).clamp(0.0, 1.0)
    }

    /// Removes the oldest rows, or parts of them, until the rest fits into the window.
    fn shrink(&mut self, coordinates: &mut Vec<f32>) {
        let most = self.config.window * UNIT;
        while self.mass > most || self.points.len() > self.config.window as usize {
            let too_many = self.points.len() > self.config.window as usize;
            let Some(oldest) = self.points.front_mut() else { return };
            let mass = if too_many { oldest.mass } else { oldest.mass.min(self.mass - most) };
            for (tree, at) in self.trees.iter_mut().zip(0..) {
                place(self.config.seed, at, &oldest.numbers, &oldest.categories, coordinates);
                tree.remove(coordinates, mass);
            }
            self.mass -= mass;
            oldest.mass -= mass;
            if oldest.mass == 0 {
                self.points.pop_front();
            }
        }
    }
}

impl Model for Forest {
    fn predict(&self, row: Row<'_>, outputs: &mut [f64], _: &mut Vec<f64>) {
        let (numbers, mut coordinates, mut sum) = (self.numbers(row.dense), Vec::new(), 0.0);
        for (at, tree) in self.trees.iter().enumerate() {
            place(self.config.seed, at as u64, &numbers, row.active, &mut coordinates);
            sum += tree.displacement(tree.place(&coordinates, &mut self.random(at)));
        }
        outputs[0] = self.score(sum);
    }

    fn learn(&mut self, row: Row<'_>, example: Example, outputs: &mut [f64], _: &mut Vec<f64>) {
        let numbers = self.numbers(row.dense);
        let mass = (example.weight * f64::from(UNIT)).round().clamp(1.0, f64::from(self.config.window * UNIT)) as u32;
        let (mut coordinates, mut sum) = (Vec::new(), 0.0);
        for at in 0..self.trees.len() {
            place(self.config.seed, at as u64, &numbers, row.active, &mut coordinates);
            let mut random = self.random(at);
            let tree = &mut self.trees[at];
            let place = tree.place(&coordinates, &mut random);
            sum += tree.displacement(place);
            tree.insert(place, &coordinates, mass);
        }
        outputs[0] = self.score(sum);
        self.points.push_back(Point { numbers, categories: row.active.to_vec(), mass });
        self.mass += mass;
        self.rows += 1;
        self.shrink(&mut coordinates);
        let weight = example.weight.min(f64::from(self.config.window));
        self.spreads.iter_mut().zip(row.dense).for_each(|(spread, x)| spread.add_tamed(*x, weight));
    }

    fn tensors(&self) -> Vec<Tensor> {
        let numbers = self.points.iter().flat_map(|point| point.numbers.iter().map(|number| f64::from(*number)));
        vec![
            Tensor::row("means", self.spreads.iter().map(|spread| spread.mean).collect()),
            Tensor::row("deviations", self.spreads.iter().map(Spread::deviation).collect()),
            Tensor::table("points", self.points.len(), numbers.collect()),
        ]
    }

    fn explain(&self, names: &Names) -> Explanation {
        let Config { trees, window, .. } = self.config;
        let columns = names.dense.iter().chain(names.categories.iter().map(|(name, _)| name));
        let mut importances: Vec<(String, f64)> = columns.map(|name| (name.clone(), 0.0)).collect();
        let cuts = self.trees.iter().flat_map(Tree::cut_columns);
        let mut all = 0.0_f64;
        for column in cuts {
            all += 1.0;
            if let Some((_, count)) = importances.get_mut(column as usize) {
                *count += 1.0;
            }
        }
        importances.iter_mut().for_each(|(_, count)| *count /= all.max(1.0));
        importances.sort_by(|a, b| b.1.total_cmp(&a.1));
        let lines = vec![format!(
            "{trees} trees over the newest {} of {window} rows; importance: share of the cuts that are along a column",
            self.points.len()
        )];
        Explanation { importances, lines }
    }

    fn onnx(&self, _: &mut Graph, _: &Rows) -> Expressed {
        Err(NotExpressible::new("it puts each row that it judges into its trees, and ONNX trees do not change"))
    }

    fn fits(&self, shape: Shape) -> bool {
        self.spreads.len() == shape.dense
            && self.active as usize == shape.active
            && self.spreads.iter().all(Spread::is_sound)
            && self
                .points
                .iter()
                .flat_map(|point| &point.categories)
                .all(|category| (*category as usize) < shape.categories)
    }
}
