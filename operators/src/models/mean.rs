//! The mean of what several learners say.

use std::sync::Arc;

use millstream_engine::catalogue::{Kind, Planned, Problem, Problems, configuration, schema_of};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::composite::{Answer, Given, Head, Member, Members, Said};
use super::onnx::{Edge, Expressed, Graph};
use super::{Design, Example, ModelKind, Task};

/// The mean of learners.
pub static KIND: ModelKind = Kind {
    name: "mean",
    about: "Several learners on one stream, and the mean of what they say: of probabilities or of numbers.\n\n\
            Every member learns every row, on its own.",
    schema: schema_of::<Config>,
    example: "{of: [logistic_regression, {logistic_regression: {update: ftrl}}], weights: [2, 1]}",
    plan,
};

/// Settings of a mean.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The learners, 2 to 100 of them: all classifiers, or all of numbers.
    #[schemars(with = "Vec<Member>", length(min = 2, max = 100))]
    of: Vec<Value>,
    /// How much each of them counts, from 0.001 to 1000; all the same if it is left out.
    weights: Option<Vec<f64>>,
}

fn plan(value: &Value) -> Planned<Design> {
    let config: Config = configuration(value)?;
    let mut problems = Problems::default();
    let tasks = [Task::Classification, Task::Regression, Task::Anomaly];
    let members = problems.take_all(Members::plan(&config.of, &tasks, KIND.name));
    let weights = config.weights.unwrap_or_else(|| vec![1.0; config.of.len()]);
    if weights.len() != config.of.len() {
        let message = format!("{} weights for {} learners", weights.len(), config.of.len());
        problems.push(Problem::new("weights", "bad-value", message));
    }
    for (at, weight) in weights.iter().enumerate().filter(|(_, weight)| !(0.001..=1000.0).contains(*weight)) {
        let message = format!("{weight} is not between 0.001 and 1000");
        problems.push(Problem::new(&format!("weights.{at}"), "out-of-range", message));
    }
    problems.finish()?;
    let members = members.expect("what is missing has left a problem");
    let (forgets, parameters) = (members.forget(), json!({"of": members.parameters(), "weights": weights}));
    let weights: Arc<[f64]> = weights.into();
    Ok(Design { forgets, ..members.design(KIND.name, parameters, move |_, _| Box::new(Mean(weights.clone()))) })
}

#[derive(Clone)]
struct Mean(Arc<[f64]>);

impl Head for Mean {
    fn learn(&mut self, given: &Given<'_>, _: &[Example], outputs: &mut Vec<f64>) {
        self.answer(given, outputs);
    }

    fn frozen(&self) -> Arc<dyn Answer> {
        Arc::new(self.clone())
    }
}

impl Answer for Mean {
    fn answer(&self, given: &Given<'_>, outputs: &mut Vec<f64>) {
        let total: f64 = self.0.iter().sum();
        outputs.clear();
        outputs.extend((0..given.rows * given.width).map(|at| {
            let said = || given.outputs.iter().map(|outputs| outputs[at]);
            let sum = said().zip(self.0.iter()).map(|(said, weight)| said * weight).sum::<f64>() / total;
            // So large that the sum is none any more.
            let sum = if sum.is_finite() {
                sum
            } else {
                said().zip(self.0.iter()).map(|(said, weight)| said * (weight / total)).sum()
            };
            // A mean is not beyond what it is the mean of, not even by rounding.
            sum.clamp(said().fold(f64::INFINITY, f64::min), said().fold(f64::NEG_INFINITY, f64::max))
        }));
    }

    fn onnx(&self, graph: &mut Graph, said: &Said<'_>) -> Expressed {
        let total: f64 = self.0.iter().sum();
        let members = said.all(graph)?;
        let weighted = members.iter().zip(self.0.iter()).map(|(member, weight)| graph.scale(*member, weight / total));
        let weighted: Vec<Edge> = weighted.collect();
        Ok(graph.apply("Sum", &weighted))
    }

    fn lines(&self, members: &[String]) -> Vec<String> {
        let weighted = members.iter().zip(self.0.iter()).map(|(name, weight)| format!("{weight} x {name}"));
        vec![format!("the mean of {}", weighted.collect::<Vec<_>>().join(", "))]
    }

    fn share(&self, member: usize) -> f64 {
        self.0[member]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_are_weighted_and_stay_between() {
        let case = |weights: &[f64], said: &[Vec<f64>], want: &[f64]| {
            let mut outputs = Vec::new();
            Mean(weights.into()).answer(&Given { rows: said[0].len(), outputs: said, width: 1 }, &mut outputs);
            assert_eq!(outputs, want);
        };
        case(&[1.0, 1.0], &[vec![0.5, -4.0], vec![0.25, 2.0]], &[0.375, -1.0]);
        case(&[3.0, 1.0], &[vec![1.0], vec![2.0]], &[1.25]);
        case(&[1.0, 1.0], &[vec![f64::MAX], vec![f64::MAX]], &[f64::MAX]);
        case(&[0.1; 3], &[vec![0.7], vec![0.7], vec![0.7]], &[0.7]);
    }
}
