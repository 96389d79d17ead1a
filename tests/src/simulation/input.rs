//! The pipeline that is simulated, and what is put into its topics.

use std::fmt::Write;

use millstream_connectors::broker::Message;

use crate::small::Random;
use crate::{NOW_MS, message};

/// Partitions of the records.
pub const PARTITIONS: u32 = 3;
/// Partitions of the questions.
pub const ASKING: u32 = 2;
/// How far records may be out of order.
pub const LATENESS_MS: i64 = 5000;
/// How long the same is left out.
pub const WITHIN_MS: i64 = 3000;

/// Every step that has a state, so that a row's example is known by counting: what comes out of `deduplicate` is learned.
pub const DEFINITION: &str = r#"
millstream: 1
name: simulated
broker: embedded
checkpoints: {every_seconds: 1000000, every_bytes: 120, keep: 3}
sources:
  readings:
    from: {topic: {name: readings, partitions: 3}}
    format: json
    columns: {at: timestamp, sensor: text, x: float, seen: int, y: float}
    event_time: {column: at, lateness_seconds: 5}
    idle_seconds: 1000000
streams:
  known:
    input: readings
    steps:
      - require: {that: "y is not null", otherwise: drop, lanes: learn}
      - require: {that: "sensor is not null"}
      - deduplicate: {by: [sensor, seen], within_seconds: 3}
      - impute: {columns: [x], with: last, by: [sensor]}
      - impute: {columns: [x], with: {constant: 0}}
models:
  y:
    input: known
    label: y
    features: [x, seen]
    learner: linear_regression
requests:
  questions:
    topic: questions
    partitions: 2
    enters: readings
    model: y
    answers: {topic: answers, partitions: 2}
sinks:
  rows: {from: y, to: {topic: {name: rows}}}
"#;

/// Records and questions with their topics, in the order in which they are appended.
pub fn input(random: &mut Random) -> Vec<(&'static str, Message)> {
    let count = 10 + random.below(40);
    let mut all = Vec::new();
    for number in 0..count {
        // A second passes from record to record, so that some are too late and some too early for the same.
        let record = (0..=random.below(2)).map(|_| reading(random, number));
        let records: Vec<String> = record.collect();
        for record in records {
            let partition = random.below(u64::from(PARTITIONS)) as u32;
            all.push(("readings", Message { partition: Some(partition), ..message(None, record) }));
        }
        if random.once_in(3) {
            let partition = random.below(u64::from(ASKING)) as u32;
            let question = question(random, number);
            all.push(("questions", Message { partition: Some(partition), ..message(Some("k"), question) }));
        }
    }
    all
}

fn reading(random: &mut Random, number: u64) -> String {
    match random.below(30) {
        0 => return "{not json".to_owned(),
        1 => return r#"{"at":null,"sensor":"a","x":1,"seen":1,"y":2}"#.to_owned(),
        _ => {}
    }
    let back = if random.once_in(10) { random.below(12_000) } else { random.below(3_000) };
    let at = NOW_MS as u64 + 20_000 + number * 1000 - back;
    let mut text = format!(r#"{{"at":{at},"seen":{}"#, random.below(3));
    let mut add = |name: &str, value: String| {
        // Writing to a string cannot fail.
        let _ = write!(text, r#","{name}":{value}"#);
    };
    if !random.once_in(20) {
        add("sensor", sensor(random));
    }
    if !random.once_in(4) {
        add("x", (random.below(100) as f64 / 8.0).to_string());
    }
    if !random.once_in(8) {
        add("y", (random.below(100) as f64 / 4.0 - 10.0).to_string());
    }
    text + "}"
}

fn question(random: &mut Random, number: u64) -> String {
    if random.once_in(10) {
        return "what?".to_owned();
    }
    let at = NOW_MS as u64 + 20_000 + number * 1000;
    let sensor = if random.once_in(8) { "null".to_owned() } else { sensor(random) };
    let x = if random.once_in(2) { "null".to_owned() } else { random.below(20).to_string() };
    format!(r#"{{"at":{at},"sensor":{sensor},"x":{x},"seen":{}}}"#, random.below(3))
}

fn sensor(random: &mut Random) -> String {
    ["\"a\"", "\"b\"", "\"c\"", "\"d\""][random.below(4) as usize].to_owned()
}
