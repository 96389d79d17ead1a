//! What the tests share: a pipeline on disk with its topics and runs, and one small pipeline with its input.

pub mod crash;
pub mod grpc;
pub mod http;
pub mod s3;
pub mod shop;
pub mod simulation;
pub mod small;

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use arrow::array::Array;
use millstream_connectors::broker::{Append, Broker, Fetched, Message, TopicReader};
use millstream_engine::Result;
use millstream_engine::book::Book;
use millstream_engine::raw::Payload;
use millstream_engine::source::Position;
use millstream_engine::time::{Clock, StepClock, SystemClock};
use millstream_pipelines::catalogue::Catalogue;
use millstream_pipelines::load;
use millstream_pipelines::plan::Pipeline;
use millstream_pipelines::run::assemble::{self, Topics};
use millstream_pipelines::run::{Options, Summary, open_broker, run};
use serde_json::Value;

/// Goes before names that no other run has used: a server may live on.
pub fn unique() -> String {
    static NAMES: AtomicU32 = AtomicU32::new(0);
    format!("t{}-{}-{}-", std::process::id(), SystemClock.now_ms(), NAMES.fetch_add(1, Ordering::Relaxed))
}

/// When the tests' clocks start: 2026-01-01, in milliseconds since 1970.
pub const NOW_MS: i64 = 1_767_225_600_000;

/// A definition in a folder of its own, with its state beside it.
pub struct Site {
    folder: PathBuf,
    /// The planned definition.
    pub pipeline: Pipeline,
    /// Removes the folder in the end, where the site made it.
    _temporary: Option<tempfile::TempDir>,
}

/// A run that goes on.
pub struct Running<'a> {
    /// Who listens, and where.
    pub listening: mpsc::Receiver<(String, SocketAddr)>,
    /// Whether it has ended of itself.
    pub has_ended: &'a dyn Fn() -> bool,
}

/// This program once more, of which only that test runs: what is killed, or told things in its environment.
pub fn again(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("tests know their program"));
    command.args([test, "--exact", "--nocapture"]);
    command
}

/// An address at which nobody listens.
pub fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port")
}

impl Site {
    /// A new folder with this definition and these files; panics with the report if the definition is bad.
    pub fn new(definition: &str, files: &[(&str, &[u8])]) -> Self {
        let temporary = tempfile::tempdir().expect("a folder for the test");
        for (name, content) in files {
            let path = temporary.path().join(name);
            fs::create_dir_all(path.parent().expect("below the folder")).expect("the folder can be written");
            fs::write(path, content).expect("the folder can be written");
        }
        fs::write(temporary.path().join("pipeline.yaml"), definition).expect("the folder can be written");
        let at = Self::at(temporary.path().to_owned());
        Self { _temporary: Some(temporary), ..at }
    }

    /// The site that another process has made.
    pub fn at(folder: PathBuf) -> Self {
        let pipeline = plan(&folder.join("pipeline.yaml"));
        Self { folder, pipeline, _temporary: None }
    }

    /// Replaces the definition; the state stays.
    pub fn redefine(&mut self, definition: &str) {
        let file = self.folder.join("pipeline.yaml");
        fs::write(&file, definition).expect("the folder can be written");
        self.pipeline = plan(&file);
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The state directory.
    pub fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// The broker of the definition, with the pipeline's topics created.
    pub fn broker(&self) -> Arc<dyn Broker> {
        fs::create_dir_all(self.state()).expect("the folder can be written");
        let broker = open_broker(&self.pipeline, &self.state()).expect("the broker opens");
        assemble::create_topics(&self.pipeline, &*broker).expect("topics can be created");
        broker
    }

    /// Appends to a topic, all at once.
    pub fn append(&self, topic: &str, messages: &[Message]) {
        append(&*self.broker(), topic, messages);
    }

    /// Runs until idle, on the definition's broker, with a clock of its own and in silence.
    pub fn options(&self) -> Options {
        Options {
            until_idle: true,
            quiet: true,
            workers: Some(2),
            clock: Arc::new(StepClock::new(NOW_MS, 1)),
            ..Options::new(self.state())
        }
    }

    /// Runs; the result is the test's matter.
    pub fn try_run(&self, options: &Options) -> Result<Summary> {
        run(&self.pipeline, options)
    }

    /// Runs with [`Site::options`].
    pub fn run(&self) -> Summary {
        self.run_with(&self.options())
    }

    /// Runs and must succeed.
    pub fn run_with(&self, options: &Options) -> Summary {
        self.try_run(options).unwrap_or_else(|fault| panic!("the run failed: {fault}"))
    }

    /// Runs without end, and does something meanwhile; then stops the run, which must end in peace.
    pub fn while_running<T>(&self, options: Options, act: impl FnOnce(&Running<'_>) -> T) -> T {
        let book = Arc::new(Book::default());
        let (tell, listening) = mpsc::channel();
        let endless = Options { until_idle: false, book: book.clone(), listening: Some(tell), ..options };
        std::thread::scope(|scope| {
            // Who listens is told no more once it has ended.
            let run = scope.spawn(move || self.try_run(&endless));
            let running = Running { listening, has_ended: &|| run.is_finished() };
            // A failed assertion must not leave the run going.
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| act(&running)));
            book.stop();
            run.join().expect("no panic").expect("it was stopped in peace");
            done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// All records of a topic, partition by partition.
    pub fn records(&self, topic: &str) -> Vec<Record> {
        records(&*self.broker(), topic)
    }

    /// All answers to the only requests of the definition.
    pub fn answers(&self) -> Vec<Record> {
        let [requests] = self.pipeline.requests.as_slice() else { panic!("one kind of requests") };
        self.records(&requests.answers)
    }

    /// All dead letters.
    pub fn dead_letters(&self) -> Vec<DeadLetter> {
        self.records(&Topics::of(&self.pipeline.name).dead).into_iter().map(DeadLetter::from).collect()
    }

    /// The progress records: one for each committed epoch.
    pub fn progress(&self) -> Vec<Value> {
        progress(&*self.broker(), &self.pipeline.name)
    }
}

/// A pipeline's progress records.
pub fn progress(broker: &dyn Broker, pipeline: &str) -> Vec<Value> {
    let journal = records(broker, &Topics::of(pipeline).progress);
    journal.iter().map(Record::json).filter(|record| record["kind"] == "progress").collect()
}

fn plan(file: &Path) -> Pipeline {
    match load(file, &Catalogue::shipped()) {
        Ok((pipeline, _)) => pipeline,
        Err(report) => panic!("{}", report.render(false)),
    }
}

/// A record as it lies in its topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its partition.
    pub partition: u32,
    /// Its offset.
    pub offset: u64,
    /// Its key, as text.
    pub key: Option<String>,
    /// Its value; empty for a tombstone.
    pub value: Vec<u8>,
    /// Its headers, as text.
    pub headers: BTreeMap<String, String>,
    /// Its timestamp.
    pub timestamp_ms: i64,
}

impl Record {
    /// The value, which must be JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.value).expect("the record is JSON")
    }
}

/// A dead letter's headers and raw bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeadLetter {
    /// The source's name.
    pub source: String,
    /// Where the record was in the source.
    pub partition: u32,
    /// Where the record was in the partition.
    pub offset: u64,
    /// `learn` or `serve`.
    pub lane: String,
    /// The step that could not take it.
    pub step: String,
    /// Why.
    pub reason: String,
    /// The record's bytes.
    pub raw: Vec<u8>,
}

impl From<Record> for DeadLetter {
    fn from(record: Record) -> Self {
        // Where it holds a row instead of a record, `content` says so.
        let names: Vec<&str> = record.headers.keys().map(String::as_str).filter(|name| *name != "content").collect();
        assert_eq!(names, ["lane", "offset", "partition", "reason", "source", "step"], "a dead letter's headers");
        let header = |name: &str| record.headers[name].clone();
        let number = |name: &str| header(name).parse().expect("a number");
        Self {
            source: header("source"),
            partition: number("partition") as u32,
            offset: number("offset"),
            lane: header("lane"),
            step: header("step"),
            reason: header("reason"),
            raw: record.value,
        }
    }
}

/// A message with a value and perhaps a key.
pub fn message(key: Option<&str>, value: impl Into<Vec<u8>>) -> Message {
    Message {
        key: key.map(|key| key.as_bytes().to_vec()),
        value: Some(value.into()),
        timestamp_ms: NOW_MS,
        ..Message::default()
    }
}

/// Appends messages to a topic, all at once.
pub fn append(broker: &dyn Broker, topic: &str, messages: &[Message]) {
    let appends = [Append { topic: topic.to_owned(), messages: messages.to_vec() }];
    broker.producer("test").and_then(|mut producer| producer.append(&appends)).expect("the topic takes them");
}

/// All records of a topic, partition by partition.
pub fn records(broker: &dyn Broker, topic: &str) -> Vec<Record> {
    let found = broker.topic(topic).expect("topics can be listed").unwrap_or_else(|| panic!("there is no `{topic}`"));
    let mut all = Vec::new();
    for (partition, (first, end)) in (0..).zip(&found.partitions) {
        let mut next = *first;
        let mut reader = broker.open(topic, &[Position { partition, offset: next }]).expect("the topic opens");
        let is_more = |reader: &mut dyn TopicReader, next| {
            let ends = reader.ends().expect("the end is known");
            ends.iter().any(|end| end.offset > next)
        };
        while next < *end && is_more(&mut *reader, next) {
            // What is left may be markers of transactions, which no record has; on Kafka only a read tells.
            let Some(fetched) = reader.read(1 << 20, Duration::from_secs(2)).expect("it can be read") else { break };
            next = fetched.records.offsets.last().map_or(next, |last| last + 1);
            all.extend(rows(&fetched));
        }
    }
    all
}

fn rows(fetched: &Fetched) -> Vec<Record> {
    let raw = &fetched.records;
    let Payload::Bytes(values) = &raw.payload else { panic!("topics hold bytes") };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let row = |at: usize| Record {
        partition: raw.partition,
        offset: raw.offsets[at],
        key: raw.keys.as_ref().filter(|keys| keys.is_valid(at)).map(|keys| text(keys.value(at))),
        value: if values.is_valid(at) { values.value(at).to_vec() } else { Vec::new() },
        headers: fetched
            .headers
            .get(at)
            .into_iter()
            .flatten()
            .map(|(name, value)| (name.clone(), text(value)))
            .collect(),
        timestamp_ms: raw.timestamps[at],
    };
    (0..raw.len()).map(row).collect()
}

/// Each request has exactly one answer, in its own partition and under its own key; gives the answers.
pub fn one_answer_each(requests: &[Record], answers: &[Record]) -> Vec<Value> {
    let asked: Vec<_> =
        requests.iter().map(|request| (request.partition, request.offset, request.key.clone())).collect();
    let values: Vec<Value> = answers.iter().map(Record::json).collect();
    let answered = values.iter().zip(answers).map(|(value, record)| {
        let request = &value["request"];
        let number = |name: &str| request[name].as_u64().expect("a number");
        assert_eq!(request["key"].as_str(), record.key.as_deref(), "an answer's key is its request's");
        assert_eq!(number("partition") as u32, record.partition, "an answer is in its request's partition");
        (number("partition") as u32, number("offset"), record.key.clone())
    });
    let mut answered: Vec<_> = answered.collect();
    answered.sort();
    assert_eq!(answered, asked, "each request is answered once");
    values
}
