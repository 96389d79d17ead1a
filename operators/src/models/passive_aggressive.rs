//! Passive-aggressive classification.

use std::sync::Arc;

use millstream_engine::catalogue::{Kind, Planned, configuration, schema_of};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::learner::Erased;
use super::linear::{Scaling, dot, listed, within};
use super::linear_svm::side;
use super::logistic_regression::logistic;
use super::onnx::{self, Expressed, Graph, Rows};
use super::{Design, Example, Explanation, Model, ModelKind, Names, Row, Shape, Task, Tensor};

/// Passive-aggressive classification.
pub static KIND: ModelKind = Kind {
    name: "passive_aggressive",
    about: "Whether the label is true: each mistake is mended at once, by the smallest change of the weights that does it.\n\n\
            Crammer, Dekel, Keshet, Shalev-Shwartz and Singer, \"Online Passive-Aggressive Algorithms\" (2006): PA, PA-I and PA-II. \
            Its probability is the logistic function of the margin: right in order and in side, but not calibrated. \
            Takes columns of any scale as they are.",
    schema: schema_of::<Config>,
    example: "{variant: pa_ii, aggressiveness: 0.1}",
    plan,
};

/// Settings of passive-aggressive classification.
#[derive(Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    /// How mistakes are mended.
    variant: Variant,
    /// How much at most (`pa_i`), or how fully (`pa_ii`), one mistake is mended: less where labels are noisy. From 1e-9 to 1e9.
    aggressiveness: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self { variant: Variant::PaI, aggressiveness: 1.0 }
    }
}

/// How mistakes are mended.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Variant {
    /// Wholly, whatever that takes.
    Pa,
    /// With a step that is at most `aggressiveness`.
    PaI,
    /// The less, the longer the step would be.
    PaIi,
}

impl Variant {
    /// The length of the step along the row that mends this loss; `norm` is the row's squared norm. A weight counts as a
    /// multiple of the aggressiveness: with PA-I that is the same as so many examples.
    #[inline]
    pub(super) fn step(self, aggressiveness: f64, loss: f64, norm: f64) -> f64 {
        match self {
            Self::Pa => loss / norm,
            Self::PaI => (loss / norm).min(aggressiveness),
            Self::PaIi => loss / (norm + 0.5 / aggressiveness),
        }
    }
}

fn plan(value: &Value) -> Planned<Design> {
    let config: Config = configuration(value)?;
    within("", &[("aggressiveness", config.aggressiveness, 1e-9, 1e9)])?;
    let parameters = serde_json::to_value(&config).expect("numbers can be written");
    let Config { variant, aggressiveness } = config;
    let task = Task::Classification;
    let make = Arc::new(move |shape| {
        let plane = Plane::new(shape);
        Erased::new(PassiveAggressive { variant, aggressiveness, plane }, task, shape).boxed()
    });
    Ok(Design { classes_max: 2, ..Design::new(KIND.name, task, parameters, make) })
}

/// Weights that move along rows.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Plane {
    scaling: Scaling,
    weights: Vec<f64>,
    bias: f64,
    categories: Vec<f64>,
}

impl Plane {
    pub(super) fn new(shape: Shape) -> Self {
        Self {
            scaling: Scaling::new(shape, true),
            weights: vec![0.0; shape.dense],
            bias: 0.0,
            categories: vec![0.0; shape.categories],
        }
    }

    fn scaled_sum(&self, row: Row<'_>, scaled: &[f64]) -> f64 {
        let categories: f64 = row.active.iter().map(|category| self.categories[*category as usize]).sum();
        dot(&self.weights, scaled) + self.bias + categories
    }

    /// The weighted sum; `scaled` gets the numbers.
    #[inline]
    pub(super) fn sum(&self, row: Row<'_>, scaled: &mut Vec<f64>) -> f64 {
        self.scaling.scale(row.dense, scaled);
        self.scaled_sum(row, scaled)
    }

    /// Takes note of a row. Gives its sum, and its squared norm with the bias.
    #[inline]
    pub(super) fn before(&mut self, row: Row<'_>, weight: f64, scaled: &mut Vec<f64>) -> (f64, f64) {
        let weights = &mut self.weights;
        self.scaling.before(row, weight, scaled, |at, ratio| weights[at] *= ratio);
        (self.scaled_sum(row, scaled), dot(scaled, scaled) + 1.0 + row.active.len() as f64)
    }

    /// Moves the weights by `step` times the row.
    #[inline]
    pub(super) fn step(&mut self, row: Row<'_>, weight: f64, scaled: &[f64], step: f64) {
        if step != 0.0 {
            self.weights.iter_mut().zip(scaled).for_each(|(weight, z)| *weight += step * z);
            self.bias += step;
            row.active.iter().for_each(|category| self.categories[*category as usize] += step);
        }
        self.scaling.after(row, weight);
    }

    /// The same in an ONNX graph as [`Plane::sum`].
    pub(super) fn onnx(&self, graph: &mut Graph, rows: &Rows) -> onnx::Edge {
        let numbers = self.scaling.onnx(graph, rows);
        rows.sums(graph, numbers, &self.weights, &self.categories, &[self.bias])
    }

    pub(super) fn tensors(&self) -> Vec<Tensor> {
        let mut tensors = vec![Tensor::row("weights", self.weights.clone())];
        tensors.extend(self.scaling.tensors());
        tensors.push(Tensor::row("bias", vec![self.bias]));
        tensors.push(Tensor::row("categories", self.categories.clone()));
        tensors
    }

    pub(super) fn explain(&self, names: &Names, says: &str) -> Explanation {
        let form = format!("weighted sum of (x - mean) / scale, each in [-1, 1], and of the row's categories{says}");
        listed(form, self.bias, &self.weights, self.categories.iter().copied(), names)
    }

    pub(super) fn fits(&self, shape: Shape) -> bool {
        self.scaling.fits(shape) && self.weights.len() == shape.dense && self.categories.len() == shape.categories
    }
}

/// The classifier.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct PassiveAggressive {
    variant: Variant,
    aggressiveness: f64,
    plane: Plane,
}

impl Model for PassiveAggressive {
    fn predict(&self, row: Row<'_>, outputs: &mut [f64], scratch: &mut Vec<f64>) {
        outputs[0] = logistic(self.plane.sum(row, scratch));
    }

    fn learn(&mut self, row: Row<'_>, example: Example, outputs: &mut [f64], scratch: &mut Vec<f64>) {
        self.predict(row, outputs, scratch);
        let (sum, norm) = self.plane.before(row, example.weight, scratch);
        let side = side(example.target);
        let loss = (1.0 - side * sum).max(0.0);
        let step = self.variant.step(example.weight * self.aggressiveness, loss, norm);
        self.plane.step(row, example.weight, scratch, side * step);
    }

    fn tensors(&self) -> Vec<Tensor> {
        self.plane.tensors()
    }

    fn explain(&self, names: &Names) -> Explanation {
        self.plane.explain(names, ", whose sign decides")
    }

    fn onnx(&self, graph: &mut Graph, rows: &Rows) -> Expressed {
        let sum = self.plane.onnx(graph, rows);
        Ok(graph.apply("Sigmoid", &[sum]))
    }

    fn fits(&self, shape: Shape) -> bool {
        self.plane.fits(shape)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Shape;
    use super::super::samples::{Pupil, Random};

    /// The paper's algorithm in figure 1, line by line.
    #[test]
    fn it_is_the_papers() {
        let shape = Shape { dense: 0, active: 2, categories: 6, classes: 2 };
        for (variant, c) in [("pa", 1.0), ("pa_i", 0.1), ("pa_ii", 0.1)] {
            let mut random = Random::seeded(1);
            let settings = json!({"variant": variant, "aggressiveness": c});
            let mut pupil = Pupil::new(&json!({"passive_aggressive": settings}), shape);
            let mut weights = [0.0; 7];
            for _ in 0..300 {
                let active = [random.below(3) as u32, 3 + random.below(3) as u32];
                let y = if random.uniform() < 0.2 + 0.3 * f64::from(active[0]) { 1.0 } else { -1.0 };
                let mut x = [0.0; 7];
                x[6] = 1.0;
                for category in active {
                    x[category as usize] = 1.0;
                }
                let sum: f64 = weights.iter().zip(x).map(|(w, x)| w * x).sum();
                let (loss, norm) = (f64::max(0.0, 1.0 - y * sum), 3.0);
                let tau = match variant {
                    "pa" => loss / norm,
                    "pa_i" => f64::min(c, loss / norm),
                    _ => loss / (norm + 1.0 / (2.0 * c)),
                };
                let probability = pupil.learn(&[], &active, f64::from(y > 0.0));
                assert!((probability - 1.0 / (1.0 + (-sum).exp())).abs() < 1e-12, "{variant}");
                weights.iter_mut().zip(x).for_each(|(w, x)| *w += tau * y * x);
            }
        }
    }

    #[test]
    fn a_mistake_is_mended_at_once() {
        let mut pupil = Pupil::new(
            &json!({"passive_aggressive": {"variant": "pa"}}),
            Shape { dense: 2, active: 0, categories: 0, classes: 2 },
        );
        let mut random = Random::seeded(2);
        for _ in 0..50 {
            let x = [1e6 * random.signed(), 1e-3 * random.signed()];
            pupil.learn(&x, &[], f64::from(x[0] > 0.0));
        }
        let probability = pupil.predict(&[0.9e6, 0.0], &[]);
        assert!(probability > 0.6, "{probability}");
    }
}
