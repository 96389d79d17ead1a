//! Whatever a broker does to any call of a run, no answer is missing or doubled, and the models are the same.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use millstream_connectors::broker::Broker;
use millstream_connectors::broker::simulated::{Injected, Operation, Simulated};
use millstream_engine::source::Position;
use millstream_engine::time::StepClock;
use millstream_pipelines::plan::Delivery;
use millstream_pipelines::run::{Options, Summary, assemble};
use millstream_tests::{NOW_MS, Record, Site, append, message, one_answer_each, progress, records};
use serde_json::Value;

const DEFINITION: &str = r#"
millstream: 1
name: tiny
sources:
  orders:
    from: {topic: {name: orders, partitions: 2}}
    format: json
    columns: {at: timestamp, amount: float, returned: bool}
    event_time: {column: at, lateness_seconds: 0}
streams:
  clean: {input: orders, steps: [{require: {that: "amount > 0"}}, {standardise: {columns: [amount]}}]}
models:
  returns: {input: clean, label: returned, features: [amount], learner: logistic_regression}
requests:
  questions: {topic: questions, enters: orders, model: returns, answers: {topic: answers}}
sinks:
  rows: {from: clean, to: {topic: {name: rows}}}
  copies: {from: clean, to: {file: {path: copies.jsonl}}}
"#;

const PROMOTED: &str = "logistic_regression, promote: {every_examples: 10, only_if_better_than_baseline: false}}";

const FEEDS: &str = "
feeds:
  orders: {from: {file: {path: orders.csv}}, format: csv, time: at, topic: orders, partitions: 2, key: at}
";

const ORDERS: u64 = 40;
const QUESTIONS: u64 = 6;

fn at(number: u64) -> u64 {
    NOW_MS as u64 + number * 1000
}

/// A site, and a broker of its own that has questions.
fn site(definition: &str, files: &[(&str, &[u8])]) -> (Site, Simulated) {
    let site = Site::new(definition, files);
    let broker = Simulated::new();
    assemble::create_topics(&site.pipeline, &broker).expect("the broker is new");
    let question = |number| message(Some("k"), format!(r#"{{"at":{},"amount":{number}}}"#, at(number)));
    append(&broker, "questions", &(1..=QUESTIONS).map(question).collect::<Vec<_>>());
    (site, broker)
}

/// With orders in the topic, one of them bad.
fn filled() -> (Site, Simulated) {
    filled_with(DEFINITION)
}

fn filled_with(definition: &str) -> (Site, Simulated) {
    let (site, broker) = site(definition, &[]);
    let order = |number: u64| {
        let amount = if number == 7 { -1 } else { (number * 37 % 11) as i64 + 1 };
        let text = format!(r#"{{"at":{},"amount":{amount},"returned":{}}}"#, at(number), number.is_multiple_of(3));
        message(Some(&number.to_string()), text)
    };
    append(&broker, "orders", &(0..ORDERS).map(order).collect::<Vec<_>>());
    (site, broker)
}

fn options(site: &Site, broker: &Simulated) -> Options {
    Options {
        broker: Some(Arc::new(broker.clone())),
        workers: Some(1),
        max_records: Some(12),
        clock: Arc::new(StepClock::new(NOW_MS, 1)),
        ..site.options()
    }
}

/// What a run leaves, without what depends on how it was cut.
#[derive(Clone, Debug, PartialEq)]
struct Left {
    digest: String,
    rows: Vec<(Option<String>, Vec<u8>)>,
    /// The lines of the sink outside the broker, sorted.
    copies: Vec<String>,
    dead: usize,
}

fn left(site: &Site, broker: &Simulated, summary: &Summary) -> Left {
    let records = |topic: &str| records(broker, topic);
    let mut rows: Vec<_> = records("rows").into_iter().map(|record| (record.key, record.value)).collect();
    rows.sort();
    let copies = std::fs::read_to_string(site.folder().join("copies.jsonl")).expect("the sink has written it");
    let mut copies: Vec<String> = copies.lines().map(str::to_owned).collect();
    copies.sort();
    Left { digest: summary.models["returns"].digest.clone(), rows, copies, dead: records("tiny.dead").len() }
}

/// Each epoch is committed once, by the run that had started last; and what was answered is what was recorded.
fn check_journal(broker: &Simulated) {
    let (mut start, mut next) = (None, 0);
    for record in records(broker, "tiny.progress") {
        let value = record.json();
        match value["kind"].as_str() {
            Some("start") => start = Some(record.offset),
            Some("progress") => {
                assert_eq!(value["binding"]["epoch"].as_u64(), Some(next), "epochs follow one another");
                assert_eq!(value["incarnation"].as_u64(), start, "epoch {next} is of the run that started last");
                next += 1;
            }
            other => panic!("a record of kind {other:?}"),
        }
    }
    assert!(next > 0, "epochs were committed");
    let count = |value: &Value| value["answers"]["count"].as_u64().expect("a number");
    let recorded: u64 = progress(broker, "tiny").iter().map(count).sum();
    assert_eq!(recorded as usize, records(broker, "answers").len());
}

/// Runs, and again if the run could not begin.
fn run_until_it_ends(site: &Site, options: impl Fn() -> Options) -> (Summary, u32) {
    for failed in 0..4 {
        match site.try_run(&options()) {
            Ok(summary) => return (summary, failed),
            Err(fault) => eprintln!("the run failed: {fault}"),
        }
    }
    panic!("no run ends well");
}

/// The operations of a run's producers, without faults.
fn operations(site: &Site, broker: &Simulated) -> Vec<(Operation, String)> {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let seen = calls.clone();
    broker.inject(move |call| {
        if call.operation != Operation::Read {
            seen.lock().expect("no panic").push((call.operation, call.who.to_owned()));
        }
        Injected::Nothing
    });
    site.run_with(&options(site, broker));
    broker.heal();
    std::mem::take(&mut *calls.lock().expect("no panic"))
}

/// Lets the call number `nth` of a run's producers become `what`. Whether it came to that.
fn inject_at(broker: &Simulated, nth: usize, what: Injected) -> Arc<AtomicBool> {
    let (mut calls, done) = (0, Arc::new(AtomicBool::new(false)));
    let reached = done.clone();
    broker.inject(move |call| {
        calls += usize::from(call.operation != Operation::Read);
        if call.operation == Operation::Read || calls != nth + 1 || reached.swap(true, Ordering::SeqCst) {
            return Injected::Nothing;
        }
        what
    });
    done
}

const THREADS: usize = 8;

const KINDS: [Injected; 5] =
    [Injected::FailBefore, Injected::FailAfter, Injected::Hang, Injected::Late(2), Injected::Hide(4)];

#[test]
fn every_fault_at_every_call_of_a_run() {
    let (whole, calm) = filled();
    let calls = operations(&whole, &calm).len();
    let expected = {
        let replay = whole.run_with(&options(&whole, &calm));
        left(&whole, &calm, &replay)
    };
    let found = (expected.copies.len() as u64, expected.dead);
    assert!(calls >= 15 && found == (ORDERS - 1, 1), "{calls} calls, {found:?}");
    check_journal(&calm);
    let (injected, restarted) = (AtomicUsize::new(0), AtomicU32::new(0));
    let cases = KINDS.iter().flat_map(|what| (0..calls).map(move |nth| (*what, nth)));
    side_by_side(cases.collect(), |(what, nth)| {
        let (site, broker) = filled();
        let reached = inject_at(&broker, nth, what);
        let (summary, failed) = run_until_it_ends(&site, || options(&site, &broker));
        broker.heal();
        show_all(&broker);
        injected.fetch_add(usize::from(reached.load(Ordering::SeqCst)), Ordering::SeqCst);
        restarted.fetch_add(failed, Ordering::SeqCst);
        let case = format!("{what:?} at call {nth}");
        one_answer_each(&records(&broker, "questions"), &records(&broker, "answers"));
        assert_eq!(left(&site, &broker, &summary), expected, "{case}");
        check_journal(&broker);
        let replay = site.run_with(&options(&site, &broker));
        assert_eq!((replay.epochs, left(&site, &broker, &replay)), (0, expected.clone()), "{case}");
    });
    let injected = injected.into_inner();
    println!("{injected} faults at {calls} calls, {} runs could not begin", restarted.into_inner());
    assert!(injected >= KINDS.len() * (calls - 5), "how a run is cut varies a little: {injected} of {calls} calls");
}

/// Lets so many operations go by that what was hidden is seen.
fn show_all(broker: &Simulated) {
    let mut reader = broker.open("questions", &[Position { partition: 0, offset: 0 }]).expect("the topic opens");
    for _ in 0..4 {
        reader.read(1, Duration::ZERO).expect("no faults any more");
    }
}

/// Does all cases, some at a time: they mostly wait.
fn side_by_side<C: Send>(cases: Vec<C>, each: impl Fn(C) + Sync) {
    let cases = Mutex::new(cases.into_iter());
    let next = || cases.lock().unwrap_or_else(PoisonError::into_inner).next();
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(case) = next() {
                    each(case);
                }
            });
        }
    });
}

/// Answers may come twice, but none is missing, and models are the same.
#[test]
fn at_least_once_loses_nothing() {
    let (whole, calm) = filled();
    let expected = left(&whole, &calm, &whole.run_with(&options(&whole, &calm)));
    let doubled = AtomicUsize::new(0);
    let kinds = [Injected::FailAfter, Injected::Hang];
    let cases = kinds.iter().flat_map(|what| (8..40).map(move |nth| (*what, nth)));
    side_by_side(cases.collect(), |(what, nth)| {
        let (site, broker) = filled();
        inject_at(&broker, nth, what);
        let options = || Options { delivery: Some(Delivery::AtLeastOnce), ..options(&site, &broker) };
        let (summary, _) = run_until_it_ends(&site, options);
        broker.heal();
        let mut answers: Vec<Record> = records(&broker, "answers");
        let all = answers.len();
        answers.sort_by(|a, b| a.value.cmp(&b.value));
        answers.dedup_by(|a, b| a.value == b.value);
        one_answer_each(&records(&broker, "questions"), &answers);
        doubled.fetch_add(all - answers.len(), Ordering::SeqCst);
        let mut found = left(&site, &broker, &summary);
        found.rows.dedup();
        found.dead = found.dead.min(1);
        assert_eq!(found, expected, "{what:?} at call {nth}");
    });
    // Where an answer is in what is sent twice; how a run is cut decides that.
    println!("{} answers came twice", doubled.into_inner());
}

/// A broker whose producers are away for a while: every call of theirs fails.
#[test]
fn an_outage_is_survived() {
    for (operation, what) in [
        (Operation::Commit, Injected::Hang),
        (Operation::Commit, Injected::FailAfter),
        (Operation::Send, Injected::FailAfter),
        (Operation::Begin, Injected::FailBefore),
    ] {
        let (site, broker) = filled();
        let (mut left_calls, mut appends) = (4, 0);
        broker.inject(move |call| {
            appends += u64::from(call.operation == Operation::Begin && call.who == "tiny.progress");
            // After the run's start and its first epochs.
            let away = appends > 2 && left_calls > 0 && call.who == "tiny.progress";
            left_calls -= i32::from(away);
            match call.operation {
                Operation::Start if away => Injected::FailBefore,
                found if away && (found == operation || left_calls < 3) => what,
                _ => Injected::Nothing,
            }
        });
        let metrics = site.run_with(&options(&site, &broker));
        broker.heal();
        assert_eq!(metrics.answers, QUESTIONS, "{operation:?} {what:?}");
        one_answer_each(&records(&broker, "questions"), &records(&broker, "answers"));
        check_journal(&broker);
    }
}

/// A broker that stops the first run's commit until another has taken over.
#[test]
fn a_zombie_adds_nothing() {
    for what in [Injected::Nothing, Injected::Hang, Injected::FailBefore] {
        let (site, broker) = filled();
        let heir = Site::new(DEFINITION, &[]);
        let (inner, state) = (broker.clone(), heir.state());
        let appends = AtomicU64::new(0);
        let pipeline = heir.pipeline;
        let heir_options = move || Options {
            broker: Some(Arc::new(inner.clone())),
            workers: Some(1),
            until_idle: true,
            quiet: true,
            clock: Arc::new(StepClock::new(NOW_MS, 1)),
            ..Options::new(state.clone())
        };
        let (answers, seen) = (Arc::new(Mutex::new(None)), broker.clone());
        let after_heir = answers.clone();
        broker.inject(move |call| {
            if call.operation != Operation::Commit || call.who != "tiny.progress" {
                return Injected::Nothing;
            }
            // The first is the start. The script is away while it runs, so the heir meets no faults.
            if appends.fetch_add(1, Ordering::SeqCst) != 2 {
                return Injected::Nothing;
            }
            millstream_pipelines::run::run(&pipeline, &heir_options()).expect("the heir runs");
            *after_heir.lock().expect("no panic") = Some(contents(&seen));
            what
        });
        let fault = site.try_run(&options(&site, &broker)).map(drop).expect_err("it was replaced");
        broker.heal();
        assert!(fault.message.starts_with("another run has taken over tiny.progress"), "{what:?}: {fault}");
        let after_heir = answers.lock().expect("no panic").take().expect("the heir has run");
        assert_eq!(contents(&broker), after_heir, "{what:?}: nothing was added");
        one_answer_each(&records(&broker, "questions"), &records(&broker, "answers"));
        check_journal(&broker);
    }
}

fn contents(broker: &Simulated) -> BTreeMap<&'static str, Vec<Record>> {
    ["answers", "rows", "tiny.dead", "tiny.progress"].map(|topic| (topic, records(broker, topic))).into()
}

/// Feeds go on where they were, whatever becomes of their appends.
#[test]
fn feeds_append_each_row_once() {
    let mut csv = "at,amount,returned\n".to_owned();
    for number in 0..9_000_u64 {
        // Writing to a string cannot fail.
        let _ = writeln!(csv, "{},{},{}", at(number), number % 11 + 1, number.is_multiple_of(3));
    }
    let fed = || site(&(DEFINITION.to_owned() + FEEDS), &[("orders.csv", csv.as_bytes())]);
    let run = |what: Option<(u64, Operation, Injected)>| {
        let (site, broker) = fed();
        let mut calls = 0;
        broker.inject(move |call| match what {
            Some((nth, operation, what)) if call.who == "tiny.feeds" && call.operation == operation => {
                calls += 1;
                if calls == nth { what } else { Injected::Nothing }
            }
            _ => Injected::Nothing,
        });
        let options = || Options { max_records: None, ..options(&site, &broker) };
        let (summary, _) = run_until_it_ends(&site, options);
        broker.heal();
        let orders: Vec<_> =
            records(&broker, "orders").into_iter().map(|record| (record.partition, record.value)).collect();
        (orders, summary.models["returns"].digest.clone())
    };
    let expected = run(None);
    assert_eq!(expected.0.len(), 9_000);
    let operations = [Operation::Begin, Operation::Send, Operation::Commit];
    let kinds = [Injected::FailBefore, Injected::FailAfter, Injected::Hang, Injected::Late(1)];
    // The first append is the start, the last is short.
    let cases = kinds.iter().flat_map(|what| operations.map(|at| [(2, at, *what), (4, at, *what)]).concat());
    side_by_side(cases.collect(), |case| {
        assert!(run(Some(case)) == expected, "{case:?}");
    });
}

/// A disk that is full when a version is to be written keeps no answer back, and the version comes later.
#[test]
fn promotion_may_fail() {
    let promoting = DEFINITION.replace("logistic_regression}", PROMOTED);
    let (site, broker) = filled_with(&promoting);
    let models = site.state().join("models");
    std::fs::create_dir_all(&models).expect("the folder can be written");
    // A file where the model's folder should be.
    std::fs::write(models.join("returns"), "").expect("the folder can be written");
    let full = site.run_with(&options(&site, &broker));
    assert_eq!((full.answers, full.models["returns"].versions.len()), (QUESTIONS, 0));
    one_answer_each(&records(&broker, "questions"), &records(&broker, "answers"));

    // There is room again while the run goes on.
    let (site, broker) = filled_with(&promoting);
    let models = site.state().join("models");
    std::fs::create_dir_all(&models).expect("the folder can be written");
    std::fs::write(models.join("returns"), "").expect("the folder can be written");
    let (mut commits, blocked) = (0, models.join("returns"));
    broker.inject(move |call| {
        commits += u64::from(call.operation == Operation::Commit && call.who == "tiny.progress");
        if commits == 3 && blocked.is_file() {
            std::fs::remove_file(&blocked).expect("it is there");
        }
        Injected::Nothing
    });
    let some = site.run_with(&options(&site, &broker));
    assert_eq!(some.answers, QUESTIONS);
    assert!(!some.models["returns"].versions.is_empty(), "the next revision was tried");
    assert_eq!(some.models["returns"].digest, full.models["returns"].digest);
}
