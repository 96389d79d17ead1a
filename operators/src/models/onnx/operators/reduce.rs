//! Operators that make one of many, along some axes.

use super::super::node::{Inputs, Kernel, Node};
use super::super::value::{Data, Dims, Done, RANK_MAX, Value, for_floats, for_numbers};
use super::Build;
use super::functions::{Float, Number};
use super::walk::walk;

/// What becomes of the numbers along the axes.
#[derive(Clone, Copy)]
enum Fold {
    Sum,
    Mean,
    Max,
    Min,
    Product,
    Absolute,
    Euclid,
    Squares,
    Logarithm,
    LogSumExp,
}

pub(super) fn find(name: &str) -> Option<Build> {
    Some(match name {
        "ReduceSum" => |node| reduce(node, Fold::Sum, 13),
        "ReduceMean" => |node| reduce(node, Fold::Mean, 18),
        "ReduceMax" => |node| reduce(node, Fold::Max, 18),
        "ReduceMin" => |node| reduce(node, Fold::Min, 18),
        "ReduceProd" => |node| reduce(node, Fold::Product, 18),
        "ReduceL1" => |node| reduce(node, Fold::Absolute, 18),
        "ReduceL2" => |node| reduce(node, Fold::Euclid, 18),
        "ReduceSumSquare" => |node| reduce(node, Fold::Squares, 18),
        "ReduceLogSum" => |node| reduce(node, Fold::Logarithm, 18),
        "ReduceLogSumExp" => |node| reduce(node, Fold::LogSumExp, 18),
        _ => return None,
    })
}

/// Which axes are folded.
fn folded(dims: &Dims, axes: Option<&[i64]>, leaves_empty: bool) -> Done<[bool; RANK_MAX]> {
    let mut folded = [false; RANK_MAX];
    match axes {
        Some(axes) if !axes.is_empty() => {
            for axis in axes {
                folded[dims.axis(*axis)?] = true;
            }
        }
        _ => folded[..dims.len()].fill(!leaves_empty),
    }
    Ok(folded)
}

/// Before a version the axes are a setting, from then on an input.
fn reduce(node: &Node<'_>, fold: Fold, version: i64) -> Done<Kernel> {
    let listed = if node.version < version { node.listed("axes") } else { None };
    let (keeps, leaves_empty) = (node.int("keepdims", 1) != 0, node.int("noop_with_empty_axes", 0) != 0);
    Ok(Box::new(move |inputs, out| {
        let input = inputs.get(0)?;
        let axes = match inputs.maybe(1) {
            Some(axes) => Some(axes.integers()?),
            None => listed.as_deref(),
        };
        let folded = folded(&input.dims, axes, leaves_empty)?;
        let rank = input.dims.len();
        let lengths: Vec<usize> = (0..rank).map(|at| if folded[at] { 1 } else { input.dims[at] }).collect();
        let kept = Dims::of(&lengths)?;
        let left: Vec<usize> = (0..rank).filter(|at| !folded[*at]).map(|at| input.dims[at]).collect();
        let dims = if keeps { kept } else { Dims::of(&left)? };
        let strides = kept.strides();
        let strides = std::array::from_fn(|at| if folded[at] { 0 } else { strides[at] });
        let count = input.dims.elements() / dims.elements().max(1);
        if let Fold::LogSumExp | Fold::Euclid | Fold::Logarithm | Fold::Mean = fold {
            return for_floats!(input, T => {
                let (values, out) = (input.as_of::<T>()?, out[0].shaped::<T>(dims));
                let along = Along { lengths: &input.dims, strides, values };
                match fold {
                    Fold::Mean => {
                        along.fold(out, T::ZERO, Number::add);
                        out.iter_mut().for_each(|sum| *sum = sum.div(T::of(count as f64)));
                    }
                    Fold::Euclid => {
                        along.fold(out, T::ZERO, |sum, x| sum.add(x.mul(x)));
                        out.iter_mut().for_each(|sum| *sum = sum.root());
                    }
                    Fold::Logarithm => {
                        along.fold(out, T::ZERO, Number::add);
                        out.iter_mut().for_each(|sum| *sum = sum.logarithm());
                    }
                    _ => along.log_sum_exp(out),
                }
                Ok(())
            });
        }
        for_numbers!(input, T => {
            let (values, out) = (input.as_of::<T>()?, out[0].shaped::<T>(dims));
            let along = Along { lengths: &input.dims, strides, values };
            match fold {
                Fold::Max => along.fold(out, T::LEAST, Number::larger),
                Fold::Min => along.fold(out, T::MOST, Number::smaller),
                Fold::Product => along.fold(out, T::ONE, Number::mul),
                Fold::Absolute => along.fold(out, T::ZERO, |sum, x| sum.add(x.magnitude())),
                Fold::Squares => along.fold(out, T::ZERO, |sum, x| sum.add(x.mul(x))),
                _ => along.fold(out, T::ZERO, Number::add),
            }
            Ok(())
        })
    }))
}

/// Numbers, and where each of them goes.
struct Along<'a, T> {
    lengths: &'a [usize],
    strides: [usize; RANK_MAX],
    values: &'a [T],
}

impl<T: Number> Along<'_, T> {
    /// In the order in which they lie.
    fn fold(&self, out: &mut [T], first: T, function: impl Fn(T, T) -> T) {
        out.fill(first);
        let Some((&width, outer)) = self.lengths.split_last() else {
            return out.iter_mut().zip(self.values).for_each(|(out, x)| *out = function(*out, *x));
        };
        let (stride, mut at) = (self.strides[outer.len()], 0);
        walk(outer, &[self.strides], |[to]| {
            let values = &self.values[at..at + width];
            at += width;
            if stride == 0 {
                out[to] = values.iter().fold(out[to], |sum, x| function(sum, *x));
            } else {
                out[to..].iter_mut().zip(values).for_each(|(out, x)| *out = function(*out, *x));
            }
        });
    }
}

impl<T: Float> Along<'_, T> {
    fn log_sum_exp(&self, out: &mut [T]) {
        self.fold(out, T::LEAST, Number::larger);
        let most = out.to_vec();
        out.fill(T::ZERO);
        let mut at = 0;
        walk(self.lengths, &[self.strides], |[to]| {
            out[to] = out[to].add(self.values[at].sub(most[to]).exponential());
            at += 1;
        });
        out.iter_mut().zip(most).for_each(|(sum, most)| *sum = sum.logarithm().add(most));
    }
}

pub(super) fn arg_max(node: &Node<'_>) -> Done<Kernel> {
    extreme(node, true)
}

pub(super) fn arg_min(node: &Node<'_>) -> Done<Kernel> {
    extreme(node, false)
}

/// Where along an axis the largest or the smallest number is, of equal ones the first or the last.
fn extreme(node: &Node<'_>, of_largest: bool) -> Done<Kernel> {
    let (axis, keeps) = (node.int("axis", 0), node.int("keepdims", 1) != 0);
    let takes_last = node.int("select_last_index", 0) != 0;
    Ok(Box::new(move |inputs, out| {
        let input = inputs.get(0)?;
        let axis = input.dims.axis(axis)?;
        let (outer, width, inner) = input.dims.around(axis);
        if width == 0 {
            return Err("there is no largest of nothing".to_owned());
        }
        let mut lengths = input.dims.to_vec();
        if keeps {
            lengths[axis] = 1;
        } else {
            lengths.remove(axis);
        }
        let dims = Dims::of(&lengths)?;
        for_numbers!(input, T => {
            let values = input.as_of::<T>()?;
            let out = out[0].shaped::<i64>(dims);
            for (at, out) in out.iter_mut().enumerate().take(outer * inner) {
                let start = at / inner * width * inner + at % inner;
                let mut best = 0;
                for place in 1..width {
                    let (x, y) = (values[start + place * inner], values[start + best * inner]);
                    let is_better = if of_largest { x > y } else { x < y };
                    if is_better || (takes_last && x == y) {
                        best = place;
                    }
                }
                *out = best as i64;
            }
            Ok(())
        })
    }))
}

/// The largest or the smallest so many along an axis, and where they were; of equal ones the first.
pub(super) fn top_k(node: &Node<'_>) -> Done<Kernel> {
    let (axis, of_largest) = (node.int("axis", -1), node.int("largest", 1) != 0);
    let setting = node.maybe_int("k");
    Ok(Box::new(move |inputs, out| {
        let input = inputs.get(0)?;
        let axis = input.dims.axis(axis)?;
        let count = match setting {
            Some(count) => count,
            None => inputs.get(1)?.integer()?,
        };
        let (outer, width, inner) = input.dims.around(axis);
        let count = usize::try_from(count).ok().filter(|count| *count <= width);
        let count = count.ok_or_else(|| format!("it takes more than the {width} that there are"))?;
        let dims = input.dims.with(axis, count)?;
        let [taken, places] = out else { return Err("it gives two outputs".to_owned()) };
        for_numbers!(input, T => {
            let values = input.as_of::<T>()?;
            let (taken, places) = (taken.shaped::<T>(dims), places.shaped::<i64>(dims));
            let mut order: Vec<usize> = Vec::with_capacity(width);
            for at in 0..outer * inner {
                let start = at / inner * width * inner + at % inner;
                let value = |place: &usize| values[start + place * inner];
                order.clear();
                order.extend(0..width);
                let compare = |a: &usize, b: &usize| {
                    let (x, y) = if of_largest { (value(b), value(a)) } else { (value(a), value(b)) };
                    x.wide().total_cmp(&y.wide()).then(a.cmp(b))
                };
                if count < width && count > 0 {
                    order.select_nth_unstable_by(count - 1, compare);
                    order.truncate(count);
                }
                order.truncate(count);
                order.sort_unstable_by(compare);
                let start = at / inner * count * inner + at % inner;
                for (rank, place) in order.iter().enumerate() {
                    let value = values[at / inner * width * inner + at % inner + place * inner];
                    (taken[start + rank * inner], places[start + rank * inner]) = (value, *place as i64);
                }
            }
            Ok(())
        })
    }))
}

/// Sums so far along an axis.
pub(super) fn cumulative_sum(node: &Node<'_>) -> Done<Kernel> {
    let (excludes, is_reverse) = (node.int("exclusive", 0) != 0, node.int("reverse", 0) != 0);
    Ok(Box::new(move |inputs: &Inputs<'_>, out: &mut [Value]| {
        let input = inputs.get(0)?;
        let axis = input.dims.axis(inputs.get(1)?.integer()?)?;
        let (outer, width, inner) = input.dims.around(axis);
        for_numbers!(input, T => {
            let values = input.as_of::<T>()?;
            let out = out[0].shaped::<T>(input.dims);
            for at in 0..outer * inner {
                let start = at / inner * width * inner + at % inner;
                let mut sum = T::ZERO;
                for step in 0..width {
                    let place = start + inner * if is_reverse { width - 1 - step } else { step };
                    let next = sum.add(values[place]);
                    out[place] = if excludes { sum } else { next };
                    sum = next;
                }
            }
            Ok(())
        })
    }))
}
