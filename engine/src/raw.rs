//! Records as they are fetched, before anything looks inside them.

use arrow::array::{Array, BinaryArray, RecordBatch};
use arrow::buffer::ScalarBuffer;

/// Consecutive records of one partition of one source, in columns; a slice costs no copy.
#[derive(Clone, Debug)]
pub struct RawBatch {
    /// The partition; a file source counts its files.
    pub partition: u32,
    /// Strictly increasing; a broker may leave gaps.
    pub offsets: ScalarBuffer<u64>,
    /// Milliseconds since 1970, as the producer stamped them; [`NO_TIMESTAMP`] where it did not.
    pub timestamps: ScalarBuffer<i64>,
    /// The records' keys, where the source has any.
    pub keys: Option<BinaryArray>,
    /// The records' headers, where the source keeps them; else none.
    pub headers: Vec<Headers>,
    /// The records' contents, one for each offset.
    pub payload: Payload,
}

/// The timestamp of a record that has none.
pub const NO_TIMESTAMP: i64 = 0;

/// What a record says beside its content: names and values.
pub type Headers = Vec<(String, Vec<u8>)>;

/// What a record holds.
#[derive(Clone, Debug)]
pub enum Payload {
    /// Bytes for a format to decode; null where the record has no value (a tombstone).
    Bytes(BinaryArray),
    /// Rows that are columns already (Parquet, generators).
    Rows(RecordBatch),
}

impl RawBatch {
    /// How many records there are.
    pub fn len(&self) -> usize {
        self.offsets.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// A record's key, if it has one.
    pub fn key(&self, row: usize) -> Option<&[u8]> {
        self.keys.as_ref().filter(|keys| keys.is_valid(row)).map(|keys| keys.value(row))
    }

    /// The records `start..start + len`, without copying.
    #[must_use]
    pub fn slice(&self, start: usize, len: usize) -> Self {
        Self {
            partition: self.partition,
            offsets: self.offsets.slice(start, len),
            timestamps: self.timestamps.slice(start, len),
            keys: self.keys.as_ref().map(|keys| keys.slice(start, len)),
            headers: self.headers.get(start..start + len).map(<[_]>::to_vec).unwrap_or_default(),
            payload: match &self.payload {
                Payload::Bytes(values) => Payload::Bytes(values.slice(start, len)),
                Payload::Rows(rows) => Payload::Rows(rows.slice(start, len)),
            },
        }
    }

    /// Bytes of keys, headers and contents, as counted against the budget of what is in flight.
    pub fn bytes(&self) -> usize {
        let keys = self.keys.as_ref().map_or(0, bytes_of);
        let headers = self.headers.iter().flatten().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        keys + headers
            + match &self.payload {
                Payload::Bytes(values) => bytes_of(values),
                // A slice shares its parent's buffers, so its own size is an estimate by rows.
                Payload::Rows(rows) => rows.num_rows() * row_width(rows),
            }
    }
}

fn bytes_of(values: &BinaryArray) -> usize {
    let offsets = values.value_offsets();
    (offsets[values.len()] - offsets[0]) as usize
}

fn row_width(rows: &RecordBatch) -> usize {
    rows.columns().iter().map(|column| column.data_type().primitive_width().unwrap_or(24)).sum()
}
