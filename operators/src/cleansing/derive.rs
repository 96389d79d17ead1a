//! `derive`: new columns from SQL expressions.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use millstream_engine::Result;
use millstream_engine::batch::{Lane, filter, with_columns, with_fields};
use millstream_engine::catalogue::{Kind, Planned, Problem, Problems, StepInput, StepKind, configuration, schema_of};
use millstream_engine::operator::{Power, Rejects, Step, Transform};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::columns::not_reserved;
use crate::expression::Expression;

pub(super) static KIND: StepKind = Kind {
    name: "derive",
    about: "New columns from SQL expressions; one of an existing name replaces that column.\n\n\
            An expression may read the other columns of this step: what it reads is computed first, in whatever order \
            they are written. An expression that reads its own name reads the column of before this step. \
            A row for which an expression cannot be computed (a division by zero) becomes a dead letter.",
    schema: schema_of::<Config>,
    example: "fahrenheit: temperature * 1.8 + 32\nhot: fahrenheit > 86\n",
    plan,
};

/// An expression for each new column.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(transparent)]
struct Config(BTreeMap<String, String>);

fn plan(config: &Value, input: &StepInput<'_>) -> Planned<Step> {
    let Config(columns) = configuration(config)?;
    let mut problems = Problems::default();
    if columns.is_empty() {
        problems.push(Problem::new("", "empty-list", "at least one column is needed here"));
    }
    let mut reads = BTreeMap::new();
    for (name, sql) in &columns {
        problems.take(not_reserved(name, name));
        if let Some(mut named) = problems.take_all(Expression::columns_of(sql, name)) {
            named.retain(|other| other != name && columns.contains_key(other));
            reads.insert(name.as_str(), named);
        }
    }
    let mut schema = input.schema.clone();
    let mut steps: Vec<Column> = Vec::new();
    for name in order(&reads, &mut problems) {
        // What reads a column that has a problem would only repeat it.
        if !reads[name].iter().all(|other| steps.iter().any(|step| step.name == *other)) {
            continue;
        }
        let Some(expression) = problems.take_all(Expression::compile(&columns[name], &schema, name)) else { continue };
        schema = with_fields(&schema, [expression.field(name)]);
        steps.push(Column { name: name.to_owned(), expression, schema: schema.clone() });
    }
    problems.finish()?;
    Ok(Step { schema, others: Vec::new(), power: Power::transform(Derive { columns: steps }) })
}

/// The names so that each comes after those that it reads. Cycles are problems.
fn order<'a>(reads: &BTreeMap<&'a str, BTreeSet<String>>, problems: &mut Problems) -> Vec<&'a str> {
    let mut order = Vec::new();
    let mut waiting: BTreeSet<&str> = reads.keys().copied().collect();
    let unblocked = |waiting: &BTreeSet<&'a str>| {
        waiting.iter().copied().find(|&name| !reads[name].iter().any(|other| waiting.contains(other.as_str())))
    };
    while let Some(next) = unblocked(&waiting) {
        waiting.remove(next);
        order.push(next);
    }
    // What nothing waits for is behind a cycle, not on one.
    let unread = |waiting: &BTreeSet<&'a str>| {
        waiting.iter().copied().find(|&name| !waiting.iter().any(|other| reads[other].contains(name)))
    };
    while let Some(behind) = unread(&waiting) {
        waiting.remove(behind);
    }
    for &name in &waiting {
        let all = waiting.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let message = format!("`{name}` waits for itself: these read one another: {all}");
        problems.push(Problem::new(name, "cycle", message).help("put one of them into a `derive` step of its own"));
    }
    order
}

struct Column {
    name: String,
    expression: Expression,
    /// The schema that has this column, and those before it.
    schema: SchemaRef,
}

struct Derive {
    columns: Vec<Column>,
}

impl Transform for Derive {
    fn apply(&self, _: Lane, rows: &RecordBatch, rejects: &mut Rejects) -> Result<RecordBatch> {
        let mut output = rows.clone();
        for Column { name, expression, schema } in &self.columns {
            let values = expression.evaluate(&output, rejects)?;
            output = with_columns(schema, &output, vec![(name, values)])?;
        }
        if rejects.is_empty() { Ok(output) } else { filter(&output, &rejects.keep(rows.num_rows())) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::harness::{check, problems};

    #[test]
    fn columns_are_computed_after_what_they_read() {
        check(
            &super::KIND,
            &json!({"a": "b + 1", "b": "c * 2", "c": "count + 1", "temperature": "temperature / 2"}),
            "t temperature count
             1 20          3
             2 null        null",
            "t temperature count c    b    a
             1 10          3     4    8    9
             2 null        null  null null null",
        );
    }

    #[test]
    fn a_row_that_cannot_be_computed_is_rejected_alone() {
        check(
            &super::KIND,
            &json!({"share": "100 / count", "twice": "share * 2"}),
            "t count
             1 5
             2 0
             3 4",
            "t count share twice
             1 5     20    40
             3 4     25    50
             row 1: `100 / count`: Divide by zero error",
        );
    }

    #[test]
    fn cycles_and_reserved_names_are_problems() {
        let config = json!({"a": "b", "b": "a", "c": "b + nosuch", "_time": "at"});
        assert_eq!(problems(&super::KIND, &config), "_time reserved-column; a cycle; b cycle");
        assert_eq!(problems(&super::KIND, &json!({})), " empty-list");
        assert_eq!(
            problems(&super::KIND, &json!({"a": "1 +", "b": "nope(1)"})),
            "a bad-expression; b unknown-function"
        );
        assert_eq!(problems(&super::KIND, &json!({"a": "nosuch", "b": "a + 1"})), "a unknown-column");
    }
}
