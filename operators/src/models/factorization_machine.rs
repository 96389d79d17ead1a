//! The factorisation machine itself, which the classifier and the regressor share.

use std::sync::Arc;

use millstream_engine::catalogue::{Planned, configuration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::factorization::{FACTORS_MAX, Table};
use super::learner::Erased;
use super::linear::{Loss, Scaling, within};
use super::onnx::{Expressed, Graph, Rows};
use super::{Design, Example, Explanation, Model, ModelKind, Names, Row, Shape, Task, Tensor};

/// Settings of factorisation machines.
#[derive(Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Config {
    /// How many factors each column or category has, from 1 to 256.
    factors: u32,
    /// The size of Adagrad's first steps, from 1e-9 to 1.
    learning_rate: f64,
    /// Pulls weights and factors towards zero, in proportion to them; from 0 to 1.
    l2: f64,
    /// The standard deviation of the factors at first, above 0, up to 1.
    deviation: f64,
    /// Chooses the factors at first.
    seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { factors: 10, learning_rate: 0.1, l2: 0.0, deviation: 0.1, seed: 0 }
    }
}

/// Checks the settings.
pub(super) fn plan<L: Loss + Default>(kind: &ModelKind, task: Task, value: &Value) -> Planned<Design> {
    let config: Config = configuration(value)?;
    within(
        "",
        &[
            ("factors", f64::from(config.factors), 1.0, f64::from(FACTORS_MAX)),
            ("learning_rate", config.learning_rate, 1e-9, 1.0),
            ("l2", config.l2, 0.0, 1.0),
            ("deviation", config.deviation, 1e-9, 1.0),
        ],
    )?;
    let parameters = serde_json::to_value(&config).expect("numbers can be written");
    let make = Arc::new(move |shape| Erased::new(Machine::<L>::new(shape, &config), task, shape).boxed());
    Ok(Design { classes_max: 2, ..Design::new(kind.name, task, parameters, make) })
}

/// A factorisation machine of the second order, learned by Adagrad. Its coordinates: the numbers, then the categories.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(bound = "")]
struct Machine<L: Loss> {
    learning_rate: f64,
    l2: f64,
    loss: L,
    scaling: Scaling,
    bias: [f64; 2],
    table: Table,
    /// The sums of the squared gradients, shaped as the table.
    squares: Table,
}

/// No gradient of a factor is longer: interactions of long factors could grow without end.
const LONGEST: f64 = 100.0;

impl<L: Loss + Default> Machine<L> {
    fn new(shape: Shape, config: &Config) -> Self {
        let (coordinates, factors) = (shape.dense + shape.categories, config.factors as usize);
        Self {
            learning_rate: config.learning_rate,
            l2: config.l2,
            loss: L::default(),
            scaling: Scaling::new(shape, true),
            bias: [0.0; 2],
            table: Table::new(coordinates, factors, config.deviation, config.seed),
            squares: Table::zeros(coordinates, factors),
        }
    }
}

/// A step of Adagrad.
#[inline]
fn adagrad(pace: f64, l2: f64, weight: &mut f64, squares: &mut f64, gradient: f64) {
    let gradient = gradient.clamp(-LONGEST, LONGEST) + l2 * *weight;
    *squares += gradient * gradient;
    // The smallest number makes 0/0 a zero, and is lost in any other sum.
    *weight -= pace * gradient / (*squares + f64::MIN_POSITIVE).sqrt();
}

impl<L: Loss> Machine<L> {
    /// The places of a row's features, and how much each counts.
    #[inline]
    fn features<'a>(scaled: &'a [f64], active: &'a [u32]) -> impl Iterator<Item = (usize, f64)> + 'a {
        let categories = active.iter().map(move |category| (scaled.len() + *category as usize, 1.0));
        scaled.iter().copied().enumerate().chain(categories)
    }

    /// The sum over features and their pairs. `scratch` starts with the scaled numbers; after them come, for each factor, the sum
    /// over the features (Rendle's lemma 3.1: pairs cost no more than features).
    #[inline]
    fn sum(&self, row: Row<'_>, scratch: &mut Vec<f64>) -> f64 {
        let dense = row.dense.len();
        scratch.truncate(dense);
        scratch.resize(dense + self.table.factors(), 0.0);
        if self.scaling.rows() == 0.0 {
            // Factors are random at first, but that is no reason to prefer a class.
            return 0.0;
        }
        let (scaled, sums) = scratch.split_at_mut(dense);
        let (mut linear, mut own) = (self.bias[0], 0.0);
        for (at, x) in Self::features(scaled, row.active) {
            let values = self.table.row(at);
            linear += values[0] * x;
            for (sum, factor) in sums.iter_mut().zip(&values[1..]) {
                let part = factor * x;
                *sum += part;
                own += part * part;
            }
        }
        let pairs: f64 = sums.iter().map(|sum| sum * sum).sum();
        linear + 0.5 * (pairs - own)
    }

    #[inline]
    fn step(&mut self, row: Row<'_>, scratch: &[f64], pace: f64, gradient: f64) {
        let (scaled, sums) = scratch.split_at(row.dense.len());
        let [bias, squares] = &mut self.bias;
        adagrad(pace, 0.0, bias, squares, gradient);
        for (at, x) in Self::features(scaled, row.active) {
            if x == 0.0 {
                continue;
            }
            let (values, squares) = (self.table.row_mut(at), self.squares.row_mut(at));
            adagrad(pace, self.l2, &mut values[0], &mut squares[0], gradient * x);
            for ((factor, squares), sum) in values[1..].iter_mut().zip(&mut squares[1..]).zip(sums) {
                adagrad(pace, self.l2, factor, squares, gradient * x * (sum - *factor * x));
            }
        }
    }
}

impl<L: Loss> Model for Machine<L> {
    fn predict(&self, row: Row<'_>, outputs: &mut [f64], scratch: &mut Vec<f64>) {
        self.scaling.scale(row.dense, scratch);
        outputs[0] = self.loss.output(self.sum(row, scratch));
    }

    fn learn(&mut self, row: Row<'_>, example: Example, outputs: &mut [f64], scratch: &mut Vec<f64>) {
        self.scaling.scale(row.dense, scratch);
        outputs[0] = self.loss.output(self.sum(row, scratch));
        scratch.truncate(row.dense.len());
        // Weights stay, as with Adagrad: past squares count as if the scale had always been so.
        let squares = &mut self.squares;
        self.scaling.before(row, example.weight, scratch, |at, ratio| {
            squares.row_mut(at).iter_mut().for_each(|square| *square *= ratio * ratio);
        });
        let sum = self.sum(row, scratch);
        self.loss.observe(example.target, example.weight);
        let gradient = self.loss.gradient(sum, self.loss.output(sum), example.target);
        let pace = self.learning_rate / self.scaling.norm().sqrt();
        self.step(row, scratch, pace, example.weight * gradient);
        self.scaling.after(row, example.weight);
    }

    fn tensors(&self) -> Vec<Tensor> {
        let mut tensors = vec![
            Tensor::row("bias", vec![self.bias[0]]),
            Tensor::table("weights and factors", self.table.len(), self.table.values().to_vec()),
        ];
        tensors.extend(self.scaling.tensors());
        tensors.extend(self.loss.tensors());
        tensors
    }

    fn explain(&self, names: &Names) -> Explanation {
        let length = |values: &[f64]| values[1..].iter().map(|factor| factor * factor).sum::<f64>().sqrt();
        let dense = names.dense.len();
        let rows = (0..self.table.len()).filter(|at| *at < dense || self.squares.row(*at)[0] > 0.0).map(|at| {
            let name = if at < dense { names.dense[at].clone() } else { names.category((at - dense) as u32) };
            (name, self.table.row(at)[0], length(self.table.row(at)))
        });
        let mut rows: Vec<(String, f64, f64)> = rows.collect();
        rows.sort_by(|a, b| (b.1.abs() + b.2).total_cmp(&(a.1.abs() + a.2)));
        let mut lines = vec![
            format!("sum of weights, and of products of factors for each pair of features{}", self.loss.says()),
            "importance: size of the weight, and length of the factors".to_owned(),
            format!("bias {:+.6}", self.bias[0]),
        ];
        lines.extend(rows.iter().map(|(name, weight, length)| format!("{name} {weight:+.6}, factors {length:.6}")));
        let importances = rows.into_iter().map(|(name, weight, length)| (name, weight.abs() + length)).collect();
        Explanation { importances, lines }
    }

    fn onnx(&self, graph: &mut Graph, rows: &Rows) -> Expressed {
        if self.scaling.rows() == 0.0 {
            let sum = rows.repeat(graph, &[0.0]);
            return Ok(self.loss.onnx(graph, sum));
        }
        let (dense, width) = (rows.shape.dense, 1 + self.table.factors());
        let numbers = self.scaling.onnx(graph, rows);
        let mut biases = vec![0.0; width];
        biases[0] = self.bias[0];
        let (of_numbers, of_categories) = self.table.values().split_at(dense * width);
        let sums = rows.sums(graph, numbers, of_numbers, of_categories, &biases);
        let length = |at: usize| self.table.row(at)[1..].iter().map(|factor| factor * factor).sum::<f64>();
        let lengths: Vec<f64> = (0..self.table.len()).map(length).collect();
        let squares = numbers.map(|numbers| graph.multiply(numbers, numbers));
        let own = rows.sums(graph, squares, &lengths[..dense], &lengths[dense..], &[0.0]);
        let linear = graph.columns(sums, 0, 1);
        let factors = graph.columns(sums, 1, width);
        let pairs = graph.reduce("ReduceSumSquare", factors, 1, true);
        let pairs = graph.subtract(pairs, own);
        let pairs = graph.scale(pairs, 0.5);
        let sum = graph.add(linear, pairs);
        Ok(self.loss.onnx(graph, sum))
    }

    fn fits(&self, shape: Shape) -> bool {
        let coordinates = shape.dense + shape.categories;
        self.scaling.fits(shape)
            && self.table.fits(coordinates)
            && self.squares.fits(coordinates)
            && self.table.factors() == self.squares.factors()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Shape;
    use super::super::samples::{Pupil, Random, log_loss};

    /// Whether two categories agree is no sum of what each says: only pairs tell.
    #[test]
    fn pairs_are_learned() {
        let shape = Shape { dense: 1, active: 2, categories: 6, classes: 2 };
        let (mut random, mut loss) = (Random::seeded(1), 0.0);
        let mut classifier = Pupil::new(&json!("factorization_machine_classifier"), shape);
        let mut regressor = Pupil::new(&json!("factorization_machine_regressor"), Shape { classes: 0, ..shape });
        let mut squares = 0.0;
        for row in 0..8000 {
            let (a, b) = (random.below(3) as u32, random.below(3) as u32);
            let (x, same) = (1e6 * random.normal(), f64::from(u32::from(a == b)));
            let probability = classifier.learn(&[x], &[a, 3 + b], same);
            let number = regressor.learn(&[x], &[a, 3 + b], 1e3 * same + 5.0);
            if row >= 6000 {
                loss += log_loss(probability, same) / 2000.0;
                squares += ((number - 5.0) / 1e3 - same).powi(2) / 2000.0;
            }
        }
        println!("log loss {loss:.4}, squared error {squares:.4}");
        assert!(loss < 0.1, "{loss}: by the majority it is 0.64");
        assert!(squares < 0.03, "{squares}: by the mean it is 0.22");
    }
}
