//! Means of the values before, in place of missing ones.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Float64Array, RecordBatch};
use arrow::datatypes::SchemaRef;
use millstream_engine::Result;
use millstream_engine::batch::with_columns;
use millstream_engine::operator::{Keyed, Rejects};
use millstream_engine::state::States;

use super::super::channels::{Channels, LANES, Lanes, groups};
use super::Filled;

/// Of a group of columns: how many values there were, then their sums.
const KEPT: usize = 2 * LANES;

pub(super) struct Means {
    pub(super) columns: Vec<usize>,
    pub(super) by: Vec<usize>,
    pub(super) schema: SchemaRef,
}

impl Keyed for Means {
    type State = ();

    fn key(&self, _: usize) -> &[usize] {
        &self.by
    }

    fn numbers(&self) -> usize {
        KEPT * groups(self.columns.len())
    }

    fn apply(
        &self,
        _: usize,
        rows: &RecordBatch,
        states: &mut States<'_, ()>,
        rejects: &mut Rejects,
    ) -> Result<Option<RecordBatch>> {
        let inputs = Channels::of(rows, &self.columns)?;
        let mut outputs: Vec<_> =
            (0..inputs.len()).map(|at| inputs.nulls(at).map(|nulls| Filled::new(inputs.values(at), nulls))).collect();
        for row in 0..rows.num_rows() {
            states.numbers(row, |known| {
                let (known, _) = known.as_chunks_mut::<KEPT>();
                if inputs.is_whole(row) {
                    known.iter_mut().zip(inputs.groups(row)).for_each(|(known, values)| learn(known, values, |_| true));
                    return;
                }
                for (group, (known, values)) in known.iter_mut().zip(inputs.groups(row)).enumerate() {
                    let valid = inputs.valid(group, row);
                    fill(known, &mut outputs[LANES * group..], row, valid);
                    learn(known, values, |lane| valid[lane]);
                }
            });
        }
        let filled = outputs.into_iter().enumerate().map(|(at, output)| {
            let column = output.map_or_else(|| Float64Array::new(inputs.values(at).clone(), None), Filled::finish);
            let missing = inputs.nulls(at).map_or(0, arrow::buffer::NullBuffer::null_count);
            rejects.repaired(missing - column.null_count());
            Arc::new(column) as ArrayRef
        });
        let names = self.columns.iter().map(|&at| self.schema.field(at).name().as_str());
        Ok(Some(with_columns(&self.schema, rows, names.zip(filled).collect())?))
    }

    fn expired(&self, (): &(), _: i64) -> bool {
        false
    }
}

/// Takes a row's values in. One so large that the sum cannot be represented is left out, since it would make the mean
/// useless for ever.
#[inline]
fn learn(known: &mut [f64; KEPT], values: Lanes, is_valid: impl Fn(usize) -> bool) {
    let (counts, sums) = known.split_at_mut(LANES);
    for (lane, value) in values.into_iter().enumerate() {
        let sum = sums[lane] + value;
        let counts_too = is_valid(lane) & (sum.abs() < f64::INFINITY);
        counts[lane] += if counts_too { 1.0 } else { 0.0 };
        sums[lane] = if counts_too { sum } else { sums[lane] };
    }
}

/// Fills in the means of what is missing in a row.
#[cold]
fn fill(known: &[f64; KEPT], outputs: &mut [Option<Filled>], row: usize, valid: [bool; LANES]) {
    let (counts, sums) = known.split_at(LANES);
    for (lane, output) in outputs.iter_mut().take(LANES).enumerate() {
        if let Some(output) = output.as_mut().filter(|_| !valid[lane] && counts[lane] > 0.0) {
            output.fill(row, sums[lane] / counts[lane]);
        }
    }
}
