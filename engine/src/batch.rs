//! Rows with their origins: what flows on every edge of a dataflow.
//!
//! The first [`META`] columns of every batch are the engine's. Their names start with an
//! underscore, and expressions may read them:
//!
//! | column | type | meaning |
//! |---|---|---|
//! | `_source` | `UInt32` | index of the source in the definition |
//! | `_partition` | `UInt32` | partition of the source |
//! | `_offset` | `UInt64` | offset in the partition |
//! | `_index` | `UInt32` | row within the record, for records that hold several |
//! | `_time` | `Timestamp(ms)` | event time, UTC |
//! | `_key` | `BinaryView`, nullable | the record's key |
//! | `_raw` | `BinaryView`, nullable | the record's bytes, shared with the fetched buffer |
//!
//! A stream that *changes* ends with one column more, [`DIFF`] (`Int64`): 1 where a row is added, -1 where one that was added
//! before is taken back. What a row of `-1` takes back is equal to it in every column that is not the engine's. A stream
//! without that column only grows.

use std::cell::OnceCell;
use std::sync::{Arc, LazyLock};

use arrow::array::{
    Array, ArrayRef, BinaryViewArray, BooleanArray, Int64Array, RecordBatch, TimestampMillisecondArray, UInt32Array,
    UInt64Array,
};
use arrow::compute::FilterBuilder;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Result;
pub use crate::order::canonical;
pub(crate) use crate::order::canonical_of;
use crate::order::{pick, taken};

/// How many leading columns are the engine's.
pub const META: usize = 7;
/// Index of `_source`.
pub const SOURCE: usize = 0;
/// Index of `_partition`.
pub const PARTITION: usize = 1;
/// Index of `_offset`.
pub const OFFSET: usize = 2;
/// Index of `_index`.
pub const INDEX: usize = 3;
/// Index of `_time`.
pub const TIME: usize = 4;
/// Index of `_key`.
pub const KEY: usize = 5;
/// Index of `_raw`.
pub const RAW: usize = 6;

/// Name of the column that says, in a stream that changes, whether a row is added or taken back.
pub const DIFF: &str = "_diff";

static META_FIELDS: LazyLock<Vec<FieldRef>> = LazyLock::new(|| {
    let field = |name: &str, kind, nullable| Arc::new(Field::new(name, kind, nullable));
    vec![
        field("_source", DataType::UInt32, false),
        field("_partition", DataType::UInt32, false),
        field("_offset", DataType::UInt64, false),
        field("_index", DataType::UInt32, false),
        field("_time", DataType::Timestamp(TimeUnit::Millisecond, None), false),
        field("_key", DataType::BinaryView, true),
        field("_raw", DataType::BinaryView, true),
    ]
});

/// The engine's columns followed by a source's own.
pub fn schema_of(columns: &Schema) -> SchemaRef {
    let fields: Vec<FieldRef> = META_FIELDS.iter().chain(columns.fields()).cloned().collect();
    Arc::new(Schema::new_with_metadata(fields, columns.metadata().clone()))
}

/// Whether a stream of this schema takes back rows that it gave.
pub fn is_changing(schema: &Schema) -> bool {
    schema.index_of(DIFF).is_ok()
}

/// The schema of the same rows in a stream that changes.
pub fn changing(schema: &Schema) -> SchemaRef {
    with_fields(schema, [Field::new(DIFF, DataType::Int64, false)])
}

/// Metadata that marks the column with a stream's event time.
const EVENT_TIME: &str = "event_time";

/// The field of a column that holds the event time.
pub fn as_event_time(field: &Field) -> Field {
    let mut metadata = field.metadata().clone();
    metadata.insert(EVENT_TIME.to_owned(), "true".to_owned());
    field.clone().with_metadata(metadata)
}

/// The column that holds the event time: `_time`, unless a column is known to. They differ where a row is a correction:
/// then `_time` says when it became known.
pub fn event_time(schema: &Schema) -> usize {
    schema.fields().iter().position(|field| field.metadata().contains_key(EVENT_TIME)).unwrap_or(TIME)
}

/// For each row, whether it is added or taken back; `None` where the stream only grows.
pub fn diffs(rows: &RecordBatch) -> Option<&[i64]> {
    let column: &Int64Array = rows.column_by_name(DIFF)?.as_any().downcast_ref()?;
    Some(column.values())
}

/// Whether rows teach or ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Lane {
    /// Updates state.
    Learn,
    /// Reads state, and gets one answer.
    Serve,
}

/// Where a row came from; it identifies the row for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// Index of the source in the definition.
    pub source: u32,
    /// Partition of the source.
    pub partition: u32,
    /// Offset in the partition.
    pub offset: u64,
    /// Row within the record.
    pub index: u32,
}

impl Origin {
    /// The first of all.
    pub const FIRST: Self = Self { source: 0, partition: 0, offset: 0, index: 0 };
}

/// Rows of one lane.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Whether these rows teach or ask.
    pub lane: Lane,
    /// The rows, the engine's columns first.
    pub rows: RecordBatch,
    /// The worker that takes the batch at the next exchange.
    worker: u32,
    /// The rows as another process gets them.
    wire: OnceCell<Vec<u8>>,
}

impl Batch {
    /// A batch for an edge that does not change workers.
    pub fn new(lane: Lane, rows: RecordBatch) -> Self {
        Self { lane, rows, worker: 0, wire: OnceCell::new() }
    }

    /// The same, for `worker` at the next exchange.
    pub(crate) fn to(self, worker: usize) -> Self {
        Self { worker: worker as u32, ..self }
    }

    /// The worker that takes it at the next exchange.
    pub(crate) fn target(&self) -> u64 {
        u64::from(self.worker)
    }
}

/// A worker's share of a batch. Its rows are copied where they are sorted, and not before.
#[derive(Clone, Debug)]
pub(crate) struct Share {
    pub(crate) batch: Batch,
    /// The rows that are the worker's, in their order; `None` for all.
    pub(crate) picked: Option<UInt32Array>,
}

impl Share {
    pub(crate) fn new(batch: &Batch, picked: Option<Vec<u32>>, worker: usize) -> Self {
        let picked = picked.map(UInt32Array::from);
        Self { batch: Batch::new(batch.lane, batch.rows.clone()).to(worker), picked }
    }
}

/// As [`Batch`], with no other rows than the worker's.
impl Serialize for Share {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        if let Some(picked) = &self.picked
            && self.batch.wire.get().is_none()
        {
            let rows = taken(&self.batch.rows, picked);
            let wire = rows.and_then(|rows| ipc::write(&rows)).map_err(serde::ser::Error::custom)?;
            self.batch.wire.get_or_init(|| wire);
        }
        self.batch.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        Ok(Self { batch: Batch::deserialize(deserializer)?, picked: None })
    }
}

/// Typed views of the engine's columns.
pub struct Meta<'a> {
    /// `_source`
    pub source: &'a [u32],
    /// `_partition`
    pub partition: &'a [u32],
    /// `_offset`
    pub offset: &'a [u64],
    /// `_index`
    pub index: &'a [u32],
    /// `_time`, milliseconds since 1970
    pub time: &'a [i64],
    /// `_key`
    pub key: &'a BinaryViewArray,
    /// `_raw`
    pub raw: &'a BinaryViewArray,
}

impl<'a> Meta<'a> {
    /// The engine's columns of a batch.
    ///
    /// # Panics
    /// If the batch does not start with them: a broken invariant of the operator that made it.
    pub fn of(rows: &'a RecordBatch) -> Self {
        fn cast<T: 'static>(rows: &RecordBatch, column: usize) -> &T {
            rows.column(column).as_any().downcast_ref().expect("batches start with the engine's columns")
        }
        Self {
            source: cast::<UInt32Array>(rows, SOURCE).values(),
            partition: cast::<UInt32Array>(rows, PARTITION).values(),
            offset: cast::<UInt64Array>(rows, OFFSET).values(),
            index: cast::<UInt32Array>(rows, INDEX).values(),
            time: cast::<TimestampMillisecondArray>(rows, TIME).values(),
            key: cast(rows, KEY),
            raw: cast(rows, RAW),
        }
    }

    /// A row's origin.
    #[inline]
    pub fn origin(&self, row: usize) -> Origin {
        Origin {
            source: self.source[row],
            partition: self.partition[row],
            offset: self.offset[row],
            index: self.index[row],
        }
    }

    /// A row's place in the canonical order: event time, then origin.
    #[inline]
    pub fn order(&self, row: usize) -> (i64, Origin) {
        (self.time[row], self.origin(row))
    }
}

/// The rows where `keep` is true (null counts as false).
pub fn filter(rows: &RecordBatch, keep: &BooleanArray) -> Result<RecordBatch> {
    let predicate = FilterBuilder::new(keep).optimize().build();
    pick(rows.schema_ref(), std::slice::from_ref(rows), predicate.count(), |column| Ok(predicate.filter(column[0])?))
}

/// `rows` with `columns` set: a column of an existing name is replaced in place, others are appended.
/// The same rule as [`with_fields`], which gives the schema.
pub fn with_columns(schema: &SchemaRef, rows: &RecordBatch, columns: Vec<(&str, ArrayRef)>) -> Result<RecordBatch> {
    let mut all = rows.columns().to_vec();
    for (name, column) in columns {
        match rows.schema_ref().index_of(name) {
            Ok(at) => all[at] = column,
            Err(_) => all.push(column),
        }
    }
    Ok(RecordBatch::try_new(schema.clone(), all)?)
}

/// `schema` with `fields` set: a field of an existing name is replaced in place, others are appended.
pub fn with_fields(schema: &Schema, fields: impl IntoIterator<Item = Field>) -> SchemaRef {
    let mut all: Vec<FieldRef> = schema.fields().to_vec();
    for field in fields {
        match all.iter().position(|old| old.name() == field.name()) {
            Some(at) => all[at] = Arc::new(field),
            None => all.push(Arc::new(field)),
        }
    }
    Arc::new(Schema::new_with_metadata(all, schema.metadata().clone()))
}

/// The wire form between processes: the lane, the worker, and an Arrow IPC stream. Timely asks for it twice, once to know how long it
/// is.
impl Serialize for Batch {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let wire = if let Some(wire) = self.wire.get() {
            wire
        } else {
            let wire = ipc::write(&self.rows).map_err(serde::ser::Error::custom)?;
            self.wire.get_or_init(|| wire)
        };
        (self.lane, self.worker, serde_bytes::Bytes::new(wire)).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Batch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let (lane, worker, wire) = <(Lane, u32, serde_bytes::ByteBuf)>::deserialize(deserializer)?;
        let rows = ipc::read(wire.into_vec()).map_err(serde::de::Error::custom)?;
        Ok(Self { worker, ..Self::new(lane, rows) })
    }
}

/// Rows as an Arrow IPC stream.
pub(crate) mod ipc {
    use std::sync::Arc;

    use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
    use arrow::buffer::Buffer;
    use arrow::datatypes::DataType;
    use arrow::ipc::reader::StreamDecoder;
    use arrow::ipc::writer::StreamWriter;
    use serde::{Deserializer, Serializer};

    use crate::fault::{Fault, Result};

    pub(crate) fn write(rows: &RecordBatch) -> Result<Vec<u8>> {
        let columns = rows.columns().iter().map(compact).collect();
        let rows = RecordBatch::try_new(rows.schema(), columns)?;
        let mut writer = StreamWriter::try_new(Vec::new(), rows.schema_ref())?;
        writer.write(&rows)?;
        writer.finish()?;
        Ok(writer.into_inner()?)
    }

    /// A view shows a part of a buffer that may be large and shared; what is written is the whole buffer.
    fn compact(column: &ArrayRef) -> ArrayRef {
        match column.data_type() {
            DataType::BinaryView => Arc::new(column.as_binary_view().gc()),
            DataType::Utf8View => Arc::new(column.as_string_view().gc()),
            _ => column.clone(),
        }
    }

    /// The columns share `wire`.
    pub(crate) fn read(wire: Vec<u8>) -> Result<RecordBatch> {
        let cut = || Fault::world("rows from another process are cut short");
        let mut wire = Buffer::from_vec(wire);
        let mut decoder = StreamDecoder::new();
        let rows = decoder.decode(&mut wire)?.ok_or_else(cut)?;
        decoder.decode(&mut wire)?;
        decoder.finish().map_err(|error| cut().because(error))?;
        Ok(rows)
    }

    /// For `#[serde(with)]`.
    pub(crate) fn serialize<S: Serializer>(rows: &RecordBatch, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&write(rows).map_err(serde::ser::Error::custom)?)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<RecordBatch, D::Error> {
        let wire: serde_bytes::ByteBuf = serde::Deserialize::deserialize(deserializer)?;
        read(wire.into_vec()).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::StringViewArray;

    use super::*;

    fn rows(origins: &[(i64, u32, u64, u32)]) -> RecordBatch {
        let columns = [Field::new("n", DataType::Int64, true), Field::new("text", DataType::Utf8View, true)];
        let key = |row: usize| row.is_multiple_of(2).then(|| format!("a key that is too long for a view, {row}"));
        let keys: BinaryViewArray = (0..origins.len()).map(key).collect();
        let columns_of: Vec<ArrayRef> = vec![
            Arc::new(UInt32Array::from_value(0, origins.len())),
            Arc::new(origins.iter().map(|origin| origin.1).collect::<UInt32Array>()),
            Arc::new(origins.iter().map(|origin| origin.2).collect::<UInt64Array>()),
            Arc::new(origins.iter().map(|origin| origin.3).collect::<UInt32Array>()),
            Arc::new(origins.iter().map(|origin| Some(origin.0)).collect::<TimestampMillisecondArray>()),
            Arc::new(keys.clone()),
            Arc::new(keys),
            Arc::new((0..origins.len() as i64).collect::<Int64Array>()),
            Arc::new((0..origins.len()).map(key).collect::<StringViewArray>()),
        ];
        RecordBatch::try_new(schema_of(&Schema::new(columns.to_vec())), columns_of).expect("columns of the schema")
    }

    #[test]
    fn canonical_order_is_time_then_origin() {
        let sorted =
            rows(&[(1, 0, 9, 0), (2, 0, 1, 0), (2, 0, 1, 1), (2, 0, 2, 0), (2, 1, 0, 0), (3, 0, 0, 0), (3, 0, 3, 0)]);
        let parts = [sorted.slice(4, 2), sorted.slice(1, 3), sorted.slice(6, 1), sorted.slice(0, 1)];
        assert_eq!(canonical(&sorted.schema(), &parts).expect("one schema"), sorted);
        assert_eq!(canonical(&sorted.schema(), std::slice::from_ref(&sorted)).expect("one schema"), sorted);
        assert_eq!(canonical(&sorted.schema(), &[]).expect("one schema").num_rows(), 0);
    }

    #[test]
    fn rows_of_one_origin_keep_their_order() {
        let twins = rows(&[(5, 0, 1, 0), (4, 0, 2, 0), (4, 0, 2, 0)]);
        let sorted = canonical(&twins.schema(), &[twins]).expect("one schema");
        assert_eq!(sorted.column(META).as_any().downcast_ref(), Some(&Int64Array::from(vec![1, 2, 0])));
    }

    #[test]
    fn columns_follow_their_fields() {
        let rows = rows(&[(1, 0, 0, 0), (2, 0, 1, 0)]);
        let fields = [Field::new("n", DataType::Boolean, true), Field::new("more", DataType::Int64, true)];
        let schema = with_fields(rows.schema_ref(), fields);
        let names: Vec<&str> = schema.fields()[META..].iter().map(|field| field.name().as_str()).collect();
        assert_eq!(names, ["n", "text", "more"]);
        let set: Vec<(&str, ArrayRef)> = vec![
            ("more", Arc::new(Int64Array::from(vec![7, 8]))),
            ("n", Arc::new(BooleanArray::from(vec![true, false]))),
        ];
        let found = with_columns(&schema, &rows, set).expect("the same rule");
        assert_eq!((found.schema(), found.column(META + 1)), (schema.clone(), rows.column(META + 1)));
        let wrong: Vec<(&str, ArrayRef)> = vec![("n", Arc::new(Int64Array::from(vec![7, 8])))];
        assert!(with_columns(&schema, &rows, wrong).is_err(), "a column is missing, another has the old type");
    }

    #[test]
    fn a_batch_survives_the_wire() {
        let rows = rows(&[(1, 0, 0, 0), (2, 0, 1, 0), (2, 4, 1, 0), (9, 1, 1, 1)]);
        for rows in [rows.clone(), rows.slice(1, 2), rows.slice(2, 0)] {
            let sent = Batch { worker: 3, ..Batch::new(Lane::Serve, rows.clone()) };
            let bytes = postcard::to_stdvec(&sent).expect("batches can be written");
            let got: Batch = postcard::from_bytes(&bytes).expect("and read");
            assert_eq!((got.lane, got.rows, got.worker), (Lane::Serve, rows.clone(), 3));
            assert!(postcard::from_bytes::<Batch>(&bytes[..bytes.len() / 2]).is_err(), "a cut one is an error");
            let last = rows.num_rows().saturating_sub(1);
            for picked in [None, Some(vec![last as u32]).filter(|_| rows.num_rows() > 0)] {
                let expected = if picked.is_some() { rows.slice(last, 1) } else { rows.clone() };
                let bytes = postcard::to_stdvec(&Share::new(&sent, picked, 3)).expect("shares can be written");
                let got: Share = postcard::from_bytes(&bytes).expect("and read");
                assert_eq!((got.batch.rows, got.batch.worker, got.picked), (expected, 3, None));
            }
        }
    }
}
