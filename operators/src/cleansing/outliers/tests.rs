use serde_json::{Value, json};

use crate::cleansing::harness::{Bench, Random, check, check_serve, own_columns, problems, random_rows};
use crate::cleansing::running::oracle::{earlier, of, quantile, truths};

fn config(method: &Value, more: &Value) -> Value {
    let mut config = json!({"columns": ["temperature"], "method": method});
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

#[test]
fn a_range_and_what_may_happen() {
    let range = |then: &str| json!({"columns": ["count", "temperature"], "method": {"range": {"min": 0.5, "max": 9}}, "then": then});
    let rows = "t count temperature\n1 5 inf\n2 0 1\n3 9 9.5\n4 10 0\n5 null 3";
    check(
        &super::KIND,
        &range("missing"),
        rows,
        "t count temperature\n1 5 null\n2 null 1\n3 9 null\n4 null null\n5 null 3",
    );
    check(&super::KIND, &range("clip"), rows, "t count temperature\n1 5 null\n2 0.5 1\n3 9 9\n4 9 0.5\n5 null 3");
    check(
        &super::KIND,
        &range("flag"),
        rows,
        "t count temperature count_outlier temperature_outlier
         1 5 inf false false\n2 0 1 true false\n3 9 9.5 false true\n4 10 0 true true\n5 null 3 false false",
    );
    check(&super::KIND, &range("drop"), rows, "t count temperature\n1 5 inf\n5 null 3");
    check(
        &super::KIND,
        &range("dead_letter"),
        rows,
        "t count temperature\n1 5 inf\n5 null 3
         row 1: `count` is an outlier: 0 lies beyond 0.5
         row 2: `temperature` is an outlier: 9.5 lies beyond 9
         row 3: `count` is an outlier: 10 lies beyond 9",
    );
}

const ROWS: &str = "
    t sensor temperature
    1 a      1
    2 a      3
    3 b      70
    4 a      2
    5 a      NaN
    6 a      50
    7 a      4
    8 a      50
    9 a      3";

#[test]
fn outliers_do_not_widen_the_deviation() {
    let z_score = json!({"z_score": {"limit": 3}});
    check(
        &super::KIND,
        &config(&z_score, &json!({"by": ["sensor"], "warm_up": 3})),
        ROWS,
        "t sensor temperature
         1 a      1\n2 a      3\n3 b      70\n4 a      2\n5 a      null\n6 a      null\n7 a      4\n8 a      null\n9 a      3",
    );
    // Mean and deviation of 1, 3, 2, 50, 4 are 12 and 21.3.
    check(
        &super::KIND,
        &config(&json!({"z_score": {"limit": 2}}), &json!({"by": ["sensor"], "warm_up": 3, "learns": "all"})),
        ROWS,
        "t sensor temperature
         1 a      1\n2 a      3\n3 b      70\n4 a      2\n5 a      null\n6 a      null\n7 a      4\n8 a      50\n9 a      3",
    );
}

#[test]
fn by_medians() {
    for method in [json!({"mad": {"limit": 2}}), json!({"hampel": {"window": 3, "limit": 2}})] {
        check(
            &super::KIND,
            &config(&method, &json!({"by": ["sensor"], "warm_up": 3, "then": "flag"})),
            ROWS,
            "t sensor temperature temperature_outlier
             1 a      1   false\n2 a      3   false\n3 b      70  false\n4 a      2   false\n5 a      NaN false
             6 a      50  true\n7 a      4   false\n8 a      50  true\n9 a      3   false",
        );
    }
}

#[test]
fn a_shifted_level_becomes_the_new_one() {
    for (method, learns) in [
        (json!({"z_score": {"limit": 3}}), "inliers"),
        (json!({"mad": {"limit": 3}}), "inliers"),
        (json!({"mad": {"limit": 3}}), "all"),
        (json!({"hampel": {"window": 9, "limit": 3}}), "all"),
    ] {
        check(
            &super::KIND,
            &config(&method, &json!({"warm_up": 3, "relearn_after": 2, "learns": learns})),
            "t temperature\n1 1\n2 3\n3 2\n4 50\n5 3\n6 50\n7 null\n8 51\n9 50\n10 52\n11 53\n12 1",
            "t temperature\n1 1\n2 3\n3 2\n4 null\n5 3\n6 null\n7 null\n8 null\n9 50\n10 52\n11 53\n12 null",
        );
    }
}

#[test]
fn equal_values_have_no_outliers() {
    for method in ["z_score", "mad"] {
        let config = config(&json!({method: {"limit": 1}}), &json!({"warm_up": 0}));
        check(&super::KIND, &config, "t temperature\n1 5\n2 5\n3 7", "t temperature\n1 5\n2 5\n3 7");
    }
}

#[test]
fn requests_are_judged_by_what_was_learned() {
    let config = config(&json!({"z_score": {"limit": 3}}), &json!({"warm_up": 0}));
    let rows = "t temperature\n1 1\n2 2\n3 1\n4 50";
    check_serve(&super::KIND, &config, rows, rows);
    let mut bench = Bench::new(&super::KIND, &config);
    let schema = crate::cleansing::example_schema();
    let rows = crate::cleansing::harness::table(&schema, rows);
    bench.learn(&rows);
    assert_eq!(of(&bench.serve(&rows), "temperature"), [Some(1.0), Some(2.0), Some(1.0), None]);
}

/// The least and the greatest inlier, by what is known.
type Bounds<'a> = &'a dyn Fn(&[f64]) -> Option<(f64, f64)>;

/// The verdict on the last of a key's values, recomputed from the first.
fn recomputed(values: &[f64], learns_all: bool, bounds: Bounds<'_>) -> Option<bool> {
    let (mut known, mut in_a_row, mut verdict) = (Vec::new(), 0, false);
    for value in values {
        let (low, high) = bounds(&known).unwrap_or((f64::NEG_INFINITY, f64::INFINITY));
        verdict = *value < low || *value > high;
        in_a_row = if verdict { in_a_row + 1 } else { 0 };
        if in_a_row == 3 {
            (known, in_a_row) = (Vec::new(), 0);
            known.push(*value);
        } else if !verdict || learns_all {
            known.push(*value);
        }
    }
    Some(verdict).filter(|_| !values.is_empty())
}

fn mean_bounds(known: &[f64]) -> Option<(f64, f64)> {
    let mean = known.iter().sum::<f64>() / known.len() as f64;
    let squares: f64 = known.iter().map(|value| (value - mean).powi(2)).sum();
    let deviation = (squares / (known.len() as f64 - 1.0)).sqrt();
    (known.len() >= 4 && deviation > 0.0).then_some((mean - 1.3 * deviation, mean + 1.3 * deviation))
}

fn median_bounds(known: &[f64]) -> Option<(f64, f64)> {
    if known.len() < 4 {
        return None;
    }
    let median = quantile(known, 0.5);
    let distances: Vec<f64> = known.iter().map(|value| (value - median).abs()).collect();
    let deviation = 1.4826 * quantile(&distances, 0.5);
    (deviation > 0.0).then_some((median - 1.3 * deviation, median + 1.3 * deviation))
}

#[test]
fn agrees_with_recomputation_from_all_earlier_rows() {
    let last_seven = |known: &[f64]| median_bounds(&known[known.len().saturating_sub(7)..]);
    let methods: [(Value, Bounds<'_>, &[&str]); 3] = [
        (json!({"z_score": {"limit": 1.3}}), &mean_bounds, &["ok"]),
        (json!({"hampel": {"window": 7, "limit": 1.3}}), &last_seven, &["ok"]),
        // Few values per key, so that the medians are exact.
        (json!({"mad": {"limit": 1.3}}), &median_bounds, &["sensor", "room"]),
    ];
    for (seed, (method, bounds, by)) in (30..).zip(methods) {
        for learns in ["all", "inliers"] {
            let rows = random_rows(&mut Random::new(seed), if by.len() == 1 { 300 } else { 180 });
            let more = json!({"by": by, "warm_up": 4, "relearn_after": 3, "learns": learns, "then": "flag"});
            let flags = truths(&Bench::new(&super::KIND, &config(&method, &more)).learn(&rows), "temperature_outlier");
            for (row, (value, mut before)) in earlier(&rows, "temperature", by).into_iter().enumerate() {
                before.extend(value);
                assert!(by.len() == 1 || before.len() <= 17, "the median is exact for 16");
                let expected = value.is_some() && recomputed(&before, learns == "all", bounds).unwrap_or_default();
                assert_eq!(flags[row], expected, "seed {seed}, {method}, learns {learns}, row {row}");
            }
            let found = flags.iter().filter(|flag| **flag).count();
            assert!(found > 20 && found < 200, "{found} outliers say little");
        }
    }
}

/// Beyond 16 values: whatever lies clearly inside or outside is judged as by the exact median.
#[test]
fn the_median_deviation_is_near_for_many_values() {
    let seed = 40;
    let rows = random_rows(&mut Random::new(seed), 500);
    let more = json!({"by": ["ok"], "relearn_after": 1000, "then": "flag", "warm_up": 4});
    let flags = truths(
        &Bench::new(&super::KIND, &config(&json!({"mad": {"limit": 1.3}}), &more)).learn(&rows),
        "temperature_outlier",
    );
    let mut clear = 0;
    for (row, (value, before)) in earlier(&rows, "temperature", &["ok"]).into_iter().enumerate() {
        let (Some(value), Some((low, high))) = (value, median_bounds(&before)) else { continue };
        let off = 0.1 * (high - low);
        if [low, high].iter().all(|bound| (value - bound).abs() > off) {
            clear += 1;
            assert_eq!(flags[row], value < low || value > high, "seed {seed}, row {row}: {value}, {low} to {high}");
        }
    }
    assert!(clear > 250, "only {clear} rows are clear");
}

#[test]
fn columns_are_added() {
    let config = config(&json!({"mad": {"limit": 3}}), &json!({"then": "flag"}));
    let expected = "sensor room temperature humidity count at ok temperature_outlier";
    assert_eq!(own_columns(&super::KIND, &config), expected);
}

#[test]
fn all_problems_are_found() {
    let config = json!({
        "columns": ["room"], "method": {"range": {"min": 2, "max": 1}}, "by": ["x"], "warm_up": 1, "learns": "all", "relearn_after": 0
    });
    let expected = "columns wrong-type; by.0 unknown-column; method.range bad-value; by bad-value; warm_up bad-value; \
                    learns bad-value; relearn_after bad-value; relearn_after bad-value";
    assert_eq!(problems(&super::KIND, &config), expected);
    let config = json!({"columns": ["count"], "method": {"hampel": {"window": 5, "limit": 0}}, "warm_up": 6});
    assert_eq!(problems(&super::KIND, &config), "method.hampel.limit bad-value; warm_up bad-value");
    let config = json!({"columns": ["count"], "method": {"hampel": {"window": 2, "limit": 1}}});
    assert_eq!(problems(&super::KIND, &config), "method.hampel.window bad-value");
    let config = json!({"columns": ["count"], "method": {"range": {}}});
    assert_eq!(problems(&super::KIND, &config), "method.range bad-value");
    let config = json!({"columns": ["count"], "method": {"range": {"least": 1}}});
    assert_eq!(problems(&super::KIND, &config), "method.range.least bad-value");
}
