//! State by key, in 256 bins.
//!
//! A key's bin comes from a fixed hash of its values, and a bin's worker is `bin mod workers`: so any number
//! of workers can take over any checkpoint. Within an operator each key has a slot in a dense vector, so that
//! the work per row is one look-up and no allocation.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use serde::{Deserialize, Serialize};
use serde_bytes::Bytes;

use crate::batch::Lane;
use crate::binding::Watermark;
use crate::fault::{Fault, Result};
use crate::operator::{Keyed, Rejects};

mod keys;
pub(crate) mod relational;
mod store;

use keys::with_bin_of;
pub(crate) use keys::{KeyList, KeyReader, KeyRef, Keys};
pub use relational::Related;
use store::{Place, Store};

/// How many bins there are; fixed for ever, since checkpoints are written by bin.
pub const BINS: usize = 256;

/// A hash of bytes: FNV-1a, then a finaliser that spreads short ones over all bits.
/// Stable over runs, versions and machines, which the standard library's hasher is not. Keys of operators have another, over words: `KeyRef::hash`.
pub fn hash(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let fnv = bytes.iter().fold(0xcbf2_9ce4_8422_2325, step);
    let mixed = (fnv ^ (fnv >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    mixed ^ (mixed >> 32)
}

/// A hash as a number in [0, 1).
pub fn share(hash: u64) -> f64 {
    (hash >> 11) as f64 / (1_u64 << 53) as f64
}

/// The bin of a key with this hash.
pub fn bin(hash: u64) -> usize {
    (hash >> 56) as usize
}

/// The serialised states of one bin, in no particular order.
#[derive(Default)]
pub struct Entries {
    bytes: Vec<u8>,
    /// Where each entry ends.
    ends: Vec<usize>,
}

impl Entries {
    /// Adds a key with its state and its numbers; how many bytes they take.
    fn push(&mut self, key: KeyRef<'_>, state: &impl Serialize, numbers: &[f64]) -> Result<usize> {
        let start = self.bytes.len();
        let bytes = std::mem::take(&mut self.bytes);
        self.bytes = key.with_bytes(|key| postcard::to_extend(&(Bytes::new(key), state), bytes)).map_err(unwritable)?;
        self.bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        self.ends.push(self.bytes.len());
        Ok(self.bytes.len() - start)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// How many bytes they take.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The bin as it is stored: a map from keys to states. Equal states give equal bytes.
    pub fn joined(&self) -> Result<Vec<u8>> {
        let starts = [0].into_iter().chain(self.ends.iter().copied());
        let entry = |(start, end): (usize, usize)| {
            let entry = &self.bytes[start..end];
            let (key, _) = postcard::take_from_bytes::<&[u8]>(entry).map_err(unwritable)?;
            Ok((key, entry))
        };
        let mut entries = starts.zip(self.ends.iter().copied()).map(entry).collect::<Result<Vec<_>>>()?;
        entries.sort_unstable_by_key(|(key, _)| *key);
        let mut joined = Vec::with_capacity(self.bytes.len() + 10);
        joined = postcard::to_extend(&entries.len(), joined).map_err(unwritable)?;
        for (_, entry) in entries {
            joined.extend_from_slice(entry);
        }
        Ok(joined)
    }
}

fn unwritable(error: postcard::Error) -> Fault {
    Fault::ours("a state cannot be written").because(error)
}

/// How many rows are looked up together: the memory that one look-up waits for does not keep the others waiting.
const AHEAD: usize = 64;

/// Looks up the keys of a batch's rows, some ahead of the row that is asked for.
#[derive(Default)]
struct LookUp {
    /// The row at which those begin that were looked up.
    from: usize,
    keys: KeyList,
    /// Of the keys, the parts by which they have their bins.
    spread: KeyList,
    /// The keys' hashes, and what was found.
    ahead: Vec<(u64, Option<Place>)>,
    /// The row whose key was looked for last in vain.
    unknown: Option<usize>,
}

impl LookUp {
    /// The hash of a row's key, and where its state is if it has one. States may be added between two calls.
    #[inline]
    fn find<S: Default + Serialize>(&mut self, store: &Store<S>, keys: &Keys, row: usize) -> (u64, Option<Place>) {
        let at = self.reach(store, keys, row);
        let (hash, found) = &mut self.ahead[at];
        if found.is_none() && self.unknown != Some(row) {
            // A row before may have brought its key.
            *found = store.find(*hash, self.keys.get(at));
            self.unknown = found.is_none().then_some(row);
        }
        (*hash, *found)
    }

    /// Where the state of a row's key is; one that has none gets it.
    #[inline]
    fn take<S: Default + Serialize>(&mut self, store: &mut Store<S>, keys: &Keys, row: usize) -> Place {
        let at = self.reach(store, keys, row);
        let (hash, found) = self.ahead[at];
        found.unwrap_or_else(|| {
            let place = store.take(hash, self.keys.get(at));
            self.ahead[at].1 = Some(place);
            place
        })
    }

    /// The row's place among those that are looked up.
    #[inline]
    fn reach<S: Default + Serialize>(&mut self, store: &Store<S>, keys: &Keys, row: usize) -> usize {
        let row = if keys.is_one() { 0 } else { row };
        if row < self.from || row - self.from >= self.ahead.len() {
            self.look_ahead(store, keys, row);
        }
        row - self.from
    }

    /// Looks up `row` and those that follow.
    #[cold]
    fn look_ahead<S: Default + Serialize>(&mut self, store: &Store<S>, keys: &Keys, row: usize) {
        let end = if keys.is_one() { row + 1 } else { keys.rows().min(row + AHEAD) };
        keys.write(row..end, &mut self.keys);
        self.from = row;
        self.ahead.clear();
        self.ahead.extend(self.keys.iter().map(|key| (key.hash(), None)));
        if let Some(spread) = keys.spread() {
            spread.write(row..end, &mut self.spread);
            for ((hash, _), part) in self.ahead.iter_mut().zip(self.spread.iter()) {
                *hash = with_bin_of(*hash, part.hash());
            }
        }
        store.touch(self.ahead.iter().map(|(hash, _)| *hash));
        for ((hash, found), key) in self.ahead.iter_mut().zip(self.keys.iter()) {
            *found = store.find(*hash, key);
        }
        store.touch_places(self.ahead.iter().filter_map(|(_, found)| *found));
    }

    /// The key of a row that was looked up last.
    fn key(&self, keys: &Keys, row: usize) -> KeyRef<'_> {
        self.keys.get(if keys.is_one() { 0 } else { row - self.from })
    }
}

/// The states of a batch's rows, for [`Keyed::apply`].
pub struct States<'a, S> {
    store: &'a mut Store<S>,
    keys: &'a Keys,
    lane: Lane,
    look_up: LookUp,
    /// The numbers of a request's key, which it may not change.
    copied: Vec<f64>,
}

impl<'a, S: Default + Serialize> States<'a, S> {
    fn new(store: &'a mut Store<S>, keys: &'a Keys, lane: Lane) -> Self {
        Self { store, keys, lane, look_up: LookUp::default(), copied: Vec::new() }
    }

    /// Whether these rows teach or ask: for steps that let every request pass.
    pub fn lane(&self) -> Lane {
        self.lane
    }

    /// The state of row `row`'s key as it is before this row; the default for an unknown key.
    pub fn get(&mut self, row: usize) -> &S {
        match self.look_up.find(self.store, self.keys, row).1 {
            Some(place) => self.store.get(place),
            None => &self.store.unknown,
        }
    }

    /// Changes the state of row `row`'s key; in the serve lane, does nothing.
    #[inline]
    pub fn update(&mut self, row: usize, change: impl FnOnce(&mut S)) {
        if self.lane == Lane::Learn {
            let place = self.look_up.take(self.store, self.keys, row);
            self.store.change(place, change);
        }
    }

    /// Lets `change` read and change the numbers of row `row`'s key, as many as [`Keyed::numbers`] says; all are zero for an
    /// unknown key. In the serve lane it changes a copy.
    #[inline]
    pub fn numbers<T>(&mut self, row: usize, change: impl FnOnce(&mut [f64]) -> T) -> T {
        if self.lane == Lane::Learn {
            let place = self.look_up.take(self.store, self.keys, row);
            return change(self.store.numbers_mut(place));
        }
        let found = self.look_up.find(self.store, self.keys, row).1;
        self.copied.clear();
        match found {
            Some(place) => self.copied.extend_from_slice(self.store.numbers(place)),
            None => self.copied.resize(self.store.width(), 0.0),
        }
        change(&mut self.copied)
    }
}

/// A [`Keyed`] operator with its state type hidden, for the dataflow.
pub trait ErasedKeyed: Send + Sync + 'static {
    /// See [`Keyed::key`].
    fn key(&self, port: usize) -> &[usize];
    /// Whether its inputs may take back rows: see [`crate::batch::DIFF`].
    fn takes_changes(&self) -> bool;
    /// The operator on one worker, with no state yet; `schemas` are those of its ports, and `spread` is the part of its keys by which
    /// they have their bins: see [`Graph::spread`](crate::graph::Graph::spread).
    fn mount(self: Arc<Self>, schemas: &[SchemaRef], spread: &[usize]) -> Result<Box<dyn KeyedInstance>>;
}

/// A keyed operator with the state of one worker's bins.
pub trait KeyedInstance: Send {
    /// Takes the learn lane's rows of an epoch, by port: in canonical order, their keys this worker's. What a port could not take
    /// goes to its `rejects`.
    fn learn(&mut self, ports: &[RecordBatch], rejects: &mut [Rejects]) -> Result<Option<RecordBatch>>;
    /// Answers requests of port 0 from the state.
    fn serve(&mut self, rows: &RecordBatch, rejects: &mut Rejects) -> Result<Option<RecordBatch>>;
    /// Whether it may give rows in epochs that bring it none, as time passes.
    fn acts(&self) -> bool;
    /// Tells the watermark.
    fn set_now(&mut self, now: Watermark);
    /// Whether it has something to give at the watermark.
    fn is_due(&self) -> bool;
    /// Drops some of the states that `watermark` has made useless.
    fn sweep(&mut self, rows: usize, watermark: i64);
    /// How many keys have a state.
    fn keys(&self) -> usize;
    /// Begins a snapshot of the state as it is now; one that was being walked is abandoned.
    fn begin(&mut self);
    /// Goes on with the snapshot by about `bytes`, and gives the bins that it has finished. Empty bins are absent. The state
    /// may change between two steps; the snapshot stays what it was when it began.
    fn walk(&mut self, bytes: usize) -> Result<Vec<(u8, Entries)>>;
    /// Whether the snapshot has not reached its end.
    fn is_walking(&self) -> bool;
    /// Gives up the snapshot.
    fn abandon(&mut self);
    /// Adds those keys of a bin from a snapshot, [`Entries::joined`], whose bins are wanted: in another definition their bins may have
    /// been others.
    fn restore(&mut self, bin: &[u8], wanted: &dyn Fn(usize) -> bool) -> Result<()>;

    /// The state by bin, as it is stored.
    fn snapshot(&mut self) -> Result<BTreeMap<u8, Vec<u8>>> {
        self.begin();
        self.walk(usize::MAX)?.iter().map(|(bin, entries)| Ok((*bin, entries.joined()?))).collect()
    }
}

impl<K: Keyed> ErasedKeyed for K {
    fn key(&self, port: usize) -> &[usize] {
        Keyed::key(self, port)
    }

    fn takes_changes(&self) -> bool {
        false
    }

    fn mount(self: Arc<Self>, schemas: &[SchemaRef], spread: &[usize]) -> Result<Box<dyn KeyedInstance>> {
        let reader = |(port, schema): (usize, &SchemaRef)| KeyReader::new(schema, Keyed::key(&*self, port), spread);
        let readers = schemas.iter().enumerate().map(reader);
        let store = Store::new(self.numbers(), |_| 0);
        Ok(Box::new(Instance { readers: readers.collect::<Result<_>>()?, operator: self, store }))
    }
}

struct Instance<K: Keyed> {
    operator: Arc<K>,
    readers: Vec<KeyReader>,
    store: Store<K::State>,
}

impl<K: Keyed> Instance<K> {
    fn apply(
        &mut self,
        lane: Lane,
        port: usize,
        rows: &RecordBatch,
        rejects: &mut Rejects,
    ) -> Result<Option<RecordBatch>> {
        let keys = self.readers[port].read(rows)?;
        let mut states = States::new(&mut self.store, &keys, lane);
        self.operator.apply(port, rows, &mut states, rejects)
    }
}

impl<K: Keyed> KeyedInstance for Instance<K> {
    fn learn(&mut self, ports: &[RecordBatch], rejects: &mut [Rejects]) -> Result<Option<RecordBatch>> {
        let mut given = None;
        for (port, rows) in ports.iter().enumerate().rev().filter(|(_, rows)| rows.num_rows() > 0) {
            given = self.apply(Lane::Learn, port, rows, &mut rejects[port])?;
        }
        Ok(given)
    }

    fn serve(&mut self, rows: &RecordBatch, rejects: &mut Rejects) -> Result<Option<RecordBatch>> {
        self.apply(Lane::Serve, 0, rows, rejects)
    }

    fn acts(&self) -> bool {
        false
    }

    fn set_now(&mut self, _: Watermark) {}

    fn is_due(&self) -> bool {
        false
    }

    fn sweep(&mut self, rows: usize, watermark: i64) {
        let operator = &self.operator;
        // Twice as many looks as rows: the hand goes round before the states can double.
        self.store.sweep(2 * rows, |state| operator.expired(state, watermark));
    }

    fn keys(&self) -> usize {
        self.store.len()
    }

    fn begin(&mut self) {
        self.store.begin();
    }

    fn walk(&mut self, bytes: usize) -> Result<Vec<(u8, Entries)>> {
        self.store.walk(bytes)
    }

    fn is_walking(&self) -> bool {
        self.store.is_walking()
    }

    fn abandon(&mut self) {
        self.store.abandon();
    }

    fn restore(&mut self, bin: &[u8], wanted: &dyn Fn(usize) -> bool) -> Result<()> {
        restore(bin, &self.readers[0], &mut self.store, wanted, |_| {})
    }
}

/// Takes apart a bin from a snapshot, [`Entries::joined`]; keys whose bins are wanted get a place.
fn restore<'a, S: Default + Serialize + Deserialize<'a>>(
    stored: &'a [u8],
    reader: &KeyReader,
    store: &mut Store<S>,
    wanted: &dyn Fn(usize) -> bool,
    mut inserted: impl FnMut(Place),
) -> Result<()> {
    let misfit = |error| Fault::world("a stored state does not fit its operator").because(error);
    let (count, mut rest) = postcard::take_from_bytes::<usize>(stored).map_err(misfit)?;
    let (mut keys, mut states, mut numbers) = (KeyList::default(), Vec::new(), Vec::new());
    let width = store.width();
    for _ in 0..count {
        let ((key, state), after) = postcard::take_from_bytes::<(&[u8], S)>(rest).map_err(misfit)?;
        let Some((own, after)) = after.split_at_checked(8 * width) else {
            return Err(misfit(postcard::Error::DeserializeUnexpectedEnd));
        };
        keys.push(KeyRef::from_bytes(key));
        states.push(state);
        numbers.extend(own.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes)));
        rest = after;
    }
    if !rest.is_empty() {
        return Err(Fault::world("a stored state is longer than its operator's"));
    }
    let hashes = reader.hashes(&keys)?;
    for (at, (state, hash)) in states.into_iter().zip(hashes).enumerate().filter(|(_, (_, hash))| wanted(bin(*hash))) {
        inserted(store.insert(hash, keys.get(at), state, &numbers[width * at..][..width]));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, AsArray, Int64Array, StringArray};
    use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
    use proptest::prelude::*;

    use super::*;

    /// Numbers the rows of each key; a number is forgotten `KEEP_MS` after the key's newest row, when it starts anew.
    struct Number;

    const KEEP_MS: i64 = 50;

    impl Keyed for Number {
        type State = (i64, u64);
        fn key(&self, _: usize) -> &[usize] {
            &[1, 2]
        }
        fn apply(
            &self,
            _: usize,
            rows: &RecordBatch,
            states: &mut States<'_, Self::State>,
            _: &mut Rejects,
        ) -> Result<Option<RecordBatch>> {
            let times = rows.column(0).as_primitive::<Int64Type>().values();
            let number = |row: usize, time: i64, states: &mut States<'_, Self::State>| {
                let (newest, count) = *states.get(row);
                let count = if newest + KEEP_MS < time { 0 } else { count };
                states.update(row, |state| *state = (time, count + 1));
                count as i64
            };
            let numbers = times.iter().enumerate().map(|(row, time)| number(row, *time, states));
            let numbers: ArrayRef = Arc::new(numbers.collect::<Int64Array>());
            Ok(Some(RecordBatch::try_from_iter([("number", numbers)])?))
        }
        fn expired(&self, state: &Self::State, watermark: i64) -> bool {
            state.0 + KEEP_MS < watermark
        }
    }

    fn schema() -> SchemaRef {
        let fields = [
            Field::new("at", DataType::Int64, false),
            Field::new("group", DataType::Int64, false),
            Field::new("key", DataType::Utf8, true),
        ];
        Arc::new(Schema::new(fields.to_vec()))
    }

    fn rows(rows: &[(i64, u8)]) -> RecordBatch {
        let key = |key: u8| if key == 0 { None } else { Some(format!("key {key}")) };
        let columns: Vec<ArrayRef> = vec![
            Arc::new(rows.iter().map(|(time, _)| *time).collect::<Int64Array>()),
            Arc::new(rows.iter().map(|(_, at)| i64::from(*at % 3)).collect::<Int64Array>()),
            Arc::new(rows.iter().map(|(_, at)| key(*at)).collect::<StringArray>()),
        ];
        RecordBatch::try_new(schema(), columns).expect("columns of the schema")
    }

    fn instance() -> Box<dyn KeyedInstance> {
        spread(&[])
    }

    /// Its bins by a part of the key.
    fn spread(by: &[usize]) -> Box<dyn KeyedInstance> {
        Arc::new(Number).mount(&[schema()], by).expect("keys of numbers and text")
    }

    fn parts() -> impl Strategy<Value = Vec<usize>> {
        prop::sample::select(vec![vec![], vec![0], vec![1], vec![1, 0]])
    }

    fn numbers(instance: &mut dyn KeyedInstance, lane: Lane, some: &[(i64, u8)]) -> Vec<i64> {
        let (rows, mut rejects) = (rows(some), [Rejects::default()]);
        let out = match lane {
            Lane::Learn => instance.learn(&[rows], &mut rejects),
            Lane::Serve => instance.serve(&rows, &mut rejects[0]),
        };
        // Without rows nothing is given.
        let Some(out) = out.expect("no fault") else { return Vec::new() };
        out.column(0).as_primitive::<Int64Type>().values().to_vec()
    }

    /// Times that grow, each with a key.
    fn stream() -> impl Strategy<Value = Vec<(i64, u8)>> {
        let steps = prop::collection::vec((0_i64..20, 0_u8..12), 0..300);
        steps.prop_map(|steps| {
            let mut now = 0;
            let at = |(step, key)| {
                now += step;
                (now, key)
            };
            steps.into_iter().map(at).collect()
        })
    }

    proptest! {
        #[test]
        fn a_sweep_does_not_show(stream in stream(), cut in 1_usize..40) {
            let (mut swept, mut kept) = (instance(), instance());
            for part in stream.chunks(cut) {
                prop_assert_eq!(numbers(&mut *swept, Lane::Learn, part), numbers(&mut *kept, Lane::Learn, part));
                swept.sweep(part.len(), part.iter().map(|(time, _)| *time).max().expect("chunks are not empty"));
            }
            prop_assert!(swept.keys() <= kept.keys());
        }

        #[test]
        fn any_number_of_workers_takes_over_a_snapshot(
            stream in stream(), cut in 0_usize..300, workers in 1_usize..5, after in 1_usize..5,
            by in parts(), by_after in parts(),
        ) {
            let (first, second) = stream.split_at(cut.min(stream.len()));
            let mut one = instance();
            let expected = [numbers(&mut *one, Lane::Learn, first), numbers(&mut *one, Lane::Learn, second)].concat();

            let mut before: Vec<_> = (0..workers).map(|_| spread(&by)).collect();
            let mut found = on_workers(&mut before, &by, first);
            let mut bins = BTreeMap::new();
            for instance in &mut before {
                for (bin, bytes) in instance.snapshot().expect("states can be written") {
                    prop_assert!(bins.insert(bin, bytes).is_none(), "a bin lives on one worker");
                }
            }
            let mut restored: Vec<_> = (0..after).map(|_| spread(&by_after)).collect();
            for (worker, instance) in restored.iter_mut().enumerate() {
                let is_own = |bin: usize| bin % after == worker;
                for (_, bytes) in bins.iter().filter(|(bin, _)| by != by_after || is_own(usize::from(**bin))) {
                    instance.restore(bytes, &is_own).expect("states can be read");
                }
            }
            prop_assert_eq!(
                restored.iter().map(|instance| instance.keys()).sum::<usize>(),
                before.iter().map(|instance| instance.keys()).sum::<usize>()
            );
            let again: BTreeMap<u8, Vec<u8>> =
                restored.iter_mut().flat_map(|instance| instance.snapshot().expect("states can be written")).collect();
            prop_assert!(by != by_after || again == bins);
            found.extend(on_workers(&mut restored, &by_after, second));
            prop_assert_eq!(found, expected);
        }
    }

    /// Each row on the worker of its key's bin.
    fn on_workers(instances: &mut [Box<dyn KeyedInstance>], by: &[usize], stream: &[(i64, u8)]) -> Vec<i64> {
        let reader = KeyReader::new(&schema(), &[1, 2], by).expect("keys of numbers and text");
        let one = |row: &(i64, u8)| {
            let keys = reader.read(&rows(&[*row])).expect("numbers and text");
            let worker = bin(keys.bins()[0]) % instances.len();
            numbers(&mut *instances[worker], Lane::Learn, &[*row])
        };
        stream.iter().flat_map(one).collect()
    }

    #[test]
    fn serving_reads_and_changes_nothing() {
        let mut instance = instance();
        assert_eq!(numbers(&mut *instance, Lane::Learn, &[(1, 1), (2, 1), (3, 2)]), [0, 1, 0]);
        let before = instance.snapshot().expect("states can be written");
        assert_eq!(numbers(&mut *instance, Lane::Serve, &[(4, 1), (5, 1), (6, 3)]), [2, 2, 0]);
        assert_eq!((instance.snapshot().expect("states can be written"), instance.keys()), (before, 2));
    }

    #[test]
    fn a_foreign_snapshot_is_the_worlds_fault() {
        let fault = instance().restore(&[255, 255, 255], &|_| true).expect_err("no map");
        assert_eq!((fault.blame, fault.retry), (crate::Blame::World, false));
    }

    #[test]
    fn hashes_stay_for_ever() {
        let found = [hash(b""), hash(b"a"), hash(b"key 1")].map(|hash| format!("{hash:016x}"));
        assert_eq!(
            found,
            ["fdbdf6ac4fc52e7f", "2ef7d1316eb86f71", "080becb193364a56"],
            "sketches and columns depend on them"
        );
    }
}
