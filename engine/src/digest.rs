//! Digests of records, which do not depend on how these were cut into batches, and of states.

use std::cell::Cell;

use arrow::array::{Array, BinaryArray, RecordBatch};
use arrow::buffer::Buffer;
use arrow::row::{RowConverter, SortField};
use postcard::ser_flavors::Flavor;
use serde::Serialize;

use crate::batch::Origin;
use crate::publish::Tally;
use crate::raw::{Payload, RawBatch};

/// BLAKE3 of consecutive records: their offsets, timestamps, keys and contents.
///
/// Each of the four is hashed as one long column, whole slices at a time. Offsets mostly count on, timestamps and the lengths
/// of missing keys repeat: these are hashed as runs, whose number is small.
#[derive(Default)]
pub struct RecordsDigest {
    offsets: Runs,
    timestamps: Runs,
    key_lengths: Runs,
    keys: blake3::Hasher,
    value_lengths: blake3::Hasher,
    values: blake3::Hasher,
}

/// Numbers, told by runs: the first number, and how many there are of which each is `step` more than the one before. A run goes
/// on from one batch into the next, and ends only where a number does not fit: so the numbers alone tell which runs there are.
#[derive(Default)]
struct Runs {
    ended: blake3::Hasher,
    first: i64,
    count: u64,
}

impl Runs {
    fn update(&mut self, step: i64, numbers: impl IntoIterator<Item = i64>) {
        let mut ended = Vec::new();
        for number in numbers {
            if self.count == 0 || number != self.next(step) {
                self.end(&mut ended);
                self.first = number;
            }
            self.count += 1;
        }
        self.ended.update(&ended);
    }

    /// The same for `count` numbers of which it is known that they make one run.
    fn update_run(&mut self, step: i64, first: i64, count: u64) {
        if self.count == 0 || first != self.next(step) {
            let mut ended = Vec::new();
            self.end(&mut ended);
            self.ended.update(&ended);
            self.first = first;
        }
        self.count += count;
    }

    /// The number that the run would go on with.
    fn next(&self, step: i64) -> i64 {
        self.first.wrapping_add(step.wrapping_mul(self.count as i64))
    }

    fn end(&mut self, ended: &mut Vec<u8>) {
        if self.count > 0 {
            ended.extend_from_slice(&self.first.to_le_bytes());
            ended.extend_from_slice(&self.count.to_le_bytes());
        }
        self.count = 0;
    }

    fn finish(mut self) -> [u8; 32] {
        let mut ended = Vec::new();
        self.end(&mut ended);
        *self.ended.update(&ended).finalize().as_bytes()
    }
}

/// The length of each value, or -1 where there is none: lengths and contents are hashed apart, so that no two columns look
/// the same.
fn lengths(values: &BinaryArray) -> Vec<i32> {
    let lengths = values.value_offsets().windows(2).map(|ends| ends[1] - ends[0]);
    match values.nulls().filter(|nulls| nulls.null_count() > 0) {
        None => lengths.collect(),
        Some(nulls) => lengths.zip(nulls).map(|(length, is_valid)| if is_valid { length } else { -1 }).collect(),
    }
}

/// All contents, one behind the other.
fn contents(values: &BinaryArray) -> &[u8] {
    let ends = values.value_offsets();
    &values.value_data()[ends[0] as usize..ends[values.len()] as usize]
}

impl RecordsDigest {
    /// Adds the records that follow.
    pub fn update(&mut self, records: &RawBatch) {
        let count = records.len() as u64;
        match *records.offsets {
            [] => return,
            // They grow, so these are all there are between them.
            [first, .., last] if last - first + 1 == count => self.offsets.update_run(1, first as i64, count),
            _ => self.offsets.update(1, records.offsets.iter().map(|offset| *offset as i64)),
        }
        self.timestamps.update(0, records.timestamps.iter().copied());
        match &records.keys {
            Some(keys) => {
                self.key_lengths.update(0, lengths(keys).into_iter().map(i64::from));
                self.keys.update(contents(keys));
            }
            // As if each key were null: whether a slice has keys at all depends on how it was cut.
            None => self.key_lengths.update_run(0, -1, count),
        }
        match &records.payload {
            Payload::Bytes(values) => {
                self.value_lengths.update(Buffer::from_vec(lengths(values)).as_slice());
                self.values.update(contents(values));
            }
            Payload::Rows(rows) => self.update_rows(rows),
        }
    }

    fn update_rows(&mut self, rows: &RecordBatch) {
        let fields = rows.columns().iter().map(|column| SortField::new(column.data_type().clone())).collect();
        let encoded = RowConverter::new(fields).and_then(|converter| converter.convert_columns(rows.columns()));
        // Sources give only types that the row format has; planning refuses others.
        let encoded = encoded.expect("source columns have row-encodable types");
        for row in &encoded {
            self.value_lengths.update(&(row.data().len() as i32).to_le_bytes());
            self.values.update(row.data());
        }
    }

    /// The digest, in hexadecimal.
    pub fn finish(self) -> String {
        let mut all = blake3::Hasher::new();
        for runs in [self.offsets, self.timestamps, self.key_lengths] {
            all.update(&runs.finish());
        }
        for part in [self.keys, self.value_lengths, self.values] {
            all.update(part.finalize().as_bytes());
        }
        all.finalize().to_hex().to_string()
    }
}

/// BLAKE3 of answers in the order of their requests' origins, as they are written: who has the answers' topics can
/// reckon it again.
///
/// For each answer: source (u32), partition (u32), offset (u64), length (u64), all little endian, and the value.
#[derive(Default)]
pub struct AnswersDigest {
    all: blake3::Hasher,
    count: u64,
}

impl AnswersDigest {
    /// Adds the answer to the request from `origin`.
    pub fn update(&mut self, origin: Origin, value: &[u8]) {
        self.all.update(&origin.source.to_le_bytes());
        self.all.update(&origin.partition.to_le_bytes());
        self.all.update(&origin.offset.to_le_bytes());
        self.all.update(&(value.len() as u64).to_le_bytes());
        self.all.update(value);
        self.count += 1;
    }

    /// How many answers there were, and their digest.
    pub fn finish(self) -> Tally {
        Tally { count: self.count, digest: self.all.finalize().to_hex().to_string() }
    }
}

/// BLAKE3 of bytes, in hexadecimal.
pub fn of(bytes: &[u8]) -> String {
    hex(of_bytes(bytes))
}

/// The digest of a state: BLAKE3.
pub type Digest = [u8; 32];

/// BLAKE3 of bytes.
pub fn of_bytes(bytes: &[u8]) -> Digest {
    *blake3::hash(bytes).as_bytes()
}

/// A digest in hexadecimal.
pub fn hex(digest: Digest) -> String {
    blake3::Hash::from_bytes(digest).to_hex().to_string()
}

/// BLAKE3 of a value as it is written, with the digest of each [`crate::part::Part`] in that part's place: so it costs what is not in
/// parts, and what has changed of those that are.
pub fn of_value(value: &(impl Serialize + ?Sized)) -> Digest {
    let before = Digesting(DIGESTING.replace(true));
    let digest = postcard::serialize_with_flavor(value, Hashed::default());
    drop(before);
    digest.expect("states are numbers and texts, which can be written")
}

/// Whether what is being written is for a digest.
pub(crate) fn is_digesting() -> bool {
    DIGESTING.get()
}

thread_local! {
    static DIGESTING: Cell<bool> = const { Cell::new(false) };
}

/// Makes it what it was before.
struct Digesting(bool);

impl Drop for Digesting {
    fn drop(&mut self) {
        DIGESTING.set(self.0);
    }
}

/// Hashes what is written, a block at a time: most of it comes in a few bytes.
#[derive(Default)]
struct Hashed {
    hasher: blake3::Hasher,
    block: Vec<u8>,
}

const BLOCK_BYTES: usize = 1 << 14;

impl Flavor for Hashed {
    type Output = Digest;

    #[inline]
    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.try_extend(&[byte])
    }

    #[inline]
    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        if self.block.len() + bytes.len() > BLOCK_BYTES {
            self.hasher.update(&self.block);
            self.block.clear();
        }
        if bytes.len() > BLOCK_BYTES {
            self.hasher.update(bytes);
        } else {
            self.block.extend_from_slice(bytes);
        }
        Ok(())
    }

    fn finalize(mut self) -> postcard::Result<Digest> {
        Ok(*self.hasher.update(&self.block).finalize().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray};
    use proptest::prelude::*;

    use super::*;

    type Record = (i64, Option<Vec<u8>>, Option<Vec<u8>>);

    fn records() -> impl Strategy<Value = Vec<Record>> {
        let bytes = || prop::option::of(prop::collection::vec(any::<u8>(), 0..6));
        prop::collection::vec((any::<i64>(), bytes(), bytes()), 1..40)
    }

    fn raw(records: &[Record]) -> RawBatch {
        RawBatch {
            partition: 3,
            offsets: (10..10 + records.len() as u64).collect(),
            timestamps: records.iter().map(|record| record.0).collect(),
            keys: Some(records.iter().map(|record| record.1.as_deref()).collect()),
            headers: Vec::new(),
            payload: Payload::Bytes(records.iter().map(|record| record.2.as_deref()).collect()),
        }
    }

    fn columns(records: &[Record]) -> RawBatch {
        let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
        let columns: [(&str, ArrayRef); 3] = [
            (
                "number",
                Arc::new(records.iter().map(|record| record.1.as_ref().map(|_| record.0)).collect::<Int64Array>()),
            ),
            ("text", Arc::new(records.iter().map(|record| record.2.as_ref().map(text)).collect::<StringArray>())),
            ("share", Arc::new(records.iter().map(|record| Some(record.0 as f64)).collect::<Float64Array>())),
        ];
        let rows = RecordBatch::try_from_iter(columns).expect("columns of one length");
        RawBatch { keys: None, payload: Payload::Rows(rows), ..raw(records) }
    }

    fn digest<'a>(parts: impl IntoIterator<Item = &'a RawBatch>) -> String {
        let mut digest = RecordsDigest::default();
        parts.into_iter().for_each(|part| digest.update(part));
        digest.finish()
    }

    /// Consecutive slices of up to `cut` records.
    fn parts(whole: &RawBatch, cut: usize) -> Vec<RawBatch> {
        (0..whole.len()).step_by(cut).map(|at| whole.slice(at, cut.min(whole.len() - at))).collect()
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(records in records(), cut in 1_usize..12) {
            for whole in [raw(&records), columns(&records)] {
                prop_assert_eq!(digest(&parts(&whole, cut)), digest([&whole]));
            }
        }

        #[test]
        fn reads_need_not_agree_on_missing_keys(records in records(), cut in 1_usize..12) {
            let keyless: Vec<Record> = records.into_iter().map(|(time, _, value)| (time, None, value)).collect();
            let whole = raw(&keyless);
            let mut parts = parts(&whole, cut);
            parts[0].keys = None;
            prop_assert_eq!(digest(&parts), digest([&whole]));
        }

        #[test]
        fn any_difference_matters(records in records(), at in any::<prop::sample::Index>(), what in 0..4) {
            for make in [raw, columns] {
                let mut changed = records.clone();
                let record = &mut changed[at.index(records.len())];
                match what {
                    0 => record.0 = record.0.wrapping_add(1 << 20),
                    1 => record.1 = record.1.is_none().then(Vec::new),
                    2 => record.2.get_or_insert_default().push(b'x'),
                    _ => record.2 = record.2.is_none().then(Vec::new),
                }
                prop_assert_ne!(digest([&make(&changed)]), digest([&make(&records)]));
            }
        }
    }

    #[test]
    fn answers_are_told_apart_by_origin_and_value() {
        let origin = |source, partition, offset| Origin { source, partition, offset, index: 0 };
        let tally = |answers: &[(Origin, &str)]| {
            let mut digest = AnswersDigest::default();
            for (origin, value) in answers {
                digest.update(*origin, value.as_bytes());
            }
            digest.finish()
        };
        let base = [(origin(2, 0, 7), "ab"), (origin(2, 1, 3), "c")];
        // By hand, as another program would.
        let mut bytes = Vec::new();
        for (source, partition, offset, value) in [(2_u32, 0_u32, 7_u64, "ab"), (2, 1, 3, "c")] {
            bytes.extend([source.to_le_bytes(), partition.to_le_bytes()].concat());
            bytes.extend([offset.to_le_bytes(), (value.len() as u64).to_le_bytes()].concat());
            bytes.extend(value.as_bytes());
        }
        assert_eq!(tally(&base), Tally { count: 2, digest: of(&bytes) });
        let others: [&[(Origin, &str)]; 6] = [
            &[],
            &base[..1],
            &[base[1], base[0]],
            &[(origin(2, 0, 7), "a"), (origin(2, 1, 3), "bc")],
            &[(origin(3, 0, 7), "ab"), base[1]],
            &[(origin(2, 0, 8), "ab"), base[1]],
        ];
        for other in others {
            assert_ne!(tally(other), tally(&base), "{other:?}");
        }
    }

    #[test]
    fn bytes_do_not_move_between_records() {
        let value = |text: &str| (0, None, Some(text.as_bytes().to_vec()));
        assert_ne!(digest([&raw(&[value("ab"), value("c")])]), digest([&raw(&[value("a"), value("bc")])]));
    }
}
