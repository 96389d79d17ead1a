//! Cases of all sinks.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryViewArray, Float64Array, StringArray, TimestampMillisecondArray, UInt32Array, UInt64Array,
};
use millstream_engine::batch::schema_of;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::json;

use super::*;
use crate::formats::tests::{columns, shown};

/// A stream's rows, from offset `from` on.
pub(crate) fn with_meta(from: u64, rows: &RecordBatch) -> RecordBatch {
    let count = rows.num_rows();
    let offsets = from..from + count as u64;
    let none = || Arc::new(BinaryViewArray::from(vec![None::<&[u8]>; count]));
    let meta: [ArrayRef; META] = [
        Arc::new(UInt32Array::from(vec![1; count])),
        Arc::new(UInt32Array::from(vec![2; count])),
        Arc::new(UInt64Array::from_iter_values(offsets.clone())),
        Arc::new(UInt32Array::from(vec![0; count])),
        Arc::new(TimestampMillisecondArray::from_iter_values(offsets.map(|n| n as i64 * 1000))),
        none(),
        none(),
    ];
    let all = meta.iter().chain(rows.columns()).cloned().collect();
    RecordBatch::try_new(schema_of(rows.schema_ref()), all).expect("equally long")
}

/// The rows `from..to` of a stream of letters with numbers, of which each second one is missing.
fn rows(from: u64, to: u64) -> RecordBatch {
    let letter = |n: u64| char::from(b'a' + (n % 26) as u8).to_string();
    let columns_of: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values((from..to).map(letter))),
        Arc::new((from..to).map(|n| (n % 2 == 0).then_some(n as f64)).collect::<Float64Array>()),
    ];
    let schema = columns(&[("letter", "text"), ("number", "float")]);
    with_meta(from, &RecordBatch::try_new(schema, columns_of).expect("equally long"))
}

fn open(kind: &str, config: &Value, folder: &Path) -> Box<dyn Sink> {
    let kind = KINDS.iter().find(|known| known.name == kind).expect("a known kind");
    let planned = (kind.plan)(config, &rows(0, 0).schema()).expect("a good configuration");
    (planned.open)(&folder.to_owned()).expect("a writable folder")
}

fn problems(kind: &str, config: &Value) -> Vec<String> {
    let kind = KINDS.iter().find(|known| known.name == kind).expect("a known kind");
    let problems = (kind.plan)(config, &rows(0, 0).schema()).err().unwrap_or_default();
    problems.into_iter().map(|problem| format!("{}: {}", problem.path.join("."), problem.code)).collect()
}

#[test]
fn bad_configurations() {
    for (kind, config, expected) in [
        (
            "topic",
            json!({"name": "..", "partitions": 0, "key": "lettre", "format": {"json": {"nulls": 1}}}),
            vec![
                "name: bad-topic-name",
                "partitions: bad-value",
                "key: unknown-column",
                "format.json.nulls: bad-value",
            ],
        ),
        ("topic", json!({"name": "t", "format": "xml"}), vec!["format: unknown-format"]),
        ("file", json!({"path": "out.txt"}), vec!["type: unknown-type"]),
        ("stdout", json!({"format": "raw"}), vec!["format: bad-value"]),
        ("stdout", json!({}), vec![]),
    ] {
        assert_eq!(problems(kind, &config), expected, "{kind} {config}");
    }
}

/// What a topic gets: `key timestamp value`.
fn messages(config: &Value, rows: &RecordBatch) -> Vec<String> {
    let mut sink = open("topic", config, Path::new("."));
    let text = |bytes: Option<Vec<u8>>| bytes.map_or("-".to_owned(), |bytes| String::from_utf8(bytes).expect("text"));
    let append = sink.prepare(rows).expect("writable").expect("there are rows");
    assert_eq!(append.topic, "t");
    let shown = |message: crate::broker::Message| {
        format!("{} {} {}", text(message.key), message.timestamp_ms, text(message.value))
    };
    append.messages.into_iter().map(shown).collect()
}

#[test]
fn topics() {
    let rows = rows(0, 2);
    for (config, expected) in [
        (json!({"name": "t"}), [r#"- 0 {"letter":"a","number":0.0}"#, r#"- 1000 {"letter":"b","number":null}"#]),
        (
            json!({"name": "t", "key": "letter", "format": {"json": {"nulls": "omit"}}}),
            [r#"a 0 {"letter":"a","number":0.0}"#, r#"b 1000 {"letter":"b"}"#],
        ),
        (json!({"name": "t", "key": "number", "format": "csv"}), ["0.0 0 a,0.0", "- 1000 b,"]),
        (
            json!({"name": "t", "format": "csv", "meta": true}),
            ["- 0 1,2,0,0,1970-01-01T00:00:00.000Z,a,0.0", "- 1000 1,2,1,0,1970-01-01T00:00:01.000Z,b,"],
        ),
    ] {
        assert_eq!(messages(&config, &rows), expected, "{config}");
    }
    let mut sink = open("topic", &json!({"name": "t"}), Path::new("."));
    assert_eq!(sink.prepare(&rows.slice(0, 0)).expect("nothing to write"), None);
}

#[test]
fn lines_are_appended() {
    let folder = tempfile::tempdir().expect("a folder");
    for (path, cut, expected) in [
        (
            "new/a.jsonl",
            "",
            "{\"letter\":\"a\",\"number\":0.0}\n{\"letter\":\"b\",\"number\":null}\n{\"letter\":\"c\",\"number\":2.0}\n",
        ),
        ("b.csv", "", "\"letter\",\"number\"\na,0.0\nb,\nc,2.0\n"),
        ("c.csv", "\"letter\",\"num", "\"letter\",\"num\na,0.0\nb,\nc,2.0\n"),
    ] {
        let whole = folder.path().join(path);
        if !cut.is_empty() {
            std::fs::write(&whole, cut).expect("disk");
        }
        for (from, to) in [(0, 1), (1, 1), (1, 3)] {
            // Each time as after a restart.
            let mut sink = open("file", &json!({"path": path}), folder.path());
            assert_eq!(sink.prepare(&rows(from, to)).expect("nothing to do"), None);
            sink.committed(&rows(from, to)).expect("disk");
        }
        assert_eq!(std::fs::read_to_string(whole).expect("written"), expected);
    }
}

#[test]
fn parquet_parts_are_whole_after_each_commit() {
    let folder = tempfile::tempdir().expect("a folder");
    let parts = || {
        let mut paths: Vec<_> = std::fs::read_dir(folder.path().join("p.parquet"))
            .expect("made")
            .map(|entry| entry.expect("listed").path())
            .collect();
        paths.sort();
        let read = |path: &PathBuf| -> Vec<String> {
            let file = std::fs::File::open(path).expect("there");
            let reader = ParquetRecordBatchReaderBuilder::try_new(file)
                .and_then(ParquetRecordBatchReaderBuilder::build)
                .expect("whole");
            reader.flat_map(|batch| shown(&batch.expect("readable"))).collect()
        };
        paths.iter().map(read).collect::<Vec<_>>()
    };
    let mut sink = open("file", &json!({"path": "p.parquet"}), folder.path());
    for (from, to, expected) in [(0, 1, vec!["a|0.0"]), (1, 1, vec!["a|0.0"]), (1, 3, vec!["a|0.0", "b|", "c|2.0"])] {
        sink.committed(&rows(from, to)).expect("disk");
        assert_eq!(parts(), [expected]);
    }
    // Enough for a row group that is copied from then on; and then for a part.
    sink.committed(&rows(3, 4000)).expect("disk");
    for (from, to) in [(4000, 4010), (4010, 7000), (7000, 7001)] {
        sink.committed(&rows(from, to)).expect("disk");
        let all = rows(0, to);
        assert_eq!(parts(), [shown(&Written::new(&all.schema(), false).of(&all).expect("its columns"))]);
    }
    sink.committed(&rows(7001, 20_000)).expect("disk");
    sink.committed(&rows(20_000, 20_001)).expect("disk");
    let mut sink = open("file", &json!({"path": "p.parquet"}), folder.path());
    sink.committed(&rows(20_001, 20_003)).expect("disk");
    assert_eq!(parts().iter().map(Vec::len).collect::<Vec<_>>(), [20_000, 1, 2]);
}
