//! Receivers over real sockets: a record is durable before its sender is told so.

mod http;
mod mqtt;

use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use arrow::array::Array;
use millstream_connectors::broker::Broker;
use millstream_connectors::broker::embedded::Embedded;
use millstream_connectors::broker::simulated::{Call, Injected, Operation, Simulated};
use millstream_connectors::sources::intake::{Inlet, Receiver};
use millstream_connectors::sources::{KINDS, PlannedSource};
use millstream_engine::raw::Payload;
use millstream_engine::source::Position;
use millstream_engine::time::StepClock;
use millstream_engine::{Fault, Result};
use serde_json::Value;

/// When the clock of the tests starts.
const NOW_MS: i64 = 1_767_225_600_000;
const TOPIC: &str = "shop.readings";

/// A receiver's surroundings.
struct Place {
    broker: Arc<Simulated>,
    faults: mpsc::Receiver<Fault>,
    fail: mpsc::Sender<Fault>,
    is_ours: Arc<dyn Fn() -> Result<()> + Send + Sync>,
}

impl Place {
    fn new() -> Self {
        let broker = Simulated::new();
        broker.create(TOPIC, 1).expect("it is new");
        let (fail, faults) = mpsc::channel();
        Self { broker: Arc::new(broker), faults, fail, is_ours: Arc::new(|| Ok(())) }
    }

    fn try_start(&self, kind: &str, config: &Value) -> Result<Receiver> {
        self.start_on(self.broker.clone(), kind, config)
    }

    fn start_on(&self, broker: Arc<dyn Broker>, kind: &str, config: &Value) -> Result<Receiver> {
        let planned = planned(kind, config);
        assert_eq!(planned.topic, Some((TOPIC.to_owned(), 1)));
        let fail = Mutex::new(self.fail.clone());
        let inlet = Inlet {
            id: TOPIC.to_owned(),
            topic: TOPIC.to_owned(),
            broker,
            clock: Arc::new(StepClock::new(NOW_MS, 0)),
            is_ours: self.is_ours.clone(),
            fail: Arc::new(move |fault| fail.lock().expect("no panic").send(fault).expect("the test waits")),
        };
        (planned.receiver.expect("it receives").start)(inlet)
    }

    fn start(&self, kind: &str, config: &Value) -> Receiver {
        self.try_start(kind, config).unwrap_or_else(|fault| panic!("{fault}"))
    }

    /// What the topic holds: keys (`-` for none) and values.
    fn kept(&self) -> Vec<(String, String)> {
        let mut reader = self.broker.open(TOPIC, &[Position { partition: 0, offset: 0 }]).expect("it exists");
        let mut all = Vec::new();
        while let Some(fetched) = reader.read(usize::MAX, Duration::ZERO).expect("it can be read") {
            let raw = fetched.records;
            assert!(raw.timestamps.iter().all(|time| *time == NOW_MS), "records are stamped when they come");
            let Payload::Bytes(values) = &raw.payload else { panic!("topics hold bytes") };
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            for row in 0..raw.len() {
                let key = raw.keys.as_ref().filter(|keys| keys.is_valid(row)).map(|keys| text(keys.value(row)));
                all.push((key.unwrap_or_else(|| "-".to_owned()), text(values.value(row))));
            }
        }
        all
    }

    /// Holds every commit until it is told what becomes of it.
    fn hold_commits(&self) -> Held {
        let (reach, reached) = mpsc::channel();
        let (decide, decided) = mpsc::channel();
        self.broker.inject(move |call: &Call<'_>| {
            if call.operation != Operation::Commit {
                return Injected::Nothing;
            }
            // Once the test has let go, everything works.
            let _ = reach.send(());
            decided.recv().unwrap_or_default()
        });
        Held { reached, decide }
    }
}

/// A broker that takes no record of more than so many bytes.
fn narrow(max_record_bytes: usize) -> (Arc<Embedded>, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let broker = Embedded::open(folder.path()).expect("the folder is new").with_max_record_bytes(max_record_bytes);
    broker.create(TOPIC, 1).expect("it is new");
    (Arc::new(broker), folder)
}

/// Commits that wait for the test.
struct Held {
    reached: mpsc::Receiver<()>,
    decide: mpsc::Sender<Injected>,
}

impl Held {
    /// Waits until a commit is about to happen.
    fn reached(&self) {
        self.reached.recv().expect("the receiver goes on");
    }

    fn decide(&self, what: Injected) {
        self.decide.send(what).expect("the broker waits");
    }
}

fn planned(kind: &str, config: &Value) -> PlannedSource {
    let kind = KINDS.iter().find(|known| known.name == kind).expect("it is known");
    match (kind.plan)(config) {
        Ok(planned) => planned.in_topic(TOPIC),
        Err(problems) => panic!("{problems:?}"),
    }
}

/// The places and codes of a configuration's problems.
fn problems(kind: &str, config: &Value) -> Vec<String> {
    let kind = KINDS.iter().find(|known| known.name == kind).expect("it is known");
    let problems = (kind.plan)(config).err().unwrap_or_default();
    problems.iter().map(|problem| format!("{}: {}", problem.path.join("."), problem.code)).collect()
}
