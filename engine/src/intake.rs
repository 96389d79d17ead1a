//! Fetched records that are not bound yet: one queue for each partition, filled by a thread for each source.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::book::Book;
use crate::fault::{Blame, Fault, Result};
use crate::raw::RawBatch;
use crate::source::{Position, Source};
use crate::time::Stopwatch;

/// How much a reader asks for at a time; also how finely decoding spreads over the workers.
const READ_BYTES: usize = 1 << 20;
/// How long a reader waits at the end of its source before it looks again.
const READ_WAIT: Duration = Duration::from_millis(50);
/// How often a reader asks where its source ends.
const ENDS_SECONDS: f64 = 1.0;
/// The longest pause between two tries of a failing reader.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(5);

/// A partition's queue.
#[derive(Default)]
pub struct Queue {
    records: VecDeque<RawBatch>,
    bytes: usize,
    /// The offset after the last one fetched.
    fetched: u64,
    /// The offset after the last one that exists, as far as known.
    end: u64,
    /// Since when the reader has been at the end. Offsets alone do not tell: the last ones may belong to no record.
    drained: Option<Stopwatch>,
}

impl Queue {
    /// How many records wait.
    pub fn len(&self) -> usize {
        self.records.iter().map(RawBatch::len).sum()
    }

    /// Whether none wait.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Takes records while `more(offset, taken, bytes)` allows the next one.
    pub fn take(&mut self, mut more: impl FnMut(u64, usize, usize) -> bool) -> Vec<RawBatch> {
        let mut taken = Vec::new();
        let (mut count, mut bytes) = (0, 0);
        while let Some(first) = self.records.pop_front() {
            let width = first.bytes() / first.len().max(1);
            let fits = first
                .offsets
                .iter()
                .enumerate()
                .take_while(|(at, offset)| more(**offset, count + at, bytes + at * width));
            let fits = fits.count();
            if fits < first.len() {
                self.records.push_front(first.slice(fits, first.len() - fits));
            }
            if fits > 0 {
                let part = first.slice(0, fits);
                count += fits;
                bytes += part.bytes();
                taken.push(part);
            }
            if fits < first.len() {
                break;
            }
        }
        self.bytes = self.records.iter().map(RawBatch::bytes).sum();
        taken
    }

    /// The offset after the last one fetched.
    pub fn fetched(&self) -> u64 {
        self.fetched
    }

    /// Whether everything that exists was fetched and taken.
    pub fn is_at_end(&self) -> bool {
        self.is_empty() && self.drained.is_some()
    }

    /// For how many seconds the partition has had nothing more to give.
    pub fn quiet_seconds(&self) -> f64 {
        if self.is_empty() { self.drained.map_or(0.0, |since| since.seconds()) } else { 0.0 }
    }

    /// Records that exist and were not taken, as far as known.
    pub fn lag(&self) -> u64 {
        let unread = if self.drained.is_some() { 0 } else { self.end.saturating_sub(self.fetched) };
        unread + self.len() as u64
    }
}

/// All queues, by (source, partition).
pub struct Intake {
    queues: Mutex<BTreeMap<(u32, u32), Queue>>,
    book: Arc<Book>,
    /// Bytes that may wait for each source.
    queue_bytes_max: usize,
    /// How often all readers were sent to look again.
    round: AtomicU64,
    /// A source whose records are needed, however many of its other partitions wait.
    needed: Mutex<Option<u32>>,
}

impl Intake {
    /// Queues that hold up to `queue_bytes_max` for each source (and one larger record).
    pub fn new(book: Arc<Book>, queue_bytes_max: usize) -> Self {
        Self { queues: Mutex::default(), book, queue_bytes_max, round: AtomicU64::new(0), needed: Mutex::default() }
    }

    /// From now on, a queue is at its end only if its reader finds so in a read that starts after this.
    pub fn look_again(&self) {
        let mut queues = self.queues();
        self.round.fetch_add(1, Ordering::SeqCst);
        queues.values_mut().for_each(|queue| queue.drained = None);
    }

    /// Lets a source be read beyond its bytes: a replay takes partitions in the order in which they were bound, and its
    /// reader may come upon them in another.
    pub fn need(&self, source: Option<u32>) {
        *self.needed.lock().unwrap_or_else(PoisonError::into_inner) = source;
        self.book.ring();
    }

    fn is_needed(&self, source: u32) -> bool {
        *self.needed.lock().unwrap_or_else(PoisonError::into_inner) == Some(source)
    }

    /// The queues.
    pub fn queues(&self) -> MutexGuard<'_, BTreeMap<(u32, u32), Queue>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Announces a partition, read from `position`.
    pub fn announce(&self, source: u32, position: Position) {
        let queue = Queue { fetched: position.offset, ..Queue::default() };
        self.queues().insert((source, position.partition), queue);
    }

    fn waiting(&self, source: u32) -> usize {
        self.queues().range((source, 0)..=(source, u32::MAX)).map(|(_, queue)| queue.bytes).sum()
    }

    /// Reads `source` until the run stops. Runs on a thread of its own.
    pub fn fill(&self, index: u32, name: &str, source: &dyn Source) {
        let mut pause = Duration::from_millis(100);
        while !self.book.is_stopping() {
            match self.read(index, source) {
                Ok(()) => return,
                Err(fault) if fault.retry => {
                    eprintln!("source {name}: {fault}; trying again");
                    let heard = self.book.bell();
                    self.book.wait(heard, pause);
                    pause = (pause * 2).min(RETRY_PAUSE_MAX);
                }
                Err(fault) => {
                    let message = format!("source {name}: {fault}");
                    return self.book.abort(Fault {
                        blame: Blame::World,
                        retry: false,
                        message,
                        source: Some(Box::new(fault)),
                    });
                }
            }
        }
    }

    /// Opens the source after what was fetched, and reads on.
    fn read(&self, index: u32, source: &dyn Source) -> Result<()> {
        let queues = self.queues();
        let partitions = queues.range((index, 0)..=(index, u32::MAX));
        let from: Vec<Position> = partitions
            .map(|((_, partition), queue)| Position { partition: *partition, offset: queue.fetched })
            .collect();
        drop(queues);
        let mut reader = source.open(&from)?;
        let mut looked = Stopwatch::start();
        self.note_ends(index, &reader.ends()?);
        while !self.book.is_stopping() {
            let heard = self.book.bell();
            if self.waiting(index) >= self.queue_bytes_max && !self.is_needed(index) {
                self.book.wait(heard, READ_WAIT);
                continue;
            }
            let round = self.round.load(Ordering::SeqCst);
            match reader.read(READ_BYTES, READ_WAIT)?.filter(|records| !records.is_empty()) {
                Some(records) => self.put(index, records),
                // Only a source that ends has nothing more when it gives nothing; a broker may be slow.
                None if source.is_finite() => self.note_drained(index, round, |_, _| true),
                None => {
                    let ends = reader.ends()?;
                    let is_end =
                        |partition, fetched| ends.iter().all(|end| end.partition != partition || end.offset <= fetched);
                    self.note_drained(index, round, is_end);
                }
            }
            if looked.seconds() > ENDS_SECONDS {
                self.note_ends(index, &reader.ends()?);
                looked = Stopwatch::start();
            }
        }
        Ok(())
    }

    fn note_ends(&self, source: u32, ends: &[Position]) {
        let mut queues = self.queues();
        for end in ends {
            if let Some(queue) = queues.get_mut(&(source, end.partition)) {
                queue.end = end.offset;
            }
        }
    }

    fn put(&self, source: u32, records: RawBatch) {
        let mut queues = self.queues();
        let queue = queues.entry((source, records.partition)).or_default();
        queue.fetched = records.offsets[records.len() - 1] + 1;
        queue.bytes += records.bytes();
        queue.drained = None;
        queue.records.push_back(records);
        drop(queues);
        self.book.ring();
    }

    /// A read that started in `round` gave nothing; `is_end` tells whether a partition has nothing after an offset.
    fn note_drained(&self, source: u32, round: u64, is_end: impl Fn(u32, u64) -> bool) {
        let mut queues = self.queues();
        if round == self.round.load(Ordering::SeqCst) {
            for ((_, partition), queue) in queues.range_mut((source, 0)..=(source, u32::MAX)) {
                if is_end(*partition, queue.fetched) {
                    queue.drained.get_or_insert_with(Stopwatch::start);
                }
            }
        }
        drop(queues);
        self.book.ring();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_that_started_before_the_last_look_says_nothing_of_the_end() {
        let intake = Intake::new(Arc::new(Book::default()), 1);
        for partition in [0, 1] {
            intake.announce(0, Position { partition, offset: 5 });
        }
        let at_end = || intake.queues().values().map(Queue::is_at_end).collect::<Vec<_>>();
        intake.note_drained(0, 0, |partition, fetched| partition == 1 && fetched == 5);
        assert_eq!(at_end(), [false, true], "a partition that has more is not at its end");
        intake.look_again();
        assert_eq!(at_end(), [false, false]);
        intake.note_drained(0, 0, |_, _| true);
        assert_eq!(at_end(), [false, false], "that read may have missed what came before the look");
        intake.note_drained(0, 1, |_, _| true);
        assert_eq!(at_end(), [true, true]);
    }
}
