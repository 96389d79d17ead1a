//! How many requests are answered a second, and how soon: logistic regression on 39 features, through a topic and over HTTP, while the
//! model goes on learning and is promoted.
//!
//!     cargo bench -p millstream-benches --bench serving [-- SECONDS [NAME…]]
//!
//! Names choose among what is measured: `topic`, `http`, `more`, `switch`, `slow`, `overload`, `peers`.
//!
//! Where `SERVING_PEER_PYTHON` names a Python interpreter with what `peers/serving_onnxruntime.txt` lists, and `SERVING_MLSERVER_PYTHON` one with what
//! `peers/serving_mlserver.txt` lists, a network and a forest are also served by ONNX Runtime behind uvicorn and in `MLServer`, from the
//! files that their versions hold, and asked by the same clients.
//!
//! Requests come at a fixed pace, whether or not earlier ones are answered; each is timed from the moment at which it was due. Whoever
//! asks runs on the same cores.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use millstream_benches::flights::options;
use millstream_benches::table::{Table, thousands};
use millstream_benches::{cpu_seconds, quantile, thread_cpu_seconds};
use millstream_connectors::broker::{Append, Broker, Message};
use millstream_engine::book::Book;
use millstream_engine::raw::Payload;
use millstream_engine::source::Position;
use millstream_pipelines::catalogue::Catalogue;
use millstream_pipelines::plan::Pipeline;
use millstream_pipelines::run::{Options, Summary, run};

mod client;
mod peer;

use client::{Asked, CATEGORIES, NUMBERS, Random, ask_http};

/// Requests a second and connections, by what it is called: in an argument, and in the table.
const CASES: [(&str, &str, f64, usize); 6] = [
    ("topic", "topic", 20_000.0, 0),
    ("http", "HTTP", 7_500.0, 256),
    ("more", "HTTP", 10_000.0, 256),
    ("switch", "HTTP, between two models", 10_000.0, 256),
    ("slow", "HTTP, beside 1,000 slow", 7_500.0, 256),
    ("overload", "HTTP, overload", 30_000.0, 256),
];
/// Between two appends of labelled rows, and of questions to the topic.
const ROWS_TICK: Duration = Duration::from_millis(10);
const TICK: Duration = Duration::from_millis(2);
/// Labelled rows: those that are there at first, and how many come in a second.
const LEARNED: usize = 20_000;
const ROWS_PER_SECOND: usize = 1000;
const WARM_UP_SECONDS: f64 = 2.0;
/// An answer that takes longer is late.
const LATE_SECONDS: f64 = 0.05;
/// How often labels become their opposite where requests go from model to model: what has learned them is left, and learns again.
const TURN_SECONDS: f64 = 3.0;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let names = arguments.get(1..).unwrap_or_default();
    let is_chosen = |name: &str| names.is_empty() || names.iter().any(|chosen| chosen == name);
    if is_chosen("peers") {
        peer::compare();
    }
    let seconds = arguments.first().map_or(10.0, |seconds| seconds.parse().expect("seconds"));
    let mut table = Table::new(&[
        "requests",
        "asked /s",
        "answered /s",
        "refused /s",
        "lost",
        "median ms",
        "p99 ms",
        "max ms",
        "over 50 ms",
        "refusal p99 ms",
        "promotions",
        "switches",
        "CPU s a s",
        "ours, us a request",
        "epochs /s",
    ]);
    for (name, called, rate, connections) in CASES.into_iter().filter(|(name, ..)| is_chosen(name)) {
        let found = measure(name, rate, connections, seconds);
        let (mut took, mut refused): (Vec<f64>, Vec<f64>) = (Vec::new(), Vec::new());
        for (seconds, status) in &found.samples {
            if *status == 200 { &mut took } else { &mut refused }.push(*seconds);
        }
        let ms = |samples: &mut [f64], share: f64| {
            if samples.is_empty() { "-".to_owned() } else { format!("{:.1}", quantile(samples, share) * 1e3) }
        };
        let a_second = |count: usize| thousands(count as f64 / seconds);
        table.row([
            called.to_owned(),
            thousands(rate),
            a_second(took.len()),
            a_second(refused.len()),
            found.lost.to_string(),
            ms(&mut took, 0.5),
            ms(&mut took, 0.99),
            ms(&mut took, 1.0),
            took.iter().filter(|seconds| **seconds > LATE_SECONDS).count().to_string(),
            ms(&mut refused, 0.99),
            found.promotions.to_string(),
            found.switches.to_string(),
            format!("{:.2}", found.cpu),
            format!("{:.1}", found.cpu_us),
            thousands(found.epochs),
        ]);
    }
    table.print("Logistic regression on 39 features, while it learns 1,000 rows a second");
}

/// Where requests go from model to model, there is one that learns nothing of what matters, and is better than one that is wrong.
fn definition(is_switched: bool) -> String {
    let promote = "promote: {every_examples: 2000, only_if_better_than_baseline: false}";
    let (other, policy) = if is_switched {
        let other =
            format!("  plain: {{input: clean, label: y, features: [n5], learner: logistic_regression, {promote}}}\n");
        (other, "policy: {best: {of: [plain], by: log_loss}}, ")
    } else {
        (String::new(), "")
    };
    let names = |prefix: &str, count: usize| (0..count).map(|at| format!("{prefix}{at}")).collect::<Vec<_>>();
    let (numbers, categories) = (names("n", NUMBERS), names("c", CATEGORIES));
    let typed = |names: &[String], kind: &str| names.join(&format!(": {kind}, ")) + &format!(": {kind}, ");
    format!(
        "millstream: 1\nname: serving\nworkers: 1\n\
         sources:\n  rows:\n    from: {{topic: {{name: rows}}}}\n    format: json\n    \
         columns: {{{}{}y: bool}}\n\
         streams:\n  clean:\n    input: rows\n    steps:\n      \
         - require: {{that: \"y is not null\", otherwise: drop, lanes: learn}}\n      \
         - hash_category: {{columns: [{}], buckets: 1024}}\n\
         models:\n  line: {{input: clean, label: y, features: [{}, {}], learner: logistic_regression, {promote}}}\n{other}\
         requests:\n  questions: {{topic: questions, enters: rows, model: line, {policy}answers: {{topic: answers}}}}\n\
         serve:\n  http: {{listen: \"127.0.0.1:0\", objective_seconds: 0.02}}\n",
        typed(&numbers, "float"),
        typed(&categories, "int"),
        categories.join(", "),
        numbers.join(", "),
        categories.join(", "),
    )
}

fn plan(folder: &Path, definition: &str) -> Pipeline {
    let path = folder.join("serving.yaml");
    std::fs::write(&path, definition).expect("a folder that can be written");
    let loaded = millstream_pipelines::load(&path, &Catalogue::shipped()).ok();
    loaded.unwrap_or_else(|| panic!("`millstream check` tells what is wrong with {}", path.display())).0
}

fn message(value: Vec<u8>) -> Message {
    let timestamp_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64);
    Message { value: Some(value), timestamp_ms, ..Message::default() }
}

/// A thousand clients that begin a request and do not end it, where that is asked for.
fn slow(address: SocketAddr, name: &str) -> Vec<std::net::TcpStream> {
    let one = |_| {
        let mut stream = std::net::TcpStream::connect(address).expect("it listens");
        stream.write_all(b"POST /v2/models/questions/infer HTTP/1.1\r\nHost: local").expect("it is read");
        stream
    };
    (0..if name == "slow" { 1000 } else { 0 }).map(one).collect()
}

/// What was found: the seconds of each answer with its status, after the warm-up.
struct Found {
    samples: Vec<(f64, u16)>,
    lost: usize,
    promotions: usize,
    /// How often requests went over to another model.
    switches: u64,
    /// Of all cores, those who ask included.
    cpu: f64,
    /// Without the thread that asks, for each request, with all that is learned beside it.
    cpu_us: f64,
    /// A second.
    epochs: f64,
}

fn measure(name: &str, rate: f64, connections: usize, seconds: f64) -> Found {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let definition = definition(name == "switch");
    let (pipeline, state) = (plan(folder.path(), &definition), folder.path().join("state"));
    std::fs::create_dir_all(&state).expect("a folder that can be written");
    let broker = pipeline.broker.open(&state).expect("the broker opens");
    for (topic, partitions) in &pipeline.topics {
        broker.create(topic, *partitions).expect("a topic");
    }
    let mut random = Random(1);
    let rows = (0..LEARNED).map(|_| message(random.record(Some(false)))).collect();
    let mut producer = broker.producer("bench-rows").expect("a producer");
    producer.append(&[Append { topic: "rows".to_owned(), messages: rows }]).expect("a broker");
    let book = Arc::new(Book::default());
    let (tell, listening) = mpsc::channel();
    let options = Options {
        until_idle: false,
        book: book.clone(),
        listening: Some(tell),
        ..options(&state, 1, Some(broker.clone()))
    };
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let running = scope
            .spawn(|| -> Summary { run(&pipeline, &options).unwrap_or_else(|fault| panic!("it goes well: {fault}")) });
        let (_, address) = listening.recv().expect("it listens");
        std::thread::sleep(Duration::from_secs_f64(WARM_UP_SECONDS));
        scope.spawn(|| {
            let start = Instant::now();
            pace(ROWS_PER_SECOND as f64, start, &stop, |count| {
                let turns = (start.elapsed().as_secs_f64() / TURN_SECONDS) as u64;
                let opposite = name == "switch" && turns % 2 == 1;
                let messages = (0..count).map(|_| message(random.record(Some(opposite)))).collect();
                producer.append(&[Append { topic: "rows".to_owned(), messages }]).expect("a broker");
            });
        });
        let (before, asker, watch) = (cpu_seconds(), thread_cpu_seconds(), Instant::now());
        let first = book.published();
        let all = WARM_UP_SECONDS + seconds;
        let asked = if connections == 0 {
            ask_topic(&*broker, rate, all, scope)
        } else {
            let mut random = Random(2);
            let requests = (0..256).map(|_| random.request()).collect();
            let slow = slow(address, name);
            let asked = ask_http(address, requests, rate, all, connections);
            drop(slow);
            asked
        };
        let spent = cpu_seconds() - before;
        let epochs = (book.published() - first) as f64 / watch.elapsed().as_secs_f64();
        let cpu = spent / watch.elapsed().as_secs_f64();
        let cpu_us = (spent - (thread_cpu_seconds() - asker)) / asked.len() as f64 * 1e6;
        stop.store(true, Ordering::SeqCst);
        book.stop();
        let summary = running.join().expect("the run ends well");
        let lost = asked.iter().filter(|(_, _, status)| *status == 0).count();
        let in_time = asked.into_iter().filter(|(due, _, status)| *due > WARM_UP_SECONDS && *status > 0);
        let samples = in_time.map(|(_, took, status)| (took, status)).collect();
        let promotions = summary.models.values().map(|model| model.versions.len()).sum();
        let switches = events(&*broker, "leader_changed");
        Found { samples, lost, promotions, switches, cpu, cpu_us, epochs }
    })
}

/// How many events of a kind the run has told.
fn events(broker: &dyn Broker, kind: &str) -> u64 {
    let start = [Position { partition: 0, offset: 0 }];
    let mut events = broker.open("serving.events", &start).expect("a topic that is there");
    let (mut count, wanted) = (0, format!("\"event\":\"{kind}\""));
    while let Some(read) = events.read(1 << 20, Duration::ZERO).expect("a broker") {
        let Payload::Bytes(values) = &read.records.payload else { unreachable!("topics hold bytes") };
        let is_it = |value: &&[u8]| std::str::from_utf8(value).is_ok_and(|text| text.contains(&wanted));
        count += values.iter().flatten().filter(is_it).count() as u64;
    }
    count
}

/// Calls `act` with how many are due, until it is told to stop.
fn pace(rate: f64, start: Instant, stop: &AtomicBool, mut act: impl FnMut(usize)) {
    let mut done = 0;
    while !stop.load(Ordering::SeqCst) {
        let due = (start.elapsed().as_secs_f64() * rate) as usize;
        if due > done {
            act(due - done);
            done = due;
        }
        std::thread::sleep(ROWS_TICK);
    }
}

fn ask_topic<'scope>(
    broker: &'scope dyn Broker,
    rate: f64,
    seconds: f64,
    scope: &'scope std::thread::Scope<'scope, '_>,
) -> Asked {
    let (start, count) = (Instant::now(), (rate * seconds) as usize);
    let reading = scope.spawn(move || {
        let mut answers =
            broker.open("answers", &[Position { partition: 0, offset: 0 }]).expect("a topic that is there");
        let mut asked: Asked = (0..count).map(|at| (at as f64 / rate, 0.0, 0)).collect();
        let mut left = count;
        while left > 0 && start.elapsed().as_secs_f64() < seconds + 5.0 {
            let Some(read) = answers.read(1 << 20, Duration::from_millis(100)).expect("a broker") else { continue };
            let now = start.elapsed().as_secs_f64();
            let Payload::Bytes(values) = &read.records.payload else { unreachable!("topics hold bytes") };
            for value in values.iter().flatten() {
                let text = std::str::from_utf8(value).expect("JSON");
                let offset = text.split_once("\"offset\":").expect("an offset").1;
                let end = offset.find([',', '}']).expect("more");
                let (due, took, status) = &mut asked[offset[..end].parse::<usize>().expect("a number")];
                assert_eq!(*status, 0, "it is answered once");
                (*took, *status) = (now - *due, if text.contains("\"error\"") { 422 } else { 200 });
                left -= 1;
            }
        }
        asked
    });
    let mut producer = broker.producer("bench-questions").expect("a producer");
    let mut random = Random(2);
    let records: Vec<Vec<u8>> = (0..1024).map(|_| random.record(None)).collect();
    let mut sent = 0;
    while sent < count {
        let due = ((start.elapsed().as_secs_f64() * rate) as usize).min(count);
        let messages: Vec<Message> = (sent..due).map(|at| message(records[at % records.len()].clone())).collect();
        if !messages.is_empty() {
            producer.append(&[Append { topic: "questions".to_owned(), messages }]).expect("a broker");
            sent = due;
        }
        std::thread::sleep(TICK);
    }
    reading.join().expect("answers were read")
}
