//! `coerce`: columns of a declared type, from text or numbers.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, RecordBatch, StringBuilder,
    TimestampMillisecondArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type, SchemaRef, TimeUnit};
use millstream_engine::Result;
use millstream_engine::batch::{Lane, with_fields};
use millstream_engine::catalogue::{Kind, Planned, Problem, Problems, StepInput, StepKind, configuration, schema_of};
use millstream_engine::operator::{Power, Rejects, Step, Transform};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::columns::{Otherwise, changeable_each, changes, repaired, shown};
use super::reading::{Notation, Read, Unreadable, in_range, instant, instant_as, instant_of, is_format, truth, whole};

pub(super) static KIND: StepKind = Kind {
    name: "coerce",
    about: "Columns of a declared type, from text or numbers.\n\n\
            Blanks around a text do not count. What `missing` lists is null: numbers by their value, text by its \
            letters; so are blank texts (in columns that become text, only where `\"\"` is listed) and numbers that \
            are not finite. A float becomes a whole number only where it is one. Truth values are `true`, `t`, `yes`, \
            `y`, `on`, `1` and their opposites in either case; timestamps are RFC 3339 (UTC without a zone) or have \
            the form `format`; numbers count from 1970, as text, too. Columns that are written in different ways go \
            into steps of their own.",
    schema: schema_of::<Config>,
    example: "columns: {sensor: float, count: float}\ndecimal: \",\"\nthousands: \".\"\nmissing: [-200, \"N/A\"]\n\
              otherwise: \"null\"\n",
    plan,
};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Columns of text, numbers, or true and false, and what each becomes.
    columns: BTreeMap<String, Type>,
    /// The character before a fraction. Default: a point.
    #[serde(default = "point")]
    decimal: char,
    /// The character between groups of three digits; a blank stands for all of its widths. Default: there is none.
    thousands: Option<char>,
    /// What a number with a percent sign means. Default: it cannot be read.
    percent: Option<Percent>,
    /// The form of timestamps, in the letters of strftime: `%d.%m.%Y %H:%M`. UTC where it has no zone, midnight
    /// where it has no time of day. Default: RFC 3339.
    format: Option<String>,
    /// The unit of timestamps that are numbers.
    #[serde(default)]
    timestamps: Unit,
    /// Numbers and texts that stand for a missing value.
    #[serde(default)]
    missing: Vec<Missing>,
    /// What becomes of a value that cannot be read. Default: `dead_letter`.
    #[serde(default)]
    otherwise: Otherwise,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Type {
    /// A whole number.
    Int,
    /// A number.
    Float,
    /// True or false.
    Bool,
    /// An instant.
    Timestamp,
    /// Text.
    Text,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Percent {
    /// `50%` is 50.
    Points,
    /// `50%` is 0.5.
    Share,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Unit {
    /// Seconds.
    S,
    /// Milliseconds.
    #[default]
    Ms,
    /// Microseconds.
    Us,
    /// Nanoseconds.
    Ns,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a number or text")]
enum Missing {
    Int(i64),
    Float(f64),
    Text(String),
}

fn point() -> char {
    '.'
}

impl Type {
    fn data_type(self) -> DataType {
        match self {
            Self::Int => DataType::Int64,
            Self::Float => DataType::Float64,
            Self::Bool => DataType::Boolean,
            Self::Timestamp => DataType::Timestamp(TimeUnit::Millisecond, None),
            Self::Text => DataType::Utf8,
        }
    }

    /// As reasons call it.
    fn noun(self) -> &'static str {
        match self {
            Self::Int => "whole number",
            Self::Float => "number",
            Self::Bool => "truth value",
            Self::Timestamp => "timestamp",
            Self::Text => "text",
        }
    }

    /// Whether a column of this type can be read as one.
    fn reads(self, from: &DataType) -> bool {
        match from {
            DataType::Utf8 | DataType::Int64 | DataType::Float64 => true,
            DataType::Boolean => self != Self::Timestamp,
            DataType::Timestamp(..) => matches!(self, Self::Timestamp | Self::Text),
            _ => false,
        }
    }
}

fn plan(config: &Value, input: &StepInput<'_>) -> Planned<Step> {
    let config: Config = configuration(config)?;
    let mut problems = Problems::default();
    let columns = changeable_each(input.schema, &mut problems, &config.columns);
    for &(at, &to) in &columns {
        let field = input.schema.field(at);
        if !to.reads(field.data_type()) {
            let message = format!("column `{}` holds {}, which is no {}", field.name(), field.data_type(), to.noun());
            problems.push(Problem::new(&format!("columns.{}", field.name()), "wrong-type", message));
        }
    }
    check_notation(&config, &mut problems);
    problems.finish()?;
    let columns: Vec<_> = columns.into_iter().map(|(at, to)| (at, *to)).collect();
    let fields = columns
        .iter()
        .map(|&(at, to)| input.schema.field(at).clone().with_data_type(to.data_type()).with_nullable(true));
    let schema = with_fields(input.schema, fields);
    let operator = Coerce::new(config, columns, schema.clone());
    Ok(Step { schema, others: Vec::new(), power: Power::transform(operator) })
}

fn check_notation(config: &Config, problems: &mut Problems) {
    let part = |c: char| c.is_alphanumeric() || matches!(c, '-' | '+' | '%');
    for (path, character) in [("decimal", Some(config.decimal)), ("thousands", config.thousands)] {
        if let Some(character) = character.filter(|c| part(*c)) {
            problems.push(Problem::new(path, "bad-value", format!("`{character}` is a part of numbers already")));
        }
    }
    if config.thousands == Some(config.decimal) {
        let message = format!("`{}` cannot stand before the fraction and between thousands", config.decimal);
        problems.push(Problem::new("thousands", "bad-value", message).help("say what `decimal` is"));
    }
    if let Some(format) = config.format.as_deref().filter(|format| !is_format(format)) {
        let message = format!("`{format}` is no form of a timestamp");
        problems.push(Problem::new("format", "bad-value", message).help("an example: `%d.%m.%Y %H:%M`"));
    }
    if config.format.is_some() && !config.columns.values().any(|to| *to == Type::Timestamp) {
        problems.push(Problem::new("format", "bad-value", "`format` is for timestamps, and no column becomes one"));
    }
}

struct Coerce {
    columns: Vec<(usize, Type)>,
    notation: Notation,
    format: Option<String>,
    /// Milliseconds of timestamps' units.
    unit_ms: f64,
    missing: Vec<f64>,
    missing_ints: Vec<i64>,
    missing_texts: Vec<String>,
    otherwise: Otherwise,
    schema: SchemaRef,
}

impl Coerce {
    fn new(config: Config, columns: Vec<(usize, Type)>, schema: SchemaRef) -> Self {
        let percent = config.percent.map(|percent| match percent {
            Percent::Points => 1.0,
            Percent::Share => 100.0,
        });
        let notation = Notation { decimal: config.decimal, thousands: config.thousands, percent };
        let (mut missing, mut missing_ints, mut missing_texts) = (Vec::new(), Vec::new(), Vec::new());
        for value in config.missing {
            let text = match value {
                Missing::Int(value) => value.to_string(),
                Missing::Float(value) => value.to_string(),
                Missing::Text(text) => text.trim().to_owned(),
            };
            // As text, too, since not every whole number is a float.
            let plain = Notation { decimal: '.', thousands: None, percent: None };
            let mut scratch = String::new();
            missing.extend(plain.float(&text, &mut scratch).ok().flatten());
            missing_ints.extend(plain.int(&text, &mut scratch).ok().flatten());
            missing_texts.push(text);
        }
        let unit_ms = match config.timestamps {
            Unit::S => 1e3,
            Unit::Ms => 1.0,
            Unit::Us => 1e-3,
            Unit::Ns => 1e-6,
        };
        let (format, otherwise) = (config.format, config.otherwise);
        Self { columns, notation, format, unit_ms, missing, missing_ints, missing_texts, otherwise, schema }
    }
}

impl Transform for Coerce {
    fn apply(&self, _: Lane, rows: &RecordBatch, rejects: &mut Rejects) -> Result<RecordBatch> {
        let mut columns = Vec::with_capacity(self.columns.len());
        for &(at, to) in &self.columns {
            let name = self.schema.field(at).name().as_str();
            let target = Target { step: self, name, to, rejects };
            let from = rows.column(at);
            let column = match from.data_type() {
                DataType::Utf8 => target.of_text(from),
                DataType::Int64 => target.of_ints(from)?,
                DataType::Float64 => target.of_floats(from)?,
                _ => cast(from, &to.data_type())?,
            };
            rejects.repaired(changes(from, &column)?);
            columns.push((name, column));
        }
        repaired(&self.schema, rows, columns, rejects)
    }
}

/// A column that is made.
struct Target<'a> {
    step: &'a Coerce,
    name: &'a str,
    to: Type,
    rejects: &'a mut Rejects,
}

impl Target<'_> {
    fn of_text(mut self, from: &ArrayRef) -> ArrayRef {
        let (step, mut scratch) = (self.step, String::new());
        let cells = from.as_string::<i32>();
        let missing = |text: &str| step.missing_texts.iter().any(|missing| missing == text);
        match self.to {
            Type::Float => self.read::<_, _, Float64Array>(cells, |text: &str| {
                if text.trim().is_empty() || missing(text.trim()) {
                    return Ok(None);
                }
                let value = step.notation.float(text.trim(), &mut scratch)?;
                Ok(value.filter(|value| !step.missing.contains(value)))
            }),
            Type::Int => self.read::<_, _, Int64Array>(cells, |text: &str| {
                if text.trim().is_empty() || missing(text.trim()) {
                    return Ok(None);
                }
                let value = step.notation.int(text.trim(), &mut scratch)?;
                Ok(value.filter(|value| !step.missing_ints.contains(value)))
            }),
            Type::Bool => self.read::<_, _, BooleanArray>(cells, |text: &str| match text.trim() {
                text if text.is_empty() || missing(text) => Ok(None),
                text => truth(text),
            }),
            Type::Timestamp => self.read::<_, _, TimestampMillisecondArray>(cells, |text: &str| match text.trim() {
                text if text.is_empty() || missing(text) => Ok(None),
                text => step.instant(text).map(Some),
            }),
            Type::Text => trimmed(cells, missing),
        }
    }

    fn of_ints(mut self, from: &ArrayRef) -> Result<ArrayRef> {
        let (step, cells) = (self.step, from.as_primitive::<Int64Type>());
        let known = |value: i64| (!step.missing_ints.contains(&value)).then_some(value);
        Ok(match self.to {
            Type::Int => self.read::<_, _, Int64Array>(cells, |value| Ok(known(value))),
            Type::Float => self.read::<_, _, Float64Array>(cells, |value| Ok(known(value).map(|value| value as f64))),
            Type::Bool => self.read::<_, _, BooleanArray>(cells, |value| known(value).map(truth_of).transpose()),
            Type::Timestamp => self.read::<_, _, TimestampMillisecondArray>(cells, |value| {
                known(value).map(|value| step.instant_of_int(value)).transpose()
            }),
            Type::Text => cast(&self.read::<_, _, Int64Array>(cells, |value| Ok(known(value))), &DataType::Utf8)?,
        })
    }

    fn of_floats(mut self, from: &ArrayRef) -> Result<ArrayRef> {
        let (step, cells) = (self.step, from.as_primitive::<Float64Type>());
        let known = |value: f64| Some(value).filter(|value| value.is_finite() && !step.missing.contains(value));
        Ok(match self.to {
            Type::Float => self.read::<_, _, Float64Array>(cells, |value| Ok(known(value))),
            Type::Int => self.read::<_, _, Int64Array>(cells, |value| known(value).map(whole).transpose()),
            Type::Bool => self.read::<_, _, BooleanArray>(cells, |value| {
                known(value).map(|value| whole(value).and_then(truth_of)).transpose()
            }),
            Type::Timestamp => self.read::<_, _, TimestampMillisecondArray>(cells, |value| {
                known(value).map(|value| instant_of(value, step.unit_ms)).transpose()
            }),
            Type::Text => cast(&self.read::<_, _, Float64Array>(cells, |value| Ok(known(value))), &DataType::Utf8)?,
        })
    }

    /// Reads each cell that is not null.
    fn read<C: Display + Copy, T, A: Array + FromIterator<Option<T>> + 'static>(
        &mut self,
        cells: impl IntoIterator<Item = Option<C>>,
        mut read: impl FnMut(C) -> Read<T>,
    ) -> ArrayRef {
        let value = |(row, cell): (usize, Option<C>)| {
            let cell = cell?;
            read(cell).unwrap_or_else(|Unreadable| {
                let reason = || format!("column `{}`: {} is no {}", self.name, shown(cell), self.to.noun());
                self.step.otherwise.refuse(self.rejects, row, reason);
                None
            })
        };
        Arc::new(cells.into_iter().enumerate().map(value).collect::<A>())
    }
}

impl Coerce {
    fn instant(&self, text: &str) -> Result<i64, Unreadable> {
        if let Some(format) = &self.format {
            return instant_as(text, format);
        }
        match text.parse::<i64>() {
            Ok(number) => self.instant_of_int(number),
            Err(_) => instant(text),
        }
    }

    /// In whole numbers, since nanoseconds are more than floats can tell apart.
    fn instant_of_int(&self, value: i64) -> Result<i64, Unreadable> {
        if self.unit_ms >= 1.0 {
            return in_range(value.checked_mul(self.unit_ms as i64).ok_or(Unreadable)?);
        }
        in_range(value.div_euclid((1.0 / self.unit_ms).round() as i64))
    }
}

fn truth_of(value: i64) -> Result<bool, Unreadable> {
    match value {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Unreadable),
    }
}

/// Texts without the blanks around them.
fn trimmed(cells: &arrow::array::StringArray, missing: impl Fn(&str) -> bool) -> ArrayRef {
    let mut builder = StringBuilder::with_capacity(cells.len(), cells.value_data().len());
    for cell in cells {
        builder.append_option(cell.map(str::trim).filter(|text| !missing(text)));
    }
    Arc::new(builder.finish())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::harness::{check, problems};

    #[test]
    fn numbers_are_read_of_text() {
        check(
            &super::KIND,
            &json!({"columns": {"sensor": "float", "room": "int"}, "missing": [-200, 2_147_483_647, "N/A"]}),
            "t sensor         room
             1 ␣1.5␣          7
             2 -200.0         2147483647
             3 N/A            12.0
             4 ∅              +4
             5 1,5            1
             6 1e400          1
             7 2              1.5
             8 null           null
             9 NaN            -200",
            "t sensor room
             1 1.5    7
             2 null   null
             3 null   12
             4 null   4
             8 null   null
             9 null   null
             row 4: column `sensor`: `1,5` is no number
             row 5: column `sensor`: `1e400` is no number
             row 6: column `room`: `1.5` is no whole number",
        );
    }

    #[test]
    fn what_cannot_be_read_may_be_null() {
        for otherwise in [json!(null), json!("null")] {
            let columns = json!({"sensor": "float", "room": "bool"});
            let config = json!({"columns": columns, "decimal": ",", "percent": "share", "otherwise": otherwise});
            check(
                &super::KIND,
                &config,
                "t sensor room\n1 1,5 Yes\n2 1.5 perhaps\n3 50% 0",
                "t sensor room\n1 1.5 true\n2 null null\n3 0.5 false",
            );
        }
    }

    #[test]
    fn timestamps_are_read() {
        let config = json!({"columns": {"sensor": "timestamp", "count": "timestamp"}, "timestamps": "s"});
        check(
            &super::KIND,
            &config,
            "t sensor                 count
             1 1970-01-01T00:01:00Z   5
             2 60                     -1
             3 1970-01-01␣00:01       9223372036854775807
             4 yesterday              0",
            "t sensor count
             1 60     5
             2 60     -1
             row 2: column `count`: `9223372036854775807` is no timestamp
             row 3: column `sensor`: `yesterday` is no timestamp",
        );
        let config = json!({"columns": {"sensor": "timestamp"}, "format": "%d.%m.%Y %H:%M"});
        check(&super::KIND, &config, "t sensor\n1 ␣2.1.1970␣00:01", "t sensor\n1 86460");
        let config = json!({"columns": {"count": "timestamp", "temperature": "timestamp"}, "timestamps": "ns"});
        check(
            &super::KIND,
            &config,
            "t count temperature\n1 1700000000123999999 3e9",
            "t count temperature\n1 1700000000.123 3",
        );
    }

    #[test]
    fn numbers_and_truth_values_change_their_type() {
        let columns = json!({"temperature": "int", "humidity": "bool", "count": "float", "ok": "int"});
        check(
            &super::KIND,
            &json!({"columns": columns, "missing": [-200]}),
            "t temperature humidity count ok
             1 3           1        7     true
             2 -200        NaN      -200  null
             3 2.5         0        1     false
             4 inf         2        1     false",
            "t temperature humidity count ok
             1 3           true     7     1
             2 null        null     null  null
             row 2: column `temperature`: `2.5` is no whole number
             row 3: column `humidity`: `2` is no truth value",
        );
    }

    #[test]
    fn text_keeps_its_letters() {
        let columns = json!({"sensor": "text", "count": "text", "temperature": "text"});
        check(
            &super::KIND,
            &json!({"columns": columns, "missing": [-200, "N/A"]}),
            "t sensor count temperature
             1 ␣a␣b␣  7     1.5
             2 N/A    -200  -200
             3 ∅      null  NaN
             4 -200   1     2",
            "t sensor count temperature
             1 a␣b    7     1.5
             2 null   null  null
             3 ∅      null  null
             4 null   1     2.0",
        );
    }

    #[test]
    fn all_problems_are_found() {
        let config = json!({"columns": {"_time": "text", "at": "float", "rom": "int"}, "decimal": "1",
            "thousands": "1", "format": "%Q"});
        let expected = "columns._time reserved-column; columns.rom unknown-column; columns.at wrong-type; \
                        decimal bad-value; thousands bad-value; thousands bad-value; format bad-value; format bad-value";
        assert_eq!(problems(&super::KIND, &config), expected);
        assert_eq!(problems(&super::KIND, &json!({"columns": {}})), "columns empty-list");
        assert_eq!(problems(&super::KIND, &json!({"columns": {"room": "number"}})), "columns.room bad-value");
    }
}
