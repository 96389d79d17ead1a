//! `one_hot`: a column of 0 and 1 for each known category.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float64Array, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, SchemaRef};
use millstream_engine::Result;
use millstream_engine::batch::{Lane, with_columns, with_fields};
use millstream_engine::catalogue::{Kind, Planned, Problem, Problems, StepInput, StepKind, configuration, schema_of};
use millstream_engine::operator::{Power, Rejects, Step, Transform};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::category::Category;
use super::columns::{is_category, not_reserved};

pub(super) static KIND: StepKind = Kind {
    name: "one_hot",
    about: "A column of 0 and 1 for each known category, called `column=category`.\n\n\
            Values that are not listed set `column=other`. A null sets none of the columns. \
            The column itself stays. Where the categories are many or not known beforehand, use `hash_category`.",
    schema: schema_of::<Config>,
    example: "column: room\ncategories: [kitchen, attic]\n",
    plan,
};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// A column of text, whole numbers, or true and false.
    column: String,
    /// The known categories.
    categories: Vec<Category>,
    /// Whether there is a column for values that are not listed.
    #[serde(default = "yes")]
    other: bool,
}

fn yes() -> bool {
    true
}

fn plan(config: &Value, input: &StepInput<'_>) -> Planned<Step> {
    let config: Config = configuration(config)?;
    let mut problems = Problems::default();
    problems.take(not_reserved("column", &config.column));
    let column = problems.take(input.column("column", &config.column));
    if let Some(at) = column {
        problems.take(is_category(input.schema, "column", at));
    }
    if config.categories.is_empty() {
        problems.push(Problem::new("categories", "empty-list", "at least one category is needed here"));
    }
    let categories: Vec<String> = config.categories.iter().map(Category::text).collect();
    let all = categories.iter().map(String::as_str).chain(config.other.then_some("other"));
    let names: Vec<String> = all.map(|category| format!("{}={category}", config.column)).collect();
    for (place, name) in names.iter().enumerate() {
        if names[..place].contains(name) || input.schema.index_of(name).is_ok() {
            let path = if place < categories.len() { format!("categories.{place}") } else { "other".to_owned() };
            let message = format!("there would be two columns called `{name}`");
            problems.push(Problem::new(&path, "duplicate-name", message));
        }
    }
    problems.finish()?;
    let schema = with_fields(input.schema, names.iter().map(|name| Field::new(name, DataType::Float64, false)));
    let places = categories.into_iter().zip(0..).collect();
    let column = column.expect("no problem was found");
    let operator = OneHot { column, places, other: config.other, names, schema: schema.clone() };
    Ok(Step { schema, others: Vec::new(), power: Power::transform(operator) })
}

struct OneHot {
    column: usize,
    /// From a category to its place among `names`.
    places: HashMap<String, usize>,
    other: bool,
    /// The new columns; that of other values comes last.
    names: Vec<String>,
    schema: SchemaRef,
}

impl Transform for OneHot {
    fn apply(&self, _: Lane, rows: &RecordBatch, _: &mut Rejects) -> Result<RecordBatch> {
        let values = cast(rows.column(self.column), &DataType::Utf8)?;
        let mut columns = vec![vec![0.0; rows.num_rows()]; self.names.len()];
        for (row, value) in values.as_string::<i32>().iter().enumerate() {
            let place =
                value.and_then(|value| self.places.get(value).copied().or(self.other.then_some(self.places.len())));
            if let Some(place) = place {
                columns[place][row] = 1.0;
            }
        }
        let arrays = columns.into_iter().map(|column| Arc::new(Float64Array::from(column)) as ArrayRef);
        with_columns(&self.schema, rows, self.names.iter().map(String::as_str).zip(arrays).collect())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::harness::{check, problems};

    #[test]
    fn each_category_has_a_column() {
        check(
            &super::KIND,
            &json!({"column": "room", "categories": ["x", "y"]}),
            "t room\n1 y\n2 x\n3 z\n4 null",
            "t room room=x room=y room=other
             1 y    0      1      0
             2 x    1      0      0
             3 z    0      0      1
             4 null 0      0      0",
        );
        check(
            &super::KIND,
            &json!({"column": "count", "categories": [1, 20], "other": false}),
            "t count\n1 20\n2 7",
            "t count count=1 count=20\n1 20 0 1\n2 7 0 0",
        );
        let config = json!({"column": "ok", "categories": [true], "other": false});
        check(&super::KIND, &config, "t ok\n1 true\n2 false", "t ok ok=true\n1 true 1\n2 false 0");
    }

    #[test]
    fn all_problems_are_found() {
        let config = json!({"column": "temperature", "categories": ["a", "other", "a"]});
        let expected = "column wrong-type; categories.2 duplicate-name; other duplicate-name";
        assert_eq!(problems(&super::KIND, &config), expected);
        assert_eq!(
            problems(&super::KIND, &json!({"column": "rom", "categories": []})),
            "column unknown-column; categories empty-list"
        );
    }
}
