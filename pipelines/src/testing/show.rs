//! What became of tests, for people and for programs.

use std::fmt::Write;

use millstream_engine::Fault;
use serde_json::{Map, Value, json};

use super::compare::{Compared, Line, Values};

/// What became of one test.
pub struct Tested {
    /// Its name.
    pub name: String,
    /// What was compared, or why it could not run.
    pub outcome: Result<Vec<Compared>, Fault>,
}

/// What became of all tests that ran.
pub struct Report {
    /// The definition's file.
    pub file: String,
    /// The tests, in the order of the definition.
    pub tests: Vec<Tested>,
    /// How long they took together.
    pub seconds: f64,
}

impl Tested {
    /// A table of what differs, or why it could not run; nothing where all is as expected.
    pub fn text(&self) -> String {
        match &self.outcome {
            Ok(places) => places.iter().filter(|place| !place.is_good()).map(table).collect(),
            Err(fault) => format!("       {fault}\n"),
        }
    }

    /// Whether all was as expected.
    pub fn is_good(&self) -> bool {
        self.outcome.as_ref().is_ok_and(|places| places.iter().all(Compared::is_good))
    }
}

impl Report {
    /// Whether all tests are good.
    pub fn is_good(&self) -> bool {
        self.tests.iter().all(Tested::is_good)
    }

    /// For people: a line for each test, and a table of what differs.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        for test in &self.tests {
            let _ = writeln!(text, "{} {}", if test.is_good() { "ok  " } else { "FAIL" }, test.name);
            text.push_str(&test.text());
        }
        let failed = self.tests.iter().filter(|test| !test.is_good()).count();
        let tests = if self.tests.len() == 1 { "test" } else { "tests" };
        let became = if failed == 0 { "all good".to_owned() } else { format!("{failed} failed") };
        let ms = self.seconds * 1000.0;
        let _ = writeln!(text, "{}: {} {tests}, {became} ({ms:.0} ms)", self.file, self.tests.len());
        text
    }

    /// For programs.
    pub fn to_json(&self) -> Value {
        json!({
            "file": self.file,
            "ok": self.is_good(),
            "tests": self.tests.iter().map(Tested::to_json).collect::<Vec<_>>(),
        })
    }
}

impl Tested {
    fn to_json(&self) -> Value {
        let mut told = json!({"name": self.name, "ok": self.is_good()});
        match &self.outcome {
            Ok(places) => told["places"] = places.iter().map(place_json).collect(),
            Err(fault) => told["error"] = json!(fault.to_string()),
        }
        told
    }
}

fn place_json(place: &Compared) -> Value {
    let row = |values: &Values| -> Value {
        let named = place.columns.iter().zip(values);
        named.filter_map(|(name, value)| Some((name.clone(), value.clone()?))).collect::<Map<_, _>>().into()
    };
    let line = |line: &Line| match line {
        Line::Same(found) => json!({"ok": true, "found": row(found)}),
        Line::Other { expected, found, differs } => {
            let differs: Vec<&String> = differs.iter().map(|at| &place.columns[*at]).collect();
            json!({"ok": false, "expected": row(expected), "found": row(found), "differs": differs})
        }
        Line::Missing(expected) => json!({"ok": false, "expected": row(expected)}),
        Line::Extra(found) => json!({"ok": false, "found": row(found)}),
    };
    json!({"name": place.name, "ok": place.is_good(), "rows": place.lines.iter().map(line).collect::<Vec<_>>()})
}

/// The rows of a place: `=` as expected, `-` expected, `+` found, with `!` where it is not what the row above expects.
fn table(place: &Compared) -> String {
    let mut rows: Vec<(char, Vec<String>)> = vec![(' ', place.columns.clone())];
    let cells = |values: &Values| values.iter().map(|value| shown(value.as_ref())).collect::<Vec<String>>();
    for line in &place.lines {
        match line {
            Line::Same(values) => rows.push(('=', cells(values))),
            Line::Missing(values) => rows.push(('-', cells(values))),
            Line::Extra(values) => rows.push(('+', cells(values))),
            Line::Other { expected, found, differs } => {
                rows.push(('-', cells(expected)));
                let mut found = cells(found);
                for at in differs {
                    found[*at].insert(0, '!');
                }
                rows.push(('+', found));
            }
        }
    }
    let width = |at: usize| rows.iter().map(|(_, row)| row[at].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..place.columns.len()).map(width).collect();
    let (expected, found) = place.counts();
    let mut text = format!("     {}: {expected} expected (-), {found} found (+)\n", place.name);
    for (mark, row) in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        let line = format!("       {mark} {}", cells.collect::<Vec<_>>().join("  "));
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn shown(value: Option<&Value>) -> String {
    match value {
        None => String::new(),
        Some(Value::String(text)) if !text.is_empty() && !text.contains(['\n', '\r', '\t']) => text.clone(),
        Some(Value::Number(number)) if number.is_f64() => {
            number.as_f64().map_or_else(String::new, |float| float.to_string())
        }
        Some(value) => value.to_string(),
    }
}
