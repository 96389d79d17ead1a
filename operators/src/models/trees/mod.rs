//! What all trees that grow with the stream are made of: Domingos and Hulten, "Mining High-Speed Data Streams" (2000).
//!
//! A tree is flat: an [`arena::Arena`] of nodes, and a vector of leaves, each with flat statistics of what it has seen.
//! A leaf splits as soon as one column is better than all others by more than chance allows (Hoeffding's bound).

pub(super) mod adaptive_tree;
pub(super) mod arena;
pub(super) mod categories;
pub(super) mod class_leaf;
pub(super) mod class_tree;
pub(super) mod ensemble;
pub(super) mod gauss;
pub(super) mod number_leaf;
pub(super) mod number_tree;
pub(super) mod onnx;
pub(super) mod report;
pub(super) mod split;

#[cfg(test)]
mod tests;

use millstream_engine::catalogue::{Problem, Problems};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::drift::{Adwin, Detector, Level};
use super::random::Random;
use super::{Example, Row, Shape, likeliest};

/// Numbers beyond this count as this, so that sums of squares have room.
pub(super) const NUMBER_MAX: f64 = 1e100;

/// More weight than this counts as this.
const WEIGHT_MAX: f64 = 1e12;

/// By what a split is judged.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Criterion {
    /// By how many bits it lowers the entropy of the classes.
    #[default]
    InfoGain,
    /// By how much it lowers the probability that two rows drawn from a leaf are of different classes.
    Gini,
}

/// How a leaf predicts.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Voting {
    /// By how often it has seen each class.
    Majority,
    /// By naive Bayes over what it has seen.
    NaiveBayes,
    /// By whichever of the two was right more often in this leaf.
    #[default]
    Adaptive,
}

/// How a tree of classes grows: the settings, read by every tree of a forest.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(super) struct Growth {
    /// Between attempts to split a leaf, it sees examples of this weight.
    pub(super) grace_period: f64,
    /// The probability that a split is not the best one.
    pub(super) delta: f64,
    /// Below this bound two columns count as equally good, and one of them is taken.
    pub(super) tau: f64,
    pub(super) criterion: Criterion,
    pub(super) voting: Voting,
    pub(super) max_depth: u32,
    pub(super) max_leaves: u32,
    pub(super) drop_poor_columns: bool,
    /// How many columns, chosen at random, each leaf looks at; 0 for all.
    pub(super) columns_per_leaf: u32,
}

/// What an example teaches a tree of classes: the class and its weight.
#[inline]
pub(super) fn labelled(example: Example, classes: u32) -> (u32, f64) {
    ((example.target as u32).min(classes.max(2) - 1), example.weight.min(WEIGHT_MAX))
}

/// What an example teaches a tree of numbers: the target and its weight.
#[inline]
pub(super) fn measured(example: Example) -> (f64, f64) {
    (example.target.clamp(-NUMBER_MAX, NUMBER_MAX), example.weight.min(WEIGHT_MAX))
}

/// Notes what is not between two bounds.
pub(super) fn within<T: Copy + PartialOrd + std::fmt::Display>(
    problems: &mut Problems,
    path: &str,
    value: T,
    low: T,
    high: T,
) {
    if !(low..=high).contains(&value) {
        let message = format!("{value} is not between {low} and {high}");
        problems.push(Problem::new(path, "out-of-range", message));
    }
}

/// The numbers of some columns of a row, bounded.
#[inline]
pub(super) fn gather(row: Row<'_>, columns: &[u32], numbers: &mut [f64]) {
    if columns.len() == row.dense.len() {
        for (number, x) in numbers.iter_mut().zip(row.dense) {
            *number = x.clamp(-NUMBER_MAX, NUMBER_MAX);
        }
    } else {
        for (number, column) in numbers.iter_mut().zip(columns) {
            *number = row.dense[*column as usize].clamp(-NUMBER_MAX, NUMBER_MAX);
        }
    }
}

/// How far the mean of `count` values in a range may be from the truth, but for probability `delta`.
pub(super) fn hoeffding_bound(range: f64, delta: f64, count: f64) -> f64 {
    range * (-libm::log(delta) / (2.0 * count)).sqrt()
}

/// Lets `fill` give the probabilities of all classes, and makes outputs of them: of two classes, only the second one's.
#[inline]
pub(super) fn with_votes(outputs: &mut [f64], fill: impl FnOnce(&mut [f64])) {
    if let [output] = outputs {
        let mut votes = [0.0; 2];
        fill(&mut votes);
        *output = votes[1];
    } else {
        fill(outputs);
    }
}

/// All columns of rows of a shape, the numbers first.
pub(super) fn all_columns(shape: Shape) -> Vec<u32> {
    (0..(shape.dense + shape.active) as u32).collect()
}

/// So many of the columns (0 for all), chosen at random: those of numbers, and those of categories.
fn choose_columns(columns: &[u32], count: u32, dense: u32, random: &mut Random) -> (Vec<u32>, Vec<u32>) {
    let mut columns = columns.to_vec();
    let count = count as usize;
    if count > 0 && count < columns.len() {
        random.choose(&mut columns, count);
        columns.truncate(count);
        columns.sort_unstable();
    }
    let numbers = columns.partition_point(|column| *column < dense);
    let categories = columns[numbers..].iter().map(|column| column - dense).collect();
    columns.truncate(numbers);
    (columns, categories)
}

/// The likeliest of two classes or more.
pub(super) fn best(votes: &[f64]) -> usize {
    match votes {
        [_, yes] => likeliest(std::slice::from_ref(yes)),
        _ => likeliest(votes),
    }
}

/// Whether errors have become more frequent.
#[inline]
pub(super) fn grew(adwin: &mut Adwin, error: f64) -> bool {
    let before = adwin.mean();
    adwin.update(error) == Level::Change && adwin.mean() > before
}

/// Lends a buffer; a small one costs no allocation.
pub(super) fn with_buffer(length: usize, work: impl FnOnce(&mut [f64])) {
    let mut small = [0.0; 16];
    match small.get_mut(..length) {
        Some(buffer) => work(buffer),
        None => work(&mut vec![0.0; length]),
    }
}
