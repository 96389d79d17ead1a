//! The simulated broker's log: entries, transactions, and what readers may see.

use std::cell::Cell;
use std::collections::BTreeMap;

use millstream_engine::source::Position;
use millstream_engine::{Fault, Result};

use crate::broker::columns::{Cells, Columns};
use crate::broker::partition::Partitioner;
use crate::broker::{Append, Fetched, Message, Topic, faults};

/// All that the broker holds.
#[derive(Default)]
pub(super) struct Log {
    /// The time: how many operations there were.
    pub(super) now: u64,
    topics: BTreeMap<String, Vec<Partition>>,
    producers: BTreeMap<String, Seat>,
    transactions: Vec<Transaction>,
    /// Commits that are still under way.
    late: Vec<Late>,
}

#[derive(Default)]
struct Partition {
    first: u64,
    /// The entry at index i has offset i; discarded ones stay, unread.
    entries: Vec<Entry>,
    /// Everything before it is stable for ever, so that looking for the end need not begin at the beginning.
    stable: Cell<usize>,
}

struct Entry {
    transaction: usize,
    /// `None` is the mark of a transaction's end.
    message: Option<Message>,
}

/// Who may produce under an id.
#[derive(Default)]
struct Seat {
    epoch: u64,
    open: Option<usize>,
}

#[derive(Default)]
struct Transaction {
    state: State,
    /// Where its records are, so that its end can be marked there.
    partitions: Vec<(String, usize)>,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum State {
    #[default]
    Open,
    Aborted,
    /// Readers see it from this time on.
    Committed(u64),
}

struct Late {
    due: u64,
    id: String,
    epoch: u64,
}

impl Log {
    /// Another operation: late commits may arrive.
    pub(super) fn tick(&mut self) -> u64 {
        let at = self.now;
        self.now += 1;
        let (due, late) = std::mem::take(&mut self.late).into_iter().partition(|late| late.due <= self.now);
        self.late = late;
        for Late { id, epoch, .. } in due {
            // As on Kafka, it ends whatever this producer has open now; a newer producer makes it void.
            if let Ok(Some(open)) = self.seat(&id, epoch).map(|seat| seat.open.take()) {
                self.end(open, State::Committed(self.now));
            }
        }
        at
    }

    pub(super) fn topics(&self) -> Vec<Topic> {
        let topic = |(name, partitions): (&String, &Vec<Partition>)| Topic {
            name: name.clone(),
            partitions: partitions.iter().map(|partition| self.range(partition)).collect(),
        };
        self.topics.iter().map(topic).collect()
    }

    /// Returns how many partitions the topic has.
    pub(super) fn create(&mut self, name: &str, partitions: usize) -> usize {
        let new = || (0..partitions).map(|_| Partition::default()).collect();
        self.topics.entry(name.to_owned()).or_insert_with(new).len()
    }

    pub(super) fn discard(&mut self, topic: &str, before: &[Position]) -> Result<()> {
        self.check_ends(topic, before)?;
        let partitions = self.topics.get_mut(topic).ok_or_else(|| faults::no_topic(topic))?;
        for position in before {
            let partition = &mut partitions[position.partition as usize];
            partition.first = partition.first.max(position.offset);
        }
        Ok(())
    }

    /// Fails unless all positions can be read.
    pub(super) fn check(&self, topic: &str, from: &[Position]) -> Result<()> {
        for position in from {
            let range = self.range(self.partition(topic, position.partition)?);
            if position.offset < range.0 || position.offset > range.1 {
                return Err(faults::out_of_range(topic, position.partition, position.offset, range));
            }
        }
        self.topics.get(topic).map(|_| ()).ok_or_else(|| faults::no_topic(topic))
    }

    fn check_ends(&self, topic: &str, before: &[Position]) -> Result<()> {
        for position in before {
            let range = self.range(self.partition(topic, position.partition)?);
            if position.offset > range.1 {
                return Err(faults::out_of_range(topic, position.partition, position.offset, range));
            }
        }
        Ok(())
    }

    fn partition(&self, topic: &str, partition: u32) -> Result<&Partition> {
        let partitions = self.topics.get(topic).ok_or_else(|| faults::no_topic(topic))?;
        let none = || faults::no_partition(topic, partition, partitions.len());
        partitions.get(partition as usize).ok_or_else(none)
    }

    /// The first kept offset, and the last stable one: nothing at or after the first open transaction is stable.
    fn range(&self, partition: &Partition) -> (u64, u64) {
        let open = |entry: &Entry| match self.transactions[entry.transaction].state {
            State::Open => true,
            State::Committed(from) => from > self.now,
            State::Aborted => false,
        };
        let known = partition.stable.get();
        let more = partition.entries[known..].iter().position(open);
        let stable = more.map_or(partition.entries.len(), |more| known + more);
        partition.stable.set(stable);
        (partition.first, stable as u64)
    }

    /// A new producer: aborts what its predecessor left open.
    pub(super) fn start(&mut self, id: &str) -> u64 {
        let seat = self.producers.entry(id.to_owned()).or_default();
        seat.epoch += 1;
        let (epoch, open) = (seat.epoch, seat.open.take());
        if let Some(open) = open {
            self.end(open, State::Aborted);
        }
        epoch
    }

    fn seat(&mut self, id: &str, epoch: u64) -> Result<&mut Seat> {
        let seat = self.producers.get_mut(id).filter(|seat| seat.epoch == epoch);
        seat.ok_or_else(|| faults::fenced(id))
    }

    /// Begins a transaction; a careless producer goes on with the one that it has open.
    pub(super) fn begin(&mut self, id: &str, epoch: u64, careless: bool) -> Result<usize> {
        let transaction = self.transactions.len();
        let seat = self.seat(id, epoch)?;
        if let Some(open) = seat.open {
            if careless {
                return Ok(open);
            }
            return Err(Fault::ours(format!("producer `{id}` began a transaction inside another")));
        }
        seat.open = Some(transaction);
        self.transactions.push(Transaction::default());
        Ok(transaction)
    }

    pub(super) fn send(
        &mut self,
        (id, epoch): (&str, u64),
        transaction: usize,
        appends: &[Append],
        partitioner: &mut Partitioner,
    ) -> Result<()> {
        self.seat(id, epoch)?;
        self.place(transaction, appends, partitioner)
    }

    /// Messages outside any transaction: no mark follows them, and no fence stops them.
    pub(super) fn send_alone(&mut self, appends: &[Append], partitioner: &mut Partitioner) -> Result<()> {
        let transaction = self.transactions.len();
        self.transactions.push(Transaction { state: State::Committed(self.now), partitions: Vec::new() });
        self.place(transaction, appends, partitioner)
    }

    fn place(&mut self, transaction: usize, appends: &[Append], partitioner: &mut Partitioner) -> Result<()> {
        for append in appends {
            let partitions = self.topics.get_mut(&append.topic).ok_or_else(|| faults::no_topic(&append.topic))?;
            let chosen = partitioner.assign(&append.topic, partitions.len() as u32, &append.messages)?;
            for (message, at) in append.messages.iter().zip(chosen) {
                let entry = Entry { transaction, message: Some(message.clone()) };
                partitions[at as usize].entries.push(entry);
                let place = (append.topic.clone(), at as usize);
                let touched = &mut self.transactions[transaction].partitions;
                if !touched.contains(&place) {
                    touched.push(place);
                }
            }
        }
        Ok(())
    }

    pub(super) fn commit(&mut self, id: &str, epoch: u64, transaction: usize, hide: u64) -> Result<()> {
        self.seat(id, epoch)?.open = None;
        self.end(transaction, State::Committed(self.now + hide));
        Ok(())
    }

    pub(super) fn commit_late(&mut self, id: &str, epoch: u64, operations: u64) {
        self.late.push(Late { due: self.now + operations, id: id.to_owned(), epoch });
    }

    pub(super) fn abort(&mut self, transaction: usize) {
        let holder = self.producers.values_mut().find(|seat| seat.open == Some(transaction));
        if let Some(seat) = holder {
            seat.open = None;
            self.end(transaction, State::Aborted);
        }
    }

    /// Ends a transaction and marks it in the partitions that it touched.
    fn end(&mut self, transaction: usize, state: State) {
        self.transactions[transaction].state = state;
        for (topic, partition) in &self.transactions[transaction].partitions {
            if let Some(partitions) = self.topics.get_mut(topic) {
                partitions[*partition].entries.push(Entry { transaction, message: None });
            }
        }
    }

    /// The committed records from `at` on, about `max_bytes` of them; moves `at` behind them.
    pub(super) fn read(&self, topic: &str, at: &mut Position, max_bytes: usize) -> Result<Option<Fetched>> {
        let partition = self.partition(topic, at.partition)?;
        let (first, end) = self.range(partition);
        if at.offset < first {
            return Err(faults::out_of_range(topic, at.partition, at.offset, (first, end)));
        }
        let mut columns = Columns::new(at.partition);
        for offset in at.offset..end {
            let entry = &partition.entries[offset as usize];
            let committed = self.transactions[entry.transaction].state != State::Aborted;
            if let Some(message) = entry.message.as_ref().filter(|_| committed) {
                let cells = Cells {
                    offset,
                    timestamp_ms: message.timestamp_ms,
                    key: message.key.as_deref(),
                    value: message.value.as_deref(),
                };
                if !columns.is_empty() && columns.bytes() + cells.bytes() > max_bytes {
                    break;
                }
                columns.push(cells, message.headers.clone());
            }
            at.offset = offset + 1;
        }
        Ok((!columns.is_empty()).then(|| columns.finish()))
    }

    /// The ends as a reader at `cursors` knows them: marks at the end of the log are no records.
    pub(super) fn ends(&self, topic: &str, cursors: &[Position]) -> Result<Vec<Position>> {
        let end = |cursor: &Position| {
            let partition = self.partition(topic, cursor.partition)?;
            let end = self.range(partition).1;
            let mut entries = partition.entries[..end as usize].iter();
            let last = entries.rposition(|entry| {
                entry.message.is_some() && self.transactions[entry.transaction].state != State::Aborted
            });
            Ok(Position {
                partition: cursor.partition,
                offset: last.map_or(0, |last| last as u64 + 1).max(partition.first),
            })
        };
        cursors.iter().map(end).collect()
    }
}
