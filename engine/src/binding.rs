//! What an epoch is made of.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::batch::Origin;

/// An epoch: the timestamp of the dataflow.
pub type Epoch = u64;

/// Offsets `[lo, hi)` of one partition of one source, with what was in them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// Index of the source in the definition.
    pub source: u32,
    /// The partition.
    pub partition: u32,
    /// The first offset.
    pub lo: u64,
    /// The offset after the last.
    pub hi: u64,
    /// How many records there are (a broker may leave gaps).
    pub count: u64,
    /// BLAKE3 of the records' offsets, timestamps, keys and contents: the log must still hold the same.
    pub digest: String,
}

/// An epoch as it was decided, once and for all: everything that a replay needs to know of the outside world.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// Its epoch; bindings are consecutive from 0.
    pub epoch: Epoch,
    /// The records that enter.
    pub ranges: Vec<Range>,
    /// The time that the epoch sees, milliseconds since 1970.
    pub now_ms: i64,
    /// The seed of the epoch's randomness.
    pub seed: u64,
    /// Partitions (source, partition) that hold back nobody, sorted: nothing came from them for their idle time, or
    /// ever will.
    pub idle: Vec<(u32, u32)>,
}

/// The least place in the canonical order (event time, then origin) that a row can still come to.
/// Everything before it is complete.
pub type Watermark = (i64, Origin);

/// A watermark's event time; `None` before anything was seen.
pub(crate) fn time_ms(watermark: Watermark) -> Option<i64> {
    Some(watermark.0).filter(|&time| time != i64::MIN)
}

/// What a revision had learned through: all records below these offsets whose event time is before `time_ms`
/// (and those at exactly that time that come before the watermark in the canonical order).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frontier {
    /// By source name and partition, `flights/0`: the offset after the last one bound.
    pub offsets: BTreeMap<String, u64>,
    /// The event-time watermark, milliseconds since 1970; `None` before the first record.
    pub time_ms: Option<i64>,
}
