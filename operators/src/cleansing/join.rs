//! `join`: the rows of two streams that belong together, whichever came first.

use std::collections::VecDeque;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::buffer::NullBuffer;
use arrow::datatypes::SchemaRef;
use arrow::row::Rows;
use millstream_engine::Result;
use millstream_engine::batch::{self, DIFF, META, with_fields};
use millstream_engine::catalogue::{Kind, Planned, Problem, Problems, StepInput, StepKind, configuration, schema_of};
use millstream_engine::operator::{Given, Order, Power, Relational, Row, Step};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::other_stream::{By, added, complete_keys, keys, other};
use super::row_format::RowFormat;

pub(super) static KIND: StepKind = Kind {
    name: "join",
    about: "Joins the rows of two streams that have the same key and come within a time of each other, whichever comes first.\n\n\
            Either side may take back rows (see `latest`): what was joined with them is taken back, too. \
            A pair is given when its later row comes. With `kind: left`, a row of this stream without a match is given with nulls, \
            and taken back when a match comes. The result is a stream that changes, unless an inner join's sides only grow. \
            Times are those at which rows became known (`_time`); a null in a key matches nothing. \
            A request gets the one row of the other stream that matches now; with more than one, or none for an inner join, an error says so.",
    schema: schema_of::<Config>,
    example: "with: weather\nby: [room]\nwithin_seconds: 3600\ncolumns: [wind]\n",
    plan,
};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The other stream.
    with: String,
    /// The columns that must be equal, or a map from this stream's columns to the other's.
    by: By,
    /// Which rows are given.
    #[serde(default)]
    kind: JoinKind,
    /// How far apart in time rows may be. Rows are kept for this long; for twice as long where a side may take rows back.
    within_seconds: u32,
    /// The other stream's columns to add; all but the key, if not given.
    columns: Option<Vec<String>>,
    /// What to put before the names of the added columns.
    #[serde(default)]
    prefix: String,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq)]
#[serde(rename_all = "snake_case")]
enum JoinKind {
    /// Pairs only.
    #[default]
    Inner,
    /// Pairs, and this stream's rows without a match.
    Left,
}

fn plan(config: &Value, input: &StepInput<'_>) -> Planned<Step> {
    let config: Config = configuration(config)?;
    let mut problems = Problems::default();
    let right = other(input, "with", &config.with)?;
    let (ours, theirs) = config.by.names();
    let keys = keys(input.schema, right, &ours, &theirs, &mut problems);
    let names = config.columns.as_deref();
    let (columns, fields) = added(input.schema, right, (names, &theirs, &config.prefix), &mut problems);
    if config.within_seconds == 0 {
        let problem = Problem::new("within_seconds", "bad-value", "rows that belong together are seldom equally old");
        problems.push(problem.help("say how long one may wait for the other"));
    }
    problems.finish()?;
    let grows = |schema: &SchemaRef| !batch::is_changing(schema);
    let growing = grows(input.schema) && grows(right);
    let own: Vec<usize> =
        (META..input.schema.fields().len()).filter(|&at| input.schema.field(at).name() != DIFF).collect();
    let kept = own.iter().map(|&at| input.schema.field(at).clone());
    let kept = arrow::datatypes::Schema::new(kept.collect::<Vec<_>>());
    let mut schema = with_fields(&batch::schema_of(&kept), fields);
    if !growing || config.kind == JoinKind::Left {
        schema = batch::changing(&schema);
    }
    let within_ms = i64::from(config.within_seconds) * 1000;
    let operator = Join {
        keys,
        kind: config.kind,
        within_ms,
        keep_ms: if growing { within_ms } else { 2 * within_ms },
        rows: [RowFormat::new(input.schema, &own), RowFormat::new(right, &columns)],
        schema: schema.clone(),
    };
    Ok(Step { schema, others: vec![config.with], power: Power::relational(operator) })
}

struct Join {
    keys: [Vec<usize>; 2],
    kind: JoinKind,
    within_ms: i64,
    keep_ms: i64,
    rows: [RowFormat; 2],
    schema: SchemaRef,
}

/// The rows of a key, by port, in the order in which they came.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Sides([VecDeque<Held>; 2]);

#[derive(Debug, Serialize, Deserialize)]
struct Held {
    order: Order,
    row: Vec<u8>,
    /// How many rows of the other side it is joined with.
    matches: u32,
}

pub(super) struct View {
    rows: Rows,
    /// Which rows have no null in their key.
    complete: Option<NullBuffer>,
}

/// The rows of both sides that are given as pairs.
pub(super) struct Pairs([Rows; 2]);

impl Relational for Join {
    type State = Sides;
    type View<'a> = View;
    type Values = Pairs;

    const TAKES_CHANGES: bool = true;

    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn key(&self, port: usize) -> &[usize] {
        &self.keys[port]
    }

    fn view(&self, port: usize, rows: &RecordBatch) -> Result<View> {
        Ok(View { rows: self.rows[port].rows(rows)?, complete: complete_keys(&self.keys[port], rows) })
    }

    fn values(&self) -> Pairs {
        Pairs([self.rows[0].empty(), self.rows[1].empty()])
    }

    fn take(&self, view: &View, row: Row, sides: &mut Sides, given: &mut Given<Pairs>) -> Result<(), String> {
        let bytes = view.rows.row(row.index).data();
        if view.complete.as_ref().is_some_and(|complete| complete.is_null(row.index)) {
            if row.port == 0 && self.kind == JoinKind::Left {
                self.give(given, row.order, row.diff, [Some(bytes), None]);
            }
            return Ok(());
        }
        for side in &mut sides.0 {
            let old = side.partition_point(|held| held.is_older(row.order, self.keep_ms));
            side.drain(..old);
        }
        if row.diff > 0 {
            self.add(bytes, row, sides, given);
            return Ok(());
        }
        let held = &sides.0[row.port];
        let of = |held: &Held| held.row == bytes && !held.is_older(row.order, self.within_ms);
        let Some(place) = held.iter().rposition(of) else {
            return Err("it takes back a row that is not kept any more".to_owned());
        };
        self.remove(place, row, sides, given);
        Ok(())
    }

    fn due(&self, _: &Sides) -> Option<Order> {
        None
    }

    fn fire(&self, _: Order, _: &mut Sides, _: &mut Given<Pairs>) {}

    fn answer(&self, view: &View, row: Row, sides: &Sides, now: i64, given: &mut Given<Pairs>) -> Result<(), String> {
        let bytes = view.rows.row(row.index).data();
        let is_complete = view.complete.as_ref().is_none_or(|complete| complete.is_valid(row.index));
        let at = (now.max(row.order.0), row.order.1);
        let mut matching = sides.0[1].iter().filter(|held| is_complete && !held.is_older(at, self.within_ms));
        match (matching.next(), matching.count()) {
            (Some(held), 0) => self.give(given, row.order, 1, [Some(bytes), Some(&held.row)]),
            (None, _) if self.kind == JoinKind::Left => self.give(given, row.order, 1, [Some(bytes), None]),
            (None, _) => return Err("no row of the other stream matches".to_owned()),
            (_, more) => return Err(format!("{} rows of the other stream match, and an answer needs one", more + 1)),
        }
        Ok(())
    }

    fn finish(&self, _: Vec<ArrayRef>, Pairs(pairs): Pairs) -> Result<Vec<ArrayRef>> {
        let mut columns = self.rows[0].columns(&pairs[0])?;
        columns.extend(self.rows[1].columns(&pairs[1])?);
        Ok(columns)
    }

    fn expired(&self, sides: &Sides, watermark: i64) -> bool {
        let newest = |side: &VecDeque<Held>| side.back().map(|held| held.order.0);
        sides.0.iter().filter_map(newest).all(|newest| newest.saturating_add(self.keep_ms) < watermark)
    }
}

impl Held {
    fn is_older(&self, (now, _): Order, than_ms: i64) -> bool {
        self.order.0.saturating_add(than_ms) < now
    }
}

impl Join {
    /// Gives a pair; what is missing is null.
    fn give(&self, given: &mut Given<Pairs>, order: Order, diff: i64, pair: [Option<&[u8]>; 2]) {
        let Pairs(sides) = given.row(order, diff);
        for ((side, format), row) in sides.iter_mut().zip(&self.rows).zip(pair) {
            side.push(row.map_or(format.none.row(), |row| format.parser.parse(row)));
        }
    }

    /// The same with the sides in the order of their ports.
    fn pair(&self, given: &mut Given<Pairs>, row: Row, diff: i64, own: &[u8], other: &[u8]) {
        let pair = if row.port == 0 { [Some(own), Some(other)] } else { [Some(other), Some(own)] };
        self.give(given, row.order, diff, pair);
    }

    fn add(&self, bytes: &[u8], row: Row, Sides(sides): &mut Sides, given: &mut Given<Pairs>) {
        let mut matches = 0;
        for held in sides[1 - row.port].iter_mut().filter(|held| !held.is_older(row.order, self.within_ms)) {
            if row.port == 1 && held.matches == 0 && self.kind == JoinKind::Left {
                self.give(given, row.order, -1, [Some(&held.row), None]);
            }
            self.pair(given, row, 1, bytes, &held.row);
            held.matches += 1;
            matches += 1;
        }
        if row.port == 0 && matches == 0 && self.kind == JoinKind::Left {
            self.give(given, row.order, 1, [Some(bytes), None]);
        }
        sides[row.port].push_back(Held { order: row.order, row: bytes.to_vec(), matches });
    }

    /// Takes back the row at `place`, and what was joined with it.
    fn remove(&self, place: usize, row: Row, Sides(sides): &mut Sides, given: &mut Given<Pairs>) {
        let Some(gone) = sides[row.port].remove(place) else { return };
        let within_ms = self.within_ms;
        let was_joined = |held: &&mut Held| held.order.0.abs_diff(gone.order.0) <= within_ms as u64;
        for held in sides[1 - row.port].iter_mut().filter(was_joined) {
            self.pair(given, row, -1, &gone.row, &held.row);
            held.matches = held.matches.saturating_sub(1);
            if row.port == 1 && held.matches == 0 && self.kind == JoinKind::Left {
                self.give(given, row.order, 1, [Some(&held.row), None]);
            }
        }
        if row.port == 0 && gone.matches == 0 && self.kind == JoinKind::Left {
            self.give(given, row.order, -1, [Some(&gone.row), None]);
        }
    }
}

#[cfg(test)]
mod tests;
