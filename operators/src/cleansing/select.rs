//! `select`: which columns go on.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use millstream_engine::Result;
use millstream_engine::batch::{Lane, META};
use millstream_engine::catalogue::{Kind, Planned, Problem, Problems, StepInput, StepKind, configuration, schema_of};
use millstream_engine::operator::{Power, Rejects, Step, Transform};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;

use super::columns::changeable;

pub(super) static KIND: StepKind = Kind {
    name: "select",
    about: "Keeps the listed columns, in the listed order, or leaves columns out.\n\n\
            The engine's columns (`_time`, `_offset`, …) always stay.",
    schema: schema_of::<Config>,
    example: "columns: [sensor, temperature]\n",
    plan,
};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The columns that stay, in their new order. Either this or `drop`.
    columns: Option<Vec<String>>,
    /// The columns that go.
    drop: Option<Vec<String>>,
}

fn plan(config: &Value, input: &StepInput<'_>) -> Planned<Step> {
    let config: Config = configuration(config)?;
    let mut problems = Problems::default();
    let own: Vec<usize> = match (&config.columns, &config.drop) {
        (Some(names), None) => changeable(input.schema, &mut problems, "columns", names),
        (None, Some(names)) => {
            let dropped = changeable(input.schema, &mut problems, "drop", names);
            (META..input.schema.fields().len()).filter(|at| !dropped.contains(at)).collect()
        }
        _ => {
            problems.push(Problem::new("", "bad-value", "either `columns` or `drop` is needed here"));
            Vec::new()
        }
    };
    problems.finish()?;
    let columns: Vec<usize> = (0..META).chain(own).collect();
    let schema: SchemaRef = Arc::new(input.schema.project(&columns).expect("the columns were found in it"));
    Ok(Step { schema, others: Vec::new(), power: Power::transform(Select { columns }) })
}

struct Select {
    columns: Vec<usize>,
}

impl Transform for Select {
    fn apply(&self, _: Lane, rows: &RecordBatch, _: &mut Rejects) -> Result<RecordBatch> {
        Ok(rows.project(&self.columns)?)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::harness::{own_columns, problems};

    #[test]
    fn keeps_and_drops() {
        assert_eq!(own_columns(&super::KIND, &json!({"columns": ["ok", "room"]})), "ok room");
        assert_eq!(
            own_columns(&super::KIND, &json!({"drop": ["ok", "room", "at"]})),
            "sensor temperature humidity count"
        );
    }

    #[test]
    fn all_problems_are_found() {
        assert_eq!(problems(&super::KIND, &json!({})), " bad-value");
        assert_eq!(problems(&super::KIND, &json!({"columns": ["ok"], "drop": ["at"]})), " bad-value");
        let config = json!({"drop": ["_raw", "ok", "ok", "okay"]});
        let expected = "drop.0 reserved-column; drop.2 duplicate-name; drop.3 unknown-column";
        assert_eq!(problems(&super::KIND, &config), expected);
    }
}
