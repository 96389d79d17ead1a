//! The column that a model learns to tell.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, SchemaRef};
use millstream_engine::Result;
use millstream_engine::batch::META;
use millstream_engine::catalogue::{Problem, column};
use millstream_engine::operator::Rejects;

use crate::inference::is_number;
use crate::models::{TARGET_MAX, Task};

/// A checked label column.
#[derive(Clone, Debug)]
pub(super) struct Label {
    name: String,
    column: usize,
    task: Task,
}

impl Label {
    /// Checks the column `name` for what `task` needs.
    pub(super) fn plan(schema: &SchemaRef, name: &str, task: Task) -> Result<Self, Problem> {
        let column = column(schema, "label", name)?;
        let kind = schema.field(column).data_type();
        let problem = |code, message: String, help: &str| Err(Problem::new("label", code, message).help(help));
        if column < META {
            return problem("engine-column", format!("`{name}` is the engine's"), "name a column of your own");
        }
        match task {
            Task::Classification if !(kind == &DataType::Boolean || kind.is_integer()) => problem(
                "label-type",
                format!("`{name}` is {kind}, but this model tells yes from no"),
                "derive a boolean, as in `derive: {late: \"delay > 15\"}`, or use a model that learns numbers",
            ),
            Task::Regression if !is_number(kind) => problem(
                "label-type",
                format!("`{name}` is {kind}, but this model learns a number"),
                "derive a number from it, or use a model that tells yes from no",
            ),
            _ => Ok(Self { name: name.to_owned(), column, task }),
        }
    }

    /// Rejects the rows that cannot be learned from, and puts all rows' targets into `targets`.
    pub(super) fn read(&self, rows: &RecordBatch, targets: &mut Vec<f64>, rejects: &mut Rejects) -> Result<()> {
        let (name, values) = (&self.name, rows.column(self.column));
        let numbers = cast(values, &DataType::Float64)?;
        let numbers = numbers.as_primitive::<Float64Type>();
        targets.clear();
        targets.extend_from_slice(numbers.values());
        for (row, target) in targets.iter().enumerate() {
            if values.is_null(row) {
                rejects.push(row, format!("label `{name}` is null: nothing to learn from"));
            } else if self.task == Task::Classification && ![0.0, 1.0].contains(target) {
                rejects.push(row, format!("label `{name}` is {target}, wanted 0 or 1"));
            } else if !target.is_finite() || target.abs() > TARGET_MAX {
                rejects.push(row, format!("label `{name}` is {target}, out of range"));
            }
        }
        Ok(())
    }
}
