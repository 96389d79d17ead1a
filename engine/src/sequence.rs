//! Event-time order: rows leave a source in one total order that depends on nothing but the data.
//!
//! Records of several partitions arrive in any interleaving, and an epoch may be cut anywhere. If operators saw
//! rows in the order of arrival, a model would depend on both. So each source's rows are held until the
//! watermark has passed them, and leave in the order (event time, source, partition, offset):
//!
//! ```text
//! decoded rows ─► Stamp (per partition, in offset order) ─► Hold ─► rows in canonical order
//!                   gives _time, finds late rows   └─ bounds ─► (to all workers: the least of all is the watermark)
//! ```
//!
//! Therefore a backlog bound in a few large epochs and a live stream bound in many small ones teach the same model.
//! A partition from which nothing came for its idle time is left out of the watermark. That is decided by the
//! binder and recorded in the binding, so it replays; only then can a result depend on timing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryViewArray, RecordBatch, StringViewArray, TimestampMillisecondArray,
};
use arrow::datatypes::TimestampMillisecondType;
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::batch::{Meta, Origin, TIME, canonical};
use crate::binding::Watermark;
use crate::graph::EventTime;
use crate::order::Order;
use crate::raw::NO_TIMESTAMP;
use crate::time::in_range;

mod stored;
#[cfg(test)]
mod tests;

pub use stored::Held;

/// The watermark before anything was seen.
pub const START: Watermark = (i64::MIN, Origin::FIRST);

/// What a partition says of its future.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    /// The source.
    pub source: u32,
    /// The partition.
    pub partition: u32,
    /// No row that is not late will come before this place.
    pub next: Watermark,
    /// All rows so far are before this place.
    pub seen: Watermark,
    /// Whether rows that come behind the watermark are raised past it.
    pub raises: bool,
}

/// Gives each row of one partition its event time.
#[derive(Clone, Debug)]
pub struct Stamp {
    time: EventTime,
    newest_ms: i64,
    /// The last bound that was told.
    bound: Option<Bound>,
}

impl Stamp {
    /// For a partition of which nothing was seen.
    pub fn new(time: EventTime) -> Self {
        Self { time, newest_ms: i64::MIN, bound: None }
    }

    /// Stamps rows that come in offset order, `_time` holding the record's own timestamp, and removes late ones:
    /// the row's index and why are given to `reject`; so are rows without an event time.
    pub fn apply(&mut self, rows: &RecordBatch, mut reject: impl FnMut(usize, String)) -> Result<RecordBatch> {
        let meta = Meta::of(rows);
        let len = rows.num_rows();
        if len == 0 {
            return Ok(rows.clone());
        }
        let mut times = Vec::with_capacity(len);
        let mut keep = Vec::with_capacity(len);
        let mut is_raised = false;
        match self.time {
            EventTime::Arrival => {
                for (row, &time) in meta.time.iter().enumerate() {
                    if in_range(time) {
                        self.newest_ms = self.newest_ms.max(time);
                        keep.push(row as u32);
                        times.push(self.newest_ms);
                    } else {
                        reject(row, no_time(time));
                    }
                }
            }
            EventTime::Column { column, lateness_ms, corrections_ms, ahead_ms } => {
                let column: &TimestampMillisecondArray =
                    rows.column(column).as_any().downcast_ref().expect("planning checked the event-time column's type");
                for row in 0..len {
                    let time = column.value(row);
                    let oldest = self.newest_ms.saturating_sub(lateness_ms);
                    let late = oldest.saturating_sub(time);
                    if column.is_null(row) {
                        reject(row, "the event time is missing".to_owned());
                    } else if let Some(ahead) = too_far_ahead(time, meta.time[row], ahead_ms) {
                        reject(row, format!("ahead of its record's timestamp by {ahead} ms: its clock is wrong"));
                    } else if late > corrections_ms {
                        let allowed = lateness_ms + corrections_ms;
                        reject(row, format!("late by {} ms beyond the allowed {allowed} ms", late - corrections_ms));
                    } else {
                        self.newest_ms = self.newest_ms.max(time);
                        keep.push(row as u32);
                        // A correction takes its place where it became known, which depends on its partition alone.
                        times.push(time.max(oldest));
                        is_raised |= time < oldest;
                    }
                }
            }
        }
        let last = meta.origin(len - 1);
        self.tell(last);
        let kept = if keep.len() == len {
            rows.clone()
        } else {
            arrow::compute::take_record_batch(rows, &arrow::array::UInt32Array::from(keep))?
        };
        match self.time {
            // The declared column is the time itself: both share it from here on.
            EventTime::Column { column, .. } if !is_raised => {
                let times = kept.column(column).as_primitive::<TimestampMillisecondType>();
                with_time(&kept, TimestampMillisecondArray::new(times.values().clone(), None))
            }
            _ => with_times(&kept, times),
        }
    }

    fn tell(&mut self, last: Origin) {
        if self.newest_ms == i64::MIN {
            return;
        }
        let after = Origin { offset: last.offset + 1, index: 0, ..last };
        let next = match self.time {
            EventTime::Column { lateness_ms, .. } if lateness_ms > 0 => {
                (self.newest_ms.saturating_sub(lateness_ms), Origin { offset: 0, index: 0, ..last })
            }
            // In order: what comes next is at least as new, and has a larger offset.
            _ => (self.newest_ms, after),
        };
        let seen = (self.newest_ms, after);
        self.bound = Some(Bound {
            source: last.source,
            partition: last.partition,
            next,
            seen,
            raises: self.time == EventTime::Arrival,
        });
    }

    /// What the partition says now, if anything was seen.
    pub fn bound(&self) -> Option<Bound> {
        self.bound
    }
}

/// How far an event time is ahead of its record's timestamp, if that is further than allowed.
fn too_far_ahead(time: i64, arrived: i64, allowed: Option<i64>) -> Option<i64> {
    let ahead = time.saturating_sub(arrived);
    (ahead > allowed? && arrived != NO_TIMESTAMP).then_some(ahead)
}

/// Why a record's own timestamp cannot be its event time.
pub(crate) fn no_time(ms: i64) -> String {
    format!("the record's timestamp, {ms} ms after 1970, is not within the years 1 to 9999")
}

/// The rows with these event times.
pub(crate) fn with_times(rows: &RecordBatch, times: Vec<i64>) -> Result<RecordBatch> {
    with_time(rows, TimestampMillisecondArray::from(times))
}

fn with_time(rows: &RecordBatch, times: TimestampMillisecondArray) -> Result<RecordBatch> {
    let mut columns: Vec<ArrayRef> = rows.columns().to_vec();
    columns[TIME] = Arc::new(times);
    Ok(RecordBatch::try_new(rows.schema(), columns)?)
}

/// Joins the bounds of all partitions into the watermark.
#[derive(Clone, Debug)]
pub struct Watermarks {
    bounds: BTreeMap<(u32, u32), Option<Bound>>,
    released: Watermark,
    /// No row was raised beyond this time.
    raised_ms: i64,
}

impl Watermarks {
    /// For these (source, partition) pairs of the learn lane.
    pub fn new(partitions: impl IntoIterator<Item = (u32, u32)>) -> Self {
        let bounds = partitions.into_iter().map(|partition| (partition, None)).collect();
        Self { bounds, released: START, raised_ms: i64::MIN }
    }

    /// Takes a partition's word.
    pub fn update(&mut self, bound: Bound) {
        let before = self.bounds.insert((bound.source, bound.partition), Some(bound)).flatten();
        let was_behind = before.map_or(START, |before| before.next) < self.released;
        if bound.raises && was_behind && before != Some(bound) {
            self.raised_ms = self.raised_ms.max(self.released.0.saturating_add(1));
        }
    }

    /// The watermark after an epoch in which the partitions `idle` (sorted) hold back nobody. It never goes back.
    pub fn advance(&mut self, idle: &[(u32, u32)]) -> Watermark {
        let active = self.bounds.iter().filter(|(partition, _)| idle.binary_search(partition).is_err());
        let least = active.map(|(_, bound)| bound.map_or(START, |bound| bound.next)).min();
        let after_raised = (self.raised_ms.saturating_add(1), START.1);
        let all_seen = || self.bounds.values().flatten().map(|bound| bound.seen.max(after_raised)).max();
        if let Some(reached) = least.or_else(all_seen) {
            self.released = self.released.max(reached);
        }
        self.released
    }

    /// The partitions that the watermark waits for: of those that are not `idle` (sorted), the ones that say least.
    pub fn holding(&self, idle: &[(u32, u32)]) -> BTreeSet<(u32, u32)> {
        let next = |bound: &Option<Bound>| bound.map_or(START, |bound| bound.next);
        let active = || self.bounds.iter().filter(|(partition, _)| idle.binary_search(partition).is_err());
        let least = active().map(|(_, bound)| next(bound)).min();
        active().filter(|(_, bound)| Some(next(bound)) == least).map(|(partition, _)| *partition).collect()
    }

    /// The present watermark.
    pub fn released(&self) -> Watermark {
        self.released
    }
}

/// Rows of one source that wait for the watermark, as sorted runs, each at most half as long as the one before: so
/// there are few, and a row is merged few times. Most rows never come into a run: they leave with the epoch that brought them.
#[derive(Debug, Default)]
pub struct Hold {
    runs: Vec<RecordBatch>,
    /// What was added since the last release, as it came.
    fresh: Vec<RecordBatch>,
    /// By partition: the time that its last row was raised to, as long as what follows has to stay behind it.
    raised: BTreeMap<u32, i64>,
}

impl Hold {
    /// Adds rows of one partition that come after `released`. Rows before it, which only a partition that was idle can
    /// bring, are raised past it (`raise`, for sources whose time is their arrival) or rejected as late.
    pub fn add(
        &mut self,
        rows: &RecordBatch,
        released: Watermark,
        raise: bool,
        mut reject: impl FnMut(usize, String),
    ) -> Result<()> {
        let meta = Meta::of(rows);
        // Nearly always none: then a look at the times alone tells, several at once.
        let may_be_behind = meta.time.iter().fold(false, |any, time| any | (*time <= released.0));
        let of_interest = if may_be_behind { rows.num_rows() } else { 0 };
        let behind: Vec<usize> = (0..of_interest).filter(|&row| meta.order(row) < released).collect();
        let is_raised = || meta.partition.first().is_some_and(|partition| self.raised.contains_key(partition));
        let rows = if raise && (!behind.is_empty() || is_raised()) {
            let times = self.raised_times(&meta, released);
            with_times(rows, times)?
        } else if behind.is_empty() {
            rows.clone()
        } else {
            let mut keep = vec![true; rows.num_rows()];
            for row in behind {
                keep[row] = false;
                reject(row, "late: the source was idle, and the others went on without it".to_owned());
            }
            crate::batch::filter(rows, &keep.into())?
        };
        if rows.num_rows() > 0 {
            self.fresh.push(rows);
        }
        Ok(())
    }

    /// Decides row by row, since a partition's rows come cut into any batches. They keep their order.
    fn raised_times(&mut self, meta: &Meta<'_>, released: Watermark) -> Vec<i64> {
        let time_of = |row: usize| {
            let partition = meta.partition[row];
            let floor = self.raised.get(&partition).copied().unwrap_or(i64::MIN);
            // One millisecond past the watermark is a place that no released row has reached.
            let past = if meta.order(row) < released { released.0.saturating_add(1) } else { i64::MIN };
            let time = meta.time[row].max(past).max(floor);
            if time > meta.time[row] {
                self.raised.insert(partition, time);
            } else {
                self.raised.remove(&partition);
            }
            time
        };
        (0..meta.time.len()).map(time_of).collect()
    }

    /// Takes out all rows before the watermark, in canonical order.
    pub fn release(&mut self, watermark: Watermark) -> Result<Option<RecordBatch>> {
        let mut parts = Vec::new();
        for run in std::mem::take(&mut self.runs) {
            let ready = ready(&run, watermark);
            if ready > 0 {
                parts.push(run.slice(0, ready));
            }
            if ready < run.num_rows() {
                self.push(run.slice(ready, run.num_rows() - ready))?;
            }
        }
        parts.append(&mut self.fresh);
        let order = Order::of(&parts);
        let ready = order.before(watermark);
        if let Some(later) = order.gather(&parts, ready..)? {
            self.push(compacted(&later)?)?;
        }
        order.gather(&parts, ..ready)
    }

    /// Adds a run, merged with those before it that are not twice as long.
    fn push(&mut self, mut run: RecordBatch) -> Result<()> {
        while let Some(before) = self.runs.pop_if(|before| before.num_rows() < 2 * run.num_rows()) {
            run = compacted(&canonical(&run.schema(), &[before, run])?)?;
        }
        self.runs.push(run);
        Ok(())
    }

    /// How many rows wait.
    pub fn rows(&self) -> usize {
        self.runs.iter().chain(&self.fresh).map(RecordBatch::num_rows).sum()
    }
}

/// The same rows, without bytes that only rows released long ago have pointed to.
fn compacted(rows: &RecordBatch) -> Result<RecordBatch> {
    let compacted = |column: &ArrayRef| -> ArrayRef {
        let any = column.as_any();
        match (any.downcast_ref::<BinaryViewArray>(), any.downcast_ref::<StringViewArray>()) {
            (Some(bytes), _) => Arc::new(bytes.gc()),
            (_, Some(text)) => Arc::new(text.gc()),
            _ => column.clone(),
        }
    };
    Ok(RecordBatch::try_new(rows.schema(), rows.columns().iter().map(compacted).collect())?)
}

/// How many of a sorted run's rows are before the watermark.
fn ready(run: &RecordBatch, watermark: Watermark) -> usize {
    let meta = Meta::of(run);
    let (mut low, mut high) = (0, run.num_rows());
    while low < high {
        let middle = usize::midpoint(low, high);
        if meta.order(middle) < watermark { low = middle + 1 } else { high = middle }
    }
    low
}
