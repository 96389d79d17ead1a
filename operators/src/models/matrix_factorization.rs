//! Matrix factorisation: what a user gives an item.

use std::sync::Arc;

use millstream_engine::catalogue::{Kind, Planned, configuration, schema_of};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::factorization::{FACTORS_MAX, Table};
use super::learner::Erased;
use super::linear::within;
use super::linear_regression::{GRADIENT_MAX, Standard};
use super::onnx::{Expressed, Graph, Rows};
use super::{Design, Example, Explanation, Model, ModelKind, Names, Row, Shape, Task, Tensor};

/// Matrix factorisation.
pub static KIND: ModelKind = Kind {
    name: "matrix_factorization",
    about: "What a user gives an item: the mean, what both differ from it, and the product of their factors.\n\n\
            Biased matrix factorisation by stochastic gradient descent, as in Koren, Bell and Volinsky, \"Matrix Factorization \
            Techniques for Recommender Systems\" (2009). The first two columns of categories are the user and the item; other features \
            are not looked at. Takes labels of any scale as they are.",
    schema: schema_of::<Config>,
    example: "{factors: 10, learning_rate: 0.02}",
    plan,
};

/// Settings of matrix factorisation.
#[derive(Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    /// How many factors each user and item has, from 1 to 256.
    factors: u32,
    /// The size of a step, from 1e-9 to 1.
    learning_rate: f64,
    /// Pulls everything towards the mean, from 0 to 1.
    l2: f64,
    /// The standard deviation of the factors at first, above 0, up to 1.
    deviation: f64,
    /// Chooses the factors at first.
    seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { factors: 10, learning_rate: 0.02, l2: 0.02, deviation: 0.1, seed: 0 }
    }
}

fn plan(value: &Value) -> Planned<Design> {
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
    let make = Arc::new(move |shape| Erased::new(Factors::new(shape, &config), Task::Regression, shape).boxed());
    Ok(Design::new(KIND.name, Task::Regression, parameters, make))
}

/// Users and items are coordinates of one table. The label is standardised.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Factors {
    /// How many numbers rows have, which are not looked at.
    dense: usize,
    learning_rate: f64,
    l2: f64,
    label: Standard,
    table: Table,
    /// How often each category was seen.
    seen: Vec<u64>,
}

impl Factors {
    fn new(shape: Shape, config: &Config) -> Self {
        Self {
            dense: shape.dense,
            learning_rate: config.learning_rate,
            l2: config.l2,
            label: Standard::default(),
            table: Table::new(shape.categories, config.factors as usize, config.deviation, config.seed),
            seen: vec![0; shape.categories],
        }
    }

    /// Where there is no item, or no user either, what the others say.
    #[inline]
    fn sum(&self, row: Row<'_>) -> f64 {
        match row.active {
            [] => 0.0,
            [user] => self.table.row(*user as usize)[0],
            [user, item, ..] => {
                let (user, item) = (self.table.row(*user as usize), self.table.row(*item as usize));
                user[0] + item[0] + user[1..].iter().zip(&item[1..]).map(|(p, q)| p * q).sum::<f64>()
            }
        }
    }

    /// The largest magnitude of a factor: far beyond what standardised labels need, and its square is harmless.
    const LARGEST: f64 = 1e3;

    /// Moves user and item. A step is the shorter, the longer the factors and the more it counts, so that it does not
    /// go past the target.
    fn step(&mut self, row: Row<'_>, weight: f64, error: f64, old: &mut Vec<f64>) {
        let pair = &row.active[..row.active.len().min(2)];
        old.clear();
        for at in pair {
            old.extend_from_slice(self.table.row(*at as usize));
        }
        let norm: f64 = old.iter().map(|value| value * value).sum();
        let rate = weight * self.learning_rate;
        let rate = rate / (1.0 + rate * (2.0 + norm));
        let width = 1 + self.table.factors();
        for (side, at) in pair.iter().enumerate() {
            let other = old.get((1 - side) * width..).unwrap_or_default();
            let values = self.table.row_mut(*at as usize);
            values[0] += rate * (error - self.l2 * values[0]);
            for (value, other) in values[1..].iter_mut().zip(other.iter().skip(1)) {
                *value += rate * (error * other - self.l2 * *value);
            }
            for value in values {
                *value = value.clamp(-Self::LARGEST, Self::LARGEST);
            }
            self.seen[*at as usize] = self.seen[*at as usize].saturating_add(1);
        }
    }
}

impl Model for Factors {
    fn predict(&self, row: Row<'_>, outputs: &mut [f64], _: &mut Vec<f64>) {
        outputs[0] = self.label.back(self.sum(row));
    }

    fn learn(&mut self, row: Row<'_>, example: Example, outputs: &mut [f64], scratch: &mut Vec<f64>) {
        let sum = self.sum(row);
        outputs[0] = self.label.back(sum);
        self.label.observe(example.target, example.weight);
        if let Some(wanted) = self.label.of(example.target) {
            self.step(row, example.weight, (wanted - sum).clamp(-GRADIENT_MAX, GRADIENT_MAX), scratch);
        }
    }

    fn tensors(&self) -> Vec<Tensor> {
        let mut tensors = vec![Tensor::table("biases and factors", self.table.len(), self.table.values().to_vec())];
        tensors.extend(self.label.tensors());
        tensors
    }

    fn explain(&self, names: &Names) -> Explanation {
        let seen = (0..self.table.len()).filter(|at| self.seen[*at] > 0);
        let bias = |at: usize| (names.category(at as u32), self.table.row(at)[0], self.seen[at]);
        let mut biases: Vec<(String, f64, u64)> = seen.map(bias).collect();
        biases.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()));
        let mut lines = vec![
            format!("mean {:.6}, standard deviation {:.6}", self.label.mean, self.label.deviation),
            "in deviations: what each user and item differs from the mean, and how often it was seen".to_owned(),
        ];
        lines.extend(biases.iter().map(|(name, bias, seen)| format!("{name} {bias:+.6} ({seen})")));
        Explanation { importances: biases.into_iter().map(|(name, bias, _)| (name, bias.abs())).collect(), lines }
    }

    fn onnx(&self, graph: &mut Graph, rows: &Rows) -> Expressed {
        let width = 1 + self.table.factors();
        let pair = rows.active.map(|active| {
            let table = graph.doubles(&[self.table.len(), width], self.table.values());
            let side = |graph: &mut Graph, at: usize| {
                let categories = graph.columns(active, at, at + 1);
                let values = graph.gather(table, categories);
                graph.sum(values, 1)
            };
            (side(graph, 0), (rows.shape.active > 1).then(|| side(graph, 1)))
        });
        let sum = match pair {
            None => rows.repeat(graph, &[0.0]),
            Some((user, None)) => graph.columns(user, 0, 1),
            Some((user, Some(item))) => {
                let biases = graph.add(user, item);
                let bias = graph.columns(biases, 0, 1);
                let products = graph.multiply(user, item);
                let products = graph.columns(products, 1, width);
                let agreement = graph.reduce("ReduceSum", products, 1, true);
                graph.add(bias, agreement)
            }
        };
        Ok(self.label.onnx(graph, sum))
    }

    fn fits(&self, shape: Shape) -> bool {
        self.dense == shape.dense && self.table.fits(shape.categories) && self.seen.len() == shape.categories
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Shape;
    use super::super::samples::{Pupil, Random};

    /// Users like items of their own kind: no user and no item is better than others.
    #[test]
    fn tastes_are_learned() {
        for unit in [1e-6, 1e6] {
            let mut random = Random::seeded(1);
            let shape = Shape { dense: 0, active: 2, categories: 30, classes: 0 };
            let (mut pupil, mut error) = (Pupil::new(&json!("matrix_factorization"), shape), 0.0);
            for row in 0..20_000 {
                let (user, item) = (random.below(20) as u32, 20 + random.below(10) as u32);
                let liked = f64::from(u32::from(user % 2 == item % 2)) + 0.1 * f64::from(user);
                let rating = pupil.learn(&[], &[user, item], unit * (3.0 + liked));
                error += if row < 15_000 { 0.0 } else { (rating / unit - 3.0 - liked).powi(2) / 5000.0 };
            }
            println!("{unit}: {error:.4}");
            assert!(error < 0.03, "{error}: without factors it is 0.25");
        }
    }
}
