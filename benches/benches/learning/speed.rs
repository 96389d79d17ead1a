//! Examples per CPU second, in memory.

use millstream_benches::streams::Stream;
use millstream_benches::table::{Table, thousands};
use millstream_benches::{quantile, thread_cpu_seconds};
use millstream_operators::models::drift::{self, Detector};
use millstream_operators::models::plan;
use serde_json::{Value, json};

use super::streams::{Ready, of_speed};

const RUNS: usize = 3;

pub fn run() {
    let mut table = Table::new(&["in memory", "stream", "rows", "per CPU second"]);
    let streams: Vec<(Stream, Ready)> = of_speed()
        .into_iter()
        .map(|stream| {
            let ready = Ready::new(&stream);
            (stream, ready)
        })
        .collect();
    let models: [(&str, Value, &str); 6] = [
        ("logistic_regression", json!("logistic_regression"), "dense8"),
        ("logistic_regression", json!("logistic_regression"), "hashed39"),
        ("logistic_regression, ftrl", json!({"logistic_regression": {"update": "ftrl"}}), "dense8"),
        ("logistic_regression, ftrl", json!({"logistic_regression": {"update": "ftrl"}}), "hashed39"),
        ("hoeffding_tree", json!("hoeffding_tree"), "dense30"),
        ("adaptive_random_forest, 10 trees", json!({"adaptive_random_forest": {"trees": 10}}), "dense30"),
    ];
    for (name, value, on) in models {
        let Ok(design) = plan(&value) else { continue };
        let Some((stream, ready)) = streams.iter().find(|(stream, _)| stream.name == on) else { continue };
        let mut speeds: Vec<f64> = (0..RUNS).map(|_| ready.speed(&design)).collect();
        let cells = [name.to_owned(), stream.name.clone(), thousands(stream.len() as f64)];
        table.row(cells.into_iter().chain([thousands(quantile(&mut speeds, 0.5))]));
    }
    let updates = 5_000_000;
    table.row([
        "adwin, updates".to_owned(),
        "0 and 1".to_owned(),
        thousands(f64::from(updates)),
        thousands(adwin(updates)),
    ]);
    table.print("Examples per CPU second, one thread, median of 3");
}

fn adwin(updates: u32) -> f64 {
    let Ok(mut detector) = drift::plan(&json!("adwin")) else { return 0.0 };
    let start = thread_cpu_seconds();
    let (mut state, mut changes) = (1_u64, 0);
    for _ in 0..updates {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        changes += u32::from(detector.update(f64::from(u8::from(state >> 62 == 0))) == drift::Level::Change);
    }
    assert!(changes < 100, "nothing changes, and it said so {changes} times");
    f64::from(updates) / (thread_cpu_seconds() - start)
}
