//! State by key, in 256 bins.
//!
//! A key's bin comes from a fixed hash of its bytes, and a bin's worker is `bin mod workers`: so any number
//! of workers can take over any checkpoint. Within an operator each key has a slot in a dense vector, so that
//! the work per row is one look-up and no allocation.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use arrow::row::{RowConverter, Rows, SortField};

use crate::batch::Lane;
use crate::fault::{Fault, Result};
use crate::operator::{Keyed, Rejects};

/// How many bins there are; fixed for ever, since checkpoints are written by bin.
pub const BINS: usize = 256;

/// A key's hash: FNV-1a over its bytes, then a finaliser that spreads short keys over all bits.
/// Stable over runs, versions and machines, which the standard library's hasher is not.
pub fn hash(key: &[u8]) -> u64 {
    let fnv = key
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    let mixed = (fnv ^ (fnv >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    mixed ^ (mixed >> 32)
}

/// The bin of a key with this hash.
pub fn bin(hash: u64) -> usize {
    (hash >> 56) as usize
}

/// Turns key columns into comparable bytes (Arrow's row format).
pub(crate) struct KeyReader {
    columns: Vec<usize>,
    converter: Option<RowConverter>,
}

impl KeyReader {
    pub(crate) fn new(schema: &Schema, columns: &[usize]) -> Result<Self> {
        let fields = columns.iter().map(|&at| SortField::new(schema.field(at).data_type().clone())).collect();
        let converter = if columns.is_empty() { None } else { Some(RowConverter::new(fields)?) };
        Ok(Self { columns: columns.to_vec(), converter })
    }

    /// The rows' keys; `None` where all rows share the empty key.
    pub(crate) fn read(&self, rows: &RecordBatch) -> Result<Option<Rows>> {
        let Some(converter) = &self.converter else { return Ok(None) };
        let columns: Vec<_> = self.columns.iter().map(|&at| rows.column(at).clone()).collect();
        Ok(Some(converter.convert_columns(&columns)?))
    }
}

/// Keys are hashed once, by [`hash`]; the map takes that hash as it is.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {
        unreachable!("only u64 hashes are keys of this map")
    }
    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// All keys of one operator on one worker.
pub(crate) struct Store<S> {
    /// From a key's hash to the slots of the keys that have it.
    index: HashMap<u64, Slots, BuildHasherDefault<AsItIs>>,
    slots: Vec<Option<Slot<S>>>,
    free: Vec<u32>,
    unknown: S,
    /// Where the sweep for expired states goes on.
    hand: usize,
}

/// A key with its state.
struct Slot<S> {
    hash: u64,
    key: Box<[u8]>,
    state: S,
}

/// Nearly always one; more where hashes collide.
enum Slots {
    One(u32),
    Many(Vec<u32>),
}

impl Slots {
    fn as_slice(&self) -> &[u32] {
        match self {
            Self::One(slot) => std::slice::from_ref(slot),
            Self::Many(slots) => slots,
        }
    }
}

impl<S: Default> Store<S> {
    pub(crate) fn new() -> Self {
        Self { index: HashMap::default(), slots: Vec::new(), free: Vec::new(), unknown: S::default(), hand: 0 }
    }

    fn find(&self, hash: u64, key: &[u8]) -> Option<usize> {
        let candidates = self.index.get(&hash)?.as_slice();
        candidates
            .iter()
            .map(|&slot| slot as usize)
            .find(|&slot| self.slots[slot].as_ref().is_some_and(|slot| *slot.key == *key))
    }

    fn insert(&mut self, hash: u64, key: &[u8], state: S) -> usize {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() as u32 - 1
        });
        self.slots[slot as usize] = Some(Slot { hash, key: key.into(), state });
        self.index
            .entry(hash)
            .and_modify(|slots| *slots = Slots::Many([slots.as_slice(), &[slot]].concat()))
            .or_insert(Slots::One(slot));
        slot as usize
    }

    fn remove(&mut self, slot: usize) {
        let Some(Slot { hash, .. }) = self.slots[slot].take() else { return };
        let rest: Vec<u32> =
            self.index[&hash].as_slice().iter().copied().filter(|&other| other as usize != slot).collect();
        match rest.as_slice() {
            [] => drop(self.index.remove(&hash)),
            [one] => drop(self.index.insert(hash, Slots::One(*one))),
            _ => drop(self.index.insert(hash, Slots::Many(rest))),
        }
        self.free.push(slot as u32);
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Looks at up to `budget` states, and drops those that have expired. Called with a budget in proportion
    /// to the rows of an epoch, so that the cost per row does not grow with the number of keys.
    pub(crate) fn sweep(&mut self, budget: usize, expired: impl Fn(&S) -> bool) {
        for _ in 0..budget.min(self.slots.len()) {
            self.hand = (self.hand + 1) % self.slots.len();
            if self.slots[self.hand].as_ref().is_some_and(|slot| expired(&slot.state)) {
                self.remove(self.hand);
            }
        }
    }
}

/// The states of a batch's rows, for [`Keyed::apply`].
pub struct States<'a, S> {
    store: &'a mut Store<S>,
    keys: Option<&'a Rows>,
    lane: Lane,
    /// The row looked up last, and what was found: `get` and `update` of a row cost one look-up.
    last: Option<(usize, Option<usize>)>,
}

impl<'a, S: Default> States<'a, S> {
    fn new(store: &'a mut Store<S>, keys: Option<&'a Rows>, lane: Lane) -> Self {
        Self { store, keys, lane, last: None }
    }

    /// Whether these rows teach or ask: for steps that let every request pass.
    pub fn lane(&self) -> Lane {
        self.lane
    }

    fn key(&self, row: usize) -> &'a [u8] {
        // The rows outlive the batch's processing, so a key borrows from them and not from `self`.
        self.keys.map_or(&[], |keys| keys.row(row).data())
    }

    fn slot(&mut self, row: usize) -> Option<usize> {
        if let Some((last, found)) = self.last
            && last == row
        {
            return found;
        }
        let key = self.key(row);
        let found = self.store.find(hash(key), key);
        self.last = Some((row, found));
        found
    }

    /// The state of row `row`'s key as it is before this row; the default for an unknown key.
    pub fn get(&mut self, row: usize) -> &S {
        match self.slot(row) {
            Some(slot) => &self.store.slots[slot].as_ref().expect("found slots are occupied").state,
            None => &self.store.unknown,
        }
    }

    /// Changes the state of row `row`'s key; in the serve lane, does nothing.
    pub fn update(&mut self, row: usize, change: impl FnOnce(&mut S)) {
        if self.lane == Lane::Serve {
            return;
        }
        let slot = self.slot(row).unwrap_or_else(|| {
            let key = self.key(row);
            self.store.insert(hash(key), key, S::default())
        });
        self.last = Some((row, Some(slot)));
        change(&mut self.store.slots[slot].as_mut().expect("found slots are occupied").state);
    }
}

/// A [`Keyed`] operator with its state type hidden, for the dataflow.
pub trait ErasedKeyed: Send + Sync + 'static {
    /// See [`Keyed::key`].
    fn key(&self, port: usize) -> &[usize];
    /// The operator on one worker, with no state yet; `schemas` are those of its ports.
    fn mount(self: std::sync::Arc<Self>, schemas: &[arrow::datatypes::SchemaRef]) -> Result<Box<dyn KeyedInstance>>;
}

/// A keyed operator with the state of one worker's bins.
pub trait KeyedInstance: Send {
    /// See [`Keyed::apply`]; `rows` are in canonical order and their keys belong to this worker.
    fn apply(
        &mut self,
        lane: Lane,
        port: usize,
        rows: &RecordBatch,
        rejects: &mut Rejects,
    ) -> Result<Option<RecordBatch>>;
    /// Drops some of the states that `watermark` has made useless.
    fn sweep(&mut self, rows: usize, watermark: i64);
    /// How many keys have a state.
    fn keys(&self) -> usize;
    /// The state by bin; equal states give equal bytes. Empty bins are absent.
    fn snapshot(&self) -> Result<BTreeMap<u8, Vec<u8>>>;
    /// Adds a bin from [`KeyedInstance::snapshot`].
    fn restore(&mut self, bin: &[u8]) -> Result<()>;
}

impl<K: Keyed> ErasedKeyed for K {
    fn key(&self, port: usize) -> &[usize] {
        Keyed::key(self, port)
    }

    fn mount(self: std::sync::Arc<Self>, schemas: &[arrow::datatypes::SchemaRef]) -> Result<Box<dyn KeyedInstance>> {
        let readers = schemas.iter().enumerate().map(|(port, schema)| KeyReader::new(schema, Keyed::key(&*self, port)));
        Ok(Box::new(Instance { readers: readers.collect::<Result<_>>()?, operator: self, store: Store::new() }))
    }
}

struct Instance<K: Keyed> {
    operator: std::sync::Arc<K>,
    readers: Vec<KeyReader>,
    store: Store<K::State>,
}

impl<K: Keyed> KeyedInstance for Instance<K> {
    fn apply(
        &mut self,
        lane: Lane,
        port: usize,
        rows: &RecordBatch,
        rejects: &mut Rejects,
    ) -> Result<Option<RecordBatch>> {
        let keys = self.readers[port].read(rows)?;
        let mut states = States::new(&mut self.store, keys.as_ref(), lane);
        self.operator.apply(port, rows, &mut states, rejects)
    }

    fn sweep(&mut self, rows: usize, watermark: i64) {
        let operator = &self.operator;
        // Twice as many looks as rows: the hand goes round before the states can double.
        self.store.sweep(2 * rows, |state| operator.expired(state, watermark));
    }

    fn keys(&self) -> usize {
        self.store.len()
    }

    fn snapshot(&self) -> Result<BTreeMap<u8, Vec<u8>>> {
        let mut bins: BTreeMap<u8, BTreeMap<&[u8], &K::State>> = BTreeMap::new();
        for Slot { hash, key, state } in self.store.slots.iter().flatten() {
            bins.entry(bin(*hash) as u8).or_default().insert(key, state);
        }
        let encode = |states: &BTreeMap<&[u8], &K::State>| {
            postcard::to_stdvec(states).map_err(|error| Fault::ours("a state cannot be written").because(error))
        };
        bins.iter().map(|(bin, states)| Ok((*bin, encode(states)?))).collect()
    }

    fn restore(&mut self, bin: &[u8]) -> Result<()> {
        let states: BTreeMap<Vec<u8>, K::State> = postcard::from_bytes(bin)
            .map_err(|error| Fault::world("a stored state does not fit its operator").because(error))?;
        for (key, state) in states {
            self.store.insert(hash(&key), &key, state);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, AsArray, Int64Array, StringArray};
    use arrow::datatypes::{DataType, Field, Int64Type, SchemaRef};
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Op {
        Add(u8),
        Sweep { budget: usize, below: u64 },
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let op = prop_oneof![
            4 => (0_u8..24).prop_map(Op::Add),
            1 => (0_usize..40, 0_u64..6).prop_map(|(budget, below)| Op::Sweep { budget, below }),
        ];
        prop::collection::vec(op, 0..200)
    }

    proptest! {
        /// Four hashes for all keys, so nearly all collide; swept slots are used again.
        #[test]
        fn a_store_is_a_map(ops in ops()) {
            let hash = |key: u8| u64::from(key % 4);
            let mut store: Store<u64> = Store::new();
            let mut oracle: HashMap<u8, u64> = HashMap::new();
            for op in ops {
                match op {
                    Op::Add(key) => {
                        let slot = store.find(hash(key), &[key]).unwrap_or_else(|| store.insert(hash(key), &[key], 0));
                        store.slots[slot].as_mut().expect("occupied").state += 1;
                        *oracle.entry(key).or_default() += 1;
                    }
                    Op::Sweep { budget, below } => {
                        let before = oracle.len();
                        store.sweep(budget, |state| *state < below);
                        // What was dropped had expired; a whole round drops all that has.
                        oracle.retain(|key, count| *count >= below || store.find(hash(*key), &[*key]).is_some());
                        prop_assert!(before - oracle.len() <= budget);
                        prop_assert!(budget < store.slots.len() || oracle.values().all(|count| *count >= below));
                    }
                }
                prop_assert_eq!(store.len(), oracle.len());
            }
            for key in 0..24 {
                let found = store.find(hash(key), &[key]).map(|slot| store.slots[slot].as_ref().expect("occupied").state);
                prop_assert_eq!(found, oracle.get(&key).copied());
            }
            prop_assert!(store.slots.len() <= 24, "free slots are used again");
        }
    }

    /// Numbers the rows of each key; a number is forgotten `KEEP_MS` after the key's newest row, when it starts anew.
    struct Number;

    const KEEP_MS: i64 = 50;

    impl Keyed for Number {
        type State = (i64, u64);
        fn key(&self, _: usize) -> &[usize] {
            &[1]
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
        let fields = [Field::new("at", DataType::Int64, false), Field::new("key", DataType::Utf8, true)];
        Arc::new(Schema::new(fields.to_vec()))
    }

    fn rows(rows: &[(i64, u8)]) -> RecordBatch {
        let key = |key: u8| if key == 0 { None } else { Some(format!("key {key}")) };
        let columns: Vec<ArrayRef> = vec![
            Arc::new(rows.iter().map(|(time, _)| *time).collect::<Int64Array>()),
            Arc::new(rows.iter().map(|(_, at)| key(*at)).collect::<StringArray>()),
        ];
        RecordBatch::try_new(schema(), columns).expect("columns of the schema")
    }

    fn instance() -> Box<dyn KeyedInstance> {
        Arc::new(Number).mount(&[schema()]).expect("keys of text")
    }

    fn numbers(instance: &mut dyn KeyedInstance, lane: Lane, some: &[(i64, u8)]) -> Vec<i64> {
        let out = instance.apply(lane, 0, &rows(some), &mut Rejects::default());
        out.expect("no fault").expect("rows").column(0).as_primitive::<Int64Type>().values().to_vec()
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
            stream in stream(), cut in 0_usize..300, workers in 1_usize..5, after in 1_usize..5
        ) {
            let (first, second) = stream.split_at(cut.min(stream.len()));
            let mut one = instance();
            let expected = [numbers(&mut *one, Lane::Learn, first), numbers(&mut *one, Lane::Learn, second)].concat();

            let mut before: Vec<_> = (0..workers).map(|_| instance()).collect();
            let mut found = spread(&mut before, first);
            let mut bins = BTreeMap::new();
            for instance in &before {
                for (bin, bytes) in instance.snapshot().expect("states can be written") {
                    prop_assert!(bins.insert(bin, bytes).is_none(), "a bin lives on one worker");
                }
            }
            let mut restored: Vec<_> = (0..after).map(|_| instance()).collect();
            for (bin, bytes) in &bins {
                restored[*bin as usize % after].restore(bytes).expect("states can be read");
            }
            let again: BTreeMap<u8, Vec<u8>> =
                restored.iter().flat_map(|instance| instance.snapshot().expect("states can be written")).collect();
            prop_assert_eq!(&again, &bins);
            found.extend(spread(&mut restored, second));
            prop_assert_eq!(found, expected);
        }
    }

    /// Each row on the worker of its key's bin.
    fn spread(instances: &mut [Box<dyn KeyedInstance>], stream: &[(i64, u8)]) -> Vec<i64> {
        let reader = KeyReader::new(&schema(), &[1]).expect("keys of text");
        let one = |row: &(i64, u8)| {
            let keys = reader.read(&rows(&[*row])).expect("text").expect("a key column");
            let worker = bin(hash(keys.row(0).data())) % instances.len();
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
        let fault = instance().restore(&[255, 255, 255]).expect_err("no map");
        assert_eq!((fault.blame, fault.retry), (crate::Blame::World, false));
    }

    #[test]
    fn hashes_stay_for_ever() {
        let found = [hash(b""), hash(b"a"), hash(b"key 1")].map(|hash| format!("{hash:016x}"));
        assert_eq!(found, ["fdbdf6ac4fc52e7f", "2ef7d1316eb86f71", "080becb193364a56"], "bins depend on them");
    }
}
