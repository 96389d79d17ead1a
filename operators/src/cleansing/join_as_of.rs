//! `join_as_of`: the columns of another stream's newest row of the same key.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{SchemaRef, TimestampMillisecondType};
use millstream_engine::Result;
use millstream_engine::batch::{Meta, with_fields};
use millstream_engine::catalogue::{Kind, Planned, Problems, StepInput, StepKind, configuration, schema_of};
use millstream_engine::operator::{Keyed, Power, Rejects, Step};
use millstream_engine::state::States;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::columns::timestamp;
use super::history::History;
use super::other_stream::{By, added, complete_keys, keys, other};
use super::row_format::RowFormat;

pub(super) static KIND: StepKind = Kind {
    name: "join_as_of",
    about: "Adds the columns of another stream's newest row of the same key, as it was at a point in time.\n\n\
            For each row, that is the newest row of the other stream whose event time is not after `at`, \
            of those that come before the row itself: what was not known yet is not seen, even if `at` lies in the future. \
            Of rows with the same event time, those whose source stands first in the definition come first. \
            The new columns are null if there is none, if it is more than `within_seconds` older than `at`, \
            if `at` or a key is null, or if `at` lies more than `horizon_seconds` before the row's own event time.",
    schema: schema_of::<Config>,
    example: "with: weather\nby: [room]\nat: at\nwithin_seconds: 3600\ncolumns: [wind, sky]\n",
    plan,
};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The other stream.
    with: String,
    /// The columns that must be equal, or a map from this stream's columns to the other's.
    by: By,
    /// The point in time: a timestamp column of this stream.
    #[serde(default = "event_time")]
    at: String,
    /// How much older than `at` the other row may be.
    within_seconds: u32,
    /// The other stream's columns to add; all but the key, if not given.
    columns: Option<Vec<String>>,
    /// What to put before the names of the added columns.
    #[serde(default)]
    prefix: String,
    /// How far `at` may lie before the row's own event time. The other stream's rows are kept for this long.
    #[serde(default = "a_day")]
    horizon_seconds: u32,
}

fn event_time() -> String {
    "_time".to_owned()
}

fn a_day() -> u32 {
    86_400
}

fn plan(config: &Value, input: &StepInput<'_>) -> Planned<Step> {
    let config: Config = configuration(config)?;
    let mut problems = Problems::default();
    let right = other(input, "with", &config.with)?;
    let (ours, theirs) = config.by.names();
    let keys = keys(input.schema, right, &ours, &theirs, &mut problems);
    let at = problems.take(timestamp(input.schema, "at", &config.at));
    let names = config.columns.as_deref();
    let (columns, fields) = added(input.schema, right, (names, &theirs, &config.prefix), &mut problems);
    problems.finish()?;
    let schema = with_fields(input.schema, fields);
    let operator = JoinAsOf {
        keys,
        at: at.expect("no problem was found"),
        within_ms: i64::from(config.within_seconds) * 1000,
        horizon_ms: i64::from(config.horizon_seconds) * 1000,
        rows: RowFormat::new(right, &columns),
        schema: schema.clone(),
    };
    Ok(Step { schema, others: vec![config.with], power: Power::keyed(operator) })
}

struct JoinAsOf {
    keys: [Vec<usize>; 2],
    at: usize,
    within_ms: i64,
    horizon_ms: i64,
    /// The right stream's columns that are added.
    rows: RowFormat,
    schema: SchemaRef,
}

impl Keyed for JoinAsOf {
    type State = History;

    fn key(&self, port: usize) -> &[usize] {
        &self.keys[port]
    }

    fn apply(
        &self,
        port: usize,
        rows: &RecordBatch,
        states: &mut States<'_, History>,
        _: &mut Rejects,
    ) -> Result<Option<RecordBatch>> {
        if port == 0 {
            return self.look_up(rows, states).map(Some);
        }
        self.remember(rows, states)?;
        Ok(None)
    }

    fn expired(&self, history: &History, watermark: i64) -> bool {
        history.newest_ms().is_none_or(|newest| newest.saturating_add(self.keep_ms()) < watermark)
    }
}

impl JoinAsOf {
    fn look_up(&self, rows: &RecordBatch, states: &mut States<'_, History>) -> Result<RecordBatch> {
        let meta = Meta::of(rows);
        let at = rows.column(self.at).as_primitive::<TimestampMillisecondType>();
        let complete = complete_keys(&self.keys[0], rows);
        let mut found = self.rows.converter.empty_rows(rows.num_rows(), 0);
        for row in 0..rows.num_rows() {
            let askable = at.is_valid(row) && complete.as_ref().is_none_or(|complete| complete.is_valid(row));
            let at = at.value(row);
            let values = if askable && at >= meta.time[row].saturating_sub(self.horizon_ms) {
                states.get(row).newest(meta.order(row), at, at.saturating_sub(self.within_ms))
            } else {
                None
            };
            match values {
                Some(values) => found.push(self.rows.parser.parse(values)),
                None => found.push(self.rows.none.row()),
            }
        }
        let mut columns = rows.columns().to_vec();
        columns.extend(self.rows.columns(&found)?);
        Ok(RecordBatch::try_new(self.schema.clone(), columns)?)
    }

    fn remember(&self, rows: &RecordBatch, states: &mut States<'_, History>) -> Result<()> {
        let meta = Meta::of(rows);
        let values = self.rows.rows(rows)?;
        let complete = complete_keys(&self.keys[1], rows);
        for row in 0..rows.num_rows() {
            if complete.as_ref().is_none_or(|complete| complete.is_valid(row)) {
                states.update(row, |history| {
                    // Rows of earlier epochs come before all that are still to come, on either port.
                    history.forget(meta.order(0), self.keep_ms());
                    history.insert(meta.order(row), values.row(row).data());
                });
            }
        }
        Ok(())
    }

    /// How much older than a left row a right row can be and still be asked for.
    fn keep_ms(&self) -> i64 {
        self.horizon_ms + self.within_ms
    }
}

#[cfg(test)]
mod tests {
    use millstream_engine::batch::Lane;
    use millstream_engine::operator::Keyed;
    use serde_json::{Value, json};

    use super::super::harness::{Bench, Random, problems, random_rows, random_table, show, table, tidy};
    use super::super::{example_schema, example_streams};

    fn weather(bench: &mut Bench, rows: &str) {
        assert!(bench.run(Lane::Learn, 1, &table(&example_streams()["weather"], rows)).is_none());
    }

    fn check(config: &Value, right: &[&str], left: &str, expected: &str) {
        let mut bench = Bench::new(&super::KIND, config);
        for rows in right {
            weather(&mut bench, rows);
        }
        let left_rows = table(&example_schema(), left);
        let served = bench.serve(&left_rows);
        let output = bench.learn(&left_rows);
        assert_eq!(served, output);
        assert_eq!(bench.shown_output(&output, left), tidy(expected));
    }

    #[test]
    fn the_newest_row_of_the_key_is_added() {
        check(
            &json!({"with": "weather", "by": ["room"], "within_seconds": 10}),
            &["t room wind sky
               1 a    1.5  clear
               4 a    null grey
               4 a    2.5  null
               6 b    7    blue
               7 null 9    x"],
            "t  room
             0  a
             3  a
             5  a
             14 a
             15 a
             16 b
             16 c
             16 null",
            "t  room wind sky
             0  a    null null
             3  a    1.5  clear
             5  a    2.5  null
             14 a    2.5  null
             15 a    null null
             16 b    7    blue
             16 c    null null
             16 null null null",
        );
    }

    #[test]
    fn another_point_in_time() {
        check(
            &json!({"with": "weather", "by": {"sensor": "room"}, "at": "at", "within_seconds": 5,
                    "columns": ["wind", "_time"], "prefix": "at_", "horizon_seconds": 10}),
            &["t room wind\n1 a 1\n4 a 4\n8 a 8"],
            "t  sensor at
             9  a      5
             9  a      3.5
             9  a      null
             9  a      11
             6  a      7
             6  a      10
             12 a      2
             12 a      1.5",
            "t  sensor at   at_wind at__time
             9  a      5    4       4
             9  a      3.5  1       1
             9  a      null null    null
             9  a      11   8       8
             6  a      7    4       4
             6  a      10   null    null
             12 a      2    1       1
             12 a      1.5  null    null",
        );
    }

    #[test]
    fn late_rows_find_their_place() {
        check(
            &json!({"with": "weather", "by": ["room"], "within_seconds": 100, "columns": ["sky"]}),
            &["t room sky\n10 a ten\n20 a twenty", "t room sky\n5 a five\n10 a ten-first-offset\n15 a fifteen"],
            "t room\n4 a\n5 a\n12 a\n15 a\n30 a",
            // Both rows of 10 are there; the one with the greater offset wins.
            "t room sky\n4 a null\n5 a five\n12 a ten-first-offset\n15 a fifteen\n30 a twenty",
        );
    }

    #[test]
    fn agrees_with_a_search_through_all_right_rows() {
        for seed in 0..5 {
            let mut random = Random::new(seed);
            let (left, right) =
                (random_rows(&mut random, 300), random_table(&mut random, &example_streams()["weather"], 300));
            let config =
                json!({"with": "weather", "by": ["room"], "at": "at", "within_seconds": 3, "horizon_seconds": 4});
            let mut bench = Bench::new(&super::KIND, &config);
            assert!(bench.run(Lane::Learn, 1, &right).is_none());
            let output = bench.learn(&left);
            let cells = |rows, columns: &[&str]| -> Vec<Vec<String>> {
                show(rows, columns).lines().skip(1).map(|line| line.split(' ').map(str::to_owned).collect()).collect()
            };
            let order = |row: &[String]| [&row[0], &row[1], &row[2]].map(|cell| cell.parse::<f64>().unwrap());
            let right = cells(&right, &["t", "_source", "_offset", "room", "wind", "sky"]);
            let mut matches = 0;
            for row in cells(&output, &["t", "_source", "_offset", "room", "at", "wind", "sky"]) {
                let (own, at) = (order(&row), row[4].parse::<f64>().ok());
                let matching = right.iter().rev().filter(|_| row[3] != "null").find(|right| {
                    right[3] == row[3] && order(right) < own && at.is_some_and(|at| order(right)[0] <= at)
                });
                let near =
                    |right: &&Vec<String>| at.is_some_and(|at| at - order(right)[0] <= 3.0 && at >= own[0] - 4.0);
                let matching = matching.filter(near);
                matches += usize::from(matching.is_some());
                let expected = matching.map_or(["null", "null"], |right| [&right[4], &right[5]]);
                assert_eq!([&row[5], &row[6]], expected, "seed {seed}: {row:?}");
            }
            assert!((50..250).contains(&matches), "{matches} matches say little");
        }
    }

    #[test]
    fn what_is_kept_does_not_grow() {
        let config = json!({"with": "weather", "by": ["room"], "within_seconds": 2, "horizon_seconds": 3});
        let right = random_table(&mut Random::new(1), &example_streams()["weather"], 2000);
        let bytes = |bench: &mut Bench| -> usize {
            bench.state.as_mut().unwrap().snapshot().unwrap().values().map(Vec::len).sum()
        };
        let (mut whole, mut cut) = (Bench::new(&super::KIND, &config), Bench::new(&super::KIND, &config));
        assert!(whole.run(Lane::Learn, 1, &right).is_none());
        for first in (0..2000).step_by(10) {
            assert!(cut.run(Lane::Learn, 1, &right.slice(first, 10)).is_none());
            // A second of two rows, four keys, five seconds, twice that, and up to 50 bytes a row.
            assert!(bytes(&mut cut) < 2000, "{} bytes after {first} rows", bytes(&mut cut));
        }
        assert!(bytes(&mut whole) > 20_000);
    }

    #[test]
    fn all_problems_are_found() {
        let of = |config: Value| problems(&super::KIND, &config);
        assert_eq!(of(json!({"with": "wether", "by": ["room"], "within_seconds": 1})), "with unknown-stream");
        assert_eq!(
            of(
                json!({"with": "weather", "by": {"rom": "room", "count": "wnd"}, "within_seconds": 1, "at": "count", "columns": ["x"]})
            ),
            "by.1 unknown-column; by.0 unknown-column; at wrong-type; columns.0 unknown-column"
        );
        assert_eq!(
            of(json!({"with": "weather", "by": {"count": "room"}, "within_seconds": 1, "columns": ["room", "_time"]})),
            "by wrong-type; columns duplicate-name; columns duplicate-name"
        );
        assert_eq!(
            of(json!({"with": "weather", "by": [], "within_seconds": 1, "columns": []})),
            "by empty-list; columns empty-list"
        );
    }

    #[test]
    fn what_no_later_row_can_ask_for_has_expired() {
        let operator = super::JoinAsOf {
            keys: [vec![], vec![]],
            at: millstream_engine::batch::TIME,
            within_ms: 20,
            horizon_ms: 300,
            rows: super::RowFormat::new(&example_schema(), &[8]),
            schema: example_schema(),
        };
        let mut history = super::History::default();
        let origin = millstream_engine::batch::Origin { source: 0, partition: 0, offset: 0, index: 0 };
        history.insert((1000, origin), &[]);
        assert!(!operator.expired(&history, 1320) && operator.expired(&history, 1321));
    }
}
