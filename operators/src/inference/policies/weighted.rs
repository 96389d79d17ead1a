//! `weighted`: models share the requests by percentages.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, RecordBatch};
use arrow::util::display::array_value_to_string;
use millstream_engine::batch::Meta;
use millstream_engine::catalogue::{Kind, Planned, Problem, configuration, schema_of};
use millstream_engine::operator::{Choose, Measure};
use millstream_engine::state::{hash, share};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::{PlannedChoice, PlannedPolicy, PolicyKind, check_others};

/// The entry of `weighted`.
pub static KIND: PolicyKind = Kind {
    name: "weighted",
    about: "Models share the requests by percentages: a canary gets a few of them.\n\n\
        The requests' own model gets what is left of 100. Who gets a request follows from its place in its topic, or, with \
        `sticky`, from its value in a column: then all requests with one value get the same model. The answers that are not \
        given are compared, as in `shadow`.",
    schema: schema_of::<Config>,
    example: "{percent: {late_forest: 5}}",
    plan,
};

/// Who gets how much.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The percentage of each model beside the requests' own: more than 0, and together at most 100.
    percent: BTreeMap<String, f64>,
    /// A column of the models' input: requests with the same value in it get the same model.
    sticky: Option<String>,
}

fn plan(value: &Value) -> Planned<PlannedPolicy> {
    let Config { percent, sticky } = configuration(value)?;
    let others: Vec<String> = percent.keys().cloned().collect();
    let mut problems = check_others("percent", &others);
    let mut all = 0.0;
    for (name, share) in &percent {
        if !(*share > 0.0 && *share <= 100.0) {
            let message = format!("{share} is not more than 0 and at most 100");
            problems.push(Problem::new(&format!("percent.{name}"), "out-of-range", message));
        }
        all += share;
    }
    if all > 100.0 {
        let problem = Problem::new("percent", "out-of-range", format!("together they get {all} percent"));
        problems.push(problem.help("leave something, or nothing, of 100 to the requests' own model"));
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let mut bound = 0.0;
    let bounds = percent.values().map(|share| {
        bound += share / 100.0;
        bound
    });
    let choose = Arc::new(Weighted { bounds: bounds.collect(), sticky: sticky.clone() });
    Ok(PlannedPolicy { others, column: sticky.map(|name| ("sticky", name)), choose: PlannedChoice::Measured(choose) })
}

struct Weighted {
    /// Of each model beside the own one: the end of its part of [0, 1).
    bounds: Vec<f64>,
    sticky: Option<String>,
}

impl Weighted {
    /// Whose part of [0, 1) it is: 0 is the own model, which has what is left.
    fn part_of(&self, at: f64) -> usize {
        self.bounds.iter().position(|bound| at < *bound).map_or(0, |place| place + 1)
    }
}

impl Choose for Weighted {
    fn score(&self, _: &[Measure]) -> f64 {
        f64::NAN
    }

    fn leader(&self, _: &[f64]) -> usize {
        let ends = [0.0].iter().chain(&self.bounds);
        let others = ends.zip(&self.bounds).map(|(start, end)| end - start);
        let own = 1.0 - self.bounds.last().copied().unwrap_or_default();
        let shares: Vec<f64> = std::iter::once(own).chain(others).collect();
        (1..shares.len()).fold(0, |most, at| if shares[at] > shares[most] { at } else { most })
    }

    fn choose(&self, _: &[f64], rows: &RecordBatch, row: usize) -> usize {
        let value = self.sticky.as_ref().and_then(|name| rows.column_by_name(name));
        let hashed = match value {
            Some(value) if value.is_valid(row) => {
                // All types of columns can be shown.
                hash(array_value_to_string(value, row).unwrap_or_default().as_bytes())
            }
            Some(_) => hash(b""),
            None => {
                let origin = Meta::of(rows).origin(row);
                let parts = [u64::from(origin.source), u64::from(origin.partition), origin.offset];
                hash(parts.map(u64::to_le_bytes).as_flattened())
            }
        };
        self.part_of(share(hashed))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn parts_are_as_large_as_the_percentages_say() {
        let planned = plan(&json!({"percent": {"b": 5, "c": 20}})).expect("it is sound");
        assert_eq!(planned.others, ["b", "c"]);
        let weighted = Weighted { bounds: vec![0.05, 0.25], sticky: None };
        let parts = [0.0, 0.049, 0.05, 0.249, 0.25, 0.999].map(|at| weighted.part_of(at));
        assert_eq!(parts, [1, 1, 2, 2, 0, 0]);
        assert_eq!(weighted.leader(&[]), 0);
        assert_eq!(Weighted { bounds: vec![0.1, 0.9], sticky: None }.leader(&[]), 2);
    }

    #[test]
    fn what_cannot_be_shared_is_refused() {
        let codes = |value: Value| -> Vec<&str> {
            plan(&value).expect_err("it is not sound").iter().map(|problem| problem.code).collect()
        };
        assert_eq!(codes(json!({"percent": {}})), ["too-few"]);
        assert_eq!(codes(json!({"percent": {"b": 0}})), ["out-of-range"]);
        assert_eq!(codes(json!({"percent": {"b": 60, "c": 60}})), ["out-of-range"]);
    }
}
