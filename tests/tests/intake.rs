//! Records that are posted are learned from, and a restart replays them although nobody posts them again.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use millstream_engine::source::Position;
use millstream_pipelines::run::{Checkpointing, Options};
use millstream_tests::http::call;
use millstream_tests::{NOW_MS, Site, append, message, one_answer_each};
use serde_json::json;

const DEFINITION: &str = r#"
millstream: 1
name: posted
sources:
  readings:
    from: {http: {listen: "127.0.0.1:0", path: /readings, partitions: 2}}
    format: json
    columns: {at: timestamp, sensor: text, heat: float, hot: bool}
    event_time: {column: at, lateness_seconds: 5}
    idle_seconds: 1000000
streams:
  known:
    input: readings
    steps:
      - require: {that: "hot is not null", otherwise: drop, lanes: learn}
      - standardise: {columns: [heat]}
models:
  hot: {input: known, label: hot, features: [heat], learner: logistic_regression}
requests:
  questions: {topic: questions, enters: readings, model: hot, answers: {topic: answers}}
"#;

/// Posts a record a line; gives the status.
fn post(address: SocketAddr, key: &str, lines: &str) -> String {
    let headers = ["Content-Type: application/x-ndjson", &format!("X-Key: {key}")];
    call(address, "POST /readings", &headers, lines.as_bytes()).status.to_string()
}

fn reading(second: i64, sensor: &str, heat: u32) -> String {
    let at = NOW_MS + 1000 * second;
    format!("{}\n", json!({"at": at, "sensor": sensor, "heat": heat, "hot": heat > 20}))
}

#[test]
fn what_is_posted_is_learned_and_replayed() {
    let site = Site::new(DEFINITION, &[]);
    let address = site.while_running(site.options(), |running| {
        let (source, address) = running.listening.recv().expect("it listens");
        assert_eq!(source, "readings");
        // Their keys lie in both partitions.
        for batch in 0..20 {
            for sensor in ["a", "d", "f"] {
                let readings = (0..5).map(|second| reading(batch * 5 + second, sensor, (batch as u32 * 7 + 3) % 40));
                assert_eq!(post(address, sensor, &readings.collect::<String>()), "202");
            }
        }
        let broker = site.broker();
        append(&*broker, "questions", &[message(Some("q"), reading(100, "a", 30))]);
        let mut reader = broker.open("answers", &[Position { partition: 0, offset: 0 }]).expect("the topic opens");
        while reader.read(1, Duration::from_secs(1)).expect("it can be read").is_none() {
            assert!(!(running.has_ended)(), "the run has ended");
        }
        // What is kept when the run ends is learned by the next one.
        assert_eq!(post(address, "a", &reading(200, "a", 1)), "202");
        address
    });
    assert!(TcpStream::connect(address).is_err(), "nobody listens any more");
    let kept = site.records("posted.readings");
    assert_eq!(kept.len(), 301);
    assert!(kept.iter().any(|record| record.partition == 1) && kept.iter().any(|record| record.partition == 0));
    let answers = one_answer_each(&site.records("questions"), &site.answers());
    assert_eq!(answers[0]["request"]["key"], "q");

    // Nobody posts again: the topic has it all.
    let from_log = || site.run_with(&Options { checkpoints: Checkpointing::Off, ..site.options() });
    let replayed = from_log();
    assert!(replayed.epochs_replayed > 0);
    assert_eq!(replayed.records_by_source["readings"], 301);
    let again = from_log();
    assert_eq!((again.epochs, again.epochs_replayed), (0, replayed.epochs + replayed.epochs_replayed));
    assert_eq!(again.models["hot"].digest, replayed.models["hot"].digest);
    assert_eq!(again.models["hot"].revision, replayed.models["hot"].revision);
    assert_eq!(site.answers().len(), 1);
    assert_eq!(site.dead_letters(), []);
}
