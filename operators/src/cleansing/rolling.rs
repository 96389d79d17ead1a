//! `rolling`: features of a key's recent rows.

use std::collections::{BTreeMap, VecDeque};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use millstream_engine::Result;
use millstream_engine::batch::{Lane, Meta, with_columns, with_fields};
use millstream_engine::catalogue::{Kind, Planned, Problem, Problems, StepInput, StepKind, configuration, schema_of};
use millstream_engine::operator::{Keyed, Order, Power, Rejects, Step};
use millstream_engine::state::States;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::columns::key;
use super::functions::{Accumulator, Function, Value, Values, column_of, functions};

pub(super) static KIND: StepKind = Kind {
    name: "rolling",
    about: "Adds to each row what the rows of its key before it were like: counts, sums, means and the like.\n\n\
            Before it are those that are at most `within_seconds` older, and of them the newest `rows`. The row itself does not count, so that a request sees what a record would. \
            Functions are those of `aggregate`; what is no longer recent is subtracted exactly.",
    schema: schema_of::<Config>,
    example: "by: [sensor]\nwithin_seconds: 60\ncolumns: {recent_mean: mean(temperature), readings: count()}\n",
    plan,
};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The columns that make the key; with none, all rows have one.
    #[serde(default)]
    by: Vec<String>,
    /// How much older a row may be.
    within_seconds: Option<u32>,
    /// How many rows count at most.
    #[serde(default = "hundred")]
    rows: u32,
    /// The columns to add, and what they hold.
    columns: BTreeMap<String, String>,
}

fn hundred() -> u32 {
    100
}

fn plan(config: &Json, input: &StepInput<'_>) -> Planned<Step> {
    let config: Config = configuration(config)?;
    let mut problems = Problems::default();
    let by = key(input.schema, &mut problems, &config.by);
    if config.rows == 0 {
        problems.push(Problem::new("rows", "bad-value", "at least one row is needed"));
    }
    for name in config.columns.keys().filter(|name| input.schema.index_of(name).is_ok()) {
        let message = format!("there is a column `{name}` already");
        problems.push(Problem::new(&format!("columns.{name}"), "duplicate-name", message));
    }
    let functions = functions(input.schema, &mut problems, &config.columns);
    problems.finish()?;
    let schema = with_fields(input.schema, functions.iter().map(|function| function.field.clone()));
    let operator = Rolling {
        by,
        within_ms: config.within_seconds.map_or(i64::MAX, |seconds| i64::from(seconds) * 1000),
        rows: config.rows as usize,
        functions,
        schema: schema.clone(),
    };
    Ok(Step { schema, others: Vec::new(), power: Power::keyed(operator) })
}

struct Rolling {
    by: Vec<usize>,
    within_ms: i64,
    rows: usize,
    functions: Vec<Function>,
    schema: SchemaRef,
}

/// A key's recent rows, and what the functions make of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Recent {
    rows: VecDeque<(i64, Vec<Value>)>,
    accumulators: Vec<Accumulator>,
}

impl Keyed for Rolling {
    type State = Recent;

    fn key(&self, _: usize) -> &[usize] {
        &self.by
    }

    fn apply(
        &self,
        _: usize,
        rows: &RecordBatch,
        states: &mut States<'_, Recent>,
        _: &mut Rejects,
    ) -> Result<Option<RecordBatch>> {
        let meta = Meta::of(rows);
        let values = Values::of(&self.functions, rows)?;
        let mut results: Vec<Vec<Option<f64>>> =
            self.functions.iter().map(|_| Vec::with_capacity(rows.num_rows())).collect();
        for row in 0..rows.num_rows() {
            let order = meta.order(row);
            if states.lane() == Lane::Serve {
                // The state stays as it is: what is not recent any more is left out of a copy.
                let mut recent = states.get(row).clone();
                self.forget(&mut recent, order.0);
                self.results(&recent, &mut results);
            }
            states.update(row, |recent| {
                self.forget(recent, order.0);
                self.results(recent, &mut results);
                let values = (0..self.functions.len()).map(|function| values.get(function, row)).collect();
                self.add(recent, order, values);
            });
        }
        let named = self.functions.iter().zip(results);
        let columns =
            named.map(|(function, results)| Ok((function.field.name().as_str(), column_of(function, results)?)));
        Ok(Some(with_columns(&self.schema, rows, columns.collect::<Result<_>>()?)?))
    }

    fn expired(&self, recent: &Recent, watermark: i64) -> bool {
        recent.rows.back().is_none_or(|(time, _)| self.is_old(*time, watermark))
    }
}

impl Rolling {
    fn is_old(&self, time: i64, now: i64) -> bool {
        time.saturating_add(self.within_ms) < now
    }

    fn forget(&self, recent: &mut Recent, now: i64) {
        while let Some((_, values)) = recent.rows.pop_front_if(|(time, _)| self.is_old(*time, now)) {
            subtract(&mut recent.accumulators, &values);
        }
    }

    fn add(&self, recent: &mut Recent, order: Order, values: Vec<Value>) {
        if recent.rows.is_empty() {
            // Nothing is left of what was: so a key that was forgotten is like one that never was.
            recent.accumulators = self.functions.iter().map(|function| function.start(true)).collect();
        } else if recent.rows.len() == self.rows
            && let Some((_, oldest)) = recent.rows.pop_front()
        {
            subtract(&mut recent.accumulators, &oldest);
        }
        for (kept, value) in recent.accumulators.iter_mut().zip(&values) {
            kept.add(*value, order);
        }
        recent.rows.push_back((order.0, values));
    }

    fn results(&self, recent: &Recent, results: &mut [Vec<Option<f64>>]) {
        for (at, (function, results)) in self.functions.iter().zip(results).enumerate() {
            let kept = recent.accumulators.get(at);
            results.push(match kept {
                Some(kept) => function.result(kept),
                None => function.result(&function.start(true)),
            });
        }
    }
}

fn subtract(accumulators: &mut [Accumulator], values: &[Value]) {
    for (kept, value) in accumulators.iter_mut().zip(values) {
        kept.remove(*value);
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::Float64Type;
    use serde_json::json;

    use super::super::harness::{Bench, Random, check, problems, random_rows, show};
    use super::*;

    #[test]
    fn the_rows_before_count() {
        check(
            &KIND,
            &json!({"by": ["sensor"], "within_seconds": 10, "rows": 2, "columns": {"mean": "mean(temperature)", "n": "count()", "top": "max(count)"}}),
            "t  sensor temperature count
             1  a      1           7
             2  b      5           1
             3  a      2           3
             4  a      null        5
             5  a      9           5
             14 a      1           1
             30 a      1           1",
            "t  sensor temperature count mean n top
             1  a      1           7     null 0 null
             2  b      5           1     null 0 null
             3  a      2           3     1    1 7
             4  a      null        5     1.5  2 7
             5  a      9           5     2    2 5
             14 a      1           1     9    2 5
             30 a      1           1     null 0 null",
        );
    }

    #[test]
    fn agrees_with_recomputation_from_all_earlier_rows() {
        for seed in 0..8 {
            let rows = random_rows(&mut Random::new(seed), 300);
            let config = json!({"by": ["room"], "within_seconds": 9, "rows": 7,
                "columns": {"mean": "mean(temperature)", "var": "variance(temperature)", "min": "min(temperature)", "n": "count(temperature)"}});
            let output = Bench::new(&KIND, &config).learn(&rows);
            let numbers = |name: &str| output.column_by_name(name).unwrap().as_primitive::<Float64Type>().clone();
            let given = super::super::columns::numbers(rows.column_by_name("temperature").unwrap()).unwrap();
            let rooms: Vec<String> = show(&rows, &["room"]).lines().skip(1).map(str::to_owned).collect();
            let times = Meta::of(&rows).time;
            let mut told = 0;
            for row in 0..rows.num_rows() {
                let recent =
                    (0..row).rev().filter(|&r| rooms[r] == rooms[row] && times[row] - times[r] <= 9000).take(7);
                let values: Vec<f64> = recent.filter(|&r| given.is_valid(r)).map(|r| given.value(r)).collect();
                let count = values.len() as f64;
                let mean = values.iter().sum::<f64>() / count;
                let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0);
                let near = |name: &str, expected: f64, is_there: bool| {
                    let found = numbers(name);
                    let agrees =
                        found.is_valid(row) == is_there && (!is_there || (found.value(row) - expected).abs() < 1e-9);
                    assert!(agrees, "seed {seed}, row {row}: {name} is {}, not {expected}", found.value(row));
                };
                near("mean", mean, !values.is_empty());
                near("var", variance, values.len() > 1);
                near("min", values.iter().copied().fold(f64::INFINITY, f64::min), !values.is_empty());
                told += values.len();
            }
            assert!(told > 300, "a test of nothing");
        }
    }

    #[test]
    fn all_problems_are_found() {
        assert_eq!(
            problems(&KIND, &json!({"by": ["x"], "rows": 0, "columns": {"room": "mean(room)"}})),
            "by.0 unknown-column; rows bad-value; columns.room duplicate-name; columns.room wrong-type"
        );
    }
}
