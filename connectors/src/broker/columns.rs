//! Records that arrive one by one, turned into columns.

use arrow::array::BinaryBuilder;
use arrow::buffer::ScalarBuffer;
use millstream_engine::raw::{Payload, RawBatch};

use super::{Fetched, Headers};

/// Collects records of one partition.
#[derive(Debug)]
pub(super) struct Columns {
    partition: u32,
    offsets: Vec<u64>,
    timestamps: Vec<i64>,
    keys: BinaryBuilder,
    values: BinaryBuilder,
    headers: Vec<Headers>,
    bytes: usize,
}

/// What a record holds, borrowed from wherever it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cells<'a> {
    pub(super) offset: u64,
    pub(super) timestamp_ms: i64,
    pub(super) key: Option<&'a [u8]>,
    pub(super) value: Option<&'a [u8]>,
}

impl Cells<'_> {
    /// Bytes of key and value.
    pub(super) fn bytes(&self) -> usize {
        self.key.map_or(0, <[u8]>::len) + self.value.map_or(0, <[u8]>::len)
    }
}

impl Columns {
    pub(super) fn new(partition: u32) -> Self {
        Self {
            partition,
            offsets: Vec::new(),
            timestamps: Vec::new(),
            keys: BinaryBuilder::new(),
            values: BinaryBuilder::new(),
            headers: Vec::new(),
            bytes: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// Bytes of keys and values.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds a record.
    pub(super) fn push(&mut self, cells: Cells<'_>, headers: Headers) {
        if !headers.is_empty() && self.headers.is_empty() {
            // Most topics have no headers at all, so the list begins with the first record that has some.
            self.headers.resize(self.offsets.len(), Headers::new());
        }
        if !headers.is_empty() || !self.headers.is_empty() {
            self.headers.push(headers);
        }
        self.offsets.push(cells.offset);
        self.timestamps.push(cells.timestamp_ms);
        self.keys.append_option(cells.key);
        self.values.append_option(cells.value);
        self.bytes += cells.bytes();
    }

    /// The records so far; this starts anew.
    pub(super) fn finish(&mut self) -> Fetched {
        let keys = self.keys.finish();
        let any_key = arrow::array::Array::null_count(&keys) < self.offsets.len();
        self.bytes = 0;
        Fetched {
            records: RawBatch {
                partition: self.partition,
                offsets: ScalarBuffer::from(std::mem::take(&mut self.offsets)),
                timestamps: ScalarBuffer::from(std::mem::take(&mut self.timestamps)),
                keys: any_key.then_some(keys),
                headers: Vec::new(),
                payload: Payload::Bytes(self.values.finish()),
            },
            headers: std::mem::take(&mut self.headers),
        }
    }
}
