//! Fetched records that are not bound yet: one queue for each partition, filled by a reader for each source.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::book::Book;
use crate::fault::{Blame, Fault, Result};
use crate::metrics::Metrics;
use crate::raw::RawBatch;
use crate::run::Turn;
use crate::source::{Position, Reader, Source};
use crate::time::Stopwatch;

/// How much a reader asks for at a time; also how finely decoding spreads over the workers.
const READ_BYTES: usize = 1 << 20;
/// How long a reader waits at the end of its source before it looks again.
pub const READ_WAIT: Duration = Duration::from_millis(50);
/// How often a reader asks where its source ends.
const ENDS_SECONDS: f64 = 1.0;
/// The pause after a reader's first failure; it doubles with each that follows at once.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause between two tries of a failing reader.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(5);

/// A partition's queue.
pub struct Queue {
    records: VecDeque<RawBatch>,
    bytes: usize,
    /// The offset after the last one fetched.
    fetched: u64,
    /// The offset after the last one that exists, as far as known.
    end: Option<u64>,
    /// Whether nothing comes after what a reader has once found to be the end.
    finite: bool,
    /// Whether its reader has found nothing more, and that this is the end.
    drained: bool,
    /// Since when no record came or went.
    still: Stopwatch,
}

impl Queue {
    fn new(fetched: u64, finite: bool) -> Self {
        let records = VecDeque::new();
        Self { records, bytes: 0, fetched, end: None, finite, drained: false, still: Stopwatch::start() }
    }

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
        if !taken.is_empty() {
            self.still = Stopwatch::start();
        }
        taken
    }

    /// The offset after the last one fetched.
    pub fn fetched(&self) -> u64 {
        self.fetched
    }

    fn has_reached_end(&self) -> bool {
        self.end.is_none_or(|end| self.fetched >= end)
    }

    /// Whether everything that exists was fetched and taken.
    pub fn is_at_end(&self) -> bool {
        self.is_empty() && self.drained && (self.finite || self.has_reached_end())
    }

    /// Whether no record will ever come.
    pub fn is_over(&self) -> bool {
        self.finite && self.is_at_end()
    }

    /// Whether there is nothing more to take at present, as far as known. A reader that is busy with other partitions
    /// never finds nothing; where there is no end for good, what it last said of the ends tells.
    fn has_nothing_more(&self) -> bool {
        let is_read = if self.finite { self.drained } else { self.end.is_some() && self.has_reached_end() };
        is_read && self.is_empty()
    }

    /// For how many seconds the partition has had nothing more to give; `None` if it has.
    pub fn quiet_seconds(&self) -> Option<f64> {
        self.has_nothing_more().then(|| self.still.seconds())
    }

    /// Records that exist and were not taken, as far as known.
    pub fn lag(&self) -> u64 {
        let unread = if self.drained { 0 } else { self.end.unwrap_or_default().saturating_sub(self.fetched) };
        unread + self.len() as u64
    }
}

/// All queues, by (source, partition).
pub struct Intake {
    queues: Mutex<BTreeMap<(u32, u32), Queue>>,
    /// Partitions that the binder needs records of before it can take others'.
    wanted: Mutex<BTreeSet<(u32, u32)>>,
    book: Arc<Book>,
    /// Bytes that may wait for each source.
    queue_bytes_max: usize,
    /// How often all readers were sent to look again.
    round: AtomicU64,
    /// Records that are dropped as they come.
    skips: Vec<Skip>,
    metrics: Arc<Metrics>,
}

/// Offsets `[lo, hi)` of a partition whose records are never taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skip {
    /// Index of the source.
    pub source: u32,
    /// The partition.
    pub partition: u32,
    /// The first offset.
    pub lo: u64,
    /// The offset after the last.
    pub hi: u64,
}

/// The parts of some records that `is_kept` by their offset.
fn kept(records: &RawBatch, is_kept: impl Fn(u64) -> bool) -> Vec<RawBatch> {
    let mut parts = Vec::new();
    let mut start = 0;
    for run in records.offsets.chunk_by(|a, b| is_kept(*a) == is_kept(*b)) {
        if is_kept(run[0]) {
            parts.push(records.slice(start, run.len()));
        }
        start += run.len();
    }
    parts
}

/// A reader and the partitions that it was opened for.
struct Open {
    partitions: Vec<u32>,
    reader: Box<dyn Reader>,
    /// When it was last asked for the ends.
    looked: Option<Stopwatch>,
}

impl Open {
    fn new(source: &dyn Source, from: &[Position]) -> Result<Self> {
        let partitions = from.iter().map(|position| position.partition).collect();
        Ok(Self { partitions, reader: source.open(from)?, looked: None })
    }

    fn is_for(&self, from: &[Position]) -> bool {
        self.partitions.iter().copied().eq(from.iter().map(|position| position.partition))
    }
}

impl Intake {
    /// Queues that hold up to `queue_bytes_max` for each source (and one read more for each of its partitions).
    pub fn new(book: Arc<Book>, queue_bytes_max: usize, skips: Vec<Skip>, metrics: Arc<Metrics>) -> Self {
        let (queues, wanted, round) = (Mutex::default(), Mutex::default(), AtomicU64::new(0));
        Self { queues, wanted, book, queue_bytes_max, round, skips, metrics }
    }

    /// From now on, a queue is at its end only if its reader finds so in a read that starts after this.
    pub fn look_again(&self) {
        let mut queues = self.queues();
        self.round.fetch_add(1, Ordering::SeqCst);
        for queue in queues.values_mut() {
            queue.drained = false;
        }
        drop(queues);
        self.book.ring();
    }

    /// The queues.
    pub fn queues(&self) -> MutexGuard<'_, BTreeMap<(u32, u32), Queue>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Announces a partition of a source that ends, or does not, read from `position`.
    pub fn announce(&self, source: u32, position: Position, finite: bool) {
        self.queues().insert((source, position.partition), Queue::new(position.offset, finite));
    }

    /// Says which partitions the binder cannot go on without.
    pub fn want(&self, partitions: BTreeSet<(u32, u32)>) {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        if *wanted != partitions {
            *wanted = partitions;
            drop(wanted);
            self.book.ring();
        }
    }

    /// Notes where the partitions end.
    fn look(&self, source: u32, open: &mut Open) -> Result<()> {
        let ends = open.reader.ends()?;
        open.looked = Some(Stopwatch::start());
        let mut queues = self.queues();
        for end in ends {
            if let Some(queue) = queues.get_mut(&(source, end.partition)) {
                queue.end = Some(end.offset);
            }
        }
        Ok(())
    }

    /// Where to read on: all partitions of a source, while there is room. Once there is none, those alone that the
    /// binder waits for, as long as none of them has any records: others that are far ahead must not shut them out.
    fn next(&self, source: u32) -> Option<Vec<Position>> {
        let wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        let queues = self.queues();
        let all = || queues.range((source, 0)..=(source, u32::MAX));
        let position =
            |((_, partition), queue): (&(u32, u32), &Queue)| Position { partition: *partition, offset: queue.fetched };
        if all().map(|(_, queue)| queue.bytes).sum::<usize>() < self.queue_bytes_max {
            return Some(all().map(position).collect());
        }
        let awaited = || all().filter(|(partition, _)| wanted.contains(*partition));
        let is_starved = awaited().next().is_some() && awaited().all(|(_, queue)| queue.is_empty());
        is_starved.then(|| awaited().map(position).collect())
    }

    fn put(&self, source: u32, name: &str, records: &RawBatch) {
        let of = |skip: &&Skip| (skip.source, skip.partition) == (source, records.partition);
        let skips: Vec<&Skip> = self.skips.iter().filter(of).collect();
        let is_kept = |offset| !skips.iter().any(|skip| (skip.lo..skip.hi).contains(&offset));
        let parts = if skips.is_empty() { vec![records.clone()] } else { kept(records, is_kept) };
        let skipped = records.len() - parts.iter().map(RawBatch::len).sum::<usize>();
        if skipped > 0 {
            self.metrics.skipped(name, skipped);
        }
        let mut queues = self.queues();
        let queue = queues.entry((source, records.partition)).or_insert_with(|| Queue::new(0, false));
        queue.fetched = records.offsets[records.len() - 1] + 1;
        queue.bytes += parts.iter().map(RawBatch::bytes).sum::<usize>();
        queue.drained = false;
        queue.still = Stopwatch::start();
        queue.records.extend(parts);
        drop(queues);
        self.book.ring();
    }

    /// A read of these partitions that started in `round` gave nothing.
    fn note_drained(&self, source: u32, partitions: &[u32], round: u64) {
        let mut queues = self.queues();
        let mut is_news = false;
        if round == self.round.load(Ordering::SeqCst) {
            for partition in partitions {
                if let Some(queue) = queues.get_mut(&(source, *partition)) {
                    let drained = queue.finite || queue.has_reached_end();
                    is_news |= drained != queue.drained;
                    queue.drained = drained;
                }
            }
        }
        drop(queues);
        if is_news {
            self.book.ring();
        }
    }
}

/// Reads a source into its queues: a part of a run.
pub struct SourceReader {
    intake: Arc<Intake>,
    index: u32,
    name: String,
    source: Arc<dyn Source>,
    /// Whether it waits for records and looks at a clock; a simulated one does neither.
    timed: bool,
    open: Option<Open>,
    /// The pause after the next failure.
    pause: Duration,
}

impl SourceReader {
    /// Reads the source with this index, whose partitions are announced.
    pub fn new(intake: Arc<Intake>, index: u32, name: String, source: Arc<dyn Source>, timed: bool) -> Self {
        Self { intake, index, name, source, timed, open: None, pause: RETRY_PAUSE }
    }

    /// Its source's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reads once, after what was fetched. A fault that is to be tried again opens the source anew.
    pub fn turn(&mut self) -> Turn {
        if self.intake.book.is_stopping() {
            return Turn::Done;
        }
        match self.read() {
            Ok(turn) => turn,
            Err(fault) if fault.retry => {
                eprintln!("source {}: {fault}; trying again", self.name);
                self.open = None;
                let pause = self.pause;
                self.pause = (pause * 2).min(RETRY_PAUSE_MAX);
                Turn::Pauses(pause)
            }
            Err(fault) => {
                let message = format!("source {}: {fault}", self.name);
                let source = Some(Box::new(fault) as _);
                self.intake.book.abort(Fault { blame: Blame::World, retry: false, message, source });
                Turn::Done
            }
        }
    }

    fn read(&mut self) -> Result<Turn> {
        let next = self.intake.next(self.index);
        if let Some(from) = next.as_ref().filter(|from| self.open.as_ref().is_none_or(|open| !open.is_for(from))) {
            self.open = Some(Open::new(&*self.source, from)?);
        }
        let is_old = |at: Stopwatch| self.timed && at.seconds() > ENDS_SECONDS;
        if let Some(open) = self.open.as_mut().filter(|open| open.looked.is_none_or(is_old)) {
            self.intake.look(self.index, open)?;
        }
        let Some(open) = self.open.as_mut().filter(|_| next.is_some()) else { return Ok(Turn::Waits) };
        let round = self.intake.round.load(Ordering::SeqCst);
        let wait = if self.timed { READ_WAIT } else { Duration::ZERO };
        let records = open.reader.read(READ_BYTES, wait)?.filter(|records| !records.is_empty());
        self.pause = RETRY_PAUSE;
        if let Some(records) = records {
            self.intake.put(self.index, &self.name, &records);
            return Ok(Turn::Worked);
        }
        // A broker may be slow; a source that ends gives nothing only there.
        if !self.source.is_finite() {
            self.intake.look(self.index, open)?;
        }
        self.intake.note_drained(self.index, &open.partitions, round);
        // At the end of a topic, the read itself has waited.
        let has_waited = self.timed && !self.source.is_finite();
        Ok(if has_waited { Turn::Worked } else { Turn::Waits })
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::BinaryArray;

    use super::*;
    use crate::raw::Payload;

    /// Records of these sizes, from an offset on.
    fn records(partition: u32, first: u64, sizes: &[usize]) -> RawBatch {
        let values = sizes.iter().map(|size| vec![b'x'; *size]);
        RawBatch {
            partition,
            offsets: (first..first + sizes.len() as u64).collect(),
            timestamps: vec![0; sizes.len()].into(),
            keys: None,
            headers: Vec::new(),
            payload: Payload::Bytes(BinaryArray::from_iter_values(values)),
        }
    }

    fn intake(queue_bytes_max: usize, partitions: u32) -> Intake {
        let intake = Intake::new(Arc::default(), queue_bytes_max, vec![], Arc::default());
        for partition in 0..partitions {
            intake.announce(0, Position { partition, offset: 0 }, false);
        }
        intake
    }

    fn offsets(parts: &[RawBatch]) -> Vec<u64> {
        parts.iter().flat_map(|part| part.offsets.iter().copied()).collect()
    }

    #[test]
    fn takes_across_reads_and_leaves_the_rest() {
        let intake = intake(1000, 1);
        intake.put(0, "topic", &records(0, 0, &[1, 1, 1]));
        intake.put(0, "topic", &records(0, 5, &[1, 1]));
        let mut queues = intake.queues();
        let queue = queues.get_mut(&(0, 0)).expect("announced");
        assert_eq!((queue.len(), queue.bytes, queue.fetched()), (5, 5, 7));
        assert_eq!(offsets(&queue.take(|_, count, _| count < 4)), [0, 1, 2, 5]);
        assert_eq!((queue.len(), queue.bytes), (1, 1));
        assert!(queue.take(|offset, _, _| offset < 6).is_empty());
        assert_eq!(offsets(&queue.take(|offset, _, _| offset < 7)), [6]);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_take_counts_bytes() {
        let intake = intake(1000, 1);
        intake.put(0, "topic", &records(0, 0, &[10, 10, 10, 10]));
        intake.put(0, "topic", &records(0, 4, &[50]));
        let mut queues = intake.queues();
        let queue = queues.get_mut(&(0, 0)).expect("announced");
        assert_eq!(offsets(&queue.take(|_, _, bytes| bytes < 15)), [0, 1]);
        assert_eq!(offsets(&queue.take(|_, _, bytes| bytes < 100)), [2, 3, 4]);
    }

    #[test]
    fn a_full_source_reads_only_what_is_awaited() {
        let intake = intake(10, 3);
        let open = |intake: &Intake| {
            intake.next(0).map(|from| from.iter().map(|at| (at.partition, at.offset)).collect::<Vec<_>>())
        };
        intake.put(0, "topic", &records(0, 0, &[9]));
        assert_eq!(open(&intake), Some(vec![(0, 1), (1, 0), (2, 0)]), "there is room");
        intake.put(0, "topic", &records(0, 1, &[9]));
        assert_eq!(open(&intake), None);
        intake.want(BTreeSet::from([(0, 1), (7, 0)]));
        assert_eq!(open(&intake), Some(vec![(1, 0)]));
        intake.put(0, "topic", &records(1, 0, &[1]));
        assert_eq!(open(&intake), None, "what is awaited is there");
        intake.want(BTreeSet::from([(0, 0)]));
        assert_eq!(open(&intake), None, "what is awaited is there");
        intake.queues().get_mut(&(0, 0)).expect("announced").take(|_, _, _| true);
        assert_eq!(open(&intake), Some(vec![(0, 2), (1, 1), (2, 0)]), "there is room again");
    }

    #[test]
    fn a_busy_partition_does_not_hide_that_another_is_quiet() {
        let intake = intake(1000, 2);
        let is_quiet = |partition| intake.queues()[&(0, partition)].has_nothing_more();
        intake.put(0, "topic", &records(0, 0, &[1]));
        assert!(!is_quiet(0) && !is_quiet(1), "nothing is known of its end");
        for (end, expected) in [(5, false), (0, true)] {
            intake.queues().get_mut(&(0, 1)).expect("announced").end = Some(end);
            assert_eq!((is_quiet(0), is_quiet(1)), (false, expected));
        }
        intake.put(0, "topic", &records(1, 0, &[1]));
        assert!(!is_quiet(1), "its record waits");
    }

    #[test]
    fn the_end_is_where_the_broker_says() {
        let intake = intake(1000, 1);
        let is_at_end = || intake.queues()[&(0, 0)].is_at_end();
        intake.queues().get_mut(&(0, 0)).expect("announced").end = Some(1);
        intake.note_drained(0, &[0], 0);
        assert!(!is_at_end(), "the broker has more, and was slow");
        intake.put(0, "topic", &records(0, 0, &[1]));
        intake.note_drained(0, &[0], 0);
        assert!(!is_at_end(), "a record waits");
        intake.queues().get_mut(&(0, 0)).expect("announced").take(|_, _, _| true);
        assert!(is_at_end());
        intake.queues().get_mut(&(0, 0)).expect("announced").end = Some(2);
        assert!(!is_at_end(), "there is more by now");
    }

    #[test]
    fn a_source_that_ends_needs_no_broker_to_say_so() {
        let intake = Intake::new(Arc::default(), 1000, vec![], Arc::default());
        intake.announce(0, Position { partition: 0, offset: 0 }, true);
        let is_over = || intake.queues()[&(0, 0)].is_over();
        intake.queues().get_mut(&(0, 0)).expect("announced").end = Some(9);
        assert!(!is_over());
        intake.note_drained(0, &[0], 0);
        assert!(is_over(), "a file may end with an empty line");
    }

    #[test]
    fn a_read_that_started_before_the_last_look_says_nothing_of_the_end() {
        let intake = intake(1000, 2);
        let at_end = || intake.queues().values().map(Queue::is_at_end).collect::<Vec<_>>();
        intake.note_drained(0, &[1], 0);
        assert_eq!(at_end(), [false, true], "another partition was not read");
        intake.look_again();
        assert_eq!(at_end(), [false, false]);
        intake.note_drained(0, &[0, 1], 0);
        assert_eq!(at_end(), [false, false], "that read may have missed what came before the look");
        intake.note_drained(0, &[0, 1], 1);
        assert_eq!(at_end(), [true, true]);
    }
}
