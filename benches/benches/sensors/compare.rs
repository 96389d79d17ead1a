//! Compares two results, whose rows may come in any order.

use std::collections::BTreeMap;
use std::path::Path;

use arrow::array::AsArray;
use arrow::datatypes::{Float64Type, Int64Type, TimestampMillisecondType};

use crate::Gives;
use crate::job::read;
use crate::records::CHANNELS;

/// A sensor, an instant, and the record's number where each row is written.
type Key = (String, i64, i64);

/// By how much the numbers of two results differ at most; the rows must be the same.
pub fn greatest_difference(one: &Path, other: &Path, gives: Gives) -> f64 {
    let (one, other) = (rows(one, gives), rows(other, gives));
    assert_eq!(one.len(), other.len(), "rows");
    assert!(!one.is_empty(), "there are rows");
    let mut greatest = 0.0_f64;
    for ((key, one), (other_key, other)) in one.iter().zip(&other) {
        assert_eq!(key, other_key, "one result has a row that the other has not");
        for (one, other) in one.iter().zip(other) {
            let off = (one - other).abs();
            assert!(!off.is_nan(), "{key:?}: {one} and {other}");
            greatest = greatest.max(off);
        }
    }
    greatest
}

fn rows(path: &Path, gives: Gives) -> BTreeMap<Key, [f64; CHANNELS.len()]> {
    let mut all = BTreeMap::new();
    for rows in read(path) {
        let sensors = rows["sensor"].as_string::<i32>();
        let times = rows[gives.time()].as_primitive::<TimestampMillisecondType>();
        let seqs = rows.column_by_name("seq").map(AsArray::as_primitive::<Int64Type>);
        let columns = CHANNELS.map(|name| rows[name].as_primitive::<Float64Type>());
        for row in 0..rows.num_rows() {
            let seq = seqs.map_or(0, |seqs| seqs.value(row));
            let key = (sensors.value(row).to_owned(), times.value(row), seq);
            assert!(all.insert(key, columns.map(|column| column.value(row))).is_none(), "a row comes once");
        }
    }
    all
}
