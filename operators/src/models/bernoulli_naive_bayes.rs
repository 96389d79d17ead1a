//! Bernoulli naive Bayes: each number is only above a threshold or not, and each class has its own shares of that.

use std::sync::Arc;

use millstream_engine::catalogue::{Kind, Planned, configuration, schema_of};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::bayes::{self, Categories, Classes, Product};
use super::learner::Erased;
use super::onnx::{Expressed, Graph, Rows};
use super::ranges::Ranges;
use super::sums::{Number, Sums};
use super::{Design, Example, Explanation, Forget, Model, ModelKind, Names, Row, Shape, Task, Tensor};

/// Bernoulli naive Bayes.
pub static KIND: ModelKind = Kind {
    name: "bernoulli_naive_bayes",
    about: "The probability of each class: in each, every number is above a threshold with a probability of its own, every \
            category has its share, and all are independent of each other.\n\n\
            For columns of yes and no, and words that a text contains or does not. Sums are exact, so an example that is \
            taken back leaves no trace.",
    schema: schema_of::<Config>,
    example: "threshold: 0.5",
    plan,
};

/// Settings of Bernoulli naive Bayes.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    /// A number above this is a yes; from -1e100 to 1e100.
    threshold: f64,
    /// As if so many more examples had said yes, and so many no, in each class, and so many more had been in each category;
    /// from 0.000001 to 1000000. 1 is Laplace's rule.
    smoothing: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self { threshold: 0.0, smoothing: 1.0 }
    }
}

fn plan(value: &Value) -> Planned<Design> {
    let config: Config = configuration(value)?;
    let ranges = Ranges::default().within("threshold", config.threshold, -1e100, 1e100);
    ranges.within("smoothing", config.smoothing, 1e-6, 1e6).finish()?;
    let parameters = serde_json::to_value(config).expect("numbers can be written");
    let make =
        move |shape| Erased::new(BernoulliBayes::new(shape, config), Task::Classification, shape).forgetting().boxed();
    Ok(Design { forgets: true, ..Design::new(KIND.name, Task::Classification, parameters, Arc::new(make)) })
}

#[derive(Clone, Debug, Deserialize, Serialize)]
struct BernoulliBayes {
    config: Config,
    classes: Classes,
    categories: Categories,
    /// Of each class for each number: the weight of the examples in which it was above the threshold.
    yes: Sums,
}

impl BernoulliBayes {
    fn new(shape: Shape, config: Config) -> Self {
        let classes = bayes::classes(shape);
        Self {
            config,
            classes: Classes::new(classes),
            categories: Categories::new(shape.categories, classes),
            yes: Sums::new(classes * shape.dense),
        }
    }

    /// The probability that a number is above the threshold in a class, times `weight + 2 smoothing`.
    #[inline]
    fn yes(&self, class: usize, numbers: usize, at: usize) -> f64 {
        self.yes.value(class * numbers + at).clamp(0.0, self.classes.weight(class)) + self.config.smoothing
    }

    fn change(&mut self, row: Row<'_>, class: usize, weight: Number) {
        self.classes.add(class, weight);
        self.categories.add(row.active, class, &self.classes, weight);
        for (at, x) in row.dense.iter().enumerate() {
            if *x > self.config.threshold {
                self.yes.add(class * row.dense.len() + at, weight.term());
            }
        }
    }

    /// The probability of yes for each class and number.
    fn probabilities(&self) -> Vec<f64> {
        let numbers = self.yes.len() / self.classes.len();
        let cell = |cell: usize| {
            let class = cell / numbers;
            self.yes(class, numbers, cell % numbers) / (self.classes.weight(class) + 2.0 * self.config.smoothing)
        };
        (0..self.yes.len()).map(cell).collect()
    }
}

impl Model for BernoulliBayes {
    fn predict(&self, row: Row<'_>, outputs: &mut [f64], scratch: &mut Vec<f64>) {
        if self.classes.total() <= 0.0 {
            return bayes::uniform(outputs);
        }
        let numbers = row.dense.len();
        scratch.clear();
        scratch.extend((0..self.classes.len()).map(|class| {
            let whole = self.classes.weight(class) + 2.0 * self.config.smoothing;
            let mut product = Product::ONE;
            for (at, x) in row.dense.iter().enumerate() {
                let yes = self.yes(class, numbers, at);
                product.times(if *x > self.config.threshold { yes } else { whole - yes });
            }
            product.log() - numbers as f64 * libm::log(whole)
        }));
        self.categories.logarithms(row.active, &self.classes, self.config.smoothing, scratch);
        bayes::posterior(scratch, outputs);
    }

    fn learn(&mut self, row: Row<'_>, example: Example, outputs: &mut [f64], scratch: &mut Vec<f64>) {
        self.predict(row, outputs, scratch);
        self.change(row, self.classes.of(example), Number::weight(example.weight));
    }

    fn tensors(&self) -> Vec<Tensor> {
        vec![
            Tensor::row("class_weights", self.classes.weights().to_vec()),
            Tensor::table("probabilities", self.classes.len(), self.probabilities()),
            Tensor::table("categories", self.categories.len(&self.classes), self.categories.weights()),
        ]
    }

    fn explain(&self, names: &Names) -> Explanation {
        let heading = "probability of a number above the threshold in each class; importance: the largest difference of two classes";
        let mut lines = vec![heading.to_owned()];
        lines.extend(self.classes.lines(names));
        bayes::explain_shares(&self.classes, &self.probabilities(), names, lines)
    }

    fn onnx(&self, graph: &mut Graph, rows: &Rows) -> Expressed {
        if self.classes.total() <= 0.0 {
            return Ok(bayes::uniform_onnx(graph, rows, self.classes.len()));
        }
        let (classes, smoothing) = (self.classes.len(), self.config.smoothing);
        let (mut biases, categories) = self.categories.logarithm_tables(&self.classes, smoothing);
        let mut weights = vec![0.0; self.yes.len()];
        let numbers = rows.shape.dense;
        for (class, bias) in biases.iter_mut().enumerate() {
            let whole = self.classes.weight(class) + 2.0 * smoothing;
            for at in 0..numbers {
                let yes = self.yes(class, numbers, at);
                *bias += libm::log((whole - yes) / whole);
                weights[at * classes + class] = libm::log(yes / (whole - yes));
            }
        }
        let above = rows.numbers.map(|numbers| {
            let threshold = graph.scalar(self.config.threshold);
            let above = graph.apply("Greater", &[numbers, threshold]);
            graph.as_doubles(above)
        });
        let logarithms = rows.sums(graph, above, &weights, &categories, &biases);
        Ok(bayes::posterior_onnx(graph, logarithms, classes))
    }

    fn fits(&self, shape: Shape) -> bool {
        let classes = bayes::classes(shape);
        self.classes.fits(classes) && self.categories.fits(shape) && self.yes.len() == classes * shape.dense
    }
}

impl Forget for BernoulliBayes {
    fn forget(&mut self, row: Row<'_>, example: Example, _: &mut Vec<f64>) {
        self.change(row, self.classes.of(example), Number::weight(example.weight).negated());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Shape;
    use super::super::samples::{Pupil, Random};

    #[test]
    fn it_is_the_textbooks() {
        let mut random = Random::seeded(2);
        let shape = Shape { dense: 3, active: 0, categories: 0, classes: 2 };
        let mut pupil = Pupil::new(&json!({"bernoulli_naive_bayes": {"threshold": 0.5, "smoothing": 2.0}}), shape);
        let mut seen: Vec<([bool; 3], bool)> = Vec::new();
        for _ in 0..200 {
            let class = random.uniform() < 0.3;
            let yes =
                [random.uniform() < 0.2, random.uniform() < if class { 0.9 } else { 0.4 }, random.uniform() < 0.5];
            let got = pupil.learn(&yes.map(|yes| if yes { 0.7 } else { 0.5 }), &[], f64::from(class));
            let density = |class: bool| {
                let own = || seen.iter().filter(move |(_, c)| *c == class);
                let count = own().count() as f64;
                let factor = |at: usize| {
                    let p = (own().filter(|(x, _)| x[at]).count() as f64 + 2.0) / (count + 4.0);
                    if yes[at] { p } else { 1.0 - p }
                };
                (count + 0.5) * (0..3).map(factor).product::<f64>()
            };
            let want = density(true) / (density(true) + density(false));
            assert!((got - want).abs() < 1e-12, "{got}, textbook {want}");
            seen.push((yes, class));
        }
    }
}
