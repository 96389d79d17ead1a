//! `standardise`: numbers as distances from their running mean.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use millstream_engine::Result;
use millstream_engine::batch::{with_columns, with_fields};
use millstream_engine::catalogue::{Kind, Planned, Problem, Problems, StepInput, StepKind, configuration, schema_of};
use millstream_engine::operator::{Keyed, Power, Rejects, Step};
use millstream_engine::state::States;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::channels::{Channels, LANES, Lanes, Outputs, groups};
use super::columns::{key, numeric};

pub(super) static KIND: StepKind = Kind {
    name: "standardise",
    about: "Numbers become standard deviations from their running mean.\n\n\
            A row is measured against the rows before it, and then counts itself. \
            The result is a float between `-limit` and `limit`: on the first rows of a stream the deviation is known so badly \
            that unlimited results can be enormous, and a model that learns from them diverges. \
            It is 0 during the warm-up, and while all values have been the same. \
            Null and numbers that are not finite give null and count for nothing.",
    schema: schema_of::<Config>,
    example: "columns: [temperature, count]\nby: [sensor]\n",
    plan,
};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The columns of numbers.
    columns: Vec<String>,
    /// Columns that make a key: each key has its own mean and deviation.
    #[serde(default)]
    by: Vec<String>,
    /// As long as there are fewer values than this, the result is 0.
    #[serde(default = "warm_up")]
    warm_up: u64,
    /// The greatest distance.
    #[serde(default = "limit")]
    limit: f64,
}

fn warm_up() -> u64 {
    10
}

fn limit() -> f64 {
    5.0
}

fn plan(config: &Value, input: &StepInput<'_>) -> Planned<Step> {
    let config: Config = configuration(config)?;
    let mut problems = Problems::default();
    let columns = numeric(input.schema, &mut problems, "columns", &config.columns);
    let by = key(input.schema, &mut problems, &config.by);
    if config.by.iter().any(|key| config.columns.contains(key)) {
        problems.push(Problem::new("by", "duplicate-name", "a column cannot be both the key and standardised"));
    }
    if config.limit.is_nan() || config.limit <= 0.0 {
        problems.push(Problem::new("limit", "bad-value", "a limit is greater than 0"));
    }
    problems.finish()?;
    let fields = columns.iter().map(|&at| input.schema.field(at).clone().with_data_type(DataType::Float64));
    let schema = with_fields(input.schema, fields);
    let operator = Standardise { columns, by, warm_up: config.warm_up, limit: config.limit, schema: schema.clone() };
    Ok(Step { schema, others: Vec::new(), power: Power::keyed(operator) })
}

struct Standardise {
    columns: Vec<usize>,
    by: Vec<usize>,
    warm_up: u64,
    limit: f64,
    schema: SchemaRef,
}

/// Of a group of columns: how many values there were, their means, and the squared deviations from them.
const KEPT: usize = 3 * LANES;

impl Keyed for Standardise {
    type State = ();

    fn key(&self, _: usize) -> &[usize] {
        &self.by
    }

    fn numbers(&self) -> usize {
        KEPT * groups(self.columns.len())
    }

    fn apply(
        &self,
        _: usize,
        rows: &RecordBatch,
        states: &mut States<'_, ()>,
        _: &mut Rejects,
    ) -> Result<Option<RecordBatch>> {
        let inputs = Channels::of(rows, &self.columns)?;
        let mut outputs = Outputs::new(inputs.len(), rows.num_rows());
        for row in 0..rows.num_rows() {
            states.numbers(row, |known| {
                let (known, _) = known.as_chunks_mut::<KEPT>();
                let is_whole = inputs.is_whole(row);
                for (group, (known, values)) in known.iter_mut().zip(inputs.groups(row)).enumerate() {
                    outputs.set(group, row, self.scores(known, values));
                    if is_whole {
                        learn(known, values, |_| true);
                    } else {
                        let valid = inputs.valid(group, row);
                        learn(known, values, |lane| valid[lane]);
                    }
                }
            });
        }
        let names = self.columns.iter().map(|&at| self.schema.field(at).name().as_str());
        // What has no value has no score.
        let scores = outputs.finish().take(inputs.len()).enumerate().map(|(at, scores)| {
            let scores = Float64Array::new(scores.into(), inputs.nulls(at).cloned());
            Arc::new(scores) as ArrayRef
        });
        Ok(Some(with_columns(&self.schema, rows, names.zip(scores).collect())?))
    }

    fn expired(&self, (): &(), _: i64) -> bool {
        false
    }
}

impl Standardise {
    /// By how many standard deviations the values lie above the means, at most `limit` either way; zero while the
    /// values have not differed.
    #[inline]
    fn scores(&self, known: &[f64; KEPT], values: Lanes) -> Lanes {
        let ([counts, means, squares], _) = known.as_chunks::<LANES>() else { unreachable!("three groups") };
        let warm_up = self.warm_up as f64;
        std::array::from_fn(|lane| {
            let deviation = (squares[lane] / (counts[lane].max(2.0) - 1.0)).sqrt();
            let score = (values[lane] - means[lane]) / deviation;
            let score = if score > self.limit { self.limit } else { score };
            let score = if score < -self.limit { -self.limit } else { score };
            if (counts[lane] >= warm_up) & (deviation > 0.0) { score } else { 0.0 }
        })
    }
}

/// Takes values in, as the running moments of one column do: a value so large that its square cannot be represented is left
/// out.
#[inline]
fn learn(known: &mut [f64; KEPT], values: Lanes, is_valid: impl Fn(usize) -> bool) {
    let ([counts, means, squares], _) = known.as_chunks_mut::<LANES>() else { unreachable!("three groups") };
    for (lane, value) in values.into_iter().enumerate() {
        let count = counts[lane] + 1.0;
        let from_mean = value - means[lane];
        let mean = means[lane] + from_mean / count;
        let next = squares[lane] + from_mean * (value - mean);
        let is_taken = is_valid(lane) & (next.abs() < f64::INFINITY);
        counts[lane] = if is_taken { count } else { counts[lane] };
        means[lane] = if is_taken { mean } else { means[lane] };
        squares[lane] = if is_taken { next } else { squares[lane] };
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::Float64Type;
    use serde_json::json;

    use super::super::columns::numbers;
    use super::super::harness::{Bench, Random, check, problems, random_rows};

    #[test]
    fn a_row_is_measured_against_those_before() {
        check(
            &super::KIND,
            &json!({"columns": ["temperature", "count"], "by": ["sensor"], "warm_up": 2, "limit": 4}),
            "t sensor temperature count
             1 a      1           5
             2 a      3           5
             3 b      70          5
             4 a      2           5
             5 a      NaN         5
             6 a      99          6
             7 a      null        null",
            "t sensor temperature count
             1 a      0           0
             2 a      0           0
             3 b      0           0
             4 a      0           0
             5 a      null        0
             6 a      4           0
             7 a      null        null",
        );
    }

    #[test]
    fn agrees_with_recomputation_from_all_earlier_rows() {
        let seed = 11;
        let rows = random_rows(&mut Random::new(seed), 300);
        let output =
            Bench::new(&super::KIND, &json!({"columns": ["temperature"], "by": ["room"], "warm_up": 5})).learn(&rows);
        let scores = output.column_by_name("temperature").unwrap().as_primitive::<Float64Type>();
        let values = numbers(rows.column_by_name("temperature").unwrap()).unwrap();
        let rooms: Vec<_> = rows.column_by_name("room").unwrap().as_string::<i32>().iter().collect();
        for row in 0..rows.num_rows() {
            let before: Vec<f64> =
                (0..row).filter(|&r| rooms[r] == rooms[row] && values.is_valid(r)).map(|r| values.value(r)).collect();
            let count = before.len() as f64;
            let mean = before.iter().sum::<f64>() / count;
            let deviation = (before.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0)).sqrt();
            let expected = values.is_valid(row).then(|| {
                if before.len() < 5 { 0.0 } else { ((values.value(row) - mean) / deviation).clamp(-5.0, 5.0) }
            });
            let actual = scores.is_valid(row).then(|| scores.value(row));
            let near = expected.zip(actual).is_none_or(|(a, b)| (a - b).abs() < 1e-9);
            assert!(
                near && expected.is_some() == actual.is_some(),
                "seed {seed}, row {row}: {actual:?}, not {expected:?}"
            );
        }
    }

    #[test]
    fn all_problems_are_found() {
        let config = json!({"columns": ["room", "_offset", "temp"], "by": ["count"], "limit": 0});
        let expected = "columns.1 reserved-column; columns.2 unknown-column; columns wrong-type; columns wrong-type; limit bad-value";
        assert_eq!(problems(&super::KIND, &config), expected);
        assert_eq!(problems(&super::KIND, &json!({"columns": ["count"], "by": ["count"]})), "by duplicate-name");
    }
}
