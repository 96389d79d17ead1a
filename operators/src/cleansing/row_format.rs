//! Rows as bytes, for states that keep whole rows.

use arrow::array::{ArrayRef, RecordBatch, new_null_array};
use arrow::datatypes::SchemaRef;
use arrow::row::{OwnedRow, RowConverter, RowParser, Rows, SortField};
use millstream_engine::Result;

/// Turns rows into bytes, and back.
pub(super) struct RowFormat {
    columns: Vec<usize>,
    pub(super) converter: RowConverter,
    pub(super) parser: RowParser,
    /// The row of nulls.
    pub(super) none: OwnedRow,
}

impl RowFormat {
    /// For these columns, of which there is at least one.
    pub(super) fn new(schema: &SchemaRef, columns: &[usize]) -> Self {
        let types = || columns.iter().map(|&at| schema.field(at).data_type().clone());
        let converter =
            RowConverter::new(types().map(SortField::new).collect()).expect("every column type has a row format");
        let nulls: Vec<ArrayRef> = types().map(|kind| new_null_array(&kind, 1)).collect();
        let none = converter.convert_columns(&nulls).expect("these are the converter's types").row(0).owned();
        Self { columns: columns.to_vec(), parser: converter.parser(), converter, none }
    }

    /// A batch's rows as bytes.
    pub(super) fn rows(&self, rows: &RecordBatch) -> Result<Rows> {
        let columns: Vec<_> = self.columns.iter().map(|&at| rows.column(at).clone()).collect();
        Ok(self.converter.convert_columns(&columns)?)
    }

    /// No rows yet; they become columns again.
    pub(super) fn empty(&self) -> Rows {
        self.converter.empty_rows(0, 0)
    }

    /// Rows as columns.
    pub(super) fn columns(&self, rows: &Rows) -> Result<Vec<ArrayRef>> {
        Ok(self.converter.convert_rows(rows)?)
    }
}
