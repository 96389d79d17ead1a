//! The canonical order of rows, and how rows come into it at little cost.
//!
//! Rows mostly come in order but for a few that were delayed. So those few are taken out, sorted, and merged again with the
//! others, which are in order already: what is in order costs one look, not its share of a sort.

use std::ops::RangeBounds;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanBufferBuilder, PrimitiveArray, RecordBatch, UInt32Array,
    new_null_array,
};
use arrow::buffer::NullBuffer;
use arrow::compute::{concat_batches, interleave, take};
use arrow::datatypes::{
    DataType, Float64Type, Int64Type, SchemaRef, TimeUnit, TimestampMillisecondType, UInt32Type, UInt64Type,
};

use crate::Result;
use crate::batch::{INDEX, KEY, Meta, PARTITION, SOURCE, Share, TIME};
use crate::binding::Watermark;

/// All rows of `batches` as one batch in canonical order (event time, then origin); rows of one origin stay as they are.
pub fn canonical(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<RecordBatch> {
    let order = match batches {
        [] => return Ok(RecordBatch::new_empty(schema.clone())),
        [one] if is_canonical(&Meta::of(one)) => return Ok(one.clone()),
        _ => Order::of(batches),
    };
    Ok(order.gather(batches, ..)?.unwrap_or_else(|| RecordBatch::new_empty(schema.clone())))
}

/// The same of shares of batches.
pub(crate) fn canonical_of(schema: &SchemaRef, shares: &[Share]) -> Result<RecordBatch> {
    let batches: Vec<RecordBatch> = shares.iter().map(|share| share.batch.rows.clone()).collect();
    if shares.iter().all(|share| share.picked.is_none()) {
        return canonical(schema, &batches);
    }
    let order = Order::new(
        shares.iter().map(|share| (&share.batch.rows, share.picked.as_ref().map(|picked| &**picked.values()))),
    );
    Ok(order.gather(&batches, ..)?.unwrap_or_else(|| RecordBatch::new_empty(schema.clone())))
}

fn is_canonical(meta: &Meta<'_>) -> bool {
    let time = meta.time;
    (1..time.len()).all(|row| time[row - 1] < time[row] || meta.order(row - 1) <= meta.order(row))
}

/// A row: its time, its batch and its place there.
type Place = (i64, u32, u32);

/// The rows that come in order, each at or after all of these before it; and the others.
struct Split {
    rows: Vec<Place>,
    late: Vec<Place>,
    newest: i64,
}

impl Split {
    fn with_capacity(rows: usize) -> Self {
        Self { rows: Vec::with_capacity(rows), late: Vec::new(), newest: i64::MIN }
    }
}

/// The canonical order of all rows of some batches.
pub(crate) struct Order<'a> {
    metas: Vec<Meta<'a>>,
    rows: Vec<Place>,
}

impl<'a> Order<'a> {
    pub(crate) fn of(parts: &'a [RecordBatch]) -> Self {
        Self::new(parts.iter().map(|part| (part, None)))
    }

    /// Of some rows of each batch, or of all.
    fn new(parts: impl Iterator<Item = (&'a RecordBatch, Option<&'a [u32]>)> + Clone) -> Self {
        let mut order = Self { metas: parts.clone().map(|(rows, _)| Meta::of(rows)).collect(), rows: Vec::new() };
        let len = |(rows, picked): (&RecordBatch, Option<&[u32]>)| picked.map_or(rows.num_rows(), <[u32]>::len);
        let mut split = Split::with_capacity(parts.clone().map(len).sum());
        for (part, (rows, picked)) in (0..).zip(parts) {
            match picked {
                Some(picked) => order.split(part, picked.iter().copied(), &mut split),
                None => order.split(part, 0..rows.num_rows() as u32, &mut split),
            }
        }
        let Split { rows, mut late, .. } = split;
        // Stable, and quick where there is some order already.
        late.sort_by(|a, b| order.compare(a, b));
        order.rows = if late.is_empty() { rows } else { order.merged(&rows, &late) };
        order
    }

    /// Tells the rows that come in order from the others.
    fn split(&self, part: u32, rows: impl Iterator<Item = u32>, split: &mut Split) {
        let meta = &self.metas[part as usize];
        for row in rows {
            let time = meta.time[row as usize];
            let place = (time, part, row);
            let is_late = time < split.newest
                || time == split.newest && split.rows.last().is_some_and(|last| self.compare(last, &place).is_gt());
            if is_late {
                split.late.push(place);
            } else {
                split.newest = time;
                split.rows.push(place);
            }
        }
    }

    /// Two sorted sequences as one. Of equals, those of `rows` come first, as they do in the batches.
    fn merged(&self, mut rows: &[Place], late: &[Place]) -> Vec<Place> {
        let mut merged = Vec::with_capacity(rows.len() + late.len());
        for place in late {
            // Mostly the next late one is not far: look in steps that double.
            let mut end = 1;
            while rows.get(end - 1).is_some_and(|row| self.compare(row, place).is_le()) {
                end *= 2;
            }
            let near = &rows[..end.min(rows.len())];
            let (before, after) = rows.split_at(near.partition_point(|row| self.compare(row, place).is_le()));
            merged.extend_from_slice(before);
            merged.push(*place);
            rows = after;
        }
        merged.extend_from_slice(rows);
        merged
    }

    #[inline]
    fn compare(&self, a: &Place, b: &Place) -> std::cmp::Ordering {
        let origin = |place: &Place| self.metas[place.1 as usize].origin(place.2 as usize);
        a.0.cmp(&b.0).then_with(|| origin(a).cmp(&origin(b)))
    }

    /// How many rows are before the watermark.
    pub(crate) fn before(&self, watermark: Watermark) -> usize {
        self.rows.partition_point(|(_, part, row)| self.metas[*part as usize].order(*row as usize) < watermark)
    }

    /// Some of the rows as one batch; `None` where there are none. Each value is copied once at most.
    pub(crate) fn gather(&self, parts: &[RecordBatch], range: impl RangeBounds<usize>) -> Result<Option<RecordBatch>> {
        let rows = &self.rows[(range.start_bound().cloned(), range.end_bound().cloned())];
        let Some((_, first, _)) = rows.first() else { return Ok(None) };
        let schema = parts[*first as usize].schema();
        let follows = |a: &Place, b: &Place| a.1 == b.1 && a.2 + 1 == b.2;
        let run = |run: &[Place]| Run { part: run[0].1 as usize, start: run[0].2 as usize, len: run.len() };
        let runs: Vec<Run> = rows.chunk_by(follows).map(run).collect();
        if runs.len() <= parts.len() {
            // Hardly any row is out of order.
            let mut slices = runs.iter().map(|run| parts[run.part].slice(run.start, run.len));
            return Ok(match (runs.len(), slices.next()) {
                (1, one) => one,
                (_, one) => Some(concat_batches(&schema, &one.into_iter().chain(slices).collect::<Vec<_>>())?),
            });
        }
        let are_long = rows.len() > LONG * runs.len();
        if let ([part], false) = (parts, are_long) {
            return taken(part, &rows.iter().map(|(_, _, row)| *row).collect::<Vec<_>>().into()).map(Some);
        }
        let places: Vec<(usize, usize)> = rows.iter().map(|(_, part, row)| (*part as usize, *row as usize)).collect();
        let by_runs = |parts: &[&dyn Array]| if are_long { numbers(parts, &runs, rows.len()) } else { None };
        let picked = pick(&schema, parts, rows.len(), |parts| match by_runs(parts) {
            Some(column) => Ok(column),
            None => Ok(interleave(parts, &places)?),
        });
        picked.map(Some)
    }
}

/// Numbers are copied run by run where runs have more rows than these.
const LONG: usize = 3;

/// Rows that lie side by side in one part.
struct Run {
    part: usize,
    start: usize,
    len: usize,
}

/// Picks the same `len` rows from each column, of which the parts have some each. Columns of which it is known what comes of
/// them are made anew, or shared.
pub(crate) fn pick(
    schema: &SchemaRef,
    parts: &[RecordBatch],
    len: usize,
    pick: impl Fn(&[&dyn Array]) -> Result<ArrayRef>,
) -> Result<RecordBatch> {
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(schema.fields().len());
    for at in 0..schema.fields().len() {
        let of_parts: Vec<&dyn Array> = parts.iter().map(|part| part.column(at).as_ref()).collect();
        let column = match plain(at, &of_parts, len) {
            Some(column) => column,
            // The column that says a record's time mostly is the row's time.
            None if at > TIME && parts.iter().all(|part| is_same(part.column(at), part.column(TIME))) => {
                columns[TIME].clone()
            }
            None => pick(&of_parts)?,
        };
        columns.push(column);
    }
    Ok(RecordBatch::try_new(schema.clone(), columns)?)
}

/// Numbers of parts, run by run: most rows are near those before them. `None` for other types.
fn numbers(parts: &[&dyn Array], runs: &[Run], len: usize) -> Option<ArrayRef> {
    fn of<T: ArrowPrimitiveType>(parts: &[&dyn Array], runs: &[Run], len: usize) -> Option<ArrayRef> {
        let parts: Vec<&PrimitiveArray<T>> = parts.iter().map(|part| part.as_primitive_opt()).collect::<Option<_>>()?;
        let mut values = Vec::with_capacity(len);
        for run in runs {
            values.extend_from_slice(&parts[run.part].values()[run.start..run.start + run.len]);
        }
        let nulls = parts.iter().any(|part| part.null_count() > 0).then(|| {
            let mut valid = BooleanBufferBuilder::new(len);
            for run in runs {
                match parts[run.part].nulls() {
                    Some(nulls) => {
                        let start = nulls.offset() + run.start;
                        valid.append_packed_range(start..start + run.len, nulls.validity());
                    }
                    None => valid.append_n(run.len, true),
                }
            }
            NullBuffer::new(valid.finish())
        });
        let column = PrimitiveArray::<T>::new(values.into(), nulls.filter(|nulls| nulls.null_count() > 0));
        Some(Arc::new(column.with_data_type(parts[0].data_type().clone())))
    }
    match parts[0].data_type() {
        DataType::Float64 => of::<Float64Type>(parts, runs, len),
        DataType::Int64 => of::<Int64Type>(parts, runs, len),
        DataType::UInt64 => of::<UInt64Type>(parts, runs, len),
        DataType::UInt32 => of::<UInt32Type>(parts, runs, len),
        DataType::Timestamp(TimeUnit::Millisecond, _) => of::<TimestampMillisecondType>(parts, runs, len),
        _ => None,
    }
}

/// One of the engine's columns, where all its values are alike: nothing is to be picked from it.
fn plain(at: usize, parts: &[&dyn Array], len: usize) -> Option<ArrayRef> {
    match at {
        SOURCE | PARTITION | INDEX => {
            let mut values = parts.iter().filter(|part| !part.is_empty()).map(|part| uniform(*part));
            let first = values.next()??;
            let is_uniform = values.all(|value| value == Some(first));
            is_uniform.then(|| Arc::new(UInt32Array::from_value(first, len)) as ArrayRef)
        }
        KEY => {
            let is_null = parts.iter().all(|part| part.null_count() == part.len());
            is_null.then(|| new_null_array(parts[0].data_type(), len))
        }
        _ => None,
    }
}

/// Some rows of a batch.
pub(crate) fn taken(rows: &RecordBatch, picked: &UInt32Array) -> Result<RecordBatch> {
    let column = |columns: &[&dyn Array]| Ok(take(columns[0], picked, None)?);
    pick(rows.schema_ref(), std::slice::from_ref(rows), picked.len(), column)
}

/// The value that all of a column have.
fn uniform(values: &dyn Array) -> Option<u32> {
    let values = values.as_primitive::<UInt32Type>().values();
    let first = *values.first()?;
    // Without a way out, so that the compiler compares several at once.
    values.iter().fold(true, |all, value| all & (*value == first)).then_some(first)
}

/// Whether two columns are one: see [`crate::sequence::Stamp`].
fn is_same(column: &ArrayRef, time: &ArrayRef) -> bool {
    let (Some(column), Some(time)) =
        (column.as_primitive_opt::<TimestampMillisecondType>(), time.as_primitive_opt::<TimestampMillisecondType>())
    else {
        return false;
    };
    column.data_type() == time.data_type()
        && column.null_count() == 0
        && column.values().inner().ptr_eq(time.values().inner())
}

#[cfg(test)]
mod tests {
    use arrow::array::{BinaryViewArray, Float64Array, TimestampMillisecondArray, UInt64Array};
    use arrow::datatypes::{Field, Schema};
    use proptest::prelude::*;

    use super::*;
    use crate::batch::{Batch, Lane, OFFSET, schema_of};

    /// Rows of these times, partitions and offsets; one column is that of the time, and in another some are missing.
    fn rows(origins: &[(i64, u32, u64)]) -> RecordBatch {
        let times = TimestampMillisecondArray::from_iter_values(origins.iter().map(|row| row.0));
        let fields = [
            Field::new("at", DataType::Timestamp(TimeUnit::Millisecond, None), true),
            Field::new("some", DataType::Float64, true),
        ];
        let some = |row: &(i64, u32, u64)| (!row.2.is_multiple_of(3)).then_some(row.2 as f64);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(UInt32Array::from_value(0, origins.len())),
            Arc::new(UInt32Array::from_iter_values(origins.iter().map(|row| row.1))),
            Arc::new(UInt64Array::from_iter_values(origins.iter().map(|row| row.2))),
            Arc::new(UInt32Array::from_value(0, origins.len())),
            Arc::new(times.clone()),
            Arc::new(BinaryViewArray::new_null(origins.len())),
            Arc::new(origins.iter().map(|row| Some(row.2.to_string())).collect::<BinaryViewArray>()),
            Arc::new(times),
            Arc::new(origins.iter().map(some).collect::<Float64Array>()),
        ];
        RecordBatch::try_new(schema_of(&Schema::new(fields.to_vec())), columns).expect("columns of the schema")
    }

    proptest! {
        #[test]
        fn the_order_is_that_of_a_sort(
            delays in prop::collection::vec((prop_oneof![8 => Just(0_i64), 1 => 0..50_i64, 1 => -900..1_i64], 0..3_u32), 0..300),
            cut in 1_usize..100,
            // Some rows alone, or many side by side.
            picks in prop_oneof![prop::collection::vec(any::<bool>(), 1..20), Just((0..40).map(|at| at > 9).collect())],
        ) {
            let row = |(at, (delay, partition)): (usize, &(i64, u32))| (at as i64 / 2 - delay, *partition, at as u64 / 3);
            let all: Vec<(i64, u32, u64)> = delays.iter().enumerate().map(row).collect();
            let parts: Vec<RecordBatch> = all.chunks(cut).map(rows).collect();
            let mut sorted = all.clone();
            sorted.sort_unstable();
            let found = canonical(rows(&[]).schema_ref(), &parts).expect("one schema");
            prop_assert_eq!(&found, &rows(&sorted));
            prop_assert_eq!(&canonical(found.schema_ref(), &[rows(&all)]).expect("one schema"), &found);
            let order = Order::of(&parts);
            let middle = all.len() / 2;
            let halves = [order.gather(&parts, ..middle), order.gather(&parts, middle..)];
            let halves = halves.map(|half| half.expect("one schema").map_or(0, |half| half.num_rows()));
            prop_assert_eq!(halves, [middle, all.len() - middle]);
            let share = |(part, rows): (usize, &RecordBatch)| {
                let picked = (0..rows.num_rows()).filter(|row| picks[(part * cut + row) % picks.len()]);
                let picked = (part % 5 > 0).then(|| picked.map(|row| row as u32).collect());
                Share::new(&Batch::new(Lane::Learn, rows.clone()), picked, 0)
            };
            let shares: Vec<Share> = parts.iter().enumerate().map(share).collect();
            let is_picked = |at: &usize| (at / cut).is_multiple_of(5) || picks[at % picks.len()];
            let mut picked: Vec<_> = (0..all.len()).filter(is_picked).map(|at| all[at]).collect();
            picked.sort_unstable();
            prop_assert_eq!(canonical_of(found.schema_ref(), &shares).expect("one schema"), rows(&picked));
            prop_assert_eq!(found.column(OFFSET).len(), all.len());
        }
    }
}
