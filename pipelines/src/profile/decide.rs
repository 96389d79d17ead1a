//! What columns are, by what their texts look like.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use millstream_operators::profile::{ColumnReport, Report, TextReport};

use super::read::{Content, Kinds, is_usable};

/// A column is of a type if this share of what says something is.
const MOSTLY: f64 = 0.9;
/// From 2000 to 2100, in seconds since 1970.
const TIMES: std::ops::Range<f64> = 946_684_800.0..4_102_444_800.0;

/// What becomes of a column.
#[derive(Clone, Debug)]
pub(super) struct Decided {
    pub(super) name: String,
    /// As it is declared: `float`.
    pub(super) kind: &'static str,
    /// What `coerce` has to make of it.
    pub(super) coerce: Option<Coerce>,
    /// Words for a missing value, which the format may take as such.
    pub(super) missing_words: Vec<String>,
    /// Whether it is a number of seconds since 1970.
    pub(super) in_seconds: bool,
    /// What was seen, where that is no matter of course.
    pub(super) seen: Option<String>,
}

/// How texts are read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Coerce {
    /// The type that they get.
    pub(super) to: &'static str,
    pub(super) decimal: Option<char>,
    pub(super) thousands: Option<char>,
    pub(super) format: Option<&'static str>,
    pub(super) missing: Vec<String>,
}

impl Decided {
    fn new(name: &str, kind: &'static str) -> Self {
        let name = name.to_owned();
        Self { name, kind, coerce: None, missing_words: Vec::new(), in_seconds: false, seen: None }
    }

    /// What it is in the end.
    pub(super) fn final_kind(&self) -> &'static str {
        self.coerce.as_ref().map_or(self.kind, |coerce| coerce.to)
    }
}

/// What the columns are to be declared as.
pub(super) fn columns(content: &Content, as_text: &Report, kinds: &BTreeMap<String, Kinds>) -> Vec<Decided> {
    let Content::Rows(schema) = content else {
        let is_csv = matches!(content, Content::Csv { .. });
        let mut columns: Vec<Decided> =
            as_text.columns.iter().map(|column| decide(column, is_csv, kinds.get(&column.name).copied())).collect();
        // A source has one unit for all.
        let all_in_seconds = columns.iter().filter(|column| column.kind == "timestamp").all(|column| column.in_seconds);
        columns.iter_mut().filter(|column| column.in_seconds && !all_in_seconds).for_each(|column| {
            (column.kind, column.in_seconds) = ("int", false);
        });
        return columns;
    };
    let usable = schema.fields().iter().filter(|field| is_usable(field.name()));
    usable.filter_map(|field| Some(Decided::new(field.name(), of_type(field.data_type())?))).collect()
}

fn of_type(kind: &DataType) -> Option<&'static str> {
    Some(match kind {
        DataType::Boolean => "bool",
        DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 => "timestamp",
        kind if kind.is_integer() => "int",
        kind if kind.is_numeric() => "float",
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "text",
        DataType::Dictionary(_, of) => return of_type(of),
        _ => return None,
    })
}

/// The schema that is declared.
pub(super) fn schema(columns: &[Decided]) -> SchemaRef {
    let kind = |name: &str| match name {
        "int" => DataType::Int64,
        "float" => DataType::Float64,
        "bool" => DataType::Boolean,
        "timestamp" => DataType::Timestamp(TimeUnit::Millisecond, None),
        _ => DataType::Utf8,
    };
    let fields: Vec<Field> = columns.iter().map(|column| Field::new(&column.name, kind(column.kind), true)).collect();
    Arc::new(Schema::new(fields))
}

fn decide(column: &ColumnReport, is_csv: bool, kinds: Option<Kinds>) -> Decided {
    let text = |column: &ColumnReport| Decided::new(&column.name, "text");
    let Some(found) = &column.text else { return text(column) };
    let (looks, telling) = (&found.looks, found.looks.telling());
    if telling == 0 {
        return Decided { seen: Some("never has a value".to_owned()), ..text(column) };
    }
    // In JSON a number is one, or a text; in CSV it is what it looks like.
    let is_plain = kinds.is_none_or(|kinds| kinds.texts == 0);
    let is_typed = is_csv || is_plain;
    let words: Vec<String> = found.missing_words.iter().map(|(word, _)| word.clone()).collect();
    let plain = |kind| Decided {
        missing_words: if is_csv { words.clone() } else { Vec::new() },
        ..Decided::new(&column.name, kind)
    };
    let mostly = |count: u64| count as f64 >= MOSTLY * telling as f64;
    let to = |to, seen: String| Decided {
        coerce: Some(Coerce { to, decimal: None, thousands: None, format: None, missing: words.clone() }),
        seen: Some(seen),
        ..text(column)
    };
    if let Some(kinds) = kinds.filter(|kinds| kinds.texts > 0 && kinds.others > 0) {
        let seen = format!("text {} times, something else {} times: no one type reads both", kinds.texts, kinds.others);
        return if kinds.others > kinds.texts && mostly(looks.numbers) {
            Decided { seen: Some(seen), ..plain("float") }
        } else {
            Decided { seen: Some(seen), ..text(column) }
        };
    }
    if looks.numbers == telling && is_typed && !has_leading_zero(found) {
        return number(column, found, &plain);
    }
    let share = |count: u64| format!("{:.1} %", 100.0 * count as f64 / telling as f64);
    if looks.commas > 0 && mostly(looks.numbers + looks.commas) && looks.numbers == looks.whole {
        let mut decided = to("float", format!("{} with a decimal comma", share(looks.commas)));
        let coerce = decided.coerce.as_mut().expect("it was just made");
        coerce.decimal = Some(',');
        coerce.thousands = (looks.grouped > 0).then_some('.');
        return decided;
    }
    if mostly(looks.numbers) && !has_leading_zero(found) {
        let kind = if looks.numbers == looks.whole { "int" } else { "float" };
        return to(kind, format!("{} are numbers", share(looks.numbers)));
    }
    if looks.timestamps == telling && (is_typed || words.is_empty()) {
        return plain("timestamp");
    }
    if mostly(looks.timestamps) {
        return to("timestamp", format!("{} are timestamps", share(looks.timestamps)));
    }
    // The form that reads the most; of those, the first that is tried.
    let formats = millstream_operators::profile::FORMATS.iter().rev();
    let count = |format: &&'static str| looks.formats.get(*format).copied().unwrap_or_default();
    if let Some(format) = formats.max_by_key(|format| count(format)).filter(|format| mostly(count(format))) {
        let mut decided = to("timestamp", format!("{} in the form {format}", share(count(format))));
        decided.coerce.as_mut().expect("it was just made").format = Some(format);
        return decided;
    }
    if looks.truths == telling {
        let is_readable =
            |(text, _): &(String, u64)| ["true", "false", "t", "f"].contains(&text.to_lowercase().as_str());
        let reads = if is_csv { found.top_is_all && found.top.iter().all(is_readable) } else { is_plain };
        return if reads { plain("bool") } else { to("bool", "words for true and false".to_owned()) };
    }
    text(column)
}

/// Codes that look like numbers, as postal codes do.
fn has_leading_zero(found: &TextReport) -> bool {
    let is_code =
        |text: &str| text.len() > 1 && text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit());
    found.top.iter().any(|(text, _)| is_code(text))
}

fn number(column: &ColumnReport, found: &TextReport, plain: &dyn Fn(&'static str) -> Decided) -> Decided {
    if found.looks.whole < found.looks.numbers {
        return plain("float");
    }
    let name = column.name.to_lowercase();
    let is_time = ["ts", "time", "timestamp", "at", "epoch"].contains(&name.as_str())
        || ["_at", "_ts", "_time"].iter().any(|end| name.ends_with(end));
    let within =
        |unit: f64| [column.min, column.max].iter().all(|value| value.is_some_and(|v| TIMES.contains(&(v / unit))));
    match (is_time, within(1.0), within(1000.0)) {
        (true, true, _) => {
            Decided { in_seconds: true, seen: Some("seconds since 1970".to_owned()), ..plain("timestamp") }
        }
        (true, _, true) => Decided { seen: Some("milliseconds since 1970".to_owned()), ..plain("timestamp") },
        _ => plain("int"),
    }
}
