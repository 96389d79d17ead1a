//! `localise`: instants from local times.

use std::str::FromStr;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, TimestampMillisecondArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, SchemaRef, TimeUnit, TimestampMillisecondType};
use chrono::DateTime;
use chrono_tz::{TZ_VARIANTS, Tz};
use millstream_engine::Result;
use millstream_engine::batch::{Lane, with_fields};
use millstream_engine::catalogue::{Kind, Planned, Problem, Problems, StepInput, StepKind, configuration, schema_of};
use millstream_engine::operator::{Power, Rejects, Step, Transform};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::columns::{Otherwise, is_text, is_timestamp, not_reserved, repaired, shown};
use super::local_time::{DAY_MS, Shown, clock, clock_of_text, shown_at};
use super::reading::{Read, Unreadable, instant_as, is_format, whole};

/// How many days `not_before` may add.
const DAYS_MAX: i64 = 2;

const INSTANT: DataType = DataType::Timestamp(TimeUnit::Millisecond, None);

pub(super) static KIND: StepKind = Kind {
    name: "localise",
    about: "Instants (UTC) from what clocks in a time zone showed.\n\n\
            The local time is a timestamp column, or a date with a time of day such as `830`, `0830` or `08:30`. Times \
            of day may run past midnight, up to `4759`: `2400` and `2530` belong to the next day. Where a timetable \
            starts again at midnight, `not_before` adds days: an arrival at `0015` comes after a departure at `2350`. \
            When clocks are put back, an hour is ambiguous; when they are put forward, one does not exist. \
            A missing time gives null.",
    schema: schema_of::<Config>,
    example: "date: room\nclock: count\nzone: America/New_York\ninto: arrived_at\nnot_before: at\n",
    plan,
};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// A column of timestamps, read as local times. It becomes the instant, unless `into` names another column.
    column: Option<String>,
    /// Instead of `column`, with `clock`: the day, as text or timestamp (whose time of day does not count).
    date: Option<String>,
    /// The time of day: a number (hours times 100, plus minutes) or text.
    clock: Option<String>,
    /// The form of dates that are text, in the letters of strftime. Default: `%Y-%m-%d`.
    format: Option<String>,
    /// The IANA name of the time zone: `Europe/Oslo`.
    zone: Option<String>,
    /// Instead of `zone`: the text column that names each record's time zone.
    zone_from: Option<String>,
    /// The column that gets the instant.
    into: Option<String>,
    /// A column of instants that the time does not come before: up to two days are added until it does not.
    not_before: Option<String>,
    /// What becomes of a time that clocks showed twice. Default: `earliest`, before they were put back.
    #[serde(default = "earliest")]
    ambiguous: Choice,
    /// What becomes of a time that clocks never showed. Default: `latest`, as if they had not been put forward yet.
    #[serde(default = "latest")]
    nonexistent: Choice,
    /// What becomes of a date, time of day or zone that cannot be read, and of a time that stays before `not_before`.
    /// Default: `dead_letter`.
    #[serde(default)]
    otherwise: Otherwise,
}

/// Which of two instants is meant.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(from = "Option<ChoiceName>")]
enum Choice {
    /// The earlier one.
    Earliest,
    /// The later one.
    Latest,
    /// Neither.
    Neither(Otherwise),
}

/// Which instant is meant.
// As it is written: a bare `null` is no text in YAML.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum ChoiceName {
    /// The earlier of the two instants that it may be.
    Earliest,
    /// The later of the two instants that it may be.
    Latest,
    /// The record becomes a dead letter; a request gets an error answer that says why.
    DeadLetter,
    /// The instant is null.
    Null,
}

impl From<Option<ChoiceName>> for Choice {
    fn from(name: Option<ChoiceName>) -> Self {
        match name {
            Some(ChoiceName::Earliest) => Self::Earliest,
            Some(ChoiceName::Latest) => Self::Latest,
            Some(ChoiceName::DeadLetter) => Self::Neither(Otherwise::DeadLetter),
            Some(ChoiceName::Null) | None => Self::Neither(Otherwise::Null),
        }
    }
}

fn earliest() -> Choice {
    Choice::Earliest
}

fn latest() -> Choice {
    Choice::Latest
}

fn plan(config: &Value, input: &StepInput<'_>) -> Planned<Step> {
    let config: Config = configuration(config)?;
    let mut problems = Problems::default();
    let local = config.local(input, &mut problems);
    let zone = config.zone(input, &mut problems);
    let instants = |problems: &mut Problems, path: &str, name: &str| {
        let at = problems.take(input.column(path, name))?;
        problems.take(is_timestamp(input.schema, path, at)).map(|()| at)
    };
    let not_before = config.not_before.as_ref().and_then(|name| instants(&mut problems, "not_before", name));
    let into = config.into.as_ref().or(config.column.as_ref());
    match into {
        Some(name) => drop(problems.take(not_reserved(if config.into.is_some() { "into" } else { "column" }, name))),
        None => problems.push(Problem::new("", "missing-key", "`into` says which column gets the instant")),
    }
    if let Some(format) = config.format.as_deref().filter(|format| !is_format(format)) {
        let message = format!("`{format}` is no form of a date");
        problems.push(Problem::new("format", "bad-value", message).help("an example: `%d.%m.%Y`"));
    }
    problems.finish()?;
    let into = into.expect("no problem was found").clone();
    let schema = with_fields(input.schema, [Field::new(&into, INSTANT, true)]);
    let (local, zone) = (local.expect("no problem was found"), zone.expect("no problem was found"));
    let operator = Localise { local, zone, into, not_before, config, schema: schema.clone() };
    Ok(Step { schema, others: Vec::new(), power: Power::transform(operator) })
}

impl Config {
    fn local(&self, input: &StepInput<'_>, problems: &mut Problems) -> Option<Local> {
        let (date, clock) = match (&self.column, &self.date, &self.clock) {
            (Some(name), None, None) => {
                let at = problems.take(input.column("column", name))?;
                return problems.take(is_timestamp(input.schema, "column", at)).map(|()| Local::Column(at));
            }
            (None, Some(date), Some(clock)) => (date, clock),
            _ => {
                let message = "the local time is either `column`, or `date` with `clock`";
                problems.push(Problem::new("", "bad-value", message));
                return None;
            }
        };
        let (date, clock) = (problems.take(input.column("date", date)), problems.take(input.column("clock", clock)));
        let kind = |at: usize| input.schema.field(at).data_type();
        let wrong = |path: &str, at: usize, wanted: &str| {
            let message =
                format!("column `{}` does not hold {wanted}, but {}", input.schema.field(at).name(), kind(at));
            Problem::new(path, "wrong-type", message)
        };
        if let Some(at) = date.filter(|&at| !matches!(kind(at), DataType::Utf8 | DataType::Timestamp(..))) {
            problems.push(wrong("date", at, "dates"));
        }
        if let Some(at) = clock.filter(|&at| !matches!(kind(at), DataType::Utf8 | DataType::Int64 | DataType::Float64))
        {
            problems.push(wrong("clock", at, "times of day"));
        }
        Some(Local::Pair { date: date?, clock: clock? })
    }

    fn zone(&self, input: &StepInput<'_>, problems: &mut Problems) -> Option<Zone> {
        match (&self.zone, &self.zone_from) {
            (Some(name), None) => {
                let problem = Problem::new("zone", "unknown-zone", format!("there is no time zone `{name}`"));
                let choices = TZ_VARIANTS.iter().map(|zone| zone.name());
                problems.take(Tz::from_str(name).map_err(|_| problem.choices(name, choices))).map(Zone::Named)
            }
            (None, Some(name)) => {
                let at = problems.take(input.column("zone_from", name))?;
                problems.take(is_text(input.schema, "zone_from", at)).map(|()| Zone::Stated(at))
            }
            _ => {
                problems.push(Problem::new("", "bad-value", "one of `zone` and `zone_from` is needed here"));
                None
            }
        }
    }
}

/// Where local times come from.
enum Local {
    Column(usize),
    Pair { date: usize, clock: usize },
}

enum Zone {
    Named(Tz),
    Stated(usize),
}

struct Localise {
    local: Local,
    zone: Zone,
    into: String,
    not_before: Option<usize>,
    config: Config,
    schema: SchemaRef,
}

/// Why a row has no instant, and what becomes of it.
struct Refusal {
    reason: String,
    otherwise: Otherwise,
}

impl Transform for Localise {
    fn apply(&self, _: Lane, rows: &RecordBatch, rejects: &mut Rejects) -> Result<RecordBatch> {
        let local = match self.local {
            Local::Column(at) => times(rows.column(at))?,
            Local::Pair { date, clock } => self.pair(rows, date, clock, rejects)?,
        };
        let bounds = self.not_before.map(|at| times(rows.column(at))).transpose()?;
        let zones = match self.zone {
            Zone::Named(_) => None,
            Zone::Stated(at) => Some(rows.column(at).as_string::<i32>()),
        };
        let mut zone = Ok(Tz::UTC);
        let mut name = "";
        let mut instants = TimestampMillisecondArray::builder(rows.num_rows());
        for (row, local) in local.iter().enumerate() {
            match (&self.zone, zones) {
                (Zone::Named(named), _) => zone = Ok(*named),
                (_, Some(zones)) if row == 0 || !zones.is_valid(row) || zones.value(row) != name => {
                    name = if zones.is_valid(row) { zones.value(row) } else { "" };
                    zone = Tz::from_str(name.trim());
                }
                _ => {}
            }
            let bound = bounds.as_ref().filter(|bounds| bounds.is_valid(row)).map(|bounds| bounds.value(row));
            let instant = local.map(|local| match &zone {
                Ok(zone) => self.instant(*zone, local, bound),
                Err(_) => Err(self.refusal(format!("{} is no time zone", shown(name)))),
            });
            if let Some(Err(Refusal { reason, otherwise })) = &instant {
                otherwise.refuse(rejects, row, || format!("column `{}`: {reason}", self.into));
            }
            instants.append_option(instant.and_then(Result::ok).flatten());
        }
        repaired(&self.schema, rows, vec![(&self.into, Arc::new(instants.finish()))], rejects)
    }
}

fn times(column: &ArrayRef) -> Result<TimestampMillisecondArray> {
    Ok(cast(column, &INSTANT)?.as_primitive::<TimestampMillisecondType>().clone())
}

impl Localise {
    fn refusal(&self, reason: String) -> Refusal {
        Refusal { reason, otherwise: self.config.otherwise }
    }

    /// The first instant at which clocks in `zone` showed `local`, or that time of day up to two days later, and that
    /// does not come before `bound`.
    fn instant(&self, zone: Tz, local: i64, bound: Option<i64>) -> Result<Option<i64>, Refusal> {
        for days in 0..=DAYS_MAX {
            let Some(instant) = self.on_day(zone, local.saturating_add(days * DAY_MS))? else { return Ok(None) };
            if bound.is_none_or(|bound| instant >= bound) {
                return Ok(Some(instant));
            }
        }
        let not_before = self.config.not_before.as_deref().unwrap_or_default();
        Err(self.refusal(format!("{} is more than {DAYS_MAX} days before `{not_before}`", local_time(local))))
    }

    fn on_day(&self, zone: Tz, local: i64) -> Result<Option<i64>, Refusal> {
        let shown_at = shown_at(zone, local);
        let (choice, instants, wrong) = match shown_at {
            Ok(Shown::Once(instant)) => return Ok(Some(instant)),
            Ok(Shown::Twice(instants)) => (self.config.ambiguous, instants, "is ambiguous"),
            Ok(Shown::Never(instants)) => (self.config.nonexistent, instants, "does not exist"),
            Err(Unreadable) => return Err(self.refusal(format!("{} is no time", local_time(local)))),
        };
        match choice {
            Choice::Earliest => Ok(Some(instants[0])),
            Choice::Latest => Ok(Some(instants[1])),
            Choice::Neither(otherwise) => {
                Err(Refusal { reason: format!("{} {wrong} in {zone}", local_time(local)), otherwise })
            }
        }
    }

    /// Dates and times of day put together.
    fn pair(
        &self,
        rows: &RecordBatch,
        date: usize,
        clock_at: usize,
        rejects: &mut Rejects,
    ) -> Result<TimestampMillisecondArray> {
        let days = self.days(rows.column(date), self.schema.field(date).name(), rejects)?;
        let (column, name) = (rows.column(clock_at), self.schema.field(clock_at).name());
        let mut read = |row: usize, cell: &dyn std::fmt::Display, time: Read<i64>| {
            time.unwrap_or_else(|Unreadable| {
                let reason = || format!("column `{name}`: {} is no time of day", shown(cell));
                self.config.otherwise.refuse(rejects, row, reason);
                None
            })
        };
        let mut both = TimestampMillisecondArray::builder(rows.num_rows());
        for row in 0..rows.num_rows() {
            let time = match column.data_type() {
                _ if column.is_null(row) || days.is_null(row) => None,
                DataType::Int64 => {
                    let number = column.as_primitive::<Int64Type>().value(row);
                    read(row, &number, clock(number).map(Some))
                }
                DataType::Float64 => {
                    let number = column.as_primitive::<Float64Type>().value(row);
                    let known = Some(number).filter(|number| number.is_finite());
                    read(row, &number, known.map(|number| whole(number).and_then(clock)).transpose())
                }
                _ => {
                    let text = column.as_string::<i32>().value(row).trim();
                    let known = Some(text).filter(|text| !text.is_empty());
                    read(row, &text, known.map(clock_of_text).transpose())
                }
            };
            both.append_option(time.map(|time| days.value(row) + time));
        }
        Ok(both.finish())
    }

    /// The midnights of dates.
    fn days<'a>(&self, column: &'a ArrayRef, name: &str, rejects: &mut Rejects) -> Result<TimestampMillisecondArray> {
        if column.data_type() != &DataType::Utf8 {
            return Ok(times(column)?.unary(|time| time - time.rem_euclid(DAY_MS)));
        }
        let format = self.config.format.as_deref().unwrap_or("%Y-%m-%d");
        // Dates come in runs.
        let mut last = None;
        let day = |(row, text): (usize, Option<&'a str>)| {
            let text = text.map(str::trim).filter(|text| !text.is_empty())?;
            let instant = match last {
                Some((known, instant)) if known == text => instant,
                _ => instant_as(text, format).ok(),
            };
            last = Some((text, instant));
            if instant.is_none() {
                let reason = || format!("column `{name}`: {} is no date", shown(text));
                self.config.otherwise.refuse(rejects, row, reason);
            }
            instant.map(|instant| instant - instant.rem_euclid(DAY_MS))
        };
        Ok(column.as_string::<i32>().iter().enumerate().map(day).collect())
    }
}

/// A local time as reasons show it.
fn local_time(local_ms: i64) -> String {
    match DateTime::from_timestamp_millis(local_ms) {
        Some(time) => format!("`{}`", time.naive_utc()),
        None => format!("`{local_ms}`"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::harness::{check, plan, problems};

    /// Seconds since 1970 of 2013-01-01T00:00:00Z, in which the tables below count.
    const Y2013: i64 = 1_356_998_400;

    #[test]
    fn timestamps_become_instants() {
        let rows = format!("t at\n1 {}\n2 null\n3 {}", Y2013 + 19_200, Y2013 + 15_617_700);
        // 05:20 in winter, 18:15 in summer.
        let expected = format!("t at\n1 {}\n2 null\n3 {}", Y2013 + 37_200, Y2013 + 15_632_100);
        check(&super::KIND, &json!({"column": "at", "zone": "America/New_York"}), &rows, &expected);
    }

    /// The tables of flights give local times of two zones, count to 2400, and start again after midnight.
    #[test]
    fn flights_land_after_they_took_off() {
        let config = json!({"date": "sensor", "clock": "count", "zone_from": "room", "into": "landed_at",
            "not_before": "at"});
        let (day, hour) = (86_400, 3600);
        let left = |hours: i64| Y2013 + hours * hour;
        let rows = format!(
            "t sensor     count room             at
             1 2013-01-01 517   America/New_York null
             2 2013-1-1   2400  America/New_York null
             3 2013-01-01 15    America/Chicago  {}
             4 2013-01-01 2350  America/Chicago  {}
             5 2013-01-01 null  America/Chicago  {}
             6 2013-01-01 15    America/Chicago  {}",
            left(29),
            left(29),
            left(29),
            left(10 * 24)
        );
        let expected = format!(
            "t sensor count room at landed_at
             1 2013-01-01 517 America/New_York null {}
             2 2013-1-1 2400 America/New_York null {}
             3 2013-01-01 15 America/Chicago {at} {}
             4 2013-01-01 2350 America/Chicago {at} {}
             5 2013-01-01 null America/Chicago {at} null
             row 5: column `landed_at`: `2013-01-01 00:15:00` is more than 2 days before `at`",
            Y2013 + 10 * hour + 17 * 60,
            Y2013 + day + 5 * hour,
            Y2013 + day + 6 * hour + 15 * 60,
            Y2013 + day + 5 * hour + 50 * 60,
            at = left(29),
        );
        check(&super::KIND, &config, &rows, &expected);
    }

    #[test]
    fn doubtful_times_follow_the_policy() {
        // 2013-11-03 01:30 was twice, 2013-03-10 02:30 never.
        let rows = "t sensor room\n1 2013-11-03 0130\n2 2013-03-10 02:30";
        let (twice, never) = (["1383456600", "1383460200"], ["1362897000", "1362900600"]);
        for (ambiguous, nonexistent, expected) in [
            (None, None, [twice[0], never[1]]),
            (Some(json!("latest")), Some(json!("earliest")), [twice[1], never[0]]),
            (Some(json!(null)), Some(json!("null")), ["null", "null"]),
        ] {
            let mut config = json!({"date": "sensor", "clock": "room", "zone": "America/New_York", "into": "when"});
            for (key, value) in [("ambiguous", ambiguous), ("nonexistent", nonexistent)] {
                if let Some(value) = value {
                    config[key] = value;
                }
            }
            let [one, other] = expected;
            let expected = format!("t sensor room when\n1 2013-11-03 0130 {one}\n2 2013-03-10 02:30 {other}");
            check(&super::KIND, &config, rows, &expected);
        }
        let config = json!({"date": "sensor", "clock": "room", "zone": "America/New_York", "into": "when",
            "ambiguous": "dead_letter", "nonexistent": "dead_letter", "otherwise": "null"});
        let expected = "t sensor room when
            row 0: column `when`: `2013-11-03 01:30:00` is ambiguous in America/New_York
            row 1: column `when`: `2013-03-10 02:30:00` does not exist in America/New_York";
        check(&super::KIND, &config, rows, expected);
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        let mut config = json!({"date": "sensor", "clock": "temperature", "zone_from": "room", "into": "when",
            "format": "%d.%m.%Y"});
        let rows = "t sensor     temperature room
                    1 01.01.1970 100         Europe/Oslo
                    2 1970-01-01 100         UTC
                    3 01.01.1970 1.5         UTC
                    4 01.01.1970 NaN         UTC
                    5 01.01.1970 100         Mars/Olympus
                    6 01.01.1970 200         null
                    7 ∅          100         UTC";
        let dead = "row 1: column `sensor`: `1970-01-01` is no date
                    row 2: column `temperature`: `1.5` is no time of day
                    row 4: column `when`: `Mars/Olympus` is no time zone
                    row 5: column `when`: `` is no time zone";
        let good = "t sensor temperature room when
                    1 01.01.1970 100 Europe/Oslo 0
                    4 01.01.1970 NaN UTC null
                    7 ∅ 100 UTC null";
        check(&super::KIND, &config, rows, &format!("{good}\n{dead}"));
        config["otherwise"] = json!(null);
        let mut bench = super::super::harness::Bench::new(&super::KIND, &config);
        let output = bench.learn(&super::super::harness::table(&super::super::example_schema(), rows));
        assert_eq!(super::super::harness::show(&output, &["when"]), "when\n0\nnull\nnull\nnull\nnull\nnull\nnull\n");
    }

    #[test]
    fn all_problems_are_found() {
        let config = json!({"column": "room", "zone": "Europe/Olso", "not_before": "ok", "into": "_time"});
        let expected = "column wrong-type; zone unknown-zone; not_before wrong-type; into reserved-column";
        assert_eq!(problems(&super::KIND, &config), expected);
        let found = plan(&super::KIND, &config).err().expect("problems");
        assert!(found[1].choices.as_ref().is_some_and(|(_, names)| names.contains(&"Europe/Oslo".to_owned())));
        let config = json!({"date": "ok", "clock": "at", "zone_from": "count", "format": "%Q"});
        let expected = "date wrong-type; clock wrong-type; zone_from wrong-type;  missing-key; format bad-value";
        assert_eq!(problems(&super::KIND, &config), expected);
        assert_eq!(problems(&super::KIND, &json!({"column": "at", "date": "room"})), " bad-value;  bad-value");
    }
}
