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
    slots: Vec<Option<(Box<[u8]>, S)>>,
    free: Vec<u32>,
    unknown: S,
    /// Where the sweep for expired states goes on.
    hand: usize,
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
            .find(|&slot| self.slots[slot].as_ref().is_some_and(|(k, _)| **k == *key))
    }

    fn insert(&mut self, hash: u64, key: &[u8], state: S) -> usize {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() as u32 - 1
        });
        self.slots[slot as usize] = Some((key.into(), state));
        self.index
            .entry(hash)
            .and_modify(|slots| *slots = Slots::Many([slots.as_slice(), &[slot]].concat()))
            .or_insert(Slots::One(slot));
        slot as usize
    }

    fn remove(&mut self, slot: usize) {
        let Some((key, _)) = self.slots[slot].take() else { return };
        let hash = hash(&key);
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
            if self.slots[self.hand].as_ref().is_some_and(|(_, state)| expired(state)) {
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
            Some(slot) => &self.store.slots[slot].as_ref().expect("found slots are occupied").1,
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
        change(&mut self.store.slots[slot].as_mut().expect("found slots are occupied").1);
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
        for (key, state) in self.store.slots.iter().flatten() {
            bins.entry(bin(hash(key)) as u8).or_default().insert(key, state);
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
