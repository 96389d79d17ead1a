//! Chance that is always the same: a number for each row from a seed and the row's origin or some of its columns.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, SchemaRef};
use millstream_engine::Result;
use millstream_engine::batch::{Meta, is_changing};
use millstream_engine::catalogue::{Problem, Problems};
use millstream_engine::state::hash;

use super::columns::{is_category, readable};

/// What draws.
pub(super) struct Chance {
    salt: u64,
    /// The columns whose values decide; with none, a row's origin does.
    by: Vec<usize>,
}

impl Chance {
    /// For the step `purpose`, so that steps of other kinds draw independently.
    pub(super) fn new(purpose: &str, seed: u64, by: Vec<usize>) -> Self {
        Self { salt: hash(&[purpose.as_bytes(), &seed.to_le_bytes()].concat()), by }
    }

    /// A number from 0 to below 1 for each row.
    pub(super) fn draw(&self, rows: &RecordBatch) -> Result<Vec<f64>> {
        if self.by.is_empty() {
            let meta = Meta::of(rows);
            return Ok((0..rows.num_rows()).map(|row| self.number(&origin(&meta, row))).collect());
        }
        let texts: Vec<ArrayRef> =
            self.by.iter().map(|&at| cast(rows.column(at), &DataType::Utf8)).collect::<Result<_, _>>()?;
        let texts: Vec<&StringArray> = texts.iter().map(AsArray::as_string).collect();
        let mut key = Vec::new();
        let number = |row: usize| {
            key.clear();
            for column in &texts {
                // No text has these bytes, so that no two rows of other values look alike.
                if column.is_null(row) {
                    key.push(0xfe);
                } else {
                    key.extend_from_slice(column.value(row).as_bytes());
                }
                key.push(0xff);
            }
            self.number(&key)
        };
        Ok((0..rows.num_rows()).map(number).collect())
    }

    fn number(&self, key: &[u8]) -> f64 {
        // SplitMix64's finaliser: each bit of the salt reaches each bit of the outcome.
        let mixed = hash(key) ^ self.salt;
        let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        // 53 bits: as many as floats below 1 have.
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

fn origin(meta: &Meta<'_>, row: usize) -> [u8; 20] {
    let origin = meta.origin(row);
    let mut key = [0; 20];
    key[..4].copy_from_slice(&origin.source.to_le_bytes());
    key[4..8].copy_from_slice(&origin.partition.to_le_bytes());
    key[8..16].copy_from_slice(&origin.offset.to_le_bytes());
    key[16..].copy_from_slice(&origin.index.to_le_bytes());
    key
}

/// The columns that decide; no `by` is fine, unless rows may be taken back: what takes one back has another origin.
pub(super) fn deciding(schema: &SchemaRef, problems: &mut Problems, by: &[String]) -> Vec<usize> {
    if by.is_empty() {
        if is_changing(schema) {
            let message = "a row and what takes it back have to be drawn alike, and their origins differ";
            problems.push(Problem::new("by", "takes-no-changes", message).help("name the columns that decide"));
        }
        return Vec::new();
    }
    let columns = readable(schema, problems, "by", by);
    for &at in &columns {
        problems.take(is_category(schema, "by", at));
    }
    columns
}
