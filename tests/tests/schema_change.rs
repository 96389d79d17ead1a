//! Columns that change in mid-stream: what still fits goes on, and what does not becomes dead letters from that offset on,
//! which say which column has become what.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, ListArray, RecordBatch, StringArray};
use arrow::datatypes::Int64Type;
use millstream_pipelines::dead::{Filter, Groups};
use millstream_tests::{Site, message};
use serde_json::Value;

/// A stream's rows go to a topic as JSON.
const DEFINITION: &str = r"
millstream: 1
name: orders
sources:
  orders:
    from: FROM
    FORMAT
    columns: {id: int, amount: float, note: text}
    REQUIRED
streams:
  same: {input: orders}
sinks:
  rows: {from: same, to: {topic: {name: rows}}}
";

fn definition(from: &str, format: &str, required: &str) -> String {
    DEFINITION.replace("FROM", from).replace("FORMAT", format).replace("REQUIRED", required)
}

/// Runs; gives the rows as `id|amount|note`, and what is said of the columns.
fn found(site: &Site) -> (BTreeSet<String>, Vec<String>) {
    site.run();
    let row = |value: Value| format!("{}|{}|{}", value["id"], value["amount"], value["note"]);
    let rows = site.records("rows").iter().map(|record| row(record.json())).collect();
    let groups = Groups::read(&*site.broker(), "orders", &Filter::default()).expect("it can be read");
    let text = groups.text();
    let said =
        text.lines().take_while(|line| groups.groups.iter().any(|group| group.column.is_some()) && !line.is_empty());
    (rows, said.map(str::to_owned).collect())
}

fn check(site: &Site, rows: &[&str], said: &[&str]) {
    let found = found(site);
    assert_eq!(found.0, rows.iter().map(|row| (*row).to_owned()).collect(), "{:?}", found.1);
    assert_eq!(found.1, said);
}

fn json(required: &str, records: &[&str]) -> Site {
    let site = Site::new(&definition("{topic: {name: orders}}", "format: json", required), &[]);
    let messages: Vec<_> = records.iter().map(|record| message(None, *record)).collect();
    site.append("orders", &messages);
    site
}

#[test]
fn json_columns() {
    let records = [
        r#"{"id": 1, "amount": 1.5, "note": "a"}"#,
        // Added, reordered, an int for a float, removed.
        r#"{"id": 2, "amount": 2.5, "note": "b", "more": {"x": [1]}}"#,
        r#"{"note": "c", "id": 3, "amount": 3}"#,
        r#"{"id": 4, "note": "d"}"#,
        // Retyped.
        r#"{"id": 5, "amount": "5,0", "note": "e"}"#,
        r#"{"id": 6, "amount": "6,0", "note": "f"}"#,
        r#"{"id": 7.5, "amount": 7, "note": "g"}"#,
        r#"{"id": 8, "amount": 8, "note": "h"}"#,
    ];
    let rows = [r#"1|1.5|"a""#, r#"2|2.5|"b""#, r#"3|3.0|"c""#, r#"8|8.0|"h""#];
    let text = "orders/0 from offset 4: `amount` is text, not float (2 records, all up to offset 5)";
    let number = "orders/0 from offset 6: `id` is number, not int (1 record, all up to offset 6)";
    check(&json("", &records), &[&rows[..], &[r#"4|null|"d""#]].concat(), &[text, number]);
    let missing = "orders/0 from offset 3: `amount` is missing, and required (float) (1 record, all up to offset 3)";
    check(&json("required: [amount]", &records), &rows, &[missing, text, number]);
}

#[test]
fn csv_columns_are_found_by_the_header_of_their_file() {
    let files: [(&str, &[u8]); 6] = [
        ("in/1.csv", b"id,amount,note\n1,1.5,a\n"),
        ("in/2-added.csv", b"id,more,amount,note\n2,x,2.5,b\n"),
        ("in/3-reordered.csv", b"note,amount,id\nc,3,3\n"),
        ("in/4-removed.csv", b"id,note\n4,d\n"),
        ("in/5-retyped.csv", b"amount,id,note\n5.5,5,e\nsix,6,f\nseven,7,g\n8,8.5,h\n"),
        ("in/6.csv", b"id,amount,note\n9,9,\"i\"\n9,9\n"),
    ];
    let site = |required| Site::new(&definition("{file: {path: \"in/*.csv\"}}", "format: csv", required), &files);
    let rows = [r#"1|1.5|"a""#, r#"2|2.5|"b""#, r#"3|3.0|"c""#, r#"5|5.5|"e""#, r#"9|9.0|"i""#];
    let text = "orders/4 from offset 1: `amount` is text, not float (2 records, all up to offset 2)";
    let number = "orders/4 from offset 3: `id` is text, not int (1 record, all up to offset 3)";
    check(&site(""), &[&rows[..], &[r#"4|null|"d""#]].concat(), &[text, number]);
    let missing = "orders/3 from offset 0: `amount` is missing, and required (float) (1 record, all up to offset 0)";
    check(&site("required: [amount, id]"), &rows, &[missing, text, number]);
}

fn parquet(columns: &[(&str, ArrayRef)]) -> Vec<u8> {
    let batch = RecordBatch::try_from_iter(columns.iter().map(|(name, column)| (*name, column.clone())));
    let batch = batch.expect("equally long");
    let mut bytes = Vec::new();
    let mut writer = parquet::arrow::ArrowWriter::try_new(&mut bytes, batch.schema(), None).expect("a schema");
    writer.write(&batch).and_then(|()| writer.close().map(drop)).expect("memory");
    bytes
}

#[test]
fn parquet_columns() {
    let ints = |values: &[i64]| Arc::new(Int64Array::from(values.to_vec())) as ArrayRef;
    let floats = |values: &[f64]| Arc::new(Float64Array::from(values.to_vec())) as ArrayRef;
    let texts = |values: &[&str]| Arc::new(StringArray::from(values.to_vec())) as ArrayRef;
    let lists = Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>([Some([Some(1)])])) as ArrayRef;
    let files = [
        ("in/1.parquet", parquet(&[("id", ints(&[1])), ("amount", floats(&[1.5])), ("note", texts(&["a"]))])),
        (
            "in/2.parquet",
            // Added, reordered, an int for a float.
            parquet(&[("more", ints(&[0])), ("note", texts(&["b"])), ("amount", ints(&[2])), ("id", ints(&[2]))]),
        ),
        ("in/3.parquet", parquet(&[("id", ints(&[3])), ("note", texts(&["c"]))])),
        (
            "in/4.parquet",
            parquet(&[
                ("id", ints(&[4, 5, 6])),
                ("amount", texts(&["4.5", "five", "six"])),
                ("note", texts(&["d"; 3])),
            ]),
        ),
        (
            "in/5.parquet",
            parquet(&[("id", floats(&[7.0, 7.5])), ("amount", floats(&[7.0; 2])), ("note", texts(&["e"; 2]))]),
        ),
        ("in/6.parquet", parquet(&[("id", ints(&[8])), ("amount", lists), ("note", texts(&["f"]))])),
        ("in/7.parquet", parquet(&[("id", ints(&[9])), ("amount", floats(&[9.0])), ("note", texts(&["g"]))])),
    ];
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
    let site = |required| Site::new(&definition("{file: {path: \"in/*.parquet\"}}", "", required), &files);
    let rows = [r#"1|1.5|"a""#, r#"2|2.0|"b""#, r#"4|4.5|"d""#, r#"7|7.0|"e""#, r#"9|9.0|"g""#];
    let said = [
        "orders/3 from offset 1: `amount` is text, not float (2 records, all up to offset 2)",
        "orders/4 from offset 1: `id` is number, not int (1 record, all up to offset 1)",
        "orders/5 from offset 0: `amount` is array, not float (1 record, all up to offset 0)",
    ];
    check(&site(""), &[&rows[..], &[r#"3|null|"c""#]].concat(), &said);
    let missing = "orders/2 from offset 0: `amount` is missing, and required (float) (1 record, all up to offset 0)";
    check(&site("required: [amount]"), &rows, &[&[missing], &said[..]].concat());
}

/// A restart reads each file by its own header again.
#[test]
fn a_restart_gives_the_same() {
    let files: [(&str, &[u8]); 2] =
        [("in/1.csv", b"id,amount,note\n1,1.5,a\n2,2.5,b\n"), ("in/2.csv", b"note,amount,id\nc,3,3\nd,4,4\n")];
    let site = Site::new(&definition("{file: {path: \"in/*.csv\"}}", "format: csv", ""), &files);
    let first = found(&site);
    assert_eq!(first.0.len(), 4);
    assert_eq!(found(&site), first);
}
