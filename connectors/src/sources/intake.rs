//! Takes in records that nobody keeps: they are durable in the source's topic before their sender is told so, and before
//! anything else sees them.
//!
//! ```text
//! receiver ── room ─► hand_over(messages, done) ─► queue ─► a thread: append([all that wait]) ─► done(outcome)
//!    ▲ (bytes; none left: the sender waits or comes again)                                            │
//!    └────────────────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//! A receiver may take a record twice: its sender repeats what was not confirmed. The topic holds both; a `deduplicate`
//! step removes them.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use millstream_engine::time::Clock;
use millstream_engine::{Fault, Result, failpoint};
use tokio::runtime::Runtime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinHandle;

use crate::broker::{Append, Broker, Failure, Message, Producer};

/// Bytes that a receiver has taken and that are not durable yet, at most.
pub(super) const ROOM_BYTES: usize = 64 << 20;
/// What a record takes besides its own bytes.
pub(super) const RECORD_BYTES: usize = 128;
/// Bytes in one append, about.
const APPEND_BYTES: usize = 4 << 20;
/// How long is waited between two attempts at what may be repeated: at first, and at most.
const PAUSE: [Duration; 2] = [Duration::from_millis(20), Duration::from_secs(1)];
/// How long a receiver that ends may take to finish what it has begun.
const GRACE: Duration = Duration::from_secs(5);

/// What a receiver is started with.
#[derive(Clone)]
pub struct Inlet {
    /// The id of its producers, `PIPELINE.SOURCE`: a newer one with the same id takes over.
    pub id: String,
    /// The topic that it fills.
    pub topic: String,
    /// Where that is.
    pub broker: Arc<dyn Broker>,
    /// Stamps the records with when they came.
    pub clock: Arc<dyn Clock>,
    /// Told why it cannot go on.
    pub fail: Arc<dyn Fn(Fault) + Send + Sync>,
}

/// A receiver at work. Dropped, it takes nothing more, makes durable what it has taken, and ends.
pub struct Receiver {
    /// Where it listens, if it does.
    pub address: Option<SocketAddr>,
    runtime: Option<Runtime>,
    task: Option<JoinHandle<()>>,
    stop: watch::Sender<bool>,
    /// Ends after the tasks, which hand over to it.
    _writing: Writing,
}

impl Receiver {
    /// Runs `work`, which has the intake's only handles, until it ends or is told to stop.
    pub(super) fn spawn(
        runtime: Runtime,
        writing: Writing,
        stop: watch::Sender<bool>,
        inlet: &Inlet,
        work: impl Future<Output = Result<()>> + Send + 'static,
    ) -> Self {
        let work = runtime.spawn(work);
        let (id, fail) = (inlet.id.clone(), inlet.fail.clone());
        let task = runtime.spawn(async move {
            match work.await {
                Ok(Ok(())) => {}
                Ok(Err(fault)) => fail(fault),
                Err(error) => fail(Fault::ours(format!("the receiver of `{id}` broke down")).because(error)),
            }
        });
        Self { address: None, runtime: Some(runtime), task: Some(task), stop, _writing: writing }
    }

    /// Says where it listens.
    pub(super) fn at(mut self, address: SocketAddr) -> Self {
        self.address = Some(address);
        self
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let (Some(runtime), Some(task)) = (self.runtime.take(), self.task.take()) {
            // What is cut off here was never confirmed.
            drop(runtime.block_on(async { tokio::time::timeout(GRACE, task).await }));
            runtime.shutdown_background();
        }
    }
}

/// A runtime with one thread.
pub(super) fn runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| Fault::world("a receiver's thread cannot be started").because(error))
}

/// What became of records that were handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// They are in the topic.
    Durable,
    /// They may be in the topic or not: the sender has to repeat them.
    Unknown,
}

/// Who repeats an append that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeats {
    /// The sender, who is told at once.
    Sender,
    /// The intake, until it works or the receiver ends: what was taken first stays first.
    Intake,
}

/// A part of the room, until what takes it is durable or given up.
pub(super) struct Room(OwnedSemaphorePermit);

impl Room {
    /// More of it.
    pub(super) fn and(mut self, other: Self) -> Self {
        self.0.merge(other.0);
        self
    }
}

/// Where receivers hand over; clones share everything.
#[derive(Clone)]
pub(super) struct Intake {
    queue: mpsc::Sender<Batch>,
    room: Arc<Semaphore>,
}

type Done = Box<dyn FnOnce(Outcome) + Send>;

struct Batch {
    messages: Vec<Message>,
    done: Done,
    room: Room,
}

impl Intake {
    /// Starts a producer, which fences those of an older run, and the thread that appends.
    pub(super) fn start(inlet: &Inlet, repeats: Repeats) -> Result<(Self, Writing)> {
        let (queue, waiting) = mpsc::channel();
        let closing = Arc::new(AtomicBool::new(false));
        let producer = inlet.broker.producer(&inlet.id)?;
        let writer = Writer {
            inlet: inlet.clone(),
            repeats,
            producer: Some(producer),
            closing: closing.clone(),
            troubled: false,
            fenced: false,
        };
        let thread = thread::Builder::new()
            .name(format!("intake {}", inlet.id))
            .spawn(move || writer.run(&waiting))
            .map_err(|error| Fault::world("the intake's thread cannot be started").because(error))?;
        let room = Arc::new(Semaphore::new(ROOM_BYTES));
        Ok((Self { queue, room }, Writing { thread: Some(thread), closing }))
    }

    /// Room for so many bytes, if there is any now.
    pub(super) fn try_room(&self, bytes: usize) -> Option<Room> {
        self.room.clone().try_acquire_many_owned(permits(bytes)).ok().map(Room)
    }

    /// Room for so many bytes, once there is; `None` never comes while the receiver lives.
    pub(super) async fn room(&self, bytes: usize) -> Option<Room> {
        self.room.clone().acquire_many_owned(permits(bytes)).await.ok().map(Room)
    }

    /// Appends the messages after those that were handed over before; `done` is called in that order, too, and must
    /// not wait.
    pub(super) fn hand_over(&self, messages: Vec<Message>, room: Room, done: impl FnOnce(Outcome) + Send + 'static) {
        let batch = Batch { messages, done: Box::new(done), room };
        if let Err(mpsc::SendError(batch)) = self.queue.send(batch) {
            (batch.done)(Outcome::Unknown);
        }
    }
}

fn permits(bytes: usize) -> u32 {
    bytes.min(ROOM_BYTES) as u32
}

/// The thread that appends. It ends when there is no [`Intake`] any more and all that was handed over has an outcome;
/// dropping this waits for it.
pub(super) struct Writing {
    thread: Option<thread::JoinHandle<()>>,
    closing: Arc<AtomicBool>,
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // Its panic has been printed, and nothing it held was confirmed.
            drop(thread.join());
        }
    }
}

struct Writer {
    inlet: Inlet,
    repeats: Repeats,
    /// None after an append whose outcome is open: only a newer producer can go on.
    producer: Option<Box<dyn Producer>>,
    closing: Arc<AtomicBool>,
    /// Whether the last append failed.
    troubled: bool,
    fenced: bool,
}

impl Writer {
    fn run(mut self, waiting: &mpsc::Receiver<Batch>) {
        while let Ok(first) = waiting.recv() {
            let mut bytes = first.bytes();
            let mut group = vec![first];
            // After a failure one at a time, so that one that is refused does not take others with it.
            while !self.troubled
                && bytes < APPEND_BYTES
                && let Ok(next) = waiting.try_recv()
            {
                bytes += next.bytes();
                group.push(next);
            }
            let messages = group.iter_mut().flat_map(|batch| std::mem::take(&mut batch.messages)).collect();
            let outcome = self.write(&[Append { topic: self.inlet.topic.clone(), messages }]);
            for Batch { done, room, .. } in group {
                // Who is told finds the room free.
                drop(room);
                done(outcome);
            }
        }
    }

    fn write(&mut self, appends: &[Append]) -> Outcome {
        let mut pause = PAUSE[0];
        while !self.fenced {
            let Err(fault) = self.append(appends) else {
                if std::mem::take(&mut self.troubled) {
                    eprintln!("{}: records can be kept again", self.inlet.id);
                }
                return Outcome::Durable;
            };
            if Failure::of(&fault) == Failure::Fenced {
                self.fenced = true;
                (self.inlet.fail)(fault);
                break;
            }
            if !std::mem::replace(&mut self.troubled, true) {
                eprintln!("{}: records cannot be kept: {fault}; trying again", self.inlet.id);
            }
            if self.repeats == Repeats::Sender || self.closing.load(Ordering::SeqCst) {
                break;
            }
            thread::park_timeout(pause);
            pause = (2 * pause).min(PAUSE[1]);
        }
        Outcome::Unknown
    }

    fn append(&mut self, appends: &[Append]) -> Result<()> {
        let mut producer = match self.producer.take() {
            Some(producer) => producer,
            None => self.inlet.broker.producer(&self.inlet.id)?,
        };
        let outcome = failpoint::around("intake.append", || producer.append(appends));
        if outcome.as_ref().err().is_none_or(|fault| fault.retry) {
            self.producer = Some(producer);
        }
        outcome
    }
}

impl Batch {
    fn bytes(&self) -> usize {
        self.messages.iter().map(|message| message.bytes() + RECORD_BYTES).sum()
    }
}

#[cfg(test)]
mod tests {
    use millstream_engine::time::StepClock;

    use super::*;
    use crate::broker::simulated::{Injected, Operation, Simulated};

    fn message(text: String) -> Message {
        Message { value: Some(text.into_bytes()), ..Message::default() }
    }

    #[test]
    fn what_waits_together_is_appended_together() {
        let broker = Simulated::new();
        broker.create("t", 1).expect("it is new");
        let (reach, reached) = mpsc::channel();
        let (go, gone) = mpsc::channel::<()>();
        broker.inject(move |call| {
            if call.operation == Operation::Commit {
                reach.send(()).expect("the test counts");
                gone.recv().expect("the test lets go");
            }
            Injected::Nothing
        });
        let inlet = Inlet {
            id: "p.s".to_owned(),
            topic: "t".to_owned(),
            broker: Arc::new(broker.clone()),
            clock: Arc::new(StepClock::new(0, 0)),
            fail: Arc::new(|fault| panic!("{fault}")),
        };
        let (intake, writing) = Intake::start(&inlet, Repeats::Sender).expect("the broker is there");
        let (tell, told) = mpsc::channel();
        let hand_over = |number: usize| {
            let tell = tell.clone();
            let done = move |outcome| tell.send((number, outcome)).expect("the test waits");
            intake.hand_over(vec![message(number.to_string())], intake.try_room(1).expect("there is room"), done);
        };
        hand_over(0);
        reached.recv().expect("the first is being committed");
        (1..100).for_each(hand_over);
        go.send(()).expect("it waits");
        reached.recv().expect("the second append");
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [(0, Outcome::Durable)]);
        assert_eq!(intake.room.available_permits(), ROOM_BYTES - 99);
        go.send(()).expect("it waits");
        let outcomes: Vec<_> = told.iter().take(99).collect();
        assert!(outcomes.into_iter().eq((1..100).map(|number| (number, Outcome::Durable))), "in order");
        assert_eq!(intake.room.available_permits(), ROOM_BYTES);
        drop((intake, writing));
        assert_eq!(reached.try_iter().count(), 0, "two appends were enough");
    }
}
