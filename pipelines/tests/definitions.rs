//! Definitions as data: what is said about bad ones, word for word, and that good ones are taken.
//!
//! `UPDATE_GOLDEN=1 cargo test -p millstream-pipelines definitions::` writes the expected messages anew.

use std::fs;
use std::path::{Path, PathBuf};

use millstream_pipelines::catalogue::Catalogue;
use millstream_pipelines::definition::{Definition, Secrets};
use millstream_pipelines::report::Report;
use millstream_pipelines::{check, inspect};
use proptest::prelude::*;

fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries = fs::read_dir(folder).expect("the folder is there");
    let paths = entries.map(|entry| entry.expect("it can be listed").path());
    let mut files: Vec<PathBuf> = paths.filter(|path| path.extension().is_some_and(|end| end == "yaml")).collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

fn report(file: &str, text: &str) -> Report {
    let definition = Definition::parse(file, text);
    let (pipeline, findings) = check(&definition, &Catalogue::shipped(), Secrets::default());
    let report = Report::new(&definition, findings);
    assert!(pipeline.is_none() || !report.has_errors(), "{file}: a plan in spite of errors");
    report
}

#[test]
fn bad_definitions_get_the_expected_messages() {
    let mut different = Vec::new();
    for path in files("tests/bad") {
        let name = path.file_name().expect("it has a name").to_string_lossy().into_owned();
        let report = report(&name, &fs::read_to_string(&path).expect("it can be read"));
        assert!(!report.findings().is_empty(), "{name} is good");
        let golden = path.with_extension("txt");
        let rendered = report.render(false);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&golden, &rendered).expect("it can be written");
        } else if fs::read_to_string(&golden).unwrap_or_default() != rendered {
            different.push(format!("{name}:\n{rendered}"));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

#[test]
fn the_examples_are_good() {
    for path in files("examples") {
        let (pipeline, report) = inspect(&path, &Catalogue::shipped()).expect("it can be read");
        assert!(pipeline.is_some() && report.findings().is_empty(), "{}", report.render(false));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Pieces of a good definition in any order and depth, and rubbish: never a panic, and all places inside of the text.
    #[test]
    fn whatever_is_written_gets_a_report(pieces in prop::collection::vec((0..PIECES.len(), 0_usize..5), 0..25)) {
        let lines: Vec<String> = pieces.iter().map(|(piece, depth)| "  ".repeat(*depth) + PIECES[*piece]).collect();
        let report = report("any.yaml", &lines.join("\n"));
        report.render(false);
    }

    /// The shipped example with a few characters changed.
    #[test]
    fn a_slip_of_the_pen_gets_a_report(at in 0_usize..10_000, cut in 0_usize..12, put in "[ a-z:{}\\[\\],\"'0\n-]{0,4}") {
        let mut text = include_str!("../examples/sensors.yaml").to_owned();
        let at = at % text.len();
        let end = (at + cut).min(text.len());
        if text.is_char_boundary(at) && text.is_char_boundary(end) {
            text.replace_range(at..end, &put);
        }
        report("slip.yaml", &text).render(false);
    }
}

/// Lines of definitions.
const PIECES: &[&str] = &[
    "millstream: 1",
    "name: a",
    "sources:",
    "s:",
    "from: {topic: {name: t}}",
    "format: json",
    "columns: {a: text, b: float}",
    "streams:",
    "t:",
    "input: s",
    "input: t",
    "steps:",
    "- derive: {c: \"b + 1\"}",
    "- require: {that: \"b > 1\"}",
    "- join_as_of: {with: t, by: [a], within_seconds: 1}",
    "- standardise: {columns: [b]}",
    "models:",
    "m:",
    "label: c",
    "features: [b]",
    "learner: logistic_regression",
    "requests:",
    "r: {topic: q, enters: s, model: m, answers: {topic: w}}",
    "sinks:",
    "o: {from: m, to: stdout}",
    "feeds:",
    "time: b",
    "topic: t",
    "- 1",
    "~",
    "{",
    "\"",
    "&x a: *x",
    "null: null",
    "event_time: {column: b}",
    "broker: {kafka: {}}",
    "serve: {metrics: x}",
    "epochs: []",
    "workers: -1",
    "é: 🎈",
];
