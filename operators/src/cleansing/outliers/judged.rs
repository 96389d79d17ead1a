//! Which numbers are outliers, and what becomes of them.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Float64Array, RecordBatch};
use arrow::compute::nullif;
use arrow::datatypes::{DataType, Field, SchemaRef};
use millstream_engine::Result;
use millstream_engine::batch::{filter, with_columns, with_fields};
use millstream_engine::catalogue::Problems;
use millstream_engine::operator::Rejects;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::cleansing::columns::{finite, numbers};
use crate::cleansing::running::added;

#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Then {
    /// It becomes null.
    #[default]
    Missing,
    /// It becomes the nearest number that would be none. The column becomes one of floats.
    Clip,
    /// It stays, and `NAME_outlier`, a new column for each, says true; in other rows false.
    Flag,
    /// Its row becomes a dead letter; a request gets an error answer.
    DeadLetter,
    /// Its row is left out; a request gets an error answer.
    Drop,
}

/// The verdicts on a batch.
pub(super) struct Judged {
    /// For each column, which rows are outliers.
    outliers: Vec<Vec<bool>>,
    /// For each column the numbers, outliers as the bound that they lie beyond.
    bounded: Vec<Vec<f64>>,
}

impl Judged {
    pub(super) fn new(inputs: &[Float64Array], rows: usize) -> Self {
        let bounded = inputs.iter().map(|input| input.values().to_vec()).collect();
        Self { outliers: vec![vec![false; rows]; inputs.len()], bounded }
    }

    /// Judges a number; without bounds it is no outlier.
    pub(super) fn see(&mut self, place: usize, row: usize, value: f64, bounds: Option<(f64, f64)>) {
        let Some((low, high)) = bounds else { return };
        let nearest = if value < low { low } else { high };
        if value < low || value > high {
            self.outliers[place][row] = true;
            self.bounded[place][row] = nearest;
        }
    }

    pub(super) fn is_outlier(&self, place: usize, row: usize) -> bool {
        self.outliers[place][row]
    }

    fn mask(&self, place: usize) -> BooleanArray {
        BooleanArray::from(self.outliers[place].clone())
    }
}

/// What becomes of outliers.
pub(super) struct Action {
    then: Then,
    columns: Vec<usize>,
    /// The columns that mark them, if there are such.
    names: Vec<String>,
    pub(super) schema: SchemaRef,
}

impl Action {
    pub(super) fn new(then: Then, input: &SchemaRef, columns: Vec<usize>, problems: &mut Problems) -> Self {
        let names = if then == Then::Flag { added(input, problems, &columns, "outlier") } else { Vec::new() };
        let fields: Vec<Field> = match then {
            Then::Flag => names.iter().map(|name| Field::new(name, DataType::Boolean, false)).collect(),
            Then::Clip => columns.iter().map(|&at| input.field(at).clone().with_data_type(DataType::Float64)).collect(),
            _ => Vec::new(),
        };
        Self { then, columns, names, schema: with_fields(input, fields) }
    }

    /// The columns of numbers.
    pub(super) fn inputs(&self, rows: &RecordBatch) -> Result<Vec<Float64Array>> {
        self.columns.iter().map(|&at| numbers(rows.column(at))).collect()
    }

    /// Does with the outliers what is wanted.
    pub(super) fn take(&self, rows: &RecordBatch, judged: &Judged, rejects: &mut Rejects) -> Result<RecordBatch> {
        match self.then {
            Then::Missing | Then::Clip => {
                rejects.repaired(judged.outliers.iter().flatten().filter(|outlier| **outlier).count());
                self.replaced(rows, judged)
            }
            Then::Flag => {
                let flags = (0..self.names.len()).map(|place| Arc::new(judged.mask(place)) as ArrayRef);
                with_columns(&self.schema, rows, self.names.iter().map(String::as_str).zip(flags).collect())
            }
            Then::DeadLetter | Then::Drop => self.without(rows, judged, rejects),
        }
    }

    fn replaced(&self, rows: &RecordBatch, judged: &Judged) -> Result<RecordBatch> {
        let mut columns = rows.columns().to_vec();
        for (place, &at) in self.columns.iter().enumerate() {
            columns[at] = if self.then == Then::Clip {
                let nulls = numbers(&columns[at])?.nulls().cloned();
                Arc::new(Float64Array::new(judged.bounded[place].clone().into(), nulls))
            } else {
                nullif(&finite(&columns[at])?, &judged.mask(place))?
            };
        }
        Ok(RecordBatch::try_new(self.schema.clone(), columns)?)
    }

    fn without(&self, rows: &RecordBatch, judged: &Judged, rejects: &mut Rejects) -> Result<RecordBatch> {
        let mut keep = vec![true; rows.num_rows()];
        for (place, outliers) in judged.outliers.iter().enumerate() {
            for row in (0..rows.num_rows()).filter(|&row| outliers[row]) {
                if self.then == Then::DeadLetter && keep[row] {
                    rejects.push(row, self.reason(rows, judged, place, row));
                }
                keep[row] = false;
            }
        }
        filter(rows, &BooleanArray::from(keep))
    }

    fn reason(&self, rows: &RecordBatch, judged: &Judged, place: usize, row: usize) -> String {
        let at = self.columns[place];
        let value = arrow::util::display::array_value_to_string(rows.column(at), row).unwrap_or_default();
        let name = self.schema.field(at).name();
        format!("`{name}` is an outlier: {value} lies beyond {}", judged.bounded[place][row])
    }
}
