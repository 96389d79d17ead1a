//! Cases of files.

use std::io::Write;
use std::path::Path;

use ::parquet::arrow::ArrowWriter;
use ::parquet::file::properties::WriterProperties;
use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use millstream_engine::raw::Payload;
use serde_json::json;

use super::*;
use crate::formats::tests::{columns, decode};
use crate::sources::tests::{check_resuming, read_all, shown, world};

/// The largest record of these tests.
const LIMIT: usize = 40;

fn source(folder: &Path, config: &Value) -> Arc<dyn Source> {
    (plan(config).expect("a good configuration").open)(&world(folder, LIMIT)).expect("there are files")
}

fn write(folder: &Path, name: &str, content: &[u8]) {
    let file = std::fs::File::create(folder.join(name)).expect("a new folder");
    let compression = Compression::of(Path::new(name));
    if compression == Compression::Gzip {
        let mut packed = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
        packed.write_all(content).and_then(|()| packed.finish()).expect("disk");
    } else if compression == Compression::Zstd {
        zstd::stream::copy_encode(content, file, 1).expect("disk");
    } else {
        (&file).write_all(content).expect("disk");
    }
}

fn from_start(source: &dyn Source) -> Vec<Position> {
    source.partitions().expect("found").into_iter().map(|partition| Position { partition, offset: 0 }).collect()
}

/// One file of `name` is read as `expected`, resumable at every record.
fn check(name: &str, config: Value, content: &[u8], expected: &[&str]) {
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), name, content);
    let mut config = config;
    config["path"] = json!(name);
    let source = source(folder.path(), &config);
    assert_eq!(shown(&read_all(&*source, &from_start(&*source), 64)), expected, "{name}: {}", content.escape_ascii());
    check_resuming(&*source, 0);
}

#[test]
fn lines() {
    for name in ["a.jsonl", "a.json.gz", "a.ndjson.zst"] {
        check(name, json!({}), b"one\ntwo\nthree\n", &["0/0 one", "0/1 two", "0/2 three"]);
        check(name, json!({}), b"no end", &["0/0 no end"]);
        check(name, json!({}), b"a\r\nb\r\n", &["0/0 a", "0/1 b"]);
        check(name, json!({}), b"\xef\xbb\xbfmark\n", &["0/0 mark"]);
        check(name, json!({}), b"\n \na\n\n\r\nb\n\n", &["0/2 a", "0/5 b"]);
        check(name, json!({}), b"\"a\nb\"\n", &["0/0 \"a", "0/1 b\""]);
        check(name, json!({}), b"", &[]);
        check(name, json!({}), b"\xef\xbb\xbf", &[]);
        check(name, json!({}), b"\n\n", &[]);
    }
}

#[test]
fn csv_records() {
    for name in ["a.csv", "a.csv.gz", "a.tsv.zst"] {
        check(name, json!({}), b"x,y\n1,2\n3,4", &["0/0 1,2", "0/1 3,4"]);
        check(name, json!({"header": false}), b"1,2\r\n3,4\r\n", &["0/0 1,2", "0/1 3,4"]);
        check(name, json!({}), b"\xef\xbb\xbf\"x\ny\",z\n1,2\n", &["0/0 1,2"]);
        check(name, json!({}), b"x,y\n", &[]);
        check(name, json!({}), b"", &[]);
        check(name, json!({}), b"x\n\"a\nb\",1\n2\n", &["0/0 \"a\nb\",1", "0/1 2"]);
        check(name, json!({}), b"x\n\"a\"\"\n\"\"b\"\n2\n", &["0/0 \"a\"\"\n\"\"b\"", "0/1 2"]);
        check(name, json!({}), b"x\n1;\"a\nb\";\"\"\n2\n", &["0/0 1;\"a\nb\";\"\"", "0/1 2"]);
        check(name, json!({}), b"x\n5\" pipe,1\n2\n", &["0/0 5\" pipe,1", "0/1 2"]);
    }
}

#[test]
fn overlong_records_are_cut_and_the_next_is_whole() {
    let long = "x".repeat(1000);
    let kept = format!("0/1 {}", "x".repeat(LIMIT + 1));
    let exact = "y".repeat(LIMIT);
    for name in ["a.jsonl", "a.csv"] {
        let content = format!("a\n{long}\n{exact}\r\nb\n");
        let expected = ["0/0 a", &kept, &format!("0/2 {exact}"), "0/3 b"];
        check(name, json!({"header": false}), content.as_bytes(), &expected);
    }
    // An unclosed quote ends with the line in which the limit is passed.
    let content = format!("a\n\"{}b\n", "0123456789\n".repeat(6));
    let kept = format!("0/1 \"{}0123456", "0123456789\n".repeat(3));
    let expected = ["0/0 a", &kept, "0/2 0123456789", "0/3 0123456789", "0/4 b"];
    check("a.csv", json!({"header": false}), content.as_bytes(), &expected);
}

#[test]
fn a_line_of_100_megabytes_is_one_dead_letter_and_is_never_held() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut content = b"{}\n{\"s\":\"".to_vec();
    content.resize(100_000_000, b'x');
    content.extend_from_slice(b"\"}\n{}\n");
    write(folder.path(), "a.jsonl.zst", &content);
    drop(content);
    let source = source(folder.path(), &json!({"path": "a.jsonl.zst"}));
    let batches = read_all(&*source, &from_start(&*source), 1 << 20);
    let [batch] = batches.as_slice() else { panic!("one batch") };
    let Payload::Bytes(values) = &batch.payload else { panic!("bytes") };
    assert_eq!(batch.bytes(), 2 + (LIMIT + 1) + 2);
    assert!(values.values().capacity() < 4 * LIMIT, "the line was held");
    let format = crate::formats::plan(&json!("json"), &columns(&[("s", "text")])).expect("good");
    let decoded = crate::formats::limited(format.decoder, LIMIT)().decode(batch).expect("bytes");
    assert_eq!(decoded.record, [0, 2]);
    assert_eq!(decoded.rejects, [(1, "larger than the limit of 40 bytes".to_owned())]);
}

#[test]
fn what_is_cut_from_a_csv_file_is_what_its_format_reads() {
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), "a.csv", b"a,b\n\"x\ny\",1\n,\n\"q\"\"q\",2\n");
    let source = source(folder.path(), &json!({"path": "a.csv"}));
    let batches = read_all(&*source, &from_start(&*source), 1 << 20);
    let Payload::Bytes(values) = &batches[0].payload else { panic!("bytes") };
    let records: Vec<&[u8]> = values.iter().flatten().collect();
    let decoded = decode(&json!("csv"), &columns(&[("a", "text"), ("b", "int")]), &records);
    assert_eq!(crate::formats::tests::shown(&decoded.rows), ["x\ny|1", "|", "q\"q|2"]);
}

fn write_parquet(path: &Path, rows: i64, group_rows: usize) {
    let columns = [
        ("n", Arc::new(Int64Array::from_iter_values(0..rows)) as ArrayRef),
        ("s", Arc::new(StringArray::from_iter_values((0..rows).map(|n| format!("row {n}"))))),
    ];
    let batch = RecordBatch::try_from_iter(columns).expect("equally long");
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(group_rows)).build();
    let file = std::fs::File::create(path).expect("a new folder");
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).expect("a schema");
    writer.write(&batch).and_then(|()| writer.close().map(|_| ())).expect("disk");
}

#[test]
fn parquet_rows() {
    let folder = tempfile::tempdir().expect("a folder");
    write_parquet(&folder.path().join("a.parquet"), 25, 7);
    write_parquet(&folder.path().join("b.parquet"), 0, 7);
    let files = source(folder.path(), &json!({"path": "*.parquet"}));
    let batches = read_all(&*files, &from_start(&*files), 64);
    assert!(batches.len() > 5, "read in parts");
    let expected: Vec<String> = (0..25).map(|n| format!("0/{n} {n}|row {n}")).collect();
    assert_eq!(shown(&batches), expected);
    check_resuming(&*files, 0);
    let mut reader = files.open(&from_start(&*files)).expect("good positions");
    while reader.read(64, Duration::ZERO).expect("readable").is_some() {}
    let ends = [(0, 25), (1, 0)].map(|(partition, offset)| Position { partition, offset });
    assert_eq!(reader.ends().expect("known"), ends);
}

#[test]
fn globs_are_sorted_and_files_are_partitions() {
    let folder = tempfile::tempdir().expect("a folder");
    let odd = folder.path().join("odd [folder]");
    std::fs::create_dir_all(odd.join("sub.csv")).expect("a new folder");
    for name in ["b.csv", "a.csv", "c.csv.gz", "d.json"] {
        write(&odd, name, format!("h\n{name}\n").as_bytes());
    }
    let files = source(&odd, &json!({"path": "*.csv*", "type": "csv"}));
    let all = ["0/0 a.csv", "1/0 b.csv", "2/0 c.csv.gz"];
    assert_eq!(shown(&read_all(&*files, &from_start(&*files), 100)), all);
    let some = [(2, 0), (1, 1)].map(|(partition, offset)| Position { partition, offset });
    assert_eq!(shown(&read_all(&*files, &some, 100)), all[2..]);
    assert!(files.is_finite());
}

#[test]
fn what_is_not_there_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), "a.csv", b"h\n1\n");
    write(folder.path(), "cut.json.gz", b"a\nb\n");
    let whole = std::fs::read(folder.path().join("cut.json.gz")).expect("written");
    std::fs::write(folder.path().join("cut.json.gz"), &whole[..whole.len() - 6]).expect("disk");
    std::fs::write(folder.path().join("no.parquet"), b"PAR1 but not really").expect("disk");
    let fault = |config: Value, partition, offset| {
        let source = (plan(&config).expect("good").open)(&world(folder.path(), LIMIT))?;
        let mut reader = source.open(&[Position { partition, offset }])?;
        while reader.read(100, Duration::ZERO)?.is_some() {}
        Ok::<(), Fault>(())
    };
    for (path, partition, offset, message) in [
        ("none.csv", 0, 0, "there is no file"),
        ("a.csv", 1, 0, "file 1 is no longer there"),
        ("a.csv", 0, 2, "a.csv has 1 records; there is no offset 2"),
        ("cut.json.gz", 0, 0, "cut.json.gz: "),
        ("no.parquet", 0, 0, "no.parquet: "),
    ] {
        let found = fault(json!({"path": path}), partition, offset).expect_err(path).message;
        assert!(found.contains(message), "{found}");
    }
    assert!(fault(json!({"path": "a.csv"}), 0, 1).is_ok(), "the end is a position");
}

#[test]
fn finds_problems() {
    for (config, path, code) in [
        (json!({"path": "data/*"}), "type", "unknown-type"),
        (json!({"path": "data/a.gz"}), "type", "unknown-type"),
        (json!({"path": "a/***/b.csv"}), "path", "bad-pattern"),
        (json!({"path": "a.csv", "type": "xml"}), "type", "bad-value"),
    ] {
        let problems = plan(&config).err().expect("a problem");
        assert_eq!((problems[0].path.join(".").as_str(), problems[0].code), (path, code), "{config}");
    }
}
