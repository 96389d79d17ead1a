//! `csv`: one line of comma-separated values in each record.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{BinaryArray, RecordBatch};
use arrow::datatypes::{Schema, SchemaRef};
use millstream_engine::Result;
use millstream_engine::catalogue::{Kind, Planned, Problem, Problems, configuration, schema_of};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use crate::formats::cells::{Cells, Writing, check, write_json};
use crate::formats::columns::{Column, Columns};
use crate::formats::json::Unit;
use crate::formats::record::{RowDecoder, RowFormat};
use crate::formats::{Cell, Encoder, Format, FormatKind, timestamp};

/// How CSV is read and written.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// What separates the values: `,` (default), `;`, `|` or a tab.
    pub delimiter: char,
    /// What stands for a missing value. In a text column a quoted value is never missing. Default: nothing, and `NA`.
    #[serde(alias = "null")]
    pub missing: Vec<String>,
    /// The columns in the order that the records have them, where it differs from the declared one. Names that are not
    /// declared are skipped; declared ones that are not here are null. A file's own header tells the same of that file,
    /// if it names any declared column; what is written here comes before it.
    pub header: Option<Vec<String>>,
    /// The unit of timestamps that are numbers: since 1970, UTC. Default: `ms`.
    pub timestamps: Unit,
}

impl Default for Config {
    fn default() -> Self {
        Self { delimiter: ',', missing: vec![String::new(), "NA".to_owned()], header: None, timestamps: Unit::Ms }
    }
}

/// What may separate values. A file is cut into records without knowing which of them it is.
pub(crate) const DELIMITERS: [u8; 4] = [b',', b';', b'\t', b'|'];

/// The entry of `csv`.
pub static KIND: FormatKind = Kind {
    name: "csv",
    about: "One line of comma-separated values in each record, in the order of the file's header, or of `header`, or the \
        declared one.\n\n\
        Values may be quoted (`\"`, doubled inside); a quoted value may hold delimiters and line breaks. Space around \
        numbers, truth values and timestamps is ignored. Truth values are `true`, `false`, `t`, `f`, `1`, `0` in \
        either case; timestamps are RFC 3339 (UTC without a zone, a space for the `T` and a date alone are taken, too) \
        or whole numbers since 1970; floats must be finite. A line with another number of values, or a value that is not of its \
        column's type, becomes a dead letter.\n\n\
        Written: the columns in their order, missing values as nothing, an empty text as `\"\"`.",
    schema: schema_of::<Config>,
    example: "{delimiter: \";\", missing: [\"\", \"NA\", \"-\"]}",
    plan,
};

fn plan(value: &Value, columns: &SchemaRef) -> Planned<Format> {
    let config: Config = configuration(value)?;
    let mut problems = Problems::default();
    if !u8::try_from(config.delimiter).is_ok_and(|byte| DELIMITERS.contains(&byte)) {
        let message = format!("`{}` cannot separate values", config.delimiter.escape_default());
        problems.push(Problem::new("delimiter", "bad-delimiter", message).help("use `,`, `;`, `|` or a tab (\"\\t\")"));
    }
    problems.take_all(check_header(&config, columns));
    problems.take_all(check(columns));
    problems.finish()?;
    let (columns, delimiter) = (columns.clone(), config.delimiter as u8);
    let writer = Writer { delimiter, missing: config.missing.clone().into() };
    Ok(Format {
        decoder: Arc::new(move || Box::new(RowDecoder::new(Csv::new(&config, &columns), Columns::new(&columns)))),
        encoder: Arc::new(move || Box::new(writer.clone())),
    })
}

/// Each declared column must be found once at most, and at least one must be.
fn check_header(config: &Config, columns: &Schema) -> Planned<()> {
    let mut problems = Problems::default();
    let header = config.header.as_deref().unwrap_or_default();
    for (at, name) in header.iter().enumerate() {
        if header[..at].contains(name) {
            let message = format!("`{name}` is in the header twice");
            problems.push(Problem::new(&format!("header.{at}"), "duplicate-column", message));
        }
    }
    let declared = || columns.fields().iter().map(|field| field.name().clone());
    if !header.is_empty() && !declared().any(|name| header.contains(&name)) {
        let message = "none of the declared columns is in the header";
        problems.push(Problem::new("header", "unknown-column", message).choices(&header[0], declared()));
    }
    problems.finish()
}

/// Reads lines.
struct Csv {
    delimiter: u8,
    missing: Vec<String>,
    unit: Unit,
    /// For each value of a line, the column that it is for.
    places: Vec<Option<usize>>,
    /// The same where there is no header, or the configuration has it.
    declared: Vec<Option<usize>>,
    /// The same by partition, for those that have a header.
    named: BTreeMap<u32, Vec<Option<usize>>>,
    /// The columns' names, if a header counts.
    names: Vec<String>,
    scratch: String,
}

impl Csv {
    fn new(config: &Config, columns: &Schema) -> Self {
        let places: Vec<Option<usize>> = match &config.header {
            Some(header) => header.iter().map(|name| columns.index_of(name).ok()).collect(),
            None => (0..columns.fields().len()).map(Some).collect(),
        };
        let names = columns.fields().iter().filter(|_| config.header.is_none()).map(|field| field.name().clone());
        Self {
            delimiter: config.delimiter as u8,
            missing: config.missing.clone(),
            unit: config.timestamps,
            declared: places.clone(),
            places,
            named: BTreeMap::new(),
            names: names.collect(),
            scratch: String::new(),
        }
    }

    /// The columns that a header's names are for; `None` if it names none, and so is about something else. Of a name that
    /// comes twice, the first counts.
    fn places_of(&self, header: &str) -> Option<Vec<Option<usize>>> {
        let (mut places, mut rest, mut scratch) = (Vec::new(), Some(header), String::new());
        while let Some(line) = rest {
            scratch.clear();
            let (name, after) = split(line, self.delimiter, &mut scratch).ok()?;
            let name = name.unwrap_or(&scratch).trim();
            let column = self.names.iter().position(|other| other == name);
            places.push(column.filter(|column| !places.contains(&Some(*column))));
            rest = after;
        }
        places.iter().any(Option::is_some).then_some(places)
    }

    fn value(&self, text: &str, quoted: bool, column: &mut Column) -> Result<(), String> {
        let trimmed = text.trim_ascii();
        if !(quoted && matches!(column, Column::Text(_))) && self.missing.iter().any(|missing| missing == trimmed) {
            column.push_null();
            return Ok(());
        }
        let expected = match column {
            Column::Text(column) => {
                column.push(text);
                return Ok(());
            }
            Column::Int(column) => trimmed.parse().map(|value| column.push(value)).err().map(|_| "an int of 64 bits"),
            Column::Float(column) => match trimmed.parse::<f64>() {
                Ok(value) if value.is_finite() => {
                    column.push(value);
                    None
                }
                _ => Some("a finite float"),
            },
            Column::Bool(column) => {
                truth(trimmed).map(|value| column.push(value)).map_or(Some("true or false"), |()| None)
            }
            Column::Timestamp(column) => {
                instant(trimmed, self.unit).map(|value| column.push(value)).map_or(Some(timestamp::EXPECTED), |()| None)
            }
        };
        expected.map_or(Ok(()), |expected| Err(mismatch(expected, text)))
    }
}

impl RowFormat for Csv {
    fn row(&mut self, record: &str, columns: &mut Columns) -> Result<(), String> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let mut rest = Some(record);
        let mut found = 0;
        while let Some(line) = rest {
            let (value, after) = split(line, self.delimiter, &mut scratch)?;
            rest = after;
            if let Some(Some(column)) = self.places.get(found) {
                let quoted = line.starts_with('"');
                self.value(value.unwrap_or(&scratch), quoted, columns.open(*column))
                    .map_err(|reason| format!("column `{}`: {reason}", columns.name(*column)))?;
            }
            found += 1;
        }
        self.scratch = scratch;
        let expected = self.places.len();
        if found == expected { Ok(()) } else { Err(format!("expected {expected} values, found {found}")) }
    }

    fn begin(&mut self, partition: u32) {
        if !self.named.is_empty() {
            self.places.clone_from(self.named.get(&partition).unwrap_or(&self.declared));
        }
    }

    fn name(&mut self, partition: u32, header: &[u8]) {
        if let Some(places) = std::str::from_utf8(header).ok().and_then(|header| self.places_of(header)) {
            self.named.insert(partition, places);
        }
    }
}

/// The first value of a line and what follows its delimiter. A value with doubled quotes is put into `scratch`.
fn split<'a>(line: &'a str, delimiter: u8, scratch: &mut String) -> Result<(Option<&'a str>, Option<&'a str>), String> {
    let Some(inside) = line.strip_prefix('"') else {
        return Ok(match line.bytes().position(|byte| byte == delimiter) {
            Some(at) => (Some(&line[..at]), Some(&line[at + 1..])),
            None => (Some(line), None),
        });
    };
    let mut rest = inside;
    let mut doubled = false;
    loop {
        let end = rest.find('"').ok_or("a quoted value is not closed")?;
        let after = &rest[end + 1..];
        if let Some(more) = after.strip_prefix('"') {
            if !std::mem::replace(&mut doubled, true) {
                scratch.clear();
            }
            scratch.push_str(&rest[..=end]);
            rest = more;
            continue;
        }
        let value = if doubled { None } else { Some(&rest[..end]) };
        scratch.push_str(if doubled { &rest[..end] } else { "" });
        return match after.as_bytes().first() {
            None => Ok((value, None)),
            Some(byte) if *byte == delimiter => Ok((value, Some(&after[1..]))),
            Some(_) => Err("something follows a quoted value".to_owned()),
        };
    }
}

fn truth(text: &str) -> Option<bool> {
    let is = |words: [&str; 3]| words.iter().any(|word| text.eq_ignore_ascii_case(word));
    if is(["true", "t", "1"]) {
        Some(true)
    } else if is(["false", "f", "0"]) {
        Some(false)
    } else {
        None
    }
}

fn instant(text: &str, unit: Unit) -> Option<i64> {
    match text.parse::<i64>() {
        Ok(number) => number.checked_mul(unit.ms()).filter(|ms| timestamp::in_range(*ms)),
        Err(_) => timestamp::parse(text.as_bytes()),
    }
}

#[cold]
fn mismatch(expected: &str, found: &str) -> String {
    let shown: String = found.chars().take(32).collect();
    format!("expected {expected}, found the text {shown:?}{}", if shown.len() < found.len() { "…" } else { "" })
}

/// Writes lines.
#[derive(Clone)]
struct Writer {
    delimiter: u8,
    missing: Arc<[String]>,
}

impl Encoder for Writer {
    fn encode(&mut self, rows: &RecordBatch) -> Result<BinaryArray> {
        let columns = Cells::of(rows)?;
        let mut writing = Writing::new(rows.num_rows());
        for row in 0..rows.num_rows() {
            self.line(columns.iter().map(|cells| cells.get(row)), &mut writing.bytes);
            writing.end()?;
        }
        Ok(writing.finish())
    }

    fn row(&mut self, row: &[Cell<'_>], out: &mut Vec<u8>) -> Result<()> {
        self.line(row.iter().map(Cell::borrowed), out);
        Ok(())
    }
}

impl Writer {
    fn line<'a>(&self, row: impl Iterator<Item = Cell<'a>>, out: &mut Vec<u8>) {
        for (at, cell) in row.enumerate() {
            if at > 0 {
                out.push(self.delimiter);
            }
            match cell {
                Cell::Missing => {}
                Cell::Int(value) => write_json(&value, out),
                Cell::UInt(value) => write_json(&value, out),
                Cell::Float(value) => write_json(&value, out),
                Cell::Bool(value) => write_json(&value, out),
                Cell::Timestamp(ms) => timestamp::write(ms, out),
                Cell::Text(text) => self.write_text(&text, out),
            }
        }
    }

    fn write_text(&self, text: &str, out: &mut Vec<u8>) {
        let special = |byte: u8| matches!(byte, b'"' | b'\n' | b'\r') || DELIMITERS.contains(&byte);
        let missing = text.is_empty() || self.missing.iter().any(|missing| missing == text.trim_ascii());
        if missing || text.bytes().any(special) {
            write_quoted(text, out);
        } else {
            out.extend_from_slice(text.as_bytes());
        }
    }
}

/// The line that names the columns.
pub(crate) fn header_line(columns: &Schema, delimiter: u8) -> Vec<u8> {
    let mut line = Vec::new();
    for (at, field) in columns.fields().iter().enumerate() {
        if at > 0 {
            line.push(delimiter);
        }
        write_quoted(field.name(), &mut line);
    }
    line
}

fn write_quoted(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend_from_slice(text.replace('"', "\"\"").as_bytes());
    out.push(b'"');
}
