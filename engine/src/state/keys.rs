//! Keys: what of a row its state is found by.
//!
//! A key is its columns' values as bytes. Those of nearly all keys fit into four words, which are compared, hashed and copied
//! without a look at their length:
//!
//! ```text
//! values of fixed width, 8 bytes each │ lengths of all texts but the last, 8 bytes each │ texts │ zeros │ byte 30: which values
//!                                                                                                │ are not null │ byte 31: length
//! ```
//!
//! A longer key is the same without the zeros, and with the byte of the values that are not null at its end. So is any key in
//! checkpoints.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayData, ArrayRef, AsArray, BinaryArray, RecordBatch, make_array};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Schema};
use arrow::row::{RowConverter, SortField};

use crate::fault::Result;

/// A short key.
pub(crate) type Words = [u64; 4];

/// So many bytes of values fit into a short key.
const SHORT: usize = 30;
/// What stands in the place of the length where a key is long.
const LONG: u64 = 0xff;
/// So many columns have a bit in the byte that tells which values are not null.
const COLUMNS_MAX: usize = 8;

/// A key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyRef<'a> {
    Short(Words),
    Long(&'a [u8]),
}

/// A key that is kept.
#[derive(Debug)]
pub(super) enum Key {
    Short(Words),
    Long(Box<[u8]>),
}

impl Key {
    #[inline]
    pub(super) fn of(key: KeyRef<'_>) -> Self {
        match key {
            KeyRef::Short(words) => Self::Short(words),
            KeyRef::Long(bytes) => Self::Long(bytes.into()),
        }
    }

    #[inline]
    pub(super) fn get(&self) -> KeyRef<'_> {
        match self {
            Self::Short(words) => KeyRef::Short(*words),
            Self::Long(bytes) => KeyRef::Long(bytes),
        }
    }

    #[inline]
    pub(super) fn is(&self, key: KeyRef<'_>) -> bool {
        match (self, key) {
            (Self::Short(own), KeyRef::Short(other)) => {
                own.iter().zip(other).fold(0, |differ, (own, other)| differ | (own ^ other)) == 0
            }
            (Self::Long(own), KeyRef::Long(other)) => **own == *other,
            _ => false,
        }
    }
}

impl<'a> KeyRef<'a> {
    /// The key without columns, which all rows share.
    pub(crate) const EMPTY: Self = Self::Short([0; 4]);

    /// From its bytes in checkpoints.
    pub(crate) fn from_bytes(bytes: &'a [u8]) -> Self {
        let Some((valid, data)) = bytes.split_last().filter(|(_, data)| data.len() <= SHORT) else {
            return Self::Long(bytes);
        };
        let mut short = [0; 32];
        short[..data.len()].copy_from_slice(data);
        (short[30], short[31]) = (*valid, data.len() as u8);
        Self::Short(std::array::from_fn(|word| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&short[8 * word..8 * word + 8]);
            u64::from_le_bytes(bytes)
        }))
    }

    /// As it stands in checkpoints.
    pub(crate) fn with_bytes<T>(&self, take: impl FnOnce(&[u8]) -> T) -> T {
        match self {
            Self::Long(bytes) => take(bytes),
            Self::Short(words) => {
                let mut bytes = unpacked(words);
                let length = usize::from(bytes[31]);
                bytes[length] = bytes[30];
                take(&bytes[..=length])
            }
        }
    }

    /// A hash that is the same in all runs, versions and on all machines, which the standard library's is not.
    #[inline]
    pub(crate) fn hash(&self) -> u64 {
        match self {
            Self::Short(words) => hash_words(words),
            Self::Long(bytes) => {
                let word = |chunk: &[u8]| {
                    let mut word = [0; 8];
                    word[..chunk.len()].copy_from_slice(chunk);
                    u64::from_le_bytes(word)
                };
                fold(bytes.chunks(8).map(word).fold(SEED, mixed) ^ bytes.len() as u64, FACTOR)
            }
        }
    }
}

/// A hash with the bin of another.
pub(super) fn with_bin_of(hash: u64, other: u64) -> u64 {
    const BIN: u64 = 0xff << 56;
    hash & !BIN | other & BIN
}

fn unpacked(words: &Words) -> [u8; 32] {
    let mut bytes = [0; 32];
    for (part, word) in bytes.chunks_exact_mut(8).zip(words) {
        part.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// Fixed for ever: bins depend on them.
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;
const FACTOR: u64 = 0xd6e8_feb8_6659_fd93;

/// Both halves of a product, in which each bit of either number counts.
#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let wide = u128::from(a) * u128::from(b);
    wide as u64 ^ (wide >> 64) as u64
}

#[inline]
fn mixed(hash: u64, word: u64) -> u64 {
    fold(hash ^ word, FACTOR).wrapping_add(SEED)
}

#[inline]
fn hash_words(words: &Words) -> u64 {
    fold(words.iter().copied().fold(SEED, mixed), FACTOR)
}

/// Some keys, one after the other.
#[derive(Default)]
pub(crate) struct KeyList {
    /// Of a long key: where it begins and ends in `bytes`.
    words: Vec<Words>,
    bytes: Vec<u8>,
}

impl KeyList {
    pub(crate) fn len(&self) -> usize {
        self.words.len()
    }

    #[inline]
    pub(crate) fn get(&self, at: usize) -> KeyRef<'_> {
        let words = self.words[at];
        if words[3] >> 56 == LONG {
            KeyRef::Long(&self.bytes[words[0] as usize..words[1] as usize])
        } else {
            KeyRef::Short(words)
        }
    }

    #[inline]
    pub(crate) fn push(&mut self, key: KeyRef<'_>) {
        match key {
            KeyRef::Short(words) => self.words.push(words),
            KeyRef::Long(bytes) => {
                let words = self.long(|all| all.extend_from_slice(bytes));
                self.words.push(words);
            }
        }
    }

    pub(crate) fn clear(&mut self) {
        self.words.clear();
        self.bytes.clear();
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = KeyRef<'_>> {
        (0..self.len()).map(|at| self.get(at))
    }

    fn long(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Words {
        let start = self.bytes.len() as u64;
        write(&mut self.bytes);
        [start, self.bytes.len() as u64, 0, LONG << 56]
    }
}

/// How a column's values stand in keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Eight,
    Four,
    Truth,
    Text,
}

fn kind(of: &DataType) -> Option<Kind> {
    match of {
        DataType::Boolean => Some(Kind::Truth),
        DataType::Utf8 | DataType::Binary => Some(Kind::Text),
        other => match other.primitive_width() {
            Some(8) => Some(Kind::Eight),
            Some(4) => Some(Kind::Four),
            _ => None,
        },
    }
}

/// Makes keys of columns, and columns of keys.
pub(crate) struct KeyReader {
    columns: Vec<usize>,
    types: Vec<DataType>,
    /// For types that have no form of their own here: Arrow's row format, which is then one text.
    converter: Option<RowConverter>,
    /// Reads, of a key's columns, those by which it has its bin, where that are not all.
    spread: Option<Box<KeyReader>>,
}

impl KeyReader {
    /// `spread`: the places in the key of the columns by which it has its bin; none for all.
    pub(crate) fn new(schema: &Schema, columns: &[usize], spread: &[usize]) -> Result<Self> {
        let mut reader = Self::of(schema, columns)?;
        if !spread.is_empty() {
            reader.spread = Some(Box::new(Self::of(&schema.project(columns)?, spread)?));
        }
        Ok(reader)
    }

    fn of(schema: &Schema, columns: &[usize]) -> Result<Self> {
        let types: Vec<DataType> = columns.iter().map(|&at| schema.field(at).data_type().clone()).collect();
        let converter = if types.len() > COLUMNS_MAX || types.iter().any(|of| kind(of).is_none()) {
            Some(RowConverter::new(types.iter().cloned().map(SortField::new).collect())?)
        } else {
            None
        };
        Ok(Self { columns: columns.to_vec(), types, converter, spread: None })
    }

    /// The rows' keys.
    pub(crate) fn read(&self, rows: &RecordBatch) -> Result<Keys> {
        self.read_columns(rows.columns(), rows.num_rows())
    }

    fn read_columns(&self, all: &[ArrayRef], rows: usize) -> Result<Keys> {
        let columns: Vec<ArrayRef> = self.columns.iter().map(|&at| all[at].clone()).collect();
        let spread =
            self.spread.as_ref().map(|spread| spread.read_columns(&columns, rows).map(Box::new)).transpose()?;
        let mut keys = Keys { rows, fixed: Vec::new(), texts: Vec::new(), spread };
        if let Some(converter) = &self.converter {
            let rows: ArrayRef = Arc::new(converter.convert_columns(&columns)?.try_into_binary()?);
            keys.add(0, &rows);
        } else {
            columns.iter().enumerate().for_each(|(place, column)| keys.add(place, column));
        }
        Ok(keys)
    }

    /// The hashes of some keys.
    pub(super) fn hashes(&self, keys: &KeyList) -> Result<Vec<u64>> {
        let hashes = keys.iter().map(|key| key.hash());
        let Some(spread) = &self.spread else { return Ok(hashes.collect()) };
        let spread = spread.read_columns(&self.columns(keys)?, keys.len())?.bins();
        Ok(hashes.zip(spread).map(|(hash, spread)| with_bin_of(hash, spread)).collect())
    }

    /// The columns of some keys.
    pub(crate) fn columns(&self, keys: &KeyList) -> Result<Vec<ArrayRef>> {
        if let Some(converter) = &self.converter {
            let rows = column(keys, 0, &[DataType::Binary])?;
            let (rows, parser) = (rows.as_binary::<i32>(), converter.parser());
            return Ok(converter.convert_rows(rows.iter().flatten().map(|row| parser.parse(row)))?);
        }
        (0..self.types.len()).map(|place| column(keys, place, &self.types)).collect()
    }
}

/// One of the columns of some keys.
fn column(keys: &KeyList, place: usize, types: &[DataType]) -> Result<ArrayRef> {
    let is_text = |of: &DataType| kind(of) == Some(Kind::Text);
    let own = &types[place];
    let fixed = types.iter().filter(|of| !is_text(of)).count();
    let texts = types.len() - fixed;
    // Which of the fixed ones, or of the texts, it is.
    let nth = types[..place].iter().filter(|of| is_text(of) == is_text(own)).count();
    let mut valid = Vec::with_capacity(keys.len());
    let mut words = Vec::new();
    let (mut offsets, mut bytes) = (vec![0_i32], Vec::new());
    for key in keys.iter() {
        key.with_bytes(|key| {
            let Some((bits, data)) = key.split_last() else { return };
            valid.push(bits >> place & 1 == 1);
            if is_text(own) {
                bytes.extend_from_slice(text(data, fixed, texts, nth));
                offsets.push(bytes.len() as i32);
            } else {
                words.push(word(data, nth));
            }
        });
    }
    let buffers = match kind(own) {
        Some(Kind::Text) => vec![Buffer::from_vec(offsets), Buffer::from_vec(bytes)],
        Some(Kind::Four) => vec![Buffer::from_vec(words.iter().map(|word| *word as u32).collect::<Vec<_>>())],
        Some(Kind::Truth) => vec![words.iter().map(|word| *word != 0).collect::<BooleanBuffer>().into_inner()],
        _ => vec![Buffer::from_vec(words)],
    };
    let nulls = NullBuffer::from(valid);
    let data = ArrayData::builder(own.clone()).len(keys.len()).buffers(buffers);
    Ok(make_array(data.nulls(Some(nulls).filter(|nulls| nulls.null_count() > 0)).build()?))
}

/// The `nth` word of a key.
fn word(data: &[u8], nth: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&data[8 * nth..8 * nth + 8]);
    u64::from_le_bytes(word)
}

/// The `nth` of a key's texts.
fn text(data: &[u8], fixed: usize, texts: usize, nth: usize) -> &[u8] {
    let length = |text: usize| word(data, fixed + text) as usize;
    let start = 8 * (fixed + texts - 1) + (0..nth).map(length).sum::<usize>();
    if nth + 1 == texts { &data[start..] } else { &data[start..start + length(nth)] }
}

/// The keys of a batch's rows.
pub(crate) struct Keys {
    rows: usize,
    fixed: Vec<Part<Fixed>>,
    texts: Vec<Part<(OffsetBuffer<i32>, Buffer)>>,
    /// See [`Keys::spread`].
    spread: Option<Box<Keys>>,
}

struct Part<T> {
    /// Its bit.
    bit: u64,
    nulls: Option<NullBuffer>,
    values: T,
}

enum Fixed {
    Eight(ScalarBuffer<u64>),
    Four(ScalarBuffer<u32>),
    Truth(BooleanBuffer),
}

impl<T> Part<T> {
    #[inline]
    fn is_valid(&self, row: usize) -> bool {
        self.nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row))
    }
}

impl Fixed {
    #[inline]
    fn word(&self, row: usize) -> u64 {
        match self {
            Self::Eight(values) => values[row],
            Self::Four(values) => u64::from(values[row]),
            Self::Truth(values) => u64::from(values.value(row)),
        }
    }
}

impl Keys {
    fn add(&mut self, place: usize, column: &ArrayRef) {
        let (bit, nulls) = (1 << place, column.nulls().filter(|nulls| nulls.null_count() > 0).cloned());
        let data = column.to_data();
        let first = || data.buffers()[0].clone();
        let values = match kind(column.data_type()) {
            Some(Kind::Text) => {
                let values = match column.data_type() {
                    DataType::Utf8 => BinaryArray::from(column.as_string::<i32>().clone()),
                    _ => column.as_binary::<i32>().clone(),
                };
                let (offsets, bytes, _) = values.into_parts();
                self.texts.push(Part { bit, nulls, values: (offsets, bytes) });
                return;
            }
            Some(Kind::Four) => Fixed::Four(ScalarBuffer::new(first(), data.offset(), data.len())),
            Some(Kind::Truth) => Fixed::Truth(column.as_boolean().values().clone()),
            _ => Fixed::Eight(ScalarBuffer::new(first(), data.offset(), data.len())),
        };
        self.fixed.push(Part { bit, nulls, values });
    }

    /// Whether all rows have the one key without columns.
    pub(crate) fn is_one(&self) -> bool {
        self.fixed.is_empty() && self.texts.is_empty()
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// For each row, a hash that has its key's bin.
    pub(crate) fn bins(&self) -> Vec<u64> {
        if let Some(spread) = &self.spread {
            return spread.bins();
        }
        let (mut list, mut hashes) = (KeyList::default(), Vec::with_capacity(self.rows));
        for start in (0..self.rows).step_by(AT_ONCE) {
            self.write(start..self.rows.min(start + AT_ONCE), &mut list);
            hashes.extend(list.iter().map(|key| key.hash()));
        }
        hashes
    }

    /// The parts of the keys by which they have their bins, where that are not the whole keys.
    pub(super) fn spread(&self) -> Option<&Self> {
        self.spread.as_deref()
    }

    /// The keys of these rows, in the place of those that the list has.
    pub(crate) fn write(&self, rows: Range<usize>, list: &mut KeyList) {
        list.clear();
        list.words.resize(rows.len(), [0; 4]);
        if self.texts.len() > 1 || self.fixed.len() > 3 {
            for (at, row) in rows.enumerate() {
                list.words[at] = self.any(row, &mut list.bytes);
            }
            return;
        }
        // A column at a time.
        for (place, part) in self.fixed.iter().enumerate() {
            for (words, row) in list.words.iter_mut().zip(rows.clone()) {
                if part.is_valid(row) {
                    words[place] = part.values.word(row);
                    words[3] |= part.bit << 48;
                }
            }
        }
        let length = 8 * self.fixed.len();
        let Some(part) = self.texts.first() else {
            list.words.iter_mut().for_each(|words| words[3] |= (length as u64) << 56);
            return;
        };
        let (offsets, bytes) = &part.values;
        for (at, row) in rows.enumerate() {
            let (start, end) = (offsets[row] as usize, offsets[row + 1] as usize);
            let more = if part.is_valid(row) { end - start } else { 0 };
            if length + more > SHORT {
                list.words[at] = self.any(row, &mut list.bytes);
                continue;
            }
            let words = &mut list.words[at];
            if part.is_valid(row) {
                words[3] |= part.bit << 48;
            }
            words[3] |= ((length + more) as u64) << 56;
            for (word, text) in words[self.fixed.len()..].iter_mut().zip(leading(bytes, start, more)) {
                *word |= text;
            }
        }
    }

    /// A key of any shape.
    fn any(&self, row: usize, bytes: &mut Vec<u8>) -> Words {
        let (start, mut valid) = (bytes.len(), 0);
        for part in &self.fixed {
            let word = if part.is_valid(row) { part.values.word(row) } else { 0 };
            valid |= if part.is_valid(row) { part.bit } else { 0 };
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        let text = |part: &Part<(OffsetBuffer<i32>, Buffer)>| {
            let (offsets, _) = &part.values;
            if part.is_valid(row) { offsets[row] as usize..offsets[row + 1] as usize } else { 0..0 }
        };
        for part in self.texts.iter().rev().skip(1).rev() {
            bytes.extend_from_slice(&(text(part).len() as u64).to_le_bytes());
        }
        for part in &self.texts {
            valid |= if part.is_valid(row) { part.bit } else { 0 };
            bytes.extend_from_slice(&part.values.1[text(part)]);
        }
        bytes.push(valid as u8);
        match KeyRef::from_bytes(&bytes[start..]) {
            KeyRef::Short(words) => {
                bytes.truncate(start);
                words
            }
            KeyRef::Long(_) => [start as u64, bytes.len() as u64, 0, LONG << 56],
        }
    }
}

/// So many keys are written at once.
const AT_ONCE: usize = 64;

/// `MASKS[n]` keeps the first `n` bytes of four words.
static MASKS: [Words; SHORT + 1] = masks();

const fn masks() -> [Words; SHORT + 1] {
    let mut masks = [[0; 4]; SHORT + 1];
    let mut length = 1;
    while length <= SHORT {
        masks[length] = masks[length - 1];
        masks[length][(length - 1) / 8] |= 0xff << (8 * ((length - 1) % 8));
        length += 1;
    }
    masks
}

/// `length` bytes from `start` on, as words with zeros behind them.
#[inline]
fn leading(bytes: &[u8], start: usize, length: usize) -> Words {
    let mut words = [0; 4];
    if let Some((all, _)) = bytes.get(start..).and_then(<[u8]>::split_first_chunk::<32>) {
        let (eights, _) = all.as_chunks::<8>();
        for ((word, eight), mask) in words.iter_mut().zip(eights).zip(&MASKS[length]) {
            *word = u64::from_le_bytes(*eight) & mask;
        }
        return words;
    }
    let mut last = [0; 32];
    last[..length].copy_from_slice(&bytes[start..start + length]);
    for (word, eight) in words.iter_mut().zip(last.as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*eight);
    }
    words
}

#[cfg(test)]
mod tests;
