//! Functions of many values to one: what `aggregate` and `rolling` compute, and how a definition writes it: `mean(temperature)`.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Float64Array, Int64Array, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, SchemaRef, TimeUnit};
use arrow::row::{RowConverter, Rows, SortField};
use millstream_engine::Result;
use millstream_engine::catalogue::{Problem, Problems, column};
use millstream_engine::operator::Order;
use millstream_engine::state::hash;
use serde::{Deserialize, Serialize};

use super::columns::not_reserved;
use super::exact::{Exact, ExactMoments};
use super::moments::Moments;
use crate::sketch::{Distinct, Quantiles};

/// How a definition names them, for documentation and for problems.
pub(super) const NAMES: [&str; 11] =
    ["count", "sum", "mean", "variance", "deviation", "min", "max", "first", "last", "quantile", "distinct"];

/// What is computed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum What {
    Count,
    Sum,
    Mean,
    Variance,
    Deviation,
    Min,
    Max,
    First,
    Last,
    Quantile(f64),
    Distinct,
}

/// A function in its place.
#[derive(Clone, Debug)]
pub(super) struct Function {
    what: What,
    /// The column that it reads; `count()` counts rows.
    column: Option<usize>,
    /// Whether that holds whole numbers.
    is_whole: bool,
    /// The field of its result.
    pub(super) field: Field,
}

/// The functions that a configuration names, as `{NAME: "mean(temperature)"}`; what is wrong with them goes to `problems`.
pub(super) fn functions(
    schema: &SchemaRef,
    problems: &mut Problems,
    columns: &BTreeMap<String, String>,
) -> Vec<Function> {
    if columns.is_empty() {
        problems.push(Problem::new("columns", "empty-list", "at least one column is needed here"));
    }
    let function = |(name, text): (&String, &String)| {
        let path = format!("columns.{name}");
        problems.take(not_reserved(&path, name))?;
        problems.take(function(schema, &path, name, text))
    };
    columns.iter().filter_map(function).collect()
}

/// One function, as `mean(temperature)`; its result is called `name`.
pub(super) fn function(schema: &SchemaRef, path: &str, name: &str, text: &str) -> Result<Function, Problem> {
    let unreadable = || {
        Problem::new(path, "bad-function", format!("`{text}` is no function of a column"))
            .help("write it like `mean(temperature)`, `count()` or `quantile(temperature, 0.95)`")
    };
    let (called, rest) = text.trim().split_once('(').ok_or_else(unreadable)?;
    let arguments = rest.strip_suffix(')').ok_or_else(unreadable)?;
    let arguments: Vec<&str> = arguments.split(',').map(str::trim).filter(|argument| !argument.is_empty()).collect();
    let share = |text: &str| text.parse().ok().filter(|share| (0.0..=1.0).contains(share)).ok_or_else(unreadable);
    let (what, of) = match (called.trim(), arguments.as_slice()) {
        ("count", []) => (What::Count, None),
        ("count", [of]) => (What::Count, Some(*of)),
        ("sum", [of]) => (What::Sum, Some(*of)),
        ("mean", [of]) => (What::Mean, Some(*of)),
        ("variance", [of]) => (What::Variance, Some(*of)),
        ("deviation", [of]) => (What::Deviation, Some(*of)),
        ("min", [of]) => (What::Min, Some(*of)),
        ("max", [of]) => (What::Max, Some(*of)),
        ("first", [of]) => (What::First, Some(*of)),
        ("last", [of]) => (What::Last, Some(*of)),
        ("distinct", [of]) => (What::Distinct, Some(*of)),
        ("quantile", [of, at]) => (What::Quantile(share(at)?), Some(*of)),
        (called, _) if NAMES.contains(&called) => return Err(unreadable()),
        (called, _) => {
            let message = format!("there is no function `{called}`");
            return Err(Problem::new(path, "unknown-function", message).choices(called, NAMES));
        }
    };
    let column = of.map(|of| column(schema, path, of)).transpose()?;
    let kind = column.map_or(&DataType::Int64, |at| schema.field(at).data_type());
    if !matches!(what, What::Count | What::Distinct) && !is_measured(kind) {
        let message = format!("`{}` does not hold numbers, but {kind}", of.unwrap_or_default());
        return Err(Problem::new(path, "wrong-type", message).help("only `count` and `distinct` take any type"));
    }
    let is_whole = *kind == DataType::Int64;
    Ok(Function { what, column, is_whole, field: Field::new(name, what.result(kind), true) })
}

/// Numbers, and times, which are numbers of milliseconds.
fn is_measured(kind: &DataType) -> bool {
    matches!(kind, DataType::Int64 | DataType::Float64 | DataType::Timestamp(TimeUnit::Millisecond, None))
}

impl What {
    fn result(self, kind: &DataType) -> DataType {
        match self {
            Self::Count | Self::Distinct => DataType::Int64,
            Self::Mean | Self::Variance | Self::Deviation | Self::Quantile(_) => DataType::Float64,
            Self::Sum | Self::Min | Self::Max | Self::First | Self::Last => kind.clone(),
        }
    }
}

impl Function {
    /// Nothing seen. With `removes`, what was added can be taken back exactly, which costs more time and memory.
    pub(super) fn start(&self, removes: bool) -> Accumulator {
        match (self.what, removes) {
            (What::Count, _) => Accumulator::Count(0),
            (What::Sum | What::Mean, _) if self.is_whole => Accumulator::Whole(0, 0),
            (What::Sum | What::Mean, false) => Accumulator::Sum(0, 0.0, 0.0),
            (What::Sum | What::Mean, true) => Accumulator::ExactSum(0, Exact::default()),
            (What::Variance | What::Deviation, true) => Accumulator::ExactMoments(ExactMoments::default()),
            (What::Variance | What::Deviation, false) => Accumulator::Moments(Moments::default()),
            (What::Min | What::Max, false) => Accumulator::Extremes(None),
            (What::Min | What::Max, true) => Accumulator::Sorted(BTreeMap::new()),
            (What::First | What::Last, false) => Accumulator::Ends(None),
            (What::First | What::Last, true) => Accumulator::Ordered(BTreeMap::new()),
            (What::Quantile(_), _) => Accumulator::Quantiles(Quantiles::default()),
            (What::Distinct, _) => Accumulator::Distinct(Distinct::default()),
        }
    }

    /// Whether it needs only how many values there were and their sum.
    pub(super) fn is_sum(&self) -> bool {
        self.what == What::Count || matches!(self.what, What::Sum | What::Mean) && !self.is_whole
    }

    /// The result of that; the sum is in two parts.
    pub(super) fn result_of_sum(&self, count: f64, sum: f64, rest: f64) -> Option<f64> {
        let count = count as i64;
        self.result(&match self.what {
            What::Count => Accumulator::Count(count),
            _ => Accumulator::Sum(count, sum, rest),
        })
    }

    /// The result so far; `None` where it has none.
    pub(super) fn result(&self, of: &Accumulator) -> Option<f64> {
        match (self.what, of) {
            (_, Accumulator::Count(count)) => Some(*count as f64),
            (What::Mean, Accumulator::Sum(count, sum, rest)) => (*count > 0).then(|| (sum + rest) / *count as f64),
            (_, Accumulator::Sum(count, sum, rest)) => (*count > 0).then_some(sum + rest),
            (What::Mean, Accumulator::ExactSum(count, sum)) => (*count > 0).then(|| sum.value() / *count as f64),
            (_, Accumulator::ExactSum(count, sum)) => (*count > 0).then(|| sum.value()),
            (What::Mean, Accumulator::Whole(count, sum)) => (*count > 0).then(|| *sum as f64 / *count as f64),
            (_, Accumulator::Whole(count, sum)) => (*count > 0).then_some(*sum as f64),
            (What::Deviation, Accumulator::ExactMoments(moments)) => moments.variance().map(f64::sqrt),
            (_, Accumulator::ExactMoments(moments)) => moments.variance(),
            (What::Deviation, Accumulator::Moments(moments)) => moments.variance().map(f64::sqrt),
            (_, Accumulator::Moments(moments)) => moments.variance(),
            (What::Min, Accumulator::Extremes(extremes)) => extremes.map(|(min, _)| min),
            (_, Accumulator::Extremes(extremes)) => extremes.map(|(_, max)| max),
            (What::Min, Accumulator::Sorted(values)) => values.keys().next().map(|value| from_sortable(*value)),
            (_, Accumulator::Sorted(values)) => values.keys().next_back().map(|value| from_sortable(*value)),
            (What::First, Accumulator::Ends(ends)) => ends.map(|(first, _)| first),
            (_, Accumulator::Ends(ends)) => ends.map(|(_, last)| last),
            (What::First, Accumulator::Ordered(values)) => values.values().next().map(|values| values[0]),
            (_, Accumulator::Ordered(values)) => values.values().next_back().and_then(|values| values.last().copied()),
            (What::Quantile(share), Accumulator::Quantiles(values)) => values.quantile(share),
            (_, Accumulator::Quantiles(_)) => None,
            (_, Accumulator::Distinct(values)) => Some(values.estimate().round()),
        }
    }
}

/// What a function keeps of the values that it has seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Accumulator {
    Count(i64),
    /// Count, sum, and what rounding has taken from it (Neumaier, ZAMM 54, 1974).
    Sum(i64, f64, f64),
    ExactSum(i64, Exact),
    /// Count and sum of whole numbers.
    Whole(i64, i128),
    Moments(Moments),
    ExactMoments(ExactMoments),
    /// Least and greatest.
    Extremes(Option<(f64, f64)>),
    /// How often there is each value, by [`sortable`].
    Sorted(BTreeMap<i64, u32>),
    /// First and last.
    Ends(Option<(f64, f64)>),
    /// By their places.
    Ordered(BTreeMap<i64, Vec<f64>>),
    Quantiles(Quantiles),
    Distinct(Distinct),
}

impl Accumulator {
    /// Takes a value in, at its place in the canonical order.
    #[inline]
    pub(super) fn add(&mut self, value: Value, order: Order) {
        if let (Self::Sum(..) | Self::Moments(_), Value::Number(value)) = (&*self, value) {
            return self.add_number(value, order);
        }
        self.add_any(value, order);
    }

    fn add_any(&mut self, value: Value, order: Order) {
        match (self, value) {
            (_, Value::Null) => {}
            (Self::Count(count), _) => *count += 1,
            (Self::Distinct(values), Value::Hash(hash)) => values.add(hash),
            (kept, Value::Number(value)) => kept.add_number(value, order),
            _ => {}
        }
    }

    #[inline]
    fn add_number(&mut self, value: f64, (time, _): Order) {
        match self {
            Self::Sum(count, sum, rest) => {
                let next = *sum + value;
                *rest += if sum.abs() >= value.abs() { (*sum - next) + value } else { (value - next) + *sum };
                (*count, *sum) = (*count + 1, next);
            }
            Self::ExactSum(count, sum) => {
                *count += 1;
                sum.add(value);
            }
            Self::Whole(count, sum) => {
                *count += 1;
                *sum += value as i128;
            }
            Self::Moments(moments) => moments.push(value),
            Self::ExactMoments(moments) => moments.add(value),
            Self::Extremes(extremes) => {
                *extremes = Some(extremes.map_or((value, value), |(min, max)| (min.min(value), max.max(value))));
            }
            Self::Sorted(values) => *values.entry(sortable(value)).or_default() += 1,
            Self::Ends(ends) => *ends = Some(ends.map_or((value, value), |(first, _)| (first, value))),
            Self::Ordered(values) => values.entry(time).or_default().push(value),
            Self::Quantiles(values) => values.add(value),
            Self::Count(_) | Self::Distinct(_) => {}
        }
    }

    /// Takes back a value that was added; for one that was started so that it can.
    pub(super) fn remove(&mut self, value: Value) {
        match (self, value) {
            (_, Value::Null) => {}
            (Self::Count(count), _) => *count -= 1,
            (Self::Distinct(values), Value::Hash(hash)) => values.remove(hash),
            (Self::ExactSum(count, sum), Value::Number(value)) => {
                *count -= 1;
                sum.remove(value);
            }
            (Self::Whole(count, sum), Value::Number(value)) => {
                *count -= 1;
                *sum -= value as i128;
            }
            (Self::ExactMoments(moments), Value::Number(value)) => moments.remove(value),
            (Self::Sorted(values), Value::Number(value)) => {
                let value = sortable(value);
                let left = values.get(&value).map_or(0, |count| count - 1);
                if left == 0 {
                    values.remove(&value)
                } else {
                    values.insert(value, left)
                };
            }
            (Self::Quantiles(values), Value::Number(value)) => values.remove(value),
            (Self::Ordered(values), Value::Number(value)) => {
                let bits = value.to_bits();
                let holding = values.iter().find(|(_, some)| some.iter().any(|other| other.to_bits() == bits));
                let Some(time) = holding.map(|(time, _)| *time) else { return };
                let some = values.get_mut(&time).expect("it was found");
                some.remove(some.iter().position(|other| other.to_bits() == bits).expect("it was found"));
                if some.is_empty() {
                    values.remove(&time);
                }
            }
            _ => {}
        }
    }

    /// Takes in what another of the same function, whose values come later, has seen.
    pub(super) fn merge(&mut self, other: &Self) {
        match (self, other) {
            (Self::Count(count), Self::Count(more)) => *count += more,
            (Self::Sum(count, sum, rest), Self::Sum(more, other, other_rest)) => {
                let next = *sum + other;
                *rest += if sum.abs() >= other.abs() { (*sum - next) + other } else { (other - next) + *sum };
                *rest += other_rest;
                (*count, *sum) = (*count + more, next);
            }
            (Self::ExactSum(count, sum), Self::ExactSum(more, other)) => {
                *count += more;
                sum.merge(other);
            }
            (Self::Whole(count, sum), Self::Whole(more, other)) => {
                *count += more;
                *sum += other;
            }
            (Self::Moments(moments), Self::Moments(other)) => moments.merge(other),
            (Self::ExactMoments(moments), Self::ExactMoments(other)) => moments.merge(other),
            (Self::Extremes(extremes), Self::Extremes(Some((min, max)))) => {
                *extremes = Some(extremes.map_or((*min, *max), |(a, b)| (a.min(*min), b.max(*max))));
            }
            (Self::Ends(ends), Self::Ends(Some((first, last)))) => {
                *ends = Some(ends.map_or((*first, *last), |(earlier, _)| (earlier, *last)));
            }
            (Self::Sorted(values), Self::Sorted(other)) => {
                for (value, count) in other {
                    *values.entry(*value).or_default() += count;
                }
            }
            (Self::Ordered(values), Self::Ordered(other)) => {
                for (time, some) in other {
                    values.entry(*time).or_default().extend(some);
                }
            }
            (Self::Quantiles(values), Self::Quantiles(other)) => values.merge(other),
            (Self::Distinct(values), Self::Distinct(other)) => values.merge(other),
            _ => {}
        }
    }
}

/// A float as a whole number of the same order.
fn sortable(value: f64) -> i64 {
    let bits = (value + 0.0).to_bits() as i64;
    bits ^ (((bits >> 63) as u64) >> 1) as i64
}

fn from_sortable(value: i64) -> f64 {
    f64::from_bits((value ^ (((value >> 63) as u64) >> 1) as i64) as u64)
}

/// A value as functions take it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Value {
    /// Null: it counts for nothing.
    Null,
    /// Something that is only counted.
    Any,
    Number(f64),
    Hash(u64),
}

/// The values of a batch, by function.
pub(super) struct Values {
    columns: Vec<Column>,
}

enum Column {
    /// Of `count()`, every row.
    Rows,
    Numbers(Float64Array),
    Present(ArrayRef),
    Hashed(ArrayRef, Rows),
}

impl Values {
    pub(super) fn of(functions: &[Function], rows: &RecordBatch) -> Result<Self> {
        let column = |function: &Function| {
            let Some(at) = function.column else { return Ok(Column::Rows) };
            let column = rows.column(at);
            Ok(match function.what {
                What::Count => Column::Present(column.clone()),
                What::Distinct => {
                    let converter = RowConverter::new(vec![SortField::new(column.data_type().clone())])?;
                    Column::Hashed(column.clone(), converter.convert_columns(std::slice::from_ref(column))?)
                }
                _ => Column::Numbers(measured(column)?),
            })
        };
        Ok(Self { columns: functions.iter().map(column).collect::<Result<_>>()? })
    }

    /// The same as numbers, for functions that are sums. What is only counted is zero.
    pub(super) fn numbers(self, rows: usize) -> Vec<Float64Array> {
        let numbers = |column| match column {
            Column::Numbers(values) => values,
            Column::Present(values) => Float64Array::new(vec![0.0; rows].into(), values.logical_nulls()),
            Column::Rows | Column::Hashed(..) => Float64Array::new(vec![0.0; rows].into(), None),
        };
        self.columns.into_iter().map(numbers).collect()
    }

    #[inline]
    pub(super) fn get(&self, function: usize, row: usize) -> Value {
        match &self.columns[function] {
            Column::Rows => Value::Any,
            Column::Numbers(values) if values.is_valid(row) => Value::Number(values.value(row)),
            Column::Present(values) if values.is_valid(row) => Value::Any,
            Column::Hashed(values, keys) if values.is_valid(row) => Value::Hash(hash(keys.row(row).data())),
            _ => Value::Null,
        }
    }
}

/// Numbers and times as floats; what is not finite is null.
fn measured(column: &ArrayRef) -> Result<Float64Array> {
    match column.data_type() {
        DataType::Timestamp(..) => super::columns::numbers(&cast(column, &DataType::Int64)?),
        _ => super::columns::numbers(column),
    }
}

/// Results as a column of their function's type.
pub(super) fn column_of(function: &Function, results: Vec<Option<f64>>) -> Result<ArrayRef> {
    let floats = Float64Array::from(results);
    Ok(match function.field.data_type() {
        DataType::Float64 => Arc::new(floats),
        kind => {
            let whole: Int64Array = floats.iter().map(|value| value.map(|v| v as i64)).collect();
            cast(&whole, kind)?
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_keep_their_order_as_whole_numbers() {
        let values = [f64::MIN, -1.5, -f64::MIN_POSITIVE, -5e-324, 0.0, 5e-324, 1.0, 1.5, f64::MAX];
        assert!(values.map(sortable).is_sorted());
        assert_eq!(values.map(sortable).map(from_sortable).map(f64::to_bits), values.map(f64::to_bits));
        assert_eq!(sortable(-0.0), sortable(0.0));
    }
}
