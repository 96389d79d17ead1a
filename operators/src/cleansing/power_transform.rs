//! `power_transform`: skewed numbers made even, by logarithms and powers.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use millstream_engine::Result;
use millstream_engine::batch::{Lane, with_fields};
use millstream_engine::catalogue::{Kind, Planned, Problem, Problems, StepInput, StepKind, configuration, schema_of};
use millstream_engine::operator::{Power, Rejects, Step, Transform};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::columns::{Otherwise, changeable_each, is_number, numbers, repaired, shown};

pub(super) static KIND: StepKind = Kind {
    name: "power_transform",
    about: "Skewed numbers become even ones, by a logarithm or a power.\n\n\
            `log` and `box_cox` take numbers above 0, `log1p` those above -1, `sqrt` those from 0; the others take \
            any. Numbers that are not finite are null. The columns become floats.",
    schema: schema_of::<Config>,
    example: "columns: {temperature: signed_log1p, humidity: {box_cox: 0.5}}\notherwise: \"null\"\n",
    plan,
};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Columns of numbers, and the function that each goes through.
    columns: BTreeMap<String, Function>,
    /// What becomes of a number that the function does not take, or whose outcome no float can hold. Default:
    /// `dead_letter`.
    #[serde(default)]
    otherwise: Otherwise,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Function {
    /// The natural logarithm.
    Log,
    /// The natural logarithm of 1 more: keeps 0.
    Log1p,
    /// `log1p` of the magnitude, with the number's sign.
    SignedLog1p,
    /// The square root.
    Sqrt,
    /// The square root of the magnitude, with the number's sign.
    SignedSqrt,
    /// Box and Cox: (x^lambda - 1) / lambda, and the logarithm for a lambda of 0.
    BoxCox(f64),
    /// Yeo and Johnson: Box-Cox of x + 1, and for numbers below 0 of 1 - x with 2 - lambda and the sign turned.
    YeoJohnson(f64),
}

impl Function {
    fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Log1p => "log1p",
            Self::SignedLog1p => "signed_log1p",
            Self::Sqrt => "sqrt",
            Self::SignedSqrt => "signed_sqrt",
            Self::BoxCox(_) => "box_cox",
            Self::YeoJohnson(_) => "yeo_johnson",
        }
    }

    /// What is not finite stands for a number that is not taken. From `libm`, so that every machine agrees.
    fn of(self, x: f64) -> f64 {
        match self {
            Self::Log => libm::log(x),
            Self::Log1p => libm::log1p(x),
            Self::SignedLog1p => libm::log1p(x.abs()).copysign(x),
            Self::Sqrt => x.sqrt(),
            Self::SignedSqrt => x.abs().sqrt().copysign(x),
            Self::BoxCox(_) if x <= 0.0 => f64::NAN,
            Self::BoxCox(lambda) => power(libm::log(x), lambda),
            Self::YeoJohnson(lambda) if x < 0.0 => -power(libm::log1p(-x), 2.0 - lambda),
            Self::YeoJohnson(lambda) => power(libm::log1p(x), lambda),
        }
    }
}

/// (e^(lambda * log) - 1) / lambda, and its limit `log` for a lambda of 0.
fn power(log: f64, lambda: f64) -> f64 {
    if lambda == 0.0 { log } else { libm::expm1(lambda * log) / lambda }
}

fn plan(config: &Value, input: &StepInput<'_>) -> Planned<Step> {
    let config: Config = configuration(config)?;
    let mut problems = Problems::default();
    let mut columns = Vec::new();
    for (at, function) in changeable_each(input.schema, &mut problems, &config.columns) {
        let path = format!("columns.{}", input.schema.field(at).name());
        problems.take(is_number(input.schema, &path, at));
        if let Function::BoxCox(lambda) | Function::YeoJohnson(lambda) = function
            && lambda.abs() > LAMBDA_MAX
        {
            let path = format!("{path}.{}", function.name());
            let message = format!("a lambda of {lambda} is beyond {LAMBDA_MAX}: nearly no number would be left");
            problems.push(Problem::new(&path, "out-of-range", message));
        }
        columns.push((at, *function));
    }
    problems.finish()?;
    let fields = columns.iter().map(|(at, _)| input.schema.field(*at).clone().with_data_type(DataType::Float64));
    let schema = with_fields(input.schema, fields.map(|field| field.with_nullable(true)));
    let operator = PowerTransform { columns, otherwise: config.otherwise, schema: schema.clone() };
    Ok(Step { schema, others: Vec::new(), power: Power::transform(operator) })
}

/// The largest lambda, either way.
const LAMBDA_MAX: f64 = 100.0;

struct PowerTransform {
    columns: Vec<(usize, Function)>,
    otherwise: Otherwise,
    schema: SchemaRef,
}

impl Transform for PowerTransform {
    fn apply(&self, _: Lane, rows: &RecordBatch, rejects: &mut Rejects) -> Result<RecordBatch> {
        let mut columns: Vec<(&str, ArrayRef)> = Vec::with_capacity(self.columns.len());
        for &(at, function) in &self.columns {
            let name = self.schema.field(at).name().as_str();
            let outcome = |(row, value): (usize, Option<f64>)| {
                let value = value?;
                let outcome = function.of(value);
                if outcome.is_finite() {
                    return Some(outcome);
                }
                let reason = || format!("column `{name}`: {} does not take {}", function.name(), shown(value));
                self.otherwise.refuse(rejects, row, reason);
                None
            };
            let outcomes: Float64Array = numbers(rows.column(at))?.iter().enumerate().map(outcome).collect();
            columns.push((name, Arc::new(outcomes)));
        }
        repaired(&self.schema, rows, columns, rejects)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::harness::{Random, check, problems};
    use super::Function;

    #[test]
    fn numbers_go_through_their_function() {
        check(
            &super::KIND,
            &json!({"columns": {"temperature": "signed_sqrt", "humidity": "log1p", "count": {"box_cox": 0}}}),
            "t temperature humidity count
             1 9           0        3
             2 -6.25       -1       2
             3 NaN         0        1
             4 0           0        0
             5 null        null     null",
            "t temperature humidity count
             1 3           0        1.0986122886681096
             3 null        0        0
             5 null        null     null
             row 1: column `humidity`: log1p does not take `-1`
             row 3: column `count`: box_cox does not take `0`",
        );
        let config = json!({"columns": {"temperature": "sqrt", "humidity": {"yeo_johnson": 2}}, "otherwise": null});
        let rows = "t temperature humidity\n1 4 0\n2 -4 1e300";
        check(&super::KIND, &config, rows, "t temperature humidity\n1 2 0\n2 null null");
    }

    /// The textbook's formulas, which lose digits where these do not.
    #[test]
    fn powers_agree_with_their_definitions() {
        let close = |found: f64, expected: f64| (found - expected).abs() <= 1e-9 * expected.abs().max(1.0);
        let mut random = Random::new(7);
        for _ in 0..1000 {
            let (x, lambda) = (random.below(4000) as f64 / 100.0 - 20.0, random.below(13) as f64 / 4.0 - 1.0);
            let box_cox = |x: f64, lambda: f64| if lambda == 0.0 { x.ln() } else { (x.powf(lambda) - 1.0) / lambda };
            if x > 0.0 {
                assert!(close(Function::BoxCox(lambda).of(x), box_cox(x, lambda)), "{x} {lambda}");
            }
            let expected = if x < 0.0 { -box_cox(1.0 - x, 2.0 - lambda) } else { box_cox(x + 1.0, lambda) };
            assert!(close(Function::YeoJohnson(lambda).of(x), expected), "{x} {lambda}");
        }
    }

    #[test]
    fn order_is_kept() {
        let functions = [Function::SignedLog1p, Function::SignedSqrt, Function::YeoJohnson(-0.5)];
        for function in functions {
            let outcomes: Vec<f64> = (-50..50).map(|x| function.of(f64::from(x) / 7.0)).collect();
            assert!(outcomes.is_sorted_by(|a, b| a < b), "{}", function.name());
        }
    }

    #[test]
    fn all_problems_are_found() {
        let config = json!({"columns": {"room": "log", "_time": "log", "count": {"box_cox": 1e9}, "x": "log"}});
        let expected = "columns._time reserved-column; columns.x unknown-column; columns.count.box_cox out-of-range; \
                        columns.room wrong-type";
        assert_eq!(problems(&super::KIND, &config), expected);
        let config = json!({"columns": {"count": "cube"}});
        assert_eq!(problems(&super::KIND, &config), "columns.count bad-value");
    }
}
