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
use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use millstream_engine::time::{Clock, Stopwatch};
use millstream_engine::{Fault, Result, failpoint};
use tokio::runtime::Runtime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinHandle;

use crate::broker::{Append, Broker, Failure, Message, Producer};

/// Bytes that a receiver has taken and that are not durable yet, at most.
pub const ROOM_BYTES: usize = 64 << 20;
/// What a record takes besides its own bytes.
pub const RECORD_BYTES: usize = 128;
/// Bytes in one append, about.
const APPEND_BYTES: usize = 4 << 20;
/// So many batches that wait are no longer few: they are appended at once.
const FEW: isize = 16;
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
    /// Fails if a newer run has taken over. Asked after an append whose outcome is open, before the new producer that then
    /// has to be made would fence that run's.
    pub is_ours: Arc<dyn Fn() -> Result<()> + Send + Sync>,
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
    /// End after the tasks, which hand over to them, have done what they could.
    _writings: Vec<Writing>,
}

impl Receiver {
    /// Runs `work`, which has the intakes' only handles, until it ends or is told to stop.
    pub fn spawn(
        runtime: Runtime,
        writings: Vec<Writing>,
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
        Self { address: None, runtime: Some(runtime), task: Some(task), stop, _writings: writings }
    }

    /// Says where it listens.
    #[must_use]
    pub fn at(mut self, address: SocketAddr) -> Self {
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
pub fn runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| Fault::world("a receiver's thread cannot be started").because(error))
}

/// What became of records that were handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// They are in the topic.
    Durable,
    /// They are not, and would be refused again.
    Refused,
    /// They may be in the topic or not: the sender has to repeat them.
    Unknown,
}

/// Who repeats an append that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeats {
    /// The sender, who is told at once.
    Sender,
    /// The intake, until it works or the receiver ends: what was taken first stays first. What is refused ends the run.
    Intake,
}

/// A part of the room, until what takes it is durable or given up.
pub struct Room(OwnedSemaphorePermit);

impl Room {
    /// More of it.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.0.merge(other.0);
        self
    }
}

/// Where receivers hand over; clones share everything.
#[derive(Clone)]
pub struct Intake {
    /// `None` is the end.
    queue: mpsc::Sender<Option<Batch>>,
    /// How many batches are in it, about: one is counted when it can be taken already.
    waiting: Arc<AtomicIsize>,
    /// Appends them.
    writer: thread::Thread,
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
    pub fn start(inlet: &Inlet, repeats: Repeats) -> Result<(Self, Writing)> {
        Self::paced(inlet, repeats, Duration::ZERO)
    }

    /// The same; between two appends `pace` goes by, at least, while few wait. What an append costs, and all that follows
    /// from it, is then shared by more; what comes after a rest does not wait.
    pub fn paced(inlet: &Inlet, repeats: Repeats, pace: Duration) -> Result<(Self, Writing)> {
        let (queue, batches) = mpsc::channel();
        let end = queue.clone();
        let waiting = Arc::new(AtomicIsize::new(0));
        let closing = Arc::new(AtomicBool::new(false));
        let producer = inlet.broker.producer(&inlet.id)?;
        let writer = Writer {
            inlet: inlet.clone(),
            repeats,
            producer: Some(producer),
            closing: closing.clone(),
            pace,
            waiting: waiting.clone(),
            troubled: false,
            ended: false,
        };
        let thread = thread::Builder::new()
            .name(format!("intake {}", inlet.id))
            .spawn(move || writer.run(&batches))
            .map_err(|error| Fault::world("the intake's thread cannot be started").because(error))?;
        let room = Arc::new(Semaphore::new(ROOM_BYTES));
        let writer = thread.thread().clone();
        Ok((Self { queue, waiting, writer, room }, Writing { thread: Some(thread), closing, end }))
    }

    /// Room for so many bytes, if there is any now.
    pub fn try_room(&self, bytes: usize) -> Option<Room> {
        self.room.clone().try_acquire_many_owned(permits(bytes)).ok().map(Room)
    }

    /// Room for so many bytes, once there is; `None` never comes while the receiver lives.
    pub async fn room(&self, bytes: usize) -> Option<Room> {
        self.room.clone().acquire_many_owned(permits(bytes)).await.ok().map(Room)
    }

    /// Appends the messages after those that were handed over before; `done` is called in that order, too, and must
    /// not wait.
    pub fn hand_over(&self, messages: Vec<Message>, room: Room, done: impl FnOnce(Outcome) + Send + 'static) {
        let batch = Batch { messages, done: Box::new(done), room };
        if let Err(mpsc::SendError(Some(batch))) = self.queue.send(Some(batch)) {
            (batch.done)(Outcome::Unknown);
        }
        if self.waiting.fetch_add(1, Ordering::SeqCst) + 1 == FEW {
            self.writer.unpark();
        }
    }
}

fn permits(bytes: usize) -> u32 {
    bytes.min(ROOM_BYTES) as u32
}

/// The thread that appends. Dropping this waits until all that was handed over before has an outcome, and ends it.
pub struct Writing {
    thread: Option<thread::JoinHandle<()>>,
    closing: Arc<AtomicBool>,
    end: mpsc::Sender<Option<Batch>>,
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::SeqCst);
        // Where nobody hears it, the thread has ended already.
        drop(self.end.send(None));
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
    /// See [`Intake::paced`].
    pace: Duration,
    /// How many batches wait.
    waiting: Arc<AtomicIsize>,
    /// Whether the last append failed.
    troubled: bool,
    /// Whether there is no more to be done: nothing is appended any more.
    ended: bool,
}

impl Writer {
    fn run(mut self, batches: &mpsc::Receiver<Option<Batch>>) {
        let (mut ends, mut last) = (false, None);
        while !ends && let Ok(Some(first)) = batches.recv() {
            self.rest(last);
            last = Some(Stopwatch::start());
            let mut bytes = first.bytes();
            let mut group = vec![first];
            while bytes < APPEND_BYTES
                && !ends
                && let Ok(next) = batches.try_recv()
            {
                ends = next.is_none();
                bytes += next.as_ref().map_or(0, Batch::bytes);
                group.extend(next);
            }
            self.waiting.fetch_sub(group.len() as isize, Ordering::SeqCst);
            self.write_all(group);
        }
    }

    /// Waits while the last append began not long enough ago, and those that wait are few.
    fn rest(&self, last: Option<Stopwatch>) {
        let Some(last) = last else { return };
        let is_due = || self.waiting.load(Ordering::SeqCst) >= FEW || self.closing.load(Ordering::SeqCst);
        while let left = self.pace.as_secs_f64() - last.seconds()
            && left > 0.0
            && !is_due()
        {
            thread::park_timeout(Duration::from_secs_f64(left));
        }
    }

    /// Appends what waits together at once; where that is refused one by one, so that one does not take others with it.
    fn write_all(&mut self, mut group: Vec<Batch>) {
        let lengths: Vec<usize> = group.iter().map(|batch| batch.messages.len()).collect();
        let messages = group.iter_mut().flat_map(|batch| std::mem::take(&mut batch.messages)).collect();
        let mut append = [Append { topic: self.inlet.topic.clone(), messages }];
        let outcome = self.write(&append, group.len() == 1);
        let alone = outcome == Outcome::Refused && group.len() > 1;
        let mut messages = std::mem::take(&mut append[0].messages).into_iter();
        for (Batch { done, room, .. }, length) in group.into_iter().zip(lengths) {
            let mut outcome = outcome;
            if alone {
                append[0].messages = messages.by_ref().take(length).collect();
                outcome = self.write(&append, true);
            }
            // Who is told finds the room free.
            drop(room);
            done(outcome);
        }
    }

    fn write(&mut self, appends: &[Append], alone: bool) -> Outcome {
        let mut pause = PAUSE[0];
        while !self.ended {
            let Err((failure, fault)) = self.append(appends) else {
                if std::mem::take(&mut self.troubled) {
                    eprintln!("{}: records can be kept again", self.inlet.id);
                }
                return Outcome::Durable;
            };
            match failure {
                Failure::Refused if !alone => return Outcome::Refused,
                Failure::Refused if self.repeats == Repeats::Sender => {
                    eprintln!("{}: records cannot be kept: {fault}", self.inlet.id);
                    return Outcome::Refused;
                }
                Failure::Refused | Failure::Fenced => {
                    self.ended = true;
                    let message = format!("{} cannot keep its records: {fault}", self.inlet.id);
                    (self.inlet.fail)(Fault { message, ..fault });
                    break;
                }
                Failure::Again | Failure::Open => {}
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

    fn append(&mut self, appends: &[Append]) -> Result<(), (Failure, Fault)> {
        let mut producer = match self.producer.take() {
            Some(producer) => producer,
            None => self.renew()?,
        };
        let outcome = failpoint::around("intake.append", || producer.append(appends));
        let outcome = outcome.map_err(|fault| (Failure::of(&fault), fault));
        if !matches!(outcome, Err((Failure::Open | Failure::Fenced, _))) {
            self.producer = Some(producer);
        }
        outcome
    }

    /// A producer in place of one whose append has an open outcome.
    fn renew(&self) -> Result<Box<dyn Producer>, (Failure, Fault)> {
        (self.inlet.is_ours)().map_err(|fault| {
            let failure = if fault.retry { Failure::Again } else { Failure::Fenced };
            (failure, fault)
        })?;
        // Whatever keeps a producer from starting may pass.
        self.inlet.broker.producer(&self.inlet.id).map_err(|fault| (Failure::Again, fault))
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
    use crate::broker::embedded::Embedded;
    use crate::broker::simulated::{Injected, Operation, Simulated};

    fn start(broker: Arc<dyn Broker>) -> (Intake, Writing) {
        paced(broker, Duration::ZERO)
    }

    fn paced(broker: Arc<dyn Broker>, pace: Duration) -> (Intake, Writing) {
        broker.create("t", 1).expect("it is new");
        let inlet = Inlet {
            id: "p.s".to_owned(),
            topic: "t".to_owned(),
            broker,
            clock: Arc::new(StepClock::new(0, 0)),
            is_ours: Arc::new(|| Ok(())),
            fail: Arc::new(|fault| panic!("{fault}")),
        };
        Intake::paced(&inlet, Repeats::Sender, pace).expect("the broker is there")
    }

    fn hand_over(intake: &Intake, text: String, done: impl FnOnce(Outcome) + Send + 'static) {
        let message = Message { value: Some(text.into_bytes()), ..Message::default() };
        intake.hand_over(vec![message], intake.try_room(1).expect("there is room"), done);
    }

    #[test]
    fn what_waits_together_is_appended_together() {
        let broker = Simulated::new();
        let (reach, reached) = mpsc::channel();
        let (go, gone) = mpsc::channel::<()>();
        broker.inject(move |call| {
            if call.operation == Operation::Commit {
                reach.send(()).expect("the test counts");
                gone.recv().expect("the test lets go");
            }
            Injected::Nothing
        });
        let (intake, writing) = start(Arc::new(broker));
        let (tell, told) = mpsc::channel();
        let hand_over = |number: usize| {
            let tell = tell.clone();
            let done = move |outcome| tell.send((number, outcome)).expect("the test waits");
            hand_over(&intake, number.to_string(), done);
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

    #[test]
    fn a_paced_intake_waits_for_others_where_few_wait_and_not_for_ever() {
        let broker = Simulated::new();
        let (count, appends) = mpsc::channel();
        broker.inject(move |call| {
            if call.operation == Operation::Commit {
                count.send(()).expect("the test counts");
            }
            Injected::Nothing
        });
        let few = FEW as usize;
        // Longer than any test takes.
        let (intake, writing) = paced(Arc::new(broker), Duration::from_secs(1_000_000));
        let (tell, told) = mpsc::channel();
        let hand_over = |number: usize| {
            let tell = tell.clone();
            hand_over(&intake, number.to_string(), move |_| tell.send(number).expect("the test waits"));
        };
        hand_over(0);
        assert_eq!(told.recv(), Ok(0), "after a rest, one does not wait");
        (1..=few).for_each(hand_over);
        assert!(told.iter().take(few).eq(1..=few), "many do not wait");
        (few + 1..few + 4).for_each(hand_over);
        drop((intake, writing));
        assert!(told.try_iter().eq(few + 1..few + 4), "in the end, nobody waits");
        assert_eq!(appends.try_iter().count(), 3);
    }

    #[test]
    fn one_that_is_refused_does_not_take_others_with_it() {
        let folder = tempfile::tempdir().expect("a folder for the test");
        let broker = Embedded::open(folder.path()).expect("the folder is new").with_max_record_bytes(3);
        let broker = Arc::new(broker);
        let (intake, _writing) = start(broker.clone());
        // The first one's outcome is waited for, so the others come together.
        let (go, gone) = mpsc::channel::<()>();
        hand_over(&intake, "1".to_owned(), move |_| gone.recv().expect("the test lets go"));
        let (tell, told) = mpsc::channel();
        for text in ["a", "large", "b", "larger", "c"] {
            let tell = tell.clone();
            hand_over(&intake, text.to_owned(), move |outcome| tell.send((text, outcome)).expect("the test waits"));
        }
        go.send(()).expect("it waits");
        let outcomes: Vec<_> = told.iter().take(5).collect();
        let refused = |text: &str| if text.len() > 3 { Outcome::Refused } else { Outcome::Durable };
        assert!(outcomes.iter().all(|(text, outcome)| *outcome == refused(text)), "{outcomes:?}");
        let topic = broker.topic("t").expect("it can be asked").expect("it is there");
        assert_eq!(topic.partitions, [(0, 4)]);
    }
}
