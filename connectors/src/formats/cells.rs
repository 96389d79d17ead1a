//! What the formats share that write rows as text: the kinds of values, and the records' buffer.

use std::borrow::Cow;

use arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampMillisecondArray, UInt64Array,
};
use arrow::buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use arrow::compute::cast;
use arrow::datatypes::{DataType, SchemaRef, TimeUnit};
use millstream_engine::catalogue::{Planned, Problem, Problems};
use millstream_engine::{Fault, Result};

/// The type that a column is written as, if it can be written as text.
fn written_as(kind: &DataType) -> Option<DataType> {
    Some(match kind {
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => DataType::Int64,
        DataType::UInt8 | DataType::UInt16 | DataType::UInt32 | DataType::UInt64 => DataType::UInt64,
        DataType::Float16 | DataType::Float32 | DataType::Float64 => DataType::Float64,
        DataType::Boolean => DataType::Boolean,
        DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 => {
            DataType::Timestamp(TimeUnit::Millisecond, None)
        }
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::Dictionary(_, values) => written_as(values)?,
        _ => return None,
    })
}

/// Finds the columns that cannot be written as text.
pub(crate) fn check(columns: &SchemaRef) -> Planned<()> {
    let mut problems = Problems::default();
    for field in columns.fields() {
        if written_as(field.data_type()).is_none() {
            let message = format!("column `{}` of type {} cannot be written as text", field.name(), field.data_type());
            problems.push(Problem::new("", "unwritable-column", message).help("leave it out, or use `arrow_ipc`"));
        }
    }
    problems.finish()
}

/// A value of a row.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell<'a> {
    /// There is none.
    Missing,
    /// An int.
    Int(i64),
    /// An int that is not negative.
    UInt(u64),
    /// A float, which is finite.
    Float(f64),
    /// Yes or no.
    Bool(bool),
    /// Milliseconds since 1970.
    Timestamp(i64),
    /// A text.
    Text(Cow<'a, str>),
}

impl Cell<'_> {
    /// A float; one that is not finite cannot be written, and is missing.
    pub fn float(value: f64) -> Self {
        if value.is_finite() { Self::Float(value) } else { Self::Missing }
    }

    /// The same, without owning any text.
    #[must_use]
    pub fn borrowed(&self) -> Cell<'_> {
        match self {
            Self::Missing => Cell::Missing,
            Self::Int(value) => Cell::Int(*value),
            Self::UInt(value) => Cell::UInt(*value),
            Self::Float(value) => Cell::Float(*value),
            Self::Bool(value) => Cell::Bool(*value),
            Self::Timestamp(ms) => Cell::Timestamp(*ms),
            Self::Text(text) => Cell::Text(Cow::Borrowed(text)),
        }
    }
}

/// A column of values to write.
pub(crate) enum Cells {
    Int(Int64Array),
    UInt(UInt64Array),
    Float(Float64Array),
    Bool(BooleanArray),
    Timestamp(TimestampMillisecondArray),
    Text(StringArray),
}

impl Cells {
    /// The columns of `rows`.
    pub(crate) fn of(rows: &RecordBatch) -> Result<Vec<Self>> {
        rows.columns().iter().map(Self::new).collect()
    }

    fn new(column: &ArrayRef) -> Result<Self> {
        let kind = written_as(column.data_type()).ok_or_else(|| Fault::ours("an unwritable column was planned"))?;
        let data = cast(column, &kind)?.into_data();
        Ok(match kind {
            DataType::Int64 => Self::Int(data.into()),
            DataType::UInt64 => Self::UInt(data.into()),
            DataType::Float64 => Self::Float(data.into()),
            DataType::Boolean => Self::Bool(data.into()),
            DataType::Utf8 => Self::Text(data.into()),
            _ => Self::Timestamp(data.into()),
        })
    }

    /// The value of a row.
    #[inline]
    pub(crate) fn get(&self, row: usize) -> Cell<'_> {
        match self {
            Self::Int(cells) if cells.is_valid(row) => Cell::Int(cells.value(row)),
            Self::UInt(cells) if cells.is_valid(row) => Cell::UInt(cells.value(row)),
            Self::Float(cells) if cells.is_valid(row) => Cell::float(cells.value(row)),
            Self::Bool(cells) if cells.is_valid(row) => Cell::Bool(cells.value(row)),
            Self::Timestamp(cells) if cells.is_valid(row) => Cell::Timestamp(cells.value(row)),
            Self::Text(cells) if cells.is_valid(row) => Cell::Text(Cow::Borrowed(cells.value(row))),
            _ => Cell::Missing,
        }
    }
}

/// Records that are written one after the other.
pub(crate) struct Writing {
    pub(crate) bytes: Vec<u8>,
    ends: Vec<i32>,
}

impl Writing {
    pub(crate) fn new(records: usize) -> Self {
        let mut ends = Vec::with_capacity(records + 1);
        ends.push(0);
        Self { bytes: Vec::with_capacity(records * 64), ends }
    }

    /// Ends a record.
    pub(crate) fn end(&mut self) -> Result<()> {
        let end = i32::try_from(self.bytes.len());
        self.ends.push(end.map_err(|_| Fault::ours("more than 2 GiB of records were to be written at once"))?);
        Ok(())
    }

    pub(crate) fn finish(self) -> BinaryArray {
        let offsets = OffsetBuffer::new(ScalarBuffer::from(self.ends));
        BinaryArray::new(offsets, Buffer::from_vec(self.bytes), None)
    }
}

/// Appends what `serde_json` writes for a number or a text.
pub(crate) fn write_json<T: serde::Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) {
    serde_json::to_writer(out, value).expect("numbers and texts can be written to memory");
}
