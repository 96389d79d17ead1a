//! `raw`: a record as it is, in one column.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, SchemaRef};
use millstream_engine::Result;
use millstream_engine::catalogue::{Kind, Planned, Problem, configuration, schema_of};
use millstream_engine::raw::RawBatch;
use millstream_engine::source::{Decoded, Decoder};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::columns::{Column, Columns};
use super::record::{RowDecoder, RowFormat, TOMBSTONE, bytes_of};
use super::{Cell, Encoder, Format, FormatKind};

/// There is nothing to configure.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {}

/// The entry of `raw`.
pub static KIND: FormatKind = Kind {
    name: "raw",
    about: "A record as it is: one column named `value`, of type text (records that are not UTF-8 become dead letters) \
        or binary.\n\nWritten: the value; a missing one is a tombstone.",
    schema: schema_of::<Config>,
    example: "{}",
    plan,
};

fn plan(value: &Value, columns: &SchemaRef) -> Planned<Format> {
    let _: Config = configuration(value)?;
    let kind = match columns.fields().as_ref() {
        [only] if only.name() == "value" => only.data_type().clone(),
        _ => DataType::Null,
    };
    if !matches!(kind, DataType::Utf8 | DataType::Binary) {
        let message = "`raw` has one column, `value`, of type text or binary";
        return Err(vec![Problem::new("", "bad-columns", message).help("declare `columns: {value: text}`")]);
    }
    let columns = columns.clone();
    Ok(Format {
        decoder: match kind {
            DataType::Utf8 => Arc::new(move || Box::new(RowDecoder::new(Lines, Columns::new(&columns)))),
            _ => Arc::new(move || Box::new(Bytes(columns.clone()))),
        },
        encoder: Arc::new(|| Box::new(Writer)),
    })
}

/// Reads text.
struct Lines;

impl RowFormat for Lines {
    fn row(&mut self, record: &str, columns: &mut Columns) -> Result<(), String> {
        if let Column::Text(column) = columns.open(0) {
            column.push(record);
        }
        Ok(())
    }
}

/// Reads bytes, without copying where no record is a tombstone.
struct Bytes(SchemaRef);

impl Decoder for Bytes {
    fn decode(&mut self, raw: &RawBatch) -> Result<Decoded> {
        let values = bytes_of(raw)?;
        let (record, missing): (Vec<u32>, Vec<u32>) =
            (0..raw.len() as u32).partition(|at| values.is_valid(*at as usize));
        let column: ArrayRef = match values.nulls() {
            Some(nulls) => {
                arrow::compute::filter(values, &arrow::array::BooleanArray::new(nulls.inner().clone(), None))?
            }
            None => Arc::new(values.clone()),
        };
        let rows = RecordBatch::try_new(self.0.clone(), vec![column])?;
        Ok(Decoded { rows, record, rejects: missing.into_iter().map(|at| (at, TOMBSTONE.to_owned())).collect() })
    }
}

/// Writes the value.
struct Writer;

impl Encoder for Writer {
    fn encode(&mut self, rows: &RecordBatch) -> Result<BinaryArray> {
        Ok(cast(rows.column(0), &DataType::Binary)?.as_binary().clone())
    }

    fn row(&mut self, row: &[Cell<'_>], out: &mut Vec<u8>) -> Result<()> {
        if let [Cell::Text(text)] = row {
            out.extend_from_slice(text.as_bytes());
        }
        Ok(())
    }
}
