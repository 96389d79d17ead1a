//! `ordinal_category`: categories that have an order as whole numbers.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, SchemaRef};
use millstream_engine::Result;
use millstream_engine::batch::{Lane, with_fields};
use millstream_engine::catalogue::{Kind, Planned, Problem, Problems, StepInput, StepKind, configuration, schema_of};
use millstream_engine::operator::{Power, Rejects, Step, Transform};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::category::Category;
use super::columns::{Otherwise, is_category, not_reserved, repaired, shown};

pub(super) static KIND: StepKind = Kind {
    name: "ordinal_category",
    about: "Categories that have an order become whole numbers: the first is 0.\n\n\
            Models take them as amounts, so that `small` is nearer to `medium` than to `large`. Null stays null. \
            Categories without an order are for `one_hot` and `hash_category`.",
    schema: schema_of::<Config>,
    example: "column: room\ncategories: [cellar, kitchen, attic]\nunknown: last\n",
    plan,
};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// A column of text, whole numbers, or true and false.
    column: String,
    /// The categories in their order.
    categories: Vec<Category>,
    /// What becomes of a value that is not listed. Default: `dead_letter`.
    #[serde(default)]
    unknown: Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(from = "Option<UnknownName>")]
enum Unknown {
    Refused(Otherwise),
    First,
    Last,
}

impl Default for Unknown {
    fn default() -> Self {
        Self::Refused(Otherwise::DeadLetter)
    }
}

/// What becomes of a value that is not listed.
// As it is written: a bare `null` is no text in YAML.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum UnknownName {
    /// Its record becomes a dead letter; a request gets an error answer that says why.
    DeadLetter,
    /// It becomes null.
    Null,
    /// It becomes -1: before all categories.
    First,
    /// It becomes the number of categories: after all of them.
    Last,
}

impl From<Option<UnknownName>> for Unknown {
    fn from(name: Option<UnknownName>) -> Self {
        match name {
            Some(UnknownName::DeadLetter) => Self::Refused(Otherwise::DeadLetter),
            Some(UnknownName::Null) | None => Self::Refused(Otherwise::Null),
            Some(UnknownName::First) => Self::First,
            Some(UnknownName::Last) => Self::Last,
        }
    }
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
    let mut places = HashMap::new();
    for (place, category) in config.categories.iter().enumerate() {
        if places.insert(category.text(), place as i64).is_some() {
            let message = format!("`{}` stands here twice", category.text());
            problems.push(Problem::new(&format!("categories.{place}"), "duplicate-name", message));
        }
    }
    problems.finish()?;
    let column = column.expect("no problem was found");
    let field = input.schema.field(column).clone().with_data_type(DataType::Int64).with_nullable(true);
    let schema = with_fields(input.schema, [field]);
    let operator = OrdinalCategory { column, places, unknown: config.unknown, schema: schema.clone() };
    Ok(Step { schema, others: Vec::new(), power: Power::transform(operator) })
}

struct OrdinalCategory {
    column: usize,
    /// From a category to its number.
    places: HashMap<String, i64>,
    unknown: Unknown,
    schema: SchemaRef,
}

impl Transform for OrdinalCategory {
    fn apply(&self, _: Lane, rows: &RecordBatch, rejects: &mut Rejects) -> Result<RecordBatch> {
        let values = cast(rows.column(self.column), &DataType::Utf8)?;
        let name = self.schema.field(self.column).name().as_str();
        let number = |(row, value): (usize, Option<&str>)| {
            let value = value?;
            if let Some(place) = self.places.get(value) {
                return Some(*place);
            }
            match self.unknown {
                Unknown::First => Some(-1),
                Unknown::Last => Some(self.places.len() as i64),
                Unknown::Refused(otherwise) => {
                    let reason = || format!("column `{name}`: {} is none of the categories", shown(value));
                    otherwise.refuse(rejects, row, reason);
                    None
                }
            }
        };
        let numbers: Int64Array = values.as_string::<i32>().iter().enumerate().map(number).collect();
        repaired(&self.schema, rows, vec![(name, Arc::new(numbers) as ArrayRef)], rejects)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::harness::{check, problems};

    #[test]
    fn categories_become_their_place() {
        let rows = "t room\n1 large\n2 small\n3 null\n4 huge\n5 medium";
        for (unknown, expected) in [(json!(null), "null"), (json!("first"), "-1"), (json!("last"), "3")] {
            let config = json!({"column": "room", "categories": ["small", "medium", "large"], "unknown": unknown});
            check(&super::KIND, &config, rows, &format!("t room\n1 2\n2 0\n3 null\n4 {expected}\n5 1"));
        }
    }

    #[test]
    fn what_is_not_listed_is_a_dead_letter() {
        check(
            &super::KIND,
            &json!({"column": "count", "categories": [10, 2]}),
            "t count\n1 2\n2 3\n3 10",
            "t count\n1 1\n3 0\nrow 1: column `count`: `3` is none of the categories",
        );
    }

    #[test]
    fn all_problems_are_found() {
        let config = json!({"column": "temperature", "categories": ["1", 1]});
        assert_eq!(problems(&super::KIND, &config), "column wrong-type; categories.1 duplicate-name");
        let config = json!({"column": "_key", "categories": []});
        let expected = "column reserved-column; column wrong-type; categories empty-list";
        assert_eq!(problems(&super::KIND, &config), expected);
    }
}
