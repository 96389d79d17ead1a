//! Rows into JSON objects.

use std::sync::Arc;

use arrow::array::{BinaryArray, RecordBatch};
use arrow::datatypes::SchemaRef;
use millstream_engine::Result;
use millstream_engine::catalogue::Planned;

use super::Nulls;
use crate::formats::cells::{Cells, Writing, check, write_json};
use crate::formats::{Encoder, timestamp};

/// Writes one object for each row.
#[derive(Clone)]
pub(super) struct Writer {
    /// Each column's key with its colon.
    keys: Arc<[Vec<u8>]>,
    nulls: Nulls,
}

pub(super) fn plan(columns: &SchemaRef, nulls: Nulls) -> Planned<Writer> {
    check(columns)?;
    let key = |name: &String| {
        let mut key = Vec::new();
        write_json(name, &mut key);
        key.push(b':');
        key
    };
    Ok(Writer { keys: columns.fields().iter().map(|field| key(field.name())).collect(), nulls })
}

impl Encoder for Writer {
    fn encode(&mut self, rows: &RecordBatch) -> Result<BinaryArray> {
        let columns = Cells::of(rows)?;
        let mut writing = Writing::new(rows.num_rows());
        for row in 0..rows.num_rows() {
            let out = &mut writing.bytes;
            let mut mark = b'{';
            for (key, cells) in self.keys.iter().zip(&columns) {
                if self.nulls == Nulls::Omit && cells.is_null(row) {
                    continue;
                }
                out.push(mark);
                out.extend_from_slice(key);
                write(cells, row, out);
                mark = b',';
            }
            if mark == b'{' {
                out.push(b'{');
            }
            out.push(b'}');
            writing.end()?;
        }
        Ok(writing.finish())
    }
}

fn write(cells: &Cells, row: usize, out: &mut Vec<u8>) {
    if cells.is_null(row) {
        out.extend_from_slice(b"null");
        return;
    }
    match cells {
        Cells::Int(cells) => write_json(&cells.value(row), out),
        Cells::UInt(cells) => write_json(&cells.value(row), out),
        Cells::Float(cells) => write_json(&cells.value(row), out),
        Cells::Bool(cells) => write_json(&cells.value(row), out),
        Cells::Text(cells) => write_json(cells.value(row), out),
        Cells::Timestamp(cells) => {
            out.push(b'"');
            timestamp::write(cells.value(row), out);
            out.push(b'"');
        }
    }
}
