//! Passive-aggressive regression.

use std::sync::Arc;

use millstream_engine::catalogue::{Kind, Planned, Problems, configuration, schema_of};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::learner::Erased;
use super::linear::within;
use super::linear_regression::Standard;
use super::onnx::{Expressed, Graph, Rows};
use super::passive_aggressive::{Plane, Variant};
use super::{Design, Example, Explanation, Model, ModelKind, Names, Row, Shape, Task, Tensor};

/// Passive-aggressive regression.
pub static KIND: ModelKind = Kind {
    name: "passive_aggressive_regression",
    about: "A number: errors beyond `epsilon` are mended at once, by the smallest change of the weights that does it.\n\n\
            Crammer, Dekel, Keshet, Shalev-Shwartz and Singer, \"Online Passive-Aggressive Algorithms\" (2006), section 5. \
            Takes features and labels of any scale as they are.",
    schema: schema_of::<Config>,
    example: "{variant: pa_i, aggressiveness: 0.1, epsilon: 0.05}",
    plan,
};

/// Settings of passive-aggressive regression.
#[derive(Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    /// How errors are mended.
    variant: Variant,
    /// How much at most (`pa_i`), or how fully (`pa_ii`), one error is mended: less where labels are noisy. From 1e-9 to 1e9.
    aggressiveness: f64,
    /// Errors up to this teach nothing; in standard deviations of the label, from 0 to 10.
    epsilon: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self { variant: Variant::PaI, aggressiveness: 0.1, epsilon: 0.1 }
    }
}

fn plan(value: &Value) -> Planned<Design> {
    let config: Config = configuration(value)?;
    let mut problems = Problems::default();
    let Config { variant, aggressiveness, epsilon } = config;
    problems.take_all(within("", &[("aggressiveness", aggressiveness, 1e-9, 1e9), ("epsilon", epsilon, 0.0, 10.0)]));
    problems.finish()?;
    let parameters = serde_json::to_value(&config).expect("numbers can be written");
    let make = Arc::new(move |shape| {
        let (plane, label) = (Plane::new(shape), Standard::default());
        let model = PassiveAggressive { variant, aggressiveness, epsilon, label, plane };
        Erased::new(model, Task::Regression, shape).boxed()
    });
    Ok(Design::new(KIND.name, Task::Regression, parameters, make))
}

/// The regression, of the standardised label.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct PassiveAggressive {
    variant: Variant,
    aggressiveness: f64,
    epsilon: f64,
    label: Standard,
    plane: Plane,
}

impl Model for PassiveAggressive {
    fn predict(&self, row: Row<'_>, outputs: &mut [f64], scratch: &mut Vec<f64>) {
        outputs[0] = self.label.back(self.plane.sum(row, scratch));
    }

    fn learn(&mut self, row: Row<'_>, example: Example, outputs: &mut [f64], scratch: &mut Vec<f64>) {
        self.predict(row, outputs, scratch);
        self.label.observe(example.target, example.weight);
        let (sum, norm) = self.plane.before(row, example.weight, scratch);
        let error = self.label.of(example.target).map_or(0.0, |wanted| wanted - sum);
        let loss = (error.abs() - self.epsilon).max(0.0);
        let step = self.variant.step(example.weight * self.aggressiveness, loss, norm);
        self.plane.step(row, example.weight, scratch, step.copysign(error));
    }

    fn tensors(&self) -> Vec<Tensor> {
        let mut tensors = self.plane.tensors();
        tensors.extend(self.label.tensors());
        tensors
    }

    fn explain(&self, names: &Names) -> Explanation {
        self.plane.explain(names, ", in standard deviations of the label from its mean")
    }

    fn onnx(&self, graph: &mut Graph, rows: &Rows) -> Expressed {
        let sum = self.plane.onnx(graph, rows);
        Ok(self.label.onnx(graph, sum))
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

    #[test]
    fn a_line_is_found_at_any_scale() {
        for variant in ["pa", "pa_i", "pa_ii"] {
            let mut random = Random::seeded(9);
            let shape = Shape { dense: 2, active: 0, categories: 0, classes: 0 };
            let kind = json!({"passive_aggressive_regression": {"variant": variant, "epsilon": 0.01}});
            let (mut pupil, mut worst) = (Pupil::new(&kind, shape), 0.0_f64);
            for row in 0..3000 {
                let x = [1e6 * random.signed(), 1e-6 * random.signed()];
                let target = 1e9 + 3.0 * x[0] - 2e12 * x[1];
                let error = (pupil.learn(&x, &[], target) - target).abs() / 1e6;
                worst = if row < 2500 { 0.0 } else { worst.max(error) };
            }
            println!("{variant}: {worst}");
            assert!(worst < 0.3, "{variant}: {worst}, where labels are up to 5 from their mean");
        }
    }
}
