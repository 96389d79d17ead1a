//! `clip`: numbers stay within bounds.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float64Type, Int64Type, SchemaRef};
use millstream_engine::Result;
use millstream_engine::batch::Lane;
use millstream_engine::catalogue::{Kind, Planned, Problem, Problems, StepInput, StepKind, configuration, schema_of};
use millstream_engine::operator::{Power, Rejects, Step, Transform};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::columns::{changes, finite, numeric};

pub(super) static KIND: StepKind = Kind {
    name: "clip",
    about: "Numbers below `min` become `min`, numbers above `max` become `max`.\n\n\
            NaN becomes null, as does an infinite number on a side without a bound.",
    schema: schema_of::<Config>,
    example: "columns: {temperature: {min: -40, max: 60}, humidity: {min: 0, max: 100}}\n",
    plan,
};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Bounds for each column, or a list of columns that share `min` and `max`.
    columns: Columns,
    /// The least value of the listed columns.
    min: Option<f64>,
    /// The greatest value of the listed columns.
    max: Option<f64>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a list of columns, or a map from columns to {min: …, max: …}")]
enum Columns {
    Shared(Vec<String>),
    Each(BTreeMap<String, Bounds>),
}

/// At least one of them.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Bounds {
    /// The least value.
    min: Option<f64>,
    /// The greatest value.
    max: Option<f64>,
}

fn plan(config: &Value, input: &StepInput<'_>) -> Planned<Step> {
    let config: Config = configuration(config)?;
    let mut problems = Problems::default();
    let shared = Bounds { min: config.min, max: config.max };
    let (names, bounds): (Vec<String>, Vec<Bounds>) = match config.columns {
        Columns::Shared(names) => {
            problems.take(shared.check(""));
            names.into_iter().map(|name| (name, shared)).unzip()
        }
        Columns::Each(each) => {
            if shared.min.is_some() || shared.max.is_some() {
                let message = "`min` and `max` here go with a list of columns";
                problems.push(Problem::new("", "bad-value", message).help("write them into each column's bounds"));
            }
            for (name, bounds) in &each {
                problems.take(bounds.check(&format!("columns.{name}")));
            }
            each.into_iter().unzip()
        }
    };
    let columns = numeric(input.schema, &mut problems, "columns", &names);
    problems.finish()?;
    let clip = Clip { columns: columns.into_iter().zip(bounds).collect(), schema: input.schema.clone() };
    Ok(Step { schema: clip.schema.clone(), others: Vec::new(), power: Power::transform(clip) })
}

impl Bounds {
    fn check(self, path: &str) -> Result<(), Problem> {
        match (self.min, self.max) {
            (None, None) => Err(Problem::new(path, "bad-value", "at least one of `min` and `max` is needed here")),
            (Some(min), Some(max)) if min > max => {
                Err(Problem::new(path, "bad-value", format!("`min` ({min}) is above `max` ({max})")))
            }
            _ => Ok(()),
        }
    }

    fn clip(self, column: &ArrayRef) -> Result<ArrayRef> {
        let (min, max) = (self.min.unwrap_or(f64::NEG_INFINITY), self.max.unwrap_or(f64::INFINITY));
        if column.data_type() == &DataType::Float64 {
            // `max` and `min` would turn NaN into a bound; `clamp` keeps it for `finite` to remove.
            let clipped = column.as_primitive::<Float64Type>().unary::<_, Float64Type>(|value| value.clamp(min, max));
            return finite(&(Arc::new(clipped) as ArrayRef));
        }
        // The whole numbers within the bounds; the casts saturate.
        let (min, max) = (min.ceil() as i64, max.floor() as i64);
        let clipped = column.as_primitive::<Int64Type>().unary::<_, Int64Type>(|value| value.max(min).min(max));
        Ok(Arc::new(clipped))
    }
}

struct Clip {
    columns: Vec<(usize, Bounds)>,
    schema: SchemaRef,
}

impl Transform for Clip {
    fn apply(&self, _: Lane, rows: &RecordBatch, rejects: &mut Rejects) -> Result<RecordBatch> {
        let mut columns = rows.columns().to_vec();
        for (at, bounds) in &self.columns {
            columns[*at] = bounds.clip(&columns[*at])?;
            rejects.repaired(changes(rows.column(*at), &columns[*at])?);
        }
        Ok(RecordBatch::try_new(self.schema.clone(), columns)?)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::harness::{check, problems};

    #[test]
    fn numbers_stay_within_bounds() {
        check(
            &super::KIND,
            &json!({"columns": {"temperature": {"min": -1.5, "max": 9}, "count": {"max": 7.5}}}),
            "t temperature count
             1 -2          7
             2 3.25        8
             3 inf         -9
             4 NaN         null
             5 null        0",
            "t temperature count
             1 -1.5        7
             2 3.25        7
             3 9           -9
             4 null        null
             5 null        0",
        );
    }

    #[test]
    fn an_unbounded_side_has_no_infinity() {
        let config = json!({"columns": ["temperature", "humidity"], "min": 0});
        check(&super::KIND, &config, "t temperature humidity\n1 inf -inf", "t temperature humidity\n1 null 0");
    }

    #[test]
    fn all_problems_are_found() {
        let config =
            json!({"columns": {"temperature": {"min": 2, "max": 1}, "count": {}, "room": {"max": 1}}, "min": 0});
        let expected = " bad-value; columns.count bad-value; columns.temperature bad-value; columns wrong-type";
        assert_eq!(problems(&super::KIND, &config), expected);
        assert_eq!(problems(&super::KIND, &json!({"columns": ["count"]})), " bad-value");
        assert_eq!(problems(&super::KIND, &json!({"columns": 3})), "columns bad-value");
    }
}
