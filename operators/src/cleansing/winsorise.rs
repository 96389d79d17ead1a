//! `winsorise`: numbers stay between running quantiles.

use millstream_engine::catalogue::{Kind, Planned, Problem, Problems, StepInput, StepKind, configuration, schema_of};
use millstream_engine::operator::Step;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::running::{Replace, Rule, numbers_by};
use crate::sketch::Centred;

pub(super) static KIND: StepKind = Kind {
    name: "winsorise",
    about: "Numbers beyond a low and a high quantile of the numbers before become that quantile.\n\n\
            The row then counts itself, as it was. The result is a float; during the warm-up it is the number itself. \
            Null and numbers that are not finite give null and count for nothing. \
            Quantiles are exact for 16 values, and then known to 4 % of the distance from the middle of those. \
            For fixed bounds there is `clip`.",
    schema: schema_of::<Config>,
    example: "columns: [temperature, humidity]\nlow: 0.05\nhigh: 0.95\nby: [sensor]\n",
    plan,
};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The columns of numbers.
    columns: Vec<String>,
    /// The share of numbers below the lower bound.
    #[serde(default = "low")]
    low: f64,
    /// The share of numbers below the upper bound.
    #[serde(default = "high")]
    high: f64,
    /// Columns that make a key: each key has its own quantiles.
    #[serde(default)]
    by: Vec<String>,
    /// As long as there are fewer values than this, there are no bounds.
    #[serde(default = "warm_up")]
    warm_up: u64,
}

fn low() -> f64 {
    0.05
}

fn high() -> f64 {
    0.95
}

fn warm_up() -> u64 {
    20
}

fn plan(config: &Value, input: &StepInput<'_>) -> Planned<Step> {
    let config: Config = configuration(config)?;
    let mut problems = Problems::default();
    let (columns, by) = numbers_by(input.schema, &mut problems, &config.columns, &config.by);
    let (low, high) = (config.low, config.high);
    for (path, share) in [("low", low), ("high", high)] {
        if !(0.0..=1.0).contains(&share) {
            problems.push(Problem::new(path, "bad-value", format!("a share is from 0 to 1, not {share}")));
        }
    }
    if low >= high {
        problems.push(Problem::new("low", "bad-value", format!("`low` ({low}) is not below `high` ({high})")));
    }
    problems.finish()?;
    let rule = Winsorise { low, high, warm_up: config.warm_up };
    Ok(Replace::step(rule, input.schema, columns, by))
}

struct Winsorise {
    low: f64,
    high: f64,
    warm_up: u64,
}

impl Rule for Winsorise {
    type Known = Centred;
    const REPAIRS: bool = true;

    fn value(&self, known: &Centred, value: f64) -> f64 {
        match known.quantiles([self.low, self.high]) {
            Some([low, high]) if known.count() >= self.warm_up => value.clamp(low, high),
            _ => value,
        }
    }

    fn learn(&self, known: &mut Centred, value: f64) {
        known.add(value);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::harness::{Bench, Random, check, problems, random_rows};
    use super::super::running::oracle::{assert_near, earlier, quantile};

    #[test]
    fn numbers_stay_between_quantiles() {
        check(
            &super::KIND,
            &json!({"columns": ["temperature", "count"], "low": 0, "high": 0.5, "by": ["sensor"], "warm_up": 3}),
            "t sensor temperature count
             1 a      1           5
             2 a      4           5
             3 a      2           6
             4 b      99          5
             5 a      9           1
             6 a      0.5         null
             7 a      null        6
             8 a      9           null",
            "t sensor temperature count
             1 a      1           5
             2 a      4           5
             3 a      2           6
             4 b      99          5
             5 a      2           5
             6 a      1           null
             7 a      null        5
             8 a      2           null",
        );
    }

    #[test]
    fn agrees_with_recomputation_from_all_earlier_rows() {
        let seed = 22;
        let rows = random_rows(&mut Random::new(seed), 400);
        for by in [vec!["ok"], vec!["sensor", "room"]] {
            let config = json!({"columns": ["temperature"], "low": 0.1, "high": 0.8, "by": by, "warm_up": 4});
            let output = Bench::new(&super::KIND, &config).learn(&rows);
            let one = |(value, before): (Option<f64>, Vec<f64>)| {
                let bounded = value.map(|value| match before.len() {
                    0..4 => value,
                    _ => value.clamp(quantile(&before, 0.1), quantile(&before, 0.8)),
                });
                // Values lie within 125 of each other: 4 % of the distance from the middle is less than 5.
                (bounded, if before.len() <= 16 { 0.0 } else { 5.0 })
            };
            assert_near(&output, "temperature", earlier(&rows, "temperature", &by).into_iter().map(one));
        }
    }

    #[test]
    fn all_problems_are_found() {
        let config = json!({"columns": ["room"], "low": 2, "high": -0.5, "by": ["x"]});
        let expected = "columns wrong-type; by.0 unknown-column; low bad-value; high bad-value; low bad-value";
        assert_eq!(problems(&super::KIND, &config), expected);
    }
}
