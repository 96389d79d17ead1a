//! Text into the tree: spans, limits, and what is refused.

use std::fmt::Write;

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn parse(text: &str) -> Definition {
    Definition::parse("test.yaml", text)
}

fn value(text: &str) -> serde_json::Value {
    let definition = parse(text);
    assert_eq!(definition.findings, [], "{text}");
    definition.root.to_value(&Secrets::default())
}

/// What a path points at, as `line:column text`.
fn pointed(text: &str, path: &str) -> String {
    let definition = parse(text);
    let path: Vec<String> = path.split('.').map(str::to_owned).collect();
    let (span, _) = definition.root.locate(&path);
    format!("{}:{} {}", span.line, span.column, &definition.text[span.start..span.end])
}

/// The findings, as `line:column code`.
fn findings(text: &str) -> Vec<String> {
    let place = |finding: &Finding| format!("{}:{} {}", finding.span.line, finding.span.column, finding.code);
    parse(text).findings.iter().map(place).collect()
}

#[test]
fn scalars_follow_the_core_schema() {
    assert_eq!(value("[1, -2, +3, 0x1f, 0o17, 1.5, 1e3, .5]"), json!([1, -2, 3, 31, 15, 1.5, 1000.0, 0.5]));
    assert_eq!(value("[true, False, null, ~, '', yes, no]"), json!([true, false, null, null, "", "yes", "no"]));
    assert_eq!(
        value("['1', \"true\", !!str 2, 1.2.3, inf, nan, 1_000]"),
        json!(["1", "true", "2", "1.2.3", "inf", "nan", "1_000"])
    );
    assert_eq!(value("18446744073709551615"), json!(u64::MAX));
}

#[test]
fn keys_are_the_text_that_was_written() {
    assert_eq!(value("{null: 1, 2: 3, true: 4, 'x y': 5}"), json!({"null": 1, "2": 3, "true": 4, "x y": 5}));
}

#[test]
fn paths_lead_to_places() {
    let text =
        "streams:\n  clean:\n    input: raw   # why\n    steps:\n      - derive: {late: \"a > 15\", b: [x, yy]}\n";
    assert_eq!(pointed(text, "streams.clean.input"), "3:12 raw");
    assert_eq!(pointed(text, "streams.clean.steps"), "4:5 steps");
    assert_eq!(pointed(text, "streams.clean.steps.0.derive.late"), "5:24 \"a > 15\"");
    assert_eq!(pointed(text, "streams.clean.steps.0.derive.b.1"), "5:41 yy");
    // A missing key leads to its parent.
    assert_eq!(pointed(text, "streams.clean.nothing.below"), "2:3 clean");
}

#[test]
fn places_count_characters_but_spans_count_bytes() {
    let text = "\u{feff}ä: 'öü'\r\nß: [é, x]\r\n";
    assert_eq!(pointed(text, "ä"), "1:4 'öü'");
    assert_eq!(pointed(text, "ß.1"), "2:8 x");
}

#[test]
fn what_is_not_plain_is_refused_where_it_stands() {
    assert_eq!(findings("a: 1\nb: 2\na: 3\na: 4\n"), ["3:1 duplicate-key", "4:1 duplicate-key"]);
    assert_eq!(findings("a: !thing 1\n"), ["1:4 tag"]);
    assert_eq!(findings("a: .inf\n"), ["1:4 bad-number"]);
    assert_eq!(findings("a: 1e999\n"), ["1:4 bad-number"]);
    assert_eq!(findings("? [a, b]\n: 1\n"), ["1:3 bad-key"]);
    assert_eq!(findings("a: 1\n---\nb: 2\n"), ["2:1 several-documents"]);
    assert_eq!(findings("a:\n\tb: 1\n"), ["2:1 tab"]);
    assert_eq!(findings("a: [1, 2\n"), ["2:1 syntax"]);
    assert_eq!(findings("a: x${env:B}\nb: ${env:1}\n"), ["1:4 partial-reference", "2:4 bad-reference"]);
}

#[test]
fn small_files_cannot_become_large_trees() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let items = vec![format!("*a{}", level - 1); 10].join(", ");
        let _ = writeln!(bomb, "a{level}: &a{level} [{items}]");
    }
    assert_eq!(parse(&bomb).findings[0].code, "too-large");
    assert_eq!(parse(&format!("a: {}", "[".repeat(200))).findings[0].code, "too-deep");
    assert_eq!(parse(&"- ".repeat(10_000)).findings[0].code, "too-deep");
    assert_eq!(parse(&"#".repeat(2_000_000)).findings[0].code, "too-large");
}

#[test]
fn aliases_stand_for_their_anchors() {
    assert_eq!(value("a: &x {k: [1]}\nb: *x\n"), json!({"a": {"k": [1]}, "b": {"k": [1]}}));
}

#[test]
fn the_digest_sees_meaning_and_order_only() {
    let digest = |text: &str| parse(text).digest;
    assert_eq!(digest("a: 1 # comment\nb: ['x', y]\n"), digest("{a: 1, b: [x, \"y\"]}"));
    for other in
        ["{b: [x, y], a: 1}", "{a: 2, b: [x, y]}", "{a: 1, b: [x, z]}", "{a: 1, b: [xy]}", "{a: '1', b: [x, y]}"]
    {
        assert_ne!(digest("{a: 1, b: [x, y]}"), digest(other), "{other}");
    }
}

#[test]
fn the_digest_leaves_out_what_changes_no_result() {
    let digest = |text: &str| parse(text).digest;
    let plain = digest("{name: a, sources: {s: {workers: 1}}}");
    for more in [
        "workers: 3",
        "delivery: at_least_once",
        "checkpoints: {keep: 5}",
        "epochs: {max_records: 7}",
        "serve: {metrics: '127.0.0.1:1'}",
    ] {
        assert_eq!(digest(&format!("{{name: a, {more}, sources: {{s: {{workers: 1}}}}}}")), plain, "{more}");
    }
    // Only at the top.
    assert_ne!(digest("{name: a, sources: {s: {workers: 2}}}"), plain);
}

#[test]
fn secrets_are_looked_up_once_and_never_shown() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("secret"), "c4n4ry\n").expect("a file");
    let definition = parse("a: ${file:secret}\nb: [\"${file:secret}\"]\n");
    let secrets = Secrets::resolve(&definition.root, folder.path()).expect("it is there");
    assert_eq!(definition.root.to_value(&secrets), json!({"a": "c4n4ry", "b": ["c4n4ry"]}));
    assert_eq!(secrets.redact("login with c4n4ry failed"), "login with ${file:secret} failed");
    assert!(!format!("{secrets:?} {definition:?}").contains("c4n4ry"));
    let missing = Secrets::resolve(&parse("a: ${file:none}\nb: ${env:MILLSTREAM_IS_NOT_SET}\n").root, folder.path());
    let codes: Vec<&str> = missing.expect_err("they are not there").iter().map(|finding| finding.code).collect();
    assert_eq!(codes, ["missing-secret", "missing-secret"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_text_gives_a_tree_and_places_within_it(text in "[a-c:\\-\\[\\]{}&*!#|>'\"%@`, \t\n\r?.0-9é]{0,80}") {
        let definition = parse(&text);
        for finding in &definition.findings {
            prop_assert!(definition.text.get(finding.span.start..finding.span.end).is_some());
        }
        let mut inside = true;
        definition.root.visit(&mut |node| inside &= definition.text.get(node.span.start..node.span.end).is_some());
        prop_assert!(inside);
    }
}
