//! What leaves a step: dead letters, error answers, counts, and the rows of outputs.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::mpsc::Sender;

use arrow::array::{Array, RecordBatch};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::operator::Operator;

use crate::batch::{Batch, Lane, META, Meta, Origin};
use crate::binding::Epoch;
use crate::book::Book;
use crate::fault::{Blame, Fault, Result};
use crate::graph::{Input, Observe};
use crate::metrics::StepMetrics;
use crate::mount::{Rows, Site};
use crate::operator::{Noticed, Rejects};
use crate::publish::{DeadLetter, Event, Notice};
use crate::time::Stopwatch;
use crate::trace;

/// A step's way out of the dataflow.
pub(crate) struct Outlet {
    step: Arc<str>,
    book: Arc<Book>,
    metrics: StepMetrics,
    events: Sender<Event>,
    /// By lane.
    observers: [Option<RefCell<Box<dyn Observe>>>; 2],
    /// How many more unmet expectations are told one by one.
    told: Cell<usize>,
}

/// Of each step, a worker tells so many unmet expectations; the others are only counted.
const TOLD_MAX: usize = 10;

impl Outlet {
    pub(crate) fn new(step: Arc<str>, site: &Site) -> Self {
        let metrics = site.metrics.step(&step, site.worker);
        let (book, events) = (site.book.clone(), site.events.clone());
        Self { step, book, metrics, events, observers: [None, None], told: Cell::new(0) }
    }

    /// With whoever looks at these rows.
    pub(crate) fn observed(self, rows: Input, site: &Site) -> Self {
        let observer = |lane| site.graph.observers.get(&(rows, lane)).map(|make| RefCell::new(make()));
        Self { observers: [Lane::Learn, Lane::Serve].map(observer), ..self }
    }

    pub(crate) fn send(&self, event: Event) {
        // Without a publisher the run has ended already.
        drop(self.events.send(event));
    }

    /// Runs an operator on rows: counts, times it, turns what it rejects into dead letters, and sees to it that every request
    /// that does not come out is answered. A fault ends the run; the rows are then lost with it.
    pub(crate) fn run(
        &self,
        epoch: Epoch,
        lane: Lane,
        rows: &RecordBatch,
        operator: impl FnOnce(&mut Rejects) -> Result<Option<RecordBatch>>,
    ) -> Option<RecordBatch> {
        self.run_ports(epoch, lane, std::slice::from_ref(rows), |rejects| operator(&mut rejects[0]))
    }

    /// [`Outlet::run`] for an operator with several ports. Requests come to the first.
    pub(crate) fn run_ports(
        &self,
        epoch: Epoch,
        lane: Lane,
        ports: &[RecordBatch],
        operator: impl FnOnce(&mut [Rejects]) -> Result<Option<RecordBatch>>,
    ) -> Option<RecordBatch> {
        let watch = Stopwatch::start();
        let mut rejects: Vec<Rejects> = ports.iter().map(|_| Rejects::default()).collect();
        let out = match trace::span(&self.step, || operator(&mut rejects)) {
            Ok(out) => out,
            Err(fault) => {
                self.abort(fault);
                return None;
            }
        };
        let lane_at = usize::from(lane == Lane::Serve);
        let left = out.as_ref().map_or(0, RecordBatch::num_rows);
        self.metrics.rows_in[lane_at].inc_by(ports.iter().map(|rows| rows.num_rows() as u64).sum());
        self.metrics.rows_out[lane_at].inc_by(left as u64);
        if let (Some(out), Some(observer)) = (&out, &self.observers[lane_at])
            && let Err(fault) = observer.borrow_mut().see(out)
        {
            self.abort(fault);
        }
        for (rows, rejects) in ports.iter().zip(&mut rejects) {
            self.remark(lane_at, rejects);
            self.notice(epoch, rows, rejects.noticed());
            let rejected = rejects.take();
            if lane == Lane::Serve && left + rejected.len() < rows.num_rows() {
                self.refuse_dropped(epoch, rows, out.as_ref(), &rejected);
            }
            self.reject(epoch, lane, rows, rejected);
        }
        self.metrics.seconds.add(watch.seconds());
        out.filter(|out| out.num_rows() > 0)
    }

    /// Counts what was repaired, and tells what was expected and does not hold.
    fn remark(&self, lane: usize, rejects: &mut Rejects) {
        let (repaired, unmet) = rejects.remarks();
        if repaired > 0 {
            self.metrics.repaired[lane].inc_by(repaired);
        }
        for expectation in unmet {
            self.metrics.unmet.inc();
            self.told.set(self.told.get() + 1);
            match self.told.get() {
                ..=TOLD_MAX => eprintln!("step {}: {expectation}", self.step),
                told if told == TOLD_MAX + 1 => eprintln!("step {}: more follow, and are only counted", self.step),
                _ => {}
            }
        }
    }

    /// Passes on what is of note.
    fn notice(&self, epoch: Epoch, rows: &RecordBatch, noticed: Vec<Noticed>) {
        if noticed.is_empty() {
            return;
        }
        let meta = Meta::of(rows);
        let notice = |Noticed { row, kind, about }| {
            self.metrics.noticed(kind);
            Notice { place: meta.order(row), step: self.step.clone(), kind: kind.into(), about }
        };
        self.send(Event::Noticed { epoch, notices: noticed.into_iter().map(notice).collect() });
    }

    /// Lets an operator look at rows that it keeps for later; rejected ones become dead letters. Whether all went well.
    pub(crate) fn check(
        &self,
        epoch: Epoch,
        rows: &RecordBatch,
        operator: impl FnOnce(&mut Rejects) -> Result<()>,
    ) -> bool {
        let mut rejects = Rejects::default();
        match operator(&mut rejects) {
            Ok(()) => {
                self.reject(epoch, Lane::Learn, rows, rejects.take());
                true
            }
            Err(fault) => {
                self.abort(fault);
                false
            }
        }
    }

    pub(crate) fn step(&self) -> Arc<str> {
        self.step.clone()
    }

    pub(crate) fn abort(&self, fault: Fault) {
        let message = format!("step {}: {fault}", self.step);
        let blame = if fault.blame == Blame::Record { Blame::Ours } else { fault.blame };
        self.book.abort(Fault { blame, retry: false, message, source: Some(Box::new(fault)) });
    }

    pub(crate) fn set_keys(&self, keys: usize) {
        self.metrics.set_keys(keys);
    }

    /// Makes dead letters of rejected rows, and error answers where they asked.
    pub(crate) fn reject(&self, epoch: Epoch, lane: Lane, rows: &RecordBatch, rejected: Vec<(usize, String)>) {
        if rejected.is_empty() {
            return;
        }
        let meta = Meta::of(rows);
        let letter = |(row, reason): (usize, String)| DeadLetter {
            origin: meta.origin(row),
            lane,
            step: self.step.clone(),
            reason,
            is_row: meta.raw.is_null(row),
            raw: Some(if meta.raw.is_valid(row) { meta.raw.value(row).to_vec() } else { as_text(rows, row) }),
        };
        self.dead(epoch, rejected.into_iter().map(letter).collect());
    }

    /// Dead letters, with error answers for those that asked.
    pub(crate) fn dead(&self, epoch: Epoch, letters: Vec<DeadLetter>) {
        for letter in letters.iter().filter(|letter| letter.lane == Lane::Serve) {
            let (origins, reason) = (vec![letter.origin], letter.reason.clone());
            self.send(Event::Refused { epoch, origins, step: self.step.clone(), reason });
        }
        if !letters.is_empty() {
            self.send(Event::Dead { epoch, letters });
        }
    }

    fn refuse_dropped(
        &self,
        epoch: Epoch,
        rows: &RecordBatch,
        out: Option<&RecordBatch>,
        rejected: &[(usize, String)],
    ) {
        let kept: std::collections::BTreeSet<Origin> = out
            .map(|out| {
                let meta = Meta::of(out);
                (0..out.num_rows()).map(|row| meta.origin(row)).collect()
            })
            .unwrap_or_default();
        let meta = Meta::of(rows);
        let is_dropped = |row: &usize| {
            !kept.contains(&meta.origin(*row)) && rejected.binary_search_by_key(row, |(rejected, _)| *rejected).is_err()
        };
        let origins = (0..rows.num_rows()).filter(is_dropped).map(|row| meta.origin(row)).collect();
        self.send(Event::Refused { epoch, origins, step: self.step.clone(), reason: "dropped".to_owned() });
    }
}

/// A row as text, for sources that have no bytes.
fn as_text(rows: &RecordBatch, row: usize) -> Vec<u8> {
    let value = |at: usize| {
        let column = rows.column(at);
        let shown = arrow::util::display::array_value_to_string(column, row).unwrap_or_else(|error| error.to_string());
        format!("{}={shown}", rows.schema_ref().field(at).name())
    };
    (META..rows.num_columns()).map(value).collect::<Vec<_>>().join(" ").into_bytes()
}

/// Sends a stream's learn rows to the publisher.
pub(crate) fn mount<'scope>(stream: Rows<'scope>, output: usize, site: &Site) -> Rows<'scope> {
    let outlet = site.outlet(&site.graph.outputs[output].name);
    stream.unary::<CapacityContainerBuilder<Vec<Batch>>, _, _, _>(Pipeline, "output", move |_, _| {
        move |input, _sink| {
            input.for_each_stamp(|time, batches| {
                let Some(&epoch) = time.least() else { return };
                for batch in batches.flat_map(|batch| batch.drain(..)).filter(|batch| batch.lane == Lane::Learn) {
                    let rows = outlet.run(epoch, Lane::Learn, &batch.rows, |_| Ok(Some(batch.rows.clone())));
                    if let Some(rows) = rows {
                        outlet.send(Event::Rows { epoch, output, rows });
                    }
                }
            });
        }
    })
}

/// What a worker's rows of an epoch are gathered in until the epoch is complete.
pub(crate) struct Gathered<R> {
    /// By port: the serve lane's rows.
    pub(crate) serve: Vec<R>,
    /// By port: the learn lane's rows.
    pub(crate) learn: Vec<Vec<R>>,
}

impl<R> Default for Gathered<R> {
    fn default() -> Self {
        Self { serve: Vec::new(), learn: Vec::new() }
    }
}

impl<R> Gathered<R> {
    pub(crate) fn add(&mut self, port: usize, lane: Lane, rows: R) {
        match lane {
            Lane::Serve => self.serve.push(rows),
            Lane::Learn => {
                if self.learn.len() <= port {
                    self.learn.resize_with(port + 1, Vec::new);
                }
                self.learn[port].push(rows);
            }
        }
    }
}
