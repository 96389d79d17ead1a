//! `sample`: a share of the records.

use arrow::array::{BooleanArray, RecordBatch};
use millstream_engine::Result;
use millstream_engine::batch::{Lane, filter};
use millstream_engine::catalogue::{Kind, Planned, Problem, Problems, StepInput, StepKind, configuration, schema_of};
use millstream_engine::operator::{Power, Rejects, Step, Transform};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::chance::{Chance, deciding};

pub(super) static KIND: StepKind = Kind {
    name: "sample",
    about: "Keeps a share of the records, always the same ones.\n\n\
            A fixed hash of the seed and the record's origin (source, partition, offset) decides, or of the columns \
            `by`: then all records of a customer stay, or none. With the same seed, a smaller share is a part of a \
            larger one. Requests always pass.",
    schema: schema_of::<Config>,
    example: "share: 0.1\nby: [sensor]\n",
    plan,
};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// How much is kept: more than 0, at most 1.
    share: f64,
    /// Columns (text, whole numbers, or true and false) whose values decide. Default: the record's origin does.
    #[serde(default)]
    by: Vec<String>,
    /// Another seed keeps other records.
    #[serde(default)]
    seed: u64,
}

fn plan(config: &Value, input: &StepInput<'_>) -> Planned<Step> {
    let config: Config = configuration(config)?;
    let mut problems = Problems::default();
    if !(config.share > 0.0 && config.share <= 1.0) {
        let message = format!("a share is more than 0 and at most 1, and this is {}", config.share);
        problems.push(Problem::new("share", "out-of-range", message));
    }
    let by = deciding(input.schema, &mut problems, &config.by);
    problems.finish()?;
    let operator = Sample { share: config.share, chance: Chance::new("sample", config.seed, by) };
    Ok(Step { schema: input.schema.clone(), others: Vec::new(), power: Power::transform(operator) })
}

struct Sample {
    share: f64,
    chance: Chance,
}

impl Transform for Sample {
    fn apply(&self, lane: Lane, rows: &RecordBatch, _: &mut Rejects) -> Result<RecordBatch> {
        if lane == Lane::Serve {
            return Ok(rows.clone());
        }
        let keep: BooleanArray = self.chance.draw(rows)?.into_iter().map(|drawn| Some(drawn < self.share)).collect();
        filter(rows, &keep)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::{Value, json};

    use super::super::harness::{Bench, check, check_serve, problems, show, table};

    /// Which of 10,000 rows, with offsets and counts from 0, are kept.
    fn kept(config: &Value) -> BTreeSet<usize> {
        let rows: Vec<String> = (0..10_000).map(|row| format!("\n1 {row}")).collect();
        let rows = table(&super::super::example_schema(), &format!("t count{}", rows.concat()));
        let output = Bench::new(&super::KIND, config).learn(&rows);
        show(&output, &["count"]).lines().skip(1).map(|count| count.parse().expect("a number")).collect()
    }

    #[test]
    fn the_share_is_kept() {
        for by in [json!([]), json!(["count"])] {
            for (seed, share) in [(0, 0.01), (1, 0.1), (2, 0.5), (3, 1.0)] {
                let found = kept(&json!({"share": share, "by": by, "seed": seed})).len() as f64;
                let (mean, deviation) = (10_000.0 * share, (10_000.0_f64 * share * (1.0 - share)).sqrt());
                assert!((found - mean).abs() <= 4.0 * deviation, "{found} of {mean} by {by}, seed {seed}");
            }
        }
    }

    #[test]
    fn seeds_are_independent_and_shares_are_nested() {
        let [small, large, other] =
            [(0.2, 0), (0.5, 0), (0.5, 1)].map(|(share, seed)| kept(&json!({"share": share, "seed": seed})));
        assert!(small.is_subset(&large));
        let both = large.intersection(&other).count() as f64;
        assert!((both - 2500.0).abs() <= 4.0 * (10_000.0_f64 * 0.25 * 0.75).sqrt(), "{both} of 2500");
    }

    /// Runs that go on must go on with the same records.
    #[test]
    fn the_choice_never_changes() {
        let rows = "t sensor ok
                    1 a      true
                    2 b      true
                    3 c      null
                    4 d      false
                    5 a      true
                    6 a      false
                    7 null   true";
        let config = json!({"share": 0.5, "by": ["sensor", "ok"], "seed": 3});
        check(&super::KIND, &config, rows, "t sensor ok\n3 c null\n4 d false\n6 a false\n7 null true");
        check(&super::KIND, &json!({"share": 0.5}), rows, "t sensor ok\n3 c null\n7 null true");
    }

    #[test]
    fn requests_pass() {
        let rows = "t sensor\n1 a\n2 b\n3 c";
        check(&super::KIND, &json!({"share": 1e-9}), rows, "t sensor");
        check_serve(&super::KIND, &json!({"share": 1e-9}), rows, rows);
    }

    #[test]
    fn all_problems_are_found() {
        let config = json!({"share": 0, "by": ["temperature", "rom"]});
        assert_eq!(problems(&super::KIND, &config), "share out-of-range; by.1 unknown-column; by wrong-type");
        assert_eq!(problems(&super::KIND, &json!({"share": 1.5})), "share out-of-range");
        assert_eq!(problems(&super::KIND, &json!({"share": 0.5, "seed": -1})), "seed bad-value");
    }
}
