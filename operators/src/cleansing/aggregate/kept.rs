//! What a window keeps of its rows' values.

use arrow::array::RecordBatch;
use millstream_engine::Result;
use millstream_engine::operator::Order;
use serde::{Deserialize, Serialize};

use super::super::channels::{Channels, LANES, Lanes, groups};
use super::super::functions::{Accumulator, Function, Values};

/// The values of a batch.
pub(super) enum Input {
    Sums(Channels),
    Any(Values),
}

impl Input {
    /// With `sums`, all functions [are sums](Function::is_sum).
    pub(super) fn of(functions: &[Function], sums: bool, rows: &RecordBatch) -> Result<Self> {
        let values = Values::of(functions, rows)?;
        Ok(if sums { Self::Sums(Channels::new(values.numbers(rows.num_rows()))) } else { Self::Any(values) })
    }
}

/// Of a group of functions that are sums: how many values there were, their sums, and what rounding has taken from these
/// (Neumaier, ZAMM 54, 1974).
const KEPT: usize = 3 * LANES;

/// What a window's functions have seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Kept {
    /// By group.
    Sums(Vec<f64>),
    /// By function.
    Any(Vec<Accumulator>),
}

impl Kept {
    /// Nothing.
    pub(super) fn start(functions: &[Function], sums: bool, removes: bool) -> Self {
        if sums {
            return Self::Sums(vec![0.0; KEPT * groups(functions.len())]);
        }
        Self::Any(functions.iter().map(|function| function.start(removes)).collect())
    }

    /// See [`millstream_engine::operator::Relational::touch`].
    pub(super) fn touch(&self) -> u64 {
        match self {
            Self::Sums(sums) => sums.first().map_or(0, |sum| sum.to_bits()),
            Self::Any(_) => 0,
        }
    }

    /// Takes a row in (`diff` 1), or takes it back (-1), which sums cannot.
    #[inline]
    pub(super) fn change(&mut self, input: &Input, row: usize, diff: i64, order: Order) {
        match (self, input) {
            (Self::Sums(sums), Input::Sums(channels)) => {
                let (sums, _) = sums.as_chunks_mut::<KEPT>();
                if channels.is_whole(row) {
                    sums.iter_mut().zip(channels.groups(row)).for_each(|(sums, values)| add(sums, values, |_| true));
                    return;
                }
                for (group, (sums, values)) in sums.iter_mut().zip(channels.groups(row)).enumerate() {
                    let valid = channels.valid(group, row);
                    add(sums, values, |lane| valid[lane]);
                }
            }
            (Self::Any(kept), Input::Any(values)) => {
                for (function, kept) in kept.iter_mut().enumerate() {
                    let value = values.get(function, row);
                    if diff > 0 { kept.add(value, order) } else { kept.remove(value) }
                }
            }
            _ => {}
        }
    }

    /// Takes in what another, whose rows come later, has seen.
    pub(super) fn merge(&mut self, other: &Self) {
        match (self, other) {
            (Self::Sums(sums), Self::Sums(others)) => {
                for (sums, others) in sums.as_chunks_mut::<KEPT>().0.iter_mut().zip(others.as_chunks::<KEPT>().0) {
                    merge(sums, others);
                }
            }
            (Self::Any(kept), Self::Any(others)) => {
                kept.iter_mut().zip(others).for_each(|(kept, other)| kept.merge(other));
            }
            _ => {}
        }
    }

    /// The results of these functions.
    pub(super) fn results(&self, functions: &[Function], results: &mut Vec<Option<f64>>) {
        results.clear();
        match self {
            Self::Any(kept) => results.extend(functions.iter().zip(kept).map(|(function, kept)| function.result(kept))),
            Self::Sums(sums) => results.extend(functions.iter().enumerate().map(|(at, function)| {
                let of = |part: usize| sums[KEPT * (at / LANES) + LANES * part + at % LANES];
                function.result_of_sum(of(0), of(1), of(2))
            })),
        }
    }
}

#[inline]
fn add(kept: &mut [f64; KEPT], values: Lanes, is_valid: impl Fn(usize) -> bool) {
    let ([counts, sums, rests], _) = kept.as_chunks_mut::<LANES>() else { unreachable!("three groups") };
    for (lane, value) in values.into_iter().enumerate() {
        let next = sums[lane] + value;
        let lost = lost(sums[lane], value, next);
        counts[lane] += if is_valid(lane) { 1.0 } else { 0.0 };
        rests[lane] += if is_valid(lane) { lost } else { 0.0 };
        sums[lane] = if is_valid(lane) { next } else { sums[lane] };
    }
}

fn merge(kept: &mut [f64; KEPT], others: &[f64; KEPT]) {
    let ([counts, sums, rests], _) = kept.as_chunks_mut::<LANES>() else { unreachable!("three groups") };
    let ([more, other_sums, other_rests], _) = others.as_chunks::<LANES>() else { unreachable!("three groups") };
    for lane in 0..LANES {
        let next = sums[lane] + other_sums[lane];
        rests[lane] += lost(sums[lane], other_sums[lane], next) + other_rests[lane];
        (counts[lane], sums[lane]) = (counts[lane] + more[lane], next);
    }
}

/// What rounding has taken from a sum of two.
#[inline]
fn lost(a: f64, b: f64, sum: f64) -> f64 {
    let (large, small) = if a.abs() >= b.abs() { (a, b) } else { (b, a) };
    (large - sum) + small
}
