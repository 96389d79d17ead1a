//! Ridge regression by sufficient statistics: after each example the exact solution for all so far.

use std::sync::Arc;

use millstream_engine::catalogue::{Kind, Planned, configuration, schema_of};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::learner::Erased;
use super::onnx::{Expressed, Graph, Rows};
use super::ranges::Ranges;
use super::sums::{COUNTED_MAX, Double, Number, Sums, counted};
use super::symmetric::{cell, cells, due, factor, solve};
use super::{Design, Example, Explanation, Forget, Model, ModelKind, Names, Row, Shape, Task, Tensor};

/// Ridge regression.
pub static KIND: ModelKind = Kind {
    name: "ridge_regression",
    about: "A number: the weighted sum of the features with the least squared error over all examples so far, weights kept small \
            (Hoerl and Kennard, 1970).\n\n\
            No steps, no order: the same examples give the same weights in any order, and an example that is taken back leaves no trace. \
            Takes columns of any scale as they are. It costs the square of the number of columns and categories in memory and time. \
            With more than 32 of them, the weights are solved anew only when the number of examples has grown by a 64th; the sums are \
            always exact.",
    schema: schema_of::<Config>,
    example: "l2: 1",
    plan,
};

/// Settings of ridge regression.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    /// Pulls the weights of standardised numbers and of categories towards zero, as strongly as so many examples would;
    /// from 0.000001 to 1000000000.
    l2: f64,
    /// The largest number of categories that have a weight of their own: of more, those whose numbers leave the same
    /// remainder share one. From 1 to 4096.
    categories: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { l2: 1.0, categories: 128 }
    }
}

fn plan(value: &Value) -> Planned<Design> {
    let config: Config = configuration(value)?;
    let ranges = Ranges::default().within("l2", config.l2, 1e-6, 1e9);
    ranges.within("categories", config.categories.into(), 1.0, 4096.0).finish()?;
    let parameters = serde_json::to_value(config).expect("numbers can be written");
    let make = move |shape| Erased::new(Ridge::new(shape, config), Task::Regression, shape).forgetting().boxed();
    Ok(Design { forgets: true, ..Design::new(KIND.name, Task::Regression, parameters, Arc::new(make)) })
}

/// A number is at most so many standard deviations from its mean.
const FAR: f64 = 1e9;
/// A column that varies by less than this share of its mean's square varies by rounding only.
const CONSTANT: f64 = 1e-29;

/// Coordinates: the numbers, then the categories. The target is treated like one more number.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Ridge {
    config: Config,
    numbers: usize,
    categories: usize,
    /// How many examples it has learned and not forgotten.
    examples: u64,
    /// The weight of all; then the sums of the numbers and the target; then the weight of each category.
    firsts: Sums,
    /// The sums of the products of numbers (and the target): the lower half, row after row.
    products: Sums,
    /// Of each category, the sums of the numbers (and the target) in it.
    inside: Sums,
    /// The weights of the examples in each two categories: the lower half, row after row.
    pairs: Sums,
    solution: Solution,
    #[serde(skip)]
    work: Work,
}

/// Room to work in; no part of the state.
#[derive(Debug, Default)]
struct Work {
    /// An example's numbers and its target.
    row: Vec<Number>,
    /// The sums of the numbers and the target, and what is left of each without so many means, by rounding.
    sums: Vec<(Double, f64)>,
    /// The coordinates that vary, and their equations.
    used: Vec<usize>,
    matrix: Vec<f64>,
    b: Vec<f64>,
}

impl Clone for Work {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// What follows from the sums.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
struct Solution {
    /// Of the numbers and the target.
    means: Vec<f64>,
    deviations: Vec<f64>,
    /// Of standardised numbers and of categories, in standard deviations of the target; then what is added.
    weights: Vec<f64>,
}

impl Ridge {
    fn new(shape: Shape, config: Config) -> Self {
        let (numbers, categories) = (shape.dense, shape.categories.min(config.categories as usize));
        let variables = numbers + 1;
        Self {
            config,
            numbers,
            categories,
            examples: 0,
            firsts: Sums::new(1 + variables + categories),
            products: Sums::new(cells(variables)),
            inside: Sums::new(variables * categories),
            pairs: Sums::new(cells(categories)),
            solution: Solution {
                means: vec![0.0; variables],
                deviations: vec![0.0; variables],
                weights: vec![0.0; numbers + categories + 1],
            },
            work: Work::default(),
        }
    }

    /// The number of a category here.
    #[inline]
    fn folded(&self, category: u32) -> usize {
        category as usize % self.categories.max(1)
    }

    fn change(&mut self, row: Row<'_>, target: f64, weight: Number) {
        if weight.is_zero() {
            return;
        }
        let variables = self.numbers + 1;
        self.work.row.clear();
        self.work.row.extend(row.dense.iter().chain([&target]).map(|x| Number::of(*x)));
        self.firsts.add(0, weight.term());
        for (at, x) in self.work.row.iter().enumerate() {
            let term = x.weighted(weight);
            self.firsts.add(1 + at, term);
            for (other, y) in self.work.row[..=at].iter().enumerate() {
                self.products.add(cell(at, other), term.times(*y));
            }
        }
        for (place, category) in row.active.iter().enumerate() {
            let category = self.folded(*category);
            self.firsts.add(1 + variables + category, weight.term());
            for (at, x) in self.work.row.iter().enumerate() {
                self.inside.add(category * variables + at, x.weighted(weight));
            }
            self.pairs.add(cell(category, category), weight.term());
            for other in &row.active[..place] {
                let other = self.folded(*other);
                let at = cell(category.max(other), category.min(other));
                self.pairs.add(at, weight.term());
                // A category that the row is in twice counts as (1 + 1)^2.
                if other == category {
                    self.pairs.add(at, weight.term());
                }
            }
        }
    }

    /// Solves for the weights anew.
    fn solve(&mut self) {
        let weight = self.firsts.double(0);
        let Solution { means, deviations, weights } = &mut self.solution;
        weights.fill(0.0);
        if weight.high <= 0.0 {
            means.fill(0.0);
            deviations.fill(0.0);
            return;
        }
        for at in 0..=self.numbers {
            means[at] = self.firsts.value(1 + at) / weight.high;
        }
        let mut work = std::mem::take(&mut self.work);
        work.sums.clear();
        work.sums.extend((0..=self.numbers).map(|at| {
            let sum = self.firsts.double(1 + at);
            (sum, sum.minus(self.solution.means[at], weight).value())
        }));
        for at in 0..=self.numbers {
            let variance = self.deviation_products(at, at, &work.sums) / weight.high;
            let mean = self.solution.means[at];
            self.solution.deviations[at] = if variance > mean * mean * CONSTANT { variance.sqrt() } else { 0.0 };
        }
        self.equations(&mut work);
        factor(&mut work.matrix, work.used.len());
        solve(&work.matrix, &mut work.b);
        let mut bias = 0.0;
        for (at, x) in work.used.iter().zip(&work.b) {
            self.solution.weights[*at] = *x;
            if *at >= self.numbers {
                bias -= x * self.share(*at - self.numbers);
            }
        }
        *self.solution.weights.last_mut().expect("there is what is added") = bias;
        self.work = work;
    }

    /// Writes down the normal equations of the coordinates that vary.
    fn equations(&self, work: &mut Work) {
        let Work { sums, used, matrix, b, .. } = work;
        used.clear();
        let numbers = (0..self.numbers).filter(|at| self.solution.deviations[*at] > 0.0);
        let categories = (0..self.categories).filter(|category| self.category(*category).high > 0.0);
        used.extend(numbers.chain(categories.map(|category| self.numbers + category)));
        matrix.clear();
        b.clear();
        for (row, at) in used.iter().enumerate() {
            matrix.extend(used[..=row].iter().map(|other| self.centred(*at, *other, sums)));
            *matrix.last_mut().expect("a row has a diagonal") += self.config.l2;
            b.push(self.centred_target(*at, sums));
        }
    }

    /// The weight of a category's examples.
    fn category(&self, category: usize) -> Double {
        self.firsts.double(2 + self.numbers + category)
    }

    /// The share of a category among all examples.
    fn share(&self, category: usize) -> f64 {
        self.category(category).high / self.firsts.value(0)
    }

    /// The sum of the products of two numbers' differences from their means.
    #[inline]
    fn deviation_products(&self, at: usize, other: usize, sums: &[(Double, f64)]) -> f64 {
        let means = &self.solution.means;
        self.products.double(cell(at, other)).minus(means[at], sums[other].0).value() - means[other] * sums[at].1
    }

    /// The sum of the products of two coordinates' differences from their means, numbers standardised; the first is not
    /// before the second.
    fn centred(&self, at: usize, other: usize, sums: &[(Double, f64)]) -> f64 {
        let deviations = &self.solution.deviations;
        if at < self.numbers {
            return self.deviation_products(at, other, sums) / (deviations[at] * deviations[other]);
        }
        let category = at - self.numbers;
        if other < self.numbers {
            return self.in_category(category, other);
        }
        let other = other - self.numbers;
        self.pairs.value(cell(category, other)) - self.category(category).high * self.share(other)
    }

    /// The sum of a standardised number (or the target) over the examples of a category.
    fn in_category(&self, category: usize, at: usize) -> f64 {
        let sum = self.inside.double(category * (self.numbers + 1) + at);
        sum.minus(self.solution.means[at], self.category(category)).value() / self.solution.deviations[at]
    }

    /// The same of a coordinate and the target.
    fn centred_target(&self, at: usize, sums: &[(Double, f64)]) -> f64 {
        let target = self.numbers;
        if self.solution.deviations[target] <= 0.0 {
            0.0
        } else if at < self.numbers {
            let deviations = self.solution.deviations[at] * self.solution.deviations[target];
            self.deviation_products(target, at, sums) / deviations
        } else {
            self.in_category(at - self.numbers, target)
        }
    }

    /// The weighted sum of a row, in standard deviations of the target from its mean.
    #[inline]
    fn sum(&self, row: Row<'_>) -> f64 {
        let Solution { means, deviations, weights } = &self.solution;
        let mut sum = weights[self.numbers + self.categories];
        for (at, x) in row.dense.iter().enumerate() {
            if deviations[at] > 0.0 {
                sum += weights[at] * ((counted(*x) - means[at]) / deviations[at]).clamp(-FAR, FAR);
            }
        }
        row.active.iter().for_each(|category| sum += weights[self.numbers + self.folded(*category)]);
        sum
    }
}

impl Model for Ridge {
    fn predict(&self, row: Row<'_>, outputs: &mut [f64], _: &mut Vec<f64>) {
        let Solution { means, deviations, .. } = &self.solution;
        outputs[0] = means[self.numbers] + deviations[self.numbers] * self.sum(row);
    }

    fn learn(&mut self, row: Row<'_>, example: Example, outputs: &mut [f64], scratch: &mut Vec<f64>) {
        self.predict(row, outputs, scratch);
        self.change(row, example.target, Number::weight(example.weight));
        self.examples += 1;
        if due(2, self.numbers + self.categories, self.examples) {
            self.solve();
        }
    }

    fn tensors(&self) -> Vec<Tensor> {
        let (numbers, rest) = self.solution.weights.split_at(self.numbers);
        vec![
            Tensor::row("weights", numbers.to_vec()),
            Tensor::row("categories", rest[..self.categories].to_vec()),
            Tensor::row("bias", rest[self.categories..].to_vec()),
            Tensor::row("means", self.solution.means[..self.numbers].to_vec()),
            Tensor::row("deviations", self.solution.deviations[..self.numbers].to_vec()),
            Tensor::row("label_mean", vec![self.solution.means[self.numbers]]),
            Tensor::row("label_deviation", vec![self.solution.deviations[self.numbers]]),
        ]
    }

    fn explain(&self, names: &Names) -> Explanation {
        let Solution { means, deviations, weights } = &self.solution;
        let name = |at: usize| match at.checked_sub(self.numbers) {
            Some(category) => names.category(category as u32),
            None => names.dense.get(at).cloned().unwrap_or_else(|| format!("number {at}")),
        };
        let mut order: Vec<usize> = (0..self.numbers + self.categories).filter(|at| weights[*at] != 0.0).collect();
        order.sort_by(|a, b| weights[*b].abs().total_cmp(&weights[*a].abs()));
        let deviation = deviations[self.numbers];
        let mut lines = vec![
            format!("{} examples; the target is {:.6} ± {deviation:.6}", self.examples, means[self.numbers]),
            "effect of one standard deviation of a number, or of being in a category, in units of the target; \
             importance: its size in standard deviations of the target"
                .to_owned(),
        ];
        lines.extend(order.iter().map(|at| {
            let effect = weights[*at] * deviation;
            match deviations[..self.numbers].get(*at) {
                Some(own) => format!("{} {effect:+.6} per {own:.6}", name(*at)),
                None => format!("{} {effect:+.6}", name(*at)),
            }
        }));
        Explanation { importances: order.into_iter().map(|at| (name(at), weights[at].abs())).collect(), lines }
    }

    fn onnx(&self, graph: &mut Graph, rows: &Rows) -> Expressed {
        let Solution { means, deviations, weights } = &self.solution;
        let numbers = rows.standardised(graph, COUNTED_MAX, &means[..self.numbers], &deviations[..self.numbers]);
        let numbers = numbers.map(|numbers| graph.clamp(numbers, -FAR, FAR));
        let (dense, rest) = weights.split_at(self.numbers);
        let categories: Vec<f64> =
            (0..rows.shape.categories as u32).map(|category| rest[self.folded(category)]).collect();
        let sum = rows.sums(graph, numbers, dense, &categories, &rest[self.categories..]);
        let apart = graph.scale(sum, deviations[self.numbers]);
        Ok(graph.shift(apart, means[self.numbers]))
    }

    fn fits(&self, shape: Shape) -> bool {
        let new = Self { solution: Solution::default(), ..Self::new(shape, self.config) };
        let numbers = |numbers: &[f64], len: usize| numbers.len() == len && numbers.iter().all(|x| x.is_finite());
        self.numbers == new.numbers
            && self.categories == new.categories
            && self.firsts.len() == new.firsts.len()
            && self.products.len() == new.products.len()
            && self.inside.len() == new.inside.len()
            && self.pairs.len() == new.pairs.len()
            && numbers(&self.solution.means, self.numbers + 1)
            && numbers(&self.solution.deviations, self.numbers + 1)
            && numbers(&self.solution.weights, self.numbers + self.categories + 1)
            && self.examples < u64::MAX / 2
    }
}

impl Forget for Ridge {
    fn forget(&mut self, row: Row<'_>, example: Example, _: &mut Vec<f64>) {
        self.change(row, example.target, Number::weight(example.weight).negated());
        self.examples = self.examples.saturating_sub(1);
        if due(2, self.numbers + self.categories, self.examples) {
            self.solve();
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Shape;
    use super::super::samples::{Pupil, Random};

    /// Minimises the squared error plus the penalty by descent along one coordinate after the other, over lists of
    /// standardised rows.
    fn naive(rows: &[Vec<f64>], targets: &[f64], l2: f64) -> (Vec<f64>, f64) {
        let (mut weights, mut bias) = (vec![0.0; rows[0].len()], 0.0);
        for _ in 0..3000 {
            let error = |weights: &[f64], bias: f64, row: usize| -> f64 {
                targets[row] - bias - rows[row].iter().zip(weights).map(|(x, w)| x * w).sum::<f64>()
            };
            bias += (0..rows.len()).map(|row| error(&weights, bias, row)).sum::<f64>() / rows.len() as f64;
            for at in 0..weights.len() {
                let slope: f64 = (0..rows.len()).map(|row| error(&weights, bias, row) * rows[row][at]).sum();
                let curve: f64 = rows.iter().map(|x| x[at] * x[at]).sum();
                weights[at] += (slope - l2 * weights[at]) / (curve + l2);
            }
        }
        (weights, bias)
    }

    #[test]
    fn it_has_the_least_penalised_error() {
        let mut random = Random::seeded(4);
        let shape = Shape { dense: 2, active: 1, categories: 3, classes: 0 };
        let mut pupil = Pupil::new(&json!({"ridge_regression": {"l2": 2.0}}), shape);
        let (mut dense, mut categories, mut targets) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..50 {
            let x = [1e9 + 3.0 * random.normal(), 1e-6 * random.normal()];
            let category = random.below(3);
            let y = 2.0 * (x[0] - 1e9) + 5e6 * x[1] + category as f64 + random.normal();
            pupil.learn(&x, &[category as u32], y);
            dense.push(x);
            categories.push(category);
            targets.push(y);
        }
        let standardise = |xs: Vec<f64>| -> Vec<f64> {
            let mean = xs.iter().sum::<f64>() / 50.0;
            let deviation = (xs.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 50.0).sqrt();
            xs.iter().map(|x| (x - mean) / deviation).collect()
        };
        let columns = [0, 1].map(|at| standardise(dense.iter().map(|x| x[at]).collect()));
        let rows: Vec<Vec<f64>> = (0..50)
            .map(|row| {
                let mut x = vec![columns[0][row], columns[1][row], 0.0, 0.0, 0.0];
                x[2 + categories[row]] = 1.0;
                x
            })
            .collect();
        let (want, bias) = naive(&rows, &standardise(targets), 2.0);
        let got = [pupil.tensor("weights"), pupil.tensor("categories")].concat();
        got.iter().zip(&want).for_each(|(got, want)| assert!((got - want).abs() < 1e-6, "{got}, naively {want}"));
        assert!((pupil.tensor("bias")[0] - bias).abs() < 1e-6);
    }

    #[test]
    fn a_known_line_is_found_at_once() {
        let mut random = Random::seeded(5);
        let shape = Shape { dense: 3, active: 0, categories: 0, classes: 0 };
        let mut pupil = Pupil::new(&json!({"ridge_regression": {"l2": 1e-6}}), shape);
        let mut row = || [1e6 * random.normal(), 2000.0 + random.normal(), 1e-9 * random.normal()];
        let truth = |x: [f64; 3]| 1e-6 * x[0] - 3.0 * x[1] + 2e9 * x[2] + 7.0;
        for _ in 0..10 {
            let x = row();
            pupil.learn(&x, &[], truth(x));
        }
        for _ in 0..10 {
            let x = row();
            let error = pupil.predict(&x, &[]) - truth(x);
            assert!(error.abs() < 1e-5, "{error}");
        }
    }

    #[test]
    fn categories_that_share_a_weight_and_columns_that_come_twice_do_no_harm() {
        let mut random = Random::seeded(6);
        let shape = Shape { dense: 2, active: 2, categories: 60, classes: 0 };
        let mut pupil = Pupil::new(&json!({"ridge_regression": {"categories": 7}}), shape);
        let mut late: f64 = 0.0;
        for row in 0..400 {
            let x = random.normal();
            let target = 3.0 * x + 100.0;
            let active = [random.below(30) as u32, 30 + random.below(30) as u32];
            let error = pupil.learn(&[x, x], &active, target) - target;
            late = if row < 300 { 0.0 } else { late.max(error.abs()) };
        }
        assert!(late < 0.1, "{late}");
    }
}
