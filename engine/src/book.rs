//! What a run knows of its open epochs, shared by the binder, the workers and the publisher.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use crate::batch::Origin;
use crate::binding::{Binding, Epoch, Frontier, Watermark};
use crate::checkpoint::Cuts;
use crate::fault::Fault;
use crate::operator::{Answer, Measure};
use crate::raw::Headers;
use crate::sequence::START;
use crate::time::Stopwatch;

/// A request that was bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Where it came from.
    pub origin: Origin,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its headers.
    pub headers: Headers,
}

/// An open epoch.
pub struct Entry {
    /// What it is made of.
    pub binding: Arc<Binding>,
    /// For each source and partition of the learn lane (`flights/0`), the offset after the last one bound through this
    /// epoch.
    pub offsets: Arc<BTreeMap<String, u64>>,
    /// Its requests, in origin order.
    pub requests: Vec<Request>,
    /// Bytes of its records.
    pub bytes: usize,
    /// The watermark after it, once it is known.
    pub watermark: Option<Watermark>,
}

/// A revision that can answer.
#[derive(Clone)]
pub struct Revision {
    /// How many examples it had learned.
    pub number: u64,
    /// The epoch after which it was complete.
    pub epoch: Epoch,
    /// What it had learned through.
    pub frontier: Arc<Frontier>,
    /// Whether that is all that is behind its answers: it is of a model that another run has taught, and this one has not.
    pub is_foreign: bool,
    /// BLAKE3 of its fold's whole state.
    pub digest: String,
    /// What its fold had measured.
    pub measures: Arc<[Measure]>,
    /// Answers.
    pub answer: Arc<dyn Answer>,
}

/// The open epochs, and the signals between the threads of a run.
#[derive(Default)]
pub struct Book {
    entries: Mutex<BTreeMap<Epoch, Entry>>,
    /// What is complete after the last epoch that was closed.
    closed: Mutex<Frontier>,
    /// By fold (node index): its revisions, oldest first.
    revisions: Mutex<BTreeMap<usize, Vec<Revision>>>,
    /// By fold: what it has begun with.
    begun: Mutex<BTreeMap<usize, Revision>>,
    fault: Mutex<Option<Fault>>,
    stopping: AtomicBool,
    aborted: AtomicBool,
    /// Epochs minted; the next one's number.
    minted: AtomicU64,
    /// By process: the epochs that have passed every operator, and of which that process has told everything.
    passed: Mutex<Vec<u64>>,
    /// Epochs published.
    published: AtomicU64,
    /// Bytes bound in epochs that are not published.
    unpublished_bytes: AtomicUsize,
    /// Rows that wait for the watermark.
    held_rows: AtomicUsize,
    /// When each (source, partition) last gave a row that is not late and has an event time.
    heard: Mutex<BTreeMap<(u32, u32), Stopwatch>>,
    /// Partitions that hold back the watermark.
    holding: Mutex<BTreeSet<(u32, u32)>>,
    /// Workers that have mounted the graph, and restored what it had.
    mounted: AtomicUsize,
    /// The state of checkpoints.
    pub(crate) cuts: Cuts,
    bell: Mutex<u64>,
    rung: Condvar,
}

/// How long a broken connection's cause may take to be known.
const CAUSE_SECONDS: f64 = 1.0;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A thread that panics aborts the run; what it leaves half-done here is not used after.
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Book {
    /// Wakes whoever waits in [`Book::wait`].
    pub fn ring(&self) {
        *lock(&self.bell) += 1;
        self.rung.notify_all();
    }

    /// How often the bell has rung; to be given to [`Book::wait`].
    pub fn bell(&self) -> u64 {
        *lock(&self.bell)
    }

    /// Waits until the bell has rung more than `heard` times, or `timeout` has passed.
    pub fn wait(&self, heard: u64, timeout: Duration) {
        let bell = lock(&self.bell);
        drop(self.rung.wait_timeout_while(bell, timeout, |rung| *rung <= heard));
    }

    /// Waits for `duration`, or until the run is asked to end.
    pub fn pause(&self, duration: Duration) {
        let bell = lock(&self.bell);
        drop(self.rung.wait_timeout_while(bell, duration, |_| !self.is_stopping()));
    }

    /// Asks the run to finish its open epochs and end.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.ring();
    }

    /// Whether the run is asked to end.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Ends the run at once. The first fault is the run's.
    pub fn abort(&self, fault: Fault) {
        lock(&self.fault).get_or_insert(fault);
        self.aborted.store(true, Ordering::SeqCst);
        self.stop();
    }

    /// Ends the run, since a connection is broken. Most likely another process has failed and says why by another way: that is waited
    /// for.
    pub(crate) fn abort_broken(&self, fault: Fault) {
        let watch = Stopwatch::start();
        while !self.is_aborted() && watch.seconds() < CAUSE_SECONDS {
            self.wait(self.bell(), Duration::from_millis(20));
        }
        self.abort(fault);
    }

    /// Whether the run ends at once.
    pub fn is_aborted(&self) -> bool {
        self.aborted.load(Ordering::SeqCst)
    }

    /// Why the run ended at once.
    pub fn take_fault(&self) -> Option<Fault> {
        lock(&self.fault).take()
    }

    /// Goes on after the epochs before `epoch`, of which this was complete.
    pub(crate) fn resume(&self, epoch: Epoch, frontier: Frontier, processes: usize) {
        *lock(&self.closed) = frontier;
        *lock(&self.passed) = vec![epoch; processes];
        for counter in [&self.minted, &self.published] {
            counter.store(epoch, Ordering::SeqCst);
        }
    }

    pub(crate) fn add_mounted(&self) {
        self.mounted.fetch_add(1, Ordering::SeqCst);
        self.ring();
    }

    pub(crate) fn mounted(&self) -> usize {
        self.mounted.load(Ordering::SeqCst)
    }

    pub(crate) fn open(&self, entry: Entry) {
        let epoch = entry.binding.epoch;
        self.unpublished_bytes.fetch_add(entry.bytes, Ordering::SeqCst);
        lock(&self.entries).insert(epoch, entry);
        self.minted.store(epoch + 1, Ordering::SeqCst);
    }

    pub(crate) fn binding(&self, epoch: Epoch) -> Option<Arc<Binding>> {
        lock(&self.entries).get(&epoch).map(|entry| entry.binding.clone())
    }

    pub(crate) fn set_watermark(&self, epoch: Epoch, watermark: Watermark) {
        if let Some(entry) = lock(&self.entries).get_mut(&epoch) {
            entry.watermark = Some(watermark);
        }
    }

    /// The watermark after an open epoch.
    pub(crate) fn watermark(&self, epoch: Epoch) -> Watermark {
        lock(&self.entries).get(&epoch).and_then(|entry| entry.watermark).unwrap_or(START)
    }

    /// What is complete after an open epoch, or after the last one that was closed.
    pub(crate) fn frontier(&self, epoch: Epoch) -> Frontier {
        let entries = lock(&self.entries);
        entries.get(&epoch).map_or_else(|| lock(&self.closed).clone(), Entry::frontier)
    }

    /// Takes an epoch out, in order; [`Book::set_published`] follows once it is durable.
    pub(crate) fn close(&self, epoch: Epoch) -> Option<Entry> {
        let mut entries = lock(&self.entries);
        let entry = entries.remove(&epoch)?;
        *lock(&self.closed) = entry.frontier();
        Some(entry)
    }

    /// All epochs before `epoch` are durable, the last of them with `bytes` of records.
    pub(crate) fn set_published(&self, epoch: Epoch, bytes: usize) {
        self.unpublished_bytes.fetch_sub(bytes, Ordering::SeqCst);
        self.published.store(epoch, Ordering::SeqCst);
        self.ring();
    }

    pub(crate) fn set_passed(&self, process: usize, epochs: u64) {
        lock(&self.passed)[process] = epochs;
        self.ring();
    }

    /// Epochs minted so far.
    pub fn minted(&self) -> u64 {
        self.minted.load(Ordering::SeqCst)
    }

    /// Epochs that have passed every operator.
    pub fn passed(&self) -> u64 {
        lock(&self.passed).iter().copied().min().unwrap_or_default()
    }

    /// Epochs published so far.
    pub fn published(&self) -> u64 {
        self.published.load(Ordering::SeqCst)
    }

    /// Bytes bound in epochs that are not published.
    pub fn unpublished_bytes(&self) -> usize {
        self.unpublished_bytes.load(Ordering::SeqCst)
    }

    /// Rows that wait for the watermark, over all sources and workers.
    pub fn held_rows(&self) -> usize {
        self.held_rows.load(Ordering::SeqCst)
    }

    pub(crate) fn hold(&self, added: usize, removed: usize) {
        self.held_rows.fetch_add(added, Ordering::SeqCst);
        self.held_rows.fetch_sub(removed, Ordering::SeqCst);
    }

    pub(crate) fn hear(&self, source: u32, partition: u32) {
        lock(&self.heard).insert((source, partition), Stopwatch::start());
    }

    /// The partitions that were heard since this was asked.
    pub(crate) fn take_heard(&self) -> Vec<(u32, u32)> {
        std::mem::take(&mut *lock(&self.heard)).into_keys().collect()
    }

    /// For how many seconds a partition has given no row; `None` if it never gave one.
    pub(crate) fn unheard_seconds(&self, partition: (u32, u32)) -> Option<f64> {
        lock(&self.heard).get(&partition).map(Stopwatch::seconds)
    }

    pub(crate) fn holding(&self) -> BTreeSet<(u32, u32)> {
        lock(&self.holding).clone()
    }

    pub(crate) fn set_holding(&self, holding: BTreeSet<(u32, u32)>) {
        *lock(&self.holding) = holding;
    }

    pub(crate) fn publish_revision(&self, fold: usize, revision: Revision) {
        lock(&self.revisions).entry(fold).or_default().push(revision);
    }

    /// A fold begins with what others have learned: it is older than all that it learns.
    pub(crate) fn begin(&self, fold: usize, revision: Revision) {
        lock(&self.begun).insert(fold, revision);
    }

    /// The newest revision of a fold that was complete before `epoch`.
    pub(crate) fn revision_before(&self, fold: usize, epoch: Epoch) -> Option<Revision> {
        let before = |all: &Vec<Revision>| all.iter().rev().find(|revision| revision.epoch < epoch).cloned();
        let learned = lock(&self.revisions).get(&fold).and_then(before);
        learned.or_else(|| lock(&self.begun).get(&fold).cloned())
    }

    /// The newest revision of a fold.
    pub fn newest_revision(&self, fold: usize) -> Option<Revision> {
        self.newest_learned(fold).or_else(|| lock(&self.begun).get(&fold).cloned())
    }

    /// The newest that it made itself.
    pub(crate) fn newest_learned(&self, fold: usize) -> Option<Revision> {
        lock(&self.revisions).get(&fold)?.last().cloned()
    }

    /// Forgets revisions that no epoch after `published` can ask for.
    pub(crate) fn prune_revisions(&self, published: Epoch) {
        for revisions in lock(&self.revisions).values_mut() {
            let stale = revisions.iter().filter(|revision| revision.epoch <= published).count().saturating_sub(1);
            revisions.drain(..stale);
        }
    }
}

impl Entry {
    /// What is complete after this epoch.
    pub fn frontier(&self) -> Frontier {
        let time_ms = self.watermark.and_then(crate::binding::time_ms);
        Frontier { offsets: (*self.offsets).clone(), time_ms }
    }
}
