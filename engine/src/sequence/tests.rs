//! Rows in any order, cut anywhere, against a plain sort.

use std::sync::Arc;

use arrow::array::BinaryViewArray;
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use proptest::prelude::*;

use super::*;
use crate::batch::{META, schema_of};
use crate::time;

/// A row's event time, and where it came from.
type Row = (i64, u32, u64);

/// Rows of consecutive offsets whose records have these timestamps, and the same as a column.
fn rows(partition: u32, first: u64, times: &[i64]) -> RecordBatch {
    let declared = Field::new("at", DataType::Timestamp(TimeUnit::Millisecond, None), true);
    let len = times.len();
    let raw: Vec<Vec<u8>> = (0..len).map(|_| vec![b'x'; RAW_BYTES]).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(arrow::array::UInt32Array::from_value(0, len)),
        Arc::new(arrow::array::UInt32Array::from_value(partition, len)),
        Arc::new((first..first + len as u64).collect::<arrow::array::UInt64Array>()),
        Arc::new(arrow::array::UInt32Array::from_value(0, len)),
        Arc::new(TimestampMillisecondArray::from(times.to_vec())),
        Arc::new(BinaryViewArray::from_iter(vec![None::<&[u8]>; len])),
        Arc::new(BinaryViewArray::from_iter_values(&raw)),
        Arc::new(TimestampMillisecondArray::from(times.to_vec())),
    ];
    RecordBatch::try_new(schema_of(&Schema::new(vec![declared])), columns).expect("columns of the schema")
}

const RAW_BYTES: usize = 100;

fn shown(rows: &RecordBatch) -> Vec<Row> {
    let meta = Meta::of(rows);
    (0..rows.num_rows()).map(|row| (meta.time[row], meta.partition[row], meta.offset[row])).collect()
}

/// An epoch: how many rows of each partition it takes, how reads cut them, and which partitions are idle.
#[derive(Clone, Debug)]
struct Cut {
    takes: Vec<usize>,
    idle: Vec<bool>,
}

#[derive(Clone, Debug)]
struct Case {
    partitions: Vec<Vec<i64>>,
    cuts: Vec<Cut>,
}

fn case() -> impl Strategy<Value = Case> {
    let jitters = prop::collection::vec(-30_i64..30, 0..40);
    // Times grow slowly, with disorder and ties.
    let times = |jitters: Vec<i64>| jitters.iter().zip(0..).map(|(jitter, at)| (at * 5 + jitter) / 12).collect();
    let cut = (prop::collection::vec(0_usize..8, 3), prop::collection::vec(prop::bool::weighted(0.3), 3))
        .prop_map(|(takes, idle)| Cut { takes, idle });
    (prop::collection::vec(jitters.prop_map(times), 1..4), prop::collection::vec(cut, 0..12))
        .prop_map(|(partitions, cuts)| Case { partitions, cuts })
}

/// What came out, and what was rejected.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    released: Vec<Row>,
    rejected: Vec<(u32, u64)>,
}

struct Run {
    time: EventTime,
    /// Whether idle partitions hold back nobody.
    idles: bool,
    /// Rows in a read, at most.
    read: usize,
}

impl Run {
    fn go(&self, case: &Case) -> Outcome {
        let count = case.partitions.len();
        let mut stamps = vec![Stamp::new(self.time); count];
        let mut watermarks = Watermarks::new((0..count as u32).map(|partition| (0, partition)));
        let (mut hold, mut next, mut outcome) = (Hold::default(), vec![0; count], Outcome::default());
        let last = Cut { takes: vec![usize::MAX; count], idle: vec![true; count] };
        for (at, cut) in case.cuts.iter().chain([&last]).enumerate() {
            let before = watermarks.released();
            for partition in 0..count {
                let times = &case.partitions[partition][next[partition]..];
                let times = &times[..times.len().min(cut.takes[partition])];
                for part in times.chunks(self.read) {
                    let rows = rows(partition as u32, next[partition] as u64, part);
                    next[partition] += part.len();
                    self.take(&rows, &mut stamps[partition], &mut hold, before, &mut outcome);
                }
                stamps[partition].bound().into_iter().for_each(|bound| watermarks.update(bound));
            }
            let is_idle = |partition: &usize| cut.idle[*partition] && (self.idles || at == case.cuts.len());
            let idle: Vec<_> = (0..count).filter(is_idle).map(|partition| (0, partition as u32)).collect();
            let watermark = watermarks.advance(&idle);
            let released = hold.release(watermark).expect("no fault");
            outcome.released.extend(released.iter().flat_map(shown));
        }
        assert_eq!(hold.rows(), 0, "the last epoch waits for nobody");
        outcome.rejected.sort_unstable();
        outcome
    }

    fn take(&self, rows: &RecordBatch, stamp: &mut Stamp, hold: &mut Hold, before: Watermark, out: &mut Outcome) {
        let origin = |rows: &RecordBatch, row: usize| (Meta::of(rows).partition[row], Meta::of(rows).offset[row]);
        let stamped = stamp.apply(rows, |row, _| out.rejected.push(origin(rows, row))).expect("no fault");
        let raise = self.time == EventTime::Arrival;
        hold.add(&stamped, before, raise, |row, _| out.rejected.push(origin(&stamped, row))).expect("no fault");
    }
}

/// The rows that are not late, sorted; and the late ones.
fn oracle(case: &Case, lateness_ms: i64) -> Outcome {
    let mut outcome = Outcome::default();
    for (partition, times) in case.partitions.iter().enumerate() {
        for (at, time) in times.iter().enumerate() {
            let newest = times[..at].iter().max();
            if newest.is_some_and(|newest| *time < newest - lateness_ms) {
                outcome.rejected.push((partition as u32, at as u64));
            } else {
                outcome.released.push((*time, partition as u32, at as u64));
            }
        }
    }
    outcome.released.sort_unstable();
    outcome.rejected.sort_unstable();
    outcome
}

fn column(lateness_ms: i64) -> EventTime {
    EventTime::Column { column: META, lateness_ms, corrections_ms: 0, ahead_ms: None }
}

proptest! {
    #[test]
    fn rows_leave_sorted_however_they_are_cut(case in case(), lateness_ms in 0_i64..20, read in 1_usize..9) {
        let found = Run { time: column(lateness_ms), idles: false, read }.go(&case);
        prop_assert_eq!(found, oracle(&case, lateness_ms));
    }

    #[test]
    fn corrections_leave_when_they_became_known(
        case in case(), lateness_ms in 0_i64..20, corrections_ms in 0_i64..20, read in 1_usize..9,
    ) {
        let time = EventTime::Column { column: META, lateness_ms, corrections_ms, ahead_ms: None };
        let found = Run { time, idles: false, read }.go(&case);
        let known = |times: &Vec<i64>| -> Vec<i64> {
            let mut newest = i64::MIN;
            let known = |time: &i64| {
                let oldest = newest.saturating_sub(lateness_ms);
                let is_late = oldest.saturating_sub(*time) > corrections_ms;
                newest = newest.max(*time);
                if is_late { *time } else { (*time).max(oldest) }
            };
            times.iter().map(known).collect()
        };
        let known = Case { partitions: case.partitions.iter().map(known).collect(), cuts: vec![] };
        prop_assert_eq!(found, oracle(&known, lateness_ms));
    }

    #[test]
    fn arrivals_are_never_late(case in case(), read in 1_usize..9) {
        let found = Run { time: EventTime::Arrival, idles: false, read }.go(&case);
        let newest = |newest: &mut i64, time: &i64| {
            *newest = (*newest).max(*time);
            Some(*newest)
        };
        let raised = case.partitions.iter().map(|times| times.iter().scan(i64::MIN, newest).collect()).collect();
        prop_assert_eq!(found, oracle(&Case { partitions: raised, cuts: vec![] }, 0));
    }

    #[test]
    fn with_idle_partitions_reads_do_not_matter(case in case(), lateness_ms in -1_i64..20, read in 1_usize..9) {
        let time = if lateness_ms < 0 { EventTime::Arrival } else { column(lateness_ms) };
        let found = Run { time, idles: true, read }.go(&case);
        prop_assert!(found.released.is_sorted(), "{:?}", found.released);
        let all: usize = case.partitions.iter().map(Vec::len).sum();
        prop_assert_eq!(found.released.len() + found.rejected.len(), all);
        prop_assert_eq!(&found, &Run { time, idles: true, read: usize::MAX }.go(&case));
        if time == EventTime::Arrival {
            prop_assert_eq!(found.rejected.len(), 0);
            for partition in 0..case.partitions.len() as u32 {
                let offsets = found.released.iter().filter(|row| row.1 == partition).map(|row| row.2);
                prop_assert!(offsets.is_sorted(), "a partition keeps its order");
            }
        }
    }
}

#[test]
fn rows_behind_are_raised_and_keep_their_order() {
    let released = (100, Origin { source: 0, partition: 0, offset: 5, index: 0 });
    let times = [5, 100, 101, 102];
    for read in 1..=4 {
        let mut hold = Hold::default();
        for (at, part) in times.chunks(read).enumerate() {
            let rows = rows(1, (at * read) as u64, part);
            hold.add(&rows, released, true, |_, _| unreachable!("arrivals are not late")).expect("no fault");
        }
        let out = hold.release((1000, released.1)).expect("no fault").expect("all rows");
        assert_eq!(shown(&out), [(101, 1, 0), (101, 1, 1), (101, 1, 2), (102, 1, 3)], "reads of {read}");
    }
}

#[test]
fn a_record_from_beyond_all_time_holds_back_nobody() {
    let mut stamp = Stamp::new(EventTime::Arrival);
    let mut rejected = Vec::new();
    let times = [i64::MAX, 5, time::LAST_MS + 1, 7, time::FIRST_MS - 1, 6];
    let stamped = stamp.apply(&rows(0, 0, &times), |row, _| rejected.push(row)).expect("no fault");
    assert_eq!((shown(&stamped), rejected), (vec![(5, 0, 1), (7, 0, 3), (7, 0, 5)], vec![0, 2, 4]));
    assert_eq!(stamp.bound().map(|bound| bound.next.0), Some(7));
}

#[test]
fn a_clock_that_is_ahead_moves_nobody_else() {
    let arrived = [100, 100, 101, NO_TIMESTAMP, 102, 103];
    let declared = [98, 150, 151, 900, 100_000, 99];
    let mut stamp =
        Stamp::new(EventTime::Column { column: META, lateness_ms: 1000, corrections_ms: 0, ahead_ms: Some(50) });
    let rows = rows(0, 0, &declared);
    let rows = with_times(&rows, arrived.to_vec()).expect("as many");
    let mut rejected = Vec::new();
    let stamped = stamp.apply(&rows, |row, why| rejected.push((row, why))).expect("no fault");
    let why = "ahead of its record's timestamp by 99898 ms: its clock is wrong".to_owned();
    assert_eq!(rejected, [(4, why)]);
    assert_eq!(shown(&stamped).iter().map(|row| row.0).collect::<Vec<_>>(), [98, 150, 151, 900, 99]);
    assert_eq!(stamp.bound().map(|bound| bound.seen.0), Some(900));
}

#[test]
fn raised_rows_do_not_wait_for_ever() {
    // The second partition comes back behind the first, and nothing follows.
    let idle = |partitions: &[bool]| Cut { takes: vec![1, 0], idle: partitions.to_vec() };
    let case = Case { partitions: vec![vec![100], vec![5]], cuts: vec![idle(&[false, true])] };
    let found = Run { time: EventTime::Arrival, idles: true, read: 1 }.go(&case);
    assert_eq!(found.released, [(100, 0, 0), (101, 1, 0)]);
}

#[test]
fn held_rows_keep_only_their_own_bytes() {
    let (batch, window) = (10, 200);
    let mut hold = Hold::default();
    for at in 0..2000_u64 {
        let times: Vec<i64> = (at * batch..(at + 1) * batch).map(|time| time as i64).collect();
        hold.add(&rows(0, at * batch, &times), START, false, |_, _| ()).expect("no fault");
        let oldest = (times[0] - window, START.1);
        hold.release(oldest).expect("no fault");
    }
    let bytes =
        |run: &RecordBatch| -> usize { Meta::of(run).raw.data_buffers().iter().map(arrow::buffer::Buffer::len).sum() };
    let pinned: usize = hold.runs.iter().map(bytes).sum();
    assert_eq!(hold.rows(), 210);
    assert!(pinned <= 4 * hold.rows() * RAW_BYTES, "{pinned} bytes for {} rows", hold.rows());
    assert!(hold.runs.len() <= 9, "{} runs", hold.runs.len());
}

#[test]
fn an_idle_partition_is_not_waited_for() {
    let bound = |partition, at| {
        let place = (at, Origin { source: 0, partition, offset: 1, index: 0 });
        Bound { source: 0, partition, next: place, seen: place, raises: true }
    };
    let mut watermarks = Watermarks::new([(0, 0), (0, 1), (0, 2)]);
    watermarks.update(bound(0, 50));
    watermarks.update(bound(1, 80));
    assert_eq!(watermarks.advance(&[]), START);
    assert_eq!(watermarks.holding(&[]), BTreeSet::from([(0, 2)]));
    assert_eq!(watermarks.holding(&[(0, 2)]), BTreeSet::from([(0, 0)]));
    assert_eq!(watermarks.advance(&[(0, 2)]).0, 50);
    assert_eq!(watermarks.advance(&[]).0, 50, "it never goes back");
    assert_eq!(watermarks.advance(&[(0, 0), (0, 1), (0, 2)]).0, 80);
}
