//! Profiles: what is in the columns of a stream, in little space.
//!
//! | what | of which rows | how |
//! |---|---|---|
//! | count, missing, range, mean, deviation of numbers | all | exact |
//! | quantiles, number of different values, what texts look like | a sample | sketches, see [`crate::sketch`] |
//!
//! The sample is the first 10,000 rows and then one of 64, chosen by a hash of where the row came from; or all rows, where there is time.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type, Schema, TimeUnit, TimestampMillisecondType};
use millstream_engine::Result;
use millstream_engine::batch::{META, Meta};
use millstream_engine::state::hash;
use serde::{Deserialize, Serialize};

mod frequent;
mod numbers;
mod report;
mod skew;
mod texts;

pub use numbers::SENTINELS;
pub use report::{ColumnReport, Kind, Quantile, Report, Suspect, TextReport};
pub use texts::{FORMATS, Looks};

use numbers::{Numbers, Sketched};
use texts::Texts;

/// So many rows are all in the sample.
const FIRST_ROWS: u64 = 10_000;
/// Then one of so many: a power of two.
const ONE_OF: u64 = 64;
/// Chooses the sample.
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// What is in the columns of a stream.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Profile {
    rows: u64,
    sampled: u64,
    columns: Vec<Column>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
struct Column {
    name: String,
    kind: Kind,
    missing: u64,
    /// Values: numbers, times, and truths as 0 and 1.
    numbers: Numbers,
    sketched: Sketched,
    different: crate::sketch::Distinct,
    texts: Texts,
}

impl Profile {
    /// Nothing seen of a stream with these columns; the engine's are left out.
    pub fn new(schema: &Schema) -> Self {
        let own = schema.fields().iter().filter(|field| !field.name().starts_with('_'));
        let columns = own.map(|field| Column::new(field.name(), field.data_type())).collect();
        Self { rows: 0, sampled: 0, columns }
    }

    /// Takes in rows that begin with the engine's columns; the sketches get a sample.
    pub fn add(&mut self, rows: &RecordBatch) -> Result<()> {
        let first = FIRST_ROWS.saturating_sub(self.rows).min(rows.num_rows() as u64) as u32;
        let sample: Vec<u32> = (0..first).chain(sample(rows, first)).collect();
        self.take(&rows.columns()[META..], rows.num_rows(), &sample)
    }

    /// Takes in rows without the engine's columns; the sketches get them all.
    pub fn add_all(&mut self, rows: &RecordBatch) -> Result<()> {
        let all: Vec<u32> = (0..rows.num_rows() as u32).collect();
        self.take(rows.columns(), rows.num_rows(), &all)
    }

    fn take(&mut self, columns: &[ArrayRef], rows: usize, sample: &[u32]) -> Result<()> {
        self.rows += rows as u64;
        self.sampled += sample.len() as u64;
        // Columns that a stream has besides, such as whether a row is taken back, come last.
        self.columns.iter_mut().zip(columns).try_for_each(|(column, values)| column.add(values, sample))
    }

    /// Takes in what another has seen of the same stream.
    pub fn merge(&mut self, other: &Self) {
        self.rows += other.rows;
        self.sampled += other.sampled;
        for (column, more) in self.columns.iter_mut().zip(&other.columns) {
            column.missing += more.missing;
            column.numbers.merge(&more.numbers);
            column.sketched.merge(&more.sketched);
            column.different.merge(&more.different);
            column.texts.merge(&more.texts);
        }
    }

    /// What was found.
    pub fn report(&self) -> Report {
        let columns = self.columns.iter().map(|column| column.report(self.rows)).collect();
        Report { rows: self.rows, sampled: self.sampled, columns }
    }
}

/// The rows of a batch from `first` on that are in the sample.
fn sample(rows: &RecordBatch, first: u32) -> impl Iterator<Item = u32> {
    let meta = Meta::of(rows);
    let is_chosen = move |row: &u32| {
        let at = *row as usize;
        let place = meta.offset[at] ^ (u64::from(meta.partition[at]) << 40) ^ (u64::from(meta.index[at]) << 20);
        // The high bits of a product are spread well enough, and come at the cost of one multiplication.
        place.wrapping_add(SEED).wrapping_mul(0xd6e8_feb8_6659_fd93) >> 58 < 64 / ONE_OF
    };
    (first..rows.num_rows() as u32).filter(is_chosen)
}

impl Column {
    fn new(name: &str, kind: &DataType) -> Self {
        let kind = match kind {
            DataType::Utf8 => Kind::Text,
            DataType::Boolean => Kind::Bool,
            DataType::Timestamp(..) => Kind::Timestamp,
            DataType::Float64 => Kind::Float,
            kind if kind.is_integer() => Kind::Int,
            _ => Kind::Other,
        };
        Self {
            name: name.to_owned(),
            kind,
            missing: 0,
            numbers: Numbers::default(),
            sketched: Sketched::default(),
            different: crate::sketch::Distinct::default(),
            texts: Texts::default(),
        }
    }

    fn add(&mut self, values: &ArrayRef, sample: &[u32]) -> Result<()> {
        if self.kind == Kind::Text {
            self.missing += values.null_count() as u64;
            self.add_texts(values, sample);
            return Ok(());
        }
        let Some(values) = as_numbers(values)? else {
            self.missing += values.null_count() as u64;
            return Ok(());
        };
        let before = self.numbers.count;
        self.numbers.take(&values);
        self.missing += values.len() as u64 - (self.numbers.count - before);
        for at in sample.iter().map(|row| *row as usize).filter(|at| values.is_valid(*at)) {
            let value = values.value(at);
            if value.is_finite() {
                self.sketched.add(value);
                // Minus zero is zero.
                self.different.add(hash(&(value + 0.0).to_bits().to_le_bytes()));
            }
        }
        Ok(())
    }

    fn add_texts(&mut self, values: &ArrayRef, sample: &[u32]) {
        let texts = values.as_string::<i32>();
        for at in sample.iter().map(|row| *row as usize).filter(|at| texts.is_valid(*at)) {
            let text = texts.value(at);
            self.texts.add(text);
            self.different.add(hash(text.as_bytes()));
        }
    }

    fn report(&self, rows: u64) -> ColumnReport {
        ColumnReport::of(self, rows)
    }
}

/// Numbers, times and truths as floats; `None` for what is none of these.
fn as_numbers(values: &ArrayRef) -> Result<Option<Float64Array>> {
    let floats: ArrayRef = match values.data_type() {
        DataType::Float64 => values.clone(),
        DataType::Int64 => Arc::new(values.as_primitive::<Int64Type>().unary::<_, Float64Type>(|value| value as f64)),
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            Arc::new(values.as_primitive::<TimestampMillisecondType>().unary::<_, Float64Type>(|value| value as f64))
        }
        kind if kind.is_numeric() || kind == &DataType::Boolean => cast(values, &DataType::Float64)?,
        _ => return Ok(None),
    };
    Ok(Some(floats.as_primitive::<Float64Type>().clone()))
}

#[cfg(test)]
mod tests;
