//! `require`: rows must fulfil a condition.

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::kernels::boolean::not;
use arrow::compute::kernels::nullif::nullif;
use arrow::datatypes::SchemaRef;
use millstream_engine::Result;
use millstream_engine::batch::{Lane, filter, with_columns, with_fields};
use millstream_engine::catalogue::{Kind, Planned, Problems, StepInput, StepKind, configuration, schema_of};
use millstream_engine::operator::{Power, Rejects, Step, Transform};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::columns::{changeable, changes};
use crate::expression::Expression;

pub(super) static KIND: StepKind = Kind {
    name: "require",
    about: "Rows must fulfil a condition; the others become dead letters, are dropped, or lose the doubtful values.\n\n\
            A condition that is null for a row, because it reads a null, counts as not fulfilled: \
            add `or temperature is null` where missing values are fine.",
    schema: schema_of::<Config>,
    example: "that: temperature between -40 and 60\notherwise: {\"null\": [temperature]}\n",
    plan,
};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The condition, in SQL.
    that: String,
    /// What becomes of the other rows.
    #[serde(default)]
    otherwise: Otherwise,
    /// Whether requests must fulfil it, too.
    #[serde(default)]
    lanes: Lanes,
}

#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Otherwise {
    /// They become dead letters; a request gets an error answer that says why.
    #[default]
    DeadLetter,
    /// They are left out; a request gets an error answer that says so.
    Drop,
    /// They go on, with null in these columns.
    Null(Vec<String>),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Lanes {
    /// Records and requests.
    #[default]
    Both,
    /// Records only; requests pass as they are.
    Learn,
}

fn plan(config: &Value, input: &StepInput<'_>) -> Planned<Step> {
    let config: Config = configuration(config)?;
    let mut problems = Problems::default();
    let condition = problems.take_all(Expression::predicate(&config.that, input.schema, "that"));
    let nulled = match &config.otherwise {
        Otherwise::Null(names) => changeable(input.schema, &mut problems, "otherwise.null", names),
        _ => Vec::new(),
    };
    problems.finish()?;
    let schema = with_fields(input.schema, nulled.iter().map(|&at| input.schema.field(at).clone().with_nullable(true)));
    let condition = condition.expect("no problem was found");
    let operator = Require { condition, config, nulled, schema: schema.clone() };
    Ok(Step { schema, others: Vec::new(), power: Power::transform(operator) })
}

struct Require {
    condition: Expression,
    config: Config,
    nulled: Vec<usize>,
    schema: SchemaRef,
}

impl Transform for Require {
    fn apply(&self, lane: Lane, rows: &RecordBatch, rejects: &mut Rejects) -> Result<RecordBatch> {
        if lane == Lane::Serve && self.config.lanes == Lanes::Learn {
            return with_columns(&self.schema, rows, Vec::new());
        }
        let outcome = self.condition.test(rows, rejects)?;
        match self.config.otherwise {
            Otherwise::DeadLetter | Otherwise::Drop if outcome.true_count() == rows.num_rows() => Ok(rows.clone()),
            Otherwise::DeadLetter => {
                self.reject(&outcome, rejects);
                filter(rows, &outcome)
            }
            Otherwise::Drop => filter(rows, &outcome),
            Otherwise::Null(_) => {
                // Null counts as not fulfilled.
                let fulfilled: BooleanArray = outcome.iter().map(|held| Some(held == Some(true))).collect();
                let output = self.without_values(rows, &not(&fulfilled)?)?;
                for &at in &self.nulled {
                    rejects.repaired(changes(rows.column(at), output.column(at))?);
                }
                filter(&output, &rejects.keep(rows.num_rows()))
            }
        }
    }
}

impl Require {
    fn reject(&self, outcome: &BooleanArray, rejects: &mut Rejects) {
        for (row, held) in outcome.iter().enumerate() {
            match held {
                Some(true) => {}
                Some(false) => rejects.push(row, format!("`{}` does not hold", self.condition.sql())),
                None => rejects.push(row, format!("`{}` is null, so it does not hold", self.condition.sql())),
            }
        }
    }

    fn without_values(&self, rows: &RecordBatch, doubtful: &BooleanArray) -> Result<RecordBatch> {
        let mut columns = rows.columns().to_vec();
        for &at in &self.nulled {
            columns[at] = nullif(&columns[at], doubtful)?;
        }
        Ok(RecordBatch::try_new(self.schema.clone(), columns)?)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::harness::{check, check_serve, problems};

    const ROWS: &str = "
        t  temperature count
        1  20          3
        2  90          0
        3  null        0";

    #[test]
    fn the_others_become_dead_letters() {
        check(
            &super::KIND,
            &json!({"that": "temperature < 50"}),
            ROWS,
            "t temperature count
             1 20 3
             row 1: `temperature < 50` does not hold
             row 2: `temperature < 50` is null, so it does not hold",
        );
    }

    #[test]
    fn the_others_are_dropped() {
        let config = json!({"that": "temperature < 50", "otherwise": "drop"});
        check(&super::KIND, &config, ROWS, "t temperature count\n1 20 3");
    }

    #[test]
    fn the_others_lose_values() {
        let config = json!({"that": "temperature < 50", "otherwise": {"null": ["count"]}});
        check(&super::KIND, &config, ROWS, "t temperature count\n1 20 3\n2 90 null\n3 null null");
    }

    #[test]
    fn a_condition_that_fails_for_a_row_rejects_that_row() {
        let config = json!({"that": "12 / count = 4", "otherwise": {"null": ["temperature"]}});
        check(
            &super::KIND,
            &config,
            ROWS,
            "t temperature count
             1 20 3
             row 1: `12 / count = 4`: Divide by zero error
             row 2: `12 / count = 4`: Divide by zero error",
        );
    }

    #[test]
    fn requests_may_be_spared() {
        let mut config = json!({"that": "temperature < 50", "otherwise": "drop"});
        check_serve(&super::KIND, &config, ROWS, "t temperature count\n1 20 3");
        config["lanes"] = json!("learn");
        check_serve(&super::KIND, &config, ROWS, "t temperature count\n1 20 3\n2 90 0\n3 null 0");
    }

    #[test]
    fn all_problems_are_found() {
        let config = json!({"that": "temprature < 50 and sensor", "otherwise": {"null": ["cont", "_time"]}});
        let expected = "that unknown-column; otherwise.null.1 reserved-column; otherwise.null.0 unknown-column";
        assert_eq!(problems(&super::KIND, &config), expected);
        assert_eq!(problems(&super::KIND, &json!({"that": "temperature"})), "that wrong-type");
    }
}
