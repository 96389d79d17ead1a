//! A broker in memory that fails on purpose: the oracle for exactly-once.
//!
//! ```text
//! append = begin ─► send (open, invisible) ─► commit ─► visible once no earlier transaction is open
//!            ▲            ▲                     ▲
//!            └── faults ──┴─────────────────────┘   before the effect, after it, or late
//! ```
//! It behaves as Kafka does where that matters: transactions leave marks in the log, so offsets have gaps; what is
//! behind an open transaction is hidden; a new producer aborts what its predecessor left open. There is no clock and no
//! chance: time is the number of operations, and faults come from a script.

mod log;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use millstream_engine::source::Position;
use millstream_engine::{Fault, Result};

use self::log::Log;
use super::partition::Partitioner;
use super::{Append, Broker, Fetched, Producer, Topic, TopicReader, check_topic, faults};

/// What a producer or reader is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// Starting a producer: fences its predecessors and aborts what they left open.
    Start,
    /// Beginning an append.
    Begin,
    /// Sending all its messages; or sending messages on their own.
    Send,
    /// Committing it.
    Commit,
    /// Reading.
    Read,
}

/// One call, as the script sees it.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// What is to be done.
    pub operation: Operation,
    /// The producer's id, or the topic that is read.
    pub who: &'a str,
    /// How many operations there were before, of any kind.
    pub at: u64,
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Injected {
    /// It works.
    #[default]
    Nothing,
    /// It fails and changes nothing. A commit or send that fails so is aborted: the append may be tried again.
    FailBefore,
    /// It works, but the caller is told that it failed: a lost acknowledgement.
    FailAfter,
    /// It fails without an effect that the caller could know of; what was begun stays open.
    Hang,
    /// Commits only: the caller is told that it failed, and the commit arrives after so many operations, unless a
    /// newer producer came first.
    Late(u64),
    /// Commits only: it works, but readers see it only after so many operations.
    Hide(u64),
}

type Script = Box<dyn FnMut(&Call<'_>) -> Injected + Send>;

/// The broker; clones share everything.
#[derive(Clone, Default)]
pub struct Simulated {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    log: Mutex<Log>,
    changed: Condvar,
    script: Mutex<Option<Script>>,
    /// See [`Simulated::allow_careless`].
    careless: AtomicBool,
}

impl Simulated {
    /// An empty broker that never fails.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks `script` about every call from now on. It may use the broker itself; those calls do not fail.
    pub fn inject(&self, script: impl FnMut(&Call<'_>) -> Injected + Send + 'static) {
        *self.shared.script.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(script));
    }

    /// No more faults.
    pub fn heal(&self) {
        *self.shared.script.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// From now on a producer goes on after an append whose outcome is open, as a broker cannot tell that it should not:
    /// what it begins then is part of whatever it has open.
    pub fn allow_careless(&self) {
        self.shared.careless.store(true, Ordering::SeqCst);
    }

    fn is_careless(&self) -> bool {
        self.shared.careless.load(Ordering::SeqCst)
    }

    /// How many operations there were.
    pub fn operations(&self) -> u64 {
        self.log().now
    }

    /// Forgets the records before `before`, as retention does.
    pub fn discard(&self, topic: &str, before: &[Position]) -> Result<()> {
        self.log().discard(topic, before)
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.shared.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an operation and asks the script what becomes of it.
    fn ask(&self, operation: Operation, who: &str) -> Injected {
        let at = self.log().tick();
        self.shared.changed.notify_all();
        // The script is away while it runs, so that it may use the broker itself.
        let script = self.shared.script.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut script) = script else {
            return Injected::Nothing;
        };
        let injected = script(&Call { operation, who, at });
        self.shared.script.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(script);
        injected
    }
}

impl Broker for Simulated {
    fn topics(&self) -> Result<Vec<Topic>> {
        Ok(self.log().topics())
    }

    fn topic(&self, name: &str) -> Result<Option<Topic>> {
        Ok(self.log().topics().into_iter().find(|topic| topic.name == name))
    }

    fn create(&self, name: &str, partitions: u32) -> Result<()> {
        check_topic(name, partitions)?;
        let has = self.log().create(name, partitions as usize);
        if has == partitions as usize { Ok(()) } else { Err(faults::other_partitions(name, has, partitions)) }
    }

    fn open(&self, topic: &str, from: &[Position]) -> Result<Box<dyn TopicReader>> {
        self.log().check(topic, from)?;
        Ok(Box::new(Reader { broker: self.clone(), topic: topic.to_owned(), cursors: from.to_vec(), turn: 0 }))
    }

    fn producer(&self, id: &str) -> Result<Box<dyn Producer>> {
        let injected = self.ask(Operation::Start, id);
        if matches!(injected, Injected::FailBefore | Injected::Hang) {
            return Err(Fault::retry(format!("simulated: producer `{id}` could not start")));
        }
        let epoch = self.log().start(id);
        self.shared.changed.notify_all();
        if injected != Injected::Nothing {
            return Err(Fault::retry(format!("simulated: no answer to the start of producer `{id}`")));
        }
        let partitioner = Partitioner::default();
        Ok(Box::new(Appender { broker: self.clone(), id: id.to_owned(), epoch, partitioner, open_outcome: false }))
    }
}

struct Appender {
    broker: Simulated,
    id: String,
    epoch: u64,
    partitioner: Partitioner,
    open_outcome: bool,
}

impl Appender {
    fn steps(&mut self, appends: &[Append]) -> Result<()> {
        let begin = self.broker.ask(Operation::Begin, &self.id);
        self.fail(begin, Operation::Begin)?;
        let transaction = self.broker.log().begin(&self.id, self.epoch, self.broker.is_careless())?;

        let send = self.broker.ask(Operation::Send, &self.id);
        if send != Injected::FailBefore && send != Injected::Hang {
            let outcome = self.broker.log().send((&self.id, self.epoch), transaction, appends, &mut self.partitioner);
            outcome.inspect_err(|_| self.broker.log().abort(transaction))?;
        }
        self.fail(send, Operation::Send).inspect_err(|fault| self.abort_if(fault.retry, transaction))?;

        let commit = self.broker.ask(Operation::Commit, &self.id);
        match commit {
            Injected::FailBefore | Injected::Hang => {}
            Injected::Late(operations) => self.broker.log().commit_late(&self.id, self.epoch, operations),
            Injected::Hide(operations) => self.broker.log().commit(&self.id, self.epoch, transaction, operations)?,
            Injected::Nothing | Injected::FailAfter => {
                self.broker.log().commit(&self.id, self.epoch, transaction, 0)?;
            }
        }
        self.broker.shared.changed.notify_all();
        self.fail(commit, Operation::Commit).inspect_err(|fault| self.abort_if(fault.retry, transaction))
    }

    fn abort_if(&self, abort: bool, transaction: usize) {
        if abort {
            self.broker.log().abort(transaction);
        }
    }

    /// What the caller is told.
    fn fail(&mut self, injected: Injected, operation: Operation) -> Result<()> {
        let what = format!("simulated: {operation:?} of producer `{}`", self.id);
        match injected {
            Injected::Nothing | Injected::Hide(_) => Ok(()),
            Injected::FailBefore => Err(Fault::retry(format!("{what} failed"))),
            Injected::FailAfter | Injected::Hang | Injected::Late(_) => {
                self.open_outcome = true;
                Err(Fault::world(format!("{what} timed out")))
            }
        }
    }
}

impl Producer for Appender {
    fn append(&mut self, appends: &[Append]) -> Result<()> {
        if self.open_outcome && !self.broker.is_careless() {
            return Err(faults::open_outcome(&self.id));
        }
        self.steps(appends)
    }

    fn send(&mut self, appends: &[Append]) -> Result<()> {
        let injected = self.broker.ask(Operation::Send, &self.id);
        let what = || format!("simulated: {:?} of producer `{}`", Operation::Send, self.id);
        match injected {
            Injected::FailBefore => return Err(Fault::retry(format!("{} failed", what()))),
            Injected::Hang => return Err(Fault::world(format!("{} timed out", what()))),
            Injected::Nothing | Injected::FailAfter | Injected::Late(_) | Injected::Hide(_) => {}
        }
        self.broker.log().send_alone(appends, &mut self.partitioner)?;
        self.broker.shared.changed.notify_all();
        if matches!(injected, Injected::FailAfter | Injected::Late(_)) {
            return Err(Fault::world(format!("{} timed out", what())));
        }
        Ok(())
    }
}

struct Reader {
    broker: Simulated,
    topic: String,
    cursors: Vec<Position>,
    turn: usize,
}

impl Reader {
    fn next(&mut self, log: &Log, max_bytes: usize) -> Result<Option<Fetched>> {
        for step in 0..self.cursors.len() {
            let at = (self.turn + step) % self.cursors.len();
            if let Some(fetched) = log.read(&self.topic, &mut self.cursors[at], max_bytes)? {
                self.turn = (at + 1) % self.cursors.len();
                return Ok(Some(fetched));
            }
        }
        Ok(None)
    }
}

impl TopicReader for Reader {
    fn read(&mut self, max_bytes: usize, wait: Duration) -> Result<Option<Fetched>> {
        let what = || format!("simulated: read of topic `{}`", self.topic);
        match self.broker.ask(Operation::Read, &self.topic) {
            Injected::Nothing => {}
            Injected::FailBefore | Injected::FailAfter => return Err(Fault::retry(format!("{} failed", what()))),
            Injected::Hang | Injected::Late(_) | Injected::Hide(_) => return Ok(None),
        }
        let deadline = Instant::now() + wait;
        let broker = self.broker.clone();
        let mut log = broker.log();
        loop {
            if let Some(fetched) = self.next(&log, max_bytes)? {
                return Ok(Some(fetched));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            log = broker.shared.changed.wait_timeout(log, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn ends(&mut self) -> Result<Vec<Position>> {
        self.broker.log().ends(&self.topic, &self.cursors)
    }
}

#[cfg(test)]
mod tests;
