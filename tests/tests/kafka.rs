//! The small pipeline on a Kafka server gives what it gives on the embedded broker.
//!
//! `.ci/with-kafka cargo test -p millstream-tests --test kafka` runs it against a server.

use millstream_pipelines::run::{Checkpointing, Options, Summary};
use millstream_tests::small;
use millstream_tests::{DeadLetter, Site, one_answer_each, unique};
use serde_json::Value;

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
