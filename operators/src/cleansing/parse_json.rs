//! `parse_json`: columns from JSON in a text column.

use std::collections::BTreeMap;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringBuilder};
use arrow::datatypes::{DataType, Field, SchemaRef};
use millstream_engine::Result;
use millstream_engine::batch::{Lane, filter, with_columns, with_fields};
use millstream_engine::catalogue::{Kind, Planned, Problem, Problems, StepInput, StepKind, configuration, schema_of};
use millstream_engine::operator::{Power, Rejects, Step, Transform};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::columns::not_reserved;

pub(super) static KIND: StepKind = Kind {
    name: "parse_json",
    about: "Columns from JSON in a text column.\n\n\
            A source keeps what is nested in a record as JSON, in a column of text; this step takes values out of it. Each becomes a column \
            of text: a text as it is, anything else as JSON; `coerce` makes other types of it. What is not there is null. A row whose text is \
            no JSON becomes a dead letter.",
    schema: schema_of::<Config>,
    example: "column: sensor\ninto: {place: room.name, floor: room.floor}\n",
    plan,
};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The column of text.
    column: String,
    /// For each new column, where its value is: the names on the way to it, with points between them. One of an existing name
    /// replaces that column.
    into: BTreeMap<String, String>,
}

fn plan(config: &Value, input: &StepInput<'_>) -> Planned<Step> {
    let Config { column, into } = configuration(config)?;
    let mut problems = Problems::default();
    let from = problems.take(input.column("column", &column));
    if let Some(kind) = from.map(|from| input.schema.field(from).data_type()).filter(|kind| **kind != DataType::Utf8) {
        problems.push(Problem::new("column", "not-a-text", format!("`{column}` is {kind}; JSON is text")));
    }
    if into.is_empty() {
        problems.push(Problem::new("into", "empty-list", "at least one column is needed here"));
    }
    for (name, path) in &into {
        let at = format!("into.{name}");
        problems.take(not_reserved(&at, name));
        if path.split('.').any(str::is_empty) {
            problems.push(Problem::new(&at, "bad-path", format!("`{path}` has an empty name between its points")));
        }
    }
    problems.finish()?;
    let Some(column) = from else { unreachable!("what is missing has left a problem") };
    let schema = with_fields(input.schema, into.keys().map(|name| Field::new(name, DataType::Utf8, true)));
    let into = into.into_iter().map(|(name, path)| (name, path.split('.').map(str::to_owned).collect())).collect();
    let step = ParseJson { schema: schema.clone(), column, into };
    Ok(Step { schema, others: Vec::new(), power: Power::transform(step) })
}

struct ParseJson {
    schema: SchemaRef,
    column: usize,
    /// The new columns, and the way to each value.
    into: Vec<(String, Vec<String>)>,
}

impl Transform for ParseJson {
    fn apply(&self, _: Lane, rows: &RecordBatch, rejects: &mut Rejects) -> Result<RecordBatch> {
        let texts = rows.column(self.column).as_string::<i32>();
        let mut columns: Vec<StringBuilder> = self.into.iter().map(|_| StringBuilder::new()).collect();
        for row in 0..rows.num_rows() {
            let parsed = if texts.is_valid(row) { serde_json::from_str(texts.value(row)) } else { Ok(Value::Null) };
            let value = parsed.unwrap_or_else(|error| {
                rejects.push(row, format!("it is no JSON: {error}"));
                Value::Null
            });
            for (column, (_, path)) in columns.iter_mut().zip(&self.into) {
                match path.iter().try_fold(&value, |value, name| value.get(name)) {
                    None | Some(Value::Null) => column.append_null(),
                    Some(Value::String(text)) => column.append_value(text),
                    Some(other) => column.append_value(other.to_string()),
                }
            }
        }
        let columns = self.into.iter().zip(&mut columns);
        let columns =
            columns.map(|((name, _), column)| (name.as_str(), std::sync::Arc::new(column.finish()) as ArrayRef));
        let output = with_columns(&self.schema, rows, columns.collect())?;
        if rejects.is_empty() { Ok(output) } else { filter(&output, &rejects.keep(rows.num_rows())) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::harness::{check, problems};

    #[test]
    fn values_are_taken_out_and_what_is_no_json_is_rejected() {
        check(
            &super::KIND,
            &json!({"column": "sensor", "into": {"a": "x.a", "room": "x"}}),
            r#"t sensor                  room
               1 {"x":{"a":"b"},"y":[1]} old
               2 {"x":{"a":2.50}}        old
               3 {"x":[1,null]}          old
               4 {"y":                   old
               5 7                       old
               6 null                    old"#,
            r#"t sensor                  room            a
               1 {"x":{"a":"b"},"y":[1]} {"a":"b"}       b
               2 {"x":{"a":2.50}}        {"a":2.5}       2.5
               3 {"x":[1,null]}          [1,null]        null
               5 7                       null            null
               6 null                    null            null
               row 3: it is no JSON: EOF while parsing a value at line 1 column 5"#,
        );
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let config = json!({"column": "count", "into": {"_time": "a", "b": "a..b"}});
        assert_eq!(problems(&super::KIND, &config), "column not-a-text; into._time reserved-column; into.b bad-path");
        assert_eq!(problems(&super::KIND, &json!({"column": "sensor", "into": {}})), "into empty-list");
    }
}
