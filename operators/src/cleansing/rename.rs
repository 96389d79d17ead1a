//! `rename`: other names for columns.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema, SchemaRef};
use millstream_engine::Result;
use millstream_engine::batch::Lane;
use millstream_engine::catalogue::{Kind, Planned, Problem, Problems, StepInput, StepKind, configuration, schema_of};
use millstream_engine::operator::{Power, Rejects, Step, Transform};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::columns::not_reserved;

pub(super) static KIND: StepKind = Kind {
    name: "rename",
    about: "Gives columns other names, all at once: two columns can swap theirs.",
    schema: schema_of::<Config>,
    example: "temperature: celsius\nroom: place\n",
    plan,
};

/// From each column's old name to its new one.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(transparent)]
struct Config(BTreeMap<String, String>);

fn plan(config: &Value, input: &StepInput<'_>) -> Planned<Step> {
    let Config(names) = configuration(config)?;
    let mut problems = Problems::default();
    if names.is_empty() {
        problems.push(Problem::new("", "empty-list", "at least one column is needed here"));
    }
    let mut fields: Vec<Field> = input.schema.fields().iter().map(|field| field.as_ref().clone()).collect();
    for (old, new) in &names {
        problems.take(not_reserved(old, old));
        problems.take(not_reserved(old, new));
        if let Some(at) = problems.take(input.column(old, old)) {
            fields[at].set_name(new);
        }
    }
    for (old, new) in &names {
        if fields.iter().filter(|field| field.name() == new).count() > 1 {
            let message = format!("there would be two columns called `{new}`");
            problems.push(Problem::new(old, "duplicate-name", message).help("drop the other one with `select` first"));
        }
    }
    problems.finish()?;
    let schema: SchemaRef = Arc::new(Schema::new_with_metadata(fields, input.schema.metadata().clone()));
    Ok(Step { schema: schema.clone(), others: Vec::new(), power: Power::transform(Rename { schema }) })
}

struct Rename {
    schema: SchemaRef,
}

impl Transform for Rename {
    fn apply(&self, _: Lane, rows: &RecordBatch, _: &mut Rejects) -> Result<RecordBatch> {
        Ok(RecordBatch::try_new(self.schema.clone(), rows.columns().to_vec())?)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::harness::{own_columns, problems};

    #[test]
    fn names_change_at_once() {
        let config = json!({"sensor": "room", "room": "sensor", "ok": "fine"});
        assert_eq!(own_columns(&super::KIND, &config), "room sensor temperature humidity count at fine");
    }

    #[test]
    fn all_problems_are_found() {
        let config = json!({"ok": "room", "rom": "place", "at": "_time", "_raw": "bytes"});
        let expected = "_raw reserved-column; at reserved-column; rom unknown-column; \
                        at duplicate-name; ok duplicate-name";
        assert_eq!(problems(&super::KIND, &config), expected);
        assert_eq!(problems(&super::KIND, &json!({"ok": "x", "at": "x"})), "at duplicate-name; ok duplicate-name");
        assert_eq!(problems(&super::KIND, &json!({})), " empty-list");
    }
}
