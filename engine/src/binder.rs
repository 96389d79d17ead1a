//! Mints epochs: decides, once and for all, which records enter the dataflow together.
//!
//! An idle dataflow gets its epoch at once, a busy one gets larger ones. Nothing is minted while what is bound and
//! not yet published exceeds the budget, for the dataflow itself has no back-pressure.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::Duration;

use crate::batch::Origin;
use crate::binding::{Binding, Epoch, Range};
use crate::book::{Book, Entry, Request};
use crate::checkpoint::Cutter;
use crate::digest::RecordsDigest;
use crate::fault::{Fault, Result};
use crate::graph::{Graph, SourceNode};
use crate::intake::{Intake, Queue};
use crate::metrics::Metrics;
use crate::mount::worker_of;
use crate::processes::Outgoing;
use crate::raw::RawBatch;
use crate::run::Turn;
use crate::time::{Clock, Stopwatch};

/// How many epochs may be on their way; more would only queue inside the dataflow.
const EPOCHS_IN_FLIGHT: u64 = 8;
/// How much it takes to bring records in order and to send them to their keys' workers, of what it takes to decode them.
const ORDER_PERCENT: usize = 60;
/// The binder looks at idle times this often.
pub(crate) const LOOK: Duration = Duration::from_millis(20);

/// How epochs are cut, and how much may be in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Records in an epoch, at most.
    pub max_records: usize,
    /// Bytes of records in an epoch, at most (one larger record comes alone).
    pub max_bytes: usize,
    /// Bytes bound and not published, at most (plus one epoch).
    pub in_flight_bytes: usize,
    /// Rows that wait for the watermark, at most: beyond it, only the partitions that hold it back are bound.
    pub held_rows: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_records: 65_536, max_bytes: 16 << 20, in_flight_bytes: 48 << 20, held_rows: 4_000_000 }
    }
}

/// What a worker is sent.
pub(crate) enum Order {
    /// Records for an epoch: (source, records). Every worker gets every epoch, most with only some of its records.
    Epoch(Epoch, Vec<(u32, RawBatch)>),
    /// No epoch follows.
    End,
}

/// Sends to a worker, and wakes it.
pub(crate) enum WorkerLine {
    /// One of this process.
    Here {
        orders: Sender<Order>,
        /// The worker's thread, once it runs.
        thread: Arc<OnceLock<Thread>>,
    },
    /// One of a member: which of its workers, and the way there.
    There(usize, Sender<Outgoing>),
}

impl WorkerLine {
    pub(crate) fn send(&self, order: Order) {
        // A worker that is gone has ended the run already.
        match self {
            Self::Here { orders, .. } => drop(orders.send(order)),
            Self::There(worker, line) => drop(line.send(Outgoing::Order(*worker, order))),
        }
        self.wake();
    }

    pub(crate) fn wake(&self) {
        match self {
            // One that does not run yet finds what there is when it does.
            Self::Here { thread, .. } => drop(thread.get().inspect(|thread| thread.unpark())),
            Self::There(_, line) => drop(line.send(Outgoing::Look)),
        }
    }
}

/// What follows the epochs that are bound again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// Live records.
    Live,
    /// Nothing.
    Nothing,
    /// Nothing either, and no epoch is bound again any more.
    Ended,
}

/// Mints epochs: a part of a run. See the module's documentation.
pub(crate) struct Binder {
    pub(crate) graph: Arc<Graph>,
    pub(crate) intake: Arc<Intake>,
    pub(crate) book: Arc<Book>,
    pub(crate) limits: Limits,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) seed: u64,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) workers: Vec<WorkerLine>,
    /// What earlier runs have bound.
    pub(crate) replay: VecDeque<Rebinding>,
    /// What follows that.
    pub(crate) then: Then,
    /// Where checkpoints are cut, if any are made.
    pub(crate) cutter: Option<Cutter>,
    /// Whether to end when all input is used up; set by the producers when they are done.
    pub(crate) finish: Option<Arc<AtomicBool>>,
    /// Whether the readers have been sent to look once more since then.
    pub(crate) looked_again: bool,
    pub(crate) offsets: Arc<BTreeMap<String, u64>>,
    pub(crate) idle: Vec<(u32, u32)>,
    /// When each (source, partition) had its first and its last record bound.
    pub(crate) bound: BTreeMap<(u32, u32), (Stopwatch, Stopwatch)>,
    pub(crate) epoch: Epoch,
    /// Whether the last epoch was one of requests, so that the lanes take turns.
    pub(crate) served: bool,
    /// Which partition goes first; rotates.
    pub(crate) turn: usize,
    /// How much each worker was given to do, less what the one with least in its process was.
    pub(crate) loads: Vec<usize>,
    /// Workers in each process.
    pub(crate) threads: usize,
}

/// An epoch that is being bound again.
pub(crate) struct Rebinding {
    binding: Binding,
    /// The ranges whose records are all here, and those records.
    complete: usize,
    taken: Vec<(u32, RawBatch)>,
    /// Records of the range after these.
    part: Vec<(u32, RawBatch)>,
}

impl Rebinding {
    pub(crate) fn new(binding: Binding) -> Self {
        Self { binding, complete: 0, taken: Vec::new(), part: Vec::new() }
    }

    /// How many parts are here.
    fn parts(&self) -> usize {
        self.taken.len() + self.part.len()
    }
}

impl Binder {
    /// First binds again what is to be replayed, then live records, until the run is asked to end or has used up its
    /// input: an epoch a turn, or a part of a replayed one.
    pub(crate) fn turn(&mut self) -> Turn {
        if self.then == Then::Ended {
            return self.end();
        }
        let turn = self.bind().unwrap_or_else(|fault| {
            self.book.abort(fault);
            Turn::Done
        });
        if turn != Turn::Done {
            return turn;
        }
        self.then = Then::Ended;
        self.end()
    }

    fn bind(&mut self) -> Result<Turn> {
        if self.book.is_stopping() {
            return Ok(Turn::Done);
        }
        // What was restored has to be known first.
        if self.book.mounted() < self.workers.len() {
            return Ok(Turn::Waits);
        }
        if self.cutter.as_mut().is_some_and(|cutter| cutter.cuts(self.epoch, &self.idle)) {
            self.workers.iter().for_each(WorkerLine::wake);
        }
        match self.replay.pop_front() {
            Some(rebinding) => self.rebind(rebinding),
            None if self.then == Then::Live => Ok(self.live()),
            None => Ok(Turn::Done),
        }
    }

    /// No epoch follows. The workers go once the last checkpoint is made, for which they are asked.
    fn end(&mut self) -> Turn {
        if let Some(cutter) = &mut self.cutter {
            if cutter.cuts_at_end(self.epoch, &self.idle) {
                self.workers.iter().for_each(WorkerLine::wake);
                return Turn::Worked;
            }
            if !cutter.is_finished() {
                return Turn::Waits;
            }
            cutter.end();
        }
        for worker in &self.workers {
            worker.send(Order::End);
        }
        Turn::Done
    }

    fn live(&mut self) -> Turn {
        self.report_lag();
        if self.has_room() {
            if self.bind_next() {
                return Turn::Worked;
            }
            if self.has_input_ended() {
                if self.bind_end() {
                    return Turn::Worked;
                }
                if self.intake.queues().values().all(Queue::is_at_end) {
                    return Turn::Done;
                }
            }
        }
        Turn::Waits
    }

    fn source(&self, source: u32) -> &SourceNode {
        &self.graph.sources[source as usize]
    }

    fn is_serving(&self, source: u32) -> bool {
        self.graph.is_serving(source as usize)
    }

    /// Whether the dataflow should get more now.
    fn has_room(&self) -> bool {
        let idle = self.epoch == self.book.passed();
        let full = || self.intake.queues().values().map(Queue::len).sum::<usize>() >= self.limits.max_records;
        self.is_within_budget() && (idle || full())
    }

    /// Whether another epoch may be on its way; one always may.
    fn is_within_budget(&self) -> bool {
        let in_flight = self.epoch - self.book.published();
        let fits = || in_flight < EPOCHS_IN_FLIGHT && self.book.unpublished_bytes() < self.limits.in_flight_bytes;
        in_flight == 0 || fits()
    }

    fn bind_next(&mut self) -> bool {
        let first = !self.served;
        for serving in [first, !first] {
            let taken = if serving && !self.can_serve() { Vec::new() } else { self.take(serving) };
            if !taken.is_empty() {
                self.served = serving;
                self.mint(taken);
                return true;
            }
        }
        // Nobody waits for an epoch that only says that a partition is idle, unless rows are held.
        if self.book.held_rows() > 0 && self.idle_now() != self.idle {
            self.mint(Vec::new());
            return true;
        }
        false
    }

    /// Requests wait in their topic until every model that is asked has learned something, unless there is nothing to learn from.
    fn can_serve(&self) -> bool {
        let is_ready = |fold: usize| self.book.newest_revision(fold).is_some();
        let has_nothing_to_learn =
            || self.epoch == self.book.published() && self.book.held_rows() == 0 && self.has_learned_all();
        self.graph.asked().all(is_ready) || has_nothing_to_learn()
    }

    fn has_learned_all(&self) -> bool {
        if self.finish.is_some() && !self.looked_again {
            return false;
        }
        self.intake.queues().iter().all(|((source, _), queue)| self.is_serving(*source) || queue.is_at_end())
    }

    /// The next records of one lane, fairly from all partitions.
    fn take(&mut self, serving: bool) -> Vec<(u32, RawBatch)> {
        let is_crowded = self.book.held_rows() > self.limits.held_rows;
        let holding = if is_crowded { self.book.holding() } else { BTreeSet::new() };
        if !serving {
            self.intake.want(holding.clone());
        }
        let mut queues = self.intake.queues();
        let mut ready: Vec<_> = queues
            .iter_mut()
            .filter(|((source, _), queue)| self.is_serving(*source) == serving && !queue.is_empty())
            .collect();
        if !serving && is_crowded {
            ready.retain(|(partition, _)| holding.contains(*partition));
        }
        if ready.is_empty() {
            return Vec::new();
        }
        let start = self.turn % ready.len();
        ready.rotate_left(start);
        self.turn += 1;
        let mut taken = Vec::new();
        let (mut records, mut bytes) = (self.limits.max_records, self.limits.max_bytes);
        let parts = ready.len();
        for (at, ((source, _), queue)) in ready.into_iter().enumerate() {
            let share = records.div_ceil(parts - at);
            let share_bytes = bytes.div_ceil(parts - at);
            for part in queue.take(|_, count, size| count < share && (count == 0 || size < share_bytes)) {
                records -= part.len();
                bytes = bytes.saturating_sub(part.bytes());
                taken.push((*source, part));
            }
            if records == 0 {
                break;
            }
        }
        taken
    }

    /// Partitions from which nothing came for their source's idle time, or will ever come.
    fn idle_now(&self) -> Vec<(u32, u32)> {
        let is_idle = |partition: (u32, u32), queue: &Queue| {
            let idle_ms = self.source(partition.0).idle_ms;
            let is_long = |seconds| seconds * 1000.0 >= idle_ms as f64;
            let is_quiet = || queue.quiet_seconds().is_some_and(is_long);
            let is_useless = || self.useless_seconds(partition).is_some_and(is_long);
            !self.is_serving(partition.0) && (queue.is_over() || is_quiet() || is_useless())
        };
        let queues = self.intake.queues();
        let idle = queues.iter().filter(|(partition, queue)| is_idle(**partition, queue));
        idle.map(|(partition, _)| *partition).collect()
    }

    /// For how many seconds a partition has given records of which none became a row. Such a partition must not hold
    /// back the others for ever.
    fn useless_seconds(&self, partition: (u32, u32)) -> Option<f64> {
        let (first, last) = self.bound.get(&partition)?;
        let unheard = self.book.unheard_seconds(partition).unwrap_or(first.seconds());
        Some(unheard - last.seconds())
    }

    /// Whether the producers are done, and everything that teaches is taken.
    fn has_input_ended(&mut self) -> bool {
        if !self.finish.as_ref().is_some_and(|finish| finish.load(Ordering::SeqCst)) {
            return false;
        }
        if !self.looked_again {
            // The readers may have been at the end before the producers' last records.
            self.intake.look_again();
            self.looked_again = true;
        }
        self.has_learned_all()
    }

    /// At the end of a finite input nobody is waited for any more. Whether that takes an epoch.
    fn bind_end(&mut self) -> bool {
        if self.book.held_rows() == 0 || self.epoch > self.book.passed() {
            return false;
        }
        let queues = self.intake.queues();
        let learning = queues.keys().filter(|(source, _)| !self.is_serving(*source));
        let all: Vec<(u32, u32)> = learning.copied().collect();
        drop(queues);
        self.mint_as(Vec::new(), all);
        true
    }

    fn mint(&mut self, taken: Vec<(u32, RawBatch)>) {
        let idle = self.idle_now();
        self.mint_as(taken, idle);
    }

    fn mint_as(&mut self, taken: Vec<(u32, RawBatch)>, idle: Vec<(u32, u32)>) {
        let binding = Binding {
            epoch: self.epoch,
            ranges: ranges(&taken),
            now_ms: self.clock.now_ms(),
            seed: crate::state::hash(&[self.seed.to_le_bytes(), self.epoch.to_le_bytes()].concat()),
            idle,
        };
        self.release(binding, taken);
    }

    /// Binds the same records again, as soon as they are all here and fit; the log must still hold them.
    fn rebind(&mut self, mut rebinding: Rebinding) -> Result<Turn> {
        let epoch = rebinding.binding.epoch;
        if epoch != self.epoch {
            return Err(Fault::world(format!(
                "the journal has no epoch {}: it goes on with epoch {epoch}",
                self.epoch
            )));
        }
        let before = rebinding.parts();
        while let Some(range) = rebinding.binding.ranges.get(rebinding.complete) {
            if !self.take_range(range, &mut rebinding.part)? {
                return Ok(self.go_on_later(rebinding, before));
            }
            if ranges(&rebinding.part).as_slice() != std::slice::from_ref(range) {
                return Err(self.differs(epoch, range));
            }
            rebinding.taken.append(&mut rebinding.part);
            rebinding.complete += 1;
        }
        if !self.is_within_budget() {
            return Ok(self.go_on_later(rebinding, before));
        }
        self.release(rebinding.binding, rebinding.taken);
        Ok(Turn::Worked)
    }

    /// Keeps an epoch that cannot be bound yet, and that had so many parts before.
    fn go_on_later(&mut self, rebinding: Rebinding, before: usize) -> Turn {
        let has_taken = rebinding.parts() > before;
        self.replay.push_front(rebinding);
        if !has_taken {
            return Turn::Waits;
        }
        // Readers may wait for the room that there is now.
        self.book.ring();
        Turn::Worked
    }

    fn differs(&self, epoch: Epoch, range: &Range) -> Fault {
        let name = &self.source(range.source).name;
        Fault::world(format!(
            "the log no longer holds what epoch {epoch} was made of: {name}/{} offsets {} to {} differ from the \
             journal ({} records, digest {}). Was the topic created anew, or has retention passed?",
            range.partition, range.lo, range.hi, range.count, range.digest
        ))
    }

    /// Takes what is here of a range; whether that is all of it.
    fn take_range(&self, range: &Range, taken: &mut Vec<(u32, RawBatch)>) -> Result<bool> {
        let partition = (range.source, range.partition);
        let mut queues = self.intake.queues();
        let queue = queues.get_mut(&partition).ok_or_else(|| self.differs(self.epoch, range))?;
        taken.extend(queue.take(|offset, _, _| offset < range.hi).into_iter().map(|part| (range.source, part)));
        let is_complete = !queue.is_empty() || queue.fetched() >= range.hi || queue.is_at_end();
        drop(queues);
        if !is_complete {
            self.intake.want(BTreeSet::from([partition]));
        }
        Ok(is_complete)
    }

    /// Writes the epoch into the book and hands its records to the workers.
    fn release(&mut self, binding: Binding, taken: Vec<(u32, RawBatch)>) {
        let mut offsets = (*self.offsets).clone();
        for range in &binding.ranges {
            let now = Stopwatch::start();
            self.bound.entry((range.source, range.partition)).or_insert((now, now)).1 = now;
            if !self.is_serving(range.source) {
                offsets.insert(format!("{}/{}", self.source(range.source).name, range.partition), range.hi);
            }
        }
        self.offsets = Arc::new(offsets);
        for (source, part) in &taken {
            self.metrics.records(&self.source(*source).name, part.len(), part.bytes());
        }
        self.metrics.epochs_total.inc();
        self.idle.clone_from(&binding.idle);
        let epoch = binding.epoch;
        let bytes = taken.iter().map(|(_, part)| part.bytes()).sum();
        if let Some(cutter) = &mut self.cutter {
            cutter.bound(&binding, bytes);
        }
        self.book.open(Entry {
            binding: Arc::new(binding),
            offsets: self.offsets.clone(),
            requests: self.requests(&taken),
            bytes,
            watermark: None,
        });
        let mut shares: Vec<Vec<(u32, RawBatch)>> = self.workers.iter().map(|_| Vec::new()).collect();
        for (source, part) in taken {
            shares[self.share_out(source, &part)].push((source, part));
        }
        for (worker, share) in self.workers.iter().zip(shares) {
            worker.send(Order::Epoch(epoch, share));
        }
        self.epoch = epoch + 1;
        // Readers may wait for room in their queues.
        self.book.ring();
    }

    /// The worker that is to decode some records: the one that has least to do, in the process in which their partition lives, or
    /// where requests are answered: to send rows to another process costs more than to decode them. The one on which their partition
    /// lives has to order them, whoever decodes them. Who does what makes no difference to any result.
    fn share_out(&mut self, source: u32, part: &RawBatch) -> usize {
        let owner = worker_of(part.partition, source as usize, self.loads.len() as u32) as usize;
        let mut first = 0;
        if !self.is_serving(source) {
            first = owner / self.threads * self.threads;
            self.loads[owner] += part.bytes() / 100 * ORDER_PERCENT;
        }
        let loads = &mut self.loads[first..first + self.threads];
        let (worker, least) = loads.iter().copied().enumerate().min_by_key(|(_, load)| *load).unwrap_or_default();
        loads[worker] += part.bytes().max(1);
        loads.iter_mut().for_each(|load| *load -= least);
        first + worker
    }

    fn requests(&self, taken: &[(u32, RawBatch)]) -> Vec<Request> {
        let mut requests = Vec::new();
        for (source, part) in taken.iter().filter(|(source, _)| self.is_serving(*source)) {
            for (row, &offset) in part.offsets.iter().enumerate() {
                let key = part.key(row).map(<[u8]>::to_vec);
                let origin = Origin { source: *source, partition: part.partition, offset, index: 0 };
                let headers = part.headers.get(row).cloned().unwrap_or_default();
                requests.push(Request { origin, key, headers });
            }
        }
        requests.sort_by_key(|request| request.origin);
        requests
    }

    fn report_lag(&self) {
        for ((source, partition), queue) in &*self.intake.queues() {
            self.metrics.set_lag(&self.source(*source).name, *partition, queue.lag());
        }
    }
}

/// The ranges of some records, by source and partition.
fn ranges(taken: &[(u32, RawBatch)]) -> Vec<Range> {
    let mut parts: BTreeMap<(u32, u32), (u64, u64, u64, RecordsDigest)> = BTreeMap::new();
    for (source, part) in taken {
        let entry = parts.entry((*source, part.partition));
        let (_, hi, count, digest) = entry.or_insert_with(|| (part.offsets[0], 0, 0, RecordsDigest::default()));
        *hi = part.offsets[part.len() - 1] + 1;
        *count += part.len() as u64;
        digest.update(part);
    }
    parts
        .into_iter()
        .map(|((source, partition), (lo, hi, count, digest))| Range {
            source,
            partition,
            lo,
            hi,
            count,
            digest: digest.finish(),
        })
        .collect()
}
