//! Records into rows, on whichever worker they were sent to.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryViewArray, RecordBatch, TimestampMillisecondArray, UInt32Array, UInt64Array, new_null_array,
};
use arrow::compute::take;
use arrow::datatypes::DataType;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::operator::Operator;

use crate::batch::{Batch, Lane, Meta, Origin, filter};
use crate::binding::Epoch;
use crate::fault::{Fault, Result};
use crate::graph::{EventTime, Input, SourceNode};
use crate::mount::order::worker_of;
use crate::mount::{Outlet, Rows, Site};
use crate::operator::Rejects;
use crate::publish::DeadLetter;
use crate::raw::{Payload, RawBatch};
use crate::sequence::{no_time, with_times};
use crate::source::Decoded;
use crate::time::in_range;

pub(crate) fn mount<'scope>(stream: StreamVec<'scope, Epoch, RawBatch>, at: usize, site: &Site) -> Rows<'scope> {
    let graph = site.graph.clone();
    let workers = site.workers as u32;
    let outlet = site.outlet(&graph.sources[at].name).observed(Input::Source(at), site);
    let mut decoder = (graph.sources[at].decoder)();
    stream.unary(Pipeline, "decode", move |_, _| {
        move |input, output| {
            let source = &graph.sources[at];
            input.for_each_stamp(|time, records| {
                let Some(&epoch) = time.least() else { return };
                let mut session = output.session(&time);
                for raw in records.flat_map(|records| records.drain(..)) {
                    let rows = decoder
                        .decode(&raw)
                        .and_then(|decoded| to_rows(epoch, at as u32, source, &raw, decoded, &outlet));
                    match rows {
                        // A partition belongs to one worker, which sees its records in order.
                        Ok(Some(rows)) => {
                            session.give(rows.to(worker_of(raw.partition, at, workers) as usize));
                        }
                        Ok(None) => {}
                        Err(fault) => outlet.abort(fault),
                    }
                }
            });
        }
    })
}

/// Puts the engine's columns before the decoded ones; sends what was rejected to the dead letters.
fn to_rows(
    epoch: Epoch,
    at: u32,
    source: &SourceNode,
    raw: &RawBatch,
    mut decoded: Decoded,
    outlet: &Outlet,
) -> Result<Option<Batch>> {
    let lane = if source.asks.is_some() { Lane::Serve } else { Lane::Learn };
    let index = index_within(&decoded.record);
    if lane == Lane::Serve && index.iter().any(|&index| index > 0) {
        reject_several(&mut decoded, &index);
        return to_rows(epoch, at, source, raw, decoded, outlet);
    }
    let letter = |(record, reason): &(u32, String)| DeadLetter {
        origin: Origin { source: at, partition: raw.partition, offset: raw.offsets[*record as usize], index: 0 },
        lane,
        step: source.name.as_str().into(),
        reason: reason.clone(),
        raw: match &raw.payload {
            Payload::Bytes(values) => {
                values.is_valid(*record as usize).then(|| values.value(*record as usize).to_vec())
            }
            Payload::Rows(_) => None,
        },
        is_row: false,
    };
    outlet.dead(epoch, decoded.rejects.iter().map(letter).collect());
    if decoded.record.is_empty() {
        return Ok(None);
    }
    let rows = with_meta(at, source, raw, &decoded, index)?;
    let rows = outlet.run(epoch, lane, &rows, |rejects| match lane {
        Lane::Learn => Ok(Some(rows.clone())),
        Lane::Serve => stamp_requests(source, &rows, rejects).map(Some),
    });
    Ok(rows.map(|rows| Batch::new(lane, rows)))
}

/// Each row's number within its record.
fn index_within(record: &[u32]) -> Vec<u32> {
    // Without a way out, so that the compiler compares several at once.
    if record.windows(2).fold(true, |all, pair| all & (pair[0] != pair[1])) {
        return vec![0; record.len()];
    }
    let mut index = Vec::with_capacity(record.len());
    for (row, of) in record.iter().enumerate() {
        index.push(if row > 0 && record[row - 1] == *of { index[row - 1] + 1 } else { 0 });
    }
    index
}

/// A request gets one answer, so it holds one row.
fn reject_several(decoded: &mut Decoded, index: &[u32]) {
    let several: std::collections::BTreeSet<u32> =
        decoded.record.iter().zip(index).filter(|(_, index)| **index > 0).map(|(record, _)| *record).collect();
    let keep: Vec<bool> = decoded.record.iter().map(|record| !several.contains(record)).collect();
    decoded.rows =
        arrow::compute::filter_record_batch(&decoded.rows, &keep.into()).expect("the mask is as long as the rows");
    decoded.record.retain(|record| !several.contains(record));
    decoded.rejects.extend(several.into_iter().map(|record| (record, "a request holds exactly one row".to_owned())));
}

/// A request's event time is its column where the source declares one and it is there, else its record's timestamp.
/// It waits for no watermark.
fn stamp_requests(source: &SourceNode, rows: &RecordBatch, rejects: &mut Rejects) -> Result<RecordBatch> {
    let mut rows = rows.clone();
    if let EventTime::Column { column, .. } = source.time {
        let declared: &TimestampMillisecondArray =
            rows.column(column).as_any().downcast_ref().expect("planning checked the event-time column's type");
        let arrived = Meta::of(&rows).time;
        let times = arrived.iter().zip(declared).map(|(&arrived, declared)| declared.unwrap_or(arrived));
        rows = with_times(&rows, times.collect())?;
    }
    for (row, time) in Meta::of(&rows).time.iter().enumerate().filter(|(_, time)| !in_range(**time)) {
        rejects.push(row, no_time(*time));
    }
    if rejects.is_empty() { Ok(rows) } else { filter(&rows, &rejects.keep(rows.num_rows())) }
}

fn with_meta(at: u32, source: &SourceNode, raw: &RawBatch, decoded: &Decoded, index: Vec<u32>) -> Result<RecordBatch> {
    let len = decoded.record.len();
    if decoded.rows.num_rows() != len {
        return Err(Fault::ours(format!(
            "the decoder of {} gave {} rows for {len} records",
            source.name,
            decoded.rows.num_rows()
        )));
    }
    // As many rows as records, and no record has two: the rows are the records.
    let whole = len == raw.len() && index.iter().all(|&index| index == 0);
    let record = UInt32Array::from(decoded.record.clone());
    let pick = |column: ArrayRef| if whole { Ok(column) } else { take(&column, &record, None) };
    // The views share the fetched buffers: no bytes are copied.
    let bytes = |values: Option<&arrow::array::BinaryArray>| match values {
        Some(values) => pick(Arc::new(BinaryViewArray::from(values))),
        None => Ok(new_null_array(&DataType::BinaryView, len)),
    };
    let values = match &raw.payload {
        Payload::Bytes(values) => Some(values),
        Payload::Rows(_) => None,
    };
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(UInt32Array::from_value(at, len)),
        Arc::new(UInt32Array::from_value(raw.partition, len)),
        pick(Arc::new(UInt64Array::new(raw.offsets.clone(), None)))?,
        Arc::new(UInt32Array::from(index)),
        pick(Arc::new(TimestampMillisecondArray::new(raw.timestamps.clone(), None)))?,
        bytes(raw.keys.as_ref())?,
        bytes(values)?,
    ];
    columns.extend(decoded.rows.columns().iter().cloned());
    Ok(RecordBatch::try_new(source.schema.clone(), columns)?)
}
