//! Whatever ends a run, the next one goes on with the same models, and no answer is lost or given twice.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use millstream_connectors::broker::embedded::Embedded;
use millstream_connectors::broker::{Broker, Message};
use millstream_engine::Blame;
use millstream_engine::book::Book;
use millstream_engine::source::Position;
use millstream_pipelines::run::assemble::{self, Topics};
use millstream_pipelines::run::{Options, Summary};
use millstream_tests::small::{self, Random};
use millstream_tests::{Record, Site, append, message, one_answer_each, progress, records};

/// Names the folder of the site that a child process is to run.
const CHILD: &str = "MILLSTREAM_TEST_CHILD";
const SEED: u64 = 20_260_101;
const KILLS: usize = 10;
const SECONDS: u64 = 150;

fn fed_site() -> Site {
    let definition = small::definition("embedded", "") + small::FEEDS;
    let files = small::files(SEED, SECONDS);
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, content)| (*name, content.as_slice())).collect();
    Site::new(&definition, &files)
}

/// Small epochs, so that there are many moments to be killed at.
fn small_epochs(site: &Site) -> Options {
    Options { max_records: Some(5), ..site.options() }
}

/// Not a test of its own: what the child processes of the others run.
#[test]
fn child() {
    if let Some(folder) = std::env::var_os(CHILD) {
        let site = Site::at(PathBuf::from(folder));
        site.run_with(&small_epochs(&site));
    }
}

fn start_child(site: &Site) -> Child {
    let program = std::env::current_exe().expect("tests know their program");
    let mut command = Command::new(program);
    command.args(["child", "--exact"]).env(CHILD, site.folder());
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts again")
}

/// How many epochs are committed.
fn committed(broker: &dyn Broker) -> u64 {
    progress(broker, "small").len() as u64
}

/// Waits until `epochs` are committed, or the child has ended by itself. Whether it has.
fn wait_for(child: &mut Child, broker: &dyn Broker, epochs: u64) -> bool {
    let journal = Topics::of("small").progress;
    let end = broker.topic(&journal).expect("topics can be listed").expect("it was created").partitions[0].1;
    let mut reader = broker.open(&journal, &[Position { partition: 0, offset: end }]).expect("the topic opens");
    while committed(broker) < epochs {
        if let Some(status) = child.try_wait().expect("it is our child") {
            assert!(status.success(), "the child failed: {status}");
            return true;
        }
        // Returns with the next commit, or soon.
        reader.read(1, Duration::from_millis(5)).expect("the topic can be read");
    }
    false
}

fn digests(summary: &Summary) -> BTreeMap<&str, (u64, &str)> {
    summary.models.iter().map(|(name, model)| (name.as_str(), (model.revision, model.digest.as_str()))).collect()
}

/// Records without their places, which depend on what else was going on.
fn contents(records: Vec<Record>) -> Vec<(Option<String>, Vec<u8>)> {
    let mut contents: Vec<_> = records.into_iter().map(|record| (record.key, record.value)).collect();
    contents.sort();
    contents
}

#[test]
fn killed_at_any_moment_it_goes_on_as_if_nothing_had_happened() {
    let whole = fed_site();
    let expected = whole.run();
    let site = fed_site();
    let broker = site.broker();
    let mut random = Random::new(SEED);
    let mut kills = Vec::new();
    while kills.len() < KILLS {
        let more = random.below(14);
        let mut child = start_child(&site);
        let ended = wait_for(&mut child, &*broker, committed(&*broker) + more);
        assert!(!ended, "the input is too short for {KILLS} kills: seed {SEED}, after {kills:?}");
        child.kill().expect("it is our child");
        child.wait().expect("it is our child");
        kills.push(committed(&*broker));
    }
    println!("seed {SEED}: killed after {kills:?} epochs");
    assert!(kills.windows(2).all(|pair| pair[0] <= pair[1]) && kills[KILLS - 1] > 10, "{kills:?}");

    let last = site.run_with(&small_epochs(&site));
    assert_eq!(last.epochs_replayed, kills[KILLS - 1]);
    assert_eq!(digests(&last), digests(&expected), "seed {SEED}, killed after {kills:?}");
    for topic in ["weather", "readings", "questions"] {
        assert_eq!(site.records(topic), whole.records(topic), "the feeds went on exactly: {topic}");
    }
    assert_eq!(last.records, expected.records);
    let answers = one_answer_each(&site.records("questions"), &site.answers());
    let refused: Vec<_> = answers.iter().filter(|answer| answer.get("error").is_some()).collect();
    assert!(refused.is_empty(), "all can be answered: {refused:?}");
    assert_eq!(contents(site.records("rows")), contents(whole.records("rows")), "the sink has each row once");
    let epochs: Vec<u64> =
        site.progress().iter().map(|progress| progress["binding"]["epoch"].as_u64().expect("a number")).collect();
    assert!(epochs.iter().copied().eq(0..epochs.len() as u64), "epochs follow one another: {epochs:?}");

    // What was committed is what a replay reaches; it says so itself if not.
    let answers = site.answers();
    let replayed = site.run_with(&small_epochs(&site));
    assert_eq!((replayed.epochs, replayed.epochs_replayed), (0, epochs.len() as u64));
    assert_eq!((digests(&replayed), replayed.answers), (digests(&expected), last.answers));
    assert_eq!(site.answers(), answers, "a replay answers nothing again");
}

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

#[test]
fn a_changed_definition_is_refused() {
    let mut site = learned_site();
    let definition = small::definition("embedded", "");
    site.redefine(&definition.replace("buckets: 16", "buckets: 32"));
    let fault = site.try_run(&site.options()).expect_err("another definition");
    assert_eq!(fault.blame, Blame::Definition);
    assert_eq!(
        fault.message,
        "the definition has changed since its last run, and what its models learned cannot be rebuilt with the new one; \
         restore it, or start anew with another --state (and other topics, if they are on Kafka)"
    );
    // Comments and blanks are no change.
    site.redefine(&definition.replace("models:", "# What learns.\n\nmodels:"));
    assert_eq!(site.run().epochs, 0);
}

#[test]
fn a_second_run_at_once_is_refused() {
    let site = learned_site();
    let book = Arc::new(Book::default());
    let endless = Options { until_idle: false, book: book.clone(), ..site.options() };
    std::thread::scope(|scope| {
        let first = scope.spawn(|| site.try_run(&endless));
        let broker = site.broker();
        let mut reader = broker.open("answers", &[Position { partition: 0, offset: 0 }]).expect("the topic opens");
        append(&*broker, "questions", &[Message { partition: Some(0), ..message(None, "{}") }]);
        while reader.read(1, Duration::from_secs(1)).expect("the topic can be read").is_none() {
            assert!(!first.is_finished(), "the first run has ended");
        }
        let fault = site.try_run(&site.options()).map(drop).expect_err("two runs in one state directory");
        let place = site.state();
        let message = format!(
            "another run uses the state directory {}; stop it, or choose another with --state",
            place.display()
        );
        assert_eq!((fault.blame, fault.message), (Blame::World, message));
        book.stop();
        first.join().expect("no panic").expect("it was stopped in peace");
    });
    assert_eq!(site.answers().len(), 1);
}

/// Runs with a log that `change` has made of the readings; gives why that is refused.
fn refusal(change: impl FnOnce(Vec<Message>) -> Vec<Message>) -> String {
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
    let options = Options { broker: Some(Arc::new(broker)), ..site.options() };
    site.try_run(&options).map(drop).expect_err("another log").message
}

#[test]
fn an_altered_log_halts_and_names_the_offsets() {
    // How the run cut its epochs is its own matter.
    let differs = |text: &str| {
        let (what, place) = text.split_once(" was made of: readings/").unwrap_or_default();
        what.starts_with("the log no longer holds what epoch ") && place.contains(" offsets 0 to ")
    };
    let altered = refusal(|mut messages| {
        let value = messages[3].value.as_mut().expect("no tombstone");
        *value.last_mut().expect("not empty") = b' ';
        messages
    });
    assert!(differs(&altered), "{altered}");
    let shorter = refusal(|messages| messages[..messages.len() / 3].to_vec());
    assert!(differs(&shorter), "{shorter}");
    let anew = refusal(|_| Vec::new());
    assert!(differs(&anew), "{anew}");
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
    let replayed = site.run();
    assert_eq!((replayed.epochs, replayed.records), (0, 28));
    assert_eq!(replayed.models["odd"].digest, digest);
}

#[test]
fn retention_that_has_passed_halts_and_names_the_offset() {
    let site = learned_site();
    let broker = Embedded::open(&site.state()).expect("it exists");
    broker.discard("readings", &[Position { partition: 1, offset: 2 }]).expect("there are more");
    let fault = site.try_run(&site.options()).map(drop).expect_err("what was learned is gone");
    let expected = "cannot read topic `readings` partition 1 from offset 0: the first offset that is kept is 2";
    assert!(fault.message.contains(expected), "{}", fault.message);
}
