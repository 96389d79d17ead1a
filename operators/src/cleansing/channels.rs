//! Columns of numbers that are looked at row by row, four at a time, so that the processor works on several at once.

use arrow::array::{Array, Float64Array, RecordBatch};
use arrow::buffer::{BooleanBuffer, NullBuffer, ScalarBuffer};
use millstream_engine::Result;

use super::columns::numbers;

/// So many columns are worked on at once.
pub(super) const LANES: usize = 4;
/// A value of each of them.
pub(super) type Lanes = [f64; LANES];

/// How many groups these columns make.
pub(super) fn groups(columns: usize) -> usize {
    columns.div_ceil(LANES)
}

/// Columns of numbers in groups. The last group is filled up with its last column, and what comes of that is not used.
pub(super) struct Channels {
    columns: Vec<[ScalarBuffer<f64>; LANES]>,
    nulls: Vec<Option<NullBuffer>>,
    /// For each row, whether it misses anything; empty where no row does.
    gaps: Vec<bool>,
}

impl Channels {
    /// The numbers of some of a batch's columns.
    pub(super) fn of(rows: &RecordBatch, columns: &[usize]) -> Result<Self> {
        let columns = columns.iter().map(|&at| numbers(rows.column(at))).collect::<Result<Vec<_>>>()?;
        Ok(Self::new(columns))
    }

    /// At least one column; all of one length.
    pub(super) fn new(columns: Vec<Float64Array>) -> Self {
        let nulls: Vec<_> =
            columns.iter().map(|column| column.nulls().filter(|nulls| nulls.null_count() > 0).cloned()).collect();
        let gaps = gaps(&nulls, columns[0].len());
        let values: Vec<_> = columns.into_iter().map(|column| column.into_parts().1).collect();
        let group = |group: &[ScalarBuffer<f64>]| std::array::from_fn(|at| group[at.min(group.len() - 1)].clone());
        Self { columns: values.chunks(LANES).map(group).collect(), nulls, gaps }
    }

    /// How many columns there are.
    pub(super) fn len(&self) -> usize {
        self.nulls.len()
    }

    /// Whether a row has a value in each column.
    #[inline]
    pub(super) fn is_whole(&self, row: usize) -> bool {
        self.gaps.get(row).is_none_or(|gap| !gap)
    }

    /// A row's values by group; what is missing is anything.
    #[inline]
    pub(super) fn groups(&self, row: usize) -> impl Iterator<Item = Lanes> {
        self.columns.iter().map(move |[a, b, c, d]| [a[row], b[row], c[row], d[row]])
    }

    /// Which of a row's values in a group are there.
    pub(super) fn valid(&self, group: usize, row: usize) -> [bool; LANES] {
        std::array::from_fn(|lane| self.is_valid((LANES * group + lane).min(self.nulls.len() - 1), row))
    }

    /// Whether a value is there.
    #[inline]
    pub(super) fn is_valid(&self, column: usize, row: usize) -> bool {
        self.nulls[column].as_ref().is_none_or(|nulls| nulls.is_valid(row))
    }

    /// Which values of a column are there; `None` where all are.
    pub(super) fn nulls(&self, column: usize) -> Option<&NullBuffer> {
        self.nulls[column].as_ref()
    }

    /// A column's values.
    pub(super) fn values(&self, column: usize) -> &ScalarBuffer<f64> {
        &self.columns[column / LANES][column % LANES]
    }
}

fn gaps(nulls: &[Option<NullBuffer>], rows: usize) -> Vec<bool> {
    let all_valid = nulls.iter().all(Option::is_none);
    let mut gaps = vec![false; if all_valid { 0 } else { rows }];
    for nulls in nulls.iter().flatten() {
        let missing: BooleanBuffer = !nulls.inner();
        missing.set_indices().for_each(|row| gaps[row] = true);
    }
    gaps
}

/// A column in the making for each of some columns, filled by groups.
pub(super) struct Outputs(Vec<Vec<f64>>);

impl Outputs {
    pub(super) fn new(columns: usize, rows: usize) -> Self {
        Self(vec![vec![0.0; rows]; groups(columns) * LANES])
    }

    #[inline]
    pub(super) fn set(&mut self, group: usize, row: usize, values: Lanes) {
        for (column, value) in self.0[LANES * group..LANES * (group + 1)].iter_mut().zip(values) {
            column[row] = value;
        }
    }

    /// The columns, of which there are as many as inputs and what fills up the last group.
    pub(super) fn finish(self) -> impl Iterator<Item = Vec<f64>> {
        self.0.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::ArrayRef;

    use super::*;

    #[test]
    fn columns_stand_in_groups() {
        let column = |first: f64, missing: Option<usize>| -> ArrayRef {
            let value = |row: usize| (missing != Some(row)).then_some(first + row as f64);
            Arc::new((0..3).map(value).collect::<Float64Array>())
        };
        let names = ["a", "b", "c", "d", "e", "f"];
        let columns: Vec<_> = names
            .iter()
            .zip(0..)
            .map(|(name, at)| (*name, column(10.0 * f64::from(at), (at == 4).then_some(1))))
            .collect();
        let rows = RecordBatch::try_from_iter(columns).unwrap();
        let channels = Channels::of(&rows, &[0, 1, 2, 3, 4, 5]).unwrap();
        assert_eq!(channels.groups(2).collect::<Vec<_>>(), [[2.0, 12.0, 22.0, 32.0], [42.0, 52.0, 52.0, 52.0]]);
        assert_eq!([0, 1, 2].map(|row| channels.is_whole(row)), [true, false, true]);
        assert_eq!((channels.valid(0, 1), channels.valid(1, 1)), ([true; 4], [false, true, true, true]));
        assert!(channels.nulls(3).is_none() && channels.nulls(4).is_some() && channels.values(5)[1] == 51.0);
        // Also cut out of a larger batch.
        let channels = Channels::of(&rows.slice(1, 2), &[4]).unwrap();
        assert_eq!(
            [0, 1].map(|row| (channels.is_whole(row), channels.is_valid(0, row))),
            [(false, false), (true, true)]
        );
    }
}
