//! What an epoch costs a model beside what it learns: as the engine does it, each epoch that taught gets a digest and a revision.

use std::time::Instant;

use millstream_benches::quantile;
use millstream_benches::streams::{Stream, hashed, hyperplane};
use millstream_benches::table::Table;
use millstream_engine::operator::Rejects;
use serde_json::{Value, json};

use super::operator::{batches, fold};

/// How many epochs are measured, and how many rows each has.
const EPOCHS: usize = 40;
const ROWS: usize = 64;

pub fn run() {
    let mut table = Table::new(&[
        "learner",
        "rows before",
        "state MB",
        "learn ms",
        "digest ms",
        "together ms",
        "mean ms",
        "longest ms",
        "copy ms",
        "snapshot ms",
    ]);
    let numbers = Stream { name: "numbers".to_owned(), ..hyperplane(30_000, 8, 2, 0.001, 0.05, 2) };
    let wide = Stream { name: "wide".to_owned(), ..hyperplane(6_000, 64, 2, 0.001, 0.05, 2) };
    let categories = Stream { name: "categories".to_owned(), ..hashed(150_000, 8, 125_000, 2) };
    let network = |hidden: Value, training: Value| json!({"neural_network": {"network": {"mlp": {"hidden": hidden}}, "training": training}});
    let replay = json!({"mini_batch": 256, "replay": {"rows": 20_000, "per_batch": 64}});
    let embedding = json!({"mini_batch": 256, "embedding": {"size": 64}, "optimizer": {"adagrad": {"rate": 0.05}}});
    for (name, stream, learner) in [
        ("logistic_regression", &numbers, json!("logistic_regression")),
        ("hoeffding_tree", &numbers, json!("hoeffding_tree")),
        ("adaptive_random_forest", &numbers, json!("adaptive_random_forest")),
        ("nearest_neighbors", &numbers, json!("nearest_neighbors")),
        ("network 8-256-256", &numbers, network(json!([256, 256]), json!({"mini_batch": 256}))),
        ("network with old rows", &numbers, network(json!([64]), replay)),
        ("network 64-3 x 1024", &wide, network(json!([1024, 1024, 1024]), json!({"mini_batch": 256}))),
        ("network with embeddings", &categories, network(json!([64]), embedding)),
    ] {
        table.row([name.to_owned()].into_iter().chain(measure(stream, &json!("label"), &learner)));
    }
    let later =
        json!({"from": "labels", "column": "label", "by": ["x0"], "within_seconds": 3600, "waiting_max": 100_000});
    let name = "labels that come later".to_owned();
    table.row([name].into_iter().chain(measure(&numbers, &later, &json!("logistic_regression"))));
    table.print(&format!("An epoch of {ROWS} rows, medians of {EPOCHS}"));
}

fn measure(stream: &Stream, label: &Value, learner: &Value) -> Vec<String> {
    let batches = batches(stream);
    let mut fold = fold(&batches[0].schema(), label, learner);
    let (last, first) = batches.split_last().expect("there are rows");
    for batch in first {
        fold.learn(0, batch, &mut Rejects::default()).expect("rows of the schema are learned");
    }
    let before = stream.len() - last.num_rows();
    let [mut learned, mut digested, mut all] = [const { Vec::new() }; 3];
    let mut revision = fold.revision();
    // What was learned before is digested before, too.
    std::hint::black_box(fold.digest());
    for epoch in 0..EPOCHS.min(last.num_rows() / ROWS) {
        let start = Instant::now();
        fold.learn(0, &last.slice(epoch * ROWS, ROWS), &mut Rejects::default()).expect("they are learned");
        if label.is_object() {
            fold.learn(1, &first[0].slice(epoch * ROWS, ROWS), &mut Rejects::default()).expect("they are learned");
        }
        let middle = Instant::now();
        std::hint::black_box(fold.digest());
        // The one before is held until there is another.
        drop(std::mem::replace(&mut revision, fold.revision()));
        learned.push((middle - start).as_secs_f64() * 1e3);
        digested.push(middle.elapsed().as_secs_f64() * 1e3);
        all.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let mean = format!("{:.2}", all.iter().sum::<f64>() / all.len() as f64);
    let longest = format!("{:.2}", quantile(&mut all, 1.0));
    let middle = |times: &mut Vec<f64>| format!("{:.2}", quantile(times, 0.5));
    let [learned, digested, all] = [&mut learned, &mut digested, &mut all].map(middle);
    let start = Instant::now();
    let copy = fold.copy();
    let middle = Instant::now();
    let bytes = copy().len();
    let [copied, written] = [middle - start, middle.elapsed()].map(|took| format!("{:.2}", took.as_secs_f64() * 1e3));
    let mega = format!("{:.2}", bytes as f64 / 1e6);
    vec![before.to_string(), mega, learned, digested, all, mean, longest, copied, written]
}
