//! What a run finds that starts again, and when it refuses to go on.

use std::sync::Arc;
use std::time::Duration;

use millstream_connectors::broker::Message;
use millstream_connectors::broker::embedded::Embedded;
use millstream_engine::Blame;
use millstream_engine::source::Position;
use millstream_pipelines::run::assemble;
use millstream_pipelines::run::{Checkpointing, Options};
use millstream_tests::small;
use millstream_tests::{Record, Site, append, message, records};

const SEED: u64 = 20_260_101;

/// A site that has learned, and answered some questions.
fn learned_site() -> Site {
    let site = Site::new(&small::definition("embedded", ""), &[]);
    let input = small::input(SEED, 0, 60);
    site.append("weather", &input.weather);
    site.append("readings", &input.readings);
    site.run();
    site
}

const SKEWED: &str = r#"
millstream: 1
name: skewed
epochs: {max_bytes: 1000000}
sources:
  lines: {from: {topic: {name: lines, partitions: 2}}, format: raw, columns: {value: text}}
streams:
  sized:
    input: lines
    steps:
      - derive: {size: "cast(character_length(value) as double)", odd: "value like '1%'"}
      - select: {columns: [size, odd]}
models:
  odd: {input: sized, label: odd, features: [size], learner: logistic_regression}
"#;

/// The rows are long, so that the readers have been at the end of an empty topic for a while before the only append.
#[test]
fn a_run_until_idle_takes_what_its_feeds_append_last() {
    let mut lines = "at,value\n".to_owned();
    for number in 0..1000 {
        lines.extend([&number.to_string(), ",", &"1".repeat(10_000), "\n"]);
    }
    let site = Site::new(FED, &[("lines.csv", lines.as_bytes())]);
    assert_eq!(site.run().records, 1000);
}

const FED: &str = "
millstream: 1
name: fed
feeds:
  lines: {from: {file: {path: lines.csv}}, format: csv, time: at, topic: lines}
sources:
  lines: {from: {topic: {name: lines}}, format: json, columns: {at: timestamp, value: text}}
sinks:
  lines: {from: lines, to: {topic: {name: copies}}}
";

/// Replays everything.
fn from_the_log(site: &Site) -> Options {
    Options { checkpoints: Checkpointing::Off, ..site.options() }
}

#[test]
fn a_changed_definition_is_rebuilt_from_the_log_or_refused() {
    let mut site = learned_site();
    let definition = small::definition("embedded", "");
    let epochs = site.progress().len() as u64;
    // Comments and blanks are no change.
    site.redefine(&definition.replace("models:", "# What learns.\n\nmodels:"));
    assert_eq!(site.run().epochs_replayed, 0);
    site.redefine(&definition.replace("buckets: 16", "buckets: 32"));
    assert_eq!(site.run().epochs_replayed, epochs, "all is made again");
    let broker = Embedded::open(&site.state()).expect("it exists");
    broker.discard("readings", &[Position { partition: 1, offset: 2 }]).expect("there are more");
    site.redefine(&definition.replace("buckets: 16", "buckets: 64"));
    let fault = site.try_run(&site.options()).map(drop).expect_err("another definition");
    assert_eq!(fault.blame, Blame::Definition);
    let expected = "the definition has changed, and the log no longer holds what it takes to rebuild ";
    assert!(fault.message.starts_with(expected), "{fault}");
}

const SEEN: &str = "
millstream: 1
name: seen
workers: 3
sources:
  readings: {from: {topic: {name: readings, partitions: 2}}, format: json, columns: {sensor: int, count: int, x: float}}
streams:
  known:
    input: readings
    steps:
      - deduplicate: {by: [sensor, count], within_seconds: 1000000}
      - impute: {columns: [x], with: last, by: [sensor]}
sinks:
  rows: {from: known, to: {topic: {name: rows}}}
";

/// What the steps after it are says which worker has a key's state: see `Graph::spread`.
#[test]
fn state_is_found_also_where_other_steps_follow() {
    let steps = ["      - impute: {columns: [x], with: last, by: [sensor]}\n", ""];
    for (before, after) in [(steps[0], steps[1]), (steps[0], steps[0]), (steps[1], steps[1])] {
        let mut site = Site::new(&SEEN.replace(steps[0], before), &[]);
        let record = |number: u64| format!("{{\"sensor\": {}, \"count\": {number}, \"x\": 1}}", number % 7);
        let all: Vec<Message> = (0..100).map(|number| message(None, record(number))).collect();
        site.append("readings", &all);
        site.run();
        site.redefine(&SEEN.replace(steps[0], after));
        site.append("readings", &all);
        site.append("readings", &[message(None, record(100))]);
        assert_eq!(site.run().epochs_replayed, 0, "all state is kept");
        assert_eq!(site.records("rows").len(), 101);
    }
}

#[test]
fn a_second_run_at_once_is_refused() {
    let site = learned_site();
    site.while_running(site.options(), |first| {
        let broker = site.broker();
        let mut reader = broker.open("answers", &[Position { partition: 0, offset: 0 }]).expect("the topic opens");
        append(&*broker, "questions", &[Message { partition: Some(0), ..message(None, "{}") }]);
        while reader.read(1, Duration::from_secs(1)).expect("the topic can be read").is_none() {
            assert!(!(first.has_ended)(), "the first run has ended");
        }
        let fault = site.try_run(&site.options()).map(drop).expect_err("two runs in one state directory");
        let place = site.state();
        let message = format!(
            "another run uses the state directory {}; stop it, or choose another with --state",
            place.display()
        );
        assert_eq!((fault.blame, fault.message), (Blame::World, message));
    });
    assert_eq!(site.answers().len(), 1);
}

/// Runs with a log that `change` has made of the readings; gives why that is refused.
fn refusal(options: impl FnOnce(&Site) -> Options, change: impl FnOnce(Vec<Message>) -> Vec<Message>) -> String {
    let site = learned_site();
    let original = site.broker();
    let folder = tempfile::tempdir().expect("a folder for the test");
    let broker = Embedded::open(folder.path()).expect("the folder is new");
    assemble::create_topics(&site.pipeline, &broker).expect("topics can be created");
    let copy = |topic: &str| -> Vec<Message> {
        let message = |record: Record| Message {
            key: record.key.map(String::into_bytes),
            value: Some(record.value),
            partition: Some(record.partition),
            ..message(None, "")
        };
        records(&*original, topic).into_iter().map(message).collect()
    };
    for topic in ["weather", "small.progress"] {
        append(&broker, topic, &copy(topic));
    }
    append(&broker, "readings", &change(copy("readings")));
    let options = Options { broker: Some(Arc::new(broker)), ..options(&site) };
    site.try_run(&options).map(drop).expect_err("another log").message
}

#[test]
fn an_altered_log_halts_and_names_the_offsets() {
    // How the run cut its epochs is its own matter.
    let differs = |text: &str| {
        let (what, place) = text.split_once(" was made of: readings/").unwrap_or_default();
        what.starts_with("the log no longer holds what epoch ") && place.contains(" offsets 0 to ")
    };
    let altered = refusal(from_the_log, |mut messages| {
        let value = messages[3].value.as_mut().expect("no tombstone");
        *value.last_mut().expect("not empty") = b' ';
        messages
    });
    assert!(differs(&altered), "{altered}");
    let shorter = refusal(from_the_log, |messages| messages[..messages.len() / 3].to_vec());
    assert!(differs(&shorter), "{shorter}");
    let anew = refusal(from_the_log, |_| Vec::new());
    assert!(differs(&anew), "{anew}");
}

/// What a checkpoint holds is not read again; but what comes next must.
#[test]
fn a_log_that_ends_before_the_checkpoint_halts() {
    for kept in [0, 10] {
        let shorter = refusal(Site::options, |messages| messages[..kept].to_vec());
        assert!(shorter.starts_with("source readings: cannot read topic `readings` partition "), "{shorter}");
        assert!(shorter.contains(": the log ends at offset "), "{shorter}");
    }
}

#[test]
fn an_untouched_copy_of_the_log_is_as_good() {
    let site = learned_site();
    let broker = Embedded::open(&site.state()).expect("it exists");
    let summary = site.run_with(&Options { broker: Some(Arc::new(broker)), ..site.options() });
    assert_eq!(summary.epochs, 0);
}

/// Much in one partition, then much in the other: a reader that takes turns comes upon them in another order.
#[test]
fn partitions_that_were_filled_one_after_the_other_replay() {
    let site = Site::new(SKEWED, &[]);
    let mut digest = String::new();
    for partition in [0, 1] {
        // More than the intake holds for a source.
        let line = |number: u32| (number % 2).to_string().repeat(1 << 20);
        let lines = |number| Message { partition: Some(partition), ..message(None, line(number)) };
        site.append("lines", &(0..14).map(lines).collect::<Vec<_>>());
        digest.clone_from(&site.run().models["odd"].digest);
    }
    let replayed = site.run_with(&from_the_log(&site));
    assert_eq!((replayed.epochs, replayed.records), (0, 28));
    assert_eq!(replayed.models["odd"].digest, digest);
}

#[test]
fn retention_that_has_passed_halts_and_names_the_offset() {
    let site = learned_site();
    let broker = Embedded::open(&site.state()).expect("it exists");
    broker.discard("readings", &[Position { partition: 1, offset: 2 }]).expect("there are more");
    let fault = site.try_run(&from_the_log(&site)).map(drop).expect_err("what was learned is gone");
    let expected = "cannot read topic `readings` partition 1 from offset 0: the first offset that is kept is 2";
    assert!(fault.message.contains(expected), "{}", fault.message);
}
