//! Many records of one partition as one blob, column by column, so that reading is one copy into Arrow's buffers.
//!
//! ```text
//! "MLOG" version flags 0 0 count:u32 0:u32 │ timestamps i64×n │ value ends i32×(n+1) │ key ends │ header ends
//! │ value bits │ key bits │ values │ keys │ headers       each column starts at a multiple of 8; little-endian
//! ```
//! Key and header columns and the bits are there only where the flags say so.

use arrow::array::BinaryArray;
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::ArrowNativeType;

use crate::broker::{Headers, Message};

const MAGIC: &[u8; 4] = b"MLOG";
const VERSION: u8 = 1;
const HAS_KEYS: u8 = 1;
const HAS_HEADERS: u8 = 2;
const HAS_TOMBSTONES: u8 = 4;

/// The columns of a chunk.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) timestamps: ScalarBuffer<i64>,
    pub(super) keys: Option<BinaryArray>,
    pub(super) values: BinaryArray,
    pub(super) headers: Vec<Headers>,
}

/// Writes messages as a blob. `i32` ends suffice: a chunk is about 1 MiB, or one record within the cap.
pub(super) fn encode(messages: &[&Message]) -> Vec<u8> {
    let has = |flag, test: &dyn Fn(&Message) -> bool| if messages.iter().any(|m| test(m)) { flag } else { 0 };
    let flags = has(HAS_KEYS, &|m| m.key.is_some())
        | has(HAS_HEADERS, &|m| !m.headers.is_empty())
        | has(HAS_TOMBSTONES, &|m| m.value.is_none());
    let bytes: usize = messages.iter().map(|m| m.bytes() + 16).sum();
    let mut blob = Vec::with_capacity(bytes + 64);
    blob.extend_from_slice(MAGIC);
    blob.extend_from_slice(&[VERSION, flags, 0, 0]);
    blob.extend_from_slice(&(messages.len() as u64).to_le_bytes());
    for message in messages {
        blob.extend_from_slice(&message.timestamp_ms.to_le_bytes());
    }

    let value = |m: &Message| m.value.as_ref().map(Vec::len);
    let key = |m: &Message| m.key.as_ref().map(Vec::len);
    let headers: Vec<Vec<u8>> = if flags & HAS_HEADERS == 0 {
        Vec::new()
    } else {
        messages.iter().map(|m| encode_headers(&m.headers)).collect()
    };
    put_ends(&mut blob, messages.iter().map(|m| value(m).unwrap_or(0)));
    if flags & HAS_KEYS != 0 {
        put_ends(&mut blob, messages.iter().map(|m| key(m).unwrap_or(0)));
    }
    if flags & HAS_HEADERS != 0 {
        put_ends(&mut blob, headers.iter().map(Vec::len));
    }
    if flags & HAS_TOMBSTONES != 0 {
        put_bits(&mut blob, messages.iter().map(|m| m.value.is_some()));
    }
    if flags & HAS_KEYS != 0 {
        put_bits(&mut blob, messages.iter().map(|m| m.key.is_some()));
    }
    put_bytes(&mut blob, messages.iter().filter_map(|m| m.value.as_deref()));
    put_bytes(&mut blob, messages.iter().filter_map(|m| m.key.as_deref()));
    put_bytes(&mut blob, headers.iter().map(Vec::as_slice));
    blob
}

fn pad(blob: &mut Vec<u8>) {
    blob.resize(blob.len().next_multiple_of(8), 0);
}

fn put_ends(blob: &mut Vec<u8>, lengths: impl Iterator<Item = usize>) {
    let mut end = 0_i32;
    blob.extend_from_slice(&end.to_le_bytes());
    for length in lengths {
        end += length as i32;
        blob.extend_from_slice(&end.to_le_bytes());
    }
    pad(blob);
}

fn put_bits(blob: &mut Vec<u8>, bits: impl Iterator<Item = bool>) {
    blob.extend_from_slice(bits.collect::<BooleanBuffer>().values());
    pad(blob);
}

fn put_bytes<'a>(blob: &mut Vec<u8>, parts: impl Iterator<Item = &'a [u8]>) {
    parts.for_each(|part| blob.extend_from_slice(part));
    pad(blob);
}

fn encode_headers(headers: &Headers) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in headers.iter().flat_map(|(name, value)| [name.as_bytes(), value]) {
        bytes.extend_from_slice(&(part.len() as u32).to_le_bytes());
        bytes.extend_from_slice(part);
    }
    bytes
}

/// Reads a blob whose checksum is right; what does not fit together is named.
pub(super) fn decode(blob: &[u8]) -> Result<Chunk, &'static str> {
    if blob.len() < 16 || &blob[..4] != MAGIC {
        return Err("it does not begin as a chunk does");
    }
    if blob[4] != VERSION {
        return Err("it has another version of the format");
    }
    let flags = blob[5];
    let rows = u32::from_le_bytes([blob[8], blob[9], blob[10], blob[11]]) as usize;
    // Arrow's buffers are aligned to 64 bytes, SQLite's are not: this is the one copy.
    let mut columns = Cut { blob: Buffer::from_slice_ref(blob), at: 16 };
    let timestamps = columns.numbers::<i64>(rows)?;
    let value_ends = columns.numbers::<i32>(rows + 1)?;
    let key_ends = (flags & HAS_KEYS != 0).then(|| columns.numbers::<i32>(rows + 1)).transpose()?;
    let header_ends = (flags & HAS_HEADERS != 0).then(|| columns.numbers::<i32>(rows + 1)).transpose()?;
    let value_bits = (flags & HAS_TOMBSTONES != 0).then(|| columns.bits(rows)).transpose()?;
    let key_bits = (flags & HAS_KEYS != 0).then(|| columns.bits(rows)).transpose()?;
    let values = columns.binary(value_ends, value_bits)?;
    let keys = key_ends.map(|ends| columns.binary(ends, key_bits)).transpose()?;
    let headers = header_ends.map(|ends| columns.binary(ends, None)).transpose()?;
    let headers = headers.map_or(Ok(Vec::new()), |bytes| bytes.iter().map(decode_headers).collect())?;
    if columns.at != blob.len() {
        return Err("it is longer than its columns");
    }
    Ok(Chunk { timestamps, keys, values, headers })
}

/// Cuts columns off the front of a blob.
struct Cut {
    blob: Buffer,
    at: usize,
}

impl Cut {
    fn take(&mut self, bytes: usize) -> Result<Buffer, &'static str> {
        let end = self.at.checked_add(bytes).filter(|end| *end <= self.blob.len()).ok_or("it is cut short")?;
        let column = self.blob.slice_with_length(self.at, bytes);
        self.at = end.next_multiple_of(8).min(self.blob.len());
        Ok(column)
    }

    fn numbers<T: ArrowNativeType>(&mut self, rows: usize) -> Result<ScalarBuffer<T>, &'static str> {
        Ok(ScalarBuffer::new(self.take(rows * size_of::<T>())?, 0, rows))
    }

    fn bits(&mut self, rows: usize) -> Result<NullBuffer, &'static str> {
        Ok(NullBuffer::new(BooleanBuffer::new(self.take(rows.div_ceil(8))?, 0, rows)))
    }

    fn binary(&mut self, ends: ScalarBuffer<i32>, nulls: Option<NullBuffer>) -> Result<BinaryArray, &'static str> {
        if ends[0] != 0 || ends.windows(2).any(|pair| pair[0] > pair[1]) {
            return Err("the ends of a column do not increase");
        }
        let bytes = self.take(ends[ends.len() - 1] as usize)?;
        BinaryArray::try_new(OffsetBuffer::new(ends), bytes, nulls).map_err(|_| "a column does not fit together")
    }
}

fn decode_headers(bytes: Option<&[u8]>) -> Result<Headers, &'static str> {
    let mut rest = bytes.unwrap_or_default();
    let mut next = || -> Result<Option<Vec<u8>>, &'static str> {
        let Some((length, tail)) = rest.split_first_chunk::<4>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*length) as usize;
        let (part, tail) = tail.split_at_checked(length).ok_or("a header is cut short")?;
        rest = tail;
        Ok(Some(part.to_vec()))
    };
    let mut headers = Headers::new();
    while let Some(name) = next()? {
        let name = String::from_utf8(name).map_err(|_| "a header's name is not UTF-8")?;
        headers.push((name, next()?.ok_or("a header has no value")?));
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use arrow::array::Array;

    use super::*;

    fn message(key: Option<&str>, value: Option<&str>, headers: &[(&str, &str)]) -> Message {
        Message {
            key: key.map(|key| key.as_bytes().to_vec()),
            value: value.map(|value| value.as_bytes().to_vec()),
            headers: headers.iter().map(|(n, v)| ((*n).to_owned(), v.as_bytes().to_vec())).collect(),
            timestamp_ms: value.map_or(-5, |value| value.len() as i64),
            partition: None,
        }
    }

    /// Decodes what was encoded into messages again.
    fn round_trip(messages: &[Message]) -> Vec<Message> {
        let chunk = decode(&encode(&messages.iter().collect::<Vec<_>>())).unwrap();
        let cell = |column: &BinaryArray, row| column.is_valid(row).then(|| column.value(row).to_vec());
        (0..chunk.values.len())
            .map(|row| Message {
                key: chunk.keys.as_ref().and_then(|keys| cell(keys, row)),
                value: cell(&chunk.values, row),
                headers: chunk.headers.get(row).cloned().unwrap_or_default(),
                timestamp_ms: chunk.timestamps[row],
                partition: None,
            })
            .collect()
    }

    #[test]
    fn every_shape_survives() {
        let plain = message(None, Some("value"), &[]);
        let empty = message(Some(""), Some(""), &[("", "")]);
        let tombstone = message(Some("key"), None, &[]);
        let headers = message(None, Some("x"), &[("a", "1"), ("a", "2"), ("ü", "")]);
        let shapes = [plain, empty, tombstone, headers];
        for mask in 0_usize..256 {
            // Two bits choose the shape of each of up to four messages, so that all mixtures occur.
            let count = mask % 5;
            let messages: Vec<_> = (0..count).map(|at| shapes[mask >> (2 * at) & 3].clone()).collect();
            assert_eq!(round_trip(&messages), messages, "mask {mask}");
        }
    }

    #[test]
    fn a_cut_blob_is_an_error_at_every_length() {
        let messages = [message(Some("k"), Some("value"), &[("h", "v")]), message(None, None, &[])];
        let blob = encode(&messages.iter().collect::<Vec<_>>());
        for length in 0..blob.len() - 8 {
            assert!(decode(&blob[..length]).is_err(), "cut at {length} of {}", blob.len());
        }
    }
}
