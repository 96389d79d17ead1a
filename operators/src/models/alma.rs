//! ALMA: an approximate large margin classifier.

use std::sync::Arc;

use millstream_engine::catalogue::{Kind, Planned, configuration, schema_of};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::learner::Erased;
use super::linear::{Scaling, dot, listed, within};
use super::linear_svm::side;
use super::onnx::{Expressed, Graph, Rows};
use super::{Design, Example, Explanation, Model, ModelKind, Names, Row, Shape, Task, Tensor};

/// An approximate large margin classifier.
pub static KIND: ModelKind = Kind {
    name: "alma",
    about: "Whether the label is true: a plane with nearly the largest possible margin between both sides.\n\n\
            Gentile, \"A New Approximate Maximal Margin Classification Algorithm\" (2001), with the Euclidean norm. The output is \
            (1 + margin) / 2, where the margin is from -1 to 1: right in order and in side, but not a calibrated probability. \
            Takes columns of any scale as they are.",
    schema: schema_of::<Config>,
    example: "{alpha: 0.9}",
    plan,
};

/// Settings of ALMA.
#[derive(Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    /// How far from the largest margin the result may be, as a part of it; above 0, up to 1.
    alpha: f64,
    /// How large a margin is asked for at first; 1 / `alpha` unless given. From 1e-6 to 1e6.
    b: Option<f64>,
    /// The size of the first step, from 1e-6 to 1e6.
    c: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self { alpha: 0.9, b: None, c: std::f64::consts::SQRT_2 }
    }
}

fn plan(value: &Value) -> Planned<Design> {
    let mut config: Config = configuration(value)?;
    let b = config.b.unwrap_or(1.0 / config.alpha);
    within("", &[("alpha", config.alpha, 1e-6, 1.0), ("b", b, 1e-6, 1e6), ("c", config.c, 1e-6, 1e6)])?;
    config.b = Some(b);
    let parameters = serde_json::to_value(&config).expect("numbers can be written");
    let (asked, size, task) = ((1.0 - config.alpha) * b, config.c, Task::Classification);
    let make = Arc::new(move |shape| Erased::new(Alma::new(shape, asked, size), task, shape).boxed());
    Ok(Design { classes_max: 2, ..Design::new(KIND.name, task, parameters, make) })
}

/// The classifier: a plane whose weights have at most the length 1. Those of the formulas are `factor` times the stored
/// ones, so that a row moves only its own.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Alma {
    /// The margin asked for at first, and the size of the first step.
    asked: f64,
    size: f64,
    scaling: Scaling,
    /// Of the numbers, then the bias, then the categories.
    weights: Vec<f64>,
    factor: f64,
    /// The squared length of the stored weights.
    length: f64,
    /// One more than the corrections so far.
    corrections: f64,
}

/// Where the factor is below this, it is put into the weights.
const FACTOR_MIN: f64 = 1e-100;

impl Alma {
    fn new(shape: Shape, asked: f64, size: f64) -> Self {
        let weights = vec![0.0; shape.dense + 1 + shape.categories];
        let scaling = Scaling::new(shape, true);
        Self { asked, size, scaling, weights, factor: 1.0, length: 0.0, corrections: 1.0 }
    }

    /// The margin of a row, of length 1 for this, and its length before.
    #[inline]
    fn margin(&self, row: Row<'_>, scaled: &[f64]) -> (f64, f64) {
        let (dense, rest) = self.weights.split_at(scaled.len());
        let categories: f64 = row.active.iter().map(|category| rest[1 + *category as usize]).sum();
        let norm = (dot(scaled, scaled) + 1.0 + row.active.len() as f64).sqrt();
        ((dot(dense, scaled) + rest[0] + categories) * self.factor / norm, norm)
    }

    fn output(margin: f64) -> f64 {
        (0.5 + 0.5 * margin).clamp(0.0, 1.0)
    }

    /// Moves the weights along the row, and back to length 1.
    fn correct(&mut self, row: Row<'_>, scaled: &[f64], margin: f64, norm: f64, step: f64) {
        let along = step / norm / self.factor;
        let (dense, rest) = self.weights.split_at_mut(scaled.len());
        dense.iter_mut().zip(scaled).for_each(|(weight, z)| *weight += along * z);
        rest[0] += along;
        row.active.iter().for_each(|category| rest[1 + *category as usize] += along);
        let length = self.length * self.factor * self.factor + 2.0 * step * margin + step * step;
        self.length = length.max(0.0) / (self.factor * self.factor);
        if length > 1.0 {
            self.factor /= length.sqrt();
        }
        if self.factor < FACTOR_MIN {
            self.weights.iter_mut().for_each(|weight| *weight *= self.factor);
            self.length *= self.factor * self.factor;
            self.factor = 1.0;
        }
    }
}

impl Model for Alma {
    fn predict(&self, row: Row<'_>, outputs: &mut [f64], scratch: &mut Vec<f64>) {
        self.scaling.scale(row.dense, scratch);
        outputs[0] = Self::output(self.margin(row, scratch).0);
    }

    fn learn(&mut self, row: Row<'_>, example: Example, outputs: &mut [f64], scratch: &mut Vec<f64>) {
        self.predict(row, outputs, scratch);
        let Self { scaling, weights, length, .. } = self;
        scaling.before(row, example.weight, scratch, |at, ratio| {
            *length = (*length - weights[at] * weights[at] * (1.0 - ratio * ratio)).max(0.0);
            weights[at] *= ratio;
        });
        let (margin, norm) = self.margin(row, scratch);
        let side = side(example.target);
        let root = self.corrections.sqrt();
        if side * margin <= self.asked / root {
            // One that counts as several is corrected as often: with a step as long as theirs, at most across the whole ball.
            let step = (example.weight * self.size / root).min(self.size.max(2.0));
            self.correct(row, scratch, margin, norm, side * step);
            self.corrections += example.weight;
        }
        self.scaling.after(row, example.weight);
    }

    fn tensors(&self) -> Vec<Tensor> {
        let weights: Vec<f64> = self.weights.iter().map(|weight| weight * self.factor).collect();
        let mut tensors = vec![Tensor::row("weights, bias, categories", weights)];
        tensors.extend(self.scaling.tensors());
        tensors
    }

    fn explain(&self, names: &Names) -> Explanation {
        let form = "margin: weighted sum of (x - mean) / scale, each in [-1, 1], and of the row's categories, over the row's length";
        let weights: Vec<f64> = self.weights.iter().map(|weight| weight * self.factor).collect();
        let (dense, rest) = weights.split_at(names.dense.len().min(weights.len() - 1));
        listed(form.to_owned(), rest[0], dense, rest[1..].iter().copied(), names)
    }

    fn onnx(&self, graph: &mut Graph, rows: &Rows) -> Expressed {
        let numbers = self.scaling.onnx(graph, rows);
        let weights: Vec<f64> = self.weights.iter().map(|weight| weight * self.factor).collect();
        let (dense, rest) = weights.split_at(rows.shape.dense);
        let sum = rows.sums(graph, numbers, dense, &rest[1..], &rest[..1]);
        let fixed = 1.0 + rows.shape.active as f64;
        let norm = match numbers {
            Some(numbers) => {
                let squares = graph.reduce("ReduceSumSquare", numbers, 1, true);
                graph.shift(squares, fixed)
            }
            None => graph.scalar(fixed),
        };
        let norm = graph.apply("Sqrt", &[norm]);
        let margin = graph.divide(sum, norm);
        let half = graph.scale(margin, 0.5);
        let output = graph.shift(half, 0.5);
        Ok(graph.clamp(output, 0.0, 1.0))
    }

    fn fits(&self, shape: Shape) -> bool {
        self.scaling.fits(shape) && self.weights.len() == shape.dense + 1 + shape.categories
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Shape;
    use super::super::samples::{Pupil, Random};

    /// The paper's figure 1 with p = 2, line by line.
    #[test]
    fn it_is_the_papers() {
        let shape = Shape { dense: 0, active: 2, categories: 6, classes: 2 };
        for alpha in [0.5, 0.9] {
            let mut random = Random::seeded(1);
            let mut pupil = Pupil::new(&json!({"alma": {"alpha": alpha}}), shape);
            let (mut weights, mut k) = ([0.0; 7], 1.0_f64);
            for _ in 0..500 {
                let active = [random.below(3) as u32, 3 + random.below(3) as u32];
                let y = if random.uniform() < 0.2 + 0.3 * f64::from(active[0]) { 1.0 } else { -1.0 };
                let mut x = [0.0; 7];
                for at in [6, active[0], active[1]] {
                    x[at as usize] = 1.0 / 3_f64.sqrt();
                }
                let margin: f64 = weights.iter().zip(x).map(|(w, x)| w * x).sum();
                let got = pupil.learn(&[], &active, f64::from(y > 0.0));
                assert!((got - 0.5 * (1.0 + margin)).abs() < 1e-9, "{got}, margin {margin}");
                if y * margin <= (1.0 - alpha) / alpha / k.sqrt() {
                    weights.iter_mut().zip(x).for_each(|(w, x)| *w += (2.0 / k).sqrt() * y * x);
                    let length = weights.iter().map(|w| w * w).sum::<f64>().sqrt();
                    weights = weights.map(|w| w / length.max(1.0));
                    k += 1.0;
                }
            }
            assert!(k > 100.0, "only {k} corrections");
        }
    }

    #[test]
    fn a_plane_is_found_at_any_scale() {
        let mut random = Random::seeded(2);
        let shape = Shape { dense: 2, active: 0, categories: 0, classes: 2 };
        let (mut pupil, mut right) = (Pupil::new(&json!("alma"), shape), 0);
        for row in 0..4000 {
            let x = [1e6 * random.signed(), 1e-3 * random.signed()];
            let target = f64::from(x[0] * 1e-6 + x[1] * 1e3 > 0.3);
            let probability = pupil.learn(&x, &[], target);
            right += usize::from(row >= 2000 && (probability > 0.5) == (target > 0.5));
        }
        assert!(right > 1900, "{right} of 2000");
    }
}
