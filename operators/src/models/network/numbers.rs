//! Numbers of a network.

use std::borrow::Cow;
use std::ops::{Deref, DerefMut};

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_bytes::Bytes;

const BYTES: usize = size_of::<f32>();

/// A vector of numbers, of which each is four bytes in snapshots, little-endian: so they are written at the speed of memory.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Numbers(Vec<f32>);

impl From<Vec<f32>> for Numbers {
    fn from(numbers: Vec<f32>) -> Self {
        Self(numbers)
    }
}

impl From<Numbers> for Vec<f32> {
    fn from(numbers: Numbers) -> Self {
        numbers.0
    }
}

impl Deref for Numbers {
    type Target = Vec<f32>;

    fn deref(&self) -> &Vec<f32> {
        &self.0
    }
}

impl DerefMut for Numbers {
    fn deref_mut(&mut self) -> &mut Vec<f32> {
        &mut self.0
    }
}

impl Serialize for Numbers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize(&self.0, serializer)
    }
}

impl<'de> Deserialize<'de> for Numbers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize(deserializer).map(|numbers| Self(numbers.into_owned()))
    }
}

/// The same of numbers that are not owned.
pub(super) fn serialize<S: Serializer>(numbers: &[f32], serializer: S) -> Result<S::Ok, S::Error> {
    let mut bytes = vec![0; BYTES * numbers.len()];
    for (bytes, number) in bytes.as_chunks_mut::<BYTES>().0.iter_mut().zip(numbers) {
        *bytes = number.to_le_bytes();
    }
    serializer.serialize_bytes(&bytes)
}

/// What [`serialize`] has written.
pub(super) fn deserialize<'de, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Cow<'a, [f32]>, D::Error> {
    let bytes = <&Bytes>::deserialize(deserializer)?;
    let (numbers, rest) = bytes.as_chunks::<BYTES>();
    if rest.is_empty() {
        Ok(numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
    } else {
        Err(D::Error::invalid_length(bytes.len(), &"four bytes for each number"))
    }
}
