//! `lag`: what came before.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Float64Array, Float64Builder, RecordBatch};
use arrow::datatypes::{DataType, Field, SchemaRef};
use millstream_engine::Result;
use millstream_engine::batch::{Meta, with_columns, with_fields};
use millstream_engine::catalogue::{Kind, Planned, Problem, Problems, StepInput, StepKind, configuration, schema_of};
use millstream_engine::operator::{Keyed, Power, Rejects, Step};
use millstream_engine::state::States;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::columns::numbers;
use super::running::{added, numbers_by};

pub(super) static KIND: StepKind = Kind {
    name: "lag",
    about: "Adds the numbers that stood in the rows before, by key: `NAME_1` is from the row before, `NAME_2` from the one before that.\n\n\
            With `{moments: [NAME], steps: 3}` as a feature, a network sees them as a sequence (`gru`, `temporal_convolution`). \
            A number that is missing in a row is missing among those before, too.",
    schema: schema_of::<Config>,
    example: "columns: [temperature]\nrows: 3\nby: [sensor]\nwithin_seconds: 600\n",
    plan,
};

/// How many rows back is the furthest.
const ROWS_MAX: u32 = 255;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The columns of numbers.
    columns: Vec<String>,
    /// How many rows before are told, from 1 to 255.
    rows: u32,
    /// Columns that make a key: each key has a past of its own.
    #[serde(default)]
    by: Vec<String>,
    /// Rows older than this count no more, and are forgotten.
    within_seconds: Option<u32>,
    /// What stands where there is no row so far back.
    #[serde(default)]
    otherwise: Otherwise,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Otherwise {
    /// Null.
    #[default]
    Missing,
    /// The number of the oldest row there is, be it this one.
    Oldest,
}

fn plan(config: &Value, input: &StepInput<'_>) -> Planned<Step> {
    let config: Config = configuration(config)?;
    let mut problems = Problems::default();
    let (columns, by) = numbers_by(input.schema, &mut problems, &config.columns, &config.by);
    if !(1..=ROWS_MAX).contains(&config.rows) {
        let message = format!("{} is not between 1 and {ROWS_MAX}", config.rows);
        problems.push(Problem::new("rows", "out-of-range", message));
    }
    if config.within_seconds == Some(0) {
        let help = "leave out `within_seconds`";
        problems.push(Problem::new("within_seconds", "bad-value", "1 is the least").help(help));
    }
    let rows = config.rows.min(ROWS_MAX) as usize;
    let mut names = Vec::new();
    for back in 1..=rows {
        names.extend(added(input.schema, &mut problems, &columns, &back.to_string()));
    }
    problems.finish()?;
    let schema = with_fields(input.schema, names.iter().map(|name| Field::new(name, DataType::Float64, true)));
    let operator = Lag {
        columns,
        by,
        names,
        rows,
        within_ms: config.within_seconds.map_or(i64::MAX, |seconds| i64::from(seconds) * 1000),
        otherwise: config.otherwise,
        schema: schema.clone(),
    };
    Ok(Step { schema, others: Vec::new(), power: Power::keyed(operator) })
}

struct Lag {
    columns: Vec<usize>,
    by: Vec<usize>,
    /// The new columns: those of the row before, then those of the one before it.
    names: Vec<String>,
    rows: usize,
    within_ms: i64,
    otherwise: Otherwise,
    schema: SchemaRef,
}

/// A row of the past: when it was, and its numbers.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Past {
    time: i64,
    values: Vec<Option<f64>>,
}

impl Keyed for Lag {
    /// The rows before, the latest first.
    type State = VecDeque<Past>;

    fn key(&self, _: usize) -> &[usize] {
        &self.by
    }

    fn apply(
        &self,
        _: usize,
        rows: &RecordBatch,
        states: &mut States<'_, VecDeque<Past>>,
        _: &mut Rejects,
    ) -> Result<Option<RecordBatch>> {
        let inputs = self.columns.iter().map(|&at| numbers(rows.column(at))).collect::<Result<Vec<_>>>()?;
        let mut told: Vec<Float64Builder> =
            self.names.iter().map(|_| Float64Builder::with_capacity(rows.num_rows())).collect();
        let time = Meta::of(rows).time;
        for row in 0..rows.num_rows() {
            let past = states.get(row);
            let known = past.iter().take_while(|past| self.counts(past.time, time[row])).count();
            for (at, told) in told.iter_mut().enumerate() {
                let (back, place) = (at / inputs.len(), at % inputs.len());
                told.append_option(match (past.get(back).filter(|_| back < known), self.otherwise) {
                    (Some(past), _) => past.values[place],
                    (None, Otherwise::Missing) => None,
                    (None, Otherwise::Oldest) if known > 0 => past[known - 1].values[place],
                    (None, Otherwise::Oldest) => value(&inputs[place], row),
                });
            }
            states.update(row, |past| {
                let mut values = Vec::new();
                while past.len() >= self.rows || past.back().is_some_and(|old| !self.counts(old.time, time[row])) {
                    // What is forgotten leaves its room to what comes.
                    values = past.pop_back().map(|old| old.values).unwrap_or_default();
                }
                values.clear();
                values.extend(inputs.iter().map(|input| value(input, row)));
                past.push_front(Past { time: time[row], values });
            });
        }
        let told = told.iter_mut().map(|told| Arc::new(told.finish()) as ArrayRef);
        with_columns(&self.schema, rows, self.names.iter().map(String::as_str).zip(told).collect()).map(Some)
    }

    fn expired(&self, past: &VecDeque<Past>, watermark: i64) -> bool {
        past.front().is_none_or(|latest| !self.counts(latest.time, watermark))
    }
}

impl Lag {
    /// Whether a row of that time is young enough now.
    fn counts(&self, time: i64, now: i64) -> bool {
        now.saturating_sub(time) <= self.within_ms
    }
}

fn value(input: &Float64Array, row: usize) -> Option<f64> {
    input.is_valid(row).then(|| input.value(row))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::harness::{Bench, Random, check, check_serve, own_columns, problems, random_rows, show};
    use super::super::running::oracle::of;

    const ROWS: &str = "
        t  sensor count temperature
        1  a      5     1.5
        2  b      6     2.5
        3  a      null  3.5
        9  a      7     4.5
        30 a      8     5.5";

    #[test]
    fn rows_before_by_key() {
        check(
            &super::KIND,
            &json!({"columns": ["count", "temperature"], "rows": 2, "by": ["sensor"]}),
            ROWS,
            "t  sensor count temperature count_1 temperature_1 count_2 temperature_2
             1  a      5     1.5         null    null          null    null
             2  b      6     2.5         null    null          null    null
             3  a      null  3.5         5       1.5           null    null
             9  a      7     4.5         null    3.5           5       1.5
             30 a      8     5.5         7       4.5           null    3.5",
        );
    }

    #[test]
    fn old_rows_do_not_count_and_the_oldest_one_stands_in() {
        let config = json!({"columns": ["temperature"], "rows": 2, "by": ["sensor"], "within_seconds": 8, "otherwise": "oldest"});
        check(
            &super::KIND,
            &config,
            ROWS,
            "t  sensor count temperature temperature_1 temperature_2
             1  a      5     1.5         1.5           1.5
             2  b      6     2.5         2.5           2.5
             3  a      null  3.5         1.5           1.5
             9  a      7     4.5         3.5           1.5
             30 a      8     5.5         5.5           5.5",
        );
    }

    #[test]
    fn requests_see_what_was_learned() {
        let config = json!({"columns": ["count"], "rows": 1});
        check_serve(&super::KIND, &config, "t count\n1 5\n2 6", "t count count_1\n1 5 null\n2 6 null");
    }

    #[test]
    fn agrees_with_a_search_through_all_earlier_rows() {
        let seed = 31;
        let rows = random_rows(&mut Random::new(seed), 400);
        let config = json!({"columns": ["count"], "rows": 3, "by": ["ok"], "within_seconds": 20});
        let told = Bench::new(&super::KIND, &config).learn(&rows);
        let keys: Vec<String> = show(&rows, &["ok"]).lines().skip(1).map(str::to_owned).collect();
        let times: Vec<f64> = show(&rows, &["t"]).lines().skip(1).map(|time| time.parse().unwrap()).collect();
        let values = of(&rows, "count");
        let columns = ["count_1", "count_2", "count_3"].map(|name| of(&told, name));
        for row in 0..400 {
            let before: Vec<usize> = (0..row).rev().filter(|&before| keys[before] == keys[row]).take(3).collect();
            for (back, column) in columns.iter().enumerate() {
                let past = before.get(back).filter(|&&past| times[row] - times[past] <= 20.0);
                assert_eq!(column[row], past.and_then(|&past| values[past]), "seed {seed}, row {row}, {back} back");
            }
        }
    }

    #[test]
    fn columns_are_added() {
        let config = json!({"columns": ["count"], "rows": 2});
        let expected = "sensor room temperature humidity count at ok count_1 count_2";
        assert_eq!(own_columns(&super::KIND, &config), expected);
    }

    #[test]
    fn all_problems_are_found() {
        let config = json!({"columns": ["room"], "rows": 0, "by": ["x"], "within_seconds": 0});
        let expected = "columns wrong-type; by.0 unknown-column; rows out-of-range; within_seconds bad-value";
        assert_eq!(problems(&super::KIND, &config), expected);
    }
}
