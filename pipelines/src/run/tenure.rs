//! One run at a time writes a topic of its pipeline, and knows for certain what was written before it.
//!
//! ```text
//! fence ─► append `start` ─► read up to it ─► append ─► append ─✗ nobody knows
//!   ▲                                                           │
//!   └──────────── no newer `start` of somebody else ◄───────────┘
//! ```
//! A run's own `start` makes the end definite: whoever was fenced can add nothing, and a reader that has come to it has
//! seen all there is, however slow the broker. Its offset is the run's incarnation.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arrow::array::Array;
use millstream_connectors::broker::{Append, Broker, Failure, Fetched, Message, Producer};
use millstream_engine::raw::Payload;
use millstream_engine::source::Position;
use millstream_engine::{Fault, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Bytes in a read.
const READ_BYTES: usize = 8 << 20;
/// A read waits this long, twice as long after each that gave nothing, and so often in a row for what is known to be
/// there; then the broker is taken to be away.
const READ_WAIT: Duration = Duration::from_millis(2);
const READ_WAIT_MAX: Duration = Duration::from_millis(128);
const EMPTY_READS_MAX: u32 = 300;
/// As often the run looks for what may not be there.
const LOOKS_MAX: u32 = 30;
/// So often the run asks how far the topic has come, so that little is read back.
const ASK_APPENDS: u64 = 256;
/// Appends in a row whose outcome was open although producers could be started: there is something else.
const LOST_MAX: u32 = 16;

/// A run's right to write a topic.
pub struct Tenure {
    broker: Arc<dyn Broker>,
    topic: String,
    /// Unique to this run.
    run: String,
    /// What the run's starts say besides.
    says: Map<String, Value>,
    now_ms: i64,
    /// How many starts this run has tried to append.
    starts: u64,
    incarnation: u64,
    /// All records before this one are known.
    seen: u64,
    /// How many appends there were.
    appends: u64,
    /// `None` after an append whose outcome is open.
    producer: Option<Box<dyn Producer>>,
    /// How many such appends there were in a row.
    lost: u32,
    /// See [`Sabotage::RetryInSameProducerEpoch`](super::sabotage::Sabotage).
    careless: bool,
}

/// A record of the topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it is.
    pub offset: u64,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value; empty for a tombstone.
    pub value: Vec<u8>,
}

/// What became of an append.
#[derive(Debug)]
#[must_use]
pub enum Appended {
    /// It is durable.
    Done,
    /// Nobody knows: [`Tenure::renew`] tells.
    Lost,
}

/// What tells starts apart.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Token {
    kind: String,
    run: String,
    number: u64,
}

/// How a token's record is called.
pub const START: &str = "start";

impl Token {
    fn of(entry: &Entry) -> Option<Self> {
        // What has a key is something else: a feed's position.
        let token: Self = entry.key.is_none().then(|| serde_json::from_slice(&entry.value).ok())??;
        (token.kind == START).then_some(token)
    }
}

impl Tenure {
    /// Takes over the topic from whoever had it. `says` is what the `start` tells besides who started.
    pub fn take(broker: Arc<dyn Broker>, topic: &str, says: Map<String, Value>, now_ms: i64) -> Result<Self> {
        static RUNS: AtomicU64 = AtomicU64::new(0);
        let run = format!("{now_ms}-{}-{}", std::process::id(), RUNS.fetch_add(1, Ordering::Relaxed));
        let (topic, seen) = (topic.to_owned(), 0);
        let mut tenure = Self {
            broker,
            topic,
            run,
            says,
            now_ms,
            starts: 0,
            incarnation: 0,
            seen,
            appends: 0,
            producer: None,
            lost: 0,
            careless: false,
        };
        let producer = tenure.start()?;
        tenure.producer = Some(producer);
        tenure.seen = tenure.incarnation + 1;
        Ok(tenure)
    }

    /// From now on, it does not ask what became of an append.
    #[doc(hidden)]
    pub fn be_careless(&mut self) {
        self.careless = true;
    }

    /// The topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The offset of the run's newest start.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// An offset that whatever is appended next does not lie before; not far from the end.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// Whether an append's outcome is open.
    pub fn is_lost(&self) -> bool {
        self.producer.is_none()
    }

    /// The first offset that is kept.
    pub fn first(&self) -> Result<u64> {
        range(&*self.broker, &self.topic).map(|(first, _)| first)
    }

    /// Calls `each` with all records from `from` on that were there when the run took over. In a topic that is shorter
    /// than that, there are none.
    pub fn read(&self, from: u64, mut each: impl FnMut(Entry) -> Result<()>) -> Result<()> {
        if from >= self.incarnation {
            return Ok(());
        }
        self.read_until(from, |entry| {
            let ended = entry.offset >= self.incarnation;
            if ended { Ok(true) } else { each(entry).map(|()| false) }
        })
    }

    /// Appends all, or nothing. A fault that is to be [retried](Fault::retry) changes nothing.
    pub fn append(&mut self, appends: &[Append]) -> Result<Appended> {
        // Asked before an append that works: so nobody else has started by then.
        let asks = self.appends.is_multiple_of(ASK_APPENDS);
        let end = asks.then(|| range(&*self.broker, &self.topic).ok()).flatten();
        let appended = self.produce(|producer| producer.append(appends))?;
        if let Appended::Done = appended {
            self.appends += 1;
            self.seen = end.map_or(self.seen, |(_, end)| self.seen.max(end));
        }
        Ok(appended)
    }

    /// Sends messages on their own: see [`Producer::send`].
    pub fn send(&mut self, appends: &[Append]) -> Result<Appended> {
        self.produce(|producer| producer.send(appends))
    }

    fn produce(&mut self, act: impl FnOnce(&mut dyn Producer) -> Result<()>) -> Result<Appended> {
        let Some(producer) = &mut self.producer else { return Ok(Appended::Lost) };
        let Err(fault) = act(&mut **producer) else {
            self.lost = 0;
            return Ok(Appended::Done);
        };
        match Failure::of(&fault) {
            Failure::Again | Failure::Refused => Err(fault),
            Failure::Fenced => Err(self.taken_over(&fault.to_string())),
            Failure::Open if self.careless => Err(Fault { retry: true, ..fault }),
            Failure::Open if self.lost >= LOST_MAX => Err(fault),
            Failure::Open => {
                eprintln!("{}: {fault}; what became of it is read back", self.topic);
                self.producer = None;
                self.lost += 1;
                Ok(Appended::Lost)
            }
        }
    }

    /// Goes on after an append whose outcome was open: gives the last records, all that it may have added among them, and
    /// nothing can be added by the producer that was lost. A fault that is to be retried leaves everything as it was.
    pub fn renew(&mut self) -> Result<Vec<Entry>> {
        // A run that was replaced while it slept must not fence the one that goes on.
        self.look()?;
        let producer = self.start()?;
        let mut tail = Vec::new();
        self.read(self.seen, |entry| {
            self.check(&entry)?;
            tail.push(entry);
            Ok(())
        })?;
        self.seen = self.incarnation + 1;
        self.producer = Some(producer);
        tail.retain(|entry| Token::of(entry).is_none());
        Ok(tail)
    }

    /// Fences, appends a start, and finds it.
    fn start(&mut self) -> Result<Box<dyn Producer>> {
        let mut producer = self.broker.producer(&self.topic)?;
        // The start comes after whatever is there now.
        let (_, end) = range(&*self.broker, &self.topic)?;
        let token = Token { kind: START.to_owned(), run: self.run.clone(), number: self.starts };
        self.starts += 1;
        let mut value = self.says.clone();
        value.insert("kind".to_owned(), token.kind.clone().into());
        value.insert("run".to_owned(), token.run.clone().into());
        value.insert("number".to_owned(), token.number.into());
        let message = Message {
            value: Some(Value::Object(value).to_string().into_bytes()),
            timestamp_ms: self.now_ms,
            ..Message::default()
        };
        let append = Append { topic: self.topic.clone(), messages: vec![message] };
        producer.append(&[append]).map_err(|fault| match Failure::of(&fault) {
            Failure::Fenced => self.taken_over(&fault.to_string()),
            // Whether it is there or not, another one may follow.
            Failure::Open => Fault { retry: true, ..fault },
            Failure::Again | Failure::Refused => fault,
        })?;
        let mut found = None;
        self.read_until(end, |entry| {
            found = (Token::of(&entry).as_ref() == Some(&token)).then_some(entry.offset);
            Ok(found.is_some())
        })?;
        self.incarnation = found.ok_or_else(|| Fault::ours("reading ends only at the start"))?;
        Ok(producer)
    }

    /// Halts if there is a newer start of somebody else, as far as can be told without a start of one's own.
    fn look(&self) -> Result<()> {
        look(&*self.broker, &self.topic, self.seen, |entry| self.check(&entry))
    }

    /// The same for others who append on behalf of this run.
    pub fn watch(&self) -> impl Fn() -> Result<()> + Send + Sync + 'static {
        let (broker, topic, run) = (self.broker.clone(), self.topic.clone(), self.run.clone());
        let from = self.incarnation;
        move || look(&*broker, &topic, from, |entry| check(&entry, &run, &topic))
    }

    fn check(&self, entry: &Entry) -> Result<()> {
        check(entry, &self.run, &self.topic)
    }

    fn taken_over(&self, why: &str) -> Fault {
        taken_over(&self.topic, why)
    }

    /// Reads on until `each` says that it was the last.
    fn read_until(&self, from: u64, mut each: impl FnMut(Entry) -> Result<bool>) -> Result<()> {
        let mut reader = self.broker.open(&self.topic, &[Position { partition: 0, offset: from }])?;
        let mut empty = 0;
        while empty < EMPTY_READS_MAX {
            let Some(fetched) = reader.read(READ_BYTES, patience(empty))? else {
                empty += 1;
                continue;
            };
            empty = 0;
            for entry in entries(&fetched)? {
                if each(entry)? {
                    return Ok(());
                }
            }
        }
        Err(Fault::retry(format!("{} cannot be read to its end: the broker gives nothing more", self.topic)))
    }
}

/// Fails if `entry` is the start of another run.
fn check(entry: &Entry, run: &str, topic: &str) -> Result<()> {
    match Token::of(entry) {
        Some(token) if token.run != run => {
            Err(taken_over(topic, &format!("it has started at offset {}", entry.offset)))
        }
        _ => Ok(()),
    }
}

fn taken_over(topic: &str, why: &str) -> Fault {
    Fault::world(format!("another run has taken over {topic}; this one ends here ({why})"))
}

/// Calls `each` with the records from `from` on that are there at present, as far as can be told without writing: whoever
/// writes may be about to add more.
pub fn look(broker: &dyn Broker, topic: &str, from: u64, mut each: impl FnMut(Entry) -> Result<()>) -> Result<()> {
    let mut reader = broker.open(topic, &[Position { partition: 0, offset: from }])?;
    let (mut next, mut empty) = (from, 0);
    while empty < LOOKS_MAX {
        if let Some(fetched) = reader.read(READ_BYTES, patience(empty))? {
            empty = 0;
            for entry in entries(&fetched)? {
                next = entry.offset + 1;
                each(entry)?;
            }
        } else if reader.ends()?.iter().all(|end| end.offset <= next) {
            break;
        } else {
            empty += 1;
        }
    }
    Ok(())
}

/// How long a read waits after so many that gave nothing.
fn patience(empty: u32) -> Duration {
    (READ_WAIT * (1 << empty.min(10))).min(READ_WAIT_MAX)
}

/// The first offset of a topic's partition 0 and the one after its last.
pub fn range(broker: &dyn Broker, topic: &str) -> Result<(u64, u64)> {
    let found = broker.topic(topic)?.ok_or_else(|| Fault::world(format!("there is no topic {topic}")))?;
    found.partitions.first().copied().ok_or_else(|| Fault::ours(format!("topic {topic} has no partition")))
}

fn entries(fetched: &Fetched) -> Result<Vec<Entry>> {
    let records = &fetched.records;
    let Payload::Bytes(values) = &records.payload else { return Err(Fault::ours("topics hold bytes")) };
    let entry = |row: usize| Entry {
        offset: records.offsets[row],
        key: records.key(row).map(<[u8]>::to_vec),
        value: if values.is_valid(row) { values.value(row).to_vec() } else { Vec::new() },
    };
    Ok((0..records.len()).map(entry).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use millstream_connectors::broker::simulated::{Injected, Operation, Simulated};

    use super::*;

    fn broker() -> Simulated {
        let broker = Simulated::new();
        broker.create("t", 1).expect("a new topic");
        broker
    }

    fn take(broker: &Simulated) -> Result<Tenure> {
        Tenure::take(Arc::new(broker.clone()), "t", Map::new(), 0)
    }

    fn append(text: &str) -> [Append; 1] {
        let message = Message { value: Some(text.as_bytes().to_vec()), ..Message::default() };
        [Append { topic: "t".to_owned(), messages: vec![message] }]
    }

    fn texts(entries: Vec<Entry>) -> Vec<String> {
        entries.into_iter().map(|entry| String::from_utf8(entry.value).expect("text")).collect()
    }

    /// What a run that starts now finds, without starts.
    fn found(broker: &Simulated) -> Vec<String> {
        let mut found = Vec::new();
        let tenure = take(broker).expect("no faults");
        let each = |entry: Entry| {
            found.extend(Token::of(&entry).is_none().then_some(entry));
            Ok(())
        };
        tenure.read(tenure.first().expect("no faults"), each).expect("no faults");
        texts(found)
    }

    /// The call at `at` of those that start, send and commit becomes `what`.
    fn script(broker: &Simulated, at: u64, what: Injected) {
        let first = broker.operations();
        broker.inject(move |call| if call.at == first + at { what } else { Injected::Nothing });
    }

    /// An append whose outcome is open is found, or made again; with any further fault in any call of the recovery.
    #[test]
    fn an_append_is_there_once_whatever_fails() {
        let kinds = [Injected::FailBefore, Injected::FailAfter, Injected::Hang, Injected::Late(3), Injected::Hide(3)];
        let mut reached = BTreeSet::new();
        for first in kinds {
            for second in kinds {
                for at in 0..12 {
                    let broker = broker();
                    let mut tenure = take(&broker).expect("no faults");
                    assert!(matches!(tenure.append(&append("a")), Ok(Appended::Done)));
                    let (mut calls, mut commits) = (0, 0);
                    broker.inject(move |call| {
                        commits += u64::from(call.operation == Operation::Commit);
                        calls += u64::from(commits > 0);
                        match calls {
                            1 => first,
                            _ if calls == at + 2 => second,
                            _ => Injected::Nothing,
                        }
                    });
                    let mut there = false;
                    for _ in 0..20 {
                        if tenure.is_lost() {
                            match tenure.renew() {
                                Ok(tail) => there = texts(tail).contains(&"b".to_owned()),
                                Err(fault) => assert!(fault.retry, "{first:?}, {second:?} at {at}: {fault}"),
                            }
                        } else if there {
                            break;
                        } else {
                            match tenure.append(&append("b")) {
                                Ok(Appended::Done) => there = true,
                                Ok(Appended::Lost) => {}
                                Err(fault) => assert!(fault.retry, "{first:?}, {second:?} at {at}: {fault}"),
                            }
                        }
                    }
                    broker.heal();
                    assert!(there, "{first:?}, {second:?} at {at}");
                    assert_eq!(found(&broker), ["a", "b"], "{first:?}, {second:?} at {at}");
                    reached.insert(tenure.starts);
                }
            }
        }
        assert!(reached.len() >= 3, "starts were tried again, too: {reached:?}");
    }

    #[test]
    fn a_fenced_run_ends() {
        let broker = broker();
        let mut zombie = take(&broker).expect("no faults");
        let mut heir = take(&broker).expect("no faults");
        let fault = zombie.append(&append("zombie")).map(|_| ()).expect_err("it is fenced");
        assert!(fault.message.starts_with("another run has taken over t; this one ends here"), "{fault}");
        assert!(matches!(heir.append(&append("heir")), Ok(Appended::Done)));
        assert_eq!(found(&broker), ["heir"]);
    }

    /// A run that does not know what became of its append, and was replaced meanwhile, must not fence its heir.
    #[test]
    fn a_lost_run_does_not_fence_its_heir() {
        let broker = broker();
        let mut zombie = take(&broker).expect("no faults");
        // Begin, send, then the commit.
        script(&broker, 2, Injected::Hang);
        assert!(matches!(zombie.append(&append("zombie")), Ok(Appended::Lost)));
        let mut heir = take(&broker).expect("no faults");
        let offset = heir.incarnation();
        let fault = zombie.renew().map(|_| ()).expect_err("it was replaced");
        let expected = format!("another run has taken over t; this one ends here (it has started at offset {offset})");
        assert_eq!((fault.message, fault.retry), (expected, false));
        assert!(matches!(heir.append(&append("heir")), Ok(Appended::Done)), "the heir is not fenced");
        assert_eq!(found(&broker), ["heir"]);
    }

    #[test]
    fn what_never_succeeds_is_not_tried_for_ever() {
        let broker = broker();
        let mut tenure = take(&broker).expect("no faults");
        // Starts carry no key, and work; nothing else can be committed.
        let mut starts = 0;
        broker.inject(move |call| match call.operation {
            Operation::Start => {
                starts += 1;
                Injected::Nothing
            }
            Operation::Commit if starts == 0 => Injected::Hang,
            Operation::Commit => {
                starts = 0;
                Injected::Nothing
            }
            _ => Injected::Nothing,
        });
        let outcome = (0..1000).find_map(|_| match tenure.append(&append("x")) {
            Ok(Appended::Lost) => tenure.renew().err(),
            Ok(Appended::Done) => panic!("no commit works"),
            Err(fault) => Some(fault),
        });
        assert!(outcome.expect("it gives up").message.contains("timed out"));
        assert_eq!(tenure.starts, u64::from(LOST_MAX) + 1);
    }

    #[test]
    fn whoever_watches_sees_another_run_and_only_that() {
        let broker = broker();
        let mut tenure = take(&broker).expect("no faults");
        let watch = tenure.watch();
        assert!(matches!(tenure.append(&append("a")), Ok(Appended::Done)));
        tenure.renew().expect("no faults");
        watch().expect("its own starts are none of another run");
        take(&broker).expect("no faults");
        let fault = watch().expect_err("there is another");
        assert!(fault.message.starts_with("another run has taken over t; this one ends here"), "{fault}");
        assert!(!fault.retry);
    }

    #[test]
    fn reading_can_begin_anywhere() {
        let broker = broker();
        let mut tenure = take(&broker).expect("no faults");
        for text in ["a", "b", "c"] {
            assert!(matches!(tenure.append(&append(text)), Ok(Appended::Done)));
        }
        let tenure = take(&broker).expect("no faults");
        let from = |offset| {
            let mut entries = Vec::new();
            let each = |entry| {
                entries.push(entry);
                Ok(())
            };
            tenure.read(offset, each).expect("no faults");
            entries.retain(|entry| Token::of(entry).is_none());
            entries
        };
        let all = from(0);
        let second = all[1].offset;
        assert_eq!(texts(all), ["a", "b", "c"]);
        assert_eq!(texts(from(second)), ["b", "c"]);
        assert_eq!(texts(from(1000)), [""; 0], "beyond the end");
    }
}
