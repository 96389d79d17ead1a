//! What all formats promise, and the helpers of their tests.

use arrow::array::{Array, ArrayRef};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use arrow::util::display::array_value_to_string;
use millstream_engine::time::{FIRST_MS, LAST_MS};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_json::json;

use super::cells::Cells;
use super::*;

/// Properties with the same cases each time, unless `PROPTEST_RNG_SEED` says otherwise.
pub(crate) fn seeded(cases: u32) -> ProptestConfig {
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let rng_seed = match config.rng_seed {
        RngSeed::Random => RngSeed::Fixed(1),
        fixed @ RngSeed::Fixed(_) => fixed,
    };
    ProptestConfig { rng_seed, ..config }
}

/// Declared columns.
pub(crate) fn columns(declared: &[(&str, &str)]) -> SchemaRef {
    let kind = |name: &str| match name {
        "text" => DataType::Utf8,
        "int" => DataType::Int64,
        "float" => DataType::Float64,
        "bool" => DataType::Boolean,
        "timestamp" => DataType::Timestamp(TimeUnit::Millisecond, None),
        _ => DataType::Binary,
    };
    Arc::new(Schema::new(declared.iter().map(|(name, of)| Field::new(*name, kind(of), true)).collect::<Vec<_>>()))
}

/// Records of bytes.
pub(crate) fn raw_batch<'a>(records: impl IntoIterator<Item = Option<&'a [u8]>>) -> RawBatch {
    let values: BinaryArray = records.into_iter().collect();
    RawBatch {
        partition: 0,
        offsets: (0..values.len() as u64).collect(),
        timestamps: vec![0; values.len()].into(),
        keys: None,
        headers: Vec::new(),
        payload: Payload::Bytes(values),
    }
}

/// Rows as text, values separated by `|`, nulls as nothing.
pub(crate) fn shown(rows: &RecordBatch) -> Vec<String> {
    let cell = |column: &ArrayRef, row| {
        if column.is_null(row) { String::new() } else { array_value_to_string(column, row).expect("showable") }
    };
    let row = |row| rows.columns().iter().map(|column| cell(column, row)).collect::<Vec<_>>().join("|");
    (0..rows.num_rows()).map(row).collect()
}

/// What a format makes of records.
pub(crate) fn decode(format: &Value, columns: &SchemaRef, records: &[&[u8]]) -> Decoded {
    let raw = raw_batch(records.iter().map(|record| Some(*record)));
    let mut decoder = (plan(format, columns).expect("a good configuration").decoder)();
    // The second time must be like the first: a decoder has no state.
    decoder.decode(&raw).expect("bytes");
    decoder.decode(&raw).expect("bytes")
}

/// Checks one record: `Ok` with the row as [`shown`] shows it, or `Err` with the whole reason.
pub(crate) fn check(format: &Value, declared: &[(&str, &str)], record: &str, expected: Result<&str, &str>) {
    let decoded = decode(format, &columns(declared), &[record.as_bytes()]);
    let found = match decoded.rejects.first() {
        Some((_, reason)) => Err(reason.clone()),
        None => Ok(shown(&decoded.rows).concat()),
    };
    assert_eq!(found.as_deref().map_err(String::as_str), expected, "{record}");
}

fn problems(format: &Value) -> Vec<(String, &'static str)> {
    let columns = columns(&[("a", "int"), ("b", "text")]);
    let problems = plan(format, &columns).err().unwrap_or_default();
    problems.into_iter().map(|problem| (problem.path.join("."), problem.code)).collect()
}

#[test]
fn bad_configurations() {
    for (format, expected) in [
        (json!("jsn"), vec![("", "unknown-format")]),
        (json!(["json"]), vec![("", "bad-value")]),
        (json!({"json": {"unknown": "drop"}}), vec![("json.unknown", "bad-value")]),
        (json!({"json": {"typo": 1}}), vec![("json.typo", "bad-value")]),
        (
            json!({"csv": {"delimiter": "x", "header": ["c", "c"]}}),
            vec![
                ("csv.delimiter", "bad-delimiter"),
                ("csv.header.1", "duplicate-column"),
                ("csv.header", "unknown-column"),
            ],
        ),
        (json!("raw"), vec![("", "bad-columns")]),
        (json!({"json": null}), vec![]),
        (json!("arrow_ipc"), vec![]),
    ] {
        let expected: Vec<(String, &str)> = expected.into_iter().map(|(path, code)| (path.to_owned(), code)).collect();
        assert_eq!(problems(&format), expected, "{format}");
    }
}

#[test]
fn a_bad_record_harms_no_other() {
    let declared = columns(&[("value", "text")]);
    let ipc = ipc_record(&declared, &["ok"]);
    for (format, good) in [
        (json!("json"), br#"{"value": "ok"}"#.as_slice()),
        (json!("csv"), b"ok"),
        (json!("raw"), b"ok"),
        (json!("arrow_ipc"), ipc.as_slice()),
    ] {
        let raw = raw_batch([Some(good), Some(b"\xff"), None, Some(good)]);
        let mut reading = (plan(&format, &declared).expect("good").decoder)();
        let decoded = reading.decode(&raw).expect("bytes");
        assert_eq!(shown(&decoded.rows), ["ok", "ok"], "{format}");
        assert_eq!(decoded.record, [0, 3], "{format}");
        assert_eq!(decoded.rejects.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [1, 2], "{format}");
        assert_eq!(decoded.rejects[1].1, "a tombstone: the record has no value");
        let part = reading.decode(&raw.slice(1, 3)).expect("bytes");
        assert_eq!((shown(&part.rows), part.record), (vec!["ok".to_owned()], vec![2]), "{format}");
        let none = reading.decode(&raw.slice(4, 0)).expect("bytes");
        assert_eq!((none.rows.num_rows(), none.rows.schema()), (0, declared.clone()), "{format}");
    }
}

#[test]
fn a_character_cut_in_two_records_is_no_text() {
    let decoded = decode(&json!("raw"), &columns(&[("value", "text")]), &[b"a\xc3", b"\xa9b", "é".as_bytes()]);
    assert_eq!(shown(&decoded.rows), ["é"]);
    assert_eq!(decoded.record, [2]);
}

#[test]
fn large_records_are_rejected() {
    let format = plan(&json!("raw"), &columns(&[("value", "text")])).expect("good");
    let mut reading = limited(format.decoder, 3)();
    let raw = raw_batch([Some(b"1234".as_slice()), Some(b"123"), Some(b"\xff"), None, Some(b"12345"), Some(b"")]);
    let decoded = reading.decode(&raw).expect("bytes");
    assert_eq!((shown(&decoded.rows), decoded.record), (vec!["123".to_owned(), String::new()], vec![1, 5]));
    assert_eq!(decoded.rejects.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [0, 2, 3, 4]);
    assert_eq!(decoded.rejects[0].1, "larger than the limit of 3 bytes");
}

#[test]
fn binary_records_stay_as_they_are() {
    let decoded = decode(&json!("raw"), &columns(&[("value", "binary")]), &[b"\xff\x00", b""]);
    assert_eq!(shown(&decoded.rows), ["ff00", ""]);
}

fn ipc_record(schema: &SchemaRef, values: &[&str]) -> Vec<u8> {
    let rows = RecordBatch::try_new(schema.clone(), vec![Arc::new(arrow::array::StringArray::from(values.to_vec()))]);
    let mut bytes = Vec::new();
    let mut writer = arrow::ipc::writer::StreamWriter::try_new(&mut bytes, schema).expect("memory");
    writer.write(&rows.expect("one column")).and_then(|()| writer.finish()).expect("memory");
    drop(writer);
    bytes
}

#[test]
fn arrow_streams_hold_several_rows() {
    let text = columns(&[("value", "text")]);
    let (two, bad) = (ipc_record(&text, &["1", "2"]), ipc_record(&text, &["3", "x"]));
    let wanted = columns(&[("missing", "bool"), ("value", "int")]);
    let decoded = decode(&json!("arrow_ipc"), &wanted, &[&two, &bad, &two]);
    assert_eq!(
        (shown(&decoded.rows), decoded.record),
        (vec!["|1".into(), "|2".into(), "|1".into(), "|2".into()], vec![0, 0, 2, 2])
    );
    assert_eq!(decoded.rejects, [(1, "column `value`: expected an int, found the text \"x\"".to_owned())]);
    let decoded = decode(&json!({"arrow_ipc": {"rows_max": 1}}), &wanted, &[&two]);
    assert_eq!(decoded.rejects, [(0, "more than 1 rows in one record".to_owned())]);
}

#[test]
fn a_cut_or_changed_arrow_stream_never_stops_the_run() {
    let text = columns(&[("value", "text")]);
    let whole = ipc_record(&text, &["one", "two"]);
    let mut records: Vec<Vec<u8>> = (0..whole.len() - 8).map(|length| whole[..length].to_vec()).collect();
    let cuts = records.len();
    for at in 0..whole.len() {
        for bit in [0x01, 0x80] {
            let mut changed = whole.clone();
            changed[at] ^= bit;
            records.push(changed);
        }
    }
    let records: Vec<&[u8]> = records.iter().map(Vec::as_slice).collect();
    // The reader's panics are caught; their messages would only hide those of real failures.
    let decoded = decode(&json!("arrow_ipc"), &text, &records);
    let rejected = decoded.rejects.iter().filter(|(at, _)| (*at as usize) < cuts).count();
    assert_eq!(rejected, cuts, "a stream without its end is not whole");
}

/// A row of every type.
pub(crate) type Row = (Option<String>, Option<i64>, Option<f64>, Option<bool>, Option<i64>);

pub(crate) fn row() -> impl Strategy<Value = Row> {
    use proptest::option::of;
    let text = prop_oneof![
        ".{0,12}",
        Just("NA".to_owned()),
        Just(" ".to_owned()),
        "[\",;\r\n]{1,4}",
        "[\\PC\u{0}-\u{1f}]{0,6}"
    ];
    let float =
        prop_oneof![proptest::num::f64::NORMAL, proptest::num::f64::SUBNORMAL, proptest::num::f64::ZERO, -1e6..1e6];
    (of(text), of(any::<i64>()), of(float), of(any::<bool>()), of(FIRST_MS..=LAST_MS))
}

pub(crate) fn batch(rows: &[Row]) -> RecordBatch {
    use arrow::array::{Float64Array, Int64Array, StringArray, TimestampMillisecondArray};
    let declared = [("text \"é\"", "text"), ("int", "int"), ("float", "float"), ("bool", "bool"), ("at", "timestamp")];
    let columns_of: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|row| row.0.clone()).collect::<StringArray>()),
        Arc::new(rows.iter().map(|row| row.1).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| row.2).collect::<Float64Array>()),
        Arc::new(rows.iter().map(|row| row.3).collect::<BooleanArray>()),
        Arc::new(rows.iter().map(|row| row.4).collect::<TimestampMillisecondArray>()),
    ];
    RecordBatch::try_new(columns(&declared), columns_of).expect("equally long")
}

proptest! {
    #![proptest_config(seeded(200))]

    #[test]
    fn what_is_written_is_read(rows in proptest::collection::vec(row(), 0..20)) {
        let rows = batch(&rows);
        for format in [json!("json"), json!({"json": {"nulls": "omit"}}), json!("csv"), json!({"csv": {"delimiter": "\t"}}), json!("arrow_ipc")] {
            let planned = plan(&format, &rows.schema()).expect("good");
            let mut encoder = (planned.encoder)();
            let records = encoder.encode(&rows).expect("writable");
            let columns = Cells::of(&rows).expect("writable");
            let mut alone = vec![Vec::new(); rows.num_rows()];
            for (at, record) in alone.iter_mut().enumerate() {
                let row: Vec<_> = columns.iter().map(|cells| cells.get(at)).collect();
                encoder.row(&row, record).expect("writable");
            }
            let alone: BinaryArray = alone.into_iter().map(Some).collect();
            for records in [records, alone] {
                let decoded = (planned.decoder)().decode(&raw_batch(records.iter())).expect("bytes");
                prop_assert_eq!(&decoded.rejects, &vec![], "{}", format);
                prop_assert_eq!(&decoded.rows, &rows, "{}", format);
            }
        }
    }
}

#[test]
fn engine_columns_and_odd_floats_can_be_written() {
    use arrow::array::{Float32Array, UInt64Array};
    let rows = RecordBatch::try_from_iter([
        ("id", Arc::new(UInt64Array::from(vec![u64::MAX])) as ArrayRef),
        ("score", Arc::new(Float32Array::from(vec![f32::INFINITY]))),
        ("half", Arc::new(Float32Array::from(vec![0.5]))),
    ])
    .expect("one row");
    for (format, line) in [
        (json!("json"), r#"{"id":18446744073709551615,"score":null,"half":0.5}"#),
        (json!({"json": {"nulls": "omit"}}), r#"{"id":18446744073709551615,"half":0.5}"#),
        (json!("csv"), "18446744073709551615,,0.5"),
    ] {
        let planned = plan(&format, &rows.schema()).expect("writable");
        let records = (planned.encoder)().encode(&rows).expect("writable");
        assert_eq!(std::str::from_utf8(records.value(0)), Ok(line), "{format}");
        let fault = (planned.decoder)().decode(&raw_batch([Some(b"{}".as_slice())])).err().expect("not readable");
        assert_eq!(fault.message, "column `id` of type UInt64 can be written, not read");
    }
}
