//! Cases as tables.

use millstream_engine::batch::{Lane, changing};
use serde_json::{Value, json};

use super::super::harness::{Bench, check, problems, show, table, tidy};
use super::super::{example_schema, example_streams};
use super::KIND;

fn tumbling(more: &Value) -> Value {
    let mut config = json!({"by": ["sensor"], "at": "at", "window": {"tumbling_seconds": 10},
        "columns": {"mean": "mean(temperature)", "n": "count()"}});
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    config
}

#[test]
fn a_window_is_given_when_time_passes_its_end() {
    check(
        &KIND,
        &tumbling(&json!({})),
        "t  at sensor temperature
         1  1  a      1
         2  2  b      5
         9  9  a      2
         10 10 a      7
         12 12 a      null
         20 20 a      4",
        "t  sensor at window_start window_end mean n
         10 b      0            10         5    1
         10 a      0            10         1.5  2
         20 a      10           20         7    2"
            .replace("sensor at", "sensor")
            .as_str(),
    );
}

#[test]
fn a_late_row_corrects_what_was_given() {
    // The row at 12 happened at 9: it became known after its window had ended. The row at 16 comes too late.
    check(
        &KIND,
        &tumbling(&json!({"corrections_seconds": 5})),
        "t  at sensor temperature
         1  1  a      1
         12 9  a      2
         14 14 a      5
         16 9  a      9
         20 20 b      4",
        "t  sensor window_start window_end mean n _diff
         10 a      0            10         1    1 1
         12 a      0            10         1    1 -1
         12 a      0            10         1.5  2 1
         20 a      10           20         5    1 1
         row 3: its window was closed 1000 ms before",
    );
}

#[test]
fn hopping_windows_overlap() {
    check(
        &KIND,
        &json!({"by": ["sensor"], "window": {"hopping_seconds": 4, "every_seconds": 2}, "columns": {"sum": "sum(count)"}}),
        "t sensor count
         1 a      1
         3 a      2
         9 a      4",
        "t sensor window_start window_end sum
         2 a      -2           2          1
         4 a      0            4          3
         6 a      2            6          2",
    );
}

#[test]
fn sessions_end_after_a_gap_and_are_joined_by_what_lies_between() {
    check(
        &KIND,
        &json!({"by": ["sensor"], "at": "at", "window": {"session_gap_seconds": 3}, "corrections_seconds": 10,
            "columns": {"n": "count()", "first": "first(count)", "last": "last(count)"}}),
        "t  at sensor count
         1  1  a      1
         3  3  a      2
         8  8  a      3
         12 5  a      4
         12 12 a      5",
        "t  sensor window_start window_end first last n _diff
         6  a      1            6          1     2    2 1
         11 a      8            11         3     3    1 1
         12 a      1            6          1     2    2 -1
         12 a      1            8          1     4    3 1",
    );
}

#[test]
fn without_a_window_each_row_changes_the_result() {
    check(
        &KIND,
        &json!({"by": ["room"], "columns": {"top": "max(temperature)"}}),
        "t room temperature
         1 x    1
         2 x    3
         3 x    2",
        "t room top _diff
         1 x    1   1
         2 x    1   -1
         2 x    3   1
         3 x    3   -1
         3 x    3   1",
    );
}

#[test]
fn rows_that_are_taken_back_leave_no_trace() {
    let schema = changing(&example_schema());
    let config =
        json!({"by": ["room"], "columns": {"top": "max(temperature)", "n": "count()", "mid": "mean(temperature)"}});
    let mut bench = Bench::over(&schema, &example_streams(), &KIND, &config);
    let rows = "t room temperature _diff
                1 x    1           1
                2 x    3           1
                3 x    3           -1
                4 x    1           -1
                5 y    1           -1";
    let output = bench.learn(&table(&schema, rows));
    let expected = "t room n mid top _diff
                    1 x    1 1   1   1
                    2 x    1 1   1   -1
                    2 x    2 2   3   1
                    3 x    2 2   3   -1
                    3 x    1 1   1   1
                    4 x    1 1   1   -1";
    assert_eq!(show(&output, &["t", "room", "n", "mid", "top", "_diff"]), tidy(expected));
    assert_eq!(bench.rejects, [(4, "it takes back a row that was not there".to_owned())]);
}

#[test]
fn a_request_gets_the_newest_complete_window() {
    let mut bench = Bench::new(&KIND, &tumbling(&json!({"horizon_seconds": 60})));
    let schema = example_schema();
    let ask = |bench: &mut Bench, rows: &str| {
        let output = bench.run(Lane::Serve, 0, &table(&schema, rows));
        let shown = output.map(|rows| show(&rows, &["t", "sensor", "window_start", "mean", "n"])).unwrap_or_default();
        (shown, bench.rejects.clone())
    };
    let none = |row: usize| (row, "no window of its key is complete".to_owned());
    assert_eq!(ask(&mut bench, "t sensor\n5 a"), (String::new(), vec![none(0)]));
    bench.learn(&table(&schema, "t at sensor temperature\n1 1 a 1\n2 2 a 2\n11 11 a 9"));
    let expected = tidy("t sensor window_start mean n\n12 a 0 1.5 2");
    assert_eq!(ask(&mut bench, "t sensor\n12 a\n12 b"), (expected.clone(), vec![none(1)]));
    // In time, but not for ever.
    bench.epoch(&[table(&schema, "t at sensor\n71 71 b")], 70_000);
    assert_eq!(ask(&mut bench, "t sensor\n12 a").1, []);
    bench.epoch(&[table(&schema, "t at sensor\n99 99 b")], 90_001);
    assert_eq!(ask(&mut bench, "t sensor\n12 a").1, [none(0)]);
}

#[test]
fn all_problems_are_found() {
    let of = |more: Value| problems(&KIND, &tumbling(&more));
    assert_eq!(
        of(json!({"window": {"tumbling_seconds": 0}, "by": ["x"]})),
        "by.0 unknown-column; window.tumbling_seconds bad-value"
    );
    assert_eq!(of(json!({"window": {"hopping_seconds": 5, "every_seconds": 6}})), "window.every_seconds bad-value");
    assert_eq!(of(json!({"window": {"hopping_seconds": 5000, "every_seconds": 1}})), "window.every_seconds bad-value");
    assert_eq!(
        of(json!({"window": {"session_gap_seconds": 0}, "at": "count"})),
        "at wrong-type; window.session_gap_seconds bad-value"
    );
    assert_eq!(
        of(json!({"corrections_seconds": -1, "columns": {}})),
        "corrections_seconds bad-value; columns empty-list"
    );
    assert_eq!(
        of(json!({"columns": {"a": "mean(room)", "b": "median(count)", "c": "mean count", "d": "quantile(count, 2)",
            "sensor": "count(x)", "window_end": "count()"}})),
        "by.0 duplicate-name; columns.window_end duplicate-name; columns.a wrong-type; columns.b unknown-function; \
         columns.c bad-function; columns.d bad-function; columns.sensor unknown-column"
    );
    assert_eq!(of(json!({"window": {"sliding": 5}})), "window bad-value");
}

#[test]
fn a_gap_longer_than_all_time_is_one_session() {
    let settings = json!({"by": ["sensor"], "window": {"session_gap_seconds": 1e18}, "columns": {"n": "count()"}, "corrections_seconds": 1e18});
    let mut bench = Bench::new(&KIND, &settings);
    let rows = table(&example_schema(), "t sensor\n1 a\n2 a\n253402300799 a");
    assert_eq!(bench.learn(&rows).num_rows(), 0);
    assert_eq!(bench.rejects, []);
}
