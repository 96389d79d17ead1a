//! Rows that are columns already: chosen by name and cast to the declared types.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::{CastOptions, can_cast_types, cast, cast_with_options, filter_record_batch, nullif};
use arrow::datatypes::{DataType, Field, Float64Type, SchemaRef, TimestampMillisecondType};
use arrow::util::display::array_value_to_string;
use millstream_engine::raw::{Payload, RawBatch};
use millstream_engine::source::{Decoded, Decoder, MakeDecoder};
use millstream_engine::{Fault, Result};

use super::mismatch::{expected, found};
use super::timestamp;

/// Characters of a value that a reason shows, at most.
const SHOWN_MAX: usize = 32;

/// Decodes [`Payload::Rows`] into the declared columns, found by name and cast to their types.
///
/// A value that cannot be cast rejects its row; so do infinite floats, floats with a fraction for an int, and instants beyond
/// the years 1 to 9999. NaN counts as missing, as data frames write it, and so does a column that is not there, as in the
/// other formats. Rows that have none of the columns are something else, and stop the run.
pub fn rows_decoder(columns: SchemaRef) -> MakeDecoder {
    Arc::new(move || Box::new(RowsDecoder { columns: columns.clone() }))
}

struct RowsDecoder {
    columns: SchemaRef,
}

impl Decoder for RowsDecoder {
    fn decode(&mut self, raw: &RawBatch) -> Result<Decoded> {
        let Payload::Rows(rows) = &raw.payload else {
            return Err(Fault::ours("bytes were given to the decoder of rows"));
        };
        let fields = self.columns.fields();
        if !fields.is_empty() && fields.iter().all(|field| rows.column_by_name(field.name()).is_none()) {
            let names = |schema: &SchemaRef| {
                schema.fields().iter().map(|field| field.name().clone()).collect::<Vec<_>>().join(", ")
            };
            let message = format!(
                "the data have none of the columns {}; they have {}",
                names(&self.columns),
                names(rows.schema_ref())
            );
            return Err(Fault::definition(message));
        }
        let (rows, rejects) = select(rows, &self.columns).map_err(Fault::definition)?;
        if rejects.is_empty() {
            return Ok(Decoded { record: (0..raw.len() as u32).collect(), rows, rejects });
        }
        let mut keep = vec![true; raw.len()];
        for (row, _) in &rejects {
            keep[*row as usize] = false;
        }
        let record = (0..raw.len() as u32).filter(|row| keep[*row as usize]).collect();
        Ok(Decoded { rows: filter_record_batch(&rows, &BooleanArray::from(keep))?, record, rejects })
    }
}

/// The columns of `schema` from `rows`, nulls where there is none of the name, and why rows must be rejected: each
/// once, in order. Fails where a column's type can never be cast.
pub(crate) fn select(rows: &RecordBatch, schema: &SchemaRef) -> Result<(RecordBatch, Vec<(u32, String)>), String> {
    let mut rejects = Vec::new();
    let mut columns = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        columns.push(match rows.column_by_name(field.name()) {
            Some(column) => convert(column, field, &mut rejects)?,
            None => new_null_array(field.data_type(), rows.num_rows()),
        });
    }
    rejects.sort_by_key(|(row, _)| *row);
    rejects.dedup_by_key(|(row, _)| *row);
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    let rows =
        RecordBatch::try_new_with_options(schema.clone(), columns, &options).map_err(|error| error.to_string())?;
    Ok((rows, rejects))
}

/// A column with its declared type.
fn convert(column: &ArrayRef, field: &Field, rejects: &mut Vec<(u32, String)>) -> Result<ArrayRef, String> {
    let (from, to) = (column.data_type(), field.data_type());
    if !can_cast_types(from, to) {
        // Nothing of it can be kept, but what is missing anyway.
        rejects.extend((0..column.len()).filter(|row| column.is_valid(*row)).map(|row| mismatch(column, field, row)));
        return Ok(new_null_array(to, column.len()));
    }
    let mut column = column.clone();
    if from.is_floating() {
        column = without_nan(&column).map_err(|error| error.to_string())?;
    }
    let options = CastOptions { safe: true, ..CastOptions::default() };
    let converted = if from == to {
        column.clone()
    } else {
        cast_with_options(&column, to, &options).map_err(|error| error.to_string())?
    };
    let lossy = lossy(&column, &converted).map_err(|error| error.to_string())?;
    rejects.extend(lossy.into_iter().map(|row| mismatch(&column, field, row)));
    Ok(converted)
}

/// Why a row is rejected.
#[cold]
fn mismatch(column: &ArrayRef, field: &Field, row: usize) -> (u32, String) {
    let value: String = array_value_to_string(column, row).unwrap_or_default().chars().take(SHOWN_MAX).collect();
    let (expected, found) = (expected(field.data_type()), found(column.data_type(), &value));
    (row as u32, format!("column `{}`: expected {expected}, found {found}", field.name()))
}

/// NaN becomes null.
fn without_nan(column: &ArrayRef) -> Result<ArrayRef, arrow::error::ArrowError> {
    let floats = cast(column, &DataType::Float64)?;
    let floats = floats.as_primitive::<Float64Type>();
    if floats.values().iter().any(|value| value.is_nan()) {
        return nullif(column, &BooleanArray::from_unary(floats, f64::is_nan));
    }
    Ok(column.clone())
}

/// The rows whose value did not survive.
fn lossy(before: &ArrayRef, after: &ArrayRef) -> Result<Vec<usize>, arrow::error::ArrowError> {
    let mut rows = Vec::new();
    if after.null_count() > before.null_count() {
        rows.extend((0..after.len()).filter(|row| after.is_null(*row) && before.is_valid(*row)));
    }
    if let Some(floats) = after.as_primitive_opt::<Float64Type>() {
        // Most columns have none, and a pass without branches finds that out.
        if !floats.values().iter().fold(true, |all, value| all & value.is_finite()) {
            rows.extend((0..floats.len()).filter(|row| floats.is_valid(*row) && floats.value(*row).is_infinite()));
        }
    }
    if let Some(instants) = after.as_primitive_opt::<TimestampMillisecondType>()
        && !instants.values().iter().fold(true, |all, ms| all & timestamp::in_range(*ms))
    {
        let is_out = |row: &usize| instants.is_valid(*row) && !timestamp::in_range(instants.value(*row));
        rows.extend((0..instants.len()).filter(is_out));
    }
    if before.data_type().is_floating() && after.data_type().is_integer() {
        let floats = cast(before, &DataType::Float64)?;
        let floats = floats.as_primitive::<Float64Type>();
        rows.extend((0..floats.len()).filter(|row| floats.is_valid(*row) && floats.value(*row).fract() != 0.0));
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float64Array, Int64Array, StringArray, TimestampMicrosecondArray, TimestampMillisecondArray};
    use millstream_engine::Blame;

    use super::*;
    use crate::formats::tests::{columns, shown};

    fn check(column: ArrayRef, declared: &str, expected: &[&str], rejects: &[(u32, &str)]) {
        let rows = RecordBatch::try_from_iter([("other", column.clone()), ("x", column)]).expect("equally long");
        let raw = RawBatch {
            partition: 0,
            offsets: (0..rows.num_rows() as u64).collect(),
            timestamps: vec![0; rows.num_rows()].into(),
            keys: None,
            headers: Vec::new(),
            payload: Payload::Rows(rows),
        };
        let decoded = rows_decoder(columns(&[("x", declared)]))().decode(&raw).expect("castable");
        assert_eq!(shown(&decoded.rows), expected, "{declared}");
        let found: Vec<(u32, &str)> = decoded.rejects.iter().map(|(row, why)| (*row, why.as_str())).collect();
        assert_eq!(found, rejects, "{declared}");
        let kept: Vec<u32> = (0..raw.len() as u32).filter(|row| !rejects.iter().any(|(bad, _)| bad == row)).collect();
        assert_eq!(decoded.record, kept);
    }

    #[test]
    fn casts() {
        let floats =
            Arc::new(Float64Array::from(vec![Some(1.0), Some(2.5), None, Some(f64::NAN), Some(f64::INFINITY)]));
        check(
            floats.clone(),
            "float",
            &["1.0", "2.5", "", ""],
            &[(4, "column `x`: expected a float, found the number inf")],
        );
        let reasons = [
            (1, "column `x`: expected an int, found the number 2.5"),
            (4, "column `x`: expected an int, found the number inf"),
        ];
        check(floats, "int", &["1", "", ""], &reasons);
        let ints = Arc::new(Int64Array::from(vec![Some(-1), None]));
        check(ints.clone(), "float", &["-1.0", ""], &[]);
        check(ints, "text", &["-1", ""], &[]);
        let texts = Arc::new(StringArray::from(vec!["1.5", "x", "2026-01-31T12:30:00Z"]));
        let reasons = [
            (1, "column `x`: expected a float, found the text \"x\""),
            (2, "column `x`: expected a float, found the text \"2026-01-31T12:30:00Z\""),
        ];
        check(texts, "float", &["1.5"], &reasons);
        let micros = TimestampMicrosecondArray::from(vec![1_500_000]).with_timezone("+02:00");
        check(Arc::new(micros), "timestamp", &["1970-01-01T00:00:01.500"], &[]);
        let instants =
            TimestampMillisecondArray::from(vec![Some(timestamp::LAST_MS), Some(timestamp::LAST_MS + 1), None]);
        let reasons = [(
            1,
            "column `x`: expected a timestamp like 2026-01-31T12:30:00Z, found the timestamp +10000-01-01T00:00:00",
        )];
        check(Arc::new(instants), "timestamp", &["9999-12-31T23:59:59.999", ""], &reasons);
    }

    #[test]
    fn names_what_is_missing() {
        let rows =
            RecordBatch::try_from_iter([("x", Arc::new(Int64Array::from(vec![1])) as ArrayRef)]).expect("one row");
        let raw = RawBatch {
            partition: 0,
            offsets: vec![0].into(),
            timestamps: vec![0].into(),
            keys: None,
            headers: Vec::new(),
            payload: Payload::Rows(rows),
        };
        let fault = rows_decoder(columns(&[("y", "int")]))().decode(&raw).err().expect("no such column");
        assert_eq!(fault.blame, Blame::Definition);
        assert_eq!(fault.message, "the data have none of the columns y; they have x");
    }
}
