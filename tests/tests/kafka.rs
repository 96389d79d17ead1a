//! The small pipeline on a Kafka server gives what it gives on the embedded broker.
//!
//! `.ci/with-kafka .ci/with-python cargo test -p millstream-tests kafka::` runs it against a server, and with a client that
//! nobody here wrote.

use std::process::Command;
use std::sync::Arc;

use millstream_engine::time::SystemClock;
use millstream_pipelines::run::{Checkpointing, Options, Summary};
use millstream_tests::small;
use millstream_tests::{DeadLetter, NOW_MS, Site, message, one_answer_each, unique};
use serde_json::{Value, json};

const SEED: u64 = 3;
const SECONDS: u64 = 90;

/// What came out, without what names topics.
#[derive(Debug, PartialEq)]
struct Given {
    digests: Vec<String>,
    answers: Vec<Value>,
    dead_letters: Vec<DeadLetter>,
    rows: Vec<Vec<u8>>,
    replayed: Vec<String>,
}

fn digests(summary: &Summary) -> Vec<String> {
    summary.models.values().map(|model| model.digest.clone()).collect()
}

fn given(broker: &str, prefix: &str) -> Given {
    let site = Site::new(&small::definition(broker, prefix), &[]);
    let topic = |name: &str| format!("{prefix}{name}");
    let options = || Options { max_records: Some(50), ..site.options() };
    let input = small::input(SEED, 0, SECONDS);
    site.append(&topic("weather"), &input.weather);
    site.append(&topic("readings"), &input.readings);
    let summary = site.run_with(&options());
    site.append(&topic("questions"), &small::questions(SEED, SECONDS, 20));
    let asked = site.run_with(&options());
    assert_eq!(digests(&asked), digests(&summary), "questions teach nothing");
    let mut answers = one_answer_each(&site.records(&topic("questions")), &site.answers());
    for answer in &mut answers {
        answer["request"]["topic"] = "questions".into();
    }
    let replay = site.run_with(&Options { checkpoints: Checkpointing::Off, ..options() });
    assert_eq!((replay.epochs, replay.answers), (0, 20));
    let mut dead_letters = site.dead_letters();
    dead_letters.sort();
    Given {
        digests: digests(&summary),
        answers,
        dead_letters,
        rows: site.records(&topic("rows")).into_iter().map(|record| record.value).collect(),
        replayed: digests(&replay),
    }
}

#[test]
fn kafka_gives_what_the_embedded_broker_gives() {
    let Ok(servers) = std::env::var("KAFKA_BOOTSTRAP") else {
        println!("skipped: KAFKA_BOOTSTRAP names no server");
        return;
    };
    let expected = given("embedded", "");
    assert_eq!(expected.answers.len(), 20);
    let found = given(&format!("{{kafka: {{bootstrap.servers: \"{servers}\"}}}}"), &unique());
    assert_eq!(found, expected);
}

/// Questions with headers, asked by Confluent's client while the pipeline runs: each gets one reply where it wants it.
#[test]
fn a_client_gets_its_replies() {
    let (Ok(servers), Ok(python)) = (std::env::var("KAFKA_BOOTSTRAP"), std::env::var("MILLSTREAM_PYTHON")) else {
        println!(
            "skipped: KAFKA_BOOTSTRAP names no server, or MILLSTREAM_PYTHON no interpreter with `confluent_kafka`"
        );
        return;
    };
    let prefix = unique();
    let site = Site::new(
        &format!(
            r#"
millstream: 1
name: {prefix}asked
broker: {{kafka: {{bootstrap.servers: "{servers}"}}}}
sources:
  readings:
    from: {{topic: {{name: {prefix}readings}}}}
    format: json
    columns: {{at: timestamp, sensor: text, heat: float, hot: bool}}
    event_time: {{column: at}}
models:
  hot: {{input: readings, label: hot, features: [heat], learner: logistic_regression}}
requests:
  questions:
    topic: {prefix}questions
    enters: readings
    model: hot
    answers: {{topic: {prefix}answers}}
    headers: [correlation-id]
    reply_to: [{prefix}replies]
"#
        ),
        &[],
    );
    let reading = |second: i64| {
        let heat = second * 7 % 40;
        message(None, json!({"at": NOW_MS + 1000 * second, "heat": heat, "hot": heat > 20}).to_string())
    };
    site.append(&format!("{prefix}readings"), &(0..200).map(reading).collect::<Vec<_>>());
    site.run();
    let options = Options { clock: Arc::new(SystemClock), ..site.options() };
    let output = site.while_running(options, |_| {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/kafka_client.py");
        let [questions, replies] = ["questions", "replies"].map(|name| format!("{prefix}{name}"));
        Command::new(python).args([script, &servers, &questions, &replies, "300"]).output().expect("it runs")
    });
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    print!("{}", String::from_utf8_lossy(&output.stdout));
    let answers = one_answer_each(&site.records(&format!("{prefix}questions")), &site.answers());
    assert_eq!(answers.len(), 300);
}
