//! What goes over a line: frames of a length and a value.

use std::io::{Read, Write};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BinaryArray, Int64Array, RecordBatch, UInt64Array};
use arrow::datatypes::{Int64Type, UInt64Type};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::batch::ipc;
use crate::binding::{Binding, Epoch};
use crate::fault::{Blame, Fault};
use crate::metrics::Counts;
use crate::publish::Event;
use crate::raw::{Headers, Payload, RawBatch};

/// The largest frame that is taken: an epoch's records, or an object of a checkpoint, and much more.
const FRAME_BYTES_MAX: u64 = 4 << 30;

/// No more than this is set aside for a frame before it is there.
const AHEAD_BYTES_MAX: u64 = 64 << 20;

/// Writes a frame. The caller flushes.
pub(super) fn write(to: &mut impl Write, value: &impl Serialize) -> std::io::Result<()> {
    write_bytes(to, &postcard::to_stdvec(value).map_err(std::io::Error::other)?)
}

/// Writes a frame of these bytes. The caller flushes.
pub(super) fn write_bytes(to: &mut impl Write, frame: &[u8]) -> std::io::Result<()> {
    to.write_all(&(frame.len() as u64).to_le_bytes())?;
    to.write_all(frame)
}

/// Reads a frame of at most so many bytes.
pub(super) fn read_at_most<T: DeserializeOwned>(from: &mut impl Read, bytes_max: u64) -> std::io::Result<T> {
    postcard::from_bytes(&frame(from, bytes_max)?).map_err(std::io::Error::other)
}

pub(super) fn read<T: DeserializeOwned>(from: &mut impl Read) -> std::io::Result<T> {
    read_at_most(from, FRAME_BYTES_MAX)
}

pub(super) fn read_bytes(from: &mut impl Read) -> std::io::Result<Vec<u8>> {
    frame(from, FRAME_BYTES_MAX)
}

fn frame(from: &mut impl Read, bytes_max: u64) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 8];
    from.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    if length > bytes_max {
        return Err(std::io::Error::other(format!("a frame of {length} bytes")));
    }
    let mut frame = Vec::with_capacity(length.min(AHEAD_BYTES_MAX) as usize);
    if from.take(length).read_to_end(&mut frame)? as u64 != length {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(frame)
}

/// What a member needs to begin a run.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Begin {
    /// The number by which connections of this run are known.
    pub(super) run: u64,
    /// Workers in each process.
    pub(super) threads: usize,
    /// The (source, partition) pairs of the learn lane.
    pub(super) partitions: Vec<(u32, u32)>,
    /// By source and partition: the line that names the values of its records.
    pub(super) headers: Vec<(u32, u32, Vec<u8>)>,
    /// The manifest of the checkpoint that the run starts from. Its objects are asked for.
    pub(super) manifest: Option<Vec<u8>>,
    /// Whether checkpoints are made.
    pub(super) checkpoints: bool,
}

/// What a member is told.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToMember {
    Begin(Begin),
    /// An object that it has asked for.
    Object(Option<Vec<u8>>),
    /// An epoch is bound; comes before its records.
    Bound(Binding),
    /// Records of an epoch, for one of the member's workers.
    Records {
        worker: usize,
        epoch: Epoch,
        records: Vec<(u32, RawBatch)>,
    },
    /// No epoch follows for this worker.
    End {
        worker: usize,
    },
    /// The newest cut, the newest that was abandoned, and the epochs that are published.
    Signals(Signals),
    /// In a talk: the next frame, of bytes, wants an answer.
    Ask {
        talk: u64,
    },
    /// A talk has ended.
    Leave {
        talk: u64,
    },
    /// The first process is there.
    Alive,
    /// The run has ended at once.
    Abort,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Signals {
    pub(super) cut: Epoch,
    pub(super) abandoned: Epoch,
    pub(super) published: Epoch,
}

/// What a member tells.
#[derive(Serialize, Deserialize)]
pub(super) enum ToFirst {
    /// A worker has mounted the graph. By then so many of its process' operators hand over state, and so many rows are held.
    Mounted {
        operators: usize,
        held: usize,
    },
    /// The content of an object of the checkpoint is wanted.
    Want(String),
    /// What an epoch gave.
    Event(Event),
    /// All epochs before this one have passed, all that they gave was told, and so many rows are held.
    Passed {
        epoch: Epoch,
        held: usize,
    },
    /// These partitions have given rows.
    Heard(Vec<(u32, u32)>),
    Piece {
        cut: Epoch,
        section: String,
        worker: usize,
        key: u32,
        #[serde(with = "serde_bytes")]
        content: Vec<u8>,
    },
    Done {
        cut: Epoch,
        section: String,
        failed: Option<String>,
    },
    /// In a talk: the next frame, of bytes, is the answer to the next thing that was asked.
    Answer {
        talk: u64,
    },
    /// The member is there.
    Alive,
    Counts(Counts),
    Aside(Vec<u8>),
    /// The member's run has failed.
    Failed {
        is_ours: bool,
        message: String,
    },
    /// All its workers are done, and nothing follows.
    Ended,
}

impl ToFirst {
    pub(super) fn failed(fault: &Fault) -> Self {
        Self::Failed { is_ours: fault.blame == Blame::Ours, message: fault.to_string() }
    }
}

/// Records, as columns.
#[derive(Serialize, Deserialize)]
struct Records {
    partition: u32,
    /// Offset, timestamp, key; and the value, where the records hold bytes.
    #[serde(with = "ipc")]
    columns: RecordBatch,
    headers: Vec<Headers>,
    content: Content,
}

#[derive(Serialize, Deserialize)]
enum Content {
    /// Among the columns.
    Bytes,
    Rows(#[serde(with = "ipc")] RecordBatch),
}

impl Serialize for RawBatch {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut columns: Vec<(&str, ArrayRef)> = vec![
            ("offset", Arc::new(UInt64Array::new(self.offsets.clone(), None))),
            ("timestamp", Arc::new(Int64Array::new(self.timestamps.clone(), None))),
        ];
        if let Some(keys) = &self.keys {
            columns.push(("key", Arc::new(keys.clone())));
        }
        let content = match &self.payload {
            Payload::Bytes(values) => {
                columns.push(("value", Arc::new(values.clone())));
                Content::Bytes
            }
            Payload::Rows(rows) => Content::Rows(rows.clone()),
        };
        let columns = RecordBatch::try_from_iter(columns).map_err(serde::ser::Error::custom)?;
        Records { partition: self.partition, columns, headers: self.headers.clone(), content }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for RawBatch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let Records { partition, columns, headers, content } = Records::deserialize(deserializer)?;
        let missing = || serde::de::Error::custom("records without their columns");
        let bytes = |name: &str| -> Option<BinaryArray> {
            columns.column_by_name(name).and_then(|column| column.as_binary_opt().cloned())
        };
        let offsets = columns.column_by_name("offset").and_then(|column| column.as_primitive_opt::<UInt64Type>());
        let timestamps = columns.column_by_name("timestamp").and_then(|column| column.as_primitive_opt::<Int64Type>());
        Ok(Self {
            partition,
            offsets: offsets.ok_or_else(missing)?.values().clone(),
            timestamps: timestamps.ok_or_else(missing)?.values().clone(),
            keys: bytes("key"),
            headers,
            payload: match content {
                Content::Rows(rows) => Payload::Rows(rows),
                Content::Bytes => Payload::Bytes(bytes("value").ok_or_else(missing)?),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(payload: Payload) -> RawBatch {
        RawBatch {
            partition: 3,
            offsets: vec![5, 6, 9].into(),
            timestamps: vec![-1, 0, 7].into(),
            keys: Some(BinaryArray::from(vec![Some(b"a".as_slice()), None, Some(b"")])),
            headers: vec![vec![("model".to_owned(), vec![0, 255])], Vec::new(), Vec::new()],
            payload,
        }
    }

    #[test]
    fn records_survive_the_wire_also_a_part_of_them() {
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
        let rows = RecordBatch::try_from_iter([("n", numbers)]).expect("one column");
        let bytes = BinaryArray::from(vec![Some(b"{}".as_slice()), None, Some(b"x")]);
        for whole in [raw(Payload::Bytes(bytes)), raw(Payload::Rows(rows))] {
            for sent in [whole.slice(0, 3), whole.slice(1, 2)] {
                let mut wire = Vec::new();
                write(&mut wire, &sent).expect("memory");
                let got: RawBatch = read(&mut wire.as_slice()).expect("what was written");
                // Headers are by position, others by column.
                assert_eq!(format!("{got:?}"), format!("{sent:?}"));
                let cut: std::io::Result<RawBatch> = read(&mut &wire[..wire.len() - 1]);
                assert!(cut.is_err());
            }
        }
    }

    #[test]
    fn a_frame_that_is_too_large_is_refused() {
        let mut wire = Vec::new();
        write(&mut wire, &vec![0_u8; 100]).expect("memory");
        assert!(read_at_most::<Vec<u8>>(&mut wire.as_slice(), 100).is_err(), "101 bytes");
        assert_eq!(read_at_most::<Vec<u8>>(&mut wire.as_slice(), 101).expect("it fits").len(), 100);
    }
}
