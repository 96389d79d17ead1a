//! `mask`: personal fields made less personal.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray, StringBuilder, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type, SchemaRef, TimeUnit, TimestampMillisecondType};
use chrono::{DateTime, Datelike, NaiveDate};
use millstream_engine::Result;
use millstream_engine::batch::{Lane, with_columns, with_fields};
use millstream_engine::catalogue::{Kind, Planned, Problem, Problems, StepInput, StepKind, configuration, schema_of};
use millstream_engine::operator::{Power, Rejects, Step, Transform};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::columns::{changeable_each, is_category, is_number, is_timestamp};

/// What stands for hidden text.
const REDACTED: &str = "[redacted]";
/// What stands for the hidden part of a text; the same for all lengths.
const STARS: &str = "***";
/// The shortest secret, in bytes: shorter ones can be guessed.
const SECRET_MIN: usize = 16;
/// How many hexadecimal digits of a hash are kept: so many that no two values meet.
const DIGITS: usize = 32;
/// What keys are derived for; a change would change every hash.
const PURPOSE: &str = "millstream 2026 mask: hashes of personal fields";

pub(super) static KIND: StepKind = Kind {
    name: "mask",
    about: "Personal fields are hidden, shortened, hashed or made coarse.\n\n\
            The steps after this one, models, answers and sinks see only what is left. \
            A record's own bytes and its key stay what they were: they are in the topic, and with a dead letter. \
            A hash is keyed (BLAKE3) with `secret`: the same value always gets the same hash, in every column, so that \
            it can be counted and joined, and nobody without the secret can try out values. Null stays null.",
    schema: schema_of::<Config>,
    example: "columns: {sensor: hash, room: {keep_last: 2}, temperature: {round: 5}, at: year_only, count: redact}\n\
              secret: \"${env:MASK_SECRET}\"\n",
    plan,
};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Columns, and what becomes of each.
    columns: BTreeMap<String, Mask>,
    /// What hashes are keyed with, at least 16 bytes: `${env:NAME}` or `${file:PATH}`.
    secret: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(from = "Option<MaskName>")]
enum Mask {
    Redact,
    KeepLast(usize),
    Hash,
    Null,
    YearOnly,
    Round(f64),
}

/// What becomes of a value.
// As it is written: a bare `null` is no text in YAML.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum MaskName {
    /// `[redacted]`, whatever it was.
    Redact,
    /// `***` and so many last characters of a text or whole number; only `***` where there are no more.
    KeepLast(usize),
    /// A keyed hash in 32 hexadecimal digits, of a text, a whole number, or true or false.
    Hash,
    /// Null.
    Null,
    /// The first moment of a timestamp's year (UTC).
    YearOnly,
    /// The nearest multiple of this, of a number.
    Round(f64),
}

impl From<Option<MaskName>> for Mask {
    fn from(name: Option<MaskName>) -> Self {
        match name {
            Some(MaskName::Redact) => Self::Redact,
            Some(MaskName::KeepLast(count)) => Self::KeepLast(count),
            Some(MaskName::Hash) => Self::Hash,
            Some(MaskName::Null) | None => Self::Null,
            Some(MaskName::YearOnly) => Self::YearOnly,
            Some(MaskName::Round(to)) => Self::Round(to),
        }
    }
}

fn plan(config: &Value, input: &StepInput<'_>) -> Planned<Step> {
    let config: Config = configuration(config)?;
    let mut problems = Problems::default();
    let mut columns = Vec::new();
    for (at, mask) in changeable_each(input.schema, &mut problems, &config.columns) {
        let path = format!("columns.{}", input.schema.field(at).name());
        problems.take(mask.check(input.schema, &path, at));
        columns.push((at, *mask));
    }
    let hashes = config.columns.values().any(|mask| *mask == Mask::Hash);
    match config.secret.as_deref() {
        None if hashes => {
            let problem = Problem::new("", "missing-key", "hashes need a `secret`");
            problems.push(problem.help("add `secret: ${env:NAME}`"));
        }
        // A reference stands here as long as nobody has looked it up.
        Some(secret) if secret.len() < SECRET_MIN && !secret.starts_with("${") => {
            let message = format!("a secret of less than {SECRET_MIN} bytes can be guessed");
            problems.push(Problem::new("secret", "bad-value", message).help("take random ones"));
        }
        _ => {}
    }
    problems.finish()?;
    let key = blake3::derive_key(PURPOSE, config.secret.unwrap_or_default().as_bytes());
    let fields = columns.iter().map(|(at, mask)| {
        let field = input.schema.field(*at).clone();
        let kind = mask.makes(field.data_type());
        field.with_data_type(kind).with_nullable(true)
    });
    let schema = with_fields(input.schema, fields);
    let operator = Masks { columns, key, schema: schema.clone() };
    Ok(Step { schema, others: Vec::new(), power: Power::transform(operator) })
}

impl Mask {
    fn check(self, schema: &SchemaRef, path: &str, at: usize) -> Result<(), Problem> {
        match self {
            Self::Redact | Self::Null => Ok(()),
            Self::KeepLast(_) | Self::Hash => is_category(schema, path, at),
            Self::YearOnly => is_timestamp(schema, path, at),
            Self::Round(to) => {
                is_number(schema, path, at)?;
                let whole = schema.field(at).data_type() == &DataType::Int64;
                if to > 0.0 && to.is_finite() && !(whole && (to.fract() != 0.0 || to > WHOLE_MAX)) {
                    return Ok(());
                }
                let kind = if whole { "whole number" } else { "number" };
                let message = format!("multiples of {to} are not coarser: a {kind} above 0 is needed here");
                Err(Problem::new(&format!("{path}.round"), "out-of-range", message))
            }
        }
    }

    /// The type that a column gets.
    fn makes(self, from: &DataType) -> DataType {
        match self {
            Self::Redact | Self::KeepLast(_) | Self::Hash => DataType::Utf8,
            Self::YearOnly => DataType::Timestamp(TimeUnit::Millisecond, None),
            Self::Null | Self::Round(_) => from.clone(),
        }
    }
}

/// The largest step for whole numbers.
const WHOLE_MAX: f64 = 1e15;

struct Masks {
    columns: Vec<(usize, Mask)>,
    key: [u8; blake3::KEY_LEN],
    schema: SchemaRef,
}

impl Transform for Masks {
    fn apply(&self, _: Lane, rows: &RecordBatch, _: &mut Rejects) -> Result<RecordBatch> {
        let mut columns = Vec::with_capacity(self.columns.len());
        for &(at, mask) in &self.columns {
            columns.push((self.schema.field(at).name().as_str(), self.masked(mask, rows.column(at))?));
        }
        with_columns(&self.schema, rows, columns)
    }
}

impl Masks {
    fn masked(&self, mask: Mask, column: &ArrayRef) -> Result<ArrayRef> {
        Ok(match mask {
            Mask::Null => new_null_array(column.data_type(), column.len()),
            Mask::Redact => {
                let shown = (0..column.len()).map(|row| column.is_valid(row).then_some(REDACTED));
                Arc::new(shown.collect::<StringArray>())
            }
            Mask::KeepLast(count) => keep_last(cast(column, &DataType::Utf8)?.as_string(), count),
            Mask::Hash => self.hashes(cast(column, &DataType::Utf8)?.as_string()),
            Mask::YearOnly => {
                let times = cast(column, &DataType::Timestamp(TimeUnit::Millisecond, None))?;
                let times = times.as_primitive::<TimestampMillisecondType>();
                Arc::new(times.unary_opt::<_, TimestampMillisecondType>(year))
            }
            Mask::Round(to) => rounded(column, to),
        })
    }

    fn hashes(&self, cells: &StringArray) -> ArrayRef {
        let mut hashes = StringBuilder::with_capacity(cells.len(), cells.len() * DIGITS);
        for cell in cells {
            let hash = cell.map(|text| blake3::keyed_hash(&self.key, text.as_bytes()).to_hex());
            hashes.append_option(hash.as_ref().map(|hash| &hash.as_str()[..DIGITS]));
        }
        Arc::new(hashes.finish())
    }
}

fn keep_last(cells: &StringArray, count: usize) -> ArrayRef {
    let mut kept = StringBuilder::with_capacity(cells.len(), cells.value_data().len());
    let mut scratch = String::new();
    for cell in cells {
        let masked = cell.map(|text| {
            scratch.clear();
            scratch.push_str(STARS);
            // The first of so many last characters, where at least one other is before it.
            let first = count.checked_sub(1).and_then(|before| text.char_indices().rev().nth(before));
            scratch.push_str(first.filter(|(start, _)| *start > 0).map_or("", |(start, _)| &text[start..]));
            scratch.as_str()
        });
        kept.append_option(masked);
    }
    Arc::new(kept.finish())
}

/// The first moment of a year; none for instants beyond the calendar.
fn year(ms: i64) -> Option<i64> {
    let first = NaiveDate::from_yo_opt(DateTime::from_timestamp_millis(ms)?.year(), 1)?;
    Some(first.and_hms_opt(0, 0, 0)?.and_utc().timestamp_millis())
}

fn rounded(column: &ArrayRef, to: f64) -> ArrayRef {
    if column.data_type() == &DataType::Float64 {
        let nearest = |value: f64| Some((value / to).round() * to).filter(|value| value.is_finite());
        return Arc::new(column.as_primitive::<Float64Type>().unary_opt::<_, Float64Type>(nearest));
    }
    let to = to as i64;
    let nearest = |value: i64| value.saturating_add(to / 2).div_euclid(to).saturating_mul(to);
    Arc::new(column.as_primitive::<Int64Type>().unary::<_, Int64Type>(nearest))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::harness::{check, problems};

    #[test]
    fn fields_are_hidden() {
        let columns = json!({"sensor": "redact", "room": {"keep_last": 3}, "ok": null, "count": {"keep_last": 0}});
        check(
            &super::KIND,
            &json!({"columns": columns}),
            "t sensor  room   ok    count
             1 Ada     1234   true  7
             2 null    123    false null
             3 Bob     ßüöä   null  77",
            "t sensor      room    ok    count
             1 [redacted]  ***234  null  ***
             2 null        ***     null  null
             3 [redacted]  ***üöä  null  ***",
        );
    }

    #[test]
    fn numbers_and_times_become_coarse() {
        let columns = json!({"temperature": {"round": 2.5}, "count": {"round": 10}, "at": "year_only"});
        check(
            &super::KIND,
            &json!({"columns": columns}),
            "t temperature count at
             1 21.3        15    1356998400
             2 -21.3       -15   1388534399.999
             3 NaN         null  null
             4 inf         4     -1",
            "t temperature count at
             1 22.5        20    1356998400
             2 -22.5       -10   1356998400
             3 null        null  null
             4 null        0     -31536000",
        );
    }

    /// Those that are stored must find those that come.
    #[test]
    fn hashes_never_change() {
        let columns = json!({"sensor": "hash", "room": "hash", "count": "hash"});
        check(
            &super::KIND,
            &json!({"columns": columns, "secret": "a secret of sixteen bytes or more"}),
            "t sensor room count\n1 7 ∅ 7\n2 Ada null null",
            "t sensor room count
             1 f66f5ea1cdfcc7c3ec0ec19aaec0af94 e9bcb5190f6faed960a2472287774ab4 f66f5ea1cdfcc7c3ec0ec19aaec0af94
             2 20f2d5e1212ed0c78719d71cabeb2d95 null null",
        );
    }

    #[test]
    fn all_problems_are_found() {
        let config = json!({"columns": {"temperature": "hash", "room": "year_only", "count": {"round": 2.5},
            "humidity": {"round": -1}, "_key": "null", "x": "redact"}});
        let expected = "columns._key reserved-column; columns.x unknown-column; columns.count.round out-of-range; \
                        columns.humidity.round out-of-range; columns.room wrong-type; \
                        columns.temperature wrong-type;  missing-key";
        assert_eq!(problems(&super::KIND, &config), expected);
        let config = json!({"columns": {"room": "hash"}, "secret": "too short"});
        assert_eq!(problems(&super::KIND, &config), "secret bad-value");
        let config = json!({"columns": {"room": "blur"}});
        assert_eq!(problems(&super::KIND, &config), "columns.room bad-value");
    }

    #[test]
    fn a_reference_that_nobody_has_looked_up_is_no_short_secret() {
        let config = json!({"columns": {"room": "hash"}, "secret": "${env:K}"});
        assert!(super::super::harness::plan(&super::KIND, &config).is_ok());
    }
}
