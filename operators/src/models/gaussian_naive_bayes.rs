//! Gaussian naive Bayes: each class has its own mean and variance of each number, and its own shares of categories.

use std::fmt::Write;
use std::sync::Arc;

use millstream_engine::catalogue::{Kind, Planned, configuration, schema_of};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::bayes::{self, Categories, Classes, Product};
use super::learner::Erased;
use super::onnx::{Expressed, Graph, Rows};
use super::ranges::Ranges;
use super::sums::{COUNTED_MAX, Number, Sums, counted};
use super::{Design, Example, Explanation, Forget, Model, ModelKind, Names, Row, Shape, Task, Tensor};

/// Gaussian naive Bayes.
pub static KIND: ModelKind = Kind {
    name: "gaussian_naive_bayes",
    about: "The probability of each class: in each, every number follows a bell curve of its own, every category has its share, \
            and all are independent of each other.\n\n\
            Learns from few examples and takes columns of any scale as they are. Sums are exact, so an example that is taken back leaves no \
            trace. Probabilities are too sure where columns say the same.",
    schema: schema_of::<Config>,
    example: "smoothing: 1",
    plan,
};

/// Settings of Gaussian naive Bayes.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    /// As if so many examples, spread like those of all classes together, were added to each class and category;
    /// from 0.000001 to 1000000. More makes rare classes and categories less sure.
    smoothing: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self { smoothing: 1.0 }
    }
}

fn plan(value: &Value) -> Planned<Design> {
    let config: Config = configuration(value)?;
    Ranges::default().within("smoothing", config.smoothing, 1e-6, 1e6).finish()?;
    let parameters = serde_json::to_value(config).expect("numbers can be written");
    let make =
        move |shape| Erased::new(GaussianBayes::new(shape, config), Task::Classification, shape).forgetting().boxed();
    Ok(Design { forgets: true, ..Design::new(KIND.name, Task::Classification, parameters, Arc::new(make)) })
}

/// A number is at most so many squared deviations from a mean: beyond, nothing becomes less likely.
const FAR: f64 = 1e12;
/// A column that varies by less than this share of its mean's square varies by rounding only.
const CONSTANT: f64 = 1e-29;

#[derive(Clone, Debug, Deserialize, Serialize)]
struct GaussianBayes {
    config: Config,
    classes: Classes,
    categories: Categories,
    /// Of each class for each number: the sum, and that of the squares.
    sums: Sums,
    squares: Sums,
    /// What follows from the sums: means, and sums of squared differences from them.
    means: Vec<f64>,
    spreads: Vec<f64>,
}

impl GaussianBayes {
    fn new(shape: Shape, config: Config) -> Self {
        let classes = bayes::classes(shape);
        let cells = classes * shape.dense;
        Self {
            config,
            classes: Classes::new(classes),
            categories: Categories::new(shape.categories, classes),
            sums: Sums::new(cells),
            squares: Sums::new(cells),
            means: vec![0.0; cells],
            spreads: vec![0.0; cells],
        }
    }

    fn numbers(&self) -> usize {
        self.means.len() / self.classes.len()
    }

    /// A class's means and spreads.
    #[inline]
    fn class(&self, class: usize) -> (&[f64], &[f64]) {
        let numbers = self.numbers();
        (&self.means[class * numbers..][..numbers], &self.spreads[class * numbers..][..numbers])
    }

    /// The mean and the variance of each number over all classes; the variance of what does not vary is 0.
    fn overall(&self, means: &mut [f64], variances: &mut [f64]) {
        means.fill(0.0);
        variances.fill(0.0);
        let total = self.classes.total();
        let seen = || (0..self.classes.len()).filter(|class| self.classes.weight(*class) > 0.0);
        for class in seen() {
            let share = self.classes.weight(class) / total;
            for (mean, own) in means.iter_mut().zip(self.class(class).0) {
                *mean += share * own;
            }
        }
        for class in seen() {
            let (own_means, own_spreads) = self.class(class);
            let share = self.classes.weight(class) / total;
            for (at, variance) in variances.iter_mut().enumerate() {
                let apart = own_means[at] - means[at];
                *variance += own_spreads[at] / total + share * apart * apart;
            }
        }
        for (variance, mean) in variances.iter_mut().zip(means) {
            *variance = if *variance > *mean * *mean * CONSTANT { *variance } else { 0.0 };
        }
    }

    /// The logarithm of a row's density in a class, but for what is the same in all.
    #[inline]
    fn density(&self, class: usize, row: Row<'_>, (means, variances): (&[f64], &[f64])) -> f64 {
        let (weight, smoothing) = (self.classes.weight(class), self.config.smoothing);
        // A class without examples is like all of them together.
        let (own_means, own_spreads) = if weight > 0.0 { self.class(class) } else { (means, &[][..]) };
        let weights = weight + smoothing;
        let (mut product, mut far, mut columns) = (Product::ONE, 0.0, 0.0);
        for (at, x) in row.dense.iter().enumerate() {
            if variances[at] > 0.0 {
                let spread = own_spreads.get(at).unwrap_or(&0.0) + smoothing * variances[at];
                let apart = counted(*x) - own_means[at];
                product.times(spread);
                far += (apart * apart * (weights / spread)).min(FAR);
                columns += 1.0;
            }
        }
        0.5 * (columns * libm::log(weights) - product.log() - far)
    }

    fn change(&mut self, row: Row<'_>, class: usize, weight: Number) {
        self.classes.add(class, weight);
        self.categories.add(row.active, class, &self.classes, weight);
        let first = class * row.dense.len();
        for (at, x) in (first..).zip(row.dense) {
            let x = Number::of(*x);
            let term = x.weighted(weight);
            self.sums.add(at, term);
            self.squares.add(at, term.times(x));
        }
        let weight = self.classes.exact_weight(class);
        for at in first..first + row.dense.len() {
            (self.means[at], self.spreads[at]) = if weight.high > 0.0 {
                let sum = self.sums.double(at);
                let mean = sum.value() / weight.high;
                let rest = sum.minus(mean, weight).value();
                (mean, (self.squares.double(at).minus(mean, sum).value() - mean * rest).max(0.0))
            } else {
                (0.0, 0.0)
            };
        }
    }
}

impl Model for GaussianBayes {
    fn predict(&self, row: Row<'_>, outputs: &mut [f64], scratch: &mut Vec<f64>) {
        if self.classes.total() <= 0.0 {
            return bayes::uniform(outputs);
        }
        let (classes, numbers) = (self.classes.len(), row.dense.len());
        scratch.resize(classes + 2 * numbers, 0.0);
        let (logarithms, overall) = scratch[..classes + 2 * numbers].split_at_mut(classes);
        let (means, variances) = overall.split_at_mut(numbers);
        self.overall(means, variances);
        for (class, logarithm) in logarithms.iter_mut().enumerate() {
            *logarithm = self.density(class, row, (means, variances));
        }
        self.categories.logarithms(row.active, &self.classes, self.config.smoothing, logarithms);
        bayes::posterior(logarithms, outputs);
    }

    fn learn(&mut self, row: Row<'_>, example: Example, outputs: &mut [f64], scratch: &mut Vec<f64>) {
        self.predict(row, outputs, scratch);
        self.change(row, self.classes.of(example), Number::weight(example.weight));
    }

    fn tensors(&self) -> Vec<Tensor> {
        let classes = self.classes.len();
        vec![
            Tensor::row("class_weights", self.classes.weights().to_vec()),
            Tensor::table("means", classes, self.means.clone()),
            Tensor::table("spreads", classes, self.spreads.clone()),
            Tensor::table("categories", self.categories.len(&self.classes), self.categories.weights()),
        ]
    }

    fn explain(&self, names: &Names) -> Explanation {
        let numbers = self.numbers();
        let (mut means, mut variances) = (vec![0.0; numbers], vec![0.0; numbers]);
        self.overall(&mut means, &mut variances);
        let inside = |at: usize| -> f64 { (0..self.classes.len()).map(|class| self.class(class).1[at]).sum() };
        let apart = |at: usize| match variances[at] {
            0.0 => 0.0,
            variance => (1.0 - inside(at) / self.classes.total() / variance).clamp(0.0, 1.0),
        };
        let mut order: Vec<(usize, f64)> = (0..numbers).map(|at| (at, apart(at))).collect();
        order.sort_by(|a, b| b.1.total_cmp(&a.1));
        let name = |at: usize| names.dense.get(at).cloned().unwrap_or_else(|| format!("number {at}"));
        let mut lines = vec![
            "mean ± standard deviation in each class; importance: share of the variance that lies between classes"
                .to_owned(),
        ];
        lines.extend(self.classes.lines(names));
        for (at, _) in &order {
            let mut line = name(*at);
            for class in (0..self.classes.len()).filter(|class| self.classes.weight(*class) > 0.0) {
                let (means, spreads) = self.class(class);
                let deviation = (spreads[*at] / self.classes.weight(class)).sqrt();
                // Writing to a string cannot fail.
                let _ = write!(line, "  {}: {:.6} ± {deviation:.6}", bayes::class_name(names, class), means[*at]);
            }
            lines.push(line);
        }
        Explanation { importances: order.into_iter().map(|(at, apart)| (name(at), apart)).collect(), lines }
    }

    fn onnx(&self, graph: &mut Graph, rows: &Rows) -> Expressed {
        if self.classes.total() <= 0.0 {
            return Ok(bayes::uniform_onnx(graph, rows, self.classes.len()));
        }
        let (classes, numbers, smoothing) = (self.classes.len(), self.numbers(), self.config.smoothing);
        let (mut means, mut variances) = (vec![0.0; numbers], vec![0.0; numbers]);
        self.overall(&mut means, &mut variances);
        let (shares, categories) = self.categories.logarithm_tables(&self.classes, smoothing);
        let mut logarithms = rows.sums(graph, None, &[], &categories, &shares);
        // Of each class: what its densities are at most, and of each number, from what it is measured, and by what its square counts.
        let (mut most, mut centres, mut factors) = (vec![0.0; classes], Vec::new(), Vec::new());
        for (class, most) in most.iter_mut().enumerate() {
            let weight = self.classes.weight(class);
            let (own_means, own_spreads) = if weight > 0.0 { self.class(class) } else { (&means[..], &[][..]) };
            let weights = weight + smoothing;
            centres.extend_from_slice(own_means);
            for (at, variance) in variances.iter().enumerate() {
                let spread = own_spreads.get(at).unwrap_or(&0.0) + smoothing * variance;
                let varies = *variance > 0.0;
                *most += if varies { libm::log(weights) - libm::log(spread) } else { 0.0 };
                factors.push(if varies { (weights / spread).min(f64::MAX) } else { 0.0 });
            }
        }
        if let Some(apart) = rows.apart(graph, COUNTED_MAX, &centres) {
            let squares = graph.multiply(apart, apart);
            let far = rows.times(graph, squares, &factors);
            let far = graph.at_most(far, FAR);
            let far = graph.sum(far, 2);
            let most = graph.doubles(&[classes], &most);
            let twice = graph.subtract(most, far);
            let densities = graph.scale(twice, 0.5);
            logarithms = graph.add(densities, logarithms);
        }
        Ok(bayes::posterior_onnx(graph, logarithms, classes))
    }

    fn fits(&self, shape: Shape) -> bool {
        let classes = bayes::classes(shape);
        let cells = classes * shape.dense;
        let numbers = |numbers: &[f64]| numbers.len() == cells && numbers.iter().all(|number| number.is_finite());
        self.classes.fits(classes)
            && self.categories.fits(shape)
            && self.sums.len() == cells
            && self.squares.len() == cells
            && numbers(&self.means)
            && numbers(&self.spreads)
    }
}

impl Forget for GaussianBayes {
    fn forget(&mut self, row: Row<'_>, example: Example, _: &mut Vec<f64>) {
        self.change(row, self.classes.of(example), Number::weight(example.weight).negated());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Shape;
    use super::super::samples::{Pupil, Random};

    /// The textbook's formula over lists of examples: bell curves of each class's mean and variance, to whose squares
    /// one example of the variance of all is added; shares of categories, plus one example of all.
    fn textbook(seen: &[(f64, u32, bool)], (x, category): (f64, u32)) -> f64 {
        let n = seen.len() as f64;
        let mean = |xs: &[f64]| xs.iter().sum::<f64>() / xs.len() as f64;
        let squares = |xs: &[f64]| xs.iter().map(|x| (x - mean(xs)).powi(2)).sum::<f64>();
        let all: Vec<f64> = seen.iter().map(|(x, ..)| *x).collect();
        let density = |class: bool| {
            let own: Vec<f64> = seen.iter().filter(|(.., c)| *c == class).map(|(x, ..)| *x).collect();
            let count = own.len() as f64;
            let variance = (squares(&own) + squares(&all) / n) / (count + 1.0);
            let bell = (-(x - mean(&own)).powi(2) / (2.0 * variance)).exp() / variance.sqrt();
            let inside = seen.iter().filter(|(_, k, c)| *k == category && *c == class).count() as f64;
            (count + 0.5) / (n + 1.0) * bell * (inside / count + 1.0 / n)
        };
        density(true) / (density(true) + density(false))
    }

    #[test]
    fn it_is_the_textbooks() {
        let mut random = Random::seeded(1);
        let shape = Shape { dense: 1, active: 1, categories: 3, classes: 2 };
        let mut pupil = Pupil::new(&json!("gaussian_naive_bayes"), shape);
        let mut seen = Vec::new();
        for row in 0..200 {
            let class = row == 1 || (row > 1 && random.uniform() < 0.4);
            let x = 2000.0 + random.normal() * if class { 3.0 } else { 1.0 };
            let category = if class { random.below(3) } else { random.below(2) } as u32;
            let got = pupil.learn(&[x], &[category], f64::from(class));
            if row > 1 {
                let want = textbook(&seen, (x, category));
                assert!((got - want).abs() < 1e-9, "row {row}: {got}, textbook {want}");
            }
            seen.push((x, category, class));
        }
    }

    #[test]
    fn columns_that_do_not_vary_say_nothing() {
        let shape = Shape { dense: 2, active: 0, categories: 0, classes: 2 };
        let mut pupil = Pupil::new(&json!("gaussian_naive_bayes"), shape);
        for row in 0..30 {
            pupil.learn(&[0.1, f64::from(row % 3 == 0)], &[], f64::from(row % 3 == 0));
        }
        let usual = pupil.predict(&[0.1, 1.0], &[]);
        assert_eq!(usual, pupil.predict(&[1e300, 1.0], &[]));
        assert!(usual > 0.9, "{usual}");
    }
}
