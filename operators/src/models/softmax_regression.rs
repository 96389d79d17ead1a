//! Softmax regression: the probability of each of some classes.

use std::sync::Arc;

use millstream_engine::catalogue::{Kind, Planned, configuration, schema_of};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::learner::Erased;
use super::linear::{Boost, Config, Coordinate, Rule, Scaling, listed, with_full_update, with_rule};
use super::onnx::{Expressed, Graph, NotExpressible, Rows};
use super::packed;
use super::{Design, Example, Explanation, Make, Model, ModelKind, Names, Quicken, Row, Shape, Task, Tensor};

/// Softmax regression.
pub static KIND: ModelKind = Kind {
    name: "softmax_regression",
    about: "The probability of each class: a weighted sum of the features for each, through the softmax function.\n\n\
            Also known as multinomial logistic regression. Takes columns of any scale as they are.",
    schema: schema_of::<Config>,
    example: "update: {adagrad: {learning_rate: 0.5}}",
    plan,
};

fn plan(value: &Value) -> Planned<Design> {
    let config: Config = configuration(&with_full_update(value)?)?;
    config.update.check()?;
    let make = with_rule!(config.update, rule => make(rule));
    let parameters = serde_json::to_value(&config).expect("numbers can be written");
    Ok(Design { quickens: true, ..Design::new(KIND.name, Task::Classification, parameters, make) })
}

fn make<R: Rule>(rule: R) -> Make {
    Arc::new(move |shape| Erased::new(Softmax::new(shape, rule), Task::Classification, shape).quickening().boxed())
}

/// A weighted sum for each class.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(bound = "")]
struct Softmax<R: Rule> {
    rule: R,
    scaling: Scaling,
    boost: Boost,
    classes: usize,
    /// Of the numbers, then the bias, then the categories: a weight for each class.
    #[serde(with = "packed")]
    coordinates: Vec<Coordinate<R::Cell>>,
}

impl<R: Rule> Softmax<R> {
    fn new(shape: Shape, rule: R) -> Self {
        let classes = shape.classes.max(1);
        Self {
            rule,
            scaling: Scaling::new(shape, R::CENTRES),
            boost: Boost::default(),
            classes,
            coordinates: vec![Coordinate::default(); classes * (shape.dense + 1 + shape.categories)],
        }
    }

    /// The place of each of a row's features, and how much it counts: the numbers, the bias, the categories.
    #[inline]
    fn features<'a>(scaled: &'a [f64], active: &'a [u32]) -> impl Iterator<Item = (usize, f64)> + 'a {
        let categories = active.iter().map(move |category| (scaled.len() + 1 + *category as usize, 1.0));
        scaled.iter().copied().enumerate().chain([(scaled.len(), 1.0)]).chain(categories)
    }

    /// The probabilities of the classes, appended to `scratch`, which starts with the scaled numbers.
    #[inline]
    fn probabilities(&self, row: Row<'_>, scratch: &mut Vec<f64>) {
        let dense = row.dense.len();
        scratch.truncate(dense);
        scratch.resize(dense + self.classes, 0.0);
        let (scaled, sums) = scratch.split_at_mut(dense);
        for (at, z) in Self::features(scaled, row.active) {
            let weights = &self.coordinates[at * self.classes..][..self.classes];
            sums.iter_mut().zip(weights).for_each(|(sum, coordinate)| *sum += coordinate.weight * z);
        }
        let most = sums.iter().fold(f64::NEG_INFINITY, |most, sum| most.max(*sum));
        let mut total = 0.0;
        for sum in &mut *sums {
            *sum = libm::exp(*sum - most);
            total += *sum;
        }
        for sum in sums {
            *sum /= total;
        }
    }

    /// Copies the probabilities that are in `scratch`.
    #[inline]
    fn tell(probabilities: &[f64], outputs: &mut [f64]) {
        match outputs {
            [yes] => *yes = probabilities.get(1).copied().unwrap_or(1.0),
            _ => outputs.copy_from_slice(probabilities),
        }
    }

    /// How far a class's sum would move per unit of gradient.
    fn reach(&self, row: Row<'_>, scaled: &[f64], pace: f64, class: usize, gradient: f64) -> f64 {
        let features = Self::features(scaled, row.active);
        let cell = |at: usize| self.coordinates[at * self.classes + class].cell;
        features.map(|(at, z)| self.rule.rate(pace, cell(at), gradient * z) * z * z).sum()
    }

    #[inline]
    fn step(&mut self, row: Row<'_>, scaled: &[f64], pace: f64, gradients: &[f64], factor: f64) {
        for (at, z) in Self::features(scaled, row.active) {
            let rule = if at == scaled.len() { self.rule.unregularised() } else { self.rule };
            let coordinates = &mut self.coordinates[at * gradients.len()..][..gradients.len()];
            for (Coordinate { weight, cell }, gradient) in coordinates.iter_mut().zip(gradients) {
                rule.step(pace, weight, cell, gradient * z, factor);
            }
        }
    }

    /// Each class's weights of one feature.
    fn weights(&self, at: usize) -> impl Iterator<Item = f64> + '_ {
        self.coordinates[at * self.classes..][..self.classes].iter().map(|coordinate| coordinate.weight)
    }
}

impl<R: Rule> Model for Softmax<R> {
    fn predict(&self, row: Row<'_>, outputs: &mut [f64], scratch: &mut Vec<f64>) {
        self.scaling.scale(row.dense, scratch);
        self.probabilities(row, scratch);
        Self::tell(&scratch[row.dense.len()..], outputs);
    }

    fn learn(&mut self, row: Row<'_>, example: Example, outputs: &mut [f64], scratch: &mut Vec<f64>) {
        let (weight, dense, classes) = (example.weight, row.dense.len(), self.classes);
        self.predict(row, outputs, scratch);
        let Self { rule, coordinates, .. } = self;
        let rescale = |at: usize, ratio| {
            for Coordinate { weight, cell } in &mut coordinates[at * classes..][..classes] {
                rule.rescale(weight, cell, ratio);
            }
        };
        scratch.truncate(dense);
        let known = outputs.len() == classes;
        if self.scaling.before(row, weight, scratch, rescale) || !known {
            self.probabilities(row, scratch);
        } else {
            scratch.extend_from_slice(outputs);
        }
        let pace = self.rule.pace(self.scaling.norm());
        let boost = self.boost.next(weight);
        let (scaled, gradients) = scratch.split_at_mut(dense);
        if let Some(gradient) = gradients.get_mut(example.target as usize) {
            *gradient -= 1.0;
        }
        for gradient in &mut *gradients {
            *gradient *= weight;
        }
        let mut factor = boost;
        if weight * boost > 1.0 {
            // A gradient changes by a quarter of its sum's change at most: the implicit step of the farthest class.
            let reach = |(class, gradient): (usize, &f64)| self.reach(row, scaled, pace, class, *gradient);
            let most = gradients.iter().enumerate().map(reach).fold(0.0, f64::max);
            factor /= 1.0 + 0.25 * weight * boost * most;
        }
        self.step(row, scaled, pace, gradients, factor);
        self.scaling.after(row, weight);
    }

    fn tensors(&self) -> Vec<Tensor> {
        let dense = self.coordinates.len() / self.classes - 1;
        let weights: Vec<f64> = self.coordinates.iter().map(|coordinate| coordinate.weight).collect();
        let mut tensors = vec![Tensor::table("weights, bias, categories", dense + 1, weights)];
        tensors.extend(self.scaling.tensors());
        tensors
    }

    fn explain(&self, names: &Names) -> Explanation {
        let dense = names.dense.len();
        let size = |at: usize| self.weights(at).fold(0.0, |most: f64, weight| most.max(weight.abs()));
        let sizes: Vec<f64> = (0..dense).map(size).collect();
        let categories = (dense + 1..self.coordinates.len() / self.classes).map(size);
        let form = "weighted sums of (x - mean) / scale, each in [-1, 1], and of the row's categories, through softmax";
        let mut explanation = listed(form.to_owned(), size(dense), &sizes, categories, names);
        explanation.lines.truncate(1);
        for class in 0..self.classes {
            let name = names.classes.get(class).map_or_else(|| format!("class {class}"), Clone::clone);
            let weight = |at: usize| self.coordinates[at * self.classes + class].weight;
            let shown = names.dense.iter().enumerate().map(|(at, column)| format!(" {column} {:+.6}", weight(at)));
            explanation.lines.push(format!("{name}: bias {:+.6}{}", weight(dense), shown.collect::<String>()));
        }
        explanation
    }

    fn onnx(&self, graph: &mut Graph, rows: &Rows) -> Expressed {
        if self.classes < 2 {
            return Err(NotExpressible::new("it has only one class"));
        }
        let numbers = self.scaling.onnx(graph, rows);
        let weights: Vec<f64> = self.coordinates.iter().map(|coordinate| coordinate.weight).collect();
        let (dense, rest) = weights.split_at(rows.shape.dense * self.classes);
        let (biases, categories) = rest.split_at(self.classes);
        let sums = rows.sums(graph, numbers, dense, categories, biases);
        let probabilities = graph.softmax(sums);
        Ok(graph.outputs(probabilities, self.classes))
    }

    fn fits(&self, shape: Shape) -> bool {
        self.scaling.fits(shape)
            && self.classes == shape.classes.max(1)
            && Some(self.coordinates.len()) == self.classes.checked_mul(shape.dense + 1 + shape.categories)
    }
}

impl<R: Rule> Quicken for Softmax<R> {
    fn quicken(&mut self, factor: f64, examples: f64) {
        self.boost = Boost::start(factor, examples);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::samples::{Random, yaml};
    use super::super::{Example, Matrix, Shape, likeliest, plan};

    /// Against the textbook: stochastic gradient descent on features in {-1, 1}, which are as they are once both were seen.
    #[test]
    fn it_is_the_textbooks() {
        let shape = Shape { dense: 0, active: 1, categories: 3, classes: 3 };
        let mut learner = (plan(&json!({"softmax_regression": yaml("update: {sgd: {learning_rate: 0.2}}")}))
            .expect("valid")
            .make)(shape);
        let (mut weights, mut random) = ([[0.0; 3]; 4], Random::seeded(3));
        let (mut row, mut outputs) = (Matrix::new(shape), Vec::new());
        row.resize(1);
        for _ in 0..500 {
            let category = random.below(3);
            let target = if random.uniform() < 0.8 { category } else { random.below(3) };
            let sums = [0, 1, 2].map(|class| weights[0][class] + weights[1 + category][class]);
            let total: f64 = sums.iter().map(|sum: &f64| sum.exp()).sum();
            row.set_active(0, std::iter::once(category as u32));
            learner.learn(&row, &[Example::of(target as f64)], &mut outputs);
            for class in 0..3 {
                let probability = sums[class].exp() / total;
                assert!((outputs[class] - probability).abs() < 1e-12, "{outputs:?}");
                let gradient = probability - f64::from(u8::from(class == target));
                // A row's norm is 2: its category, and the bias.
                weights[0][class] -= 0.1 * gradient;
                weights[1 + category][class] -= 0.1 * gradient;
            }
        }
    }

    #[test]
    fn three_clouds_are_told_apart() {
        let shape = Shape { dense: 2, active: 0, categories: 0, classes: 3 };
        let centres = [[0.0, 1e6], [1e-3, 0.0], [-1e-3, -1e6]];
        let mut learner = (plan(&json!("softmax_regression")).expect("valid").make)(shape);
        let (mut row, mut outputs, mut random) = (Matrix::new(shape), Vec::new(), Random::seeded(4));
        row.resize(1);
        let mut right = 0;
        for at in 0..3000 {
            let class = random.below(3);
            for (column, unit) in [1e-3, 1e6].into_iter().enumerate() {
                row.set_dense(column, std::iter::once(centres[class][column] + 0.3 * unit * random.normal()));
            }
            learner.learn(&row, &[Example::of(class as f64)], &mut outputs);
            right += usize::from(at >= 1000 && likeliest(&outputs) == class);
        }
        assert!(right > 1900, "{right} of 2000");
    }
}
