//! Where data comes from and goes to is told as it is committed.

use std::collections::BTreeSet;

use millstream_operators::registry::Registry;
use millstream_tests::{NOW_MS, Record, Site, message};
use serde_json::{Value, json};

const DEFINITION: &str = r#"
millstream: 1
name: told
sources:
  rows:
    from: {topic: {name: rows}}
    format: json
    columns: {at: timestamp, x: float, yes: bool}
    event_time: {column: at}
streams:
  sound: {input: rows, steps: [{expect: {that: "max(x) < 1000", over_rows: 1, otherwise: stop}}]}
models:
  line:
    input: sound
    label: yes
    features: [x]
    learner: logistic_regression
    promote: {every_examples: 100, only_if_better_than_baseline: false}
requests:
  questions: {topic: questions, enters: rows, model: line, answers: {topic: answers}}
sinks:
  predicted: {from: line, to: {topic: {name: predicted, format: json}}}
lineage: {topic: lineage, namespace: shop}
epochs: {max_records: 60}
"#;

fn told(site: &Site) -> Vec<Value> {
    site.records("lineage").iter().map(Record::json).collect()
}

fn kinds(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["eventType"].as_str().expect("a kind")).collect()
}

fn append(site: &Site, from: i64, count: i64) {
    let row = |at: i64| json!({"at": NOW_MS + 1000 * at, "x": at % 7, "yes": at % 7 > 3});
    site.append("rows", &(from..from + count).map(|at| message(None, row(at).to_string())).collect::<Vec<_>>());
}

#[test]
fn runs_and_versions_are_told() {
    let site = Site::new(DEFINITION, &[]);
    append(&site, 0, 250);
    site.run();
    let events = told(&site);
    assert_eq!(kinds(&events), ["START", "RUNNING", "RUNNING", "COMPLETE"]);
    let runs: BTreeSet<&str> = events.iter().map(|event| event["run"]["runId"].as_str().expect("an id")).collect();
    assert_eq!(runs.len(), 1);
    for event in &events {
        assert_eq!(event["job"], json!({"namespace": "shop", "name": "told"}));
        for key in ["eventTime", "producer", "schemaURL"] {
            assert!(event[key].is_string(), "{key}");
        }
    }
    let names = |list: &Value| -> Vec<String> {
        let list = list.as_array().expect("a list").iter();
        list.map(|dataset| dataset["name"].as_str().expect("a name").to_owned()).collect()
    };
    assert_eq!(names(&events[0]["inputs"]), ["rows", "questions"]);
    assert_eq!(names(&events[0]["outputs"]), ["answers", "predicted"]);
    let fields = &events[0]["inputs"][0]["facets"]["schema"]["fields"];
    assert_eq!(fields[1], json!({"name": "x", "type": "Float64"}));
    let versions: BTreeSet<&str> = events[1..3]
        .iter()
        .map(|event| {
            assert_eq!(names(&event["outputs"]), ["told/models/line"]);
            event["outputs"][0]["facets"]["version"]["datasetVersion"].as_str().expect("a version")
        })
        .collect();
    let registry = Registry::open(&site.state().join("models")).expect("it can be listed");
    let listed = registry.list().expect("it can be listed");
    assert_eq!(versions, listed.iter().map(|listed| listed.id.as_str()).collect());
    // Another run is another, and tells no version twice.
    site.run();
    let events = told(&site);
    assert_eq!(kinds(&events[4..]), ["START", "COMPLETE"]);
    assert_ne!(events[4]["run"]["runId"], events[0]["run"]["runId"]);
}

#[test]
fn a_run_that_fails_says_so() {
    let site = Site::new(DEFINITION, &[]);
    append(&site, 0, 10);
    site.append("rows", &[message(None, json!({"at": NOW_MS + 100_000, "x": 5000, "yes": true}).to_string())]);
    site.try_run(&site.options()).expect_err("it stops");
    let events = told(&site);
    assert_eq!(kinds(&events), ["START", "FAIL"]);
    let message = events[1]["run"]["facets"]["errorMessage"]["message"].as_str().expect("why");
    assert!(message.contains("max(x) < 1000"), "{message}");
}
