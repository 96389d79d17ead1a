//! `as_stream`: a stream of changes as plain rows.

use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use millstream_engine::Result;
use millstream_engine::batch::{self, DIFF, Lane, filter};
use millstream_engine::catalogue::{Kind, Planned, Problem, Problems, StepInput, StepKind, configuration, schema_of};
use millstream_engine::operator::{Power, Rejects, Step, Transform};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::columns::not_reserved;

pub(super) static KIND: StepKind = Kind {
    name: "as_stream",
    about: "A stream that takes rows back becomes one of plain rows, which every step and model can take.\n\n\
            By default what was added stays, and what was taken back is left out: each result as it was when it was new. \
            With `change`, all rows stay, and a column of that name says which were added. \
            A stream that takes back nothing passes as it is. Requests always pass.",
    schema: schema_of::<Config>,
    example: "change: added\n",
    plan,
};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// A column to add: true where a row was added, false where it was taken back.
    change: Option<String>,
}

fn plan(config: &Value, input: &StepInput<'_>) -> Planned<Step> {
    let config: Config = configuration(if config.is_null() { &EMPTY } else { config })?;
    let mut problems = Problems::default();
    if let Some(name) = &config.change {
        problems.take(not_reserved("change", name));
        if input.schema.index_of(name).is_ok() {
            let message = format!("there is a column `{name}` already");
            problems.push(Problem::new("change", "duplicate-name", message));
        }
    }
    problems.finish()?;
    let kept: Vec<usize> =
        (0..input.schema.fields().len()).filter(|&at| input.schema.field(at).name() != DIFF).collect();
    let mut fields: Vec<Field> = kept.iter().map(|&at| input.schema.field(at).clone()).collect();
    fields.extend(config.change.as_ref().map(|name| Field::new(name, DataType::Boolean, true)));
    let schema = Arc::new(Schema::new_with_metadata(fields, input.schema.metadata().clone()));
    let operator = AsStream { kept, shows: config.change.is_some(), schema: schema.clone() };
    Ok(Step { schema, others: Vec::new(), power: Power::transform(operator) })
}

static EMPTY: std::sync::LazyLock<Value> = std::sync::LazyLock::new(|| Value::Object(serde_json::Map::new()));

struct AsStream {
    kept: Vec<usize>,
    shows: bool,
    schema: SchemaRef,
}

impl Transform for AsStream {
    fn apply(&self, lane: Lane, rows: &RecordBatch, _: &mut Rejects) -> Result<RecordBatch> {
        let added: BooleanArray = match batch::diffs(rows) {
            Some(diffs) if lane == Lane::Learn => diffs.iter().map(|diff| Some(*diff > 0)).collect(),
            _ => vec![true; rows.num_rows()].into(),
        };
        let mut columns: Vec<_> = self.kept.iter().map(|&at| rows.column(at).clone()).collect();
        if self.shows {
            columns.push(Arc::new(added));
            return Ok(RecordBatch::try_new(self.schema.clone(), columns)?);
        }
        let all = RecordBatch::try_new(self.schema.clone(), columns)?;
        if added.true_count() == added.len() { Ok(all) } else { filter(&all, &added) }
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, Int64Array};
    use millstream_engine::batch::changing;
    use serde_json::json;

    use super::super::harness::{Random, check, check_serve, problems, random_rows};
    use super::super::{example_schema, example_streams};
    use super::*;

    fn apply(config: &Value, lane: Lane, diffs: &[i64]) -> RecordBatch {
        let schema = changing(&example_schema());
        let rows = random_rows(&mut Random::new(3), diffs.len());
        let mut columns = rows.columns().to_vec();
        columns.push(Arc::new(Int64Array::from(diffs.to_vec())));
        let rows = RecordBatch::try_new(schema.clone(), columns).unwrap();
        let step = (KIND.plan)(config, &StepInput { schema: &schema, streams: &example_streams() }).unwrap();
        let Power::Transform(operator) = step.power else { unreachable!("it has no state") };
        let output = operator.apply(lane, &rows, &mut Rejects::default()).unwrap();
        assert_eq!(output.schema(), step.schema);
        output
    }

    #[test]
    fn what_was_taken_back_is_left_out() {
        let output = apply(&json!({}), Lane::Learn, &[1, -1, 1, 1]);
        assert_eq!((output.num_rows(), output.schema()), (3, example_schema()));
        assert_eq!(apply(&json!({}), Lane::Serve, &[1, 1]).num_rows(), 2);
    }

    #[test]
    fn or_it_is_told() {
        let output = apply(&json!({"change": "added"}), Lane::Learn, &[1, -1, 1]);
        let told: Vec<_> = output.column_by_name("added").unwrap().as_boolean().iter().flatten().collect();
        assert_eq!(told, [true, false, true]);
    }

    #[test]
    fn plain_rows_pass() {
        let rows = "t sensor\n1 a\n2 b";
        check(&super::KIND, &json!({}), rows, rows);
        check_serve(&super::KIND, &json!({}), rows, rows);
    }

    #[test]
    fn all_problems_are_found() {
        assert_eq!(problems(&super::KIND, &json!({"change": "sensor"})), "change duplicate-name");
        assert_eq!(problems(&super::KIND, &json!({"change": "_diff"})), "change reserved-column");
    }
}
