//! Cases as tables, and what stands at any time, recomputed from both sides' rows.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use millstream_engine::batch::{Lane, META, Meta, Origin, changing, diffs};
use serde_json::{Value, json};

use super::super::harness::{Bench, Random, problems, random_changes, random_table, show, standing, table, tidy};
use super::super::{example_schema, example_streams};
use super::KIND;

fn check(config: &Value, left: &str, right: &str, expected: &str) {
    let mut bench = Bench::new(&KIND, config);
    let ports = [table(&example_schema(), left), table(&example_streams()["weather"], right)];
    let output = bench.epoch(&ports, 1_000_000).expect("there are pairs");
    assert_eq!(bench.shown_output(&output, left), tidy(expected));
}

#[test]
fn whichever_comes_first() {
    check(
        &json!({"with": "weather", "by": ["room"], "within_seconds": 10, "columns": ["wind"]}),
        "t  room count
         1  x    1
         5  x    2
         6  null 3
         30 y    4",
        "t  room wind
         2  x    7
         14 x    8
         19 y    9
         20 y    10
         21 null 11",
        "t  room count wind
         2  x    1     7
         5  x    2     7
         14 x    2     8
         30 y    4     10",
    );
}

#[test]
fn a_left_row_waits_with_nulls() {
    check(
        &json!({"with": "weather", "by": ["room"], "within_seconds": 10, "columns": ["wind"], "kind": "left", "prefix": "outside_"}),
        "t  room count
         1  x    1
         6  null 3",
        "t  room wind
         2  x    7
         3  x    8
         40 x    9",
        "t  room count outside_wind _diff
         1  x    1     null         1
         2  x    1     null         -1
         2  x    1     7            1
         3  x    1     8            1
         6  null 3     null         1",
    );
}

#[test]
fn a_request_gets_the_one_match() {
    let config = json!({"with": "weather", "by": ["room"], "within_seconds": 10, "columns": ["wind"]});
    let weather = table(&example_streams()["weather"], "t room wind\n1 x 7\n2 y 8\n3 y 9");
    for (kind, missing) in [("inner", None), ("left", Some("5 z null"))] {
        let mut config = config.clone();
        config["kind"] = json!(kind);
        let mut bench = Bench::new(&KIND, &config);
        bench.epoch(&[RecordBatch::new_empty(example_schema()), weather.clone()], 5000);
        let served = bench.serve(&table(&example_schema(), "t room\n5 x\n5 y\n5 z"));
        let expected = ["t room wind", "5 x 7"].into_iter().chain(missing).collect::<Vec<_>>().join("\n");
        assert_eq!(show(&served, &["t", "room", "wind"]), tidy(&expected));
        let reasons: Vec<&str> = bench.rejects.iter().map(|(_, reason)| reason.as_str()).collect();
        assert_eq!(reasons[0], "2 rows of the other stream match, and an answer needs one");
        assert_eq!(reasons.get(1).copied(), missing.is_none().then_some("no row of the other stream matches"));
        // What is too old for the watermark matches nothing, whether it is still kept or not.
        bench.epoch(&[RecordBatch::new_empty(example_schema()), weather.slice(0, 0)], 11_001);
        let late = bench.run(Lane::Serve, 0, &table(&example_schema(), "t room\n5 x"));
        assert_eq!(late.map_or(0, |rows| rows.num_rows()), usize::from(kind == "left"));
    }
}

/// A row of either side.
struct Side {
    known: i64,
    room: String,
    own: String,
    diff: i64,
}

fn side(rows: &RecordBatch, columns: &[&str]) -> Vec<Side> {
    let (own, rooms) = (show(rows, columns), show(rows, &["room"]));
    let diffs = diffs(rows).map_or_else(|| vec![1; rows.num_rows()], <[i64]>::to_vec);
    let lines = own.lines().skip(1).zip(rooms.lines().skip(1)).enumerate();
    let row = |(row, (own, room)): (usize, (&str, &str))| Side {
        known: Meta::of(rows).time[row],
        room: room.to_owned(),
        own: own.to_owned(),
        diff: diffs[row],
    };
    lines.map(row).collect()
}

/// The rows that stand, with when they came.
fn kept(rows: &[Side], now: i64) -> Vec<(i64, &Side)> {
    let mut kept: Vec<(i64, &Side)> = Vec::new();
    for row in rows.iter().filter(|row| row.known <= now) {
        if row.diff > 0 {
            kept.push((row.known, row));
        } else if let Some(place) =
            kept.iter().rposition(|(_, other)| (&other.own, &other.room) == (&row.own, &row.room))
        {
            kept.remove(place);
        }
    }
    kept
}

fn expected(left: &[Side], right: &[Side], is_left: bool, within_ms: i64, now: i64) -> BTreeMap<String, i64> {
    let mut pairs = BTreeMap::new();
    let right = kept(right, now);
    for (came, row) in kept(left, now) {
        let is_match = |(other_came, other): &&(i64, &Side)| {
            row.room != "null" && row.room == other.room && came.abs_diff(*other_came) <= within_ms as u64
        };
        let matches: Vec<&str> = right.iter().filter(is_match).map(|(_, other)| other.own.as_str()).collect();
        let none = (is_left && matches.is_empty()).then_some("null null");
        for other in matches.into_iter().chain(none) {
            *pairs.entry(format!("{} {other}", row.own)).or_default() += 1;
        }
    }
    pairs
}

/// Epochs that end at random places of the canonical order.
fn learn(random: &mut Random, bench: &mut Bench, ports: &[RecordBatch; 2]) -> RecordBatch {
    let mut places: Vec<(i64, Origin)> = ports
        .iter()
        .flat_map(|rows| (0..rows.num_rows()).map(move |row| Meta::of(rows).order(row)))
        .filter(|_| random.below(20) == 0)
        .collect();
    places.push((i64::MAX, Origin::FIRST));
    places.sort_unstable();
    let (mut outputs, mut from) = (Vec::new(), [0, 0]);
    for place in places {
        let epoch: Vec<RecordBatch> = (0..2)
            .map(|port| {
                let meta = Meta::of(&ports[port]);
                let end =
                    (from[port]..meta.time.len()).find(|row| meta.order(*row) >= place).unwrap_or(meta.time.len());
                let part = ports[port].slice(from[port], end - from[port]);
                from[port] = end;
                part
            })
            .collect();
        outputs.extend(bench.epoch(&epoch, place.0));
    }
    concat_batches(&bench.step.schema, &outputs).unwrap()
}

#[test]
fn what_stands_is_what_a_recomputation_gives() {
    let weather = example_streams()["weather"].clone();
    let own: Vec<String> = example_schema().fields()[META..].iter().map(|field| field.name().clone()).collect();
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    for seed in 0..24 {
        for (kind, changes) in [("inner", false), ("left", false), ("inner", true), ("left", true)] {
            let mut random = Random::new(seed);
            let rows = |random: &mut Random, schema: &SchemaRef| {
                if changes { random_changes(random, schema, 120) } else { random_table(random, schema, 120) }
            };
            let ports = [rows(&mut random, &example_schema()), rows(&mut random, &weather)];
            let of = |schema: &SchemaRef| if changes { changing(schema) } else { schema.clone() };
            let streams = BTreeMap::from([("weather".to_owned(), of(&weather))]);
            // What is taken back is among the newest four; so no taking back comes too late.
            let config = json!({"with": "weather", "by": ["room"], "within_seconds": 12, "kind": kind, "columns": ["wind", "sky"]});
            let mut bench = Bench::over(&of(&example_schema()), &streams, &KIND, &config);
            let output = learn(&mut random, &mut bench, &ports);
            let sides = [side(&ports[0], &own), side(&ports[1], &["wind", "sky"])];
            let last = Meta::of(&ports[0]).time.last().copied().unwrap();
            for now in [last / 3, last] {
                let expected = expected(&sides[0], &sides[1], kind == "left", 12_000, now);
                assert!(expected.len() > 5, "a test of nothing, seed {seed}");
                assert_eq!(standing(&output, now), expected, "seed {seed}, {kind}, changes {changes}, at {now}");
            }
        }
    }
}

#[test]
fn all_problems_are_found() {
    assert_eq!(
        problems(
            &KIND,
            &json!({"with": "weather", "by": {"count": "room"}, "within_seconds": 0, "columns": ["room", "wnd"]})
        ),
        "by wrong-type; columns.1 unknown-column; columns duplicate-name; within_seconds bad-value"
    );
    assert_eq!(problems(&KIND, &json!({"with": "wether", "by": ["room"], "within_seconds": 1})), "with unknown-stream");
}
