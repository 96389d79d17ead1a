//! Keys beside the values that they are of.

use arrow::array::{BooleanArray, Float64Array, Int64Array, StringArray, StringViewArray, UInt32Array};
use arrow::datatypes::Field;
use proptest::prelude::*;

use super::*;

type Row = (Option<i64>, Option<String>, Option<String>, Option<bool>);

fn texts() -> impl Strategy<Value = Option<String>> {
    prop::option::of(prop_oneof!["[a-c]{0,3}", "[a-z]{0,40}"])
}

fn row() -> impl Strategy<Value = Row> {
    (prop::option::of(-2_i64..3), texts(), texts(), any::<Option<bool>>())
}

fn batch(rows: &[Row]) -> RecordBatch {
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("int", Arc::new(rows.iter().map(|row| row.0).collect::<Int64Array>())),
        ("text", Arc::new(rows.iter().map(|row| row.1.clone()).collect::<StringArray>())),
        ("more", Arc::new(rows.iter().map(|row| row.2.clone()).collect::<StringArray>())),
        ("truth", Arc::new(rows.iter().map(|row| row.3).collect::<BooleanArray>())),
        ("float", Arc::new(rows.iter().map(|row| row.0.map(|int| int as f64 / 2.0)).collect::<Float64Array>())),
        ("small", Arc::new(rows.iter().map(|row| row.0.map(|int| int as u32)).collect::<UInt32Array>())),
        ("view", Arc::new(rows.iter().map(|row| row.1.clone()).collect::<StringViewArray>())),
    ];
    let fields: Vec<Field> =
        columns.iter().map(|(name, column)| Field::new(*name, column.data_type().clone(), true)).collect();
    let columns = columns.into_iter().map(|(_, column)| column).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("columns of the schema")
}

fn shown(columns: &[ArrayRef], row: usize) -> String {
    let cell = |column: &ArrayRef| {
        let text = arrow::util::display::array_value_to_string(column, row).expect("values can be shown");
        if column.is_null(row) { "null".to_owned() } else { format!("<{text}>") }
    };
    columns.iter().map(cell).collect::<Vec<_>>().join(" ")
}

proptest! {
    /// Keys are equal where the values are, become the same columns again, and are the same by bytes.
    #[test]
    fn a_key_is_its_values(
        rows in prop::collection::vec(row(), 1..24),
        columns in prop::sample::subsequence(vec![0, 1, 2, 3, 4, 5, 6], 1..=7),
        spread in prop::collection::vec(any::<prop::sample::Index>(), 0..3),
    ) {
        let spread: Vec<usize> = spread.iter().map(|place| place.index(columns.len())).collect();
        let batch = batch(&rows);
        // Also cut out of a larger one.
        for batch in [batch.clone(), batch.slice(rows.len() / 2, rows.len() - rows.len() / 2)] {
            let reader = KeyReader::new(batch.schema_ref(), &columns, &spread).expect("known types");
            let (keys, mut list) = (reader.read(&batch).expect("known types"), KeyList::default());
            keys.write(0..batch.num_rows(), &mut list);
            let given: Vec<ArrayRef> = columns.iter().map(|&at| batch.column(at).clone()).collect();
            let found = reader.columns(&list).expect("its own keys");
            prop_assert_eq!(&found, &given);
            let (hashes, bins) = (reader.hashes(&list).expect("its own keys"), keys.bins());
            let part: Vec<ArrayRef> = spread.iter().map(|place| given[*place].clone()).collect();
            let parts: Vec<String> = (0..batch.num_rows()).map(|row| shown(&part, row)).collect();
            let all: Vec<String> = (0..batch.num_rows()).map(|row| shown(&given, row)).collect();
            for (row, key) in list.iter().enumerate() {
                prop_assert_eq!(hashes[row] << 8, key.hash() << 8);
                prop_assert_eq!(hashes[row] >> 56, bins[row] >> 56);
                prop_assert!(!spread.is_empty() || hashes[row] == key.hash());
                key.with_bytes(|bytes| assert_eq!(KeyRef::from_bytes(bytes), key));
                for (other_row, other) in list.iter().enumerate() {
                    let same = all[row] == all[other_row];
                    prop_assert_eq!(key == other, same);
                    prop_assert_eq!(Key::of(key).is(other), same);
                    prop_assert!(!same || hashes[row] == hashes[other_row]);
                    prop_assert!(spread.is_empty() || parts[row] != parts[other_row] || bins[row] == bins[other_row]);
                }
            }
        }
    }
}

#[test]
fn hashes_stay_for_ever() {
    let found = [&b"\0"[..], b"a\x01", b"key 1\x01", &[7; 40]].map(|key| KeyRef::from_bytes(key).hash());
    let expected = ["edcc820e0ac6bddd", "3b107b73745ddc42", "2bf14a32a7d34b97", "24ebde57771981bd"];
    assert_eq!(found.map(|hash| format!("{hash:016x}")), expected, "bins depend on them");
}
