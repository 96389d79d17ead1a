//! Numbers of a network.

use std::fmt::{self, Formatter};
use std::ops::{Deref, DerefMut};

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const BYTES: usize = size_of::<f32>();

/// A vector of numbers, of which each is four bytes in snapshots, little-endian: so they are written at the speed of memory.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Numbers(Vec<f32>);

impl From<Vec<f32>> for Numbers {
    fn from(numbers: Vec<f32>) -> Self {
        Self(numbers)
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
        let mut bytes = vec![0; BYTES * self.len()];
        for (bytes, number) in bytes.as_chunks_mut::<BYTES>().0.iter_mut().zip(&self.0) {
            *bytes = number.to_le_bytes();
        }
        serializer.serialize_bytes(&bytes)
    }
}

impl<'de> Deserialize<'de> for Numbers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Numbers;

            fn expecting(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
                formatter.write_str("four bytes for each number")
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Numbers, E> {
                let (numbers, rest) = bytes.as_chunks::<BYTES>();
                if rest.is_empty() {
                    Ok(Numbers(numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()))
                } else {
                    Err(E::invalid_length(bytes.len(), &self))
                }
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}
