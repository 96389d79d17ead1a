//! `json`: one JSON object in each record.

mod cursor;
mod encode;
mod envelope;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef};
use millstream_engine::catalogue::{Kind, Planned, configuration, schema_of};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use self::cursor::{Cursor, Reason, Text};
use super::columns::{Column, Columns};
use super::record::{RowDecoder, RowFormat};
use super::{Format, FormatKind, timestamp};

/// How JSON is read and written.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// What happens to keys that are not among the columns. Default: `ignore`.
    pub unknown: Unknown,
    /// The unit of timestamps that are numbers: since 1970, UTC. Default: `ms`.
    pub timestamps: Unit,
    /// What is around the row. Default: `none`.
    pub envelope: Envelope,
    /// Whether a missing value is written as `null` or its key left out. Default: `write`.
    pub nulls: Nulls,
}

/// What happens to keys that are not among the columns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unknown {
    /// They are skipped.
    #[default]
    Ignore,
    /// The record becomes a dead letter.
    Reject,
}

/// What is around the row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Envelope {
    /// Nothing: the record is the row.
    #[default]
    None,
    /// A change record of Debezium. The row is `after`, or `before` where it was deleted; a text column `op` says what was done:
    /// `c`, `u`, `d` or `r`. The tombstones that follow deletions are left out.
    Debezium,
}

/// The unit of timestamps that are numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Milliseconds.
    #[default]
    Ms,
    /// Seconds.
    S,
}

impl Unit {
    pub(crate) fn ms(self) -> i64 {
        match self {
            Self::Ms => 1,
            Self::S => 1000,
        }
    }
}

/// How missing values are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Nulls {
    /// As `null`.
    #[default]
    Write,
    /// Not at all.
    Omit,
}

/// The entry of `json`.
pub static KIND: FormatKind = Kind {
    name: "json",
    about: "One JSON object in each record.\n\n\
        Keys are matched to the columns by name, in any order; a missing key and `null` are both null, and of a key \
        that comes twice the last value counts (each must fit). An int is written without a fraction, \
        a float may be any number that is finite as a 64-bit float, a timestamp is an RFC 3339 text (`2026-01-31T12:30:00Z`; UTC where it names no zone; \
        a space for the `T` and a date alone are taken, too) or a number since 1970. An object or array in a text \
        column is kept as its JSON text. Anything else, also a record that is cut off or has something behind it, \
        becomes a dead letter that says which column, what was expected and what was found.\n\n\
        Written: one object per row, timestamps as RFC 3339 with milliseconds, floats that are not finite as `null`.",
    schema: schema_of::<Config>,
    example: "{unknown: reject, timestamps: s}",
    plan,
};

fn plan(value: &Value, columns: &SchemaRef) -> Planned<Format> {
    let config: Config = configuration(value)?;
    let writer = encode::plan(columns, config.nulls)?;
    let (columns, decoding) = (columns.clone(), config);
    Ok(Format {
        decoder: Arc::new(move || {
            Box::new(RowDecoder::new(Json::new(&columns, decoding.clone()), Columns::new(&columns)))
        }),
        encoder: Arc::new(move || Box::new(writer.clone())),
    })
}

/// Reads objects.
struct Json {
    config: Config,
    keys: Keys,
    /// The column for what was done.
    operation: Option<usize>,
}

impl Json {
    fn new(columns: &Schema, config: Config) -> Self {
        let is_operation = |field: &&FieldRef| field.name() == "op" && field.data_type() == &DataType::Utf8;
        let operation = columns.fields().find("op").filter(|(_, field)| is_operation(field)).map(|(at, _)| at);
        Self { config, keys: Keys::new(columns), operation }
    }
}

impl RowFormat for Json {
    #[inline]
    fn row(&mut self, record: &str, columns: &mut Columns) -> Result<(), Reason> {
        match self.config.envelope {
            Envelope::None => self.object(record, columns),
            Envelope::Debezium => {
                let change = envelope::change(record)?;
                self.object(change.row, columns)?;
                if let Some(Column::Text(column)) = self.operation.map(|operation| columns.open(operation)) {
                    column.push(change.operation);
                }
                Ok(())
            }
        }
    }

    fn skips_tombstones(&self) -> bool {
        self.config.envelope == Envelope::Debezium
    }
}

impl Json {
    #[inline]
    fn object(&mut self, record: &str, columns: &mut Columns) -> Result<(), Reason> {
        let cursor = &mut Cursor::new(record);
        cursor.space();
        cursor.expect(b'{')?;
        cursor.space();
        if cursor.eat(b'}') {
            return cursor.end();
        }
        let mut previous = self.keys.start();
        let mut key = self.keys.read(cursor, previous)?;
        loop {
            cursor.space();
            match key {
                Key::Column(column) => {
                    previous = column;
                    value(cursor, columns.open(column), self.config.timestamps)
                        .map_err(|reason| format!("column `{}`: {reason}", columns.name(column)))?;
                    if let Some(next) = self.keys.follows(cursor, column) {
                        key = Key::Column(next);
                        continue;
                    }
                }
                Key::Unknown(key) if self.config.unknown == Unknown::Reject => {
                    return Err(format!("unknown key `{}`", key.raw()));
                }
                Key::Unknown(_) => {
                    cursor.skip()?;
                }
            }
            cursor.space();
            if !cursor.eat(b',') {
                cursor.expect(b'}')?;
                return cursor.end();
            }
            cursor.space();
            key = self.keys.read(cursor, previous)?;
        }
    }
}

#[inline]
fn value(cursor: &mut Cursor<'_>, column: &mut Column, unit: Unit) -> Result<(), Reason> {
    match column {
        Column::Float(column) => {
            if let Some(value) = cursor.plain_float() {
                column.push(value);
                return Ok(());
            }
        }
        Column::Int(column) => {
            if let Some(value) = cursor.plain_int() {
                column.push(value);
                return Ok(());
            }
        }
        Column::Timestamp(column) if unit == Unit::Ms => {
            let before = cursor.clone();
            if let Some(ms) = cursor.plain_int().filter(|ms| timestamp::in_range(*ms)) {
                column.push(ms);
                return Ok(());
            }
            *cursor = before;
        }
        Column::Text(column) => {
            if let Some(value) = cursor.plain_text() {
                column.push(value);
                return Ok(());
            }
        }
        _ => {}
    }
    any_value(cursor, column, unit)
}

/// Values as they are seldom written, missing ones, and other types.
fn any_value(cursor: &mut Cursor<'_>, column: &mut Column, unit: Unit) -> Result<(), Reason> {
    if cursor.null() {
        column.push_null();
        return Ok(());
    }
    let numeric = matches!(cursor.peek(), Some(b'-' | b'0'..=b'9'));
    let before = cursor.clone();
    match column {
        Column::Float(column) if numeric => match cursor.number()?.float() {
            Some(value) => column.push(value),
            None => return Err(before.mismatch("a finite float")),
        },
        Column::Int(column) if numeric => match cursor.number()?.int() {
            Some(value) => column.push(value),
            None => return Err(before.mismatch("an int of 64 bits")),
        },
        Column::Text(column) if cursor.peek() == Some(b'"') => {
            let text = cursor.text()?;
            match text.plain() {
                Some(plain) => column.push(plain),
                None => column.push_with(|out| {
                    text.write(out);
                    Ok::<(), Reason>(())
                })?,
            }
        }
        Column::Text(column) if matches!(cursor.peek(), Some(b'{' | b'[')) => column.push(cursor.skip()?),
        Column::Timestamp(column) => match instant(cursor, unit)? {
            Some(ms) => column.push(ms),
            None => return Err(before.mismatch(timestamp::EXPECTED)),
        },
        Column::Bool(column) => match cursor.bool() {
            Some(value) => column.push(value),
            None => return Err(before.mismatch("true or false")),
        },
        Column::Float(_) => return Err(before.mismatch("a float")),
        Column::Int(_) => return Err(before.mismatch("an int")),
        Column::Text(_) => return Err(before.mismatch("a text")),
    }
    Ok(())
}

/// An instant, where the value is one: a text or a number.
fn instant(cursor: &mut Cursor<'_>, unit: Unit) -> Result<Option<i64>, Reason> {
    Ok(match cursor.peek() {
        // No timestamp needs escapes.
        Some(b'"') => cursor.text()?.plain().and_then(|text| timestamp::parse(text.as_bytes())),
        Some(b'-' | b'0'..=b'9') => {
            let number = cursor.number()?;
            match number.int() {
                Some(int) => int.checked_mul(unit.ms()).filter(|ms| timestamp::in_range(*ms)),
                None => number.float().and_then(|float| timestamp::from_number(float, unit.ms() as f64)),
            }
        }
        _ => None,
    })
}

enum Key<'a> {
    Column(usize),
    Unknown(Text<'a>),
}

/// Finds columns by key. Records tend to have their keys in the same order, so the guess after each key is the one
/// that followed it last time; at first, the declared order.
struct Keys {
    /// Each column's key as it is usually written behind another value: `,"key":`.
    written: Vec<Box<[u8]>>,
    /// The column that followed each column; the last entry, the one that came first.
    next: Vec<usize>,
    by_name: HashMap<Box<[u8]>, usize>,
    scratch: Vec<u8>,
}

impl Keys {
    fn new(columns: &Schema) -> Self {
        let names: Vec<&String> = columns.fields().iter().map(|field| field.name()).collect();
        let count = names.len();
        Self {
            written: names.iter().map(|name| format!(",{}:", Value::from(name.as_str())).into_bytes().into()).collect(),
            next: (1..=count).map(|at| if at == count { 0 } else { at }).chain([0]).collect(),
            by_name: names.iter().enumerate().map(|(at, name)| (name.as_bytes().into(), at)).collect(),
            scratch: Vec::new(),
        }
    }

    /// What precedes the first key.
    fn start(&self) -> usize {
        self.written.len()
    }

    /// The column that is guessed to follow, if its key comes next, with the comma before it and the colon behind it.
    #[inline]
    fn follows(&self, cursor: &mut Cursor<'_>, previous: usize) -> Option<usize> {
        let guess = self.next[previous];
        cursor.eat_all(&self.written[guess]).then_some(guess)
    }

    /// Reads a key with its colon.
    #[inline]
    fn read<'a>(&mut self, cursor: &mut Cursor<'a>, previous: usize) -> Result<Key<'a>, Reason> {
        let guess = self.next[previous];
        match self.written.get(guess) {
            Some(written) if cursor.eat_all(&written[1..]) => Ok(Key::Column(guess)),
            _ => self.look_up(cursor, previous),
        }
    }

    fn look_up<'a>(&mut self, cursor: &mut Cursor<'a>, previous: usize) -> Result<Key<'a>, Reason> {
        let text = cursor.text()?;
        cursor.space();
        cursor.expect(b':')?;
        let name = if let Some(plain) = text.plain() {
            plain.as_bytes()
        } else {
            self.scratch.clear();
            text.write(&mut self.scratch);
            &self.scratch
        };
        match self.by_name.get(name) {
            Some(&column) => {
                self.next[previous] = column;
                Ok(Key::Column(column))
            }
            None => Ok(Key::Unknown(text)),
        }
    }
}
