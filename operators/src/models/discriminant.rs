//! The sums that both discriminant analyses learn, and what follows from them: each class's means, and how its examples
//! spread around them. Categories are independent of all else in a class, as in naive Bayes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use millstream_engine::catalogue::{Planned, configuration};

use super::bayes::{self, Categories, Classes};
use super::onnx::{self, Graph, Rows};
use super::ranges::Ranges;
use super::sums::{COUNTED_MAX, Double, Number, Sums, counted};
use super::symmetric::{cell, cells};
use super::{Example, Row, Shape};

/// Settings of discriminant analysis.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Config {
    /// As if so many examples for each number were added, uncorrelated, and spread like those of all classes together; from
    /// 0.000001 to 1000000. Where examples are few, this keeps chance correlations from being taken for knowledge.
    pub(super) shrinkage: f64,
    /// As if so many more examples had been in each category, of all classes as usual; from 0.000001 to 1000000.
    pub(super) smoothing: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self { shrinkage: 1.0, smoothing: 1.0 }
    }
}

impl Config {
    pub(super) fn checked(value: &Value) -> Planned<Self> {
        let config: Self = configuration(value)?;
        let ranges = Ranges::default().within("shrinkage", config.shrinkage, 1e-6, 1e6);
        ranges.within("smoothing", config.smoothing, 1e-6, 1e6).finish()?;
        Ok(config)
    }
}

/// A number is at most so many standard deviations from its mean.
const FAR: f64 = 1e6;
/// A column that varies by less than this share of its mean's square varies by rounding only.
const CONSTANT: f64 = 1e-29;

/// The sums of the classes' examples.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Scatter {
    pub(super) config: Config,
    pub(super) numbers: usize,
    /// How many examples it has learned and not forgotten.
    pub(super) examples: u64,
    pub(super) classes: Classes,
    pub(super) categories: Categories,
    /// For each class the sums of the numbers.
    firsts: Sums,
    /// For each group of classes the sums of products of numbers: the lower half, row after row.
    products: Sums,
    #[serde(skip)]
    work: Work,
}

/// Room to work in; no part of the state.
#[derive(Debug, Default)]
struct Work {
    numbers: Vec<Number>,
    /// For each class and number.
    cells: Vec<Cell>,
}

impl Clone for Work {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// The sum of a class's numbers; their mean; and what is left of the sum without so many means, by rounding.
#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    sum: Double,
    mean: f64,
    rest: f64,
}

/// Where the examples of all classes lie, and each class's.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Places {
    /// The mean and the standard deviation of each number; 0 where it does not vary.
    pub(super) means: Vec<f64>,
    pub(super) deviations: Vec<f64>,
    /// For each class the mean of each number, in standard deviations from the mean of all.
    pub(super) centres: Vec<f64>,
}

impl Places {
    pub(super) fn new(numbers: usize, classes: usize) -> Self {
        Self { means: vec![0.0; numbers], deviations: vec![0.0; numbers], centres: vec![0.0; numbers * classes] }
    }

    /// A number in standard deviations from its mean.
    #[inline]
    pub(super) fn standardised(&self, at: usize, x: f64) -> f64 {
        let deviation = self.deviations[at];
        if deviation > 0.0 { ((counted(x) - self.means[at]) / deviation).clamp(-FAR, FAR) } else { 0.0 }
    }

    /// The same of the numbers of an ONNX graph as [`Places::standardised`].
    pub(super) fn onnx(&self, graph: &mut Graph, rows: &Rows) -> Option<onnx::Edge> {
        let numbers = rows.standardised(graph, COUNTED_MAX, &self.means, &self.deviations)?;
        Some(graph.clamp(numbers, -FAR, FAR))
    }

    pub(super) fn fits(&self, numbers: usize, classes: usize) -> bool {
        let finite = |values: &[f64]| values.iter().all(|value| value.is_finite());
        self.means.len() == numbers
            && self.deviations.len() == numbers
            && self.centres.len() == numbers * classes
            && [&self.means, &self.deviations, &self.centres].into_iter().all(|values| finite(values))
    }
}

impl Scatter {
    /// With one group of all classes, or one for each class.
    pub(super) fn new(shape: Shape, config: Config, groups: usize) -> Self {
        let classes = bayes::classes(shape);
        Self {
            config,
            numbers: shape.dense,
            examples: 0,
            classes: Classes::new(classes),
            categories: Categories::new(shape.categories, classes),
            firsts: Sums::new(classes * shape.dense),
            products: Sums::new(groups * cells(shape.dense)),
            work: Work::default(),
        }
    }

    pub(super) fn learn(&mut self, row: Row<'_>, example: Example) {
        self.change(row, self.classes.of(example), Number::weight(example.weight));
        self.examples += 1;
    }

    pub(super) fn forget(&mut self, row: Row<'_>, example: Example) {
        self.change(row, self.classes.of(example), Number::weight(example.weight).negated());
        self.examples = self.examples.saturating_sub(1);
    }

    fn change(&mut self, row: Row<'_>, class: usize, weight: Number) {
        self.classes.add(class, weight);
        self.categories.add(row.active, class, &self.classes, weight);
        self.work.numbers.clear();
        self.work.numbers.extend(row.dense.iter().map(|x| Number::of(*x)));
        let one_group = self.products.len() == cells(self.numbers);
        let first = if one_group { 0 } else { class * cells(self.numbers) };
        for (at, x) in self.work.numbers.iter().enumerate() {
            let term = x.weighted(weight);
            self.firsts.add(class * self.numbers + at, term);
            for (other, y) in self.work.numbers[..=at].iter().enumerate() {
                self.products.add(first + cell(at, other), term.times(*y));
            }
        }
    }

    /// The sums of products of the differences from the class's means, over a class or over all: the lower half.
    fn within(&self, class: Option<usize>, matrix: &mut [f64]) {
        let first = class.unwrap_or(0) * cells(self.numbers);
        let classes = class.map_or(0..self.classes.len(), |class| class..class + 1);
        for at in 0..self.numbers {
            for other in 0..=at {
                let mut left = self.products.double(first + cell(at, other));
                let mut rests = 0.0;
                for class in classes.clone() {
                    let cells = &self.work.cells[class * self.numbers..][..self.numbers];
                    left = left.minus(cells[at].mean, cells[other].sum);
                    rests += cells[other].mean * cells[at].rest;
                }
                matrix[cell(at, other)] = left.value() - rests;
            }
        }
    }

    /// Reads each class's sums of numbers.
    fn read(&mut self) {
        let Self { work, classes, firsts, numbers, .. } = self;
        work.cells.clear();
        for class in 0..classes.len() {
            let weight = classes.exact_weight(class);
            work.cells.extend((class * *numbers..(class + 1) * *numbers).map(|at| {
                if classes.weight(class) <= 0.0 {
                    return Cell::default();
                }
                let sum = firsts.double(at);
                let mean = sum.value() / weight.high;
                Cell { sum, mean, rest: sum.minus(mean, weight).value() }
            }));
        }
    }

    /// Says where all lie, and gives for each group the covariances of the standardised numbers, shrunk.
    /// There must be examples, and numbers.
    pub(super) fn places(&mut self, places: &mut Places, covariances: &mut [f64]) {
        let (numbers, size) = (self.numbers, cells(self.numbers));
        let one_group = self.products.len() == size;
        let group = |group: usize| (!one_group).then_some(group);
        self.read();
        for (at, matrix) in covariances.chunks_exact_mut(size).enumerate() {
            self.within(group(at), matrix);
        }
        self.locate(places, covariances);
        let more = self.config.shrinkage * numbers as f64;
        for (at, matrix) in covariances.chunks_exact_mut(size).enumerate() {
            let whole = group(at).map_or(self.classes.total(), |class| self.classes.weight(class)) + more;
            for row in 0..numbers {
                let own = &mut matrix[cells(row)..=cell(row, row)];
                for (value, deviation) in own.iter_mut().zip(&places.deviations) {
                    let spread = places.deviations[row] * deviation;
                    *value = if spread > 0.0 { *value / (spread * whole) } else { 0.0 };
                }
                own[row] += more / whole;
            }
        }
    }

    /// Says where all lie, from the sums of squared differences on the diagonals.
    fn locate(&self, places: &mut Places, spreads: &[f64]) {
        let (numbers, total) = (self.numbers, self.classes.total());
        let seen = || (0..self.classes.len()).filter(|class| self.classes.weight(*class) > 0.0);
        let mean = |class: usize, at: usize| self.work.cells[class * numbers + at].mean;
        for at in 0..numbers {
            let overall: f64 = seen().map(|class| self.classes.weight(class) / total * mean(class, at)).sum();
            let inside: f64 = spreads.chunks_exact(cells(numbers)).map(|group| group[cell(at, at)].max(0.0)).sum();
            let between = |class: usize| self.classes.weight(class) / total * (mean(class, at) - overall).powi(2);
            let variance = inside / total + seen().map(between).sum::<f64>();
            let deviation = if variance > overall * overall * CONSTANT { variance.sqrt() } else { 0.0 };
            (places.means[at], places.deviations[at]) = (overall, deviation);
            for class in 0..self.classes.len() {
                let seen = self.classes.weight(class) > 0.0 && deviation > 0.0;
                places.centres[class * numbers + at] = if seen { (mean(class, at) - overall) / deviation } else { 0.0 };
            }
        }
    }

    pub(super) fn fits(&self, shape: Shape, groups: usize) -> bool {
        let classes = bayes::classes(shape);
        self.numbers == shape.dense
            && self.classes.fits(classes)
            && self.categories.fits(shape)
            && self.firsts.len() == classes * shape.dense
            && self.products.len() == groups * cells(shape.dense)
            && self.examples < u64::MAX / 2
    }
}
