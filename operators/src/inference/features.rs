//! From a batch's columns to rows of features: the one place for both, learning and answering.

use std::borrow::Cow;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, SchemaRef, UInt32Type};
use millstream_engine::Result;
use millstream_engine::batch::META;
use millstream_engine::catalogue::{Planned, Problem, Problems, column};
use millstream_engine::operator::Rejects;
use serde::Serialize;

use crate::models::{Matrix, Shape};

/// The metadata of a `UInt32` field that says: these are codes, and how many there are.
pub const CATEGORIES: &str = "categories";

/// How many categories a model may have over all columns: each costs up to 24 bytes, twice while a revision answers.
const CATEGORIES_MAX: usize = 1 << 24;

/// The columns that a model looks at, in its order.
#[derive(Debug)]
pub struct Features {
    columns: Vec<Feature>,
    shape: Shape,
}

/// One of the columns.
#[derive(Clone, Debug, Serialize)]
pub struct Feature {
    /// The column's name.
    pub name: String,
    /// Its type in the stream.
    #[serde(rename = "type")]
    pub data_type: String,
    /// Where it is in the model.
    #[serde(flatten)]
    pub place: Place,
    #[serde(skip)]
    column: usize,
}

/// Where a column is in the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// It is this one of the numbers.
    Number(usize),
    /// It picks one of `categories`, which start at `offset`.
    Category {
        /// Index of the column among the categorical ones.
        slot: usize,
        /// The index of its first category.
        offset: u32,
        /// How many categories it has.
        categories: u32,
    },
}

impl Features {
    /// Checks the columns `names` against the stream's schema; problems are at `features.N`.
    pub fn plan(schema: &SchemaRef, names: &[String]) -> Planned<Self> {
        let mut problems = Problems::default();
        if names.is_empty() {
            problems.push(Problem::new("features", "no-features", "a model needs at least one feature"));
        }
        let mut features =
            Self { columns: Vec::new(), shape: Shape { dense: 0, active: 0, categories: 0, classes: 2 } };
        for (at, name) in names.iter().enumerate() {
            let path = format!("features.{at}");
            if names[..at].contains(name) {
                problems.push(Problem::new(&path, "duplicate-feature", format!("`{name}` is listed twice")));
                continue;
            }
            let Some(column) = problems.take(column(schema, &path, name)) else { continue };
            problems.take(features.add(schema, column, &path));
        }
        problems.finish().map(|()| features)
    }

    fn add(&mut self, schema: &SchemaRef, column: usize, path: &str) -> Result<(), Problem> {
        let field = schema.field(column);
        let name = field.name().clone();
        if column < META {
            return Err(Problem::new(path, "engine-column", format!("`{name}` is the engine's"))
                .help("a request has other values there than training records; derive a column of your own"));
        }
        let place = match (field.data_type(), categories(field)) {
            (DataType::UInt32, Some(categories)) => {
                if self.shape.categories + categories as usize > CATEGORIES_MAX {
                    let message = format!("with `{name}` there are more than {CATEGORIES_MAX} categories");
                    return Err(Problem::new(path, "too-many-categories", message).help("hash into fewer buckets"));
                }
                let (slot, offset) = (self.shape.active, self.shape.categories as u32);
                self.shape.active += 1;
                self.shape.categories += categories as usize;
                Place::Category { slot, offset, categories }
            }
            (kind, _) if kind == &DataType::Boolean || is_number(kind) => {
                self.shape.dense += 1;
                Place::Number(self.shape.dense - 1)
            }
            (kind, _) => {
                return Err(Problem::new(path, "not-a-number", format!("`{name}` is {kind}; a model takes numbers"))
                    .help("derive a number from it, or use hash_category or one_hot"));
            }
        };
        self.columns.push(Feature { name, data_type: field.data_type().to_string(), place, column });
        Ok(())
    }

    /// The shape of the rows.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The columns, in the model's order.
    pub fn columns(&self) -> &[Feature] {
        &self.columns
    }

    /// Rejects the rows that have no usable value somewhere.
    pub fn check(&self, rows: &RecordBatch, rejects: &mut Rejects) -> Result<()> {
        for feature in &self.columns {
            let (name, values) = (&feature.name, rows.column(feature.column));
            if values.null_count() > 0 {
                reject(values, rejects, |row| {
                    values
                        .is_null(row)
                        .then(|| format!("feature `{name}` is null: add an `impute` step before the model"))
                });
            }
            match feature.place {
                Place::Number(_) => {
                    if let Some(numbers) = floats(values)? {
                        reject(values, rejects, |row| not_finite(name, numbers.value(row)));
                    }
                }
                Place::Category { categories, .. } => {
                    let codes = values.as_primitive::<UInt32Type>();
                    reject(values, rejects, |row| {
                        let code = codes.value(row);
                        (code >= categories)
                            .then(|| format!("feature `{name}` has code {code}, but only {categories} categories"))
                    });
                }
            }
        }
        Ok(())
    }

    /// Fills `matrix` from rows that all passed [`Features::check`].
    pub fn read(&self, rows: &RecordBatch, matrix: &mut Matrix) -> Result<()> {
        matrix.resize(rows.num_rows());
        for feature in &self.columns {
            let values = rows.column(feature.column);
            match feature.place {
                Place::Number(slot) => set_numbers(values, slot, matrix)?,
                Place::Category { slot, offset, .. } => {
                    let codes = values.as_primitive::<UInt32Type>().values();
                    matrix.set_active(slot, codes.iter().map(|code| offset + code));
                }
            }
        }
        Ok(())
    }
}

fn set_numbers(values: &ArrayRef, slot: usize, matrix: &mut Matrix) -> Result<()> {
    match values.data_type() {
        DataType::Int64 => {
            let values = values.as_primitive::<Int64Type>().values();
            matrix.set_dense(slot, values.iter().map(|value| *value as f64));
        }
        DataType::Boolean => {
            let values = values.as_boolean().values();
            matrix.set_dense(slot, values.iter().map(f64::from));
        }
        _ => matrix.set_dense(slot, as_floats(values)?.values().iter().copied()),
    }
    Ok(())
}

/// The reason to refuse a number.
fn not_finite(name: &str, value: f64) -> Option<String> {
    (!value.is_finite())
        .then(|| format!("feature `{name}` is {value}: add a `require` or an `impute` step before the model"))
}

/// Rejects the rows with a value for which there is a `reason`. A null has none: what lies under it is arbitrary.
fn reject(values: &ArrayRef, rejects: &mut Rejects, reason: impl Fn(usize) -> Option<String>) {
    for row in 0..values.len() {
        if let Some(reason) = reason(row) {
            rejects.push(row, reason);
        }
    }
}

/// How many categories a field's codes stand for.
fn categories(field: &Field) -> Option<u32> {
    field.metadata().get(CATEGORIES)?.parse().ok()
}

/// Whether a column of this type can be learned as a number.
pub fn is_number(kind: &DataType) -> bool {
    kind.is_integer() || matches!(kind, DataType::Float32 | DataType::Float64)
}

/// The column as `Float64`, where its type can hold what is not finite.
fn floats(values: &ArrayRef) -> Result<Option<Cow<'_, Float64Array>>> {
    match values.data_type() {
        DataType::Float32 | DataType::Float64 => as_floats(values).map(Some),
        _ => Ok(None),
    }
}

fn as_floats(values: &ArrayRef) -> Result<Cow<'_, Float64Array>> {
    match values.data_type() {
        DataType::Float64 => Ok(Cow::Borrowed(values.as_primitive::<Float64Type>())),
        _ => Ok(Cow::Owned(cast(values, &DataType::Float64)?.as_primitive::<Float64Type>().clone())),
    }
}
