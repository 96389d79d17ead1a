//! `flag_drift`: a column that leaves its level.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Float64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, SchemaRef};
use millstream_engine::Result;
use millstream_engine::batch::{with_columns, with_fields};
use millstream_engine::catalogue::{Kind, Planned, Problem, Problems, StepInput, StepKind, configuration, schema_of};
use millstream_engine::operator::{Keyed, Power, Rejects, Step};
use millstream_engine::state::States;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::columns::numbers;
use super::moments::Moments;
use super::running::{added, numbers_by};

pub(super) static KIND: StepKind = Kind {
    name: "flag_drift",
    about: "Marks where a column's mean leaves the level that it had.\n\n\
            The first `reference` values tell mean and standard deviation. From then on two sums watch, one upwards and one downwards: \
            each value adds by how many standard deviations (at most 3) it lies off the mean, less `slack`, and a sum never falls below 0. \
            The row in which a sum goes above `threshold` has drifted. That is E. S. Page's test (*Continuous inspection schemes*, Biometrika 41, \
            1954), also called cumulative sum or Page-Hinkley test.\n\n\
            With the row that drifted the reference is learned anew, and `NAME_drift`, a new column for each, stays true until that is done: for \
            `reference` values. Then the new level is watched. A shift by one deviation is noticed after about `threshold / (1 - slack)` \
            values, an outlier alone never if `threshold` is above 3. Where all values of the reference are the same, any other one lies 3 deviations off. \
            Missing values are false and count for nothing.",
    schema: schema_of::<Config>,
    example: "columns: [temperature]\nby: [sensor]\nscore: true\n",
    plan,
};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The columns of numbers.
    columns: Vec<String>,
    /// Columns that make a key: each key has its own level.
    #[serde(default)]
    by: Vec<String>,
    /// How many values tell the level; at least 2.
    #[serde(default = "reference")]
    reference: u64,
    /// What is no drift, in standard deviations; below 3.
    #[serde(default = "slack")]
    slack: f64,
    /// How much adds up before it is drift, in standard deviations.
    #[serde(default = "threshold")]
    threshold: f64,
    /// Also adds `NAME_drift_score`: the greater sum as a share of the threshold, from -1 (downwards) to 1.
    #[serde(default)]
    score: bool,
}

fn reference() -> u64 {
    100
}

fn slack() -> f64 {
    0.5
}

fn threshold() -> f64 {
    15.0
}

/// A value lies at most this many deviations off.
const FARTHEST: f64 = 3.0;

fn plan(config: &Value, input: &StepInput<'_>) -> Planned<Step> {
    let config: Config = configuration(config)?;
    let mut problems = Problems::default();
    let (columns, by) = numbers_by(input.schema, &mut problems, &config.columns, &config.by);
    if config.reference < 2 {
        problems.push(Problem::new("reference", "bad-value", "a deviation takes at least 2 values"));
    }
    if !(0.0..FARTHEST).contains(&config.slack) {
        problems.push(Problem::new("slack", "bad-value", format!("a slack is from 0 to less than {FARTHEST}")));
    }
    if !(config.threshold > 0.0 && config.threshold.is_finite()) {
        problems.push(Problem::new("threshold", "bad-value", "a threshold is greater than 0"));
    }
    let flags = added(input.schema, &mut problems, &columns, "drift");
    let scores = if config.score { added(input.schema, &mut problems, &columns, "drift_score") } else { Vec::new() };
    problems.finish()?;
    let fields = flags.iter().map(|name| Field::new(name, DataType::Boolean, false));
    let schema =
        with_fields(input.schema, fields.chain(scores.iter().map(|name| Field::new(name, DataType::Float64, false))));
    let (reference, slack, threshold) = (config.reference, config.slack, config.threshold);
    let operator = FlagDrift { columns, by, flags, scores, reference, slack, threshold, schema: schema.clone() };
    Ok(Step { schema, others: Vec::new(), power: Power::keyed(operator) })
}

struct FlagDrift {
    columns: Vec<usize>,
    by: Vec<usize>,
    flags: Vec<String>,
    /// None where no scores are wanted.
    scores: Vec<String>,
    reference: u64,
    slack: f64,
    threshold: f64,
    schema: SchemaRef,
}

/// What is known of a column.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Watch {
    reference: Moments,
    up: f64,
    down: f64,
    /// Whether the reference is being learned because of a drift.
    drifted: bool,
}

impl Keyed for FlagDrift {
    /// Of each column; nothing before the key's first row.
    type State = Vec<Watch>;

    fn key(&self, _: usize) -> &[usize] {
        &self.by
    }

    fn apply(
        &self,
        _: usize,
        rows: &RecordBatch,
        states: &mut States<'_, Vec<Watch>>,
        _: &mut Rejects,
    ) -> Result<Option<RecordBatch>> {
        let inputs = self.columns.iter().map(|&at| numbers(rows.column(at))).collect::<Result<Vec<_>>>()?;
        let mut flags = vec![vec![false; rows.num_rows()]; inputs.len()];
        let mut scores = vec![vec![0.0; rows.num_rows()]; inputs.len()];
        for row in 0..rows.num_rows() {
            let known = states.get(row);
            for (place, input) in inputs.iter().enumerate().filter(|(_, input)| input.is_valid(row)) {
                let before = known.get(place).copied().unwrap_or_default();
                (_, flags[place][row], scores[place][row]) = self.next(before, input.value(row));
            }
            states.update(row, |known| self.learn(known, &inputs, row));
        }
        let flags = flags.into_iter().map(|flags| Arc::new(BooleanArray::from(flags)) as ArrayRef);
        let scores = scores.into_iter().map(|scores| Arc::new(Float64Array::from(scores)) as ArrayRef);
        let flags = self.flags.iter().map(String::as_str).zip(flags);
        let columns = flags.chain(self.scores.iter().map(String::as_str).zip(scores)).collect();
        Ok(Some(with_columns(&self.schema, rows, columns)?))
    }

    fn expired(&self, _: &Vec<Watch>, _: i64) -> bool {
        false
    }
}

impl FlagDrift {
    /// What is known with this value, whether it drifts, and its score.
    fn next(&self, mut known: Watch, value: f64) -> (Watch, bool, f64) {
        if known.reference.count() < self.reference {
            let drifted = known.drifted;
            known.reference.push(value);
            known.drifted &= known.reference.count() < self.reference;
            return (known, drifted, 0.0);
        }
        let off = match (known.reference.deviation(), known.reference.mean().unwrap_or(value)) {
            (deviation, mean) if deviation > 0.0 => ((value - mean) / deviation).clamp(-FARTHEST, FARTHEST),
            (_, mean) if value > mean => FARTHEST,
            (_, mean) if value < mean => -FARTHEST,
            _ => 0.0,
        };
        known.up = (known.up + off - self.slack).max(0.0);
        known.down = (known.down - off - self.slack).max(0.0);
        let sum = if known.down > known.up { -known.down } else { known.up };
        let score = (sum / self.threshold).clamp(-1.0, 1.0);
        if sum.abs() <= self.threshold {
            return (known, false, score);
        }
        let mut anew = Watch { drifted: true, ..Watch::default() };
        anew.reference.push(value);
        (anew, true, score)
    }

    fn learn(&self, known: &mut Vec<Watch>, inputs: &[Float64Array], row: usize) {
        known.resize(inputs.len(), Watch::default());
        for (known, input) in known.iter_mut().zip(inputs).filter(|(_, input)| input.is_valid(row)) {
            (*known, ..) = self.next(*known, input.value(row));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::harness::{Bench, Random, check, own_columns, problems, random_rows};
    use super::super::running::oracle::{assert_near, earlier, truths};

    #[test]
    fn a_level_that_is_left_is_marked_until_the_new_one_is_known() {
        check(
            &super::KIND,
            &json!({"columns": ["count"], "reference": 4, "threshold": 4, "slack": 0.5, "score": true}),
            "t count
             1 10
             2 12
             3 10
             4 12
             5 20
             6 null
             7 20
             8 20
             9 20
             10 20
             11 20
             12 19
             13 19",
            "t count count_drift count_drift_score
             1 10 false 0
             2 12 false 0
             3 10 false 0
             4 12 false 0
             5 20 false 0.625
             6 null false 0
             7 20 true 1
             8 20 true 0
             9 20 true 0
             10 20 true 0
             11 20 false 0
             12 19 false -0.625
             13 19 true -1",
        );
    }

    #[test]
    fn an_outlier_is_no_drift() {
        let config = json!({"columns": ["temperature"], "reference": 3, "threshold": 4});
        let rows = "t temperature\n1 1\n2 3\n3 2\n4 999\n5 2\n6 1\n7 2\n8 999";
        check(
            &super::KIND,
            &config,
            rows,
            "t temperature temperature_drift
             1 1 false\n2 3 false\n3 2 false\n4 999 false\n5 2 false\n6 1 false\n7 2 false\n8 999 false",
        );
    }

    /// The flag and the score after all these values, one after the other.
    fn recomputed(values: &[f64], reference: usize, slack: f64, threshold: f64) -> (bool, f64) {
        let (mut start, mut found, mut drifted) = (0, (false, 0.0), false);
        while start < values.len() {
            let level = &values[start..values.len().min(start + reference)];
            // The first value of a new level is the one that drifted.
            found = if drifted && level.len() == 1 { found } else { (drifted, 0.0) };
            let mean = level.iter().sum::<f64>() / level.len() as f64;
            let squares: f64 = level.iter().map(|value| (value - mean).powi(2)).sum();
            let deviation = (squares / (level.len() as f64 - 1.0)).sqrt();
            let watched = &values[start + level.len()..];
            start += level.len();
            let (mut up, mut down) = (0.0_f64, 0.0_f64);
            drifted = false;
            for value in watched {
                let off = ((value - mean) / deviation).clamp(-3.0, 3.0);
                (up, down) = ((up + off - slack).max(0.0), (down - off - slack).max(0.0));
                let score = (if down > up { -down } else { up } / threshold).clamp(-1.0, 1.0);
                drifted = up.max(down) > threshold;
                found = (drifted, score);
                if drifted {
                    break;
                }
                start += 1;
            }
        }
        found
    }

    #[test]
    fn agrees_with_recomputation_from_all_earlier_rows() {
        let seed = 25;
        let rows = random_rows(&mut Random::new(seed), 600);
        let config = json!({
            "columns": ["temperature"], "by": ["ok"], "reference": 6, "slack": 0.1, "threshold": 2.5, "score": true
        });
        let output = Bench::new(&super::KIND, &config).learn(&rows);
        let expected: Vec<_> = earlier(&rows, "temperature", &["ok"])
            .into_iter()
            .map(|(value, before)| match value {
                Some(value) => recomputed(&[before, vec![value]].concat(), 6, 0.1, 2.5),
                None => (false, 0.0),
            })
            .collect();
        let flags = truths(&output, "temperature_drift");
        assert_eq!(flags, expected.iter().map(|(flag, _)| *flag).collect::<Vec<_>>(), "seed {seed}");
        assert_near(&output, "temperature_drift_score", expected.iter().map(|(_, score)| (Some(*score), 1e-9)));
        let drifts = flags.windows(2).filter(|pair| pair[1] && !pair[0]).count();
        assert!(drifts > 10, "{drifts} drifts say little");
    }

    #[test]
    fn columns_are_added() {
        let config = json!({"columns": ["count", "humidity"], "score": true});
        let added = "count_drift humidity_drift count_drift_score humidity_drift_score";
        let expected = format!("sensor room temperature humidity count at ok {added}");
        assert_eq!(own_columns(&super::KIND, &config), expected);
    }

    #[test]
    fn all_problems_are_found() {
        let config = json!({"columns": ["room"], "by": ["x"], "reference": 1, "slack": 3, "threshold": 0});
        let expected =
            "columns wrong-type; by.0 unknown-column; reference bad-value; slack bad-value; threshold bad-value";
        assert_eq!(problems(&super::KIND, &config), expected);
    }
}
