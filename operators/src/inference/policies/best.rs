//! `best`: the model that has done best so far answers.

use std::sync::Arc;

use arrow::array::RecordBatch;
use millstream_engine::catalogue::{Kind, Planned, Problem, configuration, schema_of};
use millstream_engine::operator::{Choose, Measure};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::{PlannedChoice, PlannedPolicy, PolicyKind, check_others};
use crate::registry::less_is_better;

/// The entry of `best`.
pub static KIND: PolicyKind = Kind {
    name: "best",
    about: "The model that has done best so far answers: requests leave one that becomes worse, and come back to it.\n\n\
        Models are compared by a measure that each had, before the request's epoch, of what it said before it learned. The \
        requests' own model keeps them unless another is better by more than `margin`. That another one leads is the event \
        `leader_changed` with the measures of all, in the topic `NAME.events`. The answers that are not given are compared, as \
        in `shadow`.",
    schema: schema_of::<Config>,
    example: "{of: [late_forest], by: log_loss}",
    plan,
};

/// Among whom, and by what.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The models beside the requests' own.
    of: Vec<String>,
    /// A measure of all of them: `log_loss`, `accuracy`, `auc`, `rmse`, …
    by: String,
    /// Over which rows: `faded` (the newest count most), `all`, `last 1000` (with `evaluate: {window: 1000}`), `carrier=AA` (with
    /// `evaluate: {by: [carrier]}`).
    #[serde(default = "faded")]
    over: String,
    /// By how much another has to be better than the requests' own model: 0 or more.
    #[serde(default)]
    margin: f64,
}

fn faded() -> String {
    "faded".to_owned()
}

/// Measures that there are of rows that fade.
const FADED: [&str; 4] = ["accuracy", "log_loss", "mae", "rmse"];

fn plan(value: &Value) -> Planned<PlannedPolicy> {
    let Config { of, by, over, margin } = configuration(value)?;
    let mut problems = check_others("of", &of);
    if !(margin >= 0.0 && margin.is_finite()) {
        problems.push(Problem::new("margin", "out-of-range", format!("{margin} is not 0 or more")));
    }
    if over == "faded" && !FADED.contains(&by.as_str()) {
        let message = format!("there is no `{by}` of rows that fade");
        problems.push(Problem::new("by", "unknown-measure", message).choices(&by, FADED));
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(PlannedPolicy { others: of, column: None, choose: PlannedChoice::Measured(Arc::new(Best { by, over, margin })) })
}

struct Best {
    by: String,
    over: String,
    margin: f64,
}

impl Choose for Best {
    /// The less the better.
    fn score(&self, measures: &[Measure]) -> f64 {
        let is_it = |measure: &&Measure| {
            measure.name == self.by && measure.who == "model" && measure.over == self.over.as_str()
        };
        let found = measures.iter().find(is_it).map_or(f64::NAN, |measure| measure.value);
        less_is_better(&self.by, found)
    }

    fn leader(&self, scores: &[f64]) -> usize {
        // What is not measured is never better.
        let own = scores[0];
        let is_better = |score: f64| score < own - self.margin || (own.is_nan() && !score.is_nan());
        (1..scores.len())
            .filter(|at| is_better(scores[*at]))
            .fold(0, |best, at| if best == 0 || scores[at] < scores[best] { at } else { best })
    }

    fn choose(&self, scores: &[f64], _: &RecordBatch, _: usize) -> usize {
        self.leader(scores)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_best_leads_and_the_own_model_where_none_is_better() {
        let best = Best { by: "log_loss".to_owned(), over: "all".to_owned(), margin: 0.1 };
        let nan = f64::NAN;
        for (scores, leader) in [
            (&[0.5, 0.5][..], 0),
            (&[0.5, 0.41], 0),
            (&[0.5, 0.39], 1),
            (&[0.5, 0.39, 0.3], 2),
            (&[0.5, nan, 0.3], 2),
            (&[0.5, nan], 0),
            (&[nan, 0.9, 0.8], 2),
            (&[nan, nan], 0),
        ] {
            assert_eq!(best.leader(scores), leader, "{scores:?}");
        }
    }

    #[test]
    fn more_accuracy_and_less_loss_are_better() {
        let measures = [Measure::of_all("accuracy", "majority", 0.9), Measure::of_all("accuracy", "model", 0.8)];
        let best = Best { by: "accuracy".to_owned(), over: "all".to_owned(), margin: 0.0 };
        assert!((best.score(&measures) + 0.8).abs() < 1e-12);
        assert!(Best { over: "faded".to_owned(), ..best }.score(&measures).is_nan());
    }

    #[test]
    fn what_is_not_measured_is_refused() {
        let problems = plan(&json!({"of": ["b", "b"], "by": "auc", "margin": -1})).expect_err("it is not sound");
        let codes: Vec<&str> = problems.iter().map(|problem| problem.code).collect();
        assert_eq!(codes, ["named-twice", "out-of-range", "unknown-measure"]);
        assert!(plan(&json!({"of": ["b"], "by": "auc", "over": "all"})).is_ok());
    }
}
