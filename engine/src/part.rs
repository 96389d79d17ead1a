//! Parts of a state.
//!
//! A state is digested in each epoch that has changed it, and copied for those who answer. If it is large, and a row changes little
//! of it, both would cost more than the row. So what is large lies in parts:
//!
//! ```text
//! state ─┬─ what is small                       written each time
//!        ├─ part, unchanged ─► digest           known, and shared with the copies
//!        └─ part, changed   ─► content, digest  copied once if a copy shares it, and digested once
//! ```
//!
//! What a state is made of has to follow from the state alone, and not from how it came about: then equal states have equal digests
//! (Merkle, CRYPTO 1987).

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::digest::{self, Digest};

/// A part of a state. A copy of it costs nothing until one of the two is changed; its digest costs nothing until it is changed. In
/// snapshots it stands as what it holds.
#[derive(Clone)]
pub struct Part<T>(Arc<Held<T>>);

struct Held<T> {
    value: T,
    digest: OnceLock<Digest>,
}

impl<T: Clone> Clone for Held<T> {
    /// It is copied to be changed.
    fn clone(&self) -> Self {
        Self { value: self.value.clone(), digest: OnceLock::new() }
    }
}

impl<T> Part<T> {
    /// A part that holds this.
    pub fn new(value: T) -> Self {
        Self(Arc::new(Held { value, digest: OnceLock::new() }))
    }

    /// The same, to be changed.
    pub fn edit(&mut self) -> &mut T
    where
        T: Clone,
    {
        let held = Arc::make_mut(&mut self.0);
        held.digest.take();
        &mut held.value
    }

    /// The digest of what it holds.
    pub fn digest(&self) -> Digest
    where
        T: Serialize,
    {
        *self.0.digest.get_or_init(|| digest::of_value(&self.0.value))
    }
}

impl<T> Deref for Part<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.value
    }
}

impl<T: Default> Default for Part<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T: fmt::Debug> fmt::Debug for Part<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.value.fmt(formatter)
    }
}

impl<T: Serialize> Serialize for Part<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if digest::is_digesting() { self.digest().serialize(serializer) } else { self.0.value.serialize(serializer) }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Part<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::deserialize(deserializer).map(Self::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type State = (u32, Part<Vec<u8>>, Vec<Part<Vec<Part<u64>>>>);

    fn state() -> State {
        (7, Part::new(vec![1, 2]), vec![Part::new(vec![Part::new(3), Part::new(4)]), Part::default()])
    }

    fn digest(state: &State) -> Digest {
        digest::of_value(state)
    }

    #[test]
    fn a_digest_follows_from_what_is_held_however_deep_and_each_change_is_seen() {
        let (one, mut other) = (state(), state());
        let before = digest(&one);
        assert_eq!(digest(&other), before);
        other.2[0].edit()[1].edit();
        assert_eq!(digest(&other), before, "nothing has changed");
        *other.2[0].edit()[1].edit() += 1;
        assert_ne!(digest(&other), before);
        *other.2[0].edit()[1].edit() -= 1;
        assert_eq!(digest(&other), before);
        other.1.edit().push(0);
        assert_ne!(digest(&other), before);
    }

    #[test]
    fn a_copy_is_what_it_was_and_shares_what_did_not_change() {
        let mut changed = state();
        let copy = changed.clone();
        let before = digest(&copy);
        *changed.2[0].edit()[0].edit() = 9;
        assert_eq!((digest(&copy), *copy.2[0][0]), (before, 3));
        assert!(Arc::ptr_eq(&changed.1.0, &copy.1.0) && Arc::ptr_eq(&changed.2[0][1].0, &copy.2[0][1].0));
        assert!(!Arc::ptr_eq(&changed.2[0][0].0, &copy.2[0][0].0));
    }

    #[test]
    fn a_snapshot_has_what_is_held_and_what_is_read_from_it_has_the_same_digest() {
        let state = state();
        let before = digest(&state);
        let bytes = postcard::to_stdvec(&state).expect("it can be written");
        let plain = (7_u32, vec![1_u8, 2], vec![vec![3_u64, 4], vec![]]);
        assert_eq!(bytes, postcard::to_stdvec(&plain).expect("it can be written"));
        assert_eq!(digest(&postcard::from_bytes(&bytes).expect("it can be read")), before);
    }

    #[test]
    fn a_value_without_parts_has_the_digest_of_its_bytes() {
        for len in [0, 1, 100, 16_383, 16_384, 16_385, 70_000] {
            let bytes: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
            let value = (len as u64, bytes, vec![0.5_f64; 9000]);
            let written = postcard::to_stdvec(&value).expect("it can be written");
            assert_eq!(digest::hex(digest::of_value(&value)), digest::of(&written), "{len} bytes");
        }
    }
}
