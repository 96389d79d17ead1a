//! Cases, and a comparison with an independent parser.

use millstream_engine::raw::RawBatch;
use millstream_engine::source::Decoder;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::formats::plan;
use crate::formats::tests::{check, columns, decode, raw_batch, seeded, shown};

const DECLARED: [(&str, &str); 5] = [("i", "int"), ("f", "float"), ("b", "bool"), ("t", "timestamp"), ("s", "text")];

#[test]
fn lines() {
    let timestamp = "column `t`: expected a timestamp like 2026-01-31T12:30:00Z, found the text";
    for (line, row) in [
        ("1,2.5,true,1970-01-01T00:00:01Z,x", Ok("1|2.5|true|1970-01-01T00:00:01|x")),
        (",,,,", Ok("||||")),
        ("NA,NA,NA,NA,NA", Ok("||||")),
        (" 1 , 2e3 , F , 1970-01-01 00:00:01 , x ", Ok("1|2000.0|false|1970-01-01T00:00:01| x ")),
        ("\"1\",\"2\",\"t\",\"1500\",\"a,\"\"b\"\"\nc\"", Ok("1|2.0|true|1970-01-01T00:00:01.500|a,\"b\"\nc")),
        (",,,,\"\"", Ok("||||")),
        (",,,,5\" pipe", Ok("||||5\" pipe")),
        (",,,,\"é\"\"\"", Ok("||||é\"")),
        ("", Err("expected 5 values, found 1")),
        ("1,2,true,0", Err("expected 5 values, found 4")),
        ("1,2,true,0,x,", Err("expected 5 values, found 6")),
        ("1.0,,,,", Err("column `i`: expected an int of 64 bits, found the text \"1.0\"")),
        (
            "9223372036854775808,,,,",
            Err("column `i`: expected an int of 64 bits, found the text \"9223372036854775808\""),
        ),
        (",NaN,,,", Err("column `f`: expected a finite float, found the text \"NaN\"")),
        (",-inf,,,", Err("column `f`: expected a finite float, found the text \"-inf\"")),
        (",1e999,,,", Err("column `f`: expected a finite float, found the text \"1e999\"")),
        (",,yes,,", Err("column `b`: expected true or false, found the text \"yes\"")),
        (",,,soon,", Err(&format!("{timestamp} \"soon\""))),
        (",,,,\"open", Err("a quoted value is not closed")),
        (",,,,\"open\"\"", Err("a quoted value is not closed")),
        (",,,,\"a\"b", Err("something follows a quoted value")),
    ] {
        check(&json!("csv"), &DECLARED, line, row);
    }
}

#[test]
fn options() {
    let declared = [("a", "int"), ("b", "text"), ("c", "float")];
    for (config, line, row) in [
        (json!({"delimiter": ";"}), "1;x,y;2", Ok("1|x,y|2.0")),
        (json!({"delimiter": "\t"}), "1\tx\t2", Ok("1|x|2.0")),
        (json!({"null": ["-"]}), "-,,-", Ok("||")),
        (json!({"missing": ["-"]}), ",,", Err("column `a`: expected an int of 64 bits, found the text \"\"")),
        (json!({"header": ["c", "other", "a"]}), "1.5,x,2", Ok("2||1.5")),
        (json!({"header": ["c", "other", "a"]}), "1.5,x", Err("expected 3 values, found 2")),
    ] {
        check(&json!({"csv": config}), &declared, line, row);
    }
    check(&json!({"csv": {"timestamps": "s"}}), &[("t", "timestamp")], "2", Ok("1970-01-01T00:00:02"));
}

/// What a header makes of the line `1,2,3` in the columns `a` and `b`; `None` where it is refused.
fn by_header(config: &Value, header: &str) -> Option<String> {
    let columns = columns(&[("a", "int"), ("b", "int")]);
    let mut decoder = (plan(config, &columns).expect("a good configuration").decoder)();
    decoder.name(7, header.as_bytes());
    let decode = |decoder: &mut Box<dyn Decoder>, partition, line: &str| {
        let raw = RawBatch { partition, ..raw_batch([Some(line.as_bytes())]) };
        shown(&decoder.decode(&raw).expect("bytes").rows).pop()
    };
    let found = decode(&mut decoder, 7, "1,2,3");
    assert_eq!(decode(&mut decoder, 6, "1,2"), Some("1|2".to_owned()), "another file has no header");
    assert_eq!(decode(&mut decoder, 7, "1,2,3"), found);
    found
}

#[test]
fn a_header_names_the_values_of_its_file() {
    for (header, expected) in [
        ("a,b,c", Some("1|2")),
        ("b,a,c", Some("2|1")),
        ("c,b,d", Some("|2")),
        ("c,\"b\",a", Some("3|2")),
        ("\" b\",c, a", Some("3|1")),
        ("a,a,b", Some("1|3")),
        ("a,b", None),
        ("x,y,z", None),
        ("\"open", None),
        ("", None),
    ] {
        assert_eq!(by_header(&json!("csv"), header).as_deref(), expected, "{header}");
    }
    let config = json!({"csv": {"header": ["a", "x", "b"]}});
    let mut decoder = (plan(&config, &columns(&[("a", "int"), ("b", "int")])).expect("good").decoder)();
    decoder.name(0, b"b,a,c");
    let found = decoder.decode(&raw_batch([Some(b"1,2,3".as_slice())])).expect("bytes");
    assert_eq!(shown(&found.rows), ["1|3"], "what the definition says comes first");
}

/// The values of a line, by an independent parser.
fn oracle(line: &str) -> Option<Vec<String>> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(line.as_bytes());
    let record = reader.records().next()?.ok()?;
    Some(record.iter().map(str::to_owned).collect())
}

fn ours(line: &str, values: usize) -> Option<Vec<String>> {
    let names: Vec<String> = (0..values).map(|at| format!("column {at}")).collect();
    let declared: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "text")).collect();
    let decoded = decode(&json!({"csv": {"missing": []}}), &columns(&declared), &[line.as_bytes()]);
    (0..values.min(decoded.rows.num_rows() * values))
        .map(|at| decoded.rows.project(&[at]).ok().map(|rows| shown(&rows).concat()))
        .collect::<Option<Vec<_>>>()
        .filter(|values| !values.is_empty())
}

proptest! {
    #![proptest_config(seeded(1000))]

    #[test]
    fn agrees_with_another_parser(values in proptest::collection::vec("([a-z\"]|[ ,;é]){0,5}", 1..5), quoted in any::<[bool; 5]>()) {
        // A quote may stand in a value without quotes, but not first.
        let write = |(value, quoted): (&String, &bool)| {
            let must = value.starts_with('"') || value.contains(',');
            if *quoted || must { format!("\"{}\"", value.replace('"', "\"\"")) } else { value.clone() }
        };
        let line: Vec<String> = values.iter().zip(&quoted).map(write).collect();
        let line = line.join(",");
        prop_assume!(!line.is_empty());
        prop_assert_eq!(oracle(&line), Some(values.clone()), "{}", line);
        prop_assert_eq!(ours(&line, values.len()), Some(values), "{}", line);
    }

    #[test]
    fn any_text_is_taken_or_refused(line in "[a\",\n ]{0,12}", config in prop_oneof![Just(json!("csv")), Just(json!({"csv": {"missing": []}}))]) {
        let config: Value = config;
        let decoded = decode(&config, &columns(&[("a", "text"), ("b", "text")]), &[line.as_bytes(), b"x,y"]);
        prop_assert_eq!(decoded.rows.num_rows() + decoded.rejects.len(), 2);
        let rows = shown(&decoded.rows);
        prop_assert_eq!(rows.last().map(String::as_str), Some("x|y"));
    }
}
