//! `hash_category`: categories as numbered buckets.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, SchemaRef};
use millstream_engine::Result;
use millstream_engine::batch::{Lane, with_columns, with_fields};
use millstream_engine::catalogue::{Kind, Planned, Problem, Problems, StepInput, StepKind, configuration, schema_of};
use millstream_engine::operator::{Power, Rejects, Step, Transform};
use millstream_engine::state::hash;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::columns::{changeable, is_category};

/// Where a field's metadata says how many codes its column can have; models look there.
const CATEGORIES: &str = "categories";

pub(super) static KIND: StepKind = Kind {
    name: "hash_category",
    about: "Categories become the numbers of buckets, which models take as categories, not as amounts.\n\n\
            The bucket comes from a fixed hash of the column's name and the value, so new categories need no change; \
            with few buckets, some categories share one. \
            Null has bucket 0 for itself; all others are in 1 to `buckets` - 1.",
    schema: schema_of::<Config>,
    example: "columns: [sensor, room]\nbuckets: 256\n",
    plan,
};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Columns of text, whole numbers, or true and false.
    columns: Vec<String>,
    /// How many buckets each column has, with that of null; at least 2.
    buckets: u32,
}

fn plan(config: &Value, input: &StepInput<'_>) -> Planned<Step> {
    let config: Config = configuration(config)?;
    let mut problems = Problems::default();
    let columns = changeable(input.schema, &mut problems, "columns", &config.columns);
    for &at in &columns {
        problems.take(is_category(input.schema, "columns", at));
    }
    if config.buckets < 2 {
        problems.push(Problem::new("buckets", "bad-value", "at least 2 buckets are needed: one is for null"));
    }
    problems.finish()?;
    let metadata = || [(CATEGORIES.to_owned(), config.buckets.to_string())].into();
    let fields = columns.iter().map(|&at| {
        let field = input.schema.field(at).clone();
        field.with_data_type(DataType::UInt32).with_nullable(false).with_metadata(metadata())
    });
    let schema = with_fields(input.schema, fields);
    let operator = HashCategory { columns, buckets: config.buckets, schema: schema.clone() };
    Ok(Step { schema, others: Vec::new(), power: Power::transform(operator) })
}

struct HashCategory {
    columns: Vec<usize>,
    buckets: u32,
    schema: SchemaRef,
}

impl Transform for HashCategory {
    fn apply(&self, _: Lane, rows: &RecordBatch, _: &mut Rejects) -> Result<RecordBatch> {
        let mut codes = Vec::with_capacity(self.columns.len());
        for &at in &self.columns {
            let name = self.schema.field(at).name().as_str();
            codes.push((name, self.codes(name, rows.column(at))?));
        }
        with_columns(&self.schema, rows, codes)
    }
}

impl HashCategory {
    fn codes(&self, name: &str, column: &ArrayRef) -> Result<ArrayRef> {
        let values = cast(column, &DataType::Utf8)?;
        // No text has this byte, so that no two pairs of name and value look alike.
        let mut key = [name.as_bytes(), &[0xff]].concat();
        let prefix = key.len();
        let codes = values.as_string::<i32>().iter().map(|value| {
            value.map_or(0, |value| {
                key.truncate(prefix);
                key.extend_from_slice(value.as_bytes());
                1 + (hash(&key) % u64::from(self.buckets - 1)) as u32
            })
        });
        Ok(Arc::new(UInt32Array::from_iter_values(codes)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::harness::{Bench, check, problems};

    /// These codes are in the weights of models: they must stay the same for ever.
    #[test]
    fn codes_never_change() {
        check(
            &super::KIND,
            &json!({"columns": ["sensor", "room", "count"], "buckets": 1000}),
            "t sensor room count
             1 a      a    7
             2 b      null 7
             3 a      ü    -7
             4 null   a    null",
            "t sensor room count
             1 170    990  479
             2 90     0    479
             3 170    912  232
             4 0      990  0",
        );
    }

    #[test]
    fn every_bucket_is_used() {
        let mut bench = Bench::new(&super::KIND, &json!({"columns": ["count"], "buckets": 8}));
        let rows: Vec<_> = (0..200).map(|count| format!("\n0 {count}")).collect();
        let rows = super::super::harness::table(&super::super::example_schema(), &format!("t count{}", rows.concat()));
        let output = bench.learn(&rows);
        let codes = super::super::harness::show(&output, &["count"]);
        let used: std::collections::BTreeSet<&str> = codes.lines().skip(1).collect();
        assert_eq!(used.into_iter().collect::<Vec<_>>(), ["1", "2", "3", "4", "5", "6", "7"]);
    }

    #[test]
    fn the_schema_says_how_many_codes_there_are() {
        let bench = Bench::new(&super::KIND, &json!({"columns": ["room"], "buckets": 9}));
        let field = bench.step.schema.field_with_name("room").unwrap();
        assert_eq!((field.metadata()[super::CATEGORIES].as_str(), field.is_nullable()), ("9", false));
    }

    #[test]
    fn all_problems_are_found() {
        let config = json!({"columns": ["temperature", "rom"], "buckets": 1});
        assert_eq!(problems(&super::KIND, &config), "columns.1 unknown-column; columns wrong-type; buckets bad-value");
    }
}
