//! `mark_gaps`: how long a key was silent.

use std::sync::Arc;

use arrow::array::{Array, AsArray, Float64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, SchemaRef, TimestampMillisecondType};
use millstream_engine::Result;
use millstream_engine::batch::{event_time, with_columns, with_fields};
use millstream_engine::catalogue::{Kind, Planned, Problem, Problems, StepInput, StepKind, configuration, schema_of};
use millstream_engine::operator::{Keyed, Power, Rejects, Step};
use millstream_engine::state::States;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::columns::{not_reserved, readable};

pub(super) static KIND: StepKind = Kind {
    name: "mark_gaps",
    about: "Adds how many seconds there were between a row and the one before it of its key, where that was long.\n\n\
            Otherwise, and for a key's first row, the column is null. Times are event times; a row that is older than its key's newest has no gap.",
    schema: schema_of::<Config>,
    example: "by: [sensor]\nlonger_than_seconds: 30\n",
    plan,
};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The columns that make the key.
    by: Vec<String>,
    /// What is a gap.
    longer_than_seconds: f64,
    /// The name of the column.
    #[serde(default = "gap_seconds")]
    column: String,
}

fn gap_seconds() -> String {
    "gap_seconds".to_owned()
}

fn plan(config: &Value, input: &StepInput<'_>) -> Planned<Step> {
    let config: Config = configuration(config)?;
    let mut problems = Problems::default();
    let by = readable(input.schema, &mut problems, "by", &config.by);
    problems.take(not_reserved("column", &config.column));
    if config.longer_than_seconds.is_nan() || config.longer_than_seconds < 0.0 {
        problems.push(Problem::new("longer_than_seconds", "bad-value", "a time is 0 or longer"));
    }
    problems.finish()?;
    let schema = with_fields(input.schema, [Field::new(&config.column, DataType::Float64, true)]);
    let operator = MarkGaps { by, at: event_time(input.schema), config, schema: schema.clone() };
    Ok(Step { schema, others: Vec::new(), power: Power::keyed(operator) })
}

struct MarkGaps {
    by: Vec<usize>,
    at: usize,
    config: Config,
    schema: SchemaRef,
}

impl Keyed for MarkGaps {
    /// When the newest row was.
    type State = Option<i64>;

    fn key(&self, _: usize) -> &[usize] {
        &self.by
    }

    fn apply(
        &self,
        _: usize,
        rows: &RecordBatch,
        states: &mut States<'_, Option<i64>>,
        _: &mut Rejects,
    ) -> Result<Option<RecordBatch>> {
        let times = rows.column(self.at).as_primitive::<TimestampMillisecondType>();
        let mut gap = |row: usize| {
            let time = times.is_valid(row).then(|| times.value(row))?;
            let before = *states.get(row);
            states.update(row, |newest| *newest = (*newest).max(Some(time)));
            let seconds = (time - before?) as f64 / 1000.0;
            (seconds > self.config.longer_than_seconds).then_some(seconds)
        };
        let gaps: Float64Array = (0..rows.num_rows()).map(&mut gap).collect();
        Ok(Some(with_columns(&self.schema, rows, vec![(self.config.column.as_str(), Arc::new(gaps))])?))
    }

    fn expired(&self, _: &Option<i64>, _: i64) -> bool {
        // The longer ago, the longer the gap.
        false
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::harness::{check, problems};

    #[test]
    fn long_silences_are_told() {
        check(
            &super::KIND,
            &json!({"by": ["sensor"], "longer_than_seconds": 5}),
            "t  sensor
             1  a
             2  b
             6  a
             12 a
             20 b",
            "t  sensor gap_seconds
             1  a      null
             2  b      null
             6  a      null
             12 a      6
             20 b      18",
        );
    }

    #[test]
    fn all_problems_are_found() {
        assert_eq!(
            problems(&super::KIND, &json!({"by": ["x"], "longer_than_seconds": -1, "column": "_time"})),
            "by.0 unknown-column; column reserved-column; longer_than_seconds bad-value"
        );
    }
}
