//! `aggregate`: many rows of a key become one.

use std::collections::BTreeMap;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use millstream_engine::batch::{self, META};
use millstream_engine::catalogue::{Kind, Planned, Problem, Problems, StepInput, StepKind, configuration, schema_of};
use millstream_engine::operator::{Power, Step};
use millstream_engine::time::milliseconds;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::columns::{key, not_reserved, timestamp};
use super::functions::functions;

mod kept;
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod tests;
mod windows;

use windows::{Aggregate, Span};

pub(super) static KIND: StepKind = Kind {
    name: "aggregate",
    about: "Many rows of a key become one: counts, sums, means and the like, of a span of time or of all there is.\n\n\
            The result has the key's columns, `window_start` and `window_end`, and those that are named here. \
            Functions are `count()`, `count(x)`, `sum(x)`, `mean(x)`, `variance(x)`, `deviation(x)`, `min(x)`, `max(x)`, `first(x)`, `last(x)`, \
            `quantile(x, 0.95)` (within one percent of the value) and `distinct(x)` (exact up to 1024, then within some percent); null counts for nothing.\n\n\
            A row belongs to the windows in which its event time lies (`at`, if another column says so). \
            A window is given when the watermark passes its end, with its end as `_time`. \
            A row that comes later (as a correction: see `corrections_seconds` of the source's `event_time`) \
            corrects a window for `corrections_seconds` after its end: what was given is taken back, and the new result is given; after that it becomes a dead letter. \
            With corrections, without a window, or if the rows that come in may be taken back themselves, the result is a stream that changes: `as_stream` makes plain rows of it.\n\n\
            A request gets the newest window of its key that is complete, if that ended at most `horizon_seconds` ago; without a window, what there is.",
    schema: schema_of::<Config>,
    example: "by: [sensor]\nwindow: {tumbling_seconds: 10}\ncolumns: {mean_temperature: mean(temperature), readings: count()}\n",
    plan,
};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The columns that make the key; with none, all rows have one result.
    #[serde(default)]
    by: Vec<String>,
    /// Which rows belong together. Without it, all rows of a key do, and each changes the result.
    window: Option<Window>,
    /// The column that says when a row happened; the event time, if not given.
    at: Option<String>,
    /// How long after its end a window takes corrections.
    #[serde(default)]
    corrections_seconds: f64,
    /// For how long after its end a window answers requests.
    #[serde(default = "a_day")]
    horizon_seconds: f64,
    /// The columns of the result, and what they hold.
    columns: BTreeMap<String, String>,
}

fn a_day() -> f64 {
    86_400.0
}

/// Which rows belong together.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(
    deny_unknown_fields,
    untagged,
    expecting = "`{tumbling_seconds: n}`, `{hopping_seconds: n, every_seconds: m}` or `{session_gap_seconds: n}`"
)]
enum Window {
    /// Windows of this length, one after the other.
    Tumbling {
        /// Their length.
        tumbling_seconds: f64,
    },
    /// Windows that overlap.
    Hopping {
        /// Their length.
        hopping_seconds: f64,
        /// From one's start to that of the next.
        every_seconds: f64,
    },
    /// Rows of which each comes soon after the one before.
    Session {
        /// After so long without a row a session ends.
        session_gap_seconds: f64,
    },
}

/// A hopping row belongs to so many windows at most.
const WINDOWS_MAX: i64 = 1000;

fn span(window: Option<Window>) -> Result<Span, Problem> {
    let wrong = |path: &str, message: &str| Err(Problem::new(&format!("window.{path}"), "bad-value", message));
    match window {
        None => Ok(Span::All),
        Some(Window::Tumbling { tumbling_seconds: length }) => match milliseconds(length) {
            ..1 => wrong("tumbling_seconds", "a window lasts a millisecond or longer"),
            length_ms => Ok(Span::Fixed { length_ms, every_ms: length_ms }),
        },
        Some(Window::Hopping { hopping_seconds, every_seconds }) => {
            let (length_ms, every_ms) = (milliseconds(hopping_seconds), milliseconds(every_seconds));
            if every_ms < 1 || every_ms > length_ms {
                wrong("every_seconds", "windows start at least a millisecond apart, and at most their length")
            } else if length_ms / every_ms > WINDOWS_MAX {
                wrong("every_seconds", "a row would belong to more than 1000 windows")
            } else {
                Ok(Span::Fixed { length_ms, every_ms })
            }
        }
        Some(Window::Session { session_gap_seconds: gap }) => match milliseconds(gap) {
            ..1 => wrong("session_gap_seconds", "a gap lasts a millisecond or longer"),
            gap_ms => Ok(Span::Session { gap_ms }),
        },
    }
}

fn plan(config: &Value, input: &StepInput<'_>) -> Planned<Step> {
    let config: Config = configuration(config)?;
    let mut problems = Problems::default();
    let by = key(input.schema, &mut problems, &config.by);
    let at = match &config.at {
        Some(name) => problems.take(timestamp(input.schema, "at", name)),
        None => Some(batch::event_time(input.schema)),
    };
    let span = problems.take(span(config.window));
    let changes = batch::is_changing(input.schema);
    if changes && matches!(span, Some(Span::Session { .. })) {
        let message = "a session cannot take back rows, since it cannot be cut in two again";
        problems.push(Problem::new("window", "takes-no-changes", message).help("put `as_stream` before it"));
    }
    for (path, seconds) in
        [("corrections_seconds", config.corrections_seconds), ("horizon_seconds", config.horizon_seconds)]
    {
        if seconds.is_nan() || seconds < 0.0 {
            problems.push(Problem::new(path, "bad-value", "a time is 0 or longer"));
        }
    }
    for (place, name) in config.by.iter().enumerate() {
        let path = format!("by.{place}");
        if config.columns.contains_key(name) || OWN.contains(&name.as_str()) {
            problems.push(Problem::new(&path, "duplicate-name", format!("there are two columns `{name}`")));
        }
        problems.take(not_reserved(&path, name));
    }
    for name in OWN.iter().filter(|name| config.columns.contains_key(**name)) {
        let path = format!("columns.{name}");
        problems.push(Problem::new(&path, "duplicate-name", format!("`{name}` says when a window starts or ends")));
    }
    let functions = functions(input.schema, &mut problems, &config.columns);
    problems.finish()?;
    let span = span.expect("no problem was found");
    let corrections_ms = milliseconds(config.corrections_seconds);
    let keys = by.iter().map(|&at| input.schema.field(at).clone());
    let results = functions.iter().map(|function| function.field.clone());
    let fields: Vec<Field> = keys.chain(bounds(span)).chain(results).collect();
    let mut schema: SchemaRef = batch::schema_of(&Schema::new(fields));
    if changes || corrections_ms > 0 || span == Span::All {
        schema = batch::changing(&schema);
    }
    debug_assert!(schema.fields().len() >= META + functions.len());
    let operator = Aggregate {
        by,
        at: at.expect("no problem was found"),
        span,
        corrections_ms,
        horizon_ms: milliseconds(config.horizon_seconds),
        removes: changes,
        functions,
        schema: schema.clone(),
    };
    Ok(Step { schema, others: Vec::new(), power: Power::relational(operator) })
}

/// The columns that every window has.
const OWN: [&str; 2] = ["window_start", "window_end"];

fn bounds(span: Span) -> Vec<Field> {
    if span == Span::All {
        return Vec::new();
    }
    let [start, end] = OWN.map(|name| Field::new(name, DataType::Timestamp(TimeUnit::Millisecond, None), false));
    // A window's rows are from its start on: so windows of windows fit into one another.
    vec![batch::as_event_time(&start), end]
}
