//! A tree of numbers that grows: Ikonomovska, Gama and Džeroski, "Learning model trees from evolving data streams" (2011).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::random::Random;
use super::super::{Explanation, Names, Row, Shape, Tensor};
use super::arena::Arena;
use super::number_leaf::{Candidate, NumberLeaf};
use super::{NUMBER_MAX, choose_columns, hoeffding_bound, report};

/// For linear models, a number is at most so many standard deviations from its mean.
pub(super) const NORMAL_MAX: f64 = 5.0;

/// How a leaf predicts.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(in super::super) enum Predicting {
    /// By the mean of the targets that it has seen.
    Mean,
    /// By a linear model of the numbers.
    Linear,
    /// By whichever of the two erred less of late.
    #[default]
    Adaptive,
}

/// How a tree of numbers grows: the settings, read by every tree of a forest.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(in super::super) struct Growth {
    pub(in super::super) grace_period: f64,
    pub(in super::super) delta: f64,
    pub(in super::super) tau: f64,
    pub(in super::super) predicting: Predicting,
    pub(in super::super) max_depth: u32,
    pub(in super::super) max_leaves: u32,
    /// How many columns, chosen at random, each leaf looks at; 0 for all.
    pub(in super::super) columns_per_leaf: u32,
    /// Means are of examples of this weight; older ones fade.
    pub(in super::super) memory: f64,
}

/// Running mean and sum of squared differences.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
struct Moments {
    mean: f64,
    squares: f64,
}

impl Moments {
    #[inline]
    fn add(&mut self, x: f64, weight: f64, share: f64) {
        let difference = x - self.mean;
        self.mean += difference * share;
        self.squares += weight * difference * (x - self.mean);
    }

    fn is_finite(&self) -> bool {
        self.mean.is_finite() && self.squares.is_finite()
    }
}

/// The tree. Settings come with each call: a forest has them once.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(in super::super) struct NumberTree {
    arena: Arena,
    leaves: Vec<NumberLeaf>,
    columns: Vec<u32>,
    dense: u32,
    importances: Vec<f64>,
    random: Random,
    /// Of the targets and, where leaves have linear models, of the numbers.
    count: f64,
    target: Moments,
    numbers: Vec<Moments>,
}

impl NumberTree {
    /// A tree that may look at these columns, numbers before categories.
    pub(in super::super) fn new(shape: Shape, growth: &Growth, columns: Vec<u32>, random: Random) -> Self {
        let linear = growth.predicting != Predicting::Mean;
        let mut tree = Self {
            arena: Arena::new(),
            leaves: Vec::new(),
            columns,
            dense: shape.dense as u32,
            importances: vec![0.0; shape.dense + shape.active],
            random,
            count: 0.0,
            target: Moments::default(),
            numbers: vec![Moments::default(); if linear { shape.dense } else { 0 }],
        };
        let weights = vec![0.0; if linear { shape.dense + 1 } else { 0 }];
        let root = tree.leaf(growth, 0, (0.0, 0.0), weights);
        tree.leaves.push(root);
        tree
    }

    fn leaf(&mut self, growth: &Growth, depth: u32, start: (f64, f64), weights: Vec<f64>) -> NumberLeaf {
        let (numbers, categories) =
            choose_columns(&self.columns, growth.columns_per_leaf, self.dense, &mut self.random);
        NumberLeaf::new(depth, numbers, categories, start, weights)
    }

    /// Puts the numbers, as distances from their means in standard deviations, at the front of `scratch`.
    fn normalise(&self, row: Row<'_>, scratch: &mut Vec<f64>) {
        scratch.resize((self.numbers.len() + self.dense as usize).max(scratch.len()), 0.0);
        for ((z, x), moments) in scratch.iter_mut().zip(row.dense).zip(&self.numbers) {
            let deviation = (moments.squares / self.count).sqrt();
            let distance = x.clamp(-NUMBER_MAX, NUMBER_MAX) - moments.mean;
            *z = if deviation > 0.0 { (distance / deviation).clamp(-NORMAL_MAX, NORMAL_MAX) } else { 0.0 };
        }
    }

    /// Mean and standard deviation of the targets.
    pub(in super::super) fn scale(&self) -> (f64, f64) {
        let variance = if self.count > 0.0 { self.target.squares / self.count } else { 0.0 };
        (self.target.mean, variance.max(0.0).sqrt())
    }

    /// Predicts the target.
    pub(in super::super) fn predict(&self, growth: &Growth, row: Row<'_>, scratch: &mut Vec<f64>) -> f64 {
        self.normalise(row, scratch);
        let (_, leaf) = self.arena.find(0, row);
        self.leaves[leaf].predict(growth.predicting, &scratch[..self.numbers.len()], self.scale())
    }

    /// Learns a target with a weight above 0; gives what [`NumberTree::predict`] gave just before.
    pub(in super::super) fn learn(
        &mut self,
        growth: &Growth,
        row: Row<'_>,
        (target, weight): (f64, f64),
        scratch: &mut Vec<f64>,
    ) -> f64 {
        self.normalise(row, scratch);
        let (node, leaf) = self.arena.find(0, row);
        let (normal, rest) = scratch.split_at_mut(self.numbers.len());
        let predicted = self.leaves[leaf].predict(growth.predicting, normal, self.scale());
        self.count += weight;
        let share = weight / self.count;
        self.target.add(target, weight, share);
        for (moments, x) in self.numbers.iter_mut().zip(row.dense) {
            moments.add(x.clamp(-NUMBER_MAX, NUMBER_MAX), weight, share);
        }
        let scale = self.scale();
        self.leaves[leaf].learn(growth, row, (target, weight), normal, scale, rest);
        if self.leaves[leaf].is_due(growth) && self.leaves.len() < growth.max_leaves as usize {
            self.try_split(growth, node, leaf);
        }
        predicted
    }

    /// Splits a leaf if the second best column is worth less of the best one than chance would allow it.
    fn try_split(&mut self, growth: &Growth, node: usize, at: usize) {
        let leaf = &self.leaves[at];
        let bound = hoeffding_bound(1.0, growth.delta, leaf.seen());
        let mut candidates = leaf.candidates();
        candidates.sort_by(|a, b| b.merit.total_cmp(&a.merit));
        let Some(best) = candidates.first() else { return };
        let second = candidates.get(1).map_or(0.0, |second| second.merit);
        if second / best.merit < 1.0 - bound || bound < growth.tau {
            self.split(growth, node, at, *best);
        }
    }

    fn split(&mut self, growth: &Growth, node: usize, at: usize, best: Candidate) {
        let (depth, seen) = (self.leaves[at].depth + 1, self.leaves[at].seen());
        let [yes, no] = self.leaves[at].sides(&best);
        self.importances[best.test.column(self.dense as usize)] += best.merit * seen;
        let weights = self.leaves[at].weights().to_vec();
        let (yes, no) = (self.leaf(growth, depth, yes, weights.clone()), self.leaf(growth, depth, no, weights));
        self.leaves[at] = yes;
        self.leaves.push(no);
        self.arena.split(node, best.test, at, self.leaves.len() - 1);
    }

    pub(super) fn arena(&self) -> &Arena {
        &self.arena
    }

    /// What a leaf says: a number and, where it predicts by a linear model, what is added for each normalised number.
    pub(super) fn leaf_terms(&self, growth: &Growth, leaf: usize) -> (f64, Option<Vec<f64>>) {
        let (leaf, (mean, deviation)) = (&self.leaves[leaf], self.scale());
        match leaf.weights().split_last() {
            Some((bias, weights)) if leaf.is_linear(growth.predicting) => {
                (mean + deviation * bias, Some(weights.iter().map(|weight| deviation * weight).collect()))
            }
            _ => (leaf.mean().0, None),
        }
    }

    /// The mean of each number, and one over its standard deviation, or 0 where it does not vary.
    pub(super) fn normals(&self) -> impl Iterator<Item = (f64, f64)> {
        self.numbers.iter().map(|moments| {
            let deviation = (moments.squares / self.count).sqrt();
            (moments.mean, if deviation > 0.0 { 1.0 / deviation } else { 0.0 })
        })
    }

    pub(in super::super) fn importances(&self) -> &[f64] {
        &self.importances
    }

    /// How many leaves it has.
    pub(in super::super) fn size(&self) -> usize {
        self.leaves.len()
    }

    /// The tree as text.
    pub(in super::super) fn explain(&self, names: &Names) -> Explanation {
        let leaf = |at: usize| {
            let (mean, count) = self.leaves[at].mean();
            format!("{mean:.6} ({count:.0} examples)")
        };
        let mut lines =
            vec![format!("{} leaves; importance: share of a column in what the splits are worth", self.size())];
        lines.extend(report::lines(self.arena.nodes(), names, leaf));
        Explanation { importances: report::importances(self.importances(), names), lines }
    }

    /// The nodes, and what each leaf predicts by.
    pub(in super::super) fn tensors(&self, prefix: &str) -> Vec<Tensor> {
        let mut tensors = report::tensors(prefix, self.arena.nodes(), self.dense as usize);
        let means = self.leaves.iter().map(|leaf| leaf.mean().0).collect();
        tensors.push(Tensor::row(format!("{prefix}means"), means));
        if !self.numbers.is_empty() {
            let (mean, deviation) = self.scale();
            let count = self.count.max(f64::MIN_POSITIVE);
            let deviations = self.numbers.iter().map(|moments| (moments.squares / count).max(0.0).sqrt()).collect();
            tensors.push(Tensor::row(format!("{prefix}target"), vec![mean, deviation]));
            let means = self.numbers.iter().map(|moments| moments.mean).collect();
            tensors.push(Tensor::row(format!("{prefix}number_means"), means));
            tensors.push(Tensor::row(format!("{prefix}number_deviations"), deviations));
            let leaves = self.leaves.iter().enumerate();
            tensors.extend(leaves.flat_map(|(at, leaf)| leaf.tensors(&format!("{prefix}leaves/{at}/"))));
        }
        tensors
    }

    /// Whether this (restored) tree takes rows of this shape.
    pub(in super::super) fn fits(&self, shape: Shape, growth: &Growth) -> bool {
        let linear = growth.predicting != Predicting::Mean;
        self.dense as usize == shape.dense
            && self.numbers.len() == if linear { shape.dense } else { 0 }
            && self.numbers.iter().chain([&self.target]).all(Moments::is_finite)
            && self.count >= 0.0
            && self.columns.iter().all(|column| (*column as usize) < shape.dense + shape.active)
            && self.columns.is_sorted_by(|a, b| a < b)
            && self.importances.len() == shape.dense + shape.active
            && self.arena.fits(shape, self.leaves.len(), std::iter::empty())
            && self.leaves.iter().all(|leaf| leaf.fits(shape, linear))
    }
}
