//! Lines, or the lines that make one CSV record, in bounded memory.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use arrow::array::BinaryArray;
use arrow::buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use millstream_engine::raw::{NO_TIMESTAMP, Payload, RawBatch};
use millstream_engine::source::Position;
use millstream_engine::{Fault, Result};

use super::{Compression, FileReader, unreadable};
use crate::formats::csv::DELIMITERS;

/// What is read at once.
const CHUNK_BYTES: usize = 1 << 16;
/// Arrow's offsets have 31 bits: a batch is cut here, and then its last record may still be as large as can be.
const BATCH_BYTES_MAX: usize = 1 << 28;
/// The largest limit on records that leaves room for that.
const RECORD_BYTES_MAX: usize = 1 << 30;

/// Finds the ends of records.
pub(super) trait Cut: Send {
    /// How many of the file's first records are not data.
    fn header(&self) -> u64 {
        0
    }

    /// The position in `bytes`, which go on where the last ones stopped, of the line feed that ends the record.
    /// Beyond the first `room` of them, the next one does in any case.
    fn end(&mut self, bytes: &[u8], room: usize) -> Option<usize>;
}

/// Each line is a record.
pub(super) struct Plain;

impl Cut for Plain {
    fn end(&mut self, bytes: &[u8], _: usize) -> Option<usize> {
        memchr::memchr(b'\n', bytes)
    }
}

/// A line feed between quotes belongs to the record.
pub(super) struct Csv {
    header: bool,
    state: Quotes,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Quotes {
    /// A quote here opens a quoted value.
    Start,
    /// In a value without quotes, or after a quoted one.
    Outside,
    Inside,
    /// After a quote in a quoted value: another one means the character, anything else that the value has ended.
    Closing,
}

impl Csv {
    pub(super) fn new(header: bool) -> Self {
        Self { header, state: Quotes::Start }
    }
}

impl Cut for Csv {
    fn header(&self) -> u64 {
        u64::from(self.header)
    }

    fn end(&mut self, bytes: &[u8], room: usize) -> Option<usize> {
        for (at, byte) in bytes.iter().enumerate() {
            self.state = match (self.state, byte) {
                (Quotes::Inside, b'"') => Quotes::Closing,
                (Quotes::Inside, b'\n') if at <= room => Quotes::Inside,
                (_, b'\n') => {
                    self.state = Quotes::Start;
                    return Some(at);
                }
                (Quotes::Inside, _) | (Quotes::Start | Quotes::Closing, b'"') => Quotes::Inside,
                (_, byte) if DELIMITERS.contains(byte) => Quotes::Start,
                _ => Quotes::Outside,
            };
        }
        None
    }
}

/// Reads the records of a file.
pub(super) struct LineReader<C> {
    path: PathBuf,
    input: BufReader<Box<dyn Read + Send>>,
    cut: C,
    partition: u32,
    /// Of the next record.
    offset: u64,
    /// One byte more than this is kept of a longer record, so that it is seen to be too long.
    max_record_bytes: usize,
    /// How much space the next batch will need, in bytes and in records: a little more than the last one.
    room: (usize, usize),
    ended: bool,
    /// The line that names the values; empty if there is none.
    header: Vec<u8>,
}

/// Opens a file at a record: those before it are read and forgotten, since lines have no index.
pub(super) fn open<C: Cut>(path: &Path, position: Position, cut: C, max_record_bytes: usize) -> Result<LineReader<C>> {
    if max_record_bytes > RECORD_BYTES_MAX {
        return Err(Fault::definition(format!("records of files have {RECORD_BYTES_MAX} bytes at most")));
    }
    let failed = |error| unreadable(path, error);
    let file = File::open(path).map_err(failed)?;
    let input: Box<dyn Read + Send> = match Compression::of(path) {
        Compression::None => Box::new(file),
        Compression::Gzip => Box::new(flate2::read::MultiGzDecoder::new(file)),
        Compression::Zstd => Box::new(zstd::stream::read::Decoder::new(file).map_err(failed)?),
    };
    let mut reader = LineReader {
        path: path.to_owned(),
        input: BufReader::with_capacity(CHUNK_BYTES, input),
        partition: position.partition,
        offset: 0,
        max_record_bytes,
        room: (0, 0),
        ended: false,
        header: Vec::new(),
        cut,
    };
    reader.skip_mark()?;
    let mut named = Vec::new();
    for _ in 0..reader.cut.header() {
        named.clear();
        if !reader.next(&mut named)? {
            break;
        }
    }
    reader.header = named;
    reader.offset = 0;
    reader.skip(position.offset)?;
    if reader.offset < position.offset {
        let message =
            format!("{} has {} records; there is no offset {}", path.display(), reader.offset, position.offset);
        return Err(Fault::world(message));
    }
    Ok(reader)
}

impl<C: Cut> LineReader<C> {
    /// The line that names the values; empty if there is none.
    pub(super) fn into_header(self) -> Vec<u8> {
        self.header
    }

    /// Skips the byte order mark.
    fn skip_mark(&mut self) -> Result<()> {
        let start = self.input.fill_buf().map_err(|error| unreadable(&self.path, error))?;
        let length = if start.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
        self.input.consume(length);
        Ok(())
    }

    fn skip(&mut self, records: u64) -> Result<()> {
        let mut forgotten = Vec::new();
        for _ in 0..records {
            forgotten.clear();
            if !self.next(&mut forgotten)? {
                break;
            }
        }
        Ok(())
    }

    /// Appends the next record, without its end; false at the end of the file.
    fn next(&mut self, out: &mut Vec<u8>) -> Result<bool> {
        let start = out.len();
        let mut length = 0;
        loop {
            let chunk = self.input.fill_buf().map_err(|error| unreadable(&self.path, error))?;
            if chunk.is_empty() {
                // A file whose last line has no end is whole.
                self.ended = true;
                self.offset += u64::from(length > 0);
                return Ok(length > 0);
            }
            let end = self.cut.end(chunk, self.max_record_bytes.saturating_sub(length));
            let part = &chunk[..end.unwrap_or(chunk.len())];
            let room = (self.max_record_bytes + 1).saturating_sub(length);
            out.extend_from_slice(&part[..part.len().min(room)]);
            length += part.len();
            let used = part.len() + usize::from(end.is_some());
            self.input.consume(used);
            if end.is_some() {
                // Only of what was not cut is the last byte known.
                if length <= self.max_record_bytes + 1 && out[start..].last() == Some(&b'\r') {
                    out.pop();
                }
                self.offset += 1;
                return Ok(true);
            }
        }
    }
}

/// Most lines end with something that can be seen.
#[inline]
fn is_blank(line: &[u8]) -> bool {
    line.last().is_none_or(u8::is_ascii_whitespace) && line.trim_ascii().is_empty()
}

impl<C: Cut> FileReader for LineReader<C> {
    fn read(&mut self, max_bytes: usize) -> Result<Option<RawBatch>> {
        let max_bytes = max_bytes.min(BATCH_BYTES_MAX);
        let (mut bytes, mut ends) = (Vec::with_capacity(self.room.0), Vec::with_capacity(self.room.1 + 1));
        let mut offsets = Vec::with_capacity(self.room.1);
        ends.push(0);
        while !self.ended && bytes.len() < max_bytes {
            let (start, offset) = (bytes.len(), self.offset);
            if self.next(&mut bytes)? && !is_blank(&bytes[start..]) {
                ends.push(bytes.len() as i32);
                offsets.push(offset);
            } else {
                bytes.truncate(start);
            }
        }
        if offsets.is_empty() {
            return Ok(None);
        }
        self.room = (bytes.len() + bytes.len() / 64, offsets.len() + offsets.len() / 16);
        let values = BinaryArray::new(OffsetBuffer::new(ScalarBuffer::from(ends)), Buffer::from_vec(bytes), None);
        Ok(Some(RawBatch {
            partition: self.partition,
            timestamps: vec![NO_TIMESTAMP; offsets.len()].into(),
            offsets: offsets.into(),
            keys: None,
            headers: Vec::new(),
            payload: Payload::Bytes(values),
        }))
    }

    fn end(&self) -> u64 {
        self.offset
    }
}
