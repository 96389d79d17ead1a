//! The keys of one operator on one worker: a dense sub-store for each bin, and snapshots that are walked while they change.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use serde::Serialize;

use super::{BINS, Entries, bin};
use crate::fault::{Fault, Result};

/// Keys are hashed once, by [`super::hash`]; the maps take that hash, turned by half. All keys of a bin have the same
/// top bits, and a map tells keys apart by its hashes' top and bottom bits: turned, the equal bits are in the middle.
#[derive(Default)]
struct Turned(u64);

impl Hasher for Turned {
    fn finish(&self) -> u64 {
        self.0.rotate_left(32)
    }
    fn write(&mut self, _: &[u8]) {
        unreachable!("only u64 hashes are keys of this map")
    }
    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// All keys of one operator on one worker.
pub(super) struct Store<S> {
    bins: Vec<Bin<S>>,
    pub(super) unknown: S,
    keys: usize,
    /// Where the sweep for expired states goes on: a bin and a slot of it.
    hand: (usize, usize),
    /// Grows with each snapshot that begins. A state that has this number is not in it, or was copied already.
    generation: u32,
    walk: Option<Walk>,
}

struct Bin<S> {
    /// From a key's hash to the slots of the keys that have it.
    index: HashMap<u64, Slots, BuildHasherDefault<Turned>>,
    slots: Vec<Option<Slot<S>>>,
    free: Vec<u32>,
}

/// A key with its state.
struct Slot<S> {
    hash: u64,
    key: Box<[u8]>,
    generation: u32,
    state: S,
}

/// Where a key's state is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    bin: u8,
    slot: u32,
}

/// A snapshot that is being taken: where it goes on, and what was copied before it got there.
struct Walk {
    bin: usize,
    slot: usize,
    copied: Vec<Entries>,
    fault: Option<Fault>,
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

impl<S> Bin<S> {
    fn new() -> Self {
        Self { index: HashMap::default(), slots: Vec::new(), free: Vec::new() }
    }

    fn find(&self, hash: u64, key: &[u8]) -> Option<u32> {
        let candidates = self.index.get(&hash)?.as_slice();
        let is_it = |slot: &u32| self.slots[*slot as usize].as_ref().is_some_and(|slot| *slot.key == *key);
        candidates.iter().copied().find(is_it)
    }

    fn insert(&mut self, new: Slot<S>) -> u32 {
        let hash = new.hash;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() as u32 - 1
        });
        self.slots[slot as usize] = Some(new);
        self.index
            .entry(hash)
            .and_modify(|slots| *slots = Slots::Many([slots.as_slice(), &[slot]].concat()))
            .or_insert(Slots::One(slot));
        slot
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
}

impl Walk {
    /// Copies a state that the snapshot has not reached, and which is about to change. How many bytes it took.
    fn copy<S: Serialize>(&mut self, bin: usize, slot: &mut Slot<S>, generation: u32) -> usize {
        slot.generation = generation;
        self.copied[bin].push(&slot.key, &slot.state).unwrap_or_else(|fault| {
            self.fault.get_or_insert(fault);
            0
        })
    }
}

impl<S: Default + Serialize> Store<S> {
    pub(super) fn new() -> Self {
        Self {
            bins: (0..BINS).map(|_| Bin::new()).collect(),
            unknown: S::default(),
            keys: 0,
            hand: (0, 0),
            generation: 0,
            walk: None,
        }
    }

    pub(super) fn find(&self, hash: u64, key: &[u8]) -> Option<Place> {
        let bin = bin(hash);
        self.bins[bin].find(hash, key).map(|slot| Place { bin: bin as u8, slot })
    }

    pub(super) fn insert(&mut self, hash: u64, key: &[u8], state: S) -> Place {
        self.keys += 1;
        let bin = bin(hash);
        let slot = self.bins[bin].insert(Slot { hash, key: key.into(), generation: self.generation, state });
        Place { bin: bin as u8, slot }
    }

    pub(super) fn get(&self, place: Place) -> &S {
        let slot = &self.bins[usize::from(place.bin)].slots[place.slot as usize];
        &slot.as_ref().expect("found slots are occupied").state
    }

    pub(super) fn change(&mut self, place: Place, change: impl FnOnce(&mut S)) {
        let bin = usize::from(place.bin);
        let slot = self.bins[bin].slots[place.slot as usize].as_mut().expect("found slots are occupied");
        if slot.generation != self.generation
            && let Some(walk) = &mut self.walk
        {
            walk.copy(bin, slot, self.generation);
        }
        change(&mut slot.state);
    }

    /// The state at a place that may have been emptied, or given to another key, since it was found.
    pub(super) fn peek(&self, place: Place) -> Option<&S> {
        self.bins[usize::from(place.bin)].slots[place.slot as usize].as_ref().map(|slot| &slot.state)
    }

    pub(super) fn key(&self, place: Place) -> &[u8] {
        &self.bins[usize::from(place.bin)].slots[place.slot as usize].as_ref().expect("found slots are occupied").key
    }

    /// Changes what snapshots leave out.
    pub(super) fn note(&mut self, place: Place, change: impl FnOnce(&mut S)) {
        let slot = self.bins[usize::from(place.bin)].slots[place.slot as usize].as_mut();
        change(&mut slot.expect("found slots are occupied").state);
    }

    /// How many keys there are.
    pub(super) fn len(&self) -> usize {
        self.keys
    }

    /// Looks at up to `budget` states, and drops those that have expired. Called with a budget in proportion
    /// to the rows of an epoch, so that the cost per row does not grow with the number of keys.
    pub(super) fn sweep(&mut self, budget: usize, expired: impl Fn(&S) -> bool) {
        let (mut looks, mut passed) = (0, 0);
        // Once round at most.
        while looks < budget && passed <= BINS {
            let (at, slot) = self.hand;
            let bin = &mut self.bins[at];
            if slot >= bin.slots.len() {
                self.hand = ((at + 1) % BINS, 0);
                passed += 1;
                continue;
            }
            self.hand.1 += 1;
            looks += 1;
            let Some(found) = bin.slots[slot].as_mut().filter(|slot| expired(&slot.state)) else { continue };
            if found.generation != self.generation
                && let Some(walk) = &mut self.walk
            {
                walk.copy(at, found, self.generation);
            }
            bin.remove(slot);
            self.keys -= 1;
        }
    }

    /// Begins a snapshot of all states as they are now; one that was being walked is abandoned.
    pub(super) fn begin(&mut self) {
        self.generation = self.generation.wrapping_add(1);
        let copied = (0..BINS).map(|_| Entries::default()).collect();
        self.walk = Some(Walk { bin: 0, slot: 0, copied, fault: None });
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
            let slots = &mut self.bins[walk.bin].slots;
            while walk.slot < slots.len() {
                if done >= bytes {
                    return Ok(finished);
                }
                let at = walk.slot;
                walk.slot += 1;
                done += LOOK_BYTES;
                if let Some(slot) = slots[at].as_mut().filter(|slot| slot.generation != self.generation) {
                    done += walk.copy(walk.bin, slot, self.generation);
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
            (walk.bin, walk.slot) = (walk.bin + 1, 0);
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

    fn slots<S>(store: &Store<S>) -> usize {
        store.bins.iter().map(|bin| bin.slots.len()).sum()
    }

    type Bins = BTreeMap<u8, Vec<u8>>;

    fn take(bins: &mut Bins, finished: Vec<(u8, Entries)>) {
        for (bin, entries) in finished {
            let before = bins.insert(bin, entries.joined().expect("keys can be read"));
            assert_eq!(before, None, "each bin comes once");
        }
    }

    /// What a snapshot of these states should be.
    fn encoded(states: &BTreeMap<u8, u64>) -> Bins {
        let mut bins: BTreeMap<u8, BTreeMap<Vec<u8>, u64>> = BTreeMap::new();
        for (key, state) in states {
            bins.entry(bin(hash(*key)) as u8).or_default().insert(vec![*key], *state);
        }
        bins.into_iter().map(|(bin, states)| (bin, postcard::to_stdvec(&states).expect("plain data"))).collect()
    }

    proptest! {
        /// A store is a map; and a snapshot is what was there when it began, whatever happened since.
        #[test]
        fn a_store_is_a_map(ops in ops()) {
            let mut store: Store<u64> = Store::new();
            let mut oracle: BTreeMap<u8, u64> = BTreeMap::new();
            let (mut expected, mut found) = (None, Bins::new());
            for op in ops {
                match op {
                    Op::Add(key) => {
                        let place = store.find(hash(key), &[key]);
                        let place = place.unwrap_or_else(|| store.insert(hash(key), &[key], 0));
                        store.change(place, |count| *count += 1);
                        *oracle.entry(key).or_default() += 1;
                    }
                    Op::Sweep { budget, below } => {
                        let before = oracle.len();
                        store.sweep(budget, |state| *state < below);
                        // What was dropped had expired; a whole round drops all that has.
                        oracle.retain(|key, count| *count >= below || store.find(hash(*key), &[*key]).is_some());
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
            for key in 0..24 {
                let found = store.find(hash(key), &[key]).map(|place| *store.get(place));
                prop_assert_eq!(found, oracle.get(&key).copied());
            }
            prop_assert!(slots(&store) <= 24, "free slots are used again");
        }
    }

    #[test]
    fn a_walk_takes_small_steps() {
        let mut store: Store<Vec<u8>> = Store::new();
        for key in 0..10_000_u32 {
            store.insert(super::super::hash(&key.to_le_bytes()), &key.to_le_bytes(), vec![7; 100]);
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
