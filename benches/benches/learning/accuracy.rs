//! Prequential accuracy of all classifiers with their defaults, beside the references.

use millstream_benches::table::Table;
use millstream_operators::models::{Design, KINDS, Task, plan};
use serde_json::{Value, json};

use super::streams::{Ready, of_accuracy};

/// What the references reach, in percent, on a stream with a learner, and how far below is accepted.
const REFERENCES: &[(&str, &str, f64, f64)] = &[
    ("phishing", "logistic_regression", 88.7, 0.7),
    ("phishing", "gaussian_naive_bayes", 88.5, 0.7),
    ("phishing", "hoeffding_tree", 88.0, 0.7),
    ("phishing", "nearest_neighbors", 88.2, 0.7),
    ("phishing", "adaptive_random_forest", 90.8, 0.7),
    ("phishing", "streaming_random_patches", 91.4, 0.7),
    ("bananas", "logistic_regression", 54.3, 0.7),
    ("bananas", "gaussian_naive_bayes", 61.5, 0.7),
    ("bananas", "hoeffding_tree", 64.2, 0.7),
    ("bananas", "nearest_neighbors", 88.5, 0.7),
    ("bananas", "adaptive_random_forest", 88.7, 0.7),
    ("sea", "logistic_regression", 88.9, 0.5),
    ("sea", "logistic_regression, ftrl", 89.2, 0.5),
    ("sea", "hoeffding_tree", 88.5, 0.5),
    ("agrawal", "hoeffding_tree", 99.8, 0.5),
    ("agrawal", "logistic_regression", 67.0, 0.5),
    ("hyperplane", "logistic_regression", 93.7, 0.5),
    ("hyperplane", "hoeffding_tree", 88.1, 0.5),
];

/// All classifiers with their defaults, and some with settings; what is not there is left out.
fn classifiers() -> Vec<(String, Design)> {
    let mut named: Vec<(String, Value)> = KINDS.iter().map(|kind| (kind.name.to_owned(), json!(kind.name))).collect();
    let three = json!({"of": ["logistic_regression", "gaussian_naive_bayes", "hoeffding_tree"]});
    named.push(("logistic_regression, ftrl".to_owned(), json!({"logistic_regression": {"update": "ftrl"}})));
    named.extend(
        ["vote", "mean", "stack", "champion"].map(|kind| (format!("{kind} of LR, NB, HT"), json!({kind: three}))),
    );
    let planned = named.into_iter().filter_map(|(name, value)| Some((name, plan(&value).ok()?)));
    planned.filter(|(_, design)| design.task == Task::Classification).collect()
}

pub fn run() {
    let streams = of_accuracy();
    let headings: Vec<&str> = streams.iter().map(|stream| stream.name.as_str()).collect();
    let mut table = Table::new(&[&["accuracy, %"], headings.as_slice()].concat());
    let ready: Vec<Ready> = streams.iter().map(Ready::new).collect();
    let mut missed = Vec::new();
    for (name, design) in classifiers() {
        let mut cells = vec![name.clone()];
        for (stream, ready) in streams.iter().zip(&ready) {
            let accuracy = 100.0 * ready.accuracy(&design);
            let reference = REFERENCES.iter().find(|(on, of, ..)| *on == stream.name && *of == name);
            cells.push(match reference {
                Some((_, _, reference, slack)) => {
                    let fine = accuracy >= reference - slack;
                    if !fine {
                        missed.push(format!("{name} on {}: {accuracy:.2}, reference {reference}", stream.name));
                    }
                    format!("{accuracy:.2} ({reference:.1}{})", if fine { "" } else { " !" })
                }
                None => format!("{accuracy:.2}"),
            });
        }
        table.row(cells);
    }
    table.print("Prequential accuracy with default settings; in brackets what the references reach");
    missed.iter().for_each(|line| println!("  below what is accepted: {line}"));
}
