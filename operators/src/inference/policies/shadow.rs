//! `shadow`: the requests' own model answers, and others are compared with it.

use std::sync::Arc;

use arrow::array::RecordBatch;
use millstream_engine::catalogue::{Kind, Planned, configuration, schema_of};
use millstream_engine::operator::{Choose, Measure};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::{PlannedChoice, PlannedPolicy, PolicyKind, check_others};

/// The entry of `shadow`.
pub static KIND: PolicyKind = Kind {
    name: "shadow",
    about: "The requests' own model answers; others answer in its shadow, and are compared with it.\n\n\
        How often they say the same is the metric `millstream_answers_compared_total`; what they say goes to the topic under \
        `others`, if there is one. Where the own model cannot answer, the first of the others that can does.",
    schema: schema_of::<Config>,
    example: "{of: [late_forest]}",
    plan,
};

/// Who answers in the shadow.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The models beside the requests' own.
    of: Vec<String>,
}

fn plan(value: &Value) -> Planned<PlannedPolicy> {
    let Config { of } = configuration(value)?;
    let problems = check_others("of", &of);
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(PlannedPolicy { others: of, column: None, choose: PlannedChoice::Measured(Arc::new(Shadow)) })
}

struct Shadow;

impl Choose for Shadow {
    fn score(&self, _: &[Measure]) -> f64 {
        f64::NAN
    }

    fn leader(&self, _: &[f64]) -> usize {
        0
    }

    fn choose(&self, _: &[f64], _: &RecordBatch, _: usize) -> usize {
        0
    }
}
