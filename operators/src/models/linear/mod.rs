//! A weighted sum of the features, learned by one of the update rules: what both regressions are made of.
//!
//! Safe on columns of any scale and any offset without preparation: a feature counts as `(x - mean) / scale`, where
//! `mean` is its running mean and `scale` its largest distance from that so far. So it is in [-1, 1], and in a request
//! never beyond. Without the mean, a column like the year would be a second bias, and its small changes lost.

#[cfg(test)]
mod oracles;
#[cfg(test)]
mod properties;
mod update;

use std::sync::Arc;

use millstream_engine::catalogue::{Planned, configuration};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use self::update::{Rule, Update};
use super::learner::Erased;
use super::{Design, Example, Explanation, Make, Model, ModelKind, Names, Row, Shape, Task, Tensor, component};

/// Settings of linear models.
#[derive(Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Config {
    /// How the weights move with each example.
    update: Update,
}

/// Checks the settings, and picks the update rule once for all rows.
pub(super) fn plan<L: Loss>(kind: &ModelKind, task: Task, value: &Value) -> Planned<Design> {
    let config: Config = configuration(&with_full_update(value)?)?;
    let below = |problem: millstream_engine::catalogue::Problem| problem.under("update");
    config.update.check().map_err(|problems| problems.into_iter().map(below).collect::<Vec<_>>())?;
    let make = match config.update {
        Update::Sgd(rule) => make::<L, _>(task, rule),
        Update::Adagrad(rule) => make::<L, _>(task, rule),
        Update::Ftrl(rule) => make::<L, _>(task, rule),
    };
    let parameters = serde_json::to_value(&config).expect("numbers can be written");
    Ok(Design { classes_max: 2, ..Design::new(kind.name, task, parameters, make) })
}

fn make<L: Loss, R: Rule>(task: Task, rule: R) -> Make {
    Arc::new(move |shape| Erased::new(Linear::<L, _>::new(shape, rule), task, shape).boxed())
}

/// Writes `update: name` as `update: {name: {}}`.
fn with_full_update(value: &Value) -> Planned<Value> {
    let mut value = value.clone();
    if let Some(update) = value.get_mut("update") {
        let (name, config) = component(update, "unknown-update", "update rule", update::NAMES)
            .map_err(|problem| vec![problem.under("update")])?;
        *update = json!({name: config});
    }
    Ok(value)
}

/// From the weighted sum to a prediction, and how wrong that is.
pub(super) trait Loss: Clone + Default + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Whether the gradient grows with the error, so that a long step can overshoot the target.
    const OVERSHOOTS: bool;

    /// The prediction from the weighted sum.
    fn output(&self, sum: f64) -> f64;

    /// Takes note of a target, before the gradient is asked for.
    fn observe(&mut self, target: f64);

    /// The bounded derivative of the loss with regard to the sum, where `output` belongs to `sum`
    /// (unless [`Loss::observe`] moved it).
    fn gradient(&self, sum: f64, output: f64, target: f64) -> f64;

    /// What is needed to turn sums into predictions.
    fn tensors(&self) -> Vec<Tensor>;
}

/// A linear model. Its coordinates: the numbers, then the bias, then the categories.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(bound = "")]
pub(super) struct Linear<L: Loss, R: Rule> {
    rule: R,
    loss: L,
    weights: Vec<f64>,
    cells: Vec<R::Cell>,
    /// The mean of each number so far.
    means: Vec<f64>,
    /// The largest distance of each number from its mean so far.
    scales: Vec<f64>,
    /// Sum over all rows of their squared norms, and how many rows that were.
    norms: f64,
    rows: f64,
}

impl<L: Loss, R: Rule> Linear<L, R> {
    pub(super) fn new(shape: Shape, rule: R) -> Self {
        let coordinates = shape.dense + 1 + shape.categories;
        Self {
            rule,
            loss: L::default(),
            weights: vec![0.0; coordinates],
            cells: vec![R::Cell::default(); coordinates],
            means: vec![0.0; shape.dense],
            // Not zero, so that nothing is ever divided by zero.
            scales: vec![f64::MIN_POSITIVE; shape.dense],
            norms: 0.0,
            rows: 0.0,
        }
    }

    /// Normalises the row's numbers into `scaled`, and gives the weighted sum.
    #[inline]
    fn sum(&self, row: Row<'_>, scaled: &mut Vec<f64>) -> f64 {
        scaled.clear();
        let numbers = row.dense.iter().zip(&self.means).zip(&self.scales);
        scaled.extend(numbers.map(|((x, mean), scale)| (distance(*x, *mean) / scale).clamp(-1.0, 1.0)));
        let (dense, rest) = self.weights.split_at(scaled.len());
        let categories: f64 = row.active.iter().map(|&category| rest[1 + category as usize]).sum();
        dot(dense, scaled) + rest[0] + categories
    }

    /// Raises the scales to the row's numbers; true if any was raised.
    #[inline]
    fn grow(&mut self, dense: &[f64]) -> bool {
        let mut numbers = dense.iter().zip(&self.means).zip(&self.scales);
        if !numbers.any(|((x, mean), scale)| distance(*x, *mean).abs() > *scale) {
            return false;
        }
        for (at, x) in dense.iter().enumerate() {
            let (old, new) = (self.scales[at], distance(*x, self.means[at]).abs());
            if new > old {
                self.scales[at] = new;
                self.rule.rescale(&mut self.weights[at], &mut self.cells[at], old / new);
            }
        }
        true
    }

    /// Moves the means, by a part of this row that shrinks as rows add up.
    #[inline]
    fn centre(&mut self, dense: &[f64]) {
        let share = 1.0 / self.rows;
        for (mean, x) in self.means.iter_mut().zip(dense) {
            *mean += distance(*x, *mean) * share;
        }
    }

    /// How far the sum would move per unit of gradient.
    #[inline]
    fn reach(&self, row: Row<'_>, scaled: &[f64], pace: f64, gradient: f64) -> f64 {
        let (dense, rest) = self.cells.split_at(scaled.len());
        let moved = |cell: R::Cell, z: f64| self.rule.rate(pace, cell, gradient * z) * z * z;
        let categories: f64 = row.active.iter().map(|&category| moved(rest[1 + category as usize], 1.0)).sum();
        dense.iter().zip(scaled).map(|(cell, z)| moved(*cell, *z)).sum::<f64>() + moved(rest[0], 1.0) + categories
    }

    #[inline]
    fn step(&mut self, row: Row<'_>, scaled: &[f64], pace: f64, gradient: f64, damping: f64) {
        let rule = self.rule;
        let (weights, weights_rest) = self.weights.split_at_mut(scaled.len());
        let (cells, cells_rest) = self.cells.split_at_mut(scaled.len());
        for ((weight, cell), z) in weights.iter_mut().zip(cells).zip(scaled) {
            rule.step(pace, weight, cell, gradient * z, damping);
        }
        rule.unregularised().step(pace, &mut weights_rest[0], &mut cells_rest[0], gradient, damping);
        for &category in row.active {
            let at = 1 + category as usize;
            rule.step(pace, &mut weights_rest[at], &mut cells_rest[at], gradient, damping);
        }
    }
}

impl<L: Loss, R: Rule> Model for Linear<L, R> {
    fn predict(&self, row: Row<'_>, outputs: &mut [f64], scratch: &mut Vec<f64>) {
        outputs[0] = self.loss.output(self.sum(row, scratch));
    }

    fn learn(&mut self, row: Row<'_>, example: Example, outputs: &mut [f64], scratch: &mut Vec<f64>) {
        let target = example.target;
        let mut sum = self.sum(row, scratch);
        let mut output = self.loss.output(sum);
        outputs[0] = output;
        self.rows += 1.0;
        if self.rows < 2.0 {
            // Nothing is unusual about the first row.
            self.centre(row.dense);
            self.sum(row, scratch);
        }
        if self.grow(row.dense) {
            sum = self.sum(row, scratch);
            output = self.loss.output(sum);
        }
        self.norms += dot(scratch, scratch) + 1.0 + row.active.len() as f64;
        self.loss.observe(target);
        let pace = self.rule.pace(self.norms / self.rows);
        let gradient = example.weight * self.loss.gradient(sum, output, target);
        // The implicit step: towards the target, however long, but never past it.
        let damping = if L::OVERSHOOTS { 1.0 / (1.0 + self.reach(row, scratch, pace, gradient)) } else { 1.0 };
        self.step(row, scratch, pace, gradient, damping);
        self.centre(row.dense);
    }

    fn tensors(&self) -> Vec<Tensor> {
        let (weights, rest) = self.weights.split_at(self.scales.len());
        let mut tensors = vec![
            Tensor::row("weights", weights.to_vec()),
            Tensor::row("means", self.means.clone()),
            Tensor::row("scales", self.scales.clone()),
            Tensor::row("bias", rest[..1].to_vec()),
            Tensor::row("categories", rest[1..].to_vec()),
        ];
        tensors.extend(self.loss.tensors());
        tensors
    }

    fn explain(&self, names: &Names) -> Explanation {
        let (weights, rest) = self.weights.split_at(self.scales.len());
        let numbers = names.dense.iter().cloned().zip(weights.iter().copied());
        let categories = (0..).zip(&rest[1..]).filter(|(_, weight)| **weight != 0.0);
        let mut weights: Vec<(String, f64)> =
            numbers.chain(categories.map(|(category, weight)| (names.category(category), *weight))).collect();
        weights.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()));
        let mut lines = vec![
            "weighted sum of (x - mean) / scale, each in [-1, 1], and of the row's categories; importance: size of the weight"
                .to_owned(),
            format!("bias {:+.6}", rest[0]),
        ];
        lines.extend(weights.iter().map(|(name, weight)| format!("{name} {weight:+.6}")));
        let importances = weights.into_iter().map(|(name, weight)| (name, weight.abs())).collect();
        Explanation { importances, lines }
    }

    fn fits(&self, shape: Shape) -> bool {
        let coordinates = shape.dense + 1 + shape.categories;
        self.means.len() == shape.dense
            && self.scales.len() == shape.dense
            && self.weights.len() == coordinates
            && self.cells.len() == coordinates
    }
}

/// How far a number is from its mean; numbers so large that this would overflow count as less.
#[inline]
fn distance(x: f64, mean: f64) -> f64 {
    x.clamp(-1e300, 1e300) - mean
}

/// A sum in four interleaved parts: fixed in order, and four times as fast as one chain of additions.
#[inline]
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut parts = [0.0; 4];
    let (a, b) = (a.chunks_exact(4), b.chunks_exact(4));
    let rest: f64 = a.remainder().iter().zip(b.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a.zip(b) {
        for at in 0..4 {
            parts[at] += x[at] * y[at];
        }
    }
    (parts[0] + parts[1]) + (parts[2] + parts[3]) + rest
}
