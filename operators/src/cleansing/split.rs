//! `split`: records are dealt into named parts.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, SchemaRef};
use millstream_engine::Result;
use millstream_engine::batch::{Lane, with_columns, with_fields};
use millstream_engine::catalogue::{Kind, Planned, Problem, Problems, StepInput, StepKind, configuration, schema_of};
use millstream_engine::operator::{Power, Rejects, Step, Transform};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::chance::{Chance, deciding};
use super::columns::not_reserved;

pub(super) static KIND: StepKind = Kind {
    name: "split",
    about: "Deals the records into named parts: a text column says which part each is in.\n\n\
            A fixed hash of the seed and the record's origin (source, partition, offset) decides, or of the columns \
            `by`: then all records of a customer are in one part. \
            `require: {that: \"fold = 'train'\", otherwise: drop, lanes: learn}` keeps one of them for learning.",
    schema: schema_of::<Config>,
    example: "shares: {train: 0.8, test: 0.2}\nby: [sensor]\n",
    plan,
};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The parts, and how much each gets: all together 1.
    shares: BTreeMap<String, f64>,
    /// The new column.
    #[serde(default = "fold")]
    into: String,
    /// Columns (text, whole numbers, or true and false) whose values decide. Default: the record's origin does.
    #[serde(default)]
    by: Vec<String>,
    /// Another seed deals in another way.
    #[serde(default)]
    seed: u64,
}

fn fold() -> String {
    "fold".to_owned()
}

/// How far the shares' sum may be from 1, for rounding: `0.1` ten times.
const SLACK: f64 = 1e-9;

fn plan(config: &Value, input: &StepInput<'_>) -> Planned<Step> {
    let config: Config = configuration(config)?;
    let mut problems = Problems::default();
    for (name, share) in &config.shares {
        if !(*share > 0.0 && *share <= 1.0) {
            let message = format!("a share is more than 0 and at most 1, and this is {share}");
            problems.push(Problem::new(&format!("shares.{name}"), "out-of-range", message));
        }
    }
    let sum: f64 = config.shares.values().sum();
    if (sum - 1.0).abs() > SLACK {
        problems.push(Problem::new("shares", "bad-value", format!("the shares are {sum} together, not 1")));
    }
    problems.take(not_reserved("into", &config.into));
    if input.schema.index_of(&config.into).is_ok() {
        let message = format!("there is a column `{}` already", config.into);
        problems.push(Problem::new("into", "duplicate-name", message));
    }
    let by = deciding(input.schema, &mut problems, &config.by);
    problems.finish()?;
    let schema = with_fields(input.schema, [Field::new(&config.into, DataType::Utf8, false)]);
    let chance = Chance::new("split", config.seed, by);
    let operator = Split { parts: parts(&config.shares), chance, into: config.into, schema: schema.clone() };
    Ok(Step { schema, others: Vec::new(), power: Power::transform(operator) })
}

/// The parts in the order of their names, and where each ends. The last takes what rounding leaves.
fn parts(shares: &BTreeMap<String, f64>) -> Vec<(f64, String)> {
    let mut end = 0.0;
    let mut parts = Vec::with_capacity(shares.len());
    for (name, share) in shares {
        end += share;
        parts.push((end, name.clone()));
    }
    if let Some(last) = parts.last_mut() {
        last.0 = f64::INFINITY;
    }
    parts
}

struct Split {
    parts: Vec<(f64, String)>,
    chance: Chance,
    into: String,
    schema: SchemaRef,
}

impl Transform for Split {
    fn apply(&self, _: Lane, rows: &RecordBatch, _: &mut Rejects) -> Result<RecordBatch> {
        let drawn = self.chance.draw(rows)?.into_iter();
        let part = |drawn: f64| self.parts.iter().find(|(end, _)| drawn < *end).map(|(_, name)| name.as_str());
        // The last part has no end, so each number is in one.
        let names = StringArray::from_iter_values(drawn.filter_map(part));
        with_columns(&self.schema, rows, vec![(self.into.as_str(), Arc::new(names) as ArrayRef)])
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::super::harness::{Bench, check, check_serve, problems, show, table};

    fn dealt(config: &Value) -> Vec<String> {
        let rows: Vec<String> = (0..10_000).map(|row| format!("\n1 {row} s{}", row % 2500)).collect();
        let rows = table(&super::super::example_schema(), &format!("t count sensor{}", rows.concat()));
        let output = Bench::new(&super::KIND, config).learn(&rows);
        show(&output, &["fold"]).lines().skip(1).map(str::to_owned).collect()
    }

    #[test]
    fn each_part_gets_its_share() {
        let folds = dealt(&json!({"shares": {"train": 0.7, "test": 0.2, "holdout": 0.1}}));
        for (name, share) in [("train", 0.7), ("test", 0.2), ("holdout", 0.1)] {
            let found = folds.iter().filter(|fold| *fold == name).count() as f64;
            let (mean, deviation) = (10_000.0 * share, (10_000.0_f64 * share * (1.0 - share)).sqrt());
            assert!((found - mean).abs() <= 4.0 * deviation, "{name}: {found} of {mean}");
        }
    }

    #[test]
    fn what_belongs_together_stays_together() {
        let folds = dealt(&json!({"shares": {"a": 0.5, "b": 0.5}, "by": ["sensor"]}));
        assert!((0..10_000).all(|row| folds[row] == folds[row % 2500]));
        assert!((1..2500).any(|row| folds[row] != folds[0]));
    }

    /// A sample of a tenth must not all fall into the first tenth.
    #[test]
    fn samples_are_split_evenly() {
        let rows: Vec<String> = (0..10_000).map(|row| format!("\n1 {row}")).collect();
        let rows = table(&super::super::example_schema(), &format!("t count{}", rows.concat()));
        let sampled = Bench::new(&super::super::sample::KIND, &json!({"share": 0.1})).learn(&rows);
        let output = Bench::new(&super::KIND, &json!({"shares": {"a": 0.5, "b": 0.5}})).learn(&sampled);
        let mut counts = BTreeMap::new();
        for fold in show(&output, &["fold"]).lines().skip(1) {
            *counts.entry(fold.to_owned()).or_insert(0) += 1;
        }
        let (a, all) = (f64::from(counts["a"]), output.num_rows() as f64);
        assert!((a - all / 2.0).abs() <= 4.0 * (all * 0.25).sqrt(), "{counts:?}");
    }

    /// Runs that go on must go on with the same parts; requests get theirs by the same rule.
    #[test]
    fn the_parts_never_change() {
        let rows = "t sensor ok\n1 a true\n2 b true\n3 c null\n4 d false\n5 a true\n6 a false\n7 null true";
        let config = json!({"shares": {"train": 0.5, "test": 0.5}, "by": ["sensor", "ok"], "seed": 7});
        let dealt = "t sensor ok fold
                     1 a true train
                     2 b true test
                     3 c null train
                     4 d false train
                     5 a true train
                     6 a false train
                     7 null true train";
        check(&super::KIND, &config, rows, dealt);
        check_serve(&super::KIND, &config, rows, dealt);
    }

    #[test]
    fn all_problems_are_found() {
        let config = json!({"shares": {"a": 0.5, "b": -0.2}, "into": "room", "by": ["at"]});
        let expected = "shares.b out-of-range; shares bad-value; into duplicate-name; by wrong-type";
        assert_eq!(problems(&super::KIND, &config), expected);
        let config = json!({"shares": {}, "into": "_key"});
        assert_eq!(problems(&super::KIND, &config), "shares bad-value; into reserved-column; into duplicate-name");
    }
}
