//! The flight example from end to end, beside the loop that someone would write by hand, and how long a request waits.
//!
//!     cargo bench -p millstream-benches --bench pipeline [-- runs | latency]
//!
//! Each run has a state of its own on the disk of the temporary folder, and commits with fsync. The loop by hand
//! (`records.rs`, `by_hand.rs`) keeps everything in memory, on one thread: what it leaves out is what a run is there for.

mod by_hand;
mod records;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use millstream_benches::flights::{self, Example, copy, run_until_idle};
use millstream_benches::table::{Table, thousands};
use millstream_benches::{cpu_seconds, quantile, seconds};
use millstream_connectors::broker::{Append, Broker, Message, TopicReader};
use millstream_engine::book::Book;
use millstream_engine::raw::Payload;
use millstream_engine::source::Position;
use millstream_engine::time::Stopwatch;
use millstream_pipelines::plan::Pipeline;
use millstream_pipelines::run::{Options, Summary, run};

const RUNS: usize = 3;
/// So many that starting and ending a run, some 0.1 s, count for little.
const YEARS: u32 = 5;
const REQUESTS: usize = 200;
/// Between two requests, so that each finds the pipeline idle.
const PAUSE: Duration = Duration::from_millis(15);

fn main() {
    let chosen: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let wanted = |part: &str| chosen.is_empty() || chosen.iter().any(|chosen| chosen == part);
    let folder = tempfile::tempdir().expect("a temporary folder");
    if wanted("runs") {
        let example = Example::new(&folder.path().join("years"), YEARS);
        let by_hand = measure_by_hand(&example);
        measure_runs(&example, &folder.path().join("states"), by_hand);
    }
    if wanted("latency") {
        let example = Example::new(&folder.path().join("year"), 1);
        measure_latency(&example.whole(), &folder.path().join("latency"));
    }
}

/// Seconds of the loop by hand, all of them on one core: from the files, and from records in memory.
#[derive(Clone, Copy)]
struct ByHand {
    from_files: f64,
    from_records: f64,
}

fn measure_by_hand(example: &Example) -> ByHand {
    let data = example.data();
    let mut outcome = by_hand::learn(&records::feed(&data));
    let from_files = seconds(RUNS, || outcome = by_hand::learn(&records::feed(&data)));
    let fed = records::feed(&data);
    let from_records = seconds(RUNS, || outcome = by_hand::learn(&fed));
    let mut table = Table::new(&["by hand, one thread, in memory", "seconds", "records/s"]);
    for (name, took) in [("from the files", from_files), ("from JSON in memory", from_records)] {
        table.row([name.to_owned(), format!("{took:.3}"), thousands(fed.len() as f64 / took)]);
    }
    table.print(&format!(
        "The loop by hand: {} records, {} examples, {} answers, log loss {:.4}",
        thousands(fed.len() as f64),
        thousands(outcome.examples as f64),
        thousands(outcome.answers as f64),
        outcome.log_loss()
    ));
    ByHand { from_files, from_records }
}

/// Whole runs: feeding and learning, learning from topics that are full, and replaying what was committed.
fn measure_runs(example: &Example, folder: &Path, by_hand: ByHand) {
    let (whole, learns) = (example.whole(), example.without_feeds());
    let full = folder.join("full");
    run_until_idle(&example.feeds_only(), &full, 1);
    let headings = ["millstream", "workers", "seconds", "CPU s", "records/s", "time, by hand = 1", "CPU, by hand = 1"];
    let mut table = Table::new(&headings);
    let mut last = None;
    for workers in [1, 2] {
        let fresh = |name: &str, at: usize| folder.join(format!("{name}-{workers}-{at}"));
        let fed = median(|at| timed(&whole, &fresh("fed", at), workers));
        let filled = median(|at| {
            let state = fresh("filled", at);
            copy(&full, &state);
            timed(&learns, &state, workers)
        });
        let replayed = median(|_| timed(&whole, &fresh("fed", 0), workers));
        for (name, (summary, cpu), against) in [
            ("feeding, learning, answering", &fed, by_hand.from_files),
            ("topics full: learning, answering", &filled, by_hand.from_records),
            ("replaying committed epochs", &replayed, by_hand.from_records),
        ] {
            let rate = thousands(summary.records_per_second);
            let [wall, cpu, slower, dearer] =
                [summary.seconds, *cpu, summary.seconds / against, cpu / against].map(|number| format!("{number:.2}"));
            table.row([name.to_owned(), workers.to_string(), wall, cpu, rate, slower, dearer]);
        }
        last = Some(fed.0);
    }
    let fed = last.expect("there was a run");
    let late = &fed.models["late"];
    table.print(&format!(
        "Runs: {} records, {} epochs, {} examples, {} answers, log loss {:.4}",
        thousands(fed.records as f64),
        fed.epochs,
        thousands(late.revision as f64),
        thousands(fed.answers as f64),
        late.measures["log_loss"]["model"]
    ));
}

/// A run, and the seconds of all cores that it took.
fn timed(pipeline: &Pipeline, state: &Path, workers: usize) -> (Summary, f64) {
    let before = cpu_seconds();
    let summary = run_until_idle(pipeline, state, workers);
    (summary, cpu_seconds() - before)
}

/// The run of median duration.
fn median(run: impl FnMut(usize) -> (Summary, f64)) -> (Summary, f64) {
    let mut runs: Vec<(Summary, f64)> = (0..RUNS).map(run).collect();
    runs.sort_by(|(a, _), (b, _)| a.seconds.total_cmp(&b.seconds));
    runs.swap_remove(RUNS / 2)
}

/// One request at a time into a pipeline that has learned everything and waits.
fn measure_latency(pipeline: &Pipeline, folder: &Path) {
    let learned = folder.join("learned");
    run_until_idle(pipeline, &learned, 1);
    let mut table = Table::new(&["one request, pipeline idle", "workers", "median ms", "p90 ms", "p99 ms", "max ms"]);
    for workers in [1, 2] {
        let state = folder.join(format!("live-{workers}"));
        copy(&learned, &state);
        let times = live(pipeline, &state, workers);
        for (name, samples) in
            [("append the question, durably", times.appended), ("until its answer can be read", times.answered)]
        {
            let mut samples = samples;
            let quantiles = [0.5, 0.9, 0.99, 1.0].map(|share| format!("{:.2}", quantile(&mut samples, share) * 1e3));
            table.row([name.to_owned(), workers.to_string()].into_iter().chain(quantiles));
        }
    }
    table.print(&format!("Latency of {REQUESTS} requests, from before the append; the answer is durable, too"));
}

/// For each request, seconds from before its append.
#[derive(Default)]
struct Times {
    appended: Vec<f64>,
    answered: Vec<f64>,
}

fn live(pipeline: &Pipeline, state: &Path, workers: usize) -> Times {
    let broker = pipeline.broker.open(state).expect("the broker opens");
    let book = Arc::new(Book::default());
    let options = Options { book: book.clone(), ..flights::options(state, workers, Some(broker.clone())) };
    std::thread::scope(|scope| {
        let running =
            scope.spawn(|| run(pipeline, &options).unwrap_or_else(|fault| panic!("the run goes well: {fault}")));
        let times = ask(&*broker);
        book.stop();
        running.join().expect("the run ends well");
        times
    })
}

fn ask(broker: &dyn Broker) -> Times {
    let question = first(broker, "flight-questions");
    let (_, end) = broker.topic("flight-answers").expect("a broker").expect("answers were given").partitions[0];
    let from = [Position { partition: 0, offset: end }];
    let mut answers = broker.open("flight-answers", &from).expect("a topic that is there");
    let mut producer = broker.producer("bench").expect("a producer");
    let mut times = Times::default();
    // The first waits until everything committed has been replayed.
    for at in 0..=REQUESTS {
        std::thread::sleep(PAUSE);
        let timestamp_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64);
        let message = Message { value: Some(question.clone()), timestamp_ms, ..Message::default() };
        let watch = Stopwatch::start();
        let append = Append { topic: "flight-questions".to_owned(), messages: vec![message] };
        producer.append(&[append]).expect("a disk");
        let appended = watch.seconds();
        wait(&mut *answers);
        if at > 0 {
            times.appended.push(appended);
            times.answered.push(watch.seconds());
        }
    }
    times
}

fn first(broker: &dyn Broker, topic: &str) -> Vec<u8> {
    let mut reader = broker.open(topic, &[Position { partition: 0, offset: 0 }]).expect("a topic that is there");
    let read = reader.read(1, Duration::from_secs(1)).expect("a disk").expect("it has records");
    let Payload::Bytes(values) = &read.records.payload else { unreachable!("topics hold bytes") };
    values.value(0).to_vec()
}

fn wait(answers: &mut dyn TopicReader) {
    for _ in 0..60 {
        if answers.read(1, Duration::from_secs(1)).expect("a disk").is_some() {
            return;
        }
    }
    panic!("a request was not answered within a minute");
}
