//! `arrow_ipc`: one Arrow IPC stream in each record.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampMillisecondArray, UInt64Array, new_null_array,
};
use arrow::buffer::Buffer;
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::writer::StreamWriter;
use millstream_engine::Result;
use millstream_engine::catalogue::{Kind, Planned, configuration, schema_of};
use millstream_engine::raw::RawBatch;
use millstream_engine::source::{Decoded, Decoder};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::cells::Writing;
use super::record::{TOMBSTONE, bytes_of};
use super::rows::select;
use super::{Cell, Encoder, Format, FormatKind};

/// How Arrow IPC is read.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The most rows that one record may hold. Default: 65536.
    pub rows_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { rows_max: 65_536 }
    }
}

/// The entry of `arrow_ipc`.
pub static KIND: FormatKind = Kind {
    name: "arrow_ipc",
    about: "One Arrow IPC stream, of any number of rows, in each record.\n\n\
        Columns are found by name and cast to the declared types; one that is missing is null, others are ignored. A \
        record with a value that cannot be cast becomes a dead letter as a whole, and so does a malformed one. Streams \
        with compressed buffers are not taken.\n\n\
        Written: one stream of one row for each row, which is larger than JSON: write it only where a reader wants it.",
    schema: schema_of::<Config>,
    example: "{rows_max: 1000}",
    plan,
};

fn plan(value: &Value, columns: &SchemaRef) -> Planned<Format> {
    let config: Config = configuration(value)?;
    let (columns, writer) = (columns.clone(), Writer(columns.clone()));
    Ok(Format {
        decoder: Arc::new(move || Box::new(Ipc { columns: columns.clone(), config })),
        encoder: Arc::new(move || Box::new(writer.clone())),
    })
}

/// Reads streams.
struct Ipc {
    columns: SchemaRef,
    config: Config,
}

impl Decoder for Ipc {
    fn decode(&mut self, raw: &RawBatch) -> Result<Decoded> {
        let values = bytes_of(raw)?;
        let offsets = values.value_offsets();
        let (mut batches, mut record, mut rejects) = (Vec::new(), Vec::new(), Vec::new());
        for at in 0..raw.len() {
            let (start, end) = (offsets[at] as usize, offsets[at + 1] as usize);
            let rows = if values.is_null(at) {
                Err(TOMBSTONE.to_owned())
            } else {
                self.rows(values.values().slice_with_length(start, end - start))
            };
            match rows {
                Ok(rows) => {
                    record.extend(std::iter::repeat_n(at as u32, rows.num_rows()));
                    batches.push(rows);
                }
                Err(reason) => rejects.push((at as u32, reason)),
            }
        }
        Ok(Decoded { rows: concat_batches(&self.columns, &batches)?, record, rejects })
    }
}

impl Ipc {
    fn rows(&self, stream: Buffer) -> Result<RecordBatch, String> {
        // Arrow's reader panics on some malformed streams; none of what it was building is seen afterwards.
        let read = catch_unwind(AssertUnwindSafe(|| read(stream, self.config.rows_max)));
        let batches = read.unwrap_or_else(|_| Err("not an Arrow IPC stream: malformed".to_owned()))?;
        let selected = batches.iter().map(|rows| match select(rows, &self.columns)? {
            (rows, rejects) if rejects.is_empty() => Ok(rows),
            (_, rejects) => Err(rejects[0].1.clone()),
        });
        let selected = selected.collect::<Result<Vec<_>, String>>()?;
        concat_batches(&self.columns, &selected).map_err(|error| error.to_string())
    }
}

/// The decoder takes buffers out of what is there, and so allocates no more than that, whatever lengths it is told.
fn read(mut stream: Buffer, rows_max: usize) -> Result<Vec<RecordBatch>, String> {
    let refused = |error: arrow::error::ArrowError| format!("not an Arrow IPC stream: {error}");
    let mut decoder = StreamDecoder::new();
    let (mut batches, mut rows) = (Vec::new(), 0_usize);
    while !stream.is_empty() {
        if let Some(batch) = decoder.decode(&mut stream).map_err(refused)? {
            rows = rows.saturating_add(batch.num_rows());
            if rows > rows_max {
                return Err(format!("more than {rows_max} rows in one record"));
            }
            batches.push(batch);
        }
    }
    decoder.finish().map_err(refused)?;
    if decoder.schema().is_none() { Err("not an Arrow IPC stream: no schema".to_owned()) } else { Ok(batches) }
}

/// Writes streams of one row.
#[derive(Clone)]
struct Writer(SchemaRef);

impl Encoder for Writer {
    fn encode(&mut self, rows: &RecordBatch) -> Result<BinaryArray> {
        let mut writing = Writing::new(rows.num_rows());
        for row in 0..rows.num_rows() {
            write(&rows.slice(row, 1), &mut writing.bytes)?;
            writing.end()?;
        }
        Ok(writing.finish())
    }

    fn row(&mut self, row: &[Cell<'_>], out: &mut Vec<u8>) -> Result<()> {
        let columns = self.0.fields().iter().zip(row).map(|(field, cell)| one(cell, field.data_type()));
        write(&RecordBatch::try_new(self.0.clone(), columns.collect())?, out)
    }
}

fn write(row: &RecordBatch, out: &mut Vec<u8>) -> Result<()> {
    let mut writer = StreamWriter::try_new(out, row.schema_ref())?;
    writer.write(row)?;
    Ok(writer.finish()?)
}

/// A column of one row.
fn one(cell: &Cell<'_>, kind: &DataType) -> ArrayRef {
    match cell {
        Cell::Missing => new_null_array(kind, 1),
        Cell::Int(value) => Arc::new(Int64Array::from_value(*value, 1)),
        Cell::UInt(value) => Arc::new(UInt64Array::from_value(*value, 1)),
        Cell::Float(value) => Arc::new(Float64Array::from_value(*value, 1)),
        Cell::Bool(value) => Arc::new(BooleanArray::from(vec![*value])),
        Cell::Timestamp(ms) => Arc::new(TimestampMillisecondArray::from_value(*ms, 1)),
        Cell::Text(text) => Arc::new(StringArray::from_iter_values([text])),
    }
}
