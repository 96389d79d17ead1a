//! Checks of the columns that a configuration names, and typed views of them.

use std::collections::BTreeMap;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, RecordBatch};
use arrow::compute::cast;
use arrow::compute::kernels::cmp::distinct;
use arrow::datatypes::{DataType, Float64Type, SchemaRef, TimeUnit};
use millstream_engine::Result;
use millstream_engine::batch::{DIFF, META, filter, with_columns};
use millstream_engine::catalogue::{Problem, Problems, column};
use millstream_engine::operator::Rejects;
use schemars::JsonSchema;
use serde::Deserialize;

/// The columns called `names`, for reading; what is wrong with them goes to `problems`.
pub(super) fn readable(schema: &SchemaRef, problems: &mut Problems, path: &str, names: &[String]) -> Vec<usize> {
    if names.is_empty() {
        problems.push(Problem::new(path, "empty-list", "at least one column is needed here"));
    }
    let mut found = Vec::new();
    for (place, name) in names.iter().enumerate() {
        let path = format!("{path}.{place}");
        if names[..place].contains(name) {
            problems.push(Problem::new(&path, "duplicate-name", format!("`{name}` stands here twice")));
        } else if let Some(at) = problems.take(column(schema, &path, name)) {
            found.push(at);
        }
    }
    found
}

/// The columns `by` that make a key; with none, all rows have one.
pub(super) fn key(schema: &SchemaRef, problems: &mut Problems, by: &[String]) -> Vec<usize> {
    if by.is_empty() { Vec::new() } else { readable(schema, problems, "by", by) }
}

/// The columns called `names`, for changing: the engine's are refused.
pub(super) fn changeable(schema: &SchemaRef, problems: &mut Problems, path: &str, names: &[String]) -> Vec<usize> {
    for (place, name) in names.iter().enumerate() {
        problems.take(not_reserved(&format!("{path}.{place}"), name));
    }
    readable(schema, problems, path, names)
}

/// Like [`changeable`], for a map from columns to what is to become of them.
pub(super) fn changeable_each<'a, T>(
    schema: &SchemaRef,
    problems: &mut Problems,
    columns: &'a BTreeMap<String, T>,
) -> Vec<(usize, &'a T)> {
    if columns.is_empty() {
        problems.push(Problem::new("columns", "empty-list", "at least one column is needed here"));
    }
    let mut found = Vec::new();
    for (name, what) in columns {
        let path = format!("columns.{name}");
        if problems.take(not_reserved(&path, name)).is_some() {
            found.extend(problems.take(column(schema, &path, name)).map(|at| (at, what)));
        }
    }
    found
}

/// Like [`changeable`], for columns of numbers.
pub(super) fn numeric(schema: &SchemaRef, problems: &mut Problems, path: &str, names: &[String]) -> Vec<usize> {
    let found = changeable(schema, problems, path, names);
    for &at in &found {
        problems.take(is_number(schema, path, at));
    }
    found
}

/// Refuses a column that does not hold numbers.
pub(super) fn is_number(schema: &SchemaRef, path: &str, at: usize) -> Result<(), Problem> {
    let field = schema.field(at);
    if matches!(field.data_type(), DataType::Int64 | DataType::Float64) {
        return Ok(());
    }
    let message = format!("column `{}` does not hold numbers, but {}", field.name(), field.data_type());
    Err(Problem::new(path, "wrong-type", message).help("`derive` can make a number of it"))
}

/// Refuses a column that does not hold values to tell apart: text, whole numbers, true and false.
pub(super) fn is_category(schema: &SchemaRef, path: &str, at: usize) -> Result<(), Problem> {
    let field = schema.field(at);
    if matches!(field.data_type(), DataType::Utf8 | DataType::Int64 | DataType::Boolean) {
        return Ok(());
    }
    let message = format!("column `{}` does not hold categories, but {}", field.name(), field.data_type());
    Err(Problem::new(path, "wrong-type", message).help("`derive` can make text or whole numbers of it"))
}

/// A column of points in time.
pub(super) fn timestamp(schema: &SchemaRef, path: &str, name: &str) -> Result<usize, Problem> {
    let at = column(schema, path, name)?;
    match schema.field(at).data_type() {
        DataType::Timestamp(TimeUnit::Millisecond, None) => Ok(at),
        other => Err(Problem::new(path, "wrong-type", format!("column `{name}` holds {other}, not timestamps"))
            .help("`derive` can make one: `to_timestamp(...)`")),
    }
}

/// Refuses the names of the engine's columns.
pub(super) fn not_reserved(path: &str, name: &str) -> Result<(), Problem> {
    static RESERVED: std::sync::LazyLock<SchemaRef> =
        std::sync::LazyLock::new(|| millstream_engine::batch::schema_of(&arrow::datatypes::Schema::empty()));
    if RESERVED.index_of(name).is_err() && name != DIFF {
        return Ok(());
    }
    let message = format!("`{name}` says where a row came from, and stays as it is");
    Err(Problem::new(path, "reserved-column", message).help("choose another name"))
}

/// The names of a stream's own columns.
pub(super) fn own_names(schema: &SchemaRef) -> impl Iterator<Item = &String> {
    schema.fields()[META..].iter().map(|field| field.name())
}

/// A column of numbers as floats; what is not finite is null.
pub(super) fn numbers(column: &ArrayRef) -> Result<Float64Array> {
    let floats = cast(column, &DataType::Float64)?;
    let floats = floats.as_primitive::<Float64Type>();
    if are_finite(floats.values()) {
        return Ok(floats.clone());
    }
    Ok(floats.iter().map(|value| value.filter(|value| value.is_finite())).collect())
}

/// Whether all are finite. A finite number times zero is zero, and eight at a time do not wait for each other.
fn are_finite(values: &[f64]) -> bool {
    let (eights, rest) = values.as_chunks::<8>();
    let mut traces = [0.0; 8];
    for eight in eights {
        traces.iter_mut().zip(eight).for_each(|(trace, value)| *trace += value * 0.0);
    }
    traces.iter().all(|trace| *trace == 0.0) && rest.iter().all(|value| value.is_finite())
}

/// A column in which numbers that are not finite are null; other types are as they are.
pub(super) fn finite(column: &ArrayRef) -> Result<ArrayRef> {
    match column.data_type() {
        DataType::Float64 => Ok(std::sync::Arc::new(numbers(column)?)),
        _ => Ok(column.clone()),
    }
}

/// Refuses a column that does not hold text.
pub(super) fn is_text(schema: &SchemaRef, path: &str, at: usize) -> Result<(), Problem> {
    let field = schema.field(at);
    if field.data_type() == &DataType::Utf8 {
        return Ok(());
    }
    let message = format!("column `{}` does not hold text, but {}", field.name(), field.data_type());
    Err(Problem::new(path, "wrong-type", message).help("`coerce` can make text of it"))
}

/// Refuses a column that does not hold timestamps.
pub(super) fn is_timestamp(schema: &SchemaRef, path: &str, at: usize) -> Result<(), Problem> {
    let field = schema.field(at);
    if matches!(field.data_type(), DataType::Timestamp(..)) {
        return Ok(());
    }
    let message = format!("column `{}` does not hold timestamps, but {}", field.name(), field.data_type());
    Err(Problem::new(path, "wrong-type", message).help("`coerce` can make timestamps of it"))
}

/// What becomes of a value that a step cannot take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(from = "Option<OtherwiseName>")]
pub(super) enum Otherwise {
    /// Its record becomes a dead letter.
    #[default]
    DeadLetter,
    /// It becomes null.
    Null,
}

/// What becomes of a value that cannot be taken.
// As it is written: a bare `null` is no text in YAML.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum OtherwiseName {
    /// The record becomes a dead letter; a request gets an error answer that says why.
    DeadLetter,
    /// The value becomes null, and the record goes on.
    Null,
}

impl From<Option<OtherwiseName>> for Otherwise {
    fn from(name: Option<OtherwiseName>) -> Self {
        match name {
            Some(OtherwiseName::DeadLetter) => Self::DeadLetter,
            Some(OtherwiseName::Null) | None => Self::Null,
        }
    }
}

impl Otherwise {
    /// Rejects `row`, where that was asked for.
    pub(super) fn refuse(self, rejects: &mut Rejects, row: usize, reason: impl FnOnce() -> String) {
        if self == Self::DeadLetter {
            rejects.push(row, reason());
        }
    }
}

/// `rows` with `columns` set, without the rows that were rejected.
pub(super) fn repaired(
    schema: &SchemaRef,
    rows: &RecordBatch,
    columns: Vec<(&str, ArrayRef)>,
    rejects: &Rejects,
) -> Result<RecordBatch> {
    let output = with_columns(schema, rows, columns)?;
    if rejects.is_empty() { Ok(output) } else { filter(&output, &rejects.keep(rows.num_rows())) }
}

/// How many values of a column a step has changed. Where it has given it another type, those that it made missing, or that were.
pub(super) fn changes(before: &ArrayRef, after: &ArrayRef) -> Result<usize> {
    if before.data_type() == after.data_type() {
        return Ok(distinct(before, after)?.true_count());
    }
    Ok(before.null_count().abs_diff(after.null_count()))
}

/// The most characters of a value that a reason repeats.
const SHOWN_MAX: usize = 40;

/// A value as reasons show it.
pub(super) fn shown(value: impl std::fmt::Display) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("`{}…`", &text[..end]),
        None => format!("`{text}`"),
    }
}
