//! Parquet files as rows.

use std::fs::File;
use std::path::{Path, PathBuf};

use millstream_engine::raw::{NO_TIMESTAMP, Payload, RawBatch};
use millstream_engine::source::Position;
use millstream_engine::{Fault, Result};
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::file::metadata::RowGroupMetaData;

use super::{FileReader, unreadable};

/// Rows of a batch at most.
const BATCH_ROWS: u64 = 8192;

/// Reads the rows of a file, a batch at a time.
pub(super) struct RowsReader {
    path: PathBuf,
    position: Position,
    rows: u64,
    reading: Reading,
}

/// A reader is made when it is known how large its batches may be.
enum Reading {
    Not(Box<ParquetRecordBatchReaderBuilder<File>>),
    Rows(ParquetRecordBatchReader),
    Ended,
}

impl RowsReader {
    pub(super) fn open(path: &Path, position: Position) -> Result<Self> {
        let file = File::open(path).map_err(|error| unreadable(path, error))?;
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| unreadable(path, error))?;
        let rows = builder.metadata().file_metadata().num_rows().max(0) as u64;
        if position.offset > rows {
            let message = format!("{} has {rows} rows; there is no offset {}", path.display(), position.offset);
            return Err(Fault::world(message));
        }
        let reading = if position.offset == rows { Reading::Ended } else { Reading::Not(Box::new(builder)) };
        Ok(Self { path: path.to_owned(), position, rows, reading })
    }
}

/// Starts at `offset`; row groups before it are not touched.
fn start(
    builder: ParquetRecordBatchReaderBuilder<File>,
    offset: u64,
    max_bytes: usize,
) -> parquet::errors::Result<ParquetRecordBatchReader> {
    let groups = builder.metadata().row_groups();
    let bytes: i64 = groups.iter().map(RowGroupMetaData::total_byte_size).sum();
    let rows: i64 = groups.iter().map(RowGroupMetaData::num_rows).sum();
    let (mut before, mut first) = (0, 0);
    while first < groups.len() && before + groups[first].num_rows() as u64 <= offset {
        before += groups[first].num_rows() as u64;
        first += 1;
    }
    let chosen = (first..groups.len()).collect();
    let row_bytes = (bytes / rows.max(1)).max(1) as u64;
    let batch_rows = (max_bytes as u64 / row_bytes).clamp(1, BATCH_ROWS) as usize;
    builder.with_row_groups(chosen).with_offset((offset - before) as usize).with_batch_size(batch_rows).build()
}

impl FileReader for RowsReader {
    fn read(&mut self, max_bytes: usize) -> Result<Option<RawBatch>> {
        let mut rows = match std::mem::replace(&mut self.reading, Reading::Ended) {
            Reading::Not(builder) => {
                start(*builder, self.position.offset, max_bytes).map_err(|error| unreadable(&self.path, error))?
            }
            Reading::Rows(rows) => rows,
            Reading::Ended => return Ok(None),
        };
        let Some(batch) = rows.next() else { return Ok(None) };
        let batch = batch.map_err(|error| unreadable(&self.path, error))?;
        self.reading = Reading::Rows(rows);
        let offset = self.position.offset;
        self.position.offset += batch.num_rows() as u64;
        Ok(Some(RawBatch {
            partition: self.position.partition,
            offsets: (offset..self.position.offset).collect(),
            timestamps: vec![NO_TIMESTAMP; batch.num_rows()].into(),
            keys: None,
            headers: Vec::new(),
            payload: Payload::Rows(batch),
        }))
    }

    fn end(&self) -> u64 {
        self.rows
    }
}
