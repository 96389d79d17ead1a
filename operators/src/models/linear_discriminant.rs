//! Linear discriminant analysis by sufficient statistics: classes differ in their means, and spread alike around them.

use std::sync::Arc;

use millstream_engine::catalogue::{Kind, Planned, schema_of};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::bayes;
use super::discriminant::{Config, Places, Scatter};
use super::learner::Erased;
use super::onnx::{Expressed, Graph, Rows};
use super::symmetric::{cells, dot, due, factor, solve};
use super::{Design, Example, Explanation, Forget, Model, ModelKind, Names, Row, Shape, Task, Tensor};

/// Linear discriminant analysis.
pub static KIND: ModelKind = Kind {
    name: "linear_discriminant",
    about: "The probability of each class: numbers of all classes follow bell-shaped clouds of one shape around each class's own means \
            (Fisher, 1936), and each category has its share in a class, independent of all else.\n\n\
            No steps, no order: the same examples give the same model in any order, and an example that is taken back leaves no trace. \
            Takes columns of any scale as they are. It costs the square of the number of columns in memory and time. With more than 32 \
            columns (of two classes), it is solved anew only when the number of examples has grown by a 64th; the sums are always exact.",
    schema: schema_of::<Config>,
    example: "shrinkage: 1",
    plan,
};

fn plan(value: &Value) -> Planned<Design> {
    let config = Config::checked(value)?;
    let parameters = serde_json::to_value(config).expect("numbers can be written");
    let make = move |shape| Erased::new(Linear::new(shape, config), Task::Classification, shape).forgetting().boxed();
    Ok(Design { forgets: true, ..Design::new(KIND.name, Task::Classification, parameters, Arc::new(make)) })
}

#[derive(Clone, Debug, Deserialize, Serialize)]
struct Linear {
    scatter: Scatter,
    places: Places,
    /// What follows: for each class the weights of standardised numbers, and what is added.
    weights: Vec<f64>,
    biases: Vec<f64>,
}

impl Linear {
    fn new(shape: Shape, config: Config) -> Self {
        let classes = bayes::classes(shape);
        Self {
            scatter: Scatter::new(shape, config, 1),
            places: Places::new(shape.dense, classes),
            weights: vec![0.0; classes * shape.dense],
            biases: vec![0.0; classes],
        }
    }

    /// Solves for the weights anew, if it is time for that.
    fn refresh(&mut self) {
        let (numbers, classes) = (self.scatter.numbers, self.biases.len());
        if numbers == 0 || !due(classes, numbers, self.scatter.examples) {
            return;
        }
        if self.scatter.classes.total() <= 0.0 {
            self.places = Places::new(numbers, classes);
            self.weights.fill(0.0);
            self.biases.fill(0.0);
            return;
        }
        let mut covariance = vec![0.0; cells(numbers)];
        self.scatter.places(&mut self.places, &mut covariance);
        factor(&mut covariance, numbers);
        self.weights.copy_from_slice(&self.places.centres);
        for (class, bias) in self.biases.iter_mut().enumerate() {
            let own = class * numbers..(class + 1) * numbers;
            solve(&covariance, &mut self.weights[own.clone()]);
            *bias = -0.5 * dot(&self.weights[own.clone()], &self.places.centres[own]);
        }
    }
}

impl Model for Linear {
    fn predict(&self, row: Row<'_>, outputs: &mut [f64], scratch: &mut Vec<f64>) {
        let classes = &self.scatter.classes;
        if classes.total() <= 0.0 {
            return bayes::uniform(outputs);
        }
        let numbers = row.dense.len();
        scratch.clear();
        scratch.extend(row.dense.iter().enumerate().map(|(at, x)| self.places.standardised(at, *x)));
        scratch.extend_from_slice(&self.biases);
        let (standardised, logarithms) = scratch.split_at_mut(numbers);
        for (class, logarithm) in logarithms.iter_mut().enumerate() {
            *logarithm += dot(&self.weights[class * numbers..][..numbers], standardised);
        }
        self.scatter.categories.logarithms(row.active, classes, self.scatter.config.smoothing, logarithms);
        bayes::posterior(logarithms, outputs);
    }

    fn learn(&mut self, row: Row<'_>, example: Example, outputs: &mut [f64], scratch: &mut Vec<f64>) {
        self.predict(row, outputs, scratch);
        self.scatter.learn(row, example);
        self.refresh();
    }

    fn tensors(&self) -> Vec<Tensor> {
        let Scatter { classes, categories, .. } = &self.scatter;
        vec![
            Tensor::row("class_weights", classes.weights().to_vec()),
            Tensor::row("means", self.places.means.clone()),
            Tensor::row("deviations", self.places.deviations.clone()),
            Tensor::table("weights", classes.len(), self.weights.clone()),
            Tensor::row("biases", self.biases.clone()),
            Tensor::table("categories", categories.len(classes), categories.weights()),
        ]
    }

    fn explain(&self, names: &Names) -> Explanation {
        let heading = "weight of one standard deviation of a number in the logarithm of each class's probability; \
                       importance: the largest difference of two classes";
        let mut lines = vec![heading.to_owned()];
        lines.extend(self.scatter.classes.lines(names));
        bayes::explain_shares(&self.scatter.classes, &self.weights, names, lines)
    }

    fn onnx(&self, graph: &mut Graph, rows: &Rows) -> Expressed {
        let Scatter { classes, categories, config, .. } = &self.scatter;
        if classes.total() <= 0.0 {
            return Ok(bayes::uniform_onnx(graph, rows, classes.len()));
        }
        let (shares, categories) = categories.logarithm_tables(classes, config.smoothing);
        let biases: Vec<f64> = self.biases.iter().zip(&shares).map(|(bias, share)| bias + share).collect();
        let weights = bayes::turned(&self.weights, classes.len());
        let numbers = self.places.onnx(graph, rows);
        let logarithms = rows.sums(graph, numbers, &weights, &categories, &biases);
        Ok(bayes::posterior_onnx(graph, logarithms, classes.len()))
    }

    fn fits(&self, shape: Shape) -> bool {
        let classes = bayes::classes(shape);
        let numbers = |numbers: &[f64], len: usize| numbers.len() == len && numbers.iter().all(|x| x.is_finite());
        self.scatter.fits(shape, 1)
            && self.places.fits(shape.dense, classes)
            && numbers(&self.weights, classes * shape.dense)
            && numbers(&self.biases, classes)
    }
}

impl Forget for Linear {
    fn forget(&mut self, row: Row<'_>, example: Example, _: &mut Vec<f64>) {
        self.scatter.forget(row, example);
        self.refresh();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Shape;
    use super::super::samples::{Pupil, Random};

    /// Two clouds of one shape, whose border is known.
    #[test]
    fn the_border_between_two_clouds_is_found() {
        let mut random = Random::seeded(7);
        let shape = Shape { dense: 2, active: 1, categories: 2, classes: 2 };
        let mut pupil = Pupil::new(&json!("linear_discriminant"), shape);
        let mut worst: f64 = 0.0;
        for row in 0..20_000 {
            let class = f64::from(random.uniform() < 0.5);
            let category = u32::from(random.uniform() < if class > 0.0 { 0.6 } else { 0.3 });
            let (a, b) = (random.normal(), random.normal());
            // Covariance [[1, 0.8], [0.8, 1]], means (0, 0) and (1, 0).
            let x = [a + class, 0.8 * a + 0.6 * b];
            let got = pupil.learn(&[1e6 * x[0], 2000.0 + 1e-3 * x[1]], &[category], class);
            // Inverse covariance times the difference of means: (1, -0.8) / 0.36.
            let odds =
                ((x[0] - 0.5) - 0.8 * x[1]) / 0.36 + if category == 1 { 2_f64.ln() } else { (4.0 / 7.0_f64).ln() };
            let want = 1.0 / (1.0 + (-odds).exp());
            worst = if row < 10_000 { 0.0 } else { worst.max((got - want).abs()) };
        }
        assert!(worst < 0.06, "{worst}");
    }
}
