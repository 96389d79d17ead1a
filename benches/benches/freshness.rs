//! How long it takes from a labelled record entering its topic until an answer leaves that has learned it, while ten thousand
//! records a second come in.
//!
//!     cargo bench -p millstream-benches --bench freshness [-- SECONDS]
//!
//! In the process, on the embedded broker; and on a Kafka-protocol server where `KAFKA_BOOTSTRAP` names one
//! (`.ci/with-kafka cargo bench …`). A question is asked every two milliseconds; every append of records is timed from before it until
//! the first answer that says it had learned through it can be read. So a part of the time is that until the next question.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use millstream_benches::flights::options;
use millstream_benches::table::{Table, thousands};
use millstream_benches::{cpu_seconds, quantile};
use millstream_connectors::broker::{Append, Broker, Message};
use millstream_engine::book::Book;
use millstream_engine::raw::Payload;
use millstream_engine::source::Position;
use millstream_engine::time::Stopwatch;
use millstream_pipelines::catalogue::Catalogue;
use millstream_pipelines::plan::Pipeline;
use millstream_pipelines::run::{Options, run};

const RECORDS_PER_SECOND: usize = 10_000;
/// Between two appends of records, and between two questions.
const TICK: Duration = Duration::from_millis(2);
/// What is not timed: the pipeline starts, and finds its pace.
const WARM_UP_SECONDS: f64 = 2.0;

const DEFINITION: &str = r"
millstream: 1
name: NAME
broker: BROKER
sources:
  rows:
    from: {topic: {name: NAME-rows}}
    format: json
    columns: {a: float, b: float, c: float, d: float, e: float, f: float, g: float, h: float, y: bool}
streams:
  clean:
    input: rows
    steps:
      - standardise: {columns: [a, b, c, d, e, f, g, h]}
models:
  line: {input: clean, label: y, features: [a, b, c, d, e, f, g, h], learner: logistic_regression}
requests:
  questions: {topic: NAME-questions, enters: rows, model: line, answers: {topic: NAME-answers}}
";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let seconds = arguments.first().map_or(10.0, |seconds| seconds.parse().expect("seconds"));
    let mut table = Table::new(&["broker", "workers", "records/s", "CPU s a s", "median ms", "p90", "p99", "max"]);
    let mut brokers = vec![("embedded", "embedded".to_owned())];
    if let Ok(servers) = std::env::var("KAFKA_BOOTSTRAP") {
        brokers.push(("Kafka protocol", format!("{{kafka: {{bootstrap.servers: \"{servers}\"}}}}")));
    }
    for (called, broker) in brokers {
        for workers in [1, 2] {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
            let text = DEFINITION.replace("NAME", &format!("fresh-{now}")).replace("BROKER", &broker);
            let pipeline = plan(folder.path(), &text);
            let mut found = measure(&pipeline, &folder.path().join("state"), workers, seconds);
            let quantiles =
                [0.5, 0.9, 0.99, 1.0].map(|share| format!("{:.1}", quantile(&mut found.seconds, share) * 1e3));
            let rate = thousands(found.records as f64 / seconds);
            let cpu = format!("{:.2}", found.cpu / seconds);
            table.row([called.to_owned(), workers.to_string(), rate, cpu].into_iter().chain(quantiles));
        }
    }
    table.print("From before a record's append until the first answer that has learned it");
}

fn plan(folder: &Path, text: &str) -> Pipeline {
    let path = folder.join("fresh.yaml");
    std::fs::write(&path, text).expect("a folder that can be written");
    let loaded = millstream_pipelines::load(&path, &Catalogue::shipped()).ok();
    loaded.unwrap_or_else(|| panic!("`millstream check` tells what is wrong with {}", path.display())).0
}

/// What was found.
struct Found {
    seconds: Vec<f64>,
    records: usize,
    cpu: f64,
}

/// What the three threads around the pipeline share.
struct Shared {
    watch: Stopwatch,
    stop: AtomicBool,
    /// Of each append that no answer has learned yet: when it began, and the offset after it.
    appended: Mutex<Vec<(f64, u64)>>,
}

fn measure(pipeline: &Pipeline, state: &Path, workers: usize, seconds: f64) -> Found {
    std::fs::create_dir_all(state).expect("a folder that can be written");
    let broker = pipeline.broker.open(state).expect("the broker opens");
    for (topic, partitions) in &pipeline.topics {
        broker.create(topic, *partitions).expect("a topic");
    }
    let book = Arc::new(Book::default());
    let options = Options { book: book.clone(), ..options(state, workers, Some(broker.clone())) };
    let shared = Shared { watch: Stopwatch::start(), stop: AtomicBool::new(false), appended: Mutex::new(Vec::new()) };
    let name = &pipeline.name;
    std::thread::scope(|scope| {
        let running =
            scope.spawn(|| run(pipeline, &options).unwrap_or_else(|fault| panic!("the run goes well: {fault}")));
        let feeding = scope.spawn(|| feed(&*broker, &format!("{name}-rows"), &shared));
        scope.spawn(|| ask(&*broker, &format!("{name}-questions"), &shared));
        let listening = scope.spawn(|| listen(&*broker, &format!("{name}-answers"), &shared));
        std::thread::sleep(Duration::from_secs_f64(WARM_UP_SECONDS));
        let before = cpu_seconds();
        std::thread::sleep(Duration::from_secs_f64(seconds));
        let cpu = cpu_seconds() - before;
        shared.stop.store(true, Ordering::SeqCst);
        let records = feeding.join().expect("records were fed");
        let mut samples = listening.join().expect("answers were read");
        book.stop();
        running.join().expect("the run ends well");
        samples.retain(|(began, _)| *began > WARM_UP_SECONDS);
        let in_time = |(began, _): &&(f64, u64)| *began > WARM_UP_SECONDS;
        let unlearned = shared.appended.lock().expect("no thread has panicked").iter().filter(in_time).count();
        assert!(samples.len() > 100 && unlearned < samples.len() / 10, "{unlearned} of {} unlearned", samples.len());
        let seconds = samples.iter().map(|(_, took)| *took).collect();
        Found { seconds, records: (records as f64 * seconds_share(&shared)) as usize, cpu }
    })
}

/// Which share of the time is that after the warm-up.
fn seconds_share(shared: &Shared) -> f64 {
    1.0 - WARM_UP_SECONDS / shared.watch.seconds()
}

fn message(text: String) -> Message {
    let timestamp_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64);
    Message { value: Some(text.into_bytes()), timestamp_ms, ..Message::default() }
}

/// Appends records at the pace that is wanted; how many.
fn feed(broker: &dyn Broker, topic: &str, shared: &Shared) -> usize {
    let mut producer = broker.producer("bench-rows").expect("a producer");
    let (mut count, mut random) = (0, 1_u64);
    let mut number = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 40) as f64 / f64::from(1 << 24) - 0.5
    };
    while !shared.stop.load(Ordering::SeqCst) {
        let due = (shared.watch.seconds() * RECORDS_PER_SECOND as f64) as usize;
        let row = |number: &mut dyn FnMut() -> f64| {
            let x: [f64; 8] = std::array::from_fn(|_| number());
            let columns: Vec<String> = ["a", "b", "c", "d", "e", "f", "g", "h"]
                .iter()
                .zip(x)
                .map(|(name, x)| format!("\"{name}\":{x:.4}"))
                .collect();
            message(format!("{{{},\"y\":{}}}", columns.join(","), x[0] + x[1] > 0.0))
        };
        let messages: Vec<Message> = (count..due).map(|_| row(&mut number)).collect();
        if !messages.is_empty() {
            let began = shared.watch.seconds();
            count += messages.len();
            shared.appended.lock().expect("no thread has panicked").push((began, count as u64));
            producer.append(&[Append { topic: topic.to_owned(), messages }]).expect("a broker");
        }
        std::thread::sleep(TICK);
    }
    count
}

fn ask(broker: &dyn Broker, topic: &str, shared: &Shared) {
    let mut producer = broker.producer("bench-questions").expect("a producer");
    let text = r#"{"a":0.1,"b":0.2,"c":0,"d":0,"e":0,"f":0,"g":0,"h":0}"#;
    while !shared.stop.load(Ordering::SeqCst) {
        let append = Append { topic: topic.to_owned(), messages: vec![message(text.to_owned())] };
        producer.append(&[append]).expect("a broker");
        std::thread::sleep(TICK);
    }
}

/// Reads answers; when each append began, and how many seconds later an answer had learned it.
fn listen(broker: &dyn Broker, topic: &str, shared: &Shared) -> Vec<(f64, f64)> {
    let mut answers = broker.open(topic, &[Position { partition: 0, offset: 0 }]).expect("a topic that is there");
    let mut samples = Vec::new();
    while !shared.stop.load(Ordering::SeqCst) {
        let Some(read) = answers.read(1000, Duration::from_millis(100)).expect("a broker") else { continue };
        let now = shared.watch.seconds();
        let Payload::Bytes(values) = &read.records.payload else { unreachable!("topics hold bytes") };
        for value in values.iter().flatten() {
            let answer: serde_json::Value = serde_json::from_slice(value).expect("answers are JSON");
            let offsets = answer["learned_through"]["offsets"].as_object();
            let learned = offsets.and_then(|offsets| offsets.values().next()?.as_u64()).unwrap_or(0);
            shared.appended.lock().expect("no thread has panicked").retain(|(began, end)| {
                if *end <= learned {
                    samples.push((*began, now - began));
                }
                *end > learned
            });
        }
    }
    samples
}
