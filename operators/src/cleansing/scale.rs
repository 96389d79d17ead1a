//! `scale`: numbers by their place among the numbers before them.

use millstream_engine::catalogue::{Kind, Planned, Problem, Problems, StepInput, StepKind, configuration, schema_of};
use millstream_engine::operator::Step;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::running::{Replace, Rule, numbers_by};
use crate::sketch::Centred;

pub(super) static KIND: StepKind = Kind {
    name: "scale",
    about: "Numbers become their place among the numbers before them, which is bounded.\n\n\
            A row is measured against the rows before it, and then counts itself. During the warm-up the result is the middle: \
            0.5, or 0 with `robust`. Null and numbers that are not finite give null and count for nothing. \
            Quantiles are exact for 16 values, and then known to 4 % of the distance from the middle of those. \
            For standard deviations from the mean there is `standardise`.",
    schema: schema_of::<Config>,
    example: "columns: [temperature, count]\nmethod: robust\nby: [sensor]\n",
    plan,
};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The columns of numbers.
    columns: Vec<String>,
    /// What the place is.
    method: Method,
    /// Columns that make a key: each key has its own numbers before.
    #[serde(default)]
    by: Vec<String>,
    /// As long as there are fewer values than this, the result is the middle.
    #[serde(default = "warm_up")]
    warm_up: u64,
    /// The greatest distance with `robust`; 5 if it is left out.
    limit: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Method {
    /// From 0 at the least value to 1 at the greatest; the middle while all have been the same.
    MinMax,
    /// Distance from the median in units of the range between the quarters; 0 while there is no such range.
    Robust,
    /// The share of values that are less, from 0 to 1; of equal ones half.
    Quantile,
}

fn warm_up() -> u64 {
    10
}

fn plan(config: &Value, input: &StepInput<'_>) -> Planned<Step> {
    let config: Config = configuration(config)?;
    let mut problems = Problems::default();
    let (columns, by) = numbers_by(input.schema, &mut problems, &config.columns, &config.by);
    if config.limit.is_some_and(|limit| limit.is_nan() || limit <= 0.0) {
        problems.push(Problem::new("limit", "bad-value", "a limit is greater than 0"));
    }
    if config.limit.is_some() && config.method != Method::Robust {
        let message = "only `robust` has a limit; the others end at 0 and 1";
        problems.push(Problem::new("limit", "bad-value", message).help("leave out `limit`"));
    }
    problems.finish()?;
    let (schema, warm_up) = (input.schema, config.warm_up);
    Ok(match config.method {
        Method::MinMax => Replace::step(MinMax { warm_up }, schema, columns, by),
        Method::Robust => Replace::step(Robust { warm_up, limit: config.limit.unwrap_or(5.0) }, schema, columns, by),
        Method::Quantile => Replace::step(Quantile { warm_up }, schema, columns, by),
    })
}

struct MinMax {
    warm_up: u64,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Extremes {
    count: u64,
    min: f64,
    max: f64,
}

impl Rule for MinMax {
    type Known = Extremes;
    const REPAIRS: bool = false;

    fn value(&self, known: &Extremes, value: f64) -> f64 {
        // Halves, since the difference of the extremes may be too large.
        let range = known.max / 2.0 - known.min / 2.0;
        if known.count < self.warm_up || range <= 0.0 {
            return 0.5;
        }
        ((value / 2.0 - known.min / 2.0) / range).clamp(0.0, 1.0)
    }

    fn learn(&self, known: &mut Extremes, value: f64) {
        let (min, max) = if known.count == 0 { (value, value) } else { (known.min, known.max) };
        *known = Extremes { count: known.count + 1, min: min.min(value), max: max.max(value) };
    }
}

struct Robust {
    warm_up: u64,
    limit: f64,
}

impl Rule for Robust {
    type Known = Centred;
    const REPAIRS: bool = false;

    fn value(&self, known: &Centred, value: f64) -> f64 {
        match known.quantiles([0.25, 0.5, 0.75]) {
            Some([low, median, high]) if known.count() >= self.warm_up && high > low => {
                // Halves, as above.
                ((value / 2.0 - median / 2.0) / (high / 2.0 - low / 2.0)).clamp(-self.limit, self.limit)
            }
            _ => 0.0,
        }
    }

    fn learn(&self, known: &mut Centred, value: f64) {
        known.add(value);
    }
}

struct Quantile {
    warm_up: u64,
}

impl Rule for Quantile {
    type Known = Centred;
    const REPAIRS: bool = false;

    fn value(&self, known: &Centred, value: f64) -> f64 {
        known.rank(value).filter(|_| known.count() >= self.warm_up).unwrap_or(0.5)
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

    const ROWS: &str = "
        t sensor temperature
        1 a      10
        2 a      20
        3 b      7
        4 a      12.5
        5 a      NaN
        6 a      30
        7 a      null
        8 a      30";

    #[test]
    fn min_max() {
        check(
            &super::KIND,
            &json!({"columns": ["temperature"], "method": "min_max", "by": ["sensor"], "warm_up": 1}),
            ROWS,
            "t sensor temperature
             1 a      0.5
             2 a      0.5
             3 b      0.5
             4 a      0.25
             5 a      null
             6 a      1
             7 a      null
             8 a      1",
        );
    }

    #[test]
    fn robust() {
        check(
            &super::KIND,
            &json!({"columns": ["temperature"], "method": "robust", "by": ["sensor"], "warm_up": 3, "limit": 2}),
            ROWS,
            "t sensor temperature
             1 a      0
             2 a      0
             3 b      0
             4 a      0
             5 a      null
             6 a      2
             7 a      null
             8 a      1.75",
        );
    }

    #[test]
    fn quantiles() {
        check(
            &super::KIND,
            &json!({"columns": ["temperature"], "method": "quantile", "by": ["sensor"], "warm_up": 1}),
            ROWS,
            "t sensor temperature
             1 a      0.5
             2 a      1
             3 b      0.5
             4 a      0.5
             5 a      null
             6 a      1
             7 a      null
             8 a      0.875",
        );
    }

    #[test]
    fn extremes_stay_bounded() {
        let rows = "t temperature\n1 -1.7e308\n2 1.7e308\n3 0\n4 1.7e308";
        let config = |method| json!({"columns": ["temperature"], "method": method, "warm_up": 2});
        check(&super::KIND, &config("min_max"), rows, "t temperature\n1 0.5\n2 0.5\n3 0.5\n4 1");
        check(&super::KIND, &config("robust"), rows, "t temperature\n1 0\n2 0\n3 0\n4 1");
    }

    #[test]
    fn agrees_with_recomputation_from_all_earlier_rows() {
        let seed = 21;
        let rows = random_rows(&mut Random::new(seed), 400);
        for by in [vec!["sensor"], vec!["sensor", "room"]] {
            let history = earlier(&rows, "temperature", &by);
            let learned = |method: &str| {
                let config = json!({"columns": ["temperature"], "method": method, "by": by, "warm_up": 5});
                Bench::new(&super::KIND, &config).learn(&rows)
            };
            // Exact while there are few, otherwise within what the sketch may be off.
            let expected = |middle: f64, off: f64, of: fn(&[f64], f64) -> f64| {
                let one = move |(value, before): &(Option<f64>, Vec<f64>)| {
                    let found = value.map(|value| if before.len() < 5 { middle } else { of(before, value) });
                    (found, if before.len() <= 16 { 1e-12 } else { off })
                };
                history.iter().map(one).collect::<Vec<_>>()
            };
            let min_max = |before: &[f64], value: f64| {
                let (min, max) = (quantile(before, 0.0), quantile(before, 1.0));
                ((value - min) / (max - min)).clamp(0.0, 1.0)
            };
            assert_near(&learned("min_max"), "temperature", expected(0.5, 1e-12, min_max));
            let robust = |before: &[f64], value: f64| {
                let [low, median, high] = [0.25, 0.5, 0.75].map(|q| quantile(before, q));
                ((value - median) / (high - low)).clamp(-5.0, 5.0)
            };
            assert_near(&learned("robust"), "temperature", expected(0.0, 0.15, robust));
            let rank = |before: &[f64], value: f64| {
                let count = |holds: &dyn Fn(f64) -> bool| before.iter().filter(|v| holds(**v)).count() as f64;
                count(&|v| v < value).midpoint(count(&|v| v <= value)) / before.len() as f64
            };
            assert_near(&learned("quantile"), "temperature", expected(0.5, 0.06, rank));
        }
    }

    #[test]
    fn all_problems_are_found() {
        let config = json!({"columns": ["room", "count"], "method": "min_max", "by": ["count", "x"], "limit": -1});
        let expected = "columns wrong-type; by.1 unknown-column; by duplicate-name; limit bad-value; limit bad-value";
        assert_eq!(problems(&super::KIND, &config), expected);
        assert_eq!(problems(&super::KIND, &json!({"columns": ["count"], "method": "max"})), "method bad-value");
    }
}
