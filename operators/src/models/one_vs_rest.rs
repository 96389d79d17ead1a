//! A classifier of several classes, made of one of two.

use std::borrow::Cow;
use std::sync::Arc;

use millstream_engine::catalogue::{Kind, Planned, configuration, schema_of};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::composite::{Answer, Composite, Given, Head, Member, Said, Unit, planned};
use super::onnx::{Expressed, Graph};
use super::{Design, Example, ModelKind, Shape, Task};

/// One against the rest.
pub static KIND: ModelKind = Kind {
    name: "one_vs_rest",
    about: "Makes a classifier of several classes of one that only knows yes and no: each class has its own, which tells it from \
            all others.\n\nA class is as probable as its own one says, in relation to what the others say. Of two classes \
            it is just that classifier.",
    schema: schema_of::<Config>,
    example: "{of: {logistic_regression: {update: ftrl}}}",
    plan,
};

/// Settings of one against the rest.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The classifier, with the settings that it has for every class.
    #[schemars(with = "Member")]
    of: Value,
}

fn plan(value: &Value) -> Planned<Design> {
    let config: Config = configuration(value)?;
    let of = planned("of", &config.of, &[Task::Classification], KIND.name)?;
    let (forgets, quickens, parameters) = (of.forgets, of.quickens, json!({"of": of.named()}));
    let make = Arc::new(move |shape: Shape| {
        if shape.classes <= 2 {
            return (of.make)(shape);
        }
        let one = Shape { classes: 2, ..shape };
        let members = (0..shape.classes).map(|class| Unit {
            learner: (of.make)(one),
            name: format!("{class}.{}", of.kind),
            quickens: of.quickens,
        });
        let head = Box::new(OneVsRest { classes: shape.classes });
        let learner: Box<dyn super::Learner> = Box::new(Composite::new(members.collect(), head, 1));
        learner
    });
    Ok(Design { forgets, quickens, ..Design::new(KIND.name, Task::Classification, parameters, make) })
}

#[derive(Clone)]
struct OneVsRest {
    classes: usize,
}

impl Head for OneVsRest {
    fn lesson<'a>(&self, member: usize, examples: &'a [Example]) -> Cow<'a, [Example]> {
        let target = |example: &Example| f64::from(example.target == member as f64);
        examples.iter().map(|example| Example { target: target(example), ..*example }).collect()
    }

    fn learn(&mut self, given: &Given<'_>, _: &[Example], outputs: &mut Vec<f64>) {
        self.answer(given, outputs);
    }

    fn frozen(&self) -> Arc<dyn Answer> {
        Arc::new(self.clone())
    }
}

impl Answer for OneVsRest {
    fn answer(&self, given: &Given<'_>, outputs: &mut Vec<f64>) {
        outputs.resize(given.rows * self.classes, 0.0);
        for (row, outputs) in outputs.chunks_exact_mut(self.classes).enumerate() {
            for (output, said) in outputs.iter_mut().zip(given.outputs) {
                *output = said[row];
            }
            let sum: f64 = outputs.iter().sum();
            for output in outputs {
                // All of them may be sure that it is not theirs.
                *output = if sum > f64::MIN_POSITIVE { (*output / sum).min(1.0) } else { 1.0 / self.classes as f64 };
            }
        }
    }

    fn onnx(&self, graph: &mut Graph, said: &Said<'_>) -> Expressed {
        let members = said.all(graph)?;
        let all = graph.beside(&members);
        let sum = graph.reduce("ReduceSum", all, 1, true);
        let least = graph.scalar(f64::MIN_POSITIVE);
        let is_some = graph.apply("Greater", &[sum, least]);
        let parts = graph.divide(all, sum);
        let parts = graph.at_most(parts, 1.0);
        let even = graph.scalar(1.0 / self.classes as f64);
        Ok(graph.apply("Where", &[is_some, parts, even]))
    }

    fn lines(&self, _: &[String]) -> Vec<String> {
        vec![format!("{} classes, each against the rest", self.classes)]
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::Random;
    use super::super::{Learner, Matrix, Predictor, likeliest, plan};
    use super::*;

    #[test]
    fn probabilities_are_in_relation() {
        let said = [vec![0.25, 0.0, 1e-320], vec![0.5, 0.0, 0.0], vec![0.25, 0.0, 0.0], vec![0.0, 0.0, 0.0]];
        let mut outputs = Vec::new();
        OneVsRest { classes: 4 }.answer(&Given { rows: 3, outputs: &said, width: 1 }, &mut outputs);
        assert_eq!(outputs, [0.25, 0.5, 0.25, 0.0, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25]);
    }

    #[test]
    fn three_classes_are_told_apart_by_models_of_two() {
        let design = plan(&json!({"one_vs_rest": {"of": "logistic_regression"}})).expect("a valid model");
        let shape = Shape { dense: 2, active: 0, categories: 0, classes: 3 };
        let mut learner: Box<dyn Learner> = (design.make)(shape);
        let (mut random, len) = (Random::seeded(3), 4000);
        let classes: Vec<usize> = (0..len).map(|_| random.below(3)).collect();
        let mut rows = Matrix::new(shape);
        rows.resize(len);
        for column in 0..2 {
            let centres = [[0.0, 2.0, -2.0], [2.0, -1.0, -1.0]][column];
            rows.set_dense(column, classes.iter().map(|class| centres[*class] + 0.5 * random.normal()));
        }
        let examples: Vec<Example> = classes.iter().map(|class| Example::of(*class as f64)).collect();
        let mut outputs = Vec::new();
        learner.learn(&rows, &examples, &mut outputs);
        let right = outputs.chunks(3).zip(&classes).filter(|(row, class)| likeliest(row) == **class).count();
        assert!(right as f64 > 0.97 * len as f64, "{right} of {len}");
        let still: Arc<dyn Predictor> = learner.frozen();
        assert_eq!(still.tensors().iter().filter(|tensor| tensor.name.ends_with("/weights")).count(), 3);
    }
}
