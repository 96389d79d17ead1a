//! Conditions that only ask whether numbers lie in ranges, as `temperature between -40 and 60 and humidity > 1`: all of them at
//! once, without a column in between.

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer};
use arrow::datatypes::Float64Type;
use datafusion_common::ScalarValue;
use datafusion_expr::Operator;
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions::{BinaryExpr, Column, Literal};

/// The column of floats, and its least and greatest value.
#[derive(Clone, Copy, Debug)]
struct Range {
    column: usize,
    least: f64,
    greatest: f64,
}

/// Ranges that must all hold.
#[derive(Clone, Debug)]
pub(super) struct Ranges(Vec<Range>);

impl Ranges {
    /// What a condition asks, if that is all it asks.
    pub(super) fn of(condition: &dyn PhysicalExpr) -> Option<Self> {
        let mut ranges = Vec::new();
        collect(condition, &mut ranges)?;
        Some(Self(ranges))
    }

    /// The condition for each row. `None` where values are not numbers: SQL has an order for these, too.
    pub(super) fn test(&self, rows: &RecordBatch) -> Option<BooleanArray> {
        let words = rows.num_rows().div_ceil(WORD);
        let (mut outside, mut missing) = (vec![0_u64; words], Vec::new());
        for range in &self.0 {
            let column = rows.column(range.column).as_primitive_opt::<Float64Type>()?;
            let nulls = column.nulls().filter(|nulls| nulls.null_count() > 0);
            for (word, (outside, values)) in outside.iter_mut().zip(column.values().chunks(WORD)).enumerate() {
                if is_any_outside(values, range) {
                    *outside |= which_are_outside(values, range, nulls, word * WORD)?;
                }
            }
            if let Some(nulls) = nulls {
                missing.resize(words, 0_u64);
                let valid = nulls.inner().bit_chunks();
                missing.iter_mut().zip(valid.iter_padded()).for_each(|(missing, valid)| *missing |= !valid);
            }
        }
        // What is null is neither, unless another range fails.
        let held = |word: usize| !outside[word] & !missing.get(word).copied().unwrap_or(0);
        let held = Buffer::from_vec((0..words).map(held).collect::<Vec<u64>>());
        let nulls = (!missing.is_empty()).then(|| {
            let known: Vec<u64> = missing.iter().zip(&outside).map(|(missing, outside)| !missing | outside).collect();
            NullBuffer::new(BooleanBuffer::new(Buffer::from_vec(known), 0, rows.num_rows()))
        });
        let nulls = nulls.filter(|nulls| nulls.null_count() > 0);
        Some(BooleanArray::new(BooleanBuffer::new(held, 0, rows.num_rows()), nulls))
    }
}

/// Bits of a word.
const WORD: usize = 64;

/// Whether any value is outside, or no number.
#[inline]
fn is_any_outside(values: &[f64], range: &Range) -> bool {
    let is_inside = |value: &f64| (*value >= range.least) & (*value <= range.greatest);
    !values.iter().fold(true, |all, value| all & is_inside(value))
}

/// The bits of those that are outside; `None` where one is not a number.
#[cold]
fn which_are_outside(values: &[f64], range: &Range, nulls: Option<&NullBuffer>, first: usize) -> Option<u64> {
    let mut outside = 0;
    for (at, value) in values.iter().enumerate() {
        if nulls.is_some_and(|nulls| nulls.is_null(first + at)) {
            continue;
        }
        if value.is_nan() {
            return None;
        }
        outside |= u64::from(!(range.least..=range.greatest).contains(value)) << at;
    }
    Some(outside)
}

/// The ranges of a condition; `None` where it asks more.
fn collect(condition: &dyn PhysicalExpr, ranges: &mut Vec<Range>) -> Option<()> {
    let binary = condition.downcast_ref::<BinaryExpr>()?;
    if *binary.op() == Operator::And {
        collect(binary.left().as_ref(), ranges)?;
        return collect(binary.right().as_ref(), ranges);
    }
    let (left, right) = (binary.left(), binary.right());
    let (column, bound, operator) = match left.downcast_ref::<Column>() {
        Some(column) => (column, right.downcast_ref::<Literal>()?, *binary.op()),
        None => (right.downcast_ref::<Column>()?, left.downcast_ref::<Literal>()?, binary.op().swap()?),
    };
    let column = column.index();
    let ScalarValue::Float64(Some(bound)) = bound.value() else { return None };
    // There are two zeros, and what is less than one of them is a matter of taste that is not decided here.
    if !bound.is_finite() || *bound == 0.0 {
        return None;
    }
    let (least, greatest) = match operator {
        Operator::GtEq => (*bound, f64::INFINITY),
        Operator::Gt => (bound.next_up(), f64::INFINITY),
        Operator::LtEq => (f64::NEG_INFINITY, *bound),
        Operator::Lt => (f64::NEG_INFINITY, bound.next_down()),
        _ => return None,
    };
    match ranges.iter_mut().find(|range| range.column == column) {
        Some(range) => {
            range.least = range.least.max(least);
            range.greatest = range.greatest.min(greatest);
        }
        None => ranges.push(Range { column, least, greatest }),
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use millstream_engine::operator::Rejects;

    use super::super::Expression;
    use crate::cleansing::example_schema;
    use crate::cleansing::harness::{Random, random_rows, table};

    /// With and without ranges, the outcome is the same: also for what is null, infinite, or no number.
    #[test]
    fn agrees_with_the_condition() {
        let strange = table(
            &example_schema(),
            "t temperature
             1 null
             2 NaN
             3 inf
             4 -inf
             5 20
             6 20.5
             7 0
             8 -0.0
             9 21",
        );
        let rows = [strange.clone(), strange.slice(0, 1), strange.slice(2, 7), random_rows(&mut Random::new(5), 300)];
        let rows = rows.iter().chain(std::iter::once(&rows[3].slice(7, 250))).cloned().collect::<Vec<_>>();
        for sql in [
            "temperature between -40 and 20",
            "temperature > 20 and temperature < 21 and temperature >= 1.5",
            "temperature <= 20",
            "temperature > 0",
            "20 < temperature",
        ] {
            let ranged = Expression::predicate(sql, &example_schema(), "x").unwrap();
            assert_eq!(ranged.ranges.is_some(), !sql.contains("> 0"), "{sql}");
            let plain = Expression { ranges: None, ..ranged.clone() };
            for rows in &rows {
                let mut rejects = Rejects::default();
                let [found, expected] = [&ranged, &plain].map(|by| by.test(rows, &mut rejects).unwrap());
                assert_eq!(found.iter().collect::<Vec<_>>(), expected.iter().collect::<Vec<_>>(), "{sql}");
            }
        }
    }
}
