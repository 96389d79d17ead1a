//! `resample`: a key's rows at equal distances in time.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, TimestampMillisecondArray};
use arrow::datatypes::SchemaRef;
use arrow::row::Rows;
use millstream_engine::Result;
use millstream_engine::batch::{META, TIME, event_time};
use millstream_engine::catalogue::{Kind, Planned, Problem, Problems, StepInput, StepKind, configuration, schema_of};
use millstream_engine::operator::{Given, Order, Power, Relational, Row, Step};
use millstream_engine::time::milliseconds;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::columns::readable;
use super::row_format::RowFormat;

pub(super) static KIND: StepKind = Kind {
    name: "resample",
    about: "Gives a row of each key at each multiple of a time, as its newest row before was.\n\n\
            So a sensor that reports when it likes gets a grid, and one that fell silent has gaps: after `within_seconds` without a row there is none. \
            The event time of what is given is its place on the grid. What counts is when rows became known (`_time`). Requests pass as they are.",
    schema: schema_of::<Config>,
    example: "by: [sensor]\nevery_seconds: 10\nwithin_seconds: 60\n",
    plan,
};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The columns that make the key.
    by: Vec<String>,
    /// From one point of the grid to the next.
    every_seconds: f64,
    /// For how long a row is good.
    within_seconds: f64,
}

/// A row is given at so many points at most, which a gap in the stream can bring due all at once.
const POINTS_MAX: i64 = 100_000;

fn plan(config: &Value, input: &StepInput<'_>) -> Planned<Step> {
    let config: Config = configuration(config)?;
    let mut problems = Problems::default();
    let by = readable(input.schema, &mut problems, "by", &config.by);
    let [every_ms, within_ms] = [config.every_seconds, config.within_seconds].map(milliseconds);
    if every_ms < 1 {
        problems.push(Problem::new("every_seconds", "bad-value", "points are a millisecond apart, or more"));
    }
    if within_ms < every_ms {
        problems.push(Problem::new(
            "within_seconds",
            "bad-value",
            "a row is good until the next point of the grid at least",
        ));
    }
    if every_ms > 0 && within_ms / every_ms > POINTS_MAX {
        let message = format!("a row would be given at more than {POINTS_MAX} points of the grid");
        problems.push(Problem::new("within_seconds", "bad-value", message));
    }
    problems.finish()?;
    let own: Vec<usize> = (META..input.schema.fields().len()).collect();
    let operator = Resample {
        by,
        every_ms,
        within_ms,
        at: Some(event_time(input.schema)).filter(|at| *at != TIME),
        rows: RowFormat::new(input.schema, &own),
        schema: input.schema.clone(),
    };
    Ok(Step { schema: input.schema.clone(), others: Vec::new(), power: Power::relational(operator) })
}

struct Resample {
    by: Vec<usize>,
    every_ms: i64,
    within_ms: i64,
    /// The column that holds the event time.
    at: Option<usize>,
    rows: RowFormat,
    schema: SchemaRef,
}

/// A key's newest row, and the next point of the grid.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Newest {
    order: Order,
    row: Vec<u8>,
    next: i64,
}

pub(super) struct Points {
    rows: Rows,
    times: Vec<Option<i64>>,
}

impl Relational for Resample {
    type State = Option<Newest>;
    type View<'a> = Rows;
    type Values = Points;

    const TAKES_CHANGES: bool = false;

    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn key(&self, _: usize) -> &[usize] {
        &self.by
    }

    fn view(&self, _: usize, rows: &RecordBatch) -> Result<Rows> {
        self.rows.rows(rows)
    }

    fn values(&self) -> Points {
        Points { rows: self.rows.empty(), times: Vec::new() }
    }

    fn take(
        &self,
        rows: &Rows,
        row: Row,
        newest: &mut Option<Newest>,
        given: &mut Given<Points>,
    ) -> Result<(), String> {
        let time = row.order.0;
        if newest.as_ref().is_some_and(|newest| newest.next == time) {
            // The row is not before this point.
            self.give(row.order, newest, given);
        }
        let first = (time.div_euclid(self.every_ms) + 1) * self.every_ms;
        let next = newest.as_ref().map_or(first, |newest| newest.next);
        *newest = Some(Newest { order: row.order, row: rows.row(row.index).data().to_vec(), next });
        Ok(())
    }

    fn due(&self, newest: &Option<Newest>) -> Option<Order> {
        newest.as_ref().map(|newest| (newest.next, newest.order.1))
    }

    fn fire(&self, now: Order, newest: &mut Option<Newest>, given: &mut Given<Points>) {
        while let Some(due) = self.due(newest).filter(|due| *due < now) {
            self.give(due, newest, given);
        }
    }

    fn answer(
        &self,
        rows: &Rows,
        row: Row,
        _: &Option<Newest>,
        _: i64,
        given: &mut Given<Points>,
    ) -> Result<(), String> {
        let points = given.row(row.order, 1);
        points.rows.push(rows.row(row.index));
        points.times.push(None);
        Ok(())
    }

    fn finish(&self, _: Vec<ArrayRef>, points: Points) -> Result<Vec<ArrayRef>> {
        let mut columns = self.rows.columns(&points.rows)?;
        // All rows are points of the grid, or all are requests.
        if let Some(at) = self.at
            && points.times.first().is_some_and(Option::is_some)
        {
            columns[at - META] = Arc::new(TimestampMillisecondArray::from(points.times));
        }
        Ok(columns)
    }

    fn expired(&self, newest: &Option<Newest>, _: i64) -> bool {
        newest.is_none()
    }
}

impl Resample {
    /// Gives the next point of the grid, unless the row is too old for it.
    fn give(&self, order: Order, newest: &mut Option<Newest>, given: &mut Given<Points>) {
        let Some(row) = newest.as_mut().filter(|row| row.next - row.order.0 <= self.within_ms) else {
            *newest = None;
            return;
        };
        let points = given.row(order, 1);
        points.rows.push(self.rows.parser.parse(&row.row));
        points.times.push(Some(row.next));
        row.next += self.every_ms;
    }
}

#[cfg(test)]
mod tests {
    use millstream_engine::batch::Meta;
    use serde_json::json;

    use super::super::harness::{Bench, Random, check, check_serve, plan, problems, random_rows, show};
    use super::*;

    #[test]
    fn a_row_for_each_point() {
        check(
            &KIND,
            &json!({"by": ["sensor"], "every_seconds": 10, "within_seconds": 15}),
            "t  sensor count
             1  a      1
             10 a      2
             12 a      3
             13 b      4
             47 a      5
             50 b      6",
            "t  sensor count
             10 a      1
             20 a      3
             20 b      4
             50 a      5",
        );
    }

    #[test]
    fn requests_pass() {
        let config = json!({"by": ["sensor"], "every_seconds": 10, "within_seconds": 15});
        check_serve(&KIND, &config, "t sensor count\n1 a 1", "t sensor count\n1 a 1");
    }

    #[test]
    fn agrees_with_a_look_at_each_point() {
        for seed in 0..10 {
            let rows = random_rows(&mut Random::new(seed), 150);
            let mut bench = Bench::new(&KIND, &json!({"by": ["room"], "every_seconds": 4, "within_seconds": 6}));
            let output = bench.epoch(std::slice::from_ref(&rows), 1_000_000).unwrap();
            let times = Meta::of(&rows).time;
            let (rooms, counts) = (show(&rows, &["room"]), show(&rows, &["count"]));
            let [rooms, counts]: [Vec<&str>; 2] = [&rooms, &counts].map(|text| text.lines().skip(1).collect());
            let mut keys = rooms.clone();
            keys.sort_unstable();
            keys.dedup();
            let mut expected = Vec::new();
            for key in keys {
                for point in (0..).map(|at| at * 4000).take_while(|point| *point <= times[149] + 6000) {
                    let newest = (0..150).rev().find(|&row| rooms[row] == key && times[row] < point);
                    if let Some(row) = newest.filter(|&row| point - times[row] <= 6000) {
                        expected.push(format!("{} {key} {}", point / 1000, counts[row]));
                    }
                }
            }
            let found = show(&output, &["t", "room", "count"]);
            let mut found: Vec<&str> = found.lines().skip(1).collect();
            assert!(found.len() > 50, "a test of nothing");
            found.sort_unstable();
            expected.sort_unstable();
            assert_eq!(found, expected, "seed {seed}");
        }
    }

    #[test]
    fn all_problems_are_found() {
        assert_eq!(
            problems(&KIND, &json!({"by": [], "every_seconds": 0, "within_seconds": -1})),
            "by empty-list; every_seconds bad-value; within_seconds bad-value"
        );
        let many = |within: f64| json!({"by": ["sensor"], "every_seconds": 1, "within_seconds": within});
        assert_eq!(problems(&KIND, &many(100_001.0)), "within_seconds bad-value");
        assert!(plan(&KIND, &many(100_000.0)).is_ok());
    }
}
