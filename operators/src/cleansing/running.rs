//! What the steps share that look at each number of some columns with what is known of the numbers before it.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Builder, RecordBatch};
use arrow::compute::kernels::cmp::distinct;
use arrow::datatypes::{DataType, Float64Type, SchemaRef};
use millstream_engine::Result;
use millstream_engine::batch::{with_columns, with_fields};
use millstream_engine::catalogue::{Problem, Problems};
use millstream_engine::operator::{Keyed, Power, Rejects, Step};
use millstream_engine::state::States;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::columns::{key, numbers, numeric};

/// The columns of numbers and those of the key, which are others.
pub(super) fn numbers_by(
    schema: &SchemaRef,
    problems: &mut Problems,
    columns: &[String],
    by: &[String],
) -> (Vec<usize>, Vec<usize>) {
    let found = numeric(schema, problems, "columns", columns);
    let key = key(schema, problems, by);
    if by.iter().any(|name| columns.contains(name)) {
        problems.push(Problem::new("by", "duplicate-name", "a column cannot be both the key and what is looked at"));
    }
    (found, key)
}

/// Names of new columns, `NAME_suffix`; one that is there already is a problem.
pub(super) fn added(schema: &SchemaRef, problems: &mut Problems, columns: &[usize], suffix: &str) -> Vec<String> {
    let names: Vec<String> = columns.iter().map(|&at| format!("{}_{suffix}", schema.field(at).name())).collect();
    for name in &names {
        if schema.index_of(name).is_ok() {
            let message = format!("there would be two columns called `{name}`");
            problems.push(Problem::new("columns", "duplicate-name", message).help("`rename` the one that is there"));
        }
    }
    names
}

/// How a number is replaced.
pub(super) trait Rule: Send + Sync + 'static {
    /// What is known of the numbers before.
    type Known: Default + Serialize + DeserializeOwned + Send + Sync + 'static;
    /// Whether a number that changes is thereby repaired, and not only measured in another way.
    const REPAIRS: bool;
    /// What stands in for a finite number.
    fn value(&self, known: &Self::Known, value: f64) -> f64;
    /// Takes the number in.
    fn learn(&self, known: &mut Self::Known, value: f64);
}

/// Replaces numbers by floats, each column and key with what is known of it. What is missing stays so, and teaches nothing.
pub(super) struct Replace<R: Rule> {
    rule: R,
    columns: Vec<usize>,
    by: Vec<usize>,
    schema: SchemaRef,
    unknown: R::Known,
}

impl<R: Rule> Replace<R> {
    pub(super) fn step(rule: R, input: &SchemaRef, columns: Vec<usize>, by: Vec<usize>) -> Step {
        let floats = columns.iter().map(|&at| input.field(at).clone().with_data_type(DataType::Float64));
        let schema = with_fields(input, floats);
        let operator = Self { rule, columns, by, schema: schema.clone(), unknown: R::Known::default() };
        Step { schema, others: Vec::new(), power: Power::keyed(operator) }
    }
}

impl<R: Rule> Keyed for Replace<R> {
    /// What is known of each column; nothing before the key's first row.
    type State = Vec<R::Known>;

    fn key(&self, _: usize) -> &[usize] {
        &self.by
    }

    fn apply(
        &self,
        _: usize,
        rows: &RecordBatch,
        states: &mut States<'_, Self::State>,
        rejects: &mut Rejects,
    ) -> Result<Option<RecordBatch>> {
        let inputs = self.columns.iter().map(|&at| numbers(rows.column(at))).collect::<Result<Vec<_>>>()?;
        let mut outputs: Vec<_> = inputs.iter().map(|_| Float64Builder::with_capacity(rows.num_rows())).collect();
        for row in 0..rows.num_rows() {
            let known = states.get(row);
            for (place, (input, output)) in inputs.iter().zip(&mut outputs).enumerate() {
                let known = known.get(place).unwrap_or(&self.unknown);
                output.append_option(input.is_valid(row).then(|| self.rule.value(known, input.value(row))));
            }
            states.update(row, |known| {
                known.resize_with(inputs.len(), R::Known::default);
                for (known, input) in known.iter_mut().zip(&inputs).filter(|(_, input)| input.is_valid(row)) {
                    self.rule.learn(known, input.value(row));
                }
            });
        }
        let names = self.columns.iter().map(|&at| self.schema.field(at).name().as_str());
        let columns: Vec<_> =
            names.zip(outputs.iter_mut().map(|output| Arc::new(output.finish()) as ArrayRef)).collect();
        for (input, (_, output)) in inputs.iter().zip(&columns).filter(|_| R::REPAIRS) {
            rejects.repaired(distinct(input, output.as_primitive::<Float64Type>())?.true_count());
        }
        Ok(Some(with_columns(&self.schema, rows, columns)?))
    }

    fn expired(&self, _: &Self::State, _: i64) -> bool {
        false
    }
}

/// For oracles.
#[cfg(test)]
pub(super) mod oracle {
    use arrow::array::{Array, AsArray, RecordBatch};
    use arrow::datatypes::Float64Type;

    use super::super::harness::show;
    use super::numbers;

    /// Each row's number, if it is not missing, and the numbers in all earlier rows with the same key.
    pub(in super::super) fn earlier(rows: &RecordBatch, column: &str, by: &[&str]) -> Vec<(Option<f64>, Vec<f64>)> {
        let values = of(rows, column);
        let keys: Vec<String> = show(rows, by).lines().skip(1).map(str::to_owned).collect();
        let before = |row: usize| (0..row).filter(|&r| keys[r] == keys[row]).filter_map(|r| values[r]).collect();
        (0..rows.num_rows()).map(|row| (values[row], before(row))).collect()
    }

    /// The numbers of a column.
    pub(in super::super) fn of(rows: &RecordBatch, column: &str) -> Vec<Option<f64>> {
        numbers(rows.column_by_name(column).unwrap()).unwrap().iter().collect()
    }

    /// The truths of a column without nulls.
    pub(in super::super) fn truths(rows: &RecordBatch, column: &str) -> Vec<bool> {
        let column = rows.column_by_name(column).unwrap().as_boolean();
        assert_eq!(column.null_count(), 0);
        column.values().iter().collect()
    }

    /// The number at rank `floor(q × (count - 1))`.
    pub(in super::super) fn quantile(values: &[f64], q: f64) -> f64 {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        sorted[(q * (sorted.len() - 1) as f64) as usize]
    }

    /// Whether a float column's values are these, within `error`.
    pub(in super::super) fn assert_near(
        rows: &RecordBatch,
        column: &str,
        expected: impl IntoIterator<Item = (Option<f64>, f64)>,
    ) {
        let found = rows.column_by_name(column).unwrap().as_primitive::<Float64Type>();
        for (row, (found, (expected, error))) in found.iter().zip(expected).enumerate() {
            let near = found.zip(expected).is_none_or(|(found, expected)| (found - expected).abs() <= error);
            assert!(near && found.is_some() == expected.is_some(), "row {row}: {found:?}, not {expected:?}");
        }
    }
}
