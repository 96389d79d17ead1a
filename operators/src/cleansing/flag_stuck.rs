//! `flag_stuck`: a sensor that repeats itself.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Float64Array, RecordBatch};
use arrow::compute::nullif;
use arrow::datatypes::{DataType, Field, SchemaRef};
use millstream_engine::Result;
use millstream_engine::batch::{Meta, with_columns, with_fields};
use millstream_engine::catalogue::{Kind, Planned, Problem, Problems, StepInput, StepKind, configuration, schema_of};
use millstream_engine::operator::{Keyed, Power, Rejects, Step};
use millstream_engine::state::States;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::columns::{finite, numbers};
use super::running::{added, numbers_by};

pub(super) static KIND: StepKind = Kind {
    name: "flag_stuck",
    about: "Marks numbers that have stayed the same for too long.\n\n\
            A run of readings begins with the first that differs by more than `tolerance` from the one that began the run before it, \
            so slow change is no standstill. A row is stuck if it and the run's rows before it are at least `readings` readings, and \
            lie at least `for_seconds` of event time apart; where both are given, both must hold. \
            The rows with which the run began are not marked: nothing was known then. \
            Missing values are never stuck, and neither end a run nor count for it.",
    schema: schema_of::<Config>,
    example: "columns: [temperature]\nreadings: 10\nfor_seconds: 600\nby: [sensor]\n",
    plan,
};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The columns of numbers.
    columns: Vec<String>,
    /// How many readings must be the same, this one among them; at least 2.
    readings: Option<u32>,
    /// How long the number must have been the same.
    for_seconds: Option<u32>,
    /// By how much a number may differ from the one that began the run and still be the same.
    #[serde(default)]
    tolerance: f64,
    /// Columns that make a key: each key is a sensor.
    #[serde(default)]
    by: Vec<String>,
    /// What happens to a stuck number.
    #[serde(default)]
    then: Then,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Then {
    /// `NAME_stuck`, a new column for each, says true; in other rows false.
    #[default]
    Flag,
    /// It becomes null.
    Missing,
}

fn plan(config: &Value, input: &StepInput<'_>) -> Planned<Step> {
    let config: Config = configuration(config)?;
    let mut problems = Problems::default();
    let (columns, by) = numbers_by(input.schema, &mut problems, &config.columns, &config.by);
    if config.readings.is_none() && config.for_seconds.is_none() {
        let message = "at least one of `readings` and `for_seconds` is needed here";
        problems.push(Problem::new("", "bad-value", message));
    }
    if config.readings.is_some_and(|readings| readings < 2) {
        problems.push(Problem::new("readings", "bad-value", "one reading is the same as itself: 2 is the least"));
    }
    if config.for_seconds == Some(0) {
        problems.push(Problem::new("for_seconds", "bad-value", "1 is the least").help("leave out `for_seconds`"));
    }
    if !(0.0..f64::INFINITY).contains(&config.tolerance) {
        problems.push(Problem::new("tolerance", "bad-value", "a tolerance is at least 0"));
    }
    let names = match config.then {
        Then::Flag => added(input.schema, &mut problems, &columns, "stuck"),
        Then::Missing => Vec::new(),
    };
    problems.finish()?;
    let schema = with_fields(input.schema, names.iter().map(|name| Field::new(name, DataType::Boolean, false)));
    let operator = FlagStuck {
        columns,
        by,
        names,
        readings: config.readings.unwrap_or(2),
        for_ms: i64::from(config.for_seconds.unwrap_or(0)) * 1000,
        tolerance: config.tolerance,
        schema: schema.clone(),
    };
    Ok(Step { schema, others: Vec::new(), power: Power::keyed(operator) })
}

struct FlagStuck {
    columns: Vec<usize>,
    by: Vec<usize>,
    /// The new columns; none where stuck numbers become null.
    names: Vec<String>,
    readings: u32,
    for_ms: i64,
    tolerance: f64,
    schema: SchemaRef,
}

/// Readings that are the same.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Run {
    first: f64,
    /// When it began.
    since: i64,
    readings: u32,
}

impl Keyed for FlagStuck {
    /// The present run of each column; none before the key's first row.
    type State = Vec<Run>;

    fn key(&self, _: usize) -> &[usize] {
        &self.by
    }

    fn apply(
        &self,
        _: usize,
        rows: &RecordBatch,
        states: &mut States<'_, Vec<Run>>,
        _: &mut Rejects,
    ) -> Result<Option<RecordBatch>> {
        let inputs = self.columns.iter().map(|&at| numbers(rows.column(at))).collect::<Result<Vec<_>>>()?;
        let mut stuck = vec![vec![false; rows.num_rows()]; inputs.len()];
        let time = Meta::of(rows).time;
        for row in 0..rows.num_rows() {
            let known = states.get(row);
            for (place, (input, stuck)) in inputs.iter().zip(&mut stuck).enumerate() {
                let run = known.get(place).copied().unwrap_or_default();
                stuck[row] =
                    input.is_valid(row) && self.is_stuck(self.next(run, input.value(row), time[row]), time[row]);
            }
            states.update(row, |known| self.learn(known, &inputs, row, time[row]));
        }
        self.output(rows, stuck.into_iter().map(BooleanArray::from)).map(Some)
    }

    fn expired(&self, _: &Vec<Run>, _: i64) -> bool {
        false
    }
}

impl FlagStuck {
    /// The run with this reading.
    fn next(&self, run: Run, value: f64, time: i64) -> Run {
        if run.readings > 0 && (value - run.first).abs() <= self.tolerance {
            return Run { readings: run.readings.saturating_add(1), ..run };
        }
        Run { first: value, since: time, readings: 1 }
    }

    fn is_stuck(&self, run: Run, time: i64) -> bool {
        run.readings >= self.readings && time.saturating_sub(run.since) >= self.for_ms
    }

    fn learn(&self, known: &mut Vec<Run>, inputs: &[Float64Array], row: usize, time: i64) {
        known.resize(inputs.len(), Run::default());
        for (run, input) in known.iter_mut().zip(inputs).filter(|(_, input)| input.is_valid(row)) {
            *run = self.next(*run, input.value(row), time);
        }
    }

    fn output(&self, rows: &RecordBatch, stuck: impl Iterator<Item = BooleanArray>) -> Result<RecordBatch> {
        if !self.names.is_empty() {
            let flags = stuck.map(|flags| Arc::new(flags) as ArrayRef);
            return with_columns(&self.schema, rows, self.names.iter().map(String::as_str).zip(flags).collect());
        }
        let mut columns = rows.columns().to_vec();
        for (&at, stuck) in self.columns.iter().zip(stuck) {
            columns[at] = nullif(&finite(&columns[at])?, &stuck)?;
        }
        Ok(RecordBatch::try_new(self.schema.clone(), columns)?)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::harness::{Bench, Random, check, check_serve, own_columns, problems, random_rows, show};
    use super::super::running::oracle::{of, truths};

    const ROWS: &str = "
        t  sensor count temperature
        1  a      5     1.5
        2  b      5     1.5
        3  a      5     1.75
        9  a      null  2
        10 a      5     2
        11 a      6     1.5
        12 a      6     inf
        30 a      6     2";

    #[test]
    fn by_readings() {
        check(
            &super::KIND,
            &json!({"columns": ["count", "temperature"], "readings": 3, "tolerance": 0.25, "by": ["sensor"]}),
            ROWS,
            "t  sensor count temperature count_stuck temperature_stuck
             1  a      5     1.5         false       false
             2  b      5     1.5         false       false
             3  a      5     1.75        false       false
             9  a      null  2           false       false
             10 a      5     2           true        false
             11 a      6     1.5         false       false
             12 a      6     inf         false       false
             30 a      6     2           true        false",
        );
    }

    #[test]
    fn by_time_and_by_both() {
        let config = json!({"columns": ["count"], "for_seconds": 9, "by": ["sensor"], "then": "missing"});
        let expected = |tenth: &str| {
            format!("t sensor count\n1 a 5\n2 b 5\n3 a 5\n9 a null\n10 a {tenth}\n11 a 6\n12 a 6\n30 a null")
        };
        let rows = "t sensor count\n1 a 5\n2 b 5\n3 a 5\n9 a null\n10 a 5\n11 a 6\n12 a 6\n30 a 6";
        check(&super::KIND, &config, rows, &expected("null"));
        let mut both = config;
        both["readings"] = json!(3);
        check(&super::KIND, &both, rows, &expected("null"));
        both["for_seconds"] = json!(10);
        check(&super::KIND, &both, rows, &expected("5"));
    }

    #[test]
    fn requests_are_compared_with_what_was_learned() {
        let config = json!({"columns": ["count"], "readings": 2});
        check_serve(&super::KIND, &config, "t count\n1 5\n2 5", "t count count_stuck\n1 5 false\n2 5 false");
        let mut bench = Bench::new(&super::KIND, &config);
        let rows = random_rows(&mut Random::new(1), 1);
        bench.learn(&rows);
        let known = super::super::running::oracle::of(&rows, "count")[0].is_some();
        assert_eq!(truths(&bench.serve(&rows), "count_stuck"), [known]);
    }

    #[test]
    fn agrees_with_a_search_through_all_earlier_rows() {
        let seed = 24;
        let rows = random_rows(&mut Random::new(seed), 400);
        let config = json!({"columns": ["count"], "readings": 3, "for_seconds": 4, "tolerance": 6, "by": ["ok"]});
        let flags = truths(&Bench::new(&super::KIND, &config).learn(&rows), "count_stuck");
        let keys: Vec<String> = show(&rows, &["ok"]).lines().skip(1).map(str::to_owned).collect();
        let times: Vec<f64> = show(&rows, &["t"]).lines().skip(1).map(|time| time.parse().unwrap()).collect();
        let values = of(&rows, "count");
        for (row, flag) in flags.iter().enumerate() {
            // All the key's runs, from the beginning.
            let mut runs: Vec<Vec<usize>> = Vec::new();
            for before in (0..=row).filter(|&r| keys[r] == keys[row] && values[r].is_some()) {
                match runs.last_mut().filter(|run| (values[run[0]].unwrap() - values[before].unwrap()).abs() <= 6.0) {
                    Some(run) => run.push(before),
                    None => runs.push(vec![before]),
                }
            }
            let expected = values[row].is_some()
                && runs.last().is_some_and(|run| run.len() >= 3 && times[row] - times[run[0]] >= 4.0);
            assert_eq!(*flag, expected, "seed {seed}, row {row}");
        }
        let stuck = flags.iter().filter(|flag| **flag).count();
        assert!(stuck > 20 && stuck < 380, "{stuck} stuck rows say little");
    }

    #[test]
    fn columns_are_added() {
        let config = json!({"columns": ["count"], "readings": 2});
        let expected = "sensor room temperature humidity count at ok count_stuck";
        assert_eq!(own_columns(&super::KIND, &config), expected);
    }

    #[test]
    fn all_problems_are_found() {
        let config = json!({"columns": ["room"], "tolerance": -1, "by": ["x"]});
        let expected = "columns wrong-type; by.0 unknown-column;  bad-value; tolerance bad-value";
        assert_eq!(problems(&super::KIND, &config), expected);
        let config = json!({"columns": ["count"], "readings": 1, "for_seconds": 0});
        assert_eq!(problems(&super::KIND, &config), "readings bad-value; for_seconds bad-value");
    }
}
