//! Long vectors of numbers in snapshots, as bytes: a snapshot is taken of every epoch that taught something, and to write numbers one
//! by one would take longer than to learn them.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serializer};
use serde_bytes::Bytes;

/// What is some numbers.
pub(super) trait Pack: Copy {
    /// As many as this.
    const NUMBERS: usize;

    /// Writes them into `NUMBERS` places.
    fn pack(&self, numbers: &mut [f64]);

    /// What they were written from.
    fn unpack(numbers: &[f64]) -> Self;
}

impl Pack for () {
    const NUMBERS: usize = 0;

    fn pack(&self, _: &mut [f64]) {}

    fn unpack(_: &[f64]) -> Self {}
}

impl Pack for f64 {
    const NUMBERS: usize = 1;

    #[inline]
    fn pack(&self, numbers: &mut [f64]) {
        numbers[0] = *self;
    }

    #[inline]
    fn unpack(numbers: &[f64]) -> Self {
        numbers[0]
    }
}

/// The most numbers that anything is.
const MOST: usize = 8;
/// What is written of each number.
const BYTES: usize = size_of::<f64>();

/// For `#[serde(with = "packed")]`: little-endian bytes.
pub(super) fn serialize<T: Pack, S: Serializer>(all: &[T], serializer: S) -> Result<S::Ok, S::Error> {
    const { assert!(T::NUMBERS > 0 && T::NUMBERS <= MOST, "it is numbers, and not many") };
    let mut bytes = vec![0; all.len() * T::NUMBERS * BYTES];
    let mut numbers = [0.0; MOST];
    for (item, bytes) in all.iter().zip(bytes.chunks_exact_mut(T::NUMBERS * BYTES)) {
        item.pack(&mut numbers[..T::NUMBERS]);
        for (bytes, number) in bytes.chunks_exact_mut(BYTES).zip(numbers) {
            bytes.copy_from_slice(&number.to_le_bytes());
        }
    }
    serializer.serialize_bytes(&bytes)
}

/// For `#[serde(with = "packed")]`.
pub(super) fn deserialize<'de, T: Pack, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    let bytes = <&Bytes>::deserialize(deserializer)?;
    let items = bytes.chunks_exact(T::NUMBERS * BYTES);
    if !items.remainder().is_empty() {
        return Err(D::Error::invalid_length(bytes.len(), &"numbers as bytes"));
    }
    let mut numbers = [0.0; MOST];
    let unpack = |bytes: &[u8]| {
        for (number, bytes) in numbers.iter_mut().zip(bytes.as_chunks::<BYTES>().0) {
            *number = f64::from_le_bytes(*bytes);
        }
        T::unpack(&numbers[..T::NUMBERS])
    };
    Ok(items.map(unpack).collect())
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    #[derive(Debug, Deserialize, PartialEq, Serialize)]
    struct Numbers(#[serde(with = "super")] Vec<f64>);

    #[test]
    fn what_was_written_is_read_and_a_part_is_refused() {
        let numbers = Numbers(vec![1.5, -0.0, f64::MIN_POSITIVE]);
        let bytes = postcard::to_stdvec(&numbers).expect("it can be written");
        assert_eq!(postcard::from_bytes::<Numbers>(&bytes).expect("it can be read"), numbers);
        for cut in 0..bytes.len() {
            assert!(postcard::from_bytes::<Numbers>(&bytes[..cut]).is_err());
        }
        assert!(postcard::from_bytes::<Numbers>(&[3, 1, 2, 3]).is_err(), "no whole number");
    }
}
