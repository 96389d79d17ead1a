//! What the formats share that hold one row in each record: the loop over records, and who may pass it.

use arrow::array::{Array, BinaryArray};
use millstream_engine::raw::{Payload, RawBatch};
use millstream_engine::source::{Decoded, Decoder};
use millstream_engine::{Fault, Result};

use super::columns::Columns;

/// A format whose records each hold one row of text.
pub(crate) trait RowFormat: Send {
    /// Reads a record into the open row of `columns`, or says why it cannot.
    fn row(&mut self, record: &str, columns: &mut Columns) -> Result<(), String>;

    /// Whether a record without a value means nothing, and is no dead letter.
    fn skips_tombstones(&self) -> bool {
        false
    }

    /// What follows is of this partition.
    fn begin(&mut self, _partition: u32) {}

    /// Says how a partition's records name their values: see [`Decoder::name`].
    fn name(&mut self, _partition: u32, _header: &[u8]) {}
}

/// Why a record without a value is refused.
pub(crate) const TOMBSTONE: &str = "a tombstone: the record has no value";

/// Decodes the records of a [`RowFormat`].
pub(crate) struct RowDecoder<F> {
    format: F,
    columns: Result<Columns, String>,
}

impl<F: RowFormat> RowDecoder<F> {
    /// `columns` may be what kept them from being made: it is told when something is to be decoded.
    pub(crate) fn new(format: F, columns: Result<Columns, String>) -> Self {
        Self { format, columns }
    }
}

impl<F: RowFormat> Decoder for RowDecoder<F> {
    fn decode(&mut self, raw: &RawBatch) -> Result<Decoded> {
        let columns = self.columns.as_mut().map_err(Fault::definition)?;
        let records = Records::of(raw)?;
        self.format.begin(raw.partition);
        let mut record = Vec::with_capacity(raw.len());
        let mut rejects = Vec::new();
        let skips = self.format.skips_tombstones();
        for at in (0..raw.len()).filter(|at| !skips || records.values.is_valid(*at)) {
            match records.text(at).and_then(|text| self.format.row(text, columns)) {
                Ok(()) => {
                    columns.end_row();
                    record.push(at as u32);
                }
                Err(reason) => {
                    columns.undo_row();
                    rejects.push((at as u32, reason));
                }
            }
        }
        Ok(Decoded { rows: columns.finish(), record, rejects })
    }

    fn name(&mut self, partition: u32, header: &[u8]) {
        self.format.name(partition, header);
    }
}

/// The bytes of fetched records.
pub(crate) fn bytes_of(raw: &RawBatch) -> Result<&BinaryArray> {
    match &raw.payload {
        Payload::Bytes(values) => Ok(values),
        Payload::Rows(_) => Err(Fault::ours("rows were given to a format that decodes bytes")),
    }
}

/// Records as text. They lie behind one another, so they are checked to be UTF-8 all at once.
struct Records<'a> {
    values: &'a BinaryArray,
    whole: Option<&'a str>,
    start: usize,
}

impl<'a> Records<'a> {
    fn of(raw: &'a RawBatch) -> Result<Self> {
        let values = bytes_of(raw)?;
        let offsets = values.value_offsets();
        let (start, end) = (offsets[0] as usize, offsets[values.len()] as usize);
        Ok(Self { values, whole: std::str::from_utf8(&values.value_data()[start..end]).ok(), start })
    }

    fn text(&self, at: usize) -> Result<&'a str, String> {
        if self.values.is_null(at) {
            return Err(TOMBSTONE.to_owned());
        }
        if let Some(whole) = self.whole {
            let offsets = self.values.value_offsets();
            // Two halves of a character in two records make a valid whole.
            if let Some(text) = whole.get(offsets[at] as usize - self.start..offsets[at + 1] as usize - self.start) {
                return Ok(text);
            }
        }
        std::str::from_utf8(self.values.value(at)).map_err(|error| format!("not UTF-8: {error}"))
    }
}
