//! Several classifiers, one vote each.

use std::sync::Arc;

use millstream_engine::catalogue::{Kind, Planned, configuration, schema_of};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::composite::{Answer, Given, Head, Member, Members, Said};
use super::onnx::{Edge, Expressed, Graph};
use super::{Design, Example, ModelKind, Task, likeliest};

/// A vote of classifiers.
pub static KIND: ModelKind = Kind {
    name: "vote",
    about: "Several classifiers on one stream, with one vote each: a class is as probable as the share of those for it.\n\n\
            Every member learns every row, on its own.",
    schema: schema_of::<Config>,
    example: "{of: [logistic_regression, {logistic_regression: {update: sgd}}, {logistic_regression: {update: ftrl}}]}",
    plan,
};

/// Settings of a vote.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The classifiers, 2 to 100 of them. Between two classes, an odd number of them is never undecided.
    #[schemars(with = "Vec<Member>", length(min = 2, max = 100))]
    of: Vec<Value>,
}

fn plan(value: &Value) -> Planned<Design> {
    let config: Config = configuration(value)?;
    let members = Members::plan(&config.of, &[Task::Classification], KIND.name)?;
    let (forgets, parameters) = (members.forget(), json!({"of": members.parameters()}));
    Ok(Design { forgets, ..members.design(KIND.name, parameters, |_, _| Box::new(Vote)) })
}

struct Vote;

impl Head for Vote {
    fn learn(&mut self, given: &Given<'_>, _: &[Example], outputs: &mut Vec<f64>) {
        self.answer(given, outputs);
    }

    fn frozen(&self) -> Arc<dyn Answer> {
        Arc::new(Self)
    }
}

impl Answer for Vote {
    fn answer(&self, given: &Given<'_>, outputs: &mut Vec<f64>) {
        outputs.clear();
        outputs.resize(given.rows * given.width, 0.0);
        let members = given.outputs.len();
        for (row, shares) in outputs.chunks_exact_mut(given.width).enumerate() {
            for member in 0..members {
                match (&mut *shares, given.of(member, row)) {
                    ([yes], [said]) if *said == 0.5 => *yes += 0.5,
                    ([yes], said) => *yes += likeliest(said) as f64,
                    (shares, said) => {
                        // Who is undecided has a part of a vote for each.
                        let most = said[likeliest(said)];
                        let ties = said.iter().filter(|of| **of == most).count();
                        let each = shares.iter_mut().zip(said).filter(|(_, of)| **of == most);
                        each.for_each(|(share, _)| *share += 1.0 / ties as f64);
                    }
                }
            }
            shares.iter_mut().for_each(|share| *share /= members as f64);
        }
    }

    fn onnx(&self, graph: &mut Graph, said: &Said<'_>) -> Expressed {
        let members = said.all(graph)?;
        let votes = members.iter().map(|member| vote(graph, *member, said.width())).collect::<Vec<_>>();
        let sum = graph.apply("Sum", &votes);
        Ok(graph.scale(sum, 1.0 / members.len() as f64))
    }

    fn lines(&self, members: &[String]) -> Vec<String> {
        vec![format!("a vote of {}", members.join(", "))]
    }
}

/// A member's vote in an ONNX graph.
fn vote(graph: &mut Graph, said: Edge, width: usize) -> Edge {
    if width == 1 {
        let half = graph.scalar(0.5);
        let sides = ["Greater", "GreaterOrEqual"].map(|operator| {
            let side = graph.apply(operator, &[said, half]);
            graph.as_doubles(side)
        });
        let sum = graph.add(sides[0], sides[1]);
        return graph.scale(sum, 0.5);
    }
    graph.largest(said)
}

#[cfg(test)]
mod tests {
    use super::super::composite::Given;
    use super::*;

    #[test]
    fn shares_of_votes() {
        let case = |width: usize, said: &[Vec<f64>], want: &[f64]| {
            let mut outputs = vec![7.0; 9];
            Vote.answer(&Given { rows: said[0].len() / width, outputs: said, width }, &mut outputs);
            assert_eq!(outputs, want);
        };
        case(1, &[vec![0.9, 0.1], vec![0.6, 0.2], vec![0.0, 0.5], vec![0.3, 1.0]], &[0.5, 0.375]);
        case(3, &[vec![0.2, 0.5, 0.3], vec![0.4, 0.2, 0.4]], &[0.25, 0.5, 0.25]);
    }
}
