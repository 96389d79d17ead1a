//! `tests:` in definitions: what is given goes through the real engine, and what comes of it is compared.

use millstream_pipelines::catalogue::Catalogue;
use millstream_pipelines::check;
use millstream_pipelines::definition::{Definition, Secrets};
use millstream_pipelines::origin::Origins;
use millstream_pipelines::plan::Pipeline;
use millstream_pipelines::report::Report;
use millstream_pipelines::testing::{self, Tested};

const SHOP: &str = r#"
millstream: 1
name: shop
sources:
  orders:
    from: {topic: {name: orders, partitions: 2}}
    format: FORMAT
    columns: {at: timestamp, customer: text, amount: float, returned: bool}
    event_time: {column: at, lateness_seconds: 60}
  prices:
    from: {topic: {name: prices}}
    format: json
    columns: {customer: text, price: float}
streams:
  clean:
    input: orders
    steps:
      - require: {that: "amount > 0"}
      - derive: {evening: "date_part('hour', at) >= 18"}
      - impute: {columns: [customer], with: {constant: nobody}}
  same: {input: clean}
models:
  returns:
    input: clean
    label: returned
    features: [amount, evening]
    learner: logistic_regression
requests:
  questions: {topic: questions, enters: orders, model: returns, answers: {topic: answers}}
tests:
"#;

fn plan(format: &str, tests: &str) -> Pipeline {
    let text = SHOP.replace("FORMAT", format) + tests;
    let definition = Definition::parse("test.yaml", &text);
    let (pipeline, findings) = check(&definition, &Catalogue::shipped(), Secrets::default());
    pipeline.unwrap_or_else(|| panic!("{}", Report::new(&definition, findings).render(false)))
}

/// What is said of the tests, without how long they took.
fn said(format: &str, tests: &str) -> String {
    let pipeline = plan(format, tests);
    let run = |test| testing::run(&pipeline, &Origins::default(), test);
    let tests = pipeline.tests.iter().map(|test| Tested { name: test.name.clone(), outcome: run(test) }).collect();
    let report = testing::Report { file: "test.yaml".to_owned(), tests, seconds: 0.0 };
    let json = report.to_json();
    assert_eq!(json["ok"], report.is_good());
    report.text()
}

fn check_good(format: &str, tests: &str) {
    let said = said(format, tests);
    assert!(said.ends_with(", all good (0 ms)\n"), "{said}");
}

#[test]
fn rows_are_expected_in_places() {
    check_good(
        "json",
        r#"
  places:
    given:
      orders:
        - {at: "2026-01-05T19:00:00Z", customer: c1, amount: 80, returned: true, _key: k, _partition: 1}
        - {at: "2026-01-05T18:59:30Z", amount: 3.5, returned: false}
    expect:
      orders: [{customer: null, _partition: 0, _offset: 0}, {customer: c1, _key: k, _partition: 1}]
      clean/1: [{customer: null}, {evening: true}]
      clean: [{customer: nobody, at: "2026-01-05T19:59:30+01:00"}, {customer: c1}]
      same: [{}, {}]
      returns: [{amount: 3.5}, {amount: 80}]
      prices: []
    dead: []
"#,
    );
}

#[test]
fn records_are_texts_or_maps_in_every_format() {
    let text = |format: &str| match format {
        "csv" => "2026-01-05T19:00:00Z,c1,5,true",
        _ => r#"{"at": "2026-01-05T19:00:00Z", "customer": "c1", "amount": 5, "returned": true, "more": 1}"#,
    };
    for format in ["json", "csv", "{csv: {delimiter: \",\", header: [at, customer, amount, returned]}}"] {
        let kind = if format.contains("csv") { "csv" } else { format };
        let tests = format!(
            r#"
  both:
    given:
      orders:
        - '{}'
        - {{at: "2026-01-05T19:00:00Z", customer: c2, amount: 6}}
        - nonsense
        - {{at: "2026-01-05T19:00:00Z", customer: c3, amount: six}}
    expect: {{orders: [{{customer: c1, amount: 5, returned: true}}, {{customer: c2, amount: 6, returned: null}}]}}
    dead:
      - {{offset: 1, step: returns, reason: "label `returned` is null*"}}
      - {{offset: 2, step: orders, raw: nonsense, source: orders, partition: 0, lane: learn}}
      - {{offset: 3, step: orders, reason: "column `amount`: expected a float, found the text*"}}
"#,
            text(kind)
        );
        check_good(format, &tests);
    }
}

#[test]
fn a_records_own_timestamp_is_given() {
    check_good(
        "json",
        r#"
  own time:
    given: {prices: [{price: 1, _time: "2026-01-05T19:00:00Z"}, {price: 2}]}
    expect: {prices: [{price: 1, _time: "2026-01-05T19:00:00Z"}, {price: 2, _time: "2026-01-05T19:00:00Z"}]}
"#,
    );
}

#[test]
fn late_records_are_dead_letters() {
    check_good(
        "json",
        r#"
  late:
    given:
      orders:
        - {at: "2026-01-05T19:00:00Z", amount: 1, returned: true}
        - {at: "2026-01-05T18:00:00Z", amount: 1}
        - {amount: 1}
    expect: {orders: [{at: "2026-01-05T19:00:00Z"}]}
    dead: [{offset: 1, reason: "late by 3540000 ms*"}, {offset: 2, step: orders/order, reason: "the event time is missing"}]
"#,
    );
}

#[test]
fn questions_are_asked_when_everything_given_is_learned() {
    check_good(
        "json",
        r#"
  answers:
    given:
      orders:
        - {at: "2026-01-05T19:00:00Z", amount: 1, returned: true}
        - {at: "2026-01-05T19:00:01Z", amount: 1, returned: true}
    ask: {questions: [{at: "2026-01-05T19:00:11Z", amount: 1}, {amount: 0}, nonsense]}
    answers:
      questions:
        - {prediction: true, model: returns, revision: 2, staleness_seconds: 10}
        - {step: clean/0/require, reason: "*does not hold", revision: null}
        - {step: questions, reason: "not JSON*"}
    dead: [{source: questions, lane: serve, offset: 1}, {source: questions, offset: 2}]
  nothing learned:
    ask: {questions: [{amount: 1}]}
    answers: {questions: [{reason: "the model has learned nothing yet", step: returns/answer}]}
"#,
    );
}

#[test]
fn what_differs_is_shown_side_by_side() {
    let said = said(
        "json",
        r#"
  it differs:
    given: {orders: [{at: "2026-01-05T19:00:00Z", customer: c1, amount: 80}, {at: "2026-01-05T19:00:01Z", customer: c2, amount: 0.5}]}
    expect:
      clean: [{customer: c1, amount: 80.0000000001}, {customer: c2, amount: 0.6}, {customer: c3}]
      clean/0: []
  it does not:
    dead: []
"#,
    );
    let expected = "\
FAIL it differs
     clean: 3 expected (-), 2 found (+)
         customer  amount
       - c3
       - c2        0.6
       + c2        !0.5
       = c1        80
     clean/0: 0 expected (-), 2 found (+)
         at                        customer  amount  returned
       + 2026-01-05T19:00:00.000Z  c1        80      null
       + 2026-01-05T19:00:01.000Z  c2        0.5     null
ok   it does not
test.yaml: 2 tests, 1 failed (0 ms)
";
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&said), sorted(expected), "{said}");
    assert!(said.starts_with("FAIL it differs\n     clean: 3 expected (-), 2 found (+)\n         customer  amount\n"));
}

#[test]
fn tests_change_no_result() {
    let digest = |tests: &str| plan("json", tests).digest;
    assert_eq!(digest("  a: {dead: []}\n"), digest("  b: {expect: {clean: []}}\n"), "tests are no part of what is run");
}

#[test]
fn a_test_gives_the_same_again() {
    let tests = r#"
  again:
    given: {orders: [{at: "2026-01-05T19:00:00Z", amount: 1, returned: true}, {at: "2026-01-05T19:00:01Z", amount: 9, returned: false}]}
    ask: {questions: [{at: "2026-01-05T19:00:11Z", amount: 1}]}
    answers: {questions: [{probability: -1, revision: 2}]}
"#;
    let first = said("json", tests);
    assert!(first.contains("probability") && first.contains("1 failed"), "{first}");
    assert_eq!(said("json", tests), first);
}
