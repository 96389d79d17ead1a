//! How many requests are answered a second, and how soon: logistic regression on 39 features, through a topic and over HTTP, while the
//! model goes on learning and is promoted.
//!
//!     cargo bench -p millstream-benches --bench serving [-- SECONDS]
//!
//! Requests come at a fixed pace, whether or not earlier ones are answered; each is timed from the moment at which it was due. Whoever
//! asks runs on the same cores.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use millstream_benches::flights::options;
use millstream_benches::table::{Table, thousands};
use millstream_benches::{cpu_seconds, quantile};
use millstream_connectors::broker::{Append, Broker, Message};
use millstream_engine::book::Book;
use millstream_engine::raw::Payload;
use millstream_engine::source::Position;
use millstream_pipelines::catalogue::Catalogue;
use millstream_pipelines::plan::Pipeline;
use millstream_pipelines::run::{Options, Summary, run};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const NUMBERS: usize = 13;
const CATEGORIES: usize = 26;
/// Between two appends of labelled rows, and of questions to the topic.
const ROWS_TICK: Duration = Duration::from_millis(10);
const TICK: Duration = Duration::from_millis(2);
/// Labelled rows: those that are there at first, and how many come in a second.
const LEARNED: usize = 20_000;
const ROWS_PER_SECOND: usize = 1000;
const WARM_UP_SECONDS: f64 = 2.0;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
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
        "refusal p99 ms",
        "promotions",
        "CPU s a s",
    ]);
    for (called, rate, connections) in
        [("topic", 20_000.0, 0), ("HTTP", 5_000.0, 64), ("HTTP", 10_000.0, 64), ("HTTP, overload", 40_000.0, 512)]
    {
        let found = measure(rate, connections, seconds);
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
            ms(&mut refused, 0.99),
            found.promotions.to_string(),
            format!("{:.2}", found.cpu),
        ]);
    }
    table.print("Logistic regression on 39 features, while it learns 1,000 rows a second");
}

fn definition() -> String {
    let names = |prefix: &str, count: usize| (0..count).map(|at| format!("{prefix}{at}")).collect::<Vec<_>>();
    let (numbers, categories) = (names("n", NUMBERS), names("c", CATEGORIES));
    let typed = |names: &[String], kind: &str| names.iter().map(|name| format!("{name}: {kind}, ")).collect::<String>();
    format!(
        "millstream: 1\nname: serving\nworkers: 1\n\
         sources:\n  rows:\n    from: {{topic: {{name: rows}}}}\n    format: json\n    \
         columns: {{{}{}y: bool}}\n\
         streams:\n  clean:\n    input: rows\n    steps:\n      \
         - require: {{that: \"y is not null\", otherwise: drop, lanes: learn}}\n      \
         - hash_category: {{columns: [{}], buckets: 1024}}\n\
         models:\n  line: {{input: clean, label: y, features: [{}, {}], learner: logistic_regression, \
         promote: {{every_examples: 2000, only_if_better_than_baseline: false}}}}\n\
         requests:\n  questions: {{topic: questions, enters: rows, model: line, answers: {{topic: answers}}}}\n\
         serve:\n  http: {{listen: \"127.0.0.1:0\", objective_seconds: 0.02}}\n",
        typed(&numbers, "float"),
        typed(&categories, "int"),
        categories.join(", "),
        numbers.join(", "),
        categories.join(", "),
    )
}

fn plan(folder: &Path) -> Pipeline {
    let path = folder.join("serving.yaml");
    std::fs::write(&path, definition()).expect("a folder that can be written");
    let loaded = millstream_pipelines::load(&path, &Catalogue::shipped()).ok();
    loaded.unwrap_or_else(|| panic!("`millstream check` tells what is wrong with {}", path.display())).0
}

/// Numbers that look random.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    fn row(&mut self) -> ([f64; NUMBERS], [u64; CATEGORIES]) {
        let number = |random: &mut Self| random.below(1000) as f64 / 100.0;
        (std::array::from_fn(|_| number(self)), std::array::from_fn(|_| self.below(100_000)))
    }

    /// A record, as JSON; with a label or without.
    fn record(&mut self, labelled: bool) -> Vec<u8> {
        let (numbers, categories) = self.row();
        let mut columns: Vec<String> = numbers.iter().enumerate().map(|(at, x)| format!("\"n{at}\":{x}")).collect();
        columns.extend(categories.iter().enumerate().map(|(at, code)| format!("\"c{at}\":{code}")));
        if labelled {
            columns.push(format!("\"y\":{}", numbers[0] + numbers[1] > 10.0));
        }
        format!("{{{}}}", columns.join(",")).into_bytes()
    }

    /// A request over HTTP.
    fn request(&mut self) -> Vec<u8> {
        let (numbers, categories) = self.row();
        let tensor = |name: String, kind: &str, value: String| {
            format!("{{\"name\":\"{name}\",\"shape\":[1],\"datatype\":\"{kind}\",\"data\":[{value}]}}")
        };
        let mut inputs: Vec<String> = Vec::new();
        inputs.extend(numbers.iter().enumerate().map(|(at, x)| tensor(format!("n{at}"), "FP64", x.to_string())));
        inputs.extend(categories.iter().enumerate().map(|(at, x)| tensor(format!("c{at}"), "INT64", x.to_string())));
        let body = format!("{{\"inputs\":[{}]}}", inputs.join(","));
        let head = "POST /v2/models/questions/infer HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
        format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    }
}

fn message(value: Vec<u8>) -> Message {
    let timestamp_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64);
    Message { value: Some(value), timestamp_ms, ..Message::default() }
}

/// What was found: the seconds of each answer with its status, after the warm-up.
struct Found {
    samples: Vec<(f64, u16)>,
    lost: usize,
    promotions: usize,
    cpu: f64,
}

fn measure(rate: f64, connections: usize, seconds: f64) -> Found {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (pipeline, state) = (plan(folder.path()), folder.path().join("state"));
    std::fs::create_dir_all(&state).expect("a folder that can be written");
    let broker = pipeline.broker.open(&state).expect("the broker opens");
    for (topic, partitions) in &pipeline.topics {
        broker.create(topic, *partitions).expect("a topic");
    }
    let mut random = Random(1);
    let rows = (0..LEARNED).map(|_| message(random.record(true))).collect();
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
            pace(ROWS_PER_SECOND as f64, Instant::now(), &stop, |count| {
                let messages = (0..count).map(|_| message(random.record(true))).collect();
                producer.append(&[Append { topic: "rows".to_owned(), messages }]).expect("a broker");
            });
        });
        let (before, watch) = (cpu_seconds(), Instant::now());
        let all = WARM_UP_SECONDS + seconds;
        let asked = if connections == 0 {
            ask_topic(&*broker, rate, all, scope)
        } else {
            ask_http(address, rate, all, connections)
        };
        let cpu = (cpu_seconds() - before) / watch.elapsed().as_secs_f64();
        stop.store(true, Ordering::SeqCst);
        book.stop();
        let summary = running.join().expect("the run ends well");
        let lost = asked.iter().filter(|(_, _, status)| *status == 0).count();
        let in_time = asked.into_iter().filter(|(due, _, status)| *due > WARM_UP_SECONDS && *status > 0);
        let samples = in_time.map(|(_, took, status)| (took, status)).collect();
        let promotions = summary.models["line"].versions.len();
        Found { samples, lost, promotions, cpu }
    })
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

/// When each request was due, how long its answer took, and its status; 0 where none came.
type Asked = Vec<(f64, f64, u16)>;

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
    let records: Vec<Vec<u8>> = (0..1024).map(|_| random.record(false)).collect();
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

fn ask_http(address: SocketAddr, rate: f64, seconds: f64, connections: usize) -> Asked {
    let mut random = Random(2);
    let requests: Arc<Vec<Vec<u8>>> = Arc::new((0..256).map(|_| random.request()).collect());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let start = Instant::now();
        let clients: Vec<_> = (0..connections)
            .map(|at| {
                let (first, interval) = (at as f64 / rate, connections as f64 / rate);
                tokio::spawn(client(address, requests.clone(), start, (first, interval, seconds)))
            })
            .collect();
        let mut asked = Vec::new();
        for client in clients {
            asked.extend(client.await.expect("no panic"));
        }
        asked
    })
}

/// Asks on one connection; a request that is due while the one before is not answered waits, and that counts.
async fn client(
    address: SocketAddr,
    requests: Arc<Vec<Vec<u8>>>,
    start: Instant,
    (first, interval, seconds): (f64, f64, f64),
) -> Asked {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    stream.set_nodelay(true).expect("it can be set");
    let (mut asked, mut buffer) = (Vec::new(), vec![0_u8; 64 << 10]);
    for number in 0.. {
        let due = first + f64::from(number) * interval;
        if due > seconds {
            break;
        }
        let wait = due - start.elapsed().as_secs_f64();
        if wait > 0.0 {
            tokio::time::sleep(Duration::from_secs_f64(wait)).await;
        }
        let sent = if wait > 0.0 { due } else { start.elapsed().as_secs_f64() };
        let request = &requests[(number as usize * 7 + (first * 1e6) as usize) % requests.len()];
        stream.write_all(request).await.expect("it is read");
        let mut read = 0;
        let status = loop {
            let more = stream.read(&mut buffer[read..]).await.expect("it answers");
            if more == 0 {
                break 0;
            }
            read += more;
            if let Some(status) = complete(&buffer[..read]) {
                break status;
            }
        };
        // A client that asks one thing after the other asks later where answers are late: that is not the server's time.
        asked.push((due, start.elapsed().as_secs_f64() - sent, status));
        if status == 0 {
            break;
        }
    }
    asked
}

/// The status of a response that is all there.
fn complete(response: &[u8]) -> Option<u16> {
    let text = std::str::from_utf8(response).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let length: usize = head.split("content-length: ").nth(1)?.lines().next()?.parse().ok()?;
    (body.len() >= length).then(|| head.split(' ').nth(1)?.parse().ok())?
}
