//! What was found beside what was expected.

use std::collections::BTreeSet;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type, TimeUnit, TimestampMillisecondType};
use arrow::util::display::array_value_to_string;
use millstream_connectors::formats::timestamp;
use millstream_engine::batch::Lane;
use millstream_engine::publish::{DeadLetter, Reply};
use millstream_engine::{Fault, Result};
use serde_json::{Number, Value, json};

use crate::pattern;
use crate::plan::{Expected, Pipeline, Row};
use crate::run::time;

/// How far floats may differ: by so much of the larger, or by so much at all where they are nearly 0.
const RELATIVE: f64 = 1e-9;
const ABSOLUTE: f64 = 1e-12;
/// Columns that are shown where no row names any.
const SHOWN_MAX: usize = 8;
/// Beyond so many pairs of rows, the first is compared with the first, and so on.
const PAIRS_MAX: usize = 4_000_000;

/// A value that was found.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Cell {
    Value(Value),
    /// Milliseconds since 1970.
    Time(i64),
    /// A text that may be expected as a pattern.
    Loose(String),
}

impl Cell {
    /// As a definition would expect it.
    fn value(&self) -> Value {
        match self {
            Self::Value(value) => value.clone(),
            Self::Time(ms) => json!(time(*ms)),
            Self::Loose(text) => json!(text),
        }
    }

    fn is(&self, expected: &Value) -> bool {
        match (self, expected) {
            (Self::Value(Value::Number(found)), Value::Number(expected)) => is_number(found, expected),
            (Self::Value(found), expected) => found == expected,
            (Self::Time(ms), Value::String(text)) => timestamp::parse(text.as_bytes()) == Some(*ms),
            (Self::Loose(found), Value::String(text)) => pattern::matches(text, found),
            _ => false,
        }
    }
}

fn is_number(found: &Number, expected: &Number) -> bool {
    if !found.is_f64() && !expected.is_f64() {
        return found == expected;
    }
    let (Some(found), Some(expected)) = (found.as_f64(), expected.as_f64()) else { return false };
    (found - expected).abs() <= (RELATIVE * found.abs().max(expected.abs())).max(ABSOLUTE)
}

/// A row that was found, with the columns that matter.
pub(super) type FoundRow = Vec<(String, Cell)>;

fn cell<'a>(row: &'a FoundRow, column: &str) -> Option<&'a Cell> {
    row.iter().find(|(name, _)| name == column).map(|(_, cell)| cell)
}

fn is_row(found: &FoundRow, expected: &Row) -> bool {
    expected.iter().all(|(name, value)| match cell(found, name) {
        Some(cell) => cell.is(value),
        None => value.is_null(),
    })
}

/// The rows of an output, with the columns that are expected.
pub(super) fn rows(batches: &[RecordBatch], expected: &Expected) -> Result<Vec<FoundRow>> {
    let mut found = Vec::new();
    for batch in batches {
        let schema = batch.schema_ref();
        let mut columns = named(&expected.rows);
        if columns.is_empty() {
            let own = schema.fields().iter().filter(|field| !field.name().starts_with('_'));
            columns = own.take(SHOWN_MAX).map(|field| field.name().clone()).collect();
        }
        let mut cells: Vec<(&String, Vec<Cell>)> = Vec::new();
        for name in &columns {
            if let Some(column) = batch.column_by_name(name) {
                cells.push((name, cells_of(column)?));
            }
        }
        let row = |row: usize| cells.iter().map(|(name, cells)| ((*name).clone(), cells[row].clone())).collect();
        found.extend((0..batch.num_rows()).map(row));
    }
    Ok(found)
}

/// The columns that rows name, each once, in the order in which they come.
fn named(rows: &[Row]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let names = rows.iter().flatten().map(|(name, _)| name);
    names.filter(|name| seen.insert(*name)).cloned().collect()
}

fn cells_of(column: &dyn Array) -> Result<Vec<Cell>> {
    let kind = column.data_type();
    let cells: Vec<Cell> = if kind.is_temporal() {
        let times = cast(column, &DataType::Timestamp(TimeUnit::Millisecond, None))?;
        let times = times.as_primitive::<TimestampMillisecondType>();
        times.values().iter().map(|ms| Cell::Time(*ms)).collect()
    } else if kind.is_floating() {
        let floats = cast(column, &DataType::Float64)?;
        floats.as_primitive::<Float64Type>().values().iter().map(|float| Cell::Value(json!(float))).collect()
    } else if kind.is_integer() {
        let ints = cast(column, &DataType::Int64)?;
        ints.as_primitive::<Int64Type>().values().iter().map(|int| Cell::Value(json!(int))).collect()
    } else if let Some(truths) = column.as_boolean_opt() {
        (0..truths.len()).map(|row| Cell::Value(json!(truths.value(row)))).collect()
    } else {
        let texts = match kind {
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView => cast(column, &DataType::Utf8)?,
            _ => column.slice(0, column.len()),
        };
        let text = |row| Ok(Cell::Value(json!(array_value_to_string(&texts, row)?)));
        (0..texts.len()).map(text).collect::<Result<_>>()?
    };
    let null = || Cell::Value(Value::Null);
    Ok(cells.into_iter().enumerate().map(|(row, cell)| if column.is_null(row) { null() } else { cell }).collect())
}

/// The dead letters, in the order of their sources and records.
pub(super) fn dead_letters(letters: &[DeadLetter], pipeline: &Pipeline) -> Vec<FoundRow> {
    let sources = pipeline.sources.iter().map(|source| &source.name);
    let names: Vec<&String> = sources.chain(pipeline.requests.iter().map(|request| &request.name)).collect();
    let mut letters: Vec<&DeadLetter> = letters.iter().collect();
    letters.sort_by(|a, b| (a.origin, &a.step).cmp(&(b.origin, &b.step)));
    let text = |text: &str| Cell::Loose(text.to_owned());
    let row = |letter: &&DeadLetter| {
        let raw = letter.raw.as_deref().map(String::from_utf8_lossy);
        vec![
            ("source".to_owned(), text(names[letter.origin.source as usize])),
            ("partition".to_owned(), Cell::Value(json!(letter.origin.partition))),
            ("offset".to_owned(), Cell::Value(json!(letter.origin.offset))),
            ("lane".to_owned(), text(if letter.lane == Lane::Learn { "learn" } else { "serve" })),
            ("step".to_owned(), text(&letter.step)),
            ("reason".to_owned(), text(&letter.reason)),
            ("raw".to_owned(), raw.map_or(Cell::Value(Value::Null), |raw| text(&raw))),
        ]
    };
    letters.iter().map(row).collect()
}

/// The answers to one kind of requests, in the order of the requests.
pub(super) fn answers(replies: &[Reply], source: usize) -> Result<Vec<FoundRow>> {
    let mut replies: Vec<&Reply> =
        replies.iter().filter(|reply| reply.request.origin.source as usize == source).collect();
    replies.sort_by_key(|reply| reply.request.origin);
    replies.iter().map(|reply| answer(&reply.value)).collect()
}

fn answer(written: &[u8]) -> Result<FoundRow> {
    let written: Value =
        serde_json::from_slice(written).map_err(|error| Fault::ours("an answer is no JSON").because(error))?;
    let mut row = FoundRow::new();
    for (name, value) in written["answer"].as_object().into_iter().flatten() {
        row.push((name.clone(), Cell::Value(value.clone())));
    }
    for name in ["model", "revision", "staleness_seconds"] {
        row.extend(written.get(name).map(|value| (name.to_owned(), Cell::Value(value.clone()))));
    }
    for name in ["step", "reason"] {
        let told = written["error"][name].as_str();
        row.extend(told.map(|text| (name.to_owned(), Cell::Loose(text.to_owned()))));
    }
    Ok(row)
}

/// A place, and how its rows compare.
#[derive(Debug)]
pub struct Compared {
    /// The place as the definition calls it.
    pub name: String,
    /// The columns that are compared.
    pub columns: Vec<String>,
    /// The rows, in order.
    pub lines: Vec<Line>,
}

/// Values in the order of the columns; `None` where a row does not name the column.
pub type Values = Vec<Option<Value>>;

/// A row that is expected, or found, or both.
#[derive(Debug, PartialEq)]
pub enum Line {
    /// It was found as expected.
    Same(Values),
    /// Another one was found, which differs in the columns with these indexes.
    Other {
        /// What was expected.
        expected: Values,
        /// What was found.
        found: Values,
        /// Where they differ.
        differs: Vec<usize>,
    },
    /// It was not found.
    Missing(Values),
    /// It was not expected.
    Extra(Values),
}

impl Compared {
    pub(super) fn new(expected: &Expected, found: &[FoundRow]) -> Self {
        let mut columns = named(&expected.rows);
        if columns.is_empty() {
            let first = found.first().map_or(&[][..], Vec::as_slice);
            columns = first.iter().map(|(name, _)| name.clone()).collect();
        }
        let lines = align(&expected.rows, found, &columns);
        Self { name: expected.name.clone(), columns, lines }
    }

    /// Whether all is as expected.
    pub fn is_good(&self) -> bool {
        self.lines.iter().all(|line| matches!(line, Line::Same(_)))
    }

    /// How many rows were expected, and found.
    pub fn counts(&self) -> (usize, usize) {
        let count = |is: fn(&Line) -> bool| self.lines.iter().filter(|line| is(line)).count();
        (count(|line| !matches!(line, Line::Extra(_))), count(|line| !matches!(line, Line::Missing(_))))
    }
}

/// Lays rows side by side, in order: those that match, and between them those that have the most in common.
fn align(expected: &[Row], found: &[FoundRow], columns: &[String]) -> Vec<Line> {
    let shown = Shown { expected, found, columns };
    let mut lines = Vec::new();
    let (mut wanted, mut next) = (0, 0);
    for (at, with) in pairs(expected, found).into_iter().chain([(expected.len(), found.len())]) {
        lines.extend((wanted..at).map(|row| Line::Missing(shown.wanted(row))));
        lines.extend((next..with).map(|row| Line::Extra(shown.there(row))));
        if at < expected.len() {
            lines.push(shown.pair(at, with));
        }
        (wanted, next) = (at + 1, with + 1);
    }
    lines
}

/// How well a row is what is expected; one that matches is worth more than any number of others.
fn worth(found: &FoundRow, expected: &Row) -> u64 {
    let agrees = |(name, value): &&(String, Value)| cell(found, name).is_some_and(|cell| cell.is(value));
    if is_row(found, expected) { 1 << 32 } else { expected.iter().filter(agrees).count() as u64 }
}

/// The most worthy list of pairs of rows, in order.
fn pairs(expected: &[Row], found: &[FoundRow]) -> Vec<(usize, usize)> {
    if expected.len().saturating_mul(found.len()) > PAIRS_MAX {
        return (0..expected.len().min(found.len())).map(|at| (at, at)).collect();
    }
    let stride = found.len() + 1;
    let worth: Vec<u64> = expected.iter().flat_map(|row| found.iter().map(|found| worth(found, row))).collect();
    let worth = |at: usize, with: usize| worth[at * found.len() + with];
    // What can be had behind each two places.
    let mut best = vec![0; (expected.len() + 1) * stride];
    for at in (0..expected.len()).rev() {
        for with in (0..found.len()).rev() {
            let paired = worth(at, with) + best[(at + 1) * stride + with + 1];
            best[at * stride + with] = paired.max(best[(at + 1) * stride + with]).max(best[at * stride + with + 1]);
        }
    }
    let (mut at, mut with, mut taken) = (0, 0, Vec::new());
    while at < expected.len() && with < found.len() {
        let here = best[at * stride + with];
        if worth(at, with) > 0 && here == worth(at, with) + best[(at + 1) * stride + with + 1] {
            taken.push((at, with));
            (at, with) = (at + 1, with + 1);
        } else if here == best[(at + 1) * stride + with] {
            at += 1;
        } else {
            with += 1;
        }
    }
    taken
}

struct Shown<'a> {
    expected: &'a [Row],
    found: &'a [FoundRow],
    columns: &'a [String],
}

impl Shown<'_> {
    fn wanted(&self, at: usize) -> Values {
        let value = |column: &String| self.expected[at].iter().find(|(name, _)| name == column);
        self.columns.iter().map(|column| value(column).map(|(_, value)| value.clone())).collect()
    }

    fn there(&self, at: usize) -> Values {
        self.columns.iter().map(|column| cell(&self.found[at], column).map(Cell::value)).collect()
    }

    fn pair(&self, wanted: usize, there: usize) -> Line {
        if is_row(&self.found[there], &self.expected[wanted]) {
            return Line::Same(self.there(there));
        }
        let (expected, found) = (self.wanted(wanted), self.there(there));
        let differs = |at: &usize| {
            let Some(value) = &expected[*at] else { return false };
            cell(&self.found[there], &self.columns[*at]).map_or(!value.is_null(), |cell| !cell.is(value))
        };
        let differs = (0..self.columns.len()).filter(differs).collect();
        Line::Other { expected, found, differs }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Place;

    fn lines(expected: &[&[(&str, Value)]], found: &[&[(&str, Cell)]]) -> Vec<String> {
        let row =
            |row: &&[(&str, Value)]| row.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let found = found.iter().map(|row| row.iter().map(|(name, cell)| ((*name).to_owned(), cell.clone())).collect());
        let rows = expected.iter().map(row).collect();
        let compared =
            Compared::new(&Expected { name: "s".to_owned(), place: Place::Dead, rows }, &found.collect::<Vec<_>>());
        let text = |values: &Values| {
            let text = |value: &Option<Value>| value.as_ref().map_or("_".to_owned(), Value::to_string);
            values.iter().map(text).collect::<Vec<_>>().join(" ")
        };
        let line = |line: &Line| match line {
            Line::Same(values) => format!("= {}", text(values)),
            Line::Other { expected, found, differs } => format!("{} / {} at {differs:?}", text(expected), text(found)),
            Line::Missing(values) => format!("- {}", text(values)),
            Line::Extra(values) => format!("+ {}", text(values)),
        };
        compared.lines.iter().map(line).collect()
    }

    fn number(value: impl Into<Value>) -> Cell {
        Cell::Value(value.into())
    }

    #[test]
    fn rows_are_laid_side_by_side() {
        let want = |n: i64| [("n", json!(n))];
        let have = |n: i64| [("n", number(n))];
        let check = |expected: &[i64], found: &[i64], said: &[&str]| {
            let (expected, found): (Vec<_>, Vec<_>) =
                (expected.iter().map(|n| want(*n)).collect(), found.iter().map(|n| have(*n)).collect());
            let expected: Vec<&[_]> = expected.iter().map(<[_; 1]>::as_slice).collect();
            let found: Vec<&[_]> = found.iter().map(<[_; 1]>::as_slice).collect();
            assert_eq!(lines(&expected, &found), said);
        };
        check(&[1, 2], &[1, 2], &["= 1", "= 2"]);
        check(&[1, 2, 3], &[1, 3], &["= 1", "- 2", "= 3"]);
        check(&[1, 3], &[1, 2, 3], &["= 1", "+ 2", "= 3"]);
        check(&[1, 2, 3], &[1, 5, 3], &["= 1", "- 2", "+ 5", "= 3"]);
        check(&[1, 2], &[3], &["- 1", "- 2", "+ 3"]);
        check(&[], &[3], &["+ 3"]);
        check(&[1], &[], &["- 1"]);
        check(&[2, 1], &[1, 2], &["- 2", "= 1", "+ 2"]);
    }

    #[test]
    fn rows_that_differ_stand_beside_what_is_most_like_them() {
        let want = |a: i64, b: i64| [("a", json!(a)), ("b", json!(b))];
        let have = |a: i64, b: i64| [("a", number(a)), ("b", number(b))];
        let expected: [&[_]; 2] = [&want(1, 1), &want(3, 9)];
        let found: [&[_]; 3] = [&have(1, 1), &have(2, 2), &have(3, 3)];
        assert_eq!(lines(&expected, &found), ["= 1 1", "+ 2 2", "3 9 / 3 3 at [1]"]);
        let found: [&[_]; 2] = [&have(1, 9), &have(3, 9)];
        assert_eq!(lines(&expected, &found), ["1 1 / 1 9 at [1]", "= 3 9"]);
    }

    #[test]
    fn values_are_compared_as_their_column_says() {
        let is = |cell: Cell, expected: Value| cell.is(&expected);
        assert!(is(number(2), json!(2)) && is(number(2), json!(2.0)) && !is(number(2), json!(3)));
        assert!(is(number(0.1 + 0.2), json!(0.3)) && is(number(1e-17), json!(0)) && !is(number(0.301), json!(0.3)));
        assert!(!is(number(9_007_199_254_740_993_i64), json!(9_007_199_254_740_992_i64)), "ints are exact");
        assert!(is(number("a"), json!("a")) && !is(number("abc"), json!("a*")), "columns hold no patterns");
        assert!(is(Cell::Loose("abc".to_owned()), json!("a*")) && !is(Cell::Loose("abc".to_owned()), json!("b*")));
        assert!(is(Cell::Time(1000), json!("1970-01-01T00:00:01Z")) && is(Cell::Time(0), json!("1970-01-01")));
        assert!(is(number(Value::Null), json!(null)) && !is(number(false), json!(null)));
    }

    #[test]
    fn columns_that_are_not_named_do_not_count() {
        let found: &[(&str, Cell)] = &[("a", number(1)), ("b", number(2))];
        assert_eq!(lines(&[&[("b", json!(2))]], &[found]), ["= 2"]);
        assert_eq!(lines(&[&[]], &[found]), ["= 1 2"], "only that there is one");
        let expected: [&[(&str, Value)]; 2] = [&[("a", json!(1))], &[("b", json!(3))]];
        assert_eq!(lines(&expected, &[found, found]), ["= 1 2", "- _ 3", "+ 1 2"]);
    }
}
