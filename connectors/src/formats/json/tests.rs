//! Cases, and a comparison with an independent parser.

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Float64Type, Int64Type};
use proptest::prelude::*;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use crate::formats::tests::{check, columns, decode, seeded};

const DECLARED: [(&str, &str); 5] = [("i", "int"), ("f", "float"), ("b", "bool"), ("t", "timestamp"), ("s", "text")];

fn case(record: &str, expected: Result<&str, &str>) {
    check(&json!("json"), &DECLARED, record, expected);
}

#[test]
fn good_records() {
    for (record, row) in [
        (r#"{"i":1,"f":2.5,"b":true,"t":"1970-01-01T00:00:01Z","s":"x"}"#, "1|2.5|true|1970-01-01T00:00:01|x"),
        (" { \"s\" : \"x\" ,\t\"i\" :\r\n -7 } ", "-7||||x"),
        ("{}", "||||"),
        (r#"{"i":null,"f":null,"b":null,"t":null,"s":null}"#, "||||"),
        (r#"{"i":9223372036854775807}"#, "9223372036854775807||||"),
        (r#"{"i":-9223372036854775808}"#, "-9223372036854775808||||"),
        (r#"{"i":-0,"f":-0.0}"#, "0|-0.0|||"),
        (r#"{"f":3}"#, "|3.0|||"),
        (r#"{"f":1e-400}"#, "|0.0|||"),
        (r#"{"f":1.7976931348623157e308}"#, "|1.7976931348623157e308|||"),
        (r#"{"f":123456789012345678901234567890}"#, "|1.2345678901234568e29|||"),
        (r#"{"t":1500}"#, "|||1970-01-01T00:00:01.500|"),
        (r#"{"t":-1}"#, "|||1969-12-31T23:59:59.999|"),
        (r#"{"t":1500.9}"#, "|||1970-01-01T00:00:01.500|"),
        (r#"{"t":"1970-01-01 00:00:01"}"#, "|||1970-01-01T00:00:01|"),
        (r#"{"s":"a\"\\\/\b\f\n\r\té\ud83d\ude00z"}"#, "||||a\"\\/\u{8}\u{c}\n\r\té😀z"),
        (r#"{"s":{"a":[1, "x"]}}"#, r#"||||{"a":[1, "x"]}"#),
        (r#"{"s":[]}"#, "||||[]"),
        (r#"{"\u0073":"escaped key"}"#, "||||escaped key"),
        (r#"{"i":1,"i":2,"i":null,"i":3,"s":"long","s":"é"}"#, "3||||é"),
        (r#"{"other":{"deep":[{"x":-1.5e+3},true,false,null,"\u00e9"]},"i":1,"more":{}}"#, "1||||"),
    ] {
        case(record, Ok(row));
    }
}

/// Numbers are read eight bytes at a time where as many are left; so each is followed by few bytes, and by many.
#[test]
fn short_numbers_agree_with_the_standard_library() {
    let wholes = ["0", "7", "12", "345", "9999", "12345", "678901", "1234567", "12345678", "123456789012", "00", "01"];
    let parts = [
        "",
        ".",
        ".0",
        ".5",
        ".25",
        ".125",
        ".0001",
        ".99999",
        ".123456",
        ".1234567",
        ".12345678",
        ".1.2",
        ".5e1",
        "e2",
    ];
    for text in wholes.iter().flat_map(|whole| parts.map(|part| format!("{whole}{part}"))) {
        for (sign, rest) in
            ["", "-"].into_iter().flat_map(|sign| ["", "       ", r#","s":"behind it""#].map(|rest| (sign, rest)))
        {
            let number = format!("{sign}{text}");
            let is_good = serde_json::from_str::<f64>(&number).is_ok();
            let record = format!(r#"{{"f":{number}{rest}}}"#);
            let decoded = decode(&json!("json"), &columns(&DECLARED), &[record.as_bytes()]);
            assert_eq!(decoded.rejects.is_empty(), is_good, "{record}");
            if is_good {
                let found = decoded.rows.column(1).as_primitive::<Float64Type>().value(0);
                let expected: f64 = number.parse().expect("a number");
                assert_eq!(found.to_bits(), expected.to_bits(), "{record}");
            }
        }
    }
}

#[test]
fn change_records() {
    let declared = [("id", "int"), ("s", "text"), ("op", "text")];
    let envelope = json!({"json": {"envelope": "debezium"}});
    for (record, expected) in [
        (r#"{"before":null,"after":{"id":1,"s":"x"},"op":"c","ts_ms":7}"#, Ok("1|x|c")),
        (r#"{"op":"u","before":{"id":1,"s":"x"},"after":{"id":1,"s":"y"}}"#, Ok("1|y|u")),
        (r#"{"before":{"id":1,"s":"y"},"after":null,"op":"d"}"#, Ok("1|y|d")),
        (r#"{"schema":{"fields":[]},"payload":{"after":{"id":2},"op":"r"}}"#, Ok("2||r")),
        (r#"{"before":null,"after":null,"op":"d"}"#, Err("the change `d` has no `before`")),
        (r#"{"id":1,"s":"x"}"#, Err("a change record has an `op`")),
        (r#"{"op":"c","after":{"id":"x"}}"#, Err("column `id`: expected an int, found the text \"x\"")),
    ] {
        check(&envelope, &declared, record, expected);
    }
}

#[test]
fn bad_records() {
    let deep = format!(r#"{{"s":{}1{}}}"#, "[".repeat(65), "]".repeat(65));
    for (record, reason) in [
        ("", "not JSON: cut off at byte 0: expected `{`"),
        ("[]", "not JSON at byte 0: expected `{`"),
        (r#"{"i":1"#, "not JSON: cut off at byte 6: expected `}`"),
        (r#"{"i":1}}"#, "not JSON at byte 7: expected the end"),
        (r#"{"i":1} {"i":2}"#, "not JSON at byte 8: expected the end"),
        (r#"{"i":1,}"#, "not JSON at byte 7: expected `\"`"),
        (r#"{"i" 1}"#, "not JSON at byte 5: expected `:`"),
        (r"{i:1}", "not JSON at byte 1: expected `\"`"),
        (r#"{"i":}"#, "column `i`: not JSON at byte 5: expected a value"),
        (r#"{"i":01}"#, "not JSON at byte 6: expected `}`"),
        (r#"{"i":1.}"#, "column `i`: not JSON at byte 7: expected a value"),
        (r#"{"i":-}"#, "column `i`: not JSON at byte 6: expected a value"),
        (r#"{"f":1e}"#, "column `f`: not JSON at byte 7: expected a digit"),
        (r#"{"f":.5}"#, "column `f`: not JSON at byte 5: expected a value"),
        (r#"{"f":NaN}"#, "column `f`: not JSON at byte 5: expected a value"),
        (r#"{"f":Infinity}"#, "column `f`: not JSON at byte 5: expected a value"),
        (r#"{"f":-Infinity}"#, "column `f`: not JSON at byte 6: expected a value"),
        (r#"{"f":1e999}"#, "column `f`: expected a finite float, found the number 1e999"),
        (r#"{"f":"1.5"}"#, "column `f`: expected a float, found the text \"1.5\""),
        (r#"{"i":3.0}"#, "column `i`: expected an int of 64 bits, found the number 3.0"),
        (r#"{"i":1e3}"#, "column `i`: expected an int of 64 bits, found the number 1e3"),
        (
            r#"{"i":9223372036854775808}"#,
            "column `i`: expected an int of 64 bits, found the number 9223372036854775808",
        ),
        (r#"{"i":true}"#, "column `i`: expected an int, found the truth value true"),
        (r#"{"b":1}"#, "column `b`: expected true or false, found the number 1"),
        (r#"{"b":tru}"#, "column `b`: not JSON at byte 5: expected a value"),
        (r#"{"s":5}"#, "column `s`: expected a text, found the number 5"),
        (r#"{"f":{"a": 1}}"#, "column `f`: expected a float, found the object {\"a\": 1}"),
        (
            r#"{"t":"yesterday"}"#,
            "column `t`: expected a timestamp like 2026-01-31T12:30:00Z, found the text \"yesterday\"",
        ),
        (
            r#"{"t":9223372036854775807}"#,
            "column `t`: expected a timestamp like 2026-01-31T12:30:00Z, found the number 9223372036854775807",
        ),
        (
            r#"{"i":"a text that is longer than what is shown of it"}"#,
            "column `i`: expected an int, found the text \"a text that is longer than what…",
        ),
        (r#"{"s":"a"#, "column `s`: not JSON: cut off at byte 7: expected `\"`"),
        ("{\"s\":\"a\nb\"}", "column `s`: not JSON at byte 7: control characters in texts must be escaped"),
        (r#"{"s":"\x"}"#, "column `s`: not JSON at byte 6: no such escape"),
        (r#"{"s":"\u12g4"}"#, "column `s`: not JSON at byte 6: expected four hexadecimal digits"),
        (r#"{"s":"\ud800"}"#, "column `s`: not JSON at byte 6: half a surrogate pair"),
        (r#"{"s":"\ud800\u0041"}"#, "column `s`: not JSON at byte 6: half a surrogate pair"),
        (r#"{"s":"\udc00"}"#, "column `s`: not JSON at byte 6: half a surrogate pair"),
        (r#"{"other":[1,]}"#, "not JSON at byte 12: expected a value"),
        (deep.as_str(), "column `s`: nested deeper than 64"),
    ] {
        case(record, Err(reason));
    }
}

#[test]
fn options() {
    let reject = json!({"json": {"unknown": "reject"}});
    check(&reject, &DECLARED, r#"{"i":1,"other":2}"#, Err("unknown key `other`"));
    check(&reject, &DECLARED, r#"{"i":1}"#, Ok("1||||"));
    let seconds = json!({"json": {"timestamps": "s"}});
    check(&seconds, &DECLARED, r#"{"t":2}"#, Ok("|||1970-01-01T00:00:02|"));
    check(&seconds, &DECLARED, r#"{"t":1.25}"#, Ok("|||1970-01-01T00:00:01.250|"));
}

#[test]
fn a_bad_record_leaves_nothing_behind() {
    let good = br#"{"i":1,"f":1.5,"b":true,"t":0,"s":"good"}"#.as_slice();
    let bad = br#"{"s":"bad","t":9,"b":false,"f":9.5,"i":9,"x"}"#.as_slice();
    let alone = decode(&json!("json"), &columns(&DECLARED), &[good, good]);
    let among = decode(&json!("json"), &columns(&DECLARED), &[bad, good, bad, bad, good, bad]);
    assert_eq!(among.rows, alone.rows);
    assert_eq!(among.record, [1, 4]);
    assert_eq!(among.rejects.len(), 4);
}

type Row = (Option<i64>, Option<f64>, Option<bool>, Option<String>);

/// An object's entries, of equal keys all.
struct Entries(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit;
        impl<'de> Visitor<'de> for Visit {
            type Value = Entries;
            fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(Visit)
    }
}

/// What the record should become, by an independent parser; `None` if it must be rejected.
fn oracle(record: &str) -> Option<Row> {
    let mut row = Row::default();
    for (key, value) in serde_json::from_str::<Entries>(record).ok()?.0 {
        let null = value.is_null();
        match key.as_str() {
            "i" => row.0 = if null { None } else { Some(value.as_i64()?) },
            "f" => row.1 = if null { None } else { Some(value.as_f64()?) },
            "b" => row.2 = if null { None } else { Some(value.as_bool()?) },
            "s" => row.3 = if null { None } else { Some(value.as_str()?.to_owned()) },
            _ => {}
        }
    }
    Some(row)
}

fn ours(record: &str) -> Option<Row> {
    let declared = columns(&[("i", "int"), ("f", "float"), ("b", "bool"), ("s", "text")]);
    let rows = decode(&json!("json"), &declared, &[record.as_bytes()]).rows;
    if rows.num_rows() == 0 {
        return None;
    }
    let valid = |column: usize| rows.column(column).is_valid(0);
    Some((
        valid(0).then(|| rows.column(0).as_primitive::<Int64Type>().value(0)),
        valid(1).then(|| rows.column(1).as_primitive::<Float64Type>().value(0)),
        valid(2).then(|| rows.column(2).as_boolean().value(0)),
        valid(3).then(|| rows.column(3).as_string::<i32>().value(0).to_owned()),
    ))
}

/// Numbers of all shapes, as text.
fn number() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<i64>().prop_map(|number| number.to_string()),
        any::<f64>()
            .prop_filter("JSON has no such number", |number| number.is_finite())
            .prop_map(|number| format!("{number:e}")),
        "-?(0|[1-9][0-9]{0,22})(\\.[0-9]{1,22})?([eE][+-]?[0-9]{1,2})?"
            .prop_filter("the oracle takes it for a float", |text| text != "-0"),
    ]
}

/// Values, most of them of a declared type.
fn literal() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => number(),
        4 => ".{0,12}".prop_map(|text| Value::from(text).to_string()),
        2 => "(\\\\u[0-9a-f]{4}|\\\\[nrt\"/]|[a-z\"]|[é😀]){0,6}".prop_map(|text| format!("\"{text}\"")),
        1 => prop_oneof![Just("true"), Just("false"), Just("null")].prop_map(str::to_owned),
    ]
}

fn document() -> impl Strategy<Value = String> {
    let key = prop_oneof![Just("i"), Just("f"), Just("b"), Just("s"), Just("other"), Just("")];
    let nested = prop_oneof![3 => literal(), 1 => proptest::collection::vec(literal(), 0..3).prop_map(|items| format!("[{}]", items.join(" , ")))];
    let entry = (key, literal(), nested).prop_map(|(key, literal, nested)| {
        // A nested value under a text column is ours to keep; the oracle knows only texts.
        let value = if key == "s" { literal } else { nested };
        format!("\"{key}\" :{value}")
    });
    proptest::collection::vec(entry, 0..6).prop_map(|entries| format!("{{{}}}", entries.join(",")))
}

proptest! {
    #![proptest_config(seeded(2000))]

    #[test]
    fn agrees_with_serde_json(record in document()) {
        prop_assert_eq!(ours(&record), oracle(&record), "{}", record);
    }

    #[test]
    fn one_good_column_agrees_bit_for_bit(number in number()) {
        let record = format!("{{\"f\":{number}}}");
        let bits = |row: Option<Row>| row.and_then(|row| row.1).map(f64::to_bits);
        prop_assert_eq!(bits(ours(&record)), bits(oracle(&record)), "{}", record);
    }

    #[test]
    fn a_changed_document_is_never_taken_where_serde_json_refuses(record in document(), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
        let mut bytes = record.into_bytes();
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] = byte }
        if let Ok(record) = String::from_utf8(bytes) {
            let taken = ours(&record).is_some();
            // A number that overflows is refused by the oracle wherever it stands; we refuse it only in a column.
            let overflow = serde_json::from_str::<Value>(&record).is_err_and(|error| error.to_string().contains("out of range"));
            prop_assert!(!taken || overflow || serde_json::from_str::<Value>(&record).is_ok(), "{}", record);
        }
    }
}

/// Not a check but a figure: `cargo test --release … speed -- --ignored --nocapture`.
#[test]
#[ignore = "measures"]
fn speed() {
    use millstream_engine::time::Stopwatch;

    #[derive(Deserialize)]
    #[allow(dead_code, reason = "only the parsing is measured")]
    struct Reading<'a> {
        sensor: &'a str,
        at: &'a str,
        temperature: Option<f64>,
        humidity: Option<f64>,
        pressure: Option<f64>,
        vibration: Option<f64>,
        count: Option<i64>,
        faulty: Option<bool>,
    }
    let declared = columns(&[
        ("sensor", "text"),
        ("at", "timestamp"),
        ("temperature", "float"),
        ("humidity", "float"),
        ("pressure", "float"),
        ("vibration", "float"),
        ("count", "int"),
        ("faulty", "bool"),
    ]);
    for digits in [2, 14, 17] {
        let record = |n: usize| {
            let float = |scale: f64| format!("{:.digits$}", (n * 7919 % 10_007) as f64 * scale);
            let (a, b, c, d) = (float(0.003), float(0.01), float(0.1), float(0.0002));
            format!(
                "{{\"sensor\":\"sensor-{:04}\",\"at\":\"2026-01-01T00:{:02}:{:02}.000Z\",\"temperature\":{a},\
                 \"humidity\":{b},\"pressure\":{c},\"vibration\":{d},\"count\":{n},\"faulty\":{}}}",
                n % 50,
                n / 60 % 60,
                n % 60,
                n.is_multiple_of(7)
            )
        };
        let records: Vec<String> = (0..50_000).map(record).collect();
        let raw = crate::formats::tests::raw_batch(records.iter().map(|record| Some(record.as_bytes())));
        let mut decoder = (crate::formats::plan(&json!("json"), &declared).expect("good").decoder)();
        let megabytes = raw.bytes() as f64 / 1e6;
        let time = |run: &mut dyn FnMut()| {
            let once = |run: &mut dyn FnMut()| {
                let watch = Stopwatch::start();
                run();
                watch.seconds()
            };
            (0..20).map(|_| once(run)).fold(f64::INFINITY, f64::min)
        };
        let ours = time(&mut || assert_eq!(decoder.decode(&raw).expect("bytes").record.len(), records.len()));
        let theirs = time(&mut || {
            let read = |record: &String| serde_json::from_slice::<Reading<'_>>(record.as_bytes()).is_ok();
            assert_eq!(records.iter().filter(|record| read(record)).count(), records.len());
        });
        println!(
            "{digits} digits, {:.0} bytes a record: columns {:.0} MB/s ({:.2} M records/s), typed serde_json {:.0} MB/s",
            raw.bytes() as f64 / records.len() as f64,
            megabytes / ours,
            records.len() as f64 / ours / 1e6,
            megabytes / theirs
        );
    }
}
