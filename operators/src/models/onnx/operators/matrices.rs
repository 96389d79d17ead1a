//! Products, norms, and probabilities.

use super::super::node::{Inputs, Kernel, Node};
use super::super::value::{Data, Dims, Done, Value, for_floats, for_numbers};
use super::functions::{Float, Number, Size};
use super::walk::{gathered, stretched, together, walk};

/// The largest number of multiplications of a product.
const WORK_MAX: usize = 1 << 34;

/// Refuses a product that nobody waits for.
fn bounded(size: Size, times: usize) -> Done {
    let work = [size.rows, size.inner, size.columns, times].into_iter().try_fold(1_usize, usize::checked_mul);
    match work {
        Some(work) if work <= WORK_MAX => Ok(()),
        _ => Err(format!("a product of {size:?} is too large")),
    }
}

/// The rows and columns of a matrix.
fn sides(value: &Value) -> Done<[usize; 2]> {
    <[usize; 2]>::try_from(&*value.dims).map_err(|_| format!("a matrix has two dimensions, and not {:?}", value.dims))
}

/// A matrix whose rows are the columns of another.
fn transposed(value: &Value) -> Done<Value> {
    let [rows, columns] = sides(value)?;
    let (dims, mut out) = (Dims::of(&[columns, rows])?, Value::default());
    let mut strides = value.dims.strides();
    strides.swap(0, 1);
    for_numbers!(value, T => {
        let to = out.shaped::<T>(dims);
        if !to.is_empty() {
            gathered(&dims, value.as_of::<T>()?, &strides, to);
        }
        Ok(())
    })?;
    Ok(out)
}

/// `alpha * left * right + beta * bias`.
pub(super) fn gemm(node: &Node<'_>) -> Done<Kernel> {
    let (alpha, beta) = (node.float("alpha", 1.0), node.float("beta", 1.0));
    let (turn_left, turn_right) = (node.int("transA", 0) != 0, node.int("transB", 0) != 0);
    // Weights are constant, and are turned once.
    let turned = node.constant(1).filter(|_| turn_right).map(transposed).transpose()?;
    Ok(Box::new(move |inputs, out| {
        let (left, right) = (inputs.get(0)?, inputs.get(1)?);
        let left_turned = if turn_left { Some(transposed(left)?) } else { None };
        let left = left_turned.as_ref().unwrap_or(left);
        let right_turned = if turn_right && turned.is_none() { Some(transposed(right)?) } else { None };
        let right = turned.as_ref().or(right_turned.as_ref()).unwrap_or(right);
        let ([rows, inner], [other, columns]) = (sides(left)?, sides(right)?);
        if inner != other {
            return Err(format!("{:?} times {:?} is nothing", left.dims, right.dims));
        }
        let (size, dims) = (Size { rows, inner, columns }, Dims::of(&[rows, columns])?);
        bounded(size, 1)?;
        for_numbers!(left, T => {
            let (left, right) = (left.as_of::<T>()?, right.as_of::<T>()?);
            let out = out[0].shaped::<T>(dims);
            let bias = inputs.maybe(2).map(|bias| Ok::<_, String>((bias, bias.as_of::<T>()?))).transpose()?;
            let is_plain = alpha == 1.0 && beta == 1.0;
            if let Some((bias, values)) = bias
                && is_plain
            {
                spread(bias, values, &dims, out)?;
            }
            T::product(left, right, out, size, is_plain && bias.is_some());
            if !is_plain {
                let (alpha, beta) = (T::of(alpha.into()), T::of(beta.into()));
                out.iter_mut().for_each(|out| *out = alpha.mul(*out));
                if let Some((bias, values)) = bias {
                    let mut added = vec![T::ZERO; out.len()];
                    spread(bias, values, &dims, &mut added)?;
                    out.iter_mut().zip(added).for_each(|(out, bias)| *out = out.add(beta.mul(bias)));
                }
            }
            Ok(())
        })
    }))
}

/// A bias for each element.
fn spread<T: Number>(bias: &Value, values: &[T], dims: &Dims, out: &mut [T]) -> Done {
    if together(&bias.dims, dims)? != *dims {
        return Err(format!("the bias is of {:?}, and the product of {dims:?}", bias.dims));
    }
    if values.len() == dims[1] && bias.dims.last() == Some(&dims[1]) {
        out.chunks_exact_mut(dims[1].max(1)).for_each(|out| out.copy_from_slice(values));
    } else if !out.is_empty() {
        gathered(dims, values, &stretched(&bias.dims, dims), out);
    }
    Ok(())
}

/// Products of the matrices that the last two dimensions are.
pub(super) fn matmul(_: &Node<'_>) -> Done<Kernel> {
    Ok(Box::new(|inputs, out| {
        let (left, right) = (inputs.get(0)?, inputs.get(1)?);
        let (Some((&inner, left_outer)), false) = (left.dims.split_last(), right.dims.is_empty()) else {
            return Err("a product is of matrices, and not of single numbers".to_owned());
        };
        let (left_is_row, right_is_column) = (left.dims.len() == 1, right.dims.len() == 1);
        let (right_outer, other, columns) = match &*right.dims {
            [other] => (&[][..], *other, 1),
            [outer @ .., other, columns] => (outer, *other, *columns),
            [] => unreachable!("it has just been looked at"),
        };
        if inner != other {
            return Err(format!("{:?} times {:?} is nothing", left.dims, right.dims));
        }
        let (left_outer, rows) = match left_outer {
            [outer @ .., rows] => (outer, *rows),
            [] => (&[][..], 1),
        };
        let (left_outer, right_outer) = (Dims::of(left_outer)?, Dims::of(right_outer)?);
        let outer = together(&left_outer, &right_outer)?;
        let mut lengths = outer.to_vec();
        lengths.extend((!left_is_row).then_some(rows));
        lengths.extend((!right_is_column).then_some(columns));
        let dims = Dims::of(&lengths)?;
        // One matrix for all on the right: the rows of all on the left together are one matrix, too.
        let (size, count) = if right_outer.is_empty() {
            (Size { rows: rows * left_outer.elements(), inner, columns }, 1)
        } else {
            (Size { rows, inner, columns }, outer.elements())
        };
        bounded(size, count)?;
        for_numbers!(left, T => {
            let (left, right) = (left.as_of::<T>()?, right.as_of::<T>()?);
            let out = out[0].shaped::<T>(dims);
            if right_outer.is_empty() {
                T::product(left, right, out, size, false);
                return Ok(());
            }
            let mut at = 0;
            walk(&outer, &[stretched(&left_outer, &outer), stretched(&right_outer, &outer)], |[one, other]| {
                let left = &left[one * rows * inner..][..rows * inner];
                let right = &right[other * inner * columns..][..inner * columns];
                T::product(left, right, &mut out[at..at + rows * columns], size, false);
                at += rows * columns;
            });
            Ok(())
        })
    }))
}

/// With the means and variances that were learned.
pub(super) fn batch_normalization(node: &Node<'_>) -> Done<Kernel> {
    if node.int("training_mode", 0) != 0 {
        return Err("it is exported for training; export it for inference".to_owned());
    }
    let epsilon = node.float("epsilon", 1e-5);
    Ok(Box::new(move |inputs, out| {
        let input = inputs.get(0)?;
        if input.dims.len() < 2 {
            return Err(format!("it takes rows of channels, and not {:?}", input.dims));
        }
        let (_, channels, inner) = input.dims.around(1);
        for_floats!(input, T => {
            let learned = |at: usize| -> Done<&[T]> {
                let values = inputs.get(at)?.as_of::<T>()?;
                if values.len() == channels { Ok(values) } else { Err(format!("it has not {channels} numbers for each channel")) }
            };
            let (scale, shift, means, variances) = (learned(1)?, learned(2)?, learned(3)?, learned(4)?);
            let values = input.as_of::<T>()?;
            let out = out[0].shaped::<T>(input.dims);
            let epsilon = T::of(epsilon.into());
            for channel in 0..channels {
                let factor = scale[channel].div(variances[channel].add(epsilon).root());
                let (mean, shift) = (means[channel], shift[channel]);
                let each = values.chunks_exact(inner.max(1)).zip(out.chunks_exact_mut(inner.max(1)));
                for (values, out) in each.skip(channel).step_by(channels) {
                    out.iter_mut().zip(values).for_each(|(out, x)| *out = x.sub(mean).mul(factor).add(shift));
                }
            }
            Ok(())
        })
    }))
}

/// Each row in deviations from its mean.
pub(super) fn layer_normalization(node: &Node<'_>) -> Done<Kernel> {
    let (axis, epsilon) = (node.int("axis", -1), node.float("epsilon", 1e-5));
    if node.proto.output.len() > 1 {
        return Err("its means and deviations are asked for, which are for training".to_owned());
    }
    Ok(Box::new(move |inputs, out| {
        let input = inputs.get(0)?;
        let axis = input.dims.axis(axis)?;
        let width: usize = input.dims[axis..].iter().product();
        for_floats!(input, T => {
            let scale = inputs.get(1)?.as_of::<T>()?;
            let shift = inputs.maybe(2).map(Value::as_of::<T>).transpose()?;
            if scale.len() != width || shift.is_some_and(|shift| shift.len() != width) {
                return Err(format!("it has not {width} factors"));
            }
            let values = input.as_of::<T>()?;
            let out = out[0].shaped::<T>(input.dims);
            let (count, epsilon) = (T::of(width as f64), T::of(epsilon.into()));
            for (values, out) in values.chunks_exact(width.max(1)).zip(out.chunks_exact_mut(width.max(1))) {
                let mean = values.iter().fold(T::ZERO, |sum, x| sum.add(*x)).div(count);
                let square = |x: T| x.sub(mean).mul(x.sub(mean));
                let variance = values.iter().fold(T::ZERO, |sum, x| sum.add(square(*x))).div(count);
                let factor = T::ONE.div(variance.add(epsilon).root());
                for (at, (out, x)) in out.iter_mut().zip(values).enumerate() {
                    let scaled = x.sub(mean).mul(factor).mul(scale[at]);
                    *out = shift.map_or(scaled, |shift| scaled.add(shift[at]));
                }
            }
            Ok(())
        })
    }))
}

pub(super) fn softmax(node: &Node<'_>) -> Done<Kernel> {
    probabilities(node, false)
}

pub(super) fn log_softmax(node: &Node<'_>) -> Done<Kernel> {
    probabilities(node, true)
}

/// Along an axis; before version 13, over all from an axis on.
fn probabilities(node: &Node<'_>, as_logarithm: bool) -> Done<Kernel> {
    let is_flat = node.version < 13;
    let axis = node.int("axis", if is_flat { 1 } else { -1 });
    Ok(Box::new(move |inputs: &Inputs<'_>, out: &mut [Value]| {
        let input = inputs.get(0)?;
        let axis = input.dims.axis(axis)?;
        let (outer, mut width, mut inner) = input.dims.around(axis);
        if is_flat {
            (width, inner) = (width * inner, 1);
        }
        for_floats!(input, T => {
            let values = input.as_of::<T>()?;
            let out = out[0].shaped::<T>(input.dims);
            for start in (0..outer).flat_map(|at| at * width * inner..at * width * inner + inner) {
                softly(values, out, (start, width, inner), as_logarithm);
            }
            Ok(())
        })
    }))
}

/// Makes probabilities of some numbers, from `start` on, `width` of them that are `stride` apart.
pub(in super::super) fn softly<T: Float>(
    values: &[T],
    out: &mut [T],
    (start, width, stride): (usize, usize, usize),
    as_logarithm: bool,
) {
    let places = || (0..width).map(|at| start + at * stride);
    let most = places().fold(T::LEAST, |most, at| most.larger(values[at]));
    let mut sum = T::ZERO;
    for at in places() {
        out[at] = values[at].sub(most).exponential();
        sum = sum.add(out[at]);
    }
    let logarithm = sum.logarithm();
    for at in places() {
        out[at] = if as_logarithm { values[at].sub(most).sub(logarithm) } else { out[at].div(sum) };
    }
}
