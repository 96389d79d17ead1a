use arrow::array::{Array, AsArray};
use arrow::datatypes::Float64Type;
use serde_json::json;

use super::super::columns::numbers;
use super::super::harness::{Bench, Random, check, problems, random_rows, show, table};
use super::super::{example_schema, harness};
use super::*;

const ROWS: &str = "
    t  sensor temperature
    1  a      1
    2  a      null
    3  a      null
    4  b      2
    5  a      3
    6  a      4
    7  a      5
    8  a      6";

fn unmet(config: &Value, input: &str) -> Vec<String> {
    let mut bench = Bench::new(&KIND, config);
    let rows = table(&example_schema(), input);
    assert_eq!(bench.learn(&rows).num_rows(), rows.num_rows(), "all rows pass");
    bench.unmet
}

#[test]
fn what_does_not_hold_is_told() {
    let config = json!({"that": "missing(temperature) < 50%", "over_rows": 3});
    assert_eq!(
        unmet(&config, ROWS),
        ["expected `missing(temperature) < 50%`, found 0.666667 in 3 rows, from 1/0/0 to 1/0/2"]
    );
    let config = json!({"that": "mean(temperature) <= 1", "over_rows": 2, "by": ["sensor"]});
    let told = unmet(&config, ROWS);
    assert_eq!(
        told,
        [
            "expected `mean(temperature) <= 1`, found 3 in 2 rows, from 1/0/2 to 1/0/4",
            "expected `mean(temperature) <= 1`, found 4.5 in 2 rows, from 1/0/5 to 1/0/6",
        ]
    );
    // [0, 4) has one value, [4, 8) four; that from 8 on has not ended.
    let config = json!({"that": "count(temperature) = 1", "over_seconds": 4});
    assert_eq!(unmet(&config, ROWS), ["expected `count(temperature) = 1`, found 4 in 4 rows, from 1/0/3 to 1/0/6"]);
}

#[test]
fn all_functions_and_comparisons() {
    for holding in [
        "missing(temperature) = 25%",
        "share(temperature > 2) >= 50 %",
        "count() == 8",
        "min(temperature) between 1 and 1",
        "max(temperature)>5.5",
        "deviation(temperature) < 2",
        "quantile(temperature, 0.5) != 4.5",
        "distinct(sensor) <= 2",
        "share(sensor in ('a', 'b')) = 1",
    ] {
        assert!(unmet(&json!({"that": holding, "over_rows": 8}), ROWS).is_empty(), "{holding}");
    }
    for failing in [
        "missing(temperature) < 25%",
        "count() between 9 and 10",
        "share(temperature > 2) > 0.5",
        "distinct(sensor) <> 2",
    ] {
        assert_eq!(unmet(&json!({"that": failing, "over_rows": 8}), ROWS).len(), 1, "{failing}");
    }
    // The mean of nothing.
    assert!(unmet(&json!({"that": "mean(humidity) > 99", "over_rows": 2}), ROWS).is_empty());
    assert!(unmet(&json!("missing(temperature) > 99%"), ROWS).is_empty(), "1000 rows make a span");
}

#[test]
fn rows_that_follow_become_dead_letters_until_it_is_well_again() {
    let reason = "what came before is not as it should be: expected `missing(temperature) < 50%`, found 0.666667 in 3 rows, from 1/0/0 to 1/0/2";
    check(
        &KIND,
        &json!({"that": "missing(temperature) < 50%", "over_rows": 3, "otherwise": "dead_letter"}),
        ROWS,
        &format!(
            "t sensor temperature\n1 a 1\n2 a null\n3 a null\n7 a 5\n8 a 6
             row 3: {reason}\nrow 4: {reason}\nrow 5: {reason}"
        ),
    );
}

#[test]
fn requests_are_refused_with_the_rows() {
    for (over, config) in [("rows", json!({"over_rows": 4})), ("seconds", json!({"over_seconds": 4.0}))] {
        let mut config = config;
        config["that"] = json!("missing(temperature) = 0");
        config["otherwise"] = json!("dead_letter");
        let mut bench = Bench::new(&KIND, &config);
        let request = table(&example_schema(), "t temperature\n9 null");
        assert_eq!(bench.serve(&request).num_rows(), 1, "nothing is known yet");
        bench.learn(&table(&example_schema(), "t temperature\n0 1\n1 null\n2 3\n3 4"));
        assert_eq!(bench.serve(&request).num_rows(), 0, "{over}");
        assert_eq!(bench.rejects.len(), 1);
        bench.learn(&table(&example_schema(), "t temperature\n4 1\n5 2\n6 3\n7 4"));
        assert_eq!(bench.serve(&request).num_rows(), 1, "{over}");
    }
}

#[test]
fn a_run_is_stopped() {
    let step =
        harness::plan(&KIND, &json!({"that": "max(temperature) < 5", "over_rows": 4, "otherwise": "stop"})).unwrap();
    let Power::Keyed(operator) = &step.power else { panic!("it has state") };
    let mut state = operator.clone().mount(&[example_schema()], &[]).unwrap();
    let rows = table(&example_schema(), ROWS);
    assert!(state.learn(&[rows.slice(0, 7)], &mut [Rejects::default()]).is_ok(), "the span has one row to go");
    let fault = state.learn(&[rows.slice(7, 1)], &mut [Rejects::default()]).expect_err("6 is not below 5");
    assert_eq!(fault.blame, millstream_engine::Blame::World);
    assert_eq!(fault.message, "expected `max(temperature) < 5`, found 6 in 4 rows, from 1/0/4 to 1/0/7");
}

/// Spans of rows and of time by key, computed anew for each row from all before it.
#[test]
fn agrees_with_recomputation_from_all_earlier_rows() {
    for seed in 0..6 {
        let rows = random_rows(&mut Random::new(seed), 300);
        let over = if seed % 2 == 0 { json!({"over_rows": 7}) } else { json!({"over_seconds": 9}) };
        let mut config = over;
        config["that"] = json!("mean(temperature) < 45");
        config["by"] = json!(["room"]);
        config["otherwise"] = json!("dead_letter");
        let mut bench = Bench::new(&KIND, &config);
        bench.learn(&rows);
        let refused: Vec<usize> = bench.rejects.iter().map(|(row, _)| *row).collect();
        let values = numbers(rows.column_by_name("temperature").unwrap()).unwrap();
        let rooms: Vec<String> = show(&rows, &["room"]).lines().skip(1).map(str::to_owned).collect();
        let times = Meta::of(&rows).time;
        let is_refused = |row: &usize| {
            let before: Vec<usize> = (0..*row).filter(|&r| rooms[r] == rooms[*row]).collect();
            let span: Vec<usize> = if seed % 2 == 0 {
                let complete = before.len() / 7 * 7;
                before[complete.saturating_sub(7)..complete].to_vec()
            } else {
                let now = times[*row] / 9000;
                let last = before.iter().rev().map(|&r| times[r] / 9000).find(|span| *span < now);
                before.into_iter().filter(|&r| Some(times[r] / 9000) == last).collect()
            };
            let some: Vec<f64> = span.into_iter().filter(|&r| values.is_valid(r)).map(|r| values.value(r)).collect();
            !some.is_empty() && some.iter().sum::<f64>() / some.len() as f64 >= 45.0
        };
        let expected: Vec<usize> = (0..rows.num_rows()).filter(is_refused).collect();
        assert!(expected.len() > 20 && expected.len() < 280, "{} rows say little", expected.len());
        assert_eq!(refused, expected, "seed {seed}");
        assert!(rows.column_by_name("temperature").unwrap().as_primitive::<Float64Type>().len() == 300);
    }
}

#[test]
fn all_problems_are_found() {
    let config = json!({"that": "missing(temprature) < 5", "by": ["rom"], "over_rows": 0});
    assert_eq!(problems(&KIND, &config), "by.0 unknown-column; over_rows bad-value; that unknown-column");
    assert_eq!(problems(&KIND, &json!({"that": "temperature < 5"})), "that bad-expectation");
    assert_eq!(problems(&KIND, &json!("mean(temperature) near 5")), "that bad-expectation");
    assert_eq!(problems(&KIND, &json!("median(temperature) < 5")), "that unknown-function");
    assert_eq!(problems(&KIND, &json!("mean(room) < 5")), "that wrong-type");
    assert_eq!(problems(&KIND, &json!("share(temperature) < 5")), "that wrong-type");
    let config = json!({"that": "count() > 1", "over_rows": 1, "over_seconds": 1});
    assert_eq!(problems(&KIND, &config), "over_seconds bad-value");
    assert_eq!(problems(&KIND, &json!({"that": "count() > 1", "over_seconds": 0})), "over_seconds bad-value");
}
