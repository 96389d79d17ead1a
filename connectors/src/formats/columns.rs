//! Typed columns that grow record by record and forget a bad one.
//!
//! The values of a row are pushed as they are met, in any order; a column that is longer than the complete rows
//! has its value already. So there is no per-row structure at all: ending a row fills the short columns with nulls,
//! undoing it cuts the long ones. At the end the buffers become Arrow arrays as they are.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, ArrowPrimitiveType, BooleanArray, BooleanBufferBuilder, NullBufferBuilder, PrimitiveArray, RecordBatch,
    RecordBatchOptions, StringArray,
};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{
    ArrowNativeType, DataType, Float64Type, Int64Type, SchemaRef, TimeUnit, TimestampMillisecondType,
};

/// The rows of a column that have no value: few, or many.
#[derive(Default)]
struct Gaps {
    rows: Vec<usize>,
}

impl Gaps {
    fn truncate(&mut self, rows: usize) {
        while self.rows.pop_if(|gap| *gap >= rows).is_some() {}
    }

    /// As a column of so many rows has them.
    fn finish(&mut self, rows: usize) -> Option<NullBuffer> {
        if self.rows.is_empty() {
            return None;
        }
        let mut valid = BooleanBufferBuilder::new(rows);
        valid.append_n(rows, true);
        for gap in self.rows.drain(..) {
            valid.set_bit(gap, false);
        }
        Some(NullBuffer::new(valid.finish()))
    }
}

/// A growing column of fixed-width values.
pub(crate) struct Values<T> {
    values: Vec<T>,
    gaps: Gaps,
}

impl<T: ArrowNativeType> Values<T> {
    fn new() -> Self {
        Self { values: Vec::new(), gaps: Gaps::default() }
    }

    #[inline]
    pub(crate) fn push(&mut self, value: T) {
        self.values.push(value);
    }

    fn push_null(&mut self) {
        self.gaps.rows.push(self.values.len());
        self.values.push(T::default());
    }

    fn truncate(&mut self, rows: usize) {
        self.values.truncate(rows);
        self.gaps.truncate(rows);
    }

    fn finish<A: ArrowPrimitiveType<Native = T>>(&mut self) -> ArrayRef {
        let capacity = self.values.len();
        let values = std::mem::replace(&mut self.values, Vec::with_capacity(capacity));
        let nulls = self.gaps.finish(values.len());
        Arc::new(PrimitiveArray::<A>::new(ScalarBuffer::from(values), nulls))
    }
}

/// A growing column of truth values.
pub(crate) struct Bools {
    values: BooleanBufferBuilder,
    nulls: NullBufferBuilder,
}

impl Bools {
    pub(crate) fn push(&mut self, value: bool) {
        self.values.append(value);
        self.nulls.append_non_null();
    }

    fn push_null(&mut self) {
        self.values.append(false);
        self.nulls.append_null();
    }

    fn truncate(&mut self, rows: usize) {
        self.values.truncate(rows);
        self.nulls.truncate(rows);
    }
}

/// A growing column of text.
pub(crate) struct Texts {
    bytes: Vec<u8>,
    /// Where each value ends.
    ends: Vec<i32>,
    gaps: Gaps,
}

impl Texts {
    pub(crate) fn push(&mut self, value: &str) {
        self.bytes.extend_from_slice(value.as_bytes());
        self.close();
    }

    /// Pushes what `write` appends; nothing is pushed where it fails.
    pub(crate) fn push_with<E>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<(), E> {
        let start = self.bytes.len();
        write(&mut self.bytes).inspect_err(|_| self.bytes.truncate(start))?;
        self.close();
        Ok(())
    }

    /// A value is never longer than what it was read from, and records come in Arrow arrays with such offsets.
    fn close(&mut self) {
        self.ends.push(i32::try_from(self.bytes.len()).expect("a batch's text is no longer than its records"));
    }

    fn push_null(&mut self) {
        self.gaps.rows.push(self.ends.len());
        self.ends.push(self.bytes.len() as i32);
    }

    fn truncate(&mut self, rows: usize) {
        self.ends.truncate(rows);
        self.bytes.truncate(self.ends.last().map_or(0, |end| *end as usize));
        self.gaps.truncate(rows);
    }

    fn finish(&mut self) -> ArrayRef {
        let nulls = self.gaps.finish(self.ends.len());
        let offsets: Vec<i32> = std::iter::once(0).chain(self.ends.drain(..)).collect();
        let capacity = self.bytes.len();
        let bytes = std::mem::replace(&mut self.bytes, Vec::with_capacity(capacity));
        let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
        Arc::new(StringArray::new(offsets, Buffer::from_vec(bytes), nulls))
    }
}

/// A growing column.
pub(crate) enum Column {
    Int(Values<i64>),
    Float(Values<f64>),
    Bool(Bools),
    /// Milliseconds since 1970.
    Timestamp(Values<i64>),
    Text(Texts),
}

impl Column {
    fn new(kind: &DataType) -> Option<Self> {
        Some(match kind {
            DataType::Int64 => Self::Int(Values::new()),
            DataType::Float64 => Self::Float(Values::new()),
            DataType::Boolean => {
                Self::Bool(Bools { values: BooleanBufferBuilder::new(0), nulls: NullBufferBuilder::new(0) })
            }
            DataType::Timestamp(TimeUnit::Millisecond, None) => Self::Timestamp(Values::new()),
            DataType::Utf8 => Self::Text(Texts { bytes: Vec::new(), ends: Vec::new(), gaps: Gaps::default() }),
            _ => return None,
        })
    }

    fn len(&self) -> usize {
        match self {
            Self::Int(column) | Self::Timestamp(column) => column.values.len(),
            Self::Float(column) => column.values.len(),
            Self::Bool(column) => column.values.len(),
            Self::Text(column) => column.ends.len(),
        }
    }

    pub(crate) fn push_null(&mut self) {
        match self {
            Self::Int(column) | Self::Timestamp(column) => column.push_null(),
            Self::Float(column) => column.push_null(),
            Self::Bool(column) => column.push_null(),
            Self::Text(column) => column.push_null(),
        }
    }

    fn truncate(&mut self, rows: usize) {
        match self {
            Self::Int(column) | Self::Timestamp(column) => column.truncate(rows),
            Self::Float(column) => column.truncate(rows),
            Self::Bool(column) => column.truncate(rows),
            Self::Text(column) => column.truncate(rows),
        }
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Int(column) => column.finish::<Int64Type>(),
            Self::Timestamp(column) => column.finish::<TimestampMillisecondType>(),
            Self::Float(column) => column.finish::<Float64Type>(),
            Self::Bool(column) => Arc::new(BooleanArray::new(column.values.finish(), column.nulls.finish())),
            Self::Text(column) => column.finish(),
        }
    }
}

/// The growing columns of a schema.
pub(crate) struct Columns {
    schema: SchemaRef,
    growing: Vec<Column>,
    /// Complete rows.
    rows: usize,
    /// How many columns have been opened for the row after these.
    opened: usize,
}

impl Columns {
    /// Fails, with the reason, where a column has a type that cannot be declared: such rows can be written, not read.
    pub(crate) fn new(schema: &SchemaRef) -> Result<Self, String> {
        let column = |field: &Arc<arrow::datatypes::Field>| {
            Column::new(field.data_type()).ok_or_else(|| {
                format!("column `{}` of type {} can be written, not read", field.name(), field.data_type())
            })
        };
        let growing = schema.fields().iter().map(column).collect::<Result<_, _>>()?;
        Ok(Self { schema: schema.clone(), growing, rows: 0, opened: 0 })
    }

    pub(crate) fn name(&self, column: usize) -> &str {
        self.schema.field(column).name()
    }

    /// A column that is ready for this row's value; one that it has already is forgotten.
    #[inline]
    pub(crate) fn open(&mut self, column: usize) -> &mut Column {
        let column = &mut self.growing[column];
        if column.len() > self.rows {
            column.truncate(self.rows);
        } else {
            self.opened += 1;
        }
        column
    }

    /// Completes the row; columns without a value get a null.
    pub(crate) fn end_row(&mut self) {
        self.rows += 1;
        if std::mem::take(&mut self.opened) == self.growing.len() {
            // Each has its value.
            return;
        }
        for column in &mut self.growing {
            if column.len() < self.rows {
                column.push_null();
            }
        }
    }

    /// Forgets what the row has so far.
    pub(crate) fn undo_row(&mut self) {
        self.opened = 0;
        for column in &mut self.growing {
            column.truncate(self.rows);
        }
    }

    /// The complete rows; the columns start anew.
    pub(crate) fn finish(&mut self) -> RecordBatch {
        let options = RecordBatchOptions::new().with_row_count(Some(std::mem::take(&mut self.rows)));
        let columns = self.growing.iter_mut().map(Column::finish).collect();
        RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)
            .expect("each column has its declared type, and all end together")
    }
}
