//! Rows into JSON objects.

use std::sync::Arc;

use arrow::array::{BinaryArray, RecordBatch};
use arrow::datatypes::SchemaRef;
use millstream_engine::Result;
use millstream_engine::catalogue::Planned;

use super::Nulls;
use crate::formats::cells::{Cells, Writing, check, write_json};
use crate::formats::{Cell, Encoder, timestamp};

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

impl Writer {
    fn object<'a>(&self, row: impl Iterator<Item = Cell<'a>>, out: &mut Vec<u8>) {
        let mut mark = b'{';
        for (key, cell) in self.keys.iter().zip(row) {
            if self.nulls == Nulls::Omit && cell == Cell::Missing {
                continue;
            }
            out.push(mark);
            out.extend_from_slice(key);
            write(&cell, out);
            mark = b',';
        }
        if mark == b'{' {
            out.push(b'{');
        }
        out.push(b'}');
    }
}

impl Encoder for Writer {
    fn encode(&mut self, rows: &RecordBatch) -> Result<BinaryArray> {
        let columns = Cells::of(rows)?;
        let mut writing = Writing::new(rows.num_rows());
        for row in 0..rows.num_rows() {
            self.object(columns.iter().map(|cells| cells.get(row)), &mut writing.bytes);
            writing.end()?;
        }
        Ok(writing.finish())
    }

    fn row(&mut self, row: &[Cell<'_>], out: &mut Vec<u8>) -> Result<()> {
        self.object(row.iter().map(Cell::borrowed), out);
        Ok(())
    }
}

fn write(cell: &Cell<'_>, out: &mut Vec<u8>) {
    match cell {
        Cell::Missing => out.extend_from_slice(b"null"),
        Cell::Int(value) => write_json(value, out),
        Cell::UInt(value) => write_json(value, out),
        Cell::Float(value) => write_json(value, out),
        Cell::Bool(value) => write_json(value, out),
        Cell::Text(text) => write_json(&**text, out),
        Cell::Timestamp(ms) => {
            out.push(b'"');
            timestamp::write(*ms, out);
            out.push(b'"');
        }
    }
}
