//! The keys of one operator on one worker: an index for each bin, all states in one row, and snapshots that are walked while
//! they change.
//!
//! What costs time with many keys is waiting for memory. So keys that come one after the other lie side by side, whatever their
//! bins; a state that is dropped leaves its place to the next key; and the keys of some rows are [touched](Store::touch)
//! together before each is looked up.

use serde::Serialize;

use super::keys::{Key, KeyRef};
use super::{BINS, Entries, bin};
use crate::fault::{Fault, Result};

/// All keys of one operator on one worker.
pub(super) struct Store<S> {
    /// By bin.
    indexes: Vec<Index>,
    slots: Vec<Option<Slot<S>>>,
    /// So many numbers belong to each slot.
    width: usize,
    /// By slot.
    numbers: Vec<f64>,
    /// By slot: the key's bin.
    bins: Vec<u8>,
    /// Reads what a state has in other memory.
    touch_state: fn(&S) -> u64,
    free: Vec<u32>,
    pub(super) unknown: S,
    /// The slot at which the sweep for expired states goes on.
    hand: usize,
    /// Grows with each snapshot that begins. A state that has this number is not in it, or was copied already.
    generation: u32,
    walk: Option<Walk>,
}

/// A key with its state.
struct Slot<S> {
    key: Key,
    /// See [`mark`].
    mark: u32,
    generation: u32,
    state: S,
}

/// The lower half of a key's hash. The bin comes from the upper one: all keys may be in one.
fn mark(hash: u64) -> u32 {
    hash as u32
}

/// From the marks of keys to their slots: a table with open addressing, at most half full. An entry is a mark and, in its
/// lower half, the slot's number plus one; zero where there is none. What is taken out leaves no gap behind: entries
/// that stood there only because their place was taken move up.
#[derive(Default)]
struct Index {
    entries: Vec<u64>,
    len: usize,
}

impl Index {
    fn mask(&self) -> usize {
        self.entries.len().wrapping_sub(1)
    }

    /// All slots.
    fn slots(&self) -> impl Iterator<Item = u32> {
        self.entries.iter().filter(|entry| **entry != 0).map(|entry| *entry as u32 - 1)
    }

    /// The entry at which a look-up of this mark begins; zero where there is none.
    #[inline]
    fn first(&self, mark: u32) -> u64 {
        self.entries.get(mark as usize & self.mask()).copied().unwrap_or(0)
    }

    /// The slot that a mark means, as far as `is_it` tells; or else where its entry can be put.
    #[inline]
    fn search(&self, mark: u32, is_it: impl Fn(u32) -> bool) -> std::result::Result<u32, usize> {
        let wrap = self.mask();
        let mut at = mark as usize & wrap;
        // At least half of the entries are zero.
        while let Some(entry) = self.entries.get(at).filter(|entry| **entry != 0) {
            let slot = *entry as u32 - 1;
            if (*entry >> 32) as u32 == mark && is_it(slot) {
                return Ok(slot);
            }
            at = (at + 1) & wrap;
        }
        Err(at)
    }

    /// Adds an entry at the place that [`Index::search`] has found.
    fn insert_at(&mut self, at: usize, mark: u32, slot: u32) {
        if 2 * (self.len + 1) > self.entries.len() {
            return self.insert(mark, slot);
        }
        self.len += 1;
        self.entries[at] = u64::from(mark) << 32 | u64::from(slot + 1);
    }

    fn insert(&mut self, mark: u32, slot: u32) {
        if 2 * (self.len + 1) > self.entries.len() {
            let larger = vec![0; (2 * self.entries.len()).max(4)];
            let entries = std::mem::replace(&mut self.entries, larger);
            entries.into_iter().filter(|entry| *entry != 0).for_each(|entry| self.put(entry));
        }
        self.len += 1;
        self.put(u64::from(mark) << 32 | u64::from(slot + 1));
    }

    fn put(&mut self, entry: u64) {
        let wrap = self.mask();
        let mut at = (entry >> 32) as usize & wrap;
        while self.entries[at] != 0 {
            at = (at + 1) & wrap;
        }
        self.entries[at] = entry;
    }

    fn remove(&mut self, mark: u32, slot: u32) {
        let wrap = self.mask();
        let mut hole = mark as usize & wrap;
        while self.entries[hole] != u64::from(mark) << 32 | u64::from(slot + 1) {
            hole = (hole + 1) & wrap;
        }
        self.len -= 1;
        let mut at = hole;
        loop {
            self.entries[hole] = 0;
            let entry = loop {
                at = (at + 1) & wrap;
                let entry = self.entries[at];
                let own = (entry >> 32) as usize & wrap;
                // An entry may move up to the hole if its own place is not behind it.
                if entry == 0 || at.wrapping_sub(own) & wrap >= at.wrapping_sub(hole) & wrap {
                    break entry;
                }
            };
            if entry == 0 {
                return;
            }
            self.entries[hole] = entry;
            hole = at;
        }
    }
}

/// Where a key's state is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place(u32);

/// A snapshot that is being taken: where it goes on, and what was copied before it got there.
struct Walk {
    bin: usize,
    /// The slots that the bin had when the walk came to it, as far as they are ahead.
    ahead: Option<Vec<u32>>,
    copied: Vec<Entries>,
    fault: Option<Fault>,
}

impl Walk {
    /// Copies a state that the snapshot has not reached, and which is about to change. How many bytes it took.
    fn copy<S: Serialize>(&mut self, bin: u8, slot: &mut Slot<S>, numbers: &[f64], generation: u32) -> usize {
        slot.generation = generation;
        self.copied[usize::from(bin)].push(slot.key.get(), &slot.state, numbers).unwrap_or_else(|fault| {
            self.fault.get_or_insert(fault);
            0
        })
    }
}

/// So many slots are looked at before those that have expired are dropped.
const SWEPT: usize = 256;
/// With so few keys, what is looked for is near.
const NEAR: usize = 2048;

impl<S: Default + Serialize> Store<S> {
    /// Without keys, each of which will have `width` numbers beside its state. `touch_state` reads what a state has in other
    /// memory, where it has any.
    pub(super) fn new(width: usize, touch_state: fn(&S) -> u64) -> Self {
        Self {
            indexes: (0..BINS).map(|_| Index::default()).collect(),
            slots: Vec::new(),
            width,
            numbers: Vec::new(),
            bins: Vec::new(),
            touch_state,
            free: Vec::new(),
            unknown: S::default(),
            hand: 0,
            generation: 0,
            walk: None,
        }
    }

    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// Reads what look-ups of these hashes will read first, without waiting for one before the next.
    pub(super) fn touch(&self, hashes: impl Iterator<Item = u64> + Clone) {
        if self.slots.len() < NEAR {
            return;
        }
        let first = |hash: u64| self.indexes[bin(hash)].first(mark(hash));
        let entries = hashes.clone().fold(0, |all, hash| all ^ first(hash));
        let slot = |hash: u64| {
            let entry = first(hash);
            let slot = if (entry >> 32) as u32 == mark(hash) {
                self.slots.get((entry as u32).wrapping_sub(1) as usize)
            } else {
                None
            };
            slot.and_then(Option::as_ref).map_or(0, |slot| slot.generation)
        };
        let slots = hashes.fold(0, |all, hash| all ^ slot(hash));
        std::hint::black_box((entries, slots));
    }

    /// The same for the numbers of these places, and for what their states have in other memory.
    pub(super) fn touch_places(&self, places: impl Iterator<Item = Place>) {
        if self.slots.len() < NEAR {
            return;
        }
        let first = |Place(slot): Place| {
            let number = self.numbers.get(slot as usize * self.width).map_or(0, |number| number.to_bits());
            number ^ self.slots[slot as usize].as_ref().map_or(0, |slot| (self.touch_state)(&slot.state))
        };
        std::hint::black_box(places.fold(0, |all, place| all ^ first(place)));
    }

    #[inline]
    pub(super) fn find(&self, hash: u64, key: KeyRef<'_>) -> Option<Place> {
        self.search(hash, key).ok()
    }

    #[inline]
    fn search(&self, hash: u64, key: KeyRef<'_>) -> std::result::Result<Place, usize> {
        let is_it = |slot: u32| self.slots[slot as usize].as_ref().is_some_and(|slot| slot.key.is(key));
        self.indexes[bin(hash)].search(mark(hash), is_it).map(Place)
    }

    /// Where the state of a key is; an unknown one gets the default.
    pub(super) fn take(&mut self, hash: u64, key: KeyRef<'_>) -> Place {
        self.search(hash, key).unwrap_or_else(|at| {
            let slot = self.occupy(hash, key, S::default(), &[]);
            self.indexes[bin(hash)].insert_at(at, mark(hash), slot);
            Place(slot)
        })
    }

    /// Adds a key that is not there, with its numbers; those that are not given are zero.
    pub(super) fn insert(&mut self, hash: u64, key: KeyRef<'_>, state: S, numbers: &[f64]) -> Place {
        let slot = self.occupy(hash, key, state, numbers);
        self.indexes[bin(hash)].insert(mark(hash), slot);
        Place(slot)
    }

    /// Puts a key into a slot that is free.
    fn occupy(&mut self, hash: u64, key: KeyRef<'_>, state: S, numbers: &[f64]) -> u32 {
        let new = Some(Slot { key: Key::of(key), mark: mark(hash), generation: self.generation, state });
        let slot = if let Some(slot) = self.free.pop() {
            self.slots[slot as usize] = new;
            slot
        } else {
            self.slots.push(new);
            self.numbers.resize(self.slots.len() * self.width, 0.0);
            self.bins.push(0);
            self.slots.len() as u32 - 1
        };
        self.bins[slot as usize] = bin(hash) as u8;
        let own = &mut self.numbers[slot as usize * self.width..][..self.width];
        own.fill(0.0);
        own[..numbers.len()].copy_from_slice(numbers);
        slot
    }

    #[inline]
    pub(super) fn get(&self, Place(slot): Place) -> &S {
        &self.slots[slot as usize].as_ref().expect("found slots are occupied").state
    }

    #[inline]
    pub(super) fn change(&mut self, place: Place, change: impl FnOnce(&mut S)) {
        change(&mut self.changing(place).state);
    }

    #[inline]
    pub(super) fn numbers(&self, Place(slot): Place) -> &[f64] {
        &self.numbers[slot as usize * self.width..][..self.width]
    }

    #[inline]
    pub(super) fn numbers_mut(&mut self, place: Place) -> &mut [f64] {
        self.changing(place);
        &mut self.numbers[place.0 as usize * self.width..][..self.width]
    }

    /// The slot at a place, whose state or numbers are about to change.
    #[inline]
    fn changing(&mut self, Place(slot): Place) -> &mut Slot<S> {
        let at = slot as usize;
        let slot = self.slots[at].as_mut().expect("found slots are occupied");
        if slot.generation != self.generation
            && let Some(walk) = &mut self.walk
        {
            walk.copy(self.bins[at], slot, &self.numbers[at * self.width..][..self.width], self.generation);
        }
        slot
    }

    /// The state at a place that may have been emptied, or given to another key, since it was found.
    pub(super) fn peek(&self, Place(slot): Place) -> Option<&S> {
        self.slots[slot as usize].as_ref().map(|slot| &slot.state)
    }

    pub(super) fn key(&self, Place(slot): Place) -> KeyRef<'_> {
        self.slots[slot as usize].as_ref().expect("found slots are occupied").key.get()
    }

    /// Changes what snapshots leave out.
    pub(super) fn note(&mut self, Place(slot): Place, change: impl FnOnce(&mut S)) {
        change(&mut self.slots[slot as usize].as_mut().expect("found slots are occupied").state);
    }

    /// How many keys there are.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Looks at up to `budget` states, and drops those that have expired. Called with a budget in proportion
    /// to the rows of an epoch, so that the cost per row does not grow with the number of keys.
    pub(super) fn sweep(&mut self, budget: usize, expired: impl Fn(&S) -> bool) {
        // Once round at most.
        let mut left = budget.min(self.slots.len());
        let mut gone: Vec<u32> = Vec::with_capacity(SWEPT);
        while left > 0 {
            let from = if self.hand < self.slots.len() { self.hand } else { 0 };
            let to = self.slots.len().min(from + left.min(SWEPT));
            (self.hand, left) = (to, left - (to - from));
            let is_gone = |slot: &Option<Slot<S>>| slot.as_ref().is_some_and(|slot| expired(&slot.state));
            gone.clear();
            gone.extend((from..to).filter(|&at| is_gone(&self.slots[at])).map(|at| at as u32));
            self.touch_entries(&gone);
            for slot in &gone {
                self.vacate(*slot);
            }
        }
    }

    /// Reads what [`Store::vacate`] will read first of these slots.
    fn touch_entries(&self, slots: &[u32]) {
        let first = |slot: &u32| {
            let mark = self.slots[*slot as usize].as_ref().map_or(0, |slot| slot.mark);
            self.indexes[usize::from(self.bins[*slot as usize])].first(mark)
        };
        std::hint::black_box(slots.iter().fold(0, |all, slot| all ^ first(slot)));
    }

    /// Drops the key of a slot.
    fn vacate(&mut self, slot: u32) {
        let at = slot as usize;
        let Some(mut gone) = self.slots[at].take() else { return };
        if gone.generation != self.generation
            && let Some(walk) = &mut self.walk
        {
            walk.copy(self.bins[at], &mut gone, &self.numbers[at * self.width..][..self.width], self.generation);
        }
        self.indexes[usize::from(self.bins[at])].remove(gone.mark, slot);
        self.free.push(slot);
    }

    /// Begins a snapshot of all states as they are now; one that was being walked is abandoned.
    pub(super) fn begin(&mut self) {
        self.generation = self.generation.wrapping_add(1);
        let copied = (0..BINS).map(|_| Entries::default()).collect();
        self.walk = Some(Walk { bin: 0, ahead: None, copied, fault: None });
    }

    pub(super) fn abandon(&mut self) {
        self.walk = None;
    }

    pub(super) fn is_walking(&self) -> bool {
        self.walk.is_some()
    }

    /// Goes on with the snapshot by about `bytes`; the bins that it has finished.
    pub(super) fn walk(&mut self, bytes: usize) -> Result<Vec<(u8, Entries)>> {
        /// What a look at a state that is copied already counts.
        const LOOK_BYTES: usize = 16;
        let mut finished = Vec::new();
        let Some(walk) = &mut self.walk else { return Ok(finished) };
        let mut done = 0;
        while walk.bin < BINS {
            let mut ahead = walk.ahead.take().unwrap_or_else(|| self.indexes[walk.bin].slots().collect());
            while !ahead.is_empty() {
                if done >= bytes {
                    walk.ahead = Some(ahead);
                    return Ok(finished);
                }
                done += LOOK_BYTES;
                // A slot that was emptied since, or given to another key, has nothing more for the snapshot.
                let Some(at) = ahead.pop().map(|at| at as usize) else { break };
                if let Some(slot) = self.slots[at].as_mut().filter(|slot| slot.generation != self.generation) {
                    let numbers = &self.numbers[at * self.width..][..self.width];
                    done += walk.copy(walk.bin as u8, slot, numbers, self.generation);
                }
            }
            if let Some(fault) = walk.fault.take() {
                self.walk = None;
                return Err(fault);
            }
            let entries = std::mem::take(&mut walk.copied[walk.bin]);
            if !entries.is_empty() {
                finished.push((walk.bin as u8, entries));
            }
            walk.bin += 1;
        }
        self.walk = None;
        Ok(finished)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Op {
        Add(u8),
        Sweep { budget: usize, below: u64 },
        Begin,
        Walk(usize),
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let op = prop_oneof![
            8 => (0_u8..24).prop_map(Op::Add),
            2 => (0_usize..40, 0_u64..6).prop_map(|(budget, below)| Op::Sweep { budget, below }),
            1 => Just(Op::Begin),
            4 => (0_usize..200).prop_map(Op::Walk),
        ];
        prop::collection::vec(op, 0..200)
    }

    /// Four hashes for all keys, in three bins: nearly all collide.
    fn hash(key: u8) -> u64 {
        [0x0000_0000_0000_0001, 0x0000_0000_0000_0002, 0x7f00_0000_0000_0001, 0xff00_0000_0000_0001]
            [usize::from(key % 4)]
    }

    fn key(key: &u8) -> KeyRef<'_> {
        KeyRef::from_bytes(std::slice::from_ref(key))
    }

    fn slots<S>(store: &Store<S>) -> usize {
        store.slots.len()
    }

    type Bins = BTreeMap<u8, Vec<u8>>;

    fn take(bins: &mut Bins, finished: Vec<(u8, Entries)>) {
        for (bin, entries) in finished {
            let before = bins.insert(bin, entries.joined().expect("keys can be read"));
            assert_eq!(before, None, "each bin comes once");
        }
    }

    /// A state and its numbers.
    type Told = (u64, f64, f64);

    /// What a snapshot of these states should be.
    fn encoded(states: &BTreeMap<u8, u64>) -> Bins {
        let mut bins: BTreeMap<u8, BTreeMap<Vec<u8>, Told>> = BTreeMap::new();
        for (key, state) in states {
            bins.entry(bin(hash(*key)) as u8).or_default().insert(vec![*key], (*state, 0.0, *state as f64));
        }
        bins.into_iter().map(|(bin, states)| (bin, postcard::to_stdvec(&states).expect("plain data"))).collect()
    }

    proptest! {
        /// A store is a map; and a snapshot is what was there when it began, whatever happened since.
        #[test]
        fn a_store_is_a_map(ops in ops()) {
            let mut store: Store<u64> = Store::new(2, |_| 0);
            let mut oracle: BTreeMap<u8, u64> = BTreeMap::new();
            let (mut expected, mut found) = (None, Bins::new());
            for op in ops {
                match op {
                    Op::Add(added) => {
                        let place = store.take(hash(added), key(&added));
                        store.change(place, |count| *count += 1);
                        store.numbers_mut(place)[1] += 1.0;
                        *oracle.entry(added).or_default() += 1;
                    }
                    Op::Sweep { budget, below } => {
                        let before = oracle.len();
                        store.sweep(budget, |state| *state < below);
                        // What was dropped had expired; a whole round drops all that has.
                        oracle.retain(|gone, count| *count >= below || store.find(hash(*gone), key(gone)).is_some());
                        prop_assert!(before - oracle.len() <= budget);
                        prop_assert!(budget < slots(&store) || oracle.values().all(|count| *count >= below));
                    }
                    Op::Begin => {
                        // Also in the middle of another, which is then abandoned.
                        store.begin();
                        (expected, found) = (Some(encoded(&oracle)), Bins::new());
                    }
                    Op::Walk(bytes) => {
                        take(&mut found, store.walk(bytes).expect("numbers can be written"));
                        if !store.is_walking() && let Some(expected) = expected.take() {
                            prop_assert_eq!(&found, &expected);
                        }
                    }
                }
                prop_assert_eq!(store.len(), oracle.len());
            }
            if let Some(expected) = expected {
                take(&mut found, store.walk(usize::MAX).expect("numbers can be written"));
                prop_assert_eq!(&found, &expected);
            }
            for sought in 0..24 {
                let found = store.find(hash(sought), key(&sought));
                prop_assert_eq!(found.map(|place| *store.get(place)), oracle.get(&sought).copied());
                let numbers = found.map(|place| store.numbers(place).to_vec());
                prop_assert_eq!(numbers, oracle.get(&sought).map(|count| vec![0.0, *count as f64]));
            }
            prop_assert!(slots(&store) <= 24, "free slots are used again");
        }
    }

    proptest! {
        /// Few marks, next to each other and at both ends: entries stand far from their places, and around the end.
        #[test]
        fn an_index_is_a_map(ops in prop::collection::vec((0_u32..12, any::<bool>()), 0..200)) {
            let mark = |slot: u32| [0, 1, 2, 7, u32::MAX, u32::MAX - 1][slot as usize % 6];
            let (mut index, mut oracle) = (Index::default(), std::collections::BTreeSet::new());
            for (slot, adds) in ops {
                if adds && oracle.insert(slot) {
                    index.insert(mark(slot), slot);
                } else if !adds && oracle.remove(&slot) {
                    index.remove(mark(slot), slot);
                }
                for slot in 0..12 {
                    prop_assert_eq!(index.search(mark(slot), |found| found == slot).is_ok(), oracle.contains(&slot));
                }
                prop_assert!(2 * oracle.len() <= index.entries.len());
                prop_assert_eq!(index.entries.iter().filter(|entry| **entry != 0).count(), oracle.len());
            }
        }
    }

    #[test]
    fn a_walk_takes_small_steps() {
        let mut store: Store<Vec<u8>> = Store::new(0, |_| 0);
        for key in 0..10_000_u32 {
            let bytes = key.to_le_bytes();
            let key = KeyRef::from_bytes(&bytes);
            store.insert(key.hash(), key, vec![7; 100], &[]);
        }
        store.begin();
        let (mut steps, mut bytes) = (0, 0);
        while store.is_walking() {
            let step: usize = store.walk(10_000).expect("bytes can be written").iter().map(|(_, bin)| bin.len()).sum();
            assert!(step <= 10_000 + 2 * 10_000 * 106 / BINS, "{step} bytes in a step");
            (steps, bytes) = (steps + 1, bytes + step);
        }
        assert!(steps > 100, "{steps} steps");
        assert_eq!(bytes, 10_000 * 106, "each key with its state, and how long they are");
    }
}
