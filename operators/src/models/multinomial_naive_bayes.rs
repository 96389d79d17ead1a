//! Multinomial naive Bayes: numbers count how often something occurs, and each class has its own shares of occurrences.

use std::sync::Arc;

use millstream_engine::catalogue::{Kind, Planned, configuration, schema_of};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::bayes::{self, Classes, Product};
use super::learner::Erased;
use super::onnx::{Expressed, Graph, Rows};
use super::ranges::Ranges;
use super::sums::{COUNTED_MAX, Number, Sums, counted};
use super::{Design, Example, Explanation, Forget, Model, ModelKind, Names, Row, Shape, Task, Tensor};

/// Multinomial naive Bayes.
pub static KIND: ModelKind = Kind {
    name: "multinomial_naive_bayes",
    about: "The probability of each class: each draws what occurs in a row, as the words of a text, from its own shares.\n\n\
            Numbers say how often something occurs (below 0 counts as 0), and each category occurs once. Sums are exact, so an \
            example that is taken back leaves no trace. (McCallum and Nigam, \"A comparison of event models for naive Bayes \
            text classification\", 1998.)",
    schema: schema_of::<Config>,
    example: "smoothing: 1",
    plan,
};

/// Settings of multinomial naive Bayes.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    /// As if each thing had occurred so many times more in each class; from 0.000001 to 1000000. 1 is Laplace's rule.
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
    let make = move |shape| {
        Erased::new(MultinomialBayes::new(shape, config), Task::Classification, shape).forgetting().boxed()
    };
    Ok(Design { forgets: true, ..Design::new(KIND.name, Task::Classification, parameters, Arc::new(make)) })
}

#[derive(Clone, Debug, Deserialize, Serialize)]
struct MultinomialBayes {
    config: Config,
    classes: Classes,
    /// Of each class: how much occurred.
    occurrences: Sums,
    /// Of each class, for each number: how often it occurred.
    numbers: Sums,
    /// Of each category, for each class: how often it occurred.
    categories: Sums,
    /// What follows from the sums: for each class and number, the logarithm of its occurrences and the smoothing.
    logarithms: Vec<f64>,
}

impl MultinomialBayes {
    fn new(shape: Shape, config: Config) -> Self {
        let classes = bayes::classes(shape);
        Self {
            config,
            classes: Classes::new(classes),
            occurrences: Sums::new(classes),
            numbers: Sums::new(classes * shape.dense),
            categories: Sums::new(classes * shape.categories),
            logarithms: vec![libm::log(config.smoothing); classes * shape.dense],
        }
    }

    /// The occurrences in a class, the smoothing included.
    fn whole(&self, class: usize) -> f64 {
        let things = (self.numbers.len() + self.categories.len()) / self.classes.len();
        self.occurrences.value(class).max(0.0) + self.config.smoothing * things.max(1) as f64
    }

    fn change(&mut self, row: Row<'_>, class: usize, weight: Number) {
        self.classes.add(class, weight);
        for (at, x) in (class * row.dense.len()..).zip(row.dense) {
            if *x > 0.0 {
                let term = Number::of(*x).weighted(weight);
                self.numbers.add(at, term);
                self.occurrences.add(class, term);
                self.logarithms[at] = libm::log(self.numbers.value(at).max(0.0) + self.config.smoothing);
            }
        }
        for category in row.active {
            self.categories.add(*category as usize * self.classes.len() + class, weight.term());
            self.occurrences.add(class, weight.term());
        }
    }

    /// The share of each class's occurrences for each number.
    fn shares(&self) -> Vec<f64> {
        let numbers = self.numbers.len() / self.classes.len();
        let cell =
            |cell: usize| (self.numbers.value(cell).max(0.0) + self.config.smoothing) / self.whole(cell / numbers);
        (0..self.numbers.len()).map(cell).collect()
    }
}

impl Model for MultinomialBayes {
    fn predict(&self, row: Row<'_>, outputs: &mut [f64], scratch: &mut Vec<f64>) {
        if self.classes.total() <= 0.0 {
            return bayes::uniform(outputs);
        }
        let count = self.classes.len();
        let occur = row.dense.iter().map(|x| counted(*x).max(0.0)).sum::<f64>() + row.active.len() as f64;
        scratch.clear();
        scratch.extend((0..count).map(|class| {
            let logarithms = &self.logarithms[class * row.dense.len()..][..row.dense.len()];
            let numbers: f64 = row.dense.iter().zip(logarithms).map(|(x, log)| counted(*x).max(0.0) * log).sum();
            let mut product = Product::ONE;
            product.times(self.classes.prior(class));
            for category in row.active {
                let occurred = self.categories.value(*category as usize * count + class).max(0.0);
                product.times(occurred + self.config.smoothing);
            }
            product.log() + numbers - occur * libm::log(self.whole(class))
        }));
        bayes::posterior(scratch, outputs);
    }

    fn learn(&mut self, row: Row<'_>, example: Example, outputs: &mut [f64], scratch: &mut Vec<f64>) {
        self.predict(row, outputs, scratch);
        self.change(row, self.classes.of(example), Number::weight(example.weight));
    }

    fn tensors(&self) -> Vec<Tensor> {
        let categories = (0..self.categories.len()).map(|at| self.categories.value(at)).collect();
        let whole = (0..self.classes.len()).map(|class| self.whole(class)).collect();
        vec![
            Tensor::row("class_weights", self.classes.weights().to_vec()),
            Tensor::row("occurrences", whole),
            Tensor::table("logarithms", self.classes.len(), self.logarithms.clone()),
            Tensor::table("categories", self.categories.len() / self.classes.len(), categories),
        ]
    }

    fn explain(&self, names: &Names) -> Explanation {
        let heading = "share of each class's occurrences; importance: the largest difference of two classes";
        let mut lines = vec![heading.to_owned()];
        lines.extend(self.classes.lines(names));
        bayes::explain_shares(&self.classes, &self.shares(), names, lines)
    }

    fn onnx(&self, graph: &mut Graph, rows: &Rows) -> Expressed {
        if self.classes.total() <= 0.0 {
            return Ok(bayes::uniform_onnx(graph, rows, self.classes.len()));
        }
        let classes = self.classes.len();
        let wholes: Vec<f64> = (0..classes).map(|class| libm::log(self.whole(class))).collect();
        let share = |cell: usize| {
            let occurred = self.categories.value(cell).max(0.0);
            libm::log(occurred + self.config.smoothing) - wholes[cell % classes]
        };
        let categories: Vec<f64> = (0..self.categories.len()).map(share).collect();
        let mut weights = bayes::turned(&self.logarithms, classes);
        weights.iter_mut().enumerate().for_each(|(cell, weight)| *weight -= wholes[cell % classes]);
        let biases: Vec<f64> = (0..classes).map(|class| libm::log(self.classes.prior(class))).collect();
        let numbers = rows.numbers.map(|numbers| graph.clamp(numbers, 0.0, COUNTED_MAX));
        let logarithms = rows.sums(graph, numbers, &weights, &categories, &biases);
        Ok(bayes::posterior_onnx(graph, logarithms, classes))
    }

    fn fits(&self, shape: Shape) -> bool {
        let classes = bayes::classes(shape);
        self.classes.fits(classes)
            && self.occurrences.len() == classes
            && self.numbers.len() == classes * shape.dense
            && shape.categories.checked_mul(classes) == Some(self.categories.len())
            && self.logarithms.len() == classes * shape.dense
            && self.logarithms.iter().all(|logarithm| logarithm.is_finite())
    }
}

impl Forget for MultinomialBayes {
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
        let mut random = Random::seeded(3);
        let shape = Shape { dense: 3, active: 1, categories: 2, classes: 2 };
        let mut pupil = Pupil::new(&json!("multinomial_naive_bayes"), shape);
        // Occurrences of the five things, the categories last; and the class.
        let mut seen: Vec<([f64; 5], bool)> = Vec::new();
        for _ in 0..200 {
            let class = random.uniform() < 0.3;
            let mut count = |most: usize| random.below(most) as f64;
            let dense = [count(3), count(if class { 9 } else { 4 }), count(2)];
            let category = random.below(2);
            let mut x = [dense[0], dense[1], dense[2], 0.0, 0.0];
            x[3 + category] = 1.0;
            let got = pupil.learn(&dense, &[category as u32], f64::from(class));
            let density = |class: bool| {
                let own = || seen.iter().filter(move |(_, c)| *c == class);
                let all: f64 = own().map(|(x, _)| x.iter().sum::<f64>()).sum();
                let share = |at: usize| (own().map(|(x, _)| x[at]).sum::<f64>() + 1.0) / (all + 5.0);
                (own().count() as f64 + 0.5) * (0..5).map(|at| share(at).powf(x[at])).product::<f64>()
            };
            let want = density(true) / (density(true) + density(false));
            assert!((got - want).abs() < 1e-12, "{got}, textbook {want}");
            seen.push((x, class));
        }
    }
}
