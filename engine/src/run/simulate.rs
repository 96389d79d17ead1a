//! One schedule: the parts take their turns one after another, in the order in which somebody picks them.
//!
//! Nothing else decides what a part does in its turn: no clock is looked at, nothing waits, and no two threads run at a
//! time. So the same picks over the same world (sources, commit, [`Clock`](crate::time::Clock)) always give the same run.
//! Idle times are the exception: sources of a graph that is simulated should have none that a test could reach.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use timely::communication::{WorkerGuards, initialize};
use timely::worker::Worker;
use timely::{CommunicationConfig, WorkerConfig};

use crate::book::Book;
use crate::fault::{Fault, Result};
use crate::graph::Graph;
use crate::publish::Commit;
use crate::run::worker::{Mounted, Start, clear};
use crate::run::{Parts, Settings, Turn, guard};

/// Who can be given a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Actor {
    /// The reader of the source with this index.
    Reader(usize),
    /// The binder.
    Binder,
    /// The worker with this index.
    Worker(usize),
    /// The publisher.
    Publisher,
    /// What writes checkpoints.
    Writer,
}

impl fmt::Display for Actor {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Actor::Reader(source) => write!(out, "the reader of source {source}"),
            Actor::Binder => write!(out, "the binder"),
            Actor::Worker(worker) => write!(out, "worker {worker}"),
            Actor::Publisher => write!(out, "the publisher"),
            Actor::Writer => write!(out, "the checkpoint writer"),
        }
    }
}

/// A run whose parts take a turn only when they are told to. To leave it alone for a while is to freeze the whole
/// process; to drop it is to kill it: nothing more is read, published or committed.
pub struct Simulation {
    book: Arc<Book>,
    /// Those that are not done.
    parts: BTreeMap<Actor, Part>,
    workers: Option<WorkerGuards<()>>,
}

type Part = Box<dyn FnMut() -> Turn + Send>;

impl Simulation {
    /// Gets everything ready; nothing is read or mounted yet.
    pub fn new(graph: Graph, settings: Settings, commit: Box<dyn Commit>) -> Result<Self> {
        let Parts { book, readers, mut binder, starts, lines: _, mut publisher, writer } =
            Parts::new(graph, settings, commit, false)?;
        let mut parts: BTreeMap<Actor, Part> = BTreeMap::new();
        for (at, mut reader) in readers.into_iter().enumerate() {
            parts.insert(Actor::Reader(at), Box::new(move || reader.turn()));
        }
        parts.insert(Actor::Binder, Box::new(move || binder.turn()));
        parts.insert(Actor::Publisher, Box::new(move || publisher.turn()));
        if let Some(mut writer) = writer {
            parts.insert(Actor::Writer, Box::new(move || writer.turn()));
        }
        let mut threads = Vec::new();
        for (at, start) in starts.into_iter().enumerate() {
            let (mut token, thread) = token(start);
            threads.push(Some(thread));
            parts.insert(Actor::Worker(at), Box::new(move || token.pass()));
        }
        let workers = threads.len();
        let threads = Mutex::new(threads);
        let workers = initialize(CommunicationConfig::Process(workers), move |allocator| {
            // Without a timer, an operator that asks to be woken later is woken at once.
            let mut worker = Worker::new(WorkerConfig::default(), allocator, None);
            let thread = threads.lock().expect("no worker panics while it starts")[worker.index()].take();
            thread.expect("each worker starts once").work(&mut worker);
        });
        let workers = workers.map_err(|error| Fault::ours(format!("the workers did not start: {error}")))?;
        Ok(Self { book, parts, workers: Some(workers) })
    }

    /// Who can be given a turn: all that are not done, always in the same order.
    pub fn actors(&self) -> impl Iterator<Item = Actor> {
        self.parts.keys().copied()
    }

    /// Gives a turn to a part. One that is done stays so.
    pub fn step(&mut self, actor: Actor) -> Turn {
        let Some(part) = self.parts.get_mut(&actor) else { return Turn::Done };
        let turn = guard(&self.book, &actor, part).unwrap_or(Turn::Done);
        if turn == Turn::Done {
            self.parts.remove(&actor);
            let publishes = |actor: &Actor| matches!(actor, Actor::Worker(_) | Actor::Publisher);
            if !self.parts.keys().any(publishes) {
                self.book.stop();
            }
        }
        turn
    }

    /// Whether all parts are done.
    pub fn is_done(&self) -> bool {
        self.parts.is_empty()
    }

    /// Signals into the run and out of it.
    pub fn book(&self) -> &Book {
        &self.book
    }

    /// How a run ended whose parts are all done; another is dropped.
    pub fn outcome(mut self) -> Result<()> {
        if !self.is_done() {
            return Err(Fault::ours("the run has not ended"));
        }
        self.end();
        self.book.take_fault().map_or(Ok(()), Err)
    }

    fn end(&mut self) {
        // Workers whose token is gone drop what they have.
        self.parts.clear();
        for outcome in self.workers.take().into_iter().flat_map(WorkerGuards::join) {
            if let Err(panic) = outcome {
                self.book.abort(Fault::ours(format!("a worker failed: {panic}")));
            }
        }
        self.book.stop();
    }
}

impl Drop for Simulation {
    fn drop(&mut self) {
        self.end();
    }
}

/// The caller's end of a worker. Timely's workers live on threads of their own, and run only while they are waited for.
struct Token {
    passes: Sender<()>,
    turns: Receiver<Turn>,
}

/// The worker's end.
struct TurnThread {
    start: Start,
    passes: Receiver<()>,
    turns: Sender<Turn>,
}

fn token(start: Start) -> (Token, TurnThread) {
    let (passes, passes_in) = mpsc::channel();
    let (turns_out, turns) = mpsc::channel();
    (Token { passes, turns }, TurnThread { start, passes: passes_in, turns: turns_out })
}

impl Token {
    /// Lets the worker take a turn.
    fn pass(&mut self) -> Turn {
        // A worker that is gone has failed, which is told when it is joined.
        self.passes.send(()).ok().and_then(|()| self.turns.recv().ok()).unwrap_or(Turn::Done)
    }
}

impl TurnThread {
    /// Mounts in the first turn, and steps once in each that follows.
    fn work(self, worker: &mut Worker) {
        let book = self.start.site.book.clone();
        let mut start = Some(self.start);
        let mut mounted = None;
        while self.passes.recv().is_ok() {
            let turn = guard(&book, &"a worker", || match (&mut mounted, start.take()) {
                (None, Some(start)) => match Mounted::new(worker, start) {
                    Ok(worker) => {
                        mounted = Some(worker);
                        Turn::Worked
                    }
                    Err(fault) => {
                        book.abort(fault);
                        Turn::Done
                    }
                },
                (Some(mounted), _) => mounted.turn(worker, Duration::ZERO),
                (None, None) => Turn::Done,
            });
            let turn = turn.unwrap_or(Turn::Done);
            if turn == Turn::Done {
                // Before it is told, so that the publisher sees at once that this worker is gone.
                mounted = None;
                clear(worker);
            }
            if self.turns.send(turn).is_err() || turn == Turn::Done {
                break;
            }
        }
        drop(mounted);
        clear(worker);
    }
}
