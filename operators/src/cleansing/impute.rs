//! `impute`: values in place of missing ones.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, BooleanBufferBuilder, Float64Array, Int64Array, RecordBatch, Scalar, StringArray,
};
use arrow::buffer::NullBuffer;
use arrow::compute::is_not_null;
use arrow::compute::kernels::zip::zip;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::row::{RowConverter, RowParser, Rows, SortField};
use millstream_engine::Result;
use millstream_engine::batch::{Lane, with_columns, with_fields};
use millstream_engine::catalogue::{Kind, Planned, Problem, Problems, StepInput, StepKind, configuration, schema_of};
use millstream_engine::operator::{Keyed, Power, Rejects, Step, Transform};
use millstream_engine::state::States;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::columns::{changeable, finite, is_number, key, numbers};
use super::median::Median;

mod means;

use means::Means;

pub(super) static KIND: StepKind = Kind {
    name: "impute",
    about: "Fills in missing values: nulls, and numbers that are not finite.\n\n\
            `mean`, `median` and `last` are those of the rows before; as long as there is none, the value stays null. \
            The mean and the median are floats, also those of whole numbers. \
            The median is exact for five values and then an estimate that takes constant space.",
    schema: schema_of::<Config>,
    example: "columns: [temperature, humidity]\nwith: last\nby: [sensor]\n",
    plan,
};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The columns to fill.
    columns: Vec<String>,
    /// What stands in for a missing value.
    with: With,
    /// Columns that make a key: each key has its own mean, median or last value.
    #[serde(default)]
    by: Vec<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum With {
    /// Always this value, of the columns' type.
    Constant(Value),
    /// The mean of the values before.
    Mean,
    /// The median of the values before.
    Median,
    /// The last value before.
    Last,
}

fn plan(config: &Value, input: &StepInput<'_>) -> Planned<Step> {
    let config: Config = configuration(config)?;
    let mut problems = Problems::default();
    let columns = changeable(input.schema, &mut problems, "columns", &config.columns);
    let by = key(input.schema, &mut problems, &config.by);
    if config.by.iter().any(|key| config.columns.contains(key)) {
        problems.push(Problem::new("by", "duplicate-name", "a column cannot be both the key and filled in"));
    }
    if matches!(config.with, With::Constant(_)) && !config.by.is_empty() {
        problems.push(Problem::new("by", "bad-value", "a constant is the same for each key").help("leave out `by`"));
    }
    let mut constants = Vec::new();
    for &at in &columns {
        match &config.with {
            With::Constant(value) => constants.extend(problems.take(constant(value, input.schema, at))),
            With::Mean | With::Median => drop(problems.take(is_number(input.schema, "columns", at))),
            With::Last => {}
        }
    }
    problems.finish()?;
    let (schema, power) = match config.with {
        With::Constant(_) => {
            let values = columns.iter().copied().zip(constants).collect();
            (input.schema.clone(), Power::transform(Constant { values, schema: input.schema.clone() }))
        }
        With::Mean => {
            let schema = floats(input.schema, &columns);
            (schema.clone(), Power::keyed(Means { columns, by, schema }))
        }
        With::Median => {
            let schema = floats(input.schema, &columns);
            (schema.clone(), Power::keyed(Medians { columns, by, schema }))
        }
        With::Last => (input.schema.clone(), Power::keyed(Last::new(input.schema, columns, by))),
    };
    Ok(Step { schema, others: Vec::new(), power })
}

/// The schema with floats in these columns.
fn floats(schema: &SchemaRef, columns: &[usize]) -> SchemaRef {
    with_fields(schema, columns.iter().map(|&at| schema.field(at).clone().with_data_type(DataType::Float64)))
}

/// One value of the column's type, or the problem that it is of another.
fn constant(value: &Value, schema: &SchemaRef, at: usize) -> Result<ArrayRef, Problem> {
    let array: Option<ArrayRef> = match (schema.field(at).data_type(), value) {
        (DataType::Utf8, Value::String(text)) => Some(Arc::new(StringArray::from_iter_values([text]))),
        (DataType::Int64, Value::Number(number)) => number.as_i64().map(|n| Arc::new(Int64Array::from(vec![n])) as _),
        (DataType::Float64, Value::Number(number)) => {
            number.as_f64().map(|n| Arc::new(Float64Array::from(vec![n])) as _)
        }
        (DataType::Boolean, Value::Bool(truth)) => Some(Arc::new(BooleanArray::from(vec![*truth]))),
        _ => None,
    };
    array.ok_or_else(|| {
        let field = schema.field(at);
        let message = format!("{value} does not fit column `{}`, which holds {}", field.name(), field.data_type());
        Problem::new("with.constant", "wrong-type", message)
    })
}

/// Fills in constants.
struct Constant {
    values: Vec<(usize, ArrayRef)>,
    schema: SchemaRef,
}

impl Transform for Constant {
    fn apply(&self, _: Lane, rows: &RecordBatch, rejects: &mut Rejects) -> Result<RecordBatch> {
        let mut columns = rows.columns().to_vec();
        for (at, value) in &self.values {
            let known = finite(&columns[*at])?;
            rejects.repaired(known.null_count());
            columns[*at] = zip(&is_not_null(&known)?, &known, &Scalar::new(value.clone()))?;
        }
        Ok(RecordBatch::try_new(self.schema.clone(), columns)?)
    }
}

/// Fills in medians.
struct Medians {
    columns: Vec<usize>,
    by: Vec<usize>,
    schema: SchemaRef,
}

impl Keyed for Medians {
    /// The median of each column; none before the key's first row.
    type State = Vec<Median>;

    fn key(&self, _: usize) -> &[usize] {
        &self.by
    }

    fn apply(
        &self,
        _: usize,
        rows: &RecordBatch,
        states: &mut States<'_, Vec<Median>>,
        rejects: &mut Rejects,
    ) -> Result<Option<RecordBatch>> {
        let inputs = self.columns.iter().map(|&at| numbers(rows.column(at))).collect::<Result<Vec<_>>>()?;
        let gaps = |input: &Float64Array| {
            let nulls = input.nulls().filter(|nulls| nulls.null_count() > 0)?;
            Some(Filled::new(input.values(), nulls))
        };
        let mut outputs: Vec<Option<Filled>> = inputs.iter().map(gaps).collect();
        for row in 0..rows.num_rows() {
            if inputs.iter().any(|input| input.is_null(row)) {
                for (output, known) in outputs.iter_mut().zip(states.get(row)) {
                    if let (Some(output), Some(value)) = (output, known.median()) {
                        output.fill(row, value);
                    }
                }
            }
            states.update(row, |known| {
                known.resize(inputs.len(), Median::default());
                for (median, input) in known.iter_mut().zip(&inputs).filter(|(_, input)| input.is_valid(row)) {
                    median.push(input.value(row));
                }
            });
        }
        let names = self.columns.iter().map(|&at| self.schema.field(at).name().as_str());
        let missing: Vec<usize> = inputs.iter().map(Array::null_count).collect();
        let filled = outputs.into_iter().zip(inputs).map(|(output, input)| output.map_or(input, Filled::finish));
        let columns: Vec<_> = names.zip(filled.map(|column| Arc::new(column) as ArrayRef)).collect();
        for (missing, (_, output)) in missing.into_iter().zip(&columns) {
            rejects.repaired(missing - output.null_count());
        }
        Ok(Some(with_columns(&self.schema, rows, columns)?))
    }

    fn expired(&self, _: &Vec<Median>, _: i64) -> bool {
        false
    }
}

/// A column whose gaps are being filled in.
struct Filled {
    values: Vec<f64>,
    valid: BooleanBufferBuilder,
}

impl Filled {
    fn new(values: &[f64], nulls: &NullBuffer) -> Self {
        let mut valid = BooleanBufferBuilder::new(values.len());
        valid.append_buffer(nulls.inner());
        Self { values: values.to_vec(), valid }
    }

    fn fill(&mut self, row: usize, value: f64) {
        if !self.valid.get_bit(row) {
            self.values[row] = value;
            self.valid.set_bit(row, true);
        }
    }

    fn finish(mut self) -> Float64Array {
        let valid = NullBuffer::new(self.valid.finish());
        Float64Array::new(self.values.into(), Some(valid).filter(|valid| valid.null_count() > 0))
    }
}

/// Fills in the last value, of any type: values are kept as Arrow's row format has them.
struct Last {
    columns: Vec<(usize, RowConverter, RowParser)>,
    by: Vec<usize>,
    schema: SchemaRef,
}

impl Last {
    fn new(schema: &SchemaRef, columns: Vec<usize>, by: Vec<usize>) -> Self {
        let converter = |at: usize| {
            let field = SortField::new(schema.field(at).data_type().clone());
            let converter = RowConverter::new(vec![field]).expect("every column type has a row format");
            let parser = converter.parser();
            (at, converter, parser)
        };
        Self { columns: columns.into_iter().map(converter).collect(), by, schema: schema.clone() }
    }
}

impl Keyed for Last {
    /// The last value of each column, empty where there is none yet.
    type State = Vec<Vec<u8>>;

    fn key(&self, _: usize) -> &[usize] {
        &self.by
    }

    fn apply(
        &self,
        _: usize,
        rows: &RecordBatch,
        states: &mut States<'_, Vec<Vec<u8>>>,
        rejects: &mut Rejects,
    ) -> Result<Option<RecordBatch>> {
        let mut inputs: Vec<(ArrayRef, Rows, Rows)> = Vec::with_capacity(self.columns.len());
        for (at, converter, _) in &self.columns {
            let column = finite(rows.column(*at))?;
            let given = converter.convert_columns(std::slice::from_ref(&column))?;
            inputs.push((column, given, converter.empty_rows(rows.num_rows(), 0)));
        }
        for row in 0..rows.num_rows() {
            let known = states.get(row);
            for (place, ((_, _, parser), (column, given, filled))) in self.columns.iter().zip(&mut inputs).enumerate() {
                match known.get(place).filter(|last| column.is_null(row) && !last.is_empty()) {
                    Some(last) => filled.push(parser.parse(last)),
                    None => filled.push(given.row(row)),
                }
            }
            states.update(row, |known| remember(known, &inputs, row));
        }
        let mut columns = rows.columns().to_vec();
        for ((at, converter, _), (given, _, filled)) in self.columns.iter().zip(&inputs) {
            columns[*at] = converter.convert_rows(filled)?.remove(0);
            rejects.repaired(given.null_count() - columns[*at].null_count());
        }
        Ok(Some(RecordBatch::try_new(self.schema.clone(), columns)?))
    }

    fn expired(&self, _: &Vec<Vec<u8>>, _: i64) -> bool {
        false
    }
}

fn remember(known: &mut Vec<Vec<u8>>, inputs: &[(ArrayRef, Rows, Rows)], row: usize) {
    known.resize(inputs.len(), Vec::new());
    for (last, (column, given, _)) in known.iter_mut().zip(inputs) {
        if column.is_valid(row) {
            last.clear();
            last.extend_from_slice(given.row(row).data());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::harness::{check, problems};

    const ROWS: &str = "
        t sensor temperature count room
        1 a      null        1     null
        2 a      4           2     x
        3 b      8           null  null
        4 a      NaN         null  null
        5 a      2           5     y
        6 a      null        null  null
        7 a      6           null  null
        8 a      inf         null  z";

    #[test]
    fn with_a_constant() {
        let config = json!({"columns": ["temperature", "count"], "with": {"constant": -1}});
        let rows = "t temperature count\n1 null 1\n2 NaN null\n3 2.5 3";
        check(&super::KIND, &config, rows, "t temperature count\n1 -1 1\n2 -1 -1\n3 2.5 3");
        let config = json!({"columns": ["room"], "with": {"constant": "hall"}});
        check(&super::KIND, &config, "t room\n1 null\n2 attic", "t room\n1 hall\n2 attic");
    }

    #[test]
    fn with_the_last() {
        let config = json!({"columns": ["temperature", "count", "room"], "with": "last", "by": ["sensor"]});
        check(
            &super::KIND,
            &config,
            ROWS,
            "t sensor temperature count room
             1 a      null        1     null
             2 a      4           2     x
             3 b      8           null  null
             4 a      4           2     x
             5 a      2           5     y
             6 a      2           5     y
             7 a      6           5     y
             8 a      6           5     z",
        );
    }

    #[test]
    fn with_the_mean() {
        let config = json!({"columns": ["temperature", "count"], "with": "mean"});
        check(
            &super::KIND,
            &config,
            ROWS,
            "t sensor temperature count room
             1 a      null        1     null
             2 a      4           2     x
             3 b      8           1.5   null
             4 a      6           1.5   null
             5 a      2           5     y
             6 a      4.666666666666667 2.6666666666666665 null
             7 a      6           2.6666666666666665 null
             8 a      5           2.6666666666666665 z",
        );
    }

    #[test]
    fn with_the_median() {
        let config = json!({"columns": ["temperature", "count"], "with": "median", "by": ["sensor"]});
        check(
            &super::KIND,
            &config,
            ROWS,
            "t sensor temperature count room
             1 a      null        1     null
             2 a      4           2     x
             3 b      8           null  null
             4 a      4           1.5   null
             5 a      2           5     y
             6 a      3           2     null
             7 a      6           2     null
             8 a      4           2     z",
        );
    }

    #[test]
    fn all_problems_are_found() {
        let config = json!({"columns": ["room", "x"], "with": "mean", "by": ["y", "room"]});
        let expected = "columns.1 unknown-column; by.0 unknown-column; by duplicate-name; columns wrong-type";
        assert_eq!(problems(&super::KIND, &config), expected);
        let config = json!({"columns": ["room", "count"], "with": {"constant": 0.5}, "by": ["ok"]});
        assert_eq!(problems(&super::KIND, &config), "by bad-value; with.constant wrong-type; with.constant wrong-type");
        assert_eq!(problems(&super::KIND, &json!({"columns": ["room"], "with": "mode"})), "with bad-value");
    }
}
