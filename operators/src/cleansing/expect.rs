//! `expect`: what a stream should look like, span by span.

use std::fmt::Display;

use arrow::array::{Array, BooleanArray, RecordBatch};
use arrow::datatypes::SchemaRef;
use millstream_engine::batch::{Lane, Meta, Origin, filter};
use millstream_engine::catalogue::{Kind, Planned, Problem, Problems, StepInput, StepKind, configuration, schema_of};
use millstream_engine::operator::{Keyed, Power, Rejects, Step};
use millstream_engine::state::States;
use millstream_engine::time::milliseconds;
use millstream_engine::{Fault, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::columns::{key, numbers};
use super::functions::{Accumulator, Function, Value as Given, Values, function};
use crate::expression::Expression;

pub(super) static KIND: StepKind = Kind {
    name: "expect",
    about: "Says what a stream should look like, and what is to be done when it does not.\n\n\
            An expectation compares a function of many rows with a number: `missing(temperature) < 5%`, `mean(humidity) between 20 and 90`, \
            `share(count > 0) >= 0.99`. Functions are `missing(x)` and `share(condition)`, which give shares of the rows, and those of `aggregate`: \
            `count()`, `mean(x)`, `min(x)`, `max(x)`, `deviation(x)`, `quantile(x, 0.95)`, `distinct(x)` and so on. A function without a result, such as \
            the mean of nothing, fulfils every expectation; a condition that is null or cannot be computed does not hold.\n\n\
            It is judged over the rows of each span of a key: `over_rows` rows, or `over_seconds` of event time (spans start at multiples of that since 1970). \
            A span of time is judged when the key's first row after it comes. The row that ends a span and all before it have passed by then: they are not taken back. \
            With `otherwise: warn` they are told and counted (`expectations_failed_total`). With `dead_letter`, the rows that follow, until the next span is judged, \
            become dead letters, and so on while spans fail: they are still measured, so a stream that is well again goes on one span later. Requests for that \
            key get error answers meanwhile. With `stop` the run halts, before anything of that epoch is committed, and so does each \
            restart that comes to the same rows with the same expectation.\n\n\
            What is judged depends on the order of the stream alone, not on how it was cut. Requests are never counted.\n\n\
            The short form is the expectation alone: `expect: \"missing(temperature) < 5%\"`.",
    schema: schema_of::<Config>,
    example: "that: missing(temperature) < 5%\nover_rows: 1000\notherwise: warn\n",
    plan,
};

/// An expectation alone, or with all that goes with it.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "it is the schema of what is read")]
enum Config {
    /// The expectation alone.
    Short(String),
    /// With all that goes with it.
    Long(Long),
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Long {
    /// The expectation: a function, a comparison, and a number, which may be a percentage.
    that: String,
    /// The columns that make a key, each of which has spans of its own; with none, all rows have one.
    #[serde(default)]
    by: Vec<String>,
    /// How many rows a span has: 1000, if nothing is said.
    over_rows: Option<u64>,
    /// How long a span is in event time, instead.
    over_seconds: Option<f64>,
    /// What is done when it does not hold.
    #[serde(default)]
    otherwise: Otherwise,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Otherwise {
    /// It is told and counted.
    #[default]
    Warn,
    /// The rows that follow become dead letters, until a span fulfils it again.
    DeadLetter,
    /// The run halts.
    Stop,
}

const OVER_ROWS: u64 = 1000;

/// What belongs to one span.
#[derive(Clone, Copy, Debug)]
enum Span {
    Rows(u64),
    Ms(i64),
}

/// What is expected of a function's result.
#[derive(Clone, Copy, Debug)]
enum Bound {
    Less(f64),
    AtMost(f64),
    More(f64),
    AtLeast(f64),
    Equal(f64),
    Unequal(f64),
    Between(f64, f64),
}

/// What is computed of a span.
enum Measured {
    /// The share of rows whose column is missing.
    Missing(usize),
    /// The share of rows for which it holds.
    Share(Expression),
    Function(Function),
}

fn plan(config: &Value, input: &StepInput<'_>) -> Planned<Step> {
    let config = match config {
        // So that what is wrong in the long form is told as such.
        Value::String(that) => Long { that: that.clone(), ..Long::default() },
        other => configuration::<Long>(other)?,
    };
    let mut problems = Problems::default();
    let by = key(input.schema, &mut problems, &config.by);
    let span = problems.take(span(&config));
    let expectation = problems.take_all(parse(&config.that, input.schema));
    problems.finish()?;
    let (measured, bound) = expectation.expect("no problem was found");
    let span = span.expect("no problem was found");
    let operator =
        Expect { that: config.that.trim().to_owned(), measured, bound, by, span, otherwise: config.otherwise };
    Ok(Step { schema: input.schema.clone(), others: Vec::new(), power: Power::keyed(operator) })
}

fn span(config: &Long) -> Result<Span, Problem> {
    match (config.over_rows, config.over_seconds) {
        (Some(_), Some(_)) => {
            Err(Problem::new("over_seconds", "bad-value", "a span is counted in rows or in seconds, not in both"))
        }
        (Some(0), _) => Err(Problem::new("over_rows", "bad-value", "a span has at least one row")),
        (rows, None) => Ok(Span::Rows(rows.unwrap_or(OVER_ROWS))),
        (None, Some(seconds)) => match milliseconds(seconds) {
            ..1 => Err(Problem::new("over_seconds", "bad-value", "a span lasts a millisecond or longer")),
            ms => Ok(Span::Ms(ms)),
        },
    }
}

/// `mean(x) < 3`, `missing(x) <= 5%`, `min(x) between -3 and 4`.
fn parse(that: &str, schema: &SchemaRef) -> Planned<(Measured, Bound)> {
    let unreadable = || {
        let message = format!("`{that}` is no expectation");
        vec![
            Problem::new("that", "bad-expectation", message)
                .help("write it like `missing(temperature) < 5%` or `mean(x) between 1 and 2`"),
        ]
    };
    let end = that.rfind(')').ok_or_else(unreadable)?;
    let (called, rest) = that.split_at(end + 1);
    let bound = bound(rest.trim()).ok_or_else(unreadable)?;
    let (name, argument) = called.trim().split_once('(').ok_or_else(unreadable)?;
    let argument = argument.strip_suffix(')').unwrap_or_default().trim();
    let measured = match name.trim() {
        "missing" => Measured::Missing(
            millstream_engine::catalogue::column(schema, "that", argument).map_err(|problem| vec![problem])?,
        ),
        "share" => Measured::Share(Expression::predicate(argument, schema, "that")?),
        name => Measured::Function(
            function(schema, "that", "result", called).map_err(|problem| vec![choose(problem, name)])?,
        ),
    };
    Ok((measured, bound))
}

/// There are two functions more than elsewhere.
fn choose(problem: Problem, name: &str) -> Problem {
    match problem.choices.clone() {
        Some((wanted, names)) if wanted == name => {
            problem.choices(name, names.into_iter().chain(["missing".to_owned(), "share".to_owned()]))
        }
        _ => problem,
    }
}

fn bound(text: &str) -> Option<Bound> {
    if let Some(range) = text.strip_prefix("between ") {
        let (low, high) = range.split_once(" and ")?;
        return Some(Bound::Between(number(low)?, number(high)?));
    }
    let end = text.find(|c| !matches!(c, '<' | '>' | '=' | '!'))?;
    let (comparison, value) = (&text[..end], number(&text[end..])?);
    Some(match comparison {
        "<" => Bound::Less(value),
        "<=" => Bound::AtMost(value),
        ">" => Bound::More(value),
        ">=" => Bound::AtLeast(value),
        "=" | "==" => Bound::Equal(value),
        "!=" | "<>" => Bound::Unequal(value),
        _ => return None,
    })
}

fn number(text: &str) -> Option<f64> {
    let text = text.trim();
    let value = match text.strip_suffix('%') {
        Some(percent) => percent.trim_end().parse::<f64>().ok()? / 100.0,
        None => text.parse().ok()?,
    };
    value.is_finite().then_some(value)
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::Less(bound) => value < bound,
            Self::AtMost(bound) => value <= bound,
            Self::More(bound) => value > bound,
            Self::AtLeast(bound) => value >= bound,
            Self::Equal(bound) => value.total_cmp(&(bound + 0.0)).is_eq(),
            Self::Unequal(bound) => value.total_cmp(&(bound + 0.0)).is_ne(),
            Self::Between(low, high) => (low..=high).contains(&value),
        }
    }
}

struct Expect {
    that: String,
    measured: Measured,
    bound: Bound,
    by: Vec<usize>,
    span: Span,
    otherwise: Otherwise,
}

/// What is known of a key.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Known {
    open: Option<Open>,
    /// Why its rows are refused: the span before the open one did not fulfil the expectation.
    refused: Option<String>,
}

/// A span that has begun.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Open {
    /// When it began: in milliseconds, of one of time.
    start_ms: i64,
    rows: u64,
    /// How many of them count for a share.
    counted: u64,
    values: Option<Accumulator>,
    first: Origin,
    last: Origin,
}

/// What a batch's rows give, by row.
enum Column {
    Counted(BooleanArray),
    Values(Values),
}

impl Expect {
    fn column(&self, rows: &RecordBatch) -> Result<Column> {
        Ok(match &self.measured {
            Measured::Missing(at) => Column::Counted(missing(rows, *at)?),
            Measured::Share(condition) => {
                // What cannot be computed does not hold; the row may pass.
                let held = condition.test(rows, &mut Rejects::default())?;
                Column::Counted(held.iter().map(|held| Some(held == Some(true))).collect())
            }
            Measured::Function(function) => Column::Values(Values::of(std::slice::from_ref(function), rows)?),
        })
    }

    /// The result of a span; none if it has none.
    fn result(&self, open: &Open) -> Option<f64> {
        match (&self.measured, &open.values) {
            (Measured::Function(function), Some(values)) => function.result(values),
            _ => Some(open.counted as f64 / open.rows as f64),
        }
    }

    /// Why a span does not fulfil the expectation, if it does not.
    fn verdict(&self, open: &Open) -> Option<String> {
        let found = self.result(open).map(|value| value + 0.0).filter(|found| !self.bound.holds(*found))?;
        let place = |origin: Origin| format!("{}/{}/{}", origin.source, origin.partition, origin.offset);
        let (first, last) = (place(open.first), place(open.last));
        Some(format!("expected `{}`, found {} in {} rows, from {first} to {last}", self.that, shown(found), open.rows))
    }

    /// Whether the open span is over when a row of this time comes.
    fn is_over(&self, open: &Open, time: i64) -> bool {
        match self.span {
            Span::Rows(rows) => open.rows >= rows,
            Span::Ms(ms) => time.div_euclid(ms) > open.start_ms.div_euclid(ms),
        }
    }

    /// Why a row of this time is refused, by what was known before it.
    fn refusal<'a>(&self, known: &'a Known, time: i64) -> Option<std::borrow::Cow<'a, str>> {
        match &known.open {
            Some(open) if self.is_over(open, time) => self.verdict(open).map(Into::into),
            _ => known.refused.as_deref().map(Into::into),
        }
    }

    /// Ends a span; gives why it does not fulfil the expectation.
    fn end(&self, known: &mut Known) -> Option<String> {
        let verdict = self.verdict(&known.open.take()?);
        known.refused = verdict.clone().filter(|_| self.otherwise == Otherwise::DeadLetter);
        verdict
    }

    /// Takes a row in; gives why a span that it ends does not fulfil the expectation.
    fn learn(&self, known: &mut Known, column: &Column, row: usize, (time, origin): (i64, Origin)) -> Option<String> {
        let over = known.open.as_ref().is_some_and(|open| self.is_over(open, time));
        let before = if over { self.end(known) } else { None };
        let open = known.open.get_or_insert_with(|| Open {
            start_ms: time,
            rows: 0,
            counted: 0,
            values: match &self.measured {
                Measured::Function(function) => Some(function.start(false)),
                _ => None,
            },
            first: origin,
            last: origin,
        });
        open.rows += 1;
        open.last = origin;
        match (column, &mut open.values) {
            (Column::Counted(counted), _) => open.counted += u64::from(counted.value(row)),
            (Column::Values(values), Some(kept)) => match values.get(0, row) {
                Given::Null => {}
                given => kept.add(given, (time, origin)),
            },
            _ => {}
        }
        // A span of rows is complete with its last one.
        let is_full = matches!(self.span, Span::Rows(rows) if open.rows >= rows);
        before.or_else(|| if is_full { self.end(known) } else { None })
    }
}

/// Which rows have no value in a column; a number that is not finite is none.
fn missing(rows: &RecordBatch, at: usize) -> Result<BooleanArray> {
    let column = rows.column(at);
    let is_float = column.data_type() == &arrow::datatypes::DataType::Float64;
    let nulls = if is_float { numbers(column)?.nulls().cloned() } else { column.nulls().cloned() };
    let mask = nulls.map_or_else(|| vec![false; rows.num_rows()], |nulls| nulls.iter().map(|valid| !valid).collect());
    Ok(BooleanArray::from(mask))
}

/// A result with as many digits as say something.
fn shown(value: f64) -> impl Display {
    let rounded = format!("{value:.6}").parse::<f64>().unwrap_or(value);
    if rounded == 0.0 || value.abs() >= 1e9 { value } else { rounded }
}

impl Keyed for Expect {
    type State = Known;

    fn key(&self, _: usize) -> &[usize] {
        &self.by
    }

    fn apply(
        &self,
        _: usize,
        rows: &RecordBatch,
        states: &mut States<'_, Known>,
        rejects: &mut Rejects,
    ) -> Result<Option<RecordBatch>> {
        let column = self.column(rows)?;
        let meta = Meta::of(rows);
        let learns = states.lane() == Lane::Learn;
        for row in 0..rows.num_rows() {
            let time = meta.time[row];
            if self.otherwise == Otherwise::DeadLetter
                && let Some(reason) = self.refusal(states.get(row), time)
            {
                rejects.push(row, format!("what came before is not as it should be: {reason}"));
            }
            let mut unmet = None;
            if learns {
                states.update(row, |known| unmet = self.learn(known, &column, row, meta.order(row)));
            }
            match unmet {
                Some(unmet) if self.otherwise == Otherwise::Stop => return Err(Fault::world(unmet)),
                Some(unmet) => rejects.unmet(unmet),
                None => {}
            }
        }
        if rejects.is_empty() { Ok(Some(rows.clone())) } else { filter(rows, &rejects.keep(rows.num_rows())).map(Some) }
    }

    fn expired(&self, _: &Known, _: i64) -> bool {
        false
    }
}

#[cfg(test)]
mod tests;
