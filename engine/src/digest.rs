//! Digests that do not depend on how records were cut into batches.

use arrow::array::{Array, BinaryArray, RecordBatch};
use arrow::row::{RowConverter, SortField};

use crate::raw::{Payload, RawBatch};

/// BLAKE3 of consecutive records: their offsets, timestamps, keys and contents.
///
/// Each of the four is hashed as one long column, whole slices at a time.
#[derive(Default)]
pub struct RecordsDigest {
    offsets: blake3::Hasher,
    timestamps: blake3::Hasher,
    keys: Bytes,
    values: Bytes,
}

/// A column of optional byte strings: lengths and contents apart, so that no two columns look the same.
#[derive(Default)]
struct Bytes {
    lengths: blake3::Hasher,
    contents: blake3::Hasher,
}

impl Bytes {
    fn update(&mut self, values: &BinaryArray) {
        let lengths = |row| if values.is_valid(row) { i64::from(values.value_length(row)) } else { -1 };
        let lengths: Vec<u8> = (0..values.len()).flat_map(|row| lengths(row).to_le_bytes()).collect();
        self.lengths.update(&lengths);
        let ends = values.value_offsets();
        self.contents.update(&values.value_data()[ends[0] as usize..ends[values.len()] as usize]);
    }

    fn update_rows(&mut self, rows: &RecordBatch) {
        let fields = rows.columns().iter().map(|column| SortField::new(column.data_type().clone())).collect();
        let encoded = RowConverter::new(fields).and_then(|converter| converter.convert_columns(rows.columns()));
        // Sources give only types that the row format has; planning refuses others.
        let encoded = encoded.expect("source columns have row-encodable types");
        for row in &encoded {
            self.lengths.update(&(row.data().len() as i64).to_le_bytes());
            self.contents.update(row.data());
        }
    }

    fn finish(self) -> [[u8; 32]; 2] {
        [*self.lengths.finalize().as_bytes(), *self.contents.finalize().as_bytes()]
    }
}

impl RecordsDigest {
    /// Adds the records that follow.
    pub fn update(&mut self, records: &RawBatch) {
        self.offsets.update(records.offsets.inner().as_slice());
        self.timestamps.update(records.timestamps.inner().as_slice());
        match &records.keys {
            Some(keys) => self.keys.update(keys),
            // As if each key were null: whether a slice has keys at all depends on how it was cut.
            None => drop(self.keys.lengths.update(&(-1_i64).to_le_bytes().repeat(records.len()))),
        }
        match &records.payload {
            Payload::Bytes(values) => self.values.update(values),
            Payload::Rows(rows) => self.values.update_rows(rows),
        }
    }

    /// The digest, in hexadecimal.
    pub fn finish(self) -> String {
        let mut all = blake3::Hasher::new();
        all.update(self.offsets.finalize().as_bytes());
        all.update(self.timestamps.finalize().as_bytes());
        for part in self.keys.finish().iter().chain(&self.values.finish()) {
            all.update(part);
        }
        all.finalize().to_hex().to_string()
    }
}

/// BLAKE3 of bytes, in hexadecimal.
pub fn of(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}
