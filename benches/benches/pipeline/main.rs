//! The flight example from end to end, beside the loop that someone would write by hand, and how long a request waits.
//!
//!     cargo bench -p millstream-benches --bench pipeline [-- by-hand | runs | latency]
//!
//! Each run has a state of its own on the disk of the temporary folder, and commits with fsync. The loop by hand
//! (`records.rs`, `by_hand.rs`) keeps everything in memory, on one thread: what it leaves out is what a run is there for.

mod by_hand;
mod records;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use millstream_benches::flights::{self, copy, run_until_idle};
use millstream_benches::table::{Table, thousands};
use millstream_benches::{quantile, seconds};
use millstream_connectors::broker::{Append, Broker, Message, TopicReader};
use millstream_engine::book::Book;
use millstream_engine::raw::Payload;
use millstream_engine::source::Position;
use millstream_engine::time::Stopwatch;
use millstream_pipelines::plan::Pipeline;
use millstream_pipelines::run::{Options, Summary, run};

const RUNS: usize = 3;
const REQUESTS: usize = 200;
/// Between two requests, so that each finds the pipeline idle.
const PAUSE: Duration = Duration::from_millis(15);

fn main() {
    let chosen: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let wanted = |part: &str| chosen.is_empty() || chosen.iter().any(|chosen| chosen == part);
    let by_hand = if wanted("by-hand") || wanted("runs") { Some(measure_by_hand()) } else { None };
    if let (true, Some(by_hand)) = (wanted("runs"), by_hand) {
        measure_runs(by_hand);
    }
    if wanted("latency") {
        measure_latency();
    }
}

/// Seconds of the loop by hand: from the files, and from records in memory.
#[derive(Clone, Copy)]
struct ByHand {
    from_files: f64,
    from_records: f64,
}

fn measure_by_hand() -> ByHand {
    let data = flights::examples().join("data");
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
fn measure_runs(by_hand: ByHand) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let whole = flights::whole();
    let full = folder.path().join("full");
    run_until_idle(&flights::feeds_only(folder.path()), &full, 1);
    let learns = flights::without_feeds(folder.path());
    let mut table = Table::new(&["millstream", "workers", "seconds", "records/s", "by hand is faster by"]);
    let mut last = None;
    for workers in [1, 2] {
        let fresh = |name: &str, at: usize| folder.path().join(format!("{name}-{workers}-{at}"));
        let fed = median(|at| run_until_idle(&whole, &fresh("fed", at), workers));
        let filled = median(|at| {
            let state = fresh("filled", at);
            copy(&full, &state);
            run_until_idle(&learns, &state, workers)
        });
        let replayed = median(|_| run_until_idle(&whole, &fresh("fed", 0), workers));
        for (name, summary, against) in [
            ("feeding, learning, answering", &fed, by_hand.from_files),
            ("topics full: learning, answering", &filled, by_hand.from_records),
            ("replaying committed epochs", &replayed, by_hand.from_records),
        ] {
            let rate = thousands(summary.records_per_second);
            let factor = format!("{:.2}", summary.seconds / against);
            table.row([name.to_owned(), workers.to_string(), format!("{:.3}", summary.seconds), rate, factor]);
        }
        last = Some(fed);
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

/// The run of median duration.
fn median(mut run: impl FnMut(usize) -> Summary) -> Summary {
    let mut summaries: Vec<Summary> = (0..RUNS).map(&mut run).collect();
    summaries.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    summaries.swap_remove(RUNS / 2)
}

/// One request at a time into a pipeline that has learned everything and waits.
fn measure_latency() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let pipeline = flights::whole();
    let learned = folder.path().join("learned");
    run_until_idle(&pipeline, &learned, 1);
    let mut table = Table::new(&["one request, pipeline idle", "workers", "median ms", "p90 ms", "p99 ms", "max ms"]);
    for workers in [1, 2] {
        let state = folder.path().join(format!("live-{workers}"));
        copy(&learned, &state);
        let times = live(&pipeline, &state, workers);
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
            scope.spawn(|| run(pipeline, options).unwrap_or_else(|fault| panic!("the run goes well: {fault}")));
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
