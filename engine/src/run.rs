//! Runs a graph: the threads, and how they start and end.
//!
//! ```text
//! a reader for each source ─► intake ─► binder ─► workers (timely) ─► publisher ─► commit
//! ```

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread::Thread;
use std::time::Duration;

use timely::dataflow::operators::probe::Handle as ProbeHandle;
use timely::worker::Worker;

use crate::binder::{Binder, Limits, Order, WorkerLine};
use crate::binding::Epoch;
use crate::book::Book;
use crate::fault::{Fault, Result};
use crate::graph::Graph;
use crate::intake::Intake;
use crate::metrics::Metrics;
use crate::mount::{Inputs, Site, mount};
use crate::publish::{Commit, Event, Publisher, Recorded};
use crate::source::Position;
use crate::time::Clock;

/// A worker with nothing to do looks up this often, should a wake-up be lost.
const PARK: Duration = Duration::from_millis(20);

/// How to run a graph.
pub struct Settings {
    /// Timely workers: threads.
    pub workers: usize,
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
    /// What earlier runs committed, consecutive from epoch 0: it is replayed from the log, with nothing published, and
    /// must reach the recorded digests.
    pub recorded: Vec<Recorded>,
}

/// Runs `graph` until it is stopped or its input is used up, and everything bound is published.
pub fn run(graph: Graph, settings: Settings, commit: Box<dyn Commit>) -> Result<()> {
    let graph = Arc::new(graph);
    let book = settings.book.clone();
    let intake = Arc::new(Intake::new(book.clone(), settings.limits.max_bytes.max(8 << 20)));
    let partitions = announce(&graph, &intake)?;
    let (events, events_in) = mpsc::channel();
    let (joined, threads) = mpsc::channel();
    let mut lines = Vec::new();
    let mut orders_in = Vec::new();
    for _ in 0..settings.workers {
        let (line, end) = mpsc::channel();
        lines.push(line);
        orders_in.push(Some(end));
    }
    let orders_in = Mutex::new(orders_in);
    let site = Site {
        graph: graph.clone(),
        book: book.clone(),
        metrics: settings.metrics.clone(),
        events: events.clone(),
        partitions: Arc::new(partitions),
        worker: 0,
        workers: settings.workers,
    };
    // The workers' site holds a sender; the publisher ends when all are gone.
    drop(events);
    let start = Mutex::new((site, joined));
    let guards = timely::execute(timely::Config::process(settings.workers), move |worker| {
        let (site, joined) = {
            let start = start.lock().expect("no worker panics while it starts");
            (Site { worker: worker.index(), ..start.0.clone() }, start.1.clone())
        };
        let orders = orders_in.lock().expect("no worker panics while it starts")[worker.index()].take();
        work(worker, &site, &orders.expect("each worker starts once"), &joined);
    })
    .map_err(|error| Fault::ours(format!("the workers did not start: {error}")))?;
    let mut threads: Vec<(usize, Thread)> = threads.iter().take(settings.workers).collect();
    threads.sort_by_key(|(worker, _)| *worker);
    let workers = lines.into_iter().zip(threads).map(|(orders, (_, thread))| WorkerLine { orders, thread }).collect();
    let binder = Binder {
        graph: graph.clone(),
        intake: intake.clone(),
        book: book.clone(),
        limits: settings.limits,
        clock: settings.clock,
        seed: settings.seed,
        metrics: settings.metrics.clone(),
        workers,
        finish: settings.finish,
        looked_again: false,
        offsets: Arc::new(BTreeMap::new()),
        idle: Vec::new(),
        bound: BTreeMap::new(),
        epoch: 0,
        served: false,
        turn: 0,
        worker: 0,
    };
    let replay = settings.recorded.iter().map(|recorded| recorded.binding.clone()).collect();
    let recorded: BTreeMap<Epoch, Recorded> =
        settings.recorded.into_iter().map(|recorded| (recorded.binding.epoch, recorded)).collect();
    std::thread::scope(|scope| {
        for (at, source) in graph.sources.iter().enumerate() {
            let (intake, book) = (&intake, &book);
            scope.spawn(move || {
                guard(book, &format!("the reader of source {}", source.name), || {
                    intake.fill(at as u32, &source.name, &*source.source);
                })
            });
        }
        scope.spawn(|| guard(&book, "the binder", || binder.run(replay)));
        let publisher = Publisher::new(&graph, book.clone(), settings.metrics.clone(), commit, recorded);
        guard(&book, "the publisher", || publisher.run(&events_in).unwrap_or_else(|fault| book.abort(fault)));
        for outcome in guards.join() {
            if let Err(panic) = outcome {
                book.abort(Fault::ours(format!("a worker failed: {panic}")));
            }
        }
        book.stop();
    });
    book.take_fault().map_or(Ok(()), Err)
}

/// Announces every partition, to be read from its start; gives those of the learn lane.
fn announce(graph: &Graph, intake: &Intake) -> Result<Vec<(u32, u32)>> {
    let mut learning = Vec::new();
    for (at, source) in graph.sources.iter().enumerate() {
        for partition in source.source.partitions()? {
            intake.announce(at as u32, Position { partition, offset: 0 }, source.source.is_finite());
            if source.asks.is_none() {
                learning.push((at as u32, partition));
            }
        }
    }
    Ok(learning)
}

/// Runs a part of a run. If it panics, the run ends with that as its fault, so that the other parts do not wait for it.
fn guard<T>(book: &Book, part: &str, run: impl FnOnce() -> T) -> Option<T> {
    // What a panic leaves half-done is not used after an abort.
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
    let tell = |panic: Box<dyn std::any::Any + Send>| {
        let text = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
        book.abort(Fault::ours(format!("{part} panicked: {}", text.unwrap_or("without a message"))));
    };
    outcome.map_err(tell).ok()
}

fn work(worker: &mut Worker, site: &Site, orders: &Receiver<Order>, joined: &Sender<(usize, Thread)>) {
    let mounted = guard(&site.book, "a worker", || worker.dataflow(|scope| mount(scope, site)));
    // The run waits for this: with it, the binder can wake the worker.
    drop(joined.send((worker.index(), std::thread::current())));
    match mounted {
        Some(Ok((inputs, probe))) => {
            guard(&site.book, "a worker", || drive(worker, site, orders, inputs, &probe));
        }
        Some(Err(fault)) => site.book.abort(fault),
        None => {}
    }
    if site.book.is_aborted() {
        // What is inside is lost with the run; nothing of it was published.
        for dataflow in worker.installed_dataflows() {
            worker.drop_dataflow(dataflow);
        }
    }
}

fn drive(worker: &mut Worker, site: &Site, orders: &Receiver<Order>, mut inputs: Inputs, probe: &ProbeHandle<Epoch>) {
    let mut passed = 0;
    while !site.book.is_aborted() && !probe.done() {
        for order in orders.try_iter() {
            match order {
                Order::Epoch(epoch, records) => {
                    for (source, records) in records {
                        inputs[source as usize].send(records);
                    }
                    for input in &mut inputs {
                        input.advance_to(epoch + 1);
                    }
                }
                Order::End => inputs.clear(),
            }
        }
        worker.step_or_park(Some(PARK));
        if worker.index() == 0 {
            let now = probe.with_frontier(|frontier| frontier.first().copied().unwrap_or(Epoch::MAX));
            if now > passed {
                passed = now;
                site.book.set_passed(passed.min(site.book.minted()));
                drop(site.events.send(Event::Passed(passed)));
            }
        }
    }
}
