//! Runs a graph: the parts of a run, and how they start and end.
//!
//! ```text
//! a reader for each source ─► intake ─► binder ─► workers (timely) ─► publisher ─► commit
//! ```
//! With workers in several processes, the others have workers only: see [`crate::processes`].
//!
//! Each part takes turns, and no turn waits for another part. So the very same parts run each on a thread of its own
//! ([`run`]), or in an order that somebody chooses ([`Simulation`]).

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use crate::binder::{Binder, Limits, Rebinding, Then, WorkerLine};
use crate::book::Book;
use crate::checkpoint::{Checkpoint, Checkpoints, Cutter, Writer};
use crate::fault::{Fault, Result};
use crate::graph::Graph;
pub use crate::intake::Skip;
use crate::intake::{Intake, SourceReader};
use crate::metrics::Metrics;
use crate::mount::Site;
use crate::processes::{First, Helpers, Lines};
use crate::publish::{Commit, Publisher, Recorded};
use crate::source::Position;
use crate::time::Clock;

mod simulate;
pub(crate) mod threads;
pub(crate) mod worker;

pub use simulate::{Actor, Simulation};
use worker::Start;

/// What came of a part's turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It did something; it may find more to do at once.
    Worked,
    /// It found nothing to do until another part, or the world, has done something.
    Waits,
    /// It failed, and is to try again after this long.
    Pauses(Duration),
    /// It will never do anything again.
    Done,
}

/// How to run a graph.
pub struct Settings {
    /// Timely workers in each process: threads.
    pub workers: usize,
    /// The processes, if there are several, of which this is the first.
    pub processes: Option<First>,
    /// How epochs are cut, and how much may be in flight.
    pub limits: Limits,
    /// The seed of all randomness.
    pub seed: u64,
    /// Where `now` comes from.
    pub clock: Arc<dyn Clock>,
    /// What the run tells.
    pub metrics: Arc<Metrics>,
    /// Signals into the run and out of it.
    pub book: Arc<Book>,
    /// End when this is true and all input is used up; `None` runs until it is stopped.
    pub finish: Option<Arc<AtomicBool>>,
    /// Where checkpoints are made, if they are.
    pub checkpoints: Option<Checkpoints>,
    /// The state to start from; without it, every operator starts empty and every source at its start.
    pub from: Option<Checkpoint>,
    /// What earlier runs committed, consecutive from the checkpoint's epoch, or from 0: it is replayed from the log, with nothing
    /// published, and must reach what was recorded.
    pub recorded: Vec<Recorded>,
    /// Records that are never taken.
    pub skip: Vec<Skip>,
    /// Whether to go on after the replay.
    pub live: bool,
}

/// Runs `graph` until it is stopped or its input is used up, and everything bound is published.
pub fn run(graph: Graph, settings: Settings, commit: Box<dyn Commit>) -> Result<()> {
    threads::run(Parts::new(graph, settings, commit, true)?)
}

/// The parts of a run, before they start.
struct Parts {
    book: Arc<Book>,
    readers: Vec<SourceReader>,
    binder: Binder,
    /// What the workers start with, in their order.
    starts: Vec<Start>,
    /// To the other processes, if there are any.
    lines: Option<Lines>,
    publisher: Publisher,
    /// Writes checkpoints, if any are made.
    writer: Option<Writer>,
}

impl Parts {
    /// Those of a run that waits and looks at a clock (`timed`), or that does neither.
    fn new(graph: Graph, settings: Settings, commit: Box<dyn Commit>, timed: bool) -> Result<Self> {
        let (graph, book, metrics) = (Arc::new(graph), settings.book, settings.metrics);
        let queue_bytes_max = settings.limits.max_bytes.max(8 << 20);
        let intake = Arc::new(Intake::new(book.clone(), queue_bytes_max, settings.skip, metrics.clone()));
        let from = settings.from.map(Arc::new);
        let offsets = from.as_ref().map_or_else(|| Ok(BTreeMap::new()), |from| from.offsets(&graph))?;
        let partitions = announce(&graph, &intake, &offsets)?;
        let resumed = from.as_ref().map(|from| from.manifest());
        let start = resumed.map_or(0, |manifest| manifest.epoch);
        let frontier = resumed.map(|manifest| manifest.frontier.clone()).unwrap_or_default();
        let threads = settings.workers;
        let processes = settings.processes.as_ref().map_or(1, |first| first.processes.addresses.len());
        book.resume(start, frontier.clone(), processes);
        let (handed, handed_in) = mpsc::channel();
        let handed = settings.checkpoints.is_some().then_some(handed);
        let (events, events_in) = mpsc::channel();
        let outgoing: Vec<_> = (1..processes).map(|_| mpsc::channel()).collect();
        let to_members = || outgoing.iter().map(|(line, _)| line.clone()).collect();
        let site = Site {
            graph: graph.clone(),
            book: book.clone(),
            metrics: metrics.clone(),
            events,
            partitions: Arc::new(partitions),
            handed: handed.clone(),
            from: from.clone(),
            worker: 0,
            workers: threads * processes,
            threads,
            helpers: (processes > 1).then(|| Helpers::new(to_members())),
        };
        let (mut workers, starts) = worker::starts(&site, 0..threads);
        let lines = settings.processes.map(|first| {
            for (line, _) in &outgoing {
                workers.extend((0..threads).map(|worker| WorkerLine::There(worker, line.clone())));
            }
            Lines { first, site, outgoing }
        });
        let readers = (0..).zip(&graph.sources).map(|(index, node)| {
            SourceReader::new(intake.clone(), index, node.name.clone(), node.source.clone(), timed)
        });
        let readers = readers.collect();
        let cutter = settings
            .checkpoints
            .as_ref()
            .zip(handed)
            .map(|(checkpoints, handed)| Cutter::new(checkpoints, book.clone(), handed, start, offsets));
        let binder = Binder {
            graph: graph.clone(),
            intake,
            book: book.clone(),
            limits: settings.limits,
            clock: settings.clock,
            seed: settings.seed,
            metrics: metrics.clone(),
            workers,
            replay: settings.recorded.iter().map(|recorded| Rebinding::new(recorded.binding.clone())).collect(),
            then: if settings.live { Then::Live } else { Then::Nothing },
            cutter,
            finish: settings.finish,
            looked_again: false,
            offsets: Arc::new(frontier.offsets),
            idle: resumed.map(|manifest| manifest.idle.clone()).unwrap_or_default(),
            bound: BTreeMap::new(),
            epoch: start,
            served: false,
            turn: 0,
            loads: vec![0; threads * processes],
            threads,
        };
        let recorded = settings.recorded.into_iter().map(|recorded| (recorded.binding.epoch, recorded)).collect();
        let marks = resumed.map(|manifest| manifest.revisions.clone()).unwrap_or_default();
        let publisher =
            Publisher::new(graph.clone(), book.clone(), metrics.clone(), commit, events_in, recorded, marks);
        let writer = settings
            .checkpoints
            .map(|checkpoints| Writer::new(checkpoints, from.as_deref(), graph, book.clone(), metrics, handed_in));
        Ok(Self { book, readers, binder, starts, lines, publisher, writer })
    }
}

/// Announces every partition, to be read on from `offsets`, or from its start; gives those of the learn lane.
fn announce(graph: &Graph, intake: &Intake, offsets: &BTreeMap<(u32, u32), u64>) -> Result<Vec<(u32, u32)>> {
    let mut learning = Vec::new();
    for (at, source) in graph.sources.iter().enumerate() {
        for partition in source.source.partitions()? {
            let offset = offsets.get(&(at as u32, partition)).copied().unwrap_or_default();
            intake.announce(at as u32, Position { partition, offset }, source.source.is_finite());
            if source.asks.is_none() {
                learning.push((at as u32, partition));
            }
        }
    }
    Ok(learning)
}

/// Runs a part of a run. If it panics, the run ends with that as its fault, so that the other parts do not wait for it.
pub(crate) fn guard<T>(book: &Book, part: &dyn Display, run: impl FnOnce() -> T) -> Option<T> {
    // What a panic leaves half-done is not used after an abort.
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
    let tell = |panic: Box<dyn std::any::Any + Send>| {
        let text = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
        book.abort(Fault::ours(format!("{part} panicked: {}", text.unwrap_or("without a message"))));
    };
    outcome.map_err(tell).ok()
}
