//! A timely worker as a part of a run.

use std::ops::Range;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::Duration;

use timely::worker::Worker;

use crate::binder::{Order, WorkerLine};
use crate::binding::Epoch;
use crate::fault::Result;
use crate::mount::{Dataflow, Site, mount};
use crate::publish::Event;
use crate::run::Turn;

/// A worker takes epochs until they bring so much, and then works at what it has: so while it waits for what others make of these, it
/// has a next one.
const BYTES_AT_ONCE: usize = 1 << 20;

/// What a worker starts with.
pub(crate) struct Start {
    pub(crate) site: Site,
    pub(crate) orders: Receiver<Order>,
    /// To be set when it starts, so that the binder can wake it.
    pub(crate) thread: Arc<OnceLock<Thread>>,
}

/// What the workers of a process start with, and how each is reached. `site` is that of any of them.
pub(crate) fn starts(site: &Site, workers: Range<usize>) -> (Vec<WorkerLine>, Vec<Start>) {
    let start = |worker| {
        let (orders, orders_in) = channel();
        let thread = Arc::new(OnceLock::new());
        let line = WorkerLine::Here { orders, thread: thread.clone() };
        (line, Start { site: Site { worker, ..site.clone() }, orders: orders_in, thread })
    };
    workers.map(start).unzip()
}

/// A worker on which the graph is mounted.
pub(super) struct Mounted {
    site: Site,
    orders: Receiver<Order>,
    dataflow: Dataflow,
    /// Every operator has passed all epochs before this one, as far as the workers were told.
    passed: Epoch,
}

impl Mounted {
    /// Mounts the graph. To be called on the worker's thread.
    pub(super) fn new(worker: &mut Worker, start: Start) -> Result<Self> {
        start.thread.get_or_init(std::thread::current);
        let mut dataflow = worker.dataflow(|scope| mount(scope, &start.site))?;
        let first = start.site.start();
        dataflow.inputs.iter_mut().for_each(|input| input.advance_to(first));
        start.site.book.add_mounted();
        Ok(Self { site: start.site, orders: start.orders, dataflow, passed: first })
    }

    /// One step of all operators that have something to do; waits for that so long at most. Done once all input has
    /// passed, or the run has failed.
    pub(super) fn turn(&mut self, worker: &mut Worker, park: Duration) -> Turn {
        if self.site.book.is_aborted() {
            return Turn::Done;
        }
        let mut bytes = 0;
        while bytes < BYTES_AT_ONCE
            && let Ok(order) = self.orders.try_recv()
        {
            match order {
                Order::Epoch(epoch, records) => {
                    for (source, records) in records {
                        bytes += records.bytes();
                        self.dataflow.inputs[source as usize].send(records);
                    }
                    for input in &mut self.dataflow.inputs {
                        input.advance_to(epoch + 1);
                    }
                }
                Order::End => self.dataflow.inputs.clear(),
            }
        }
        // There may be more.
        let park = if bytes < BYTES_AT_ONCE { park } else { Duration::ZERO };
        self.dataflow.walks.wake(&self.site.book.cuts);
        let is_running = worker.step_or_park(Some(park));
        if self.site.is_first_of_process() {
            let now = self.dataflow.probe.with_frontier(|frontier| frontier.first().copied().unwrap_or(Epoch::MAX));
            if now > self.passed {
                self.passed = now;
                self.site.book.set_passed(self.site.process(), now.min(self.site.book.minted()));
                drop(self.site.events.send(Event::Passed(now)));
            }
        }
        if is_running { Turn::Worked } else { Turn::Done }
    }
}

/// Drops what is still mounted. What is inside an aborted run is lost with it; nothing of it was published.
pub(super) fn clear(worker: &mut Worker) {
    for dataflow in worker.installed_dataflows() {
        worker.drop_dataflow(dataflow);
    }
}
