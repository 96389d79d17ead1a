//! Ways through arrays, and how shapes fit together.

use super::super::value::{Dims, Done, RANK_MAX};

/// Strides in memory, zero where the same is used again.
pub(super) type Strides = [usize; RANK_MAX];

/// Goes through all places of a shape in order, with where each of some arrays is there.
#[inline]
pub(super) fn walk<const N: usize>(lengths: &[usize], strides: &[Strides; N], mut each: impl FnMut([usize; N])) {
    if lengths.contains(&0) {
        return;
    }
    let (mut places, mut offsets) = ([0; RANK_MAX], [0; N]);
    loop {
        each(offsets);
        let mut axis = lengths.len();
        loop {
            if axis == 0 {
                return;
            }
            axis -= 1;
            places[axis] += 1;
            for (offset, strides) in offsets.iter_mut().zip(strides) {
                *offset += strides[axis];
            }
            if places[axis] < lengths[axis] {
                break;
            }
            for (offset, strides) in offsets.iter_mut().zip(strides) {
                *offset -= strides[axis] * lengths[axis];
            }
            places[axis] = 0;
        }
    }
}

/// The shape of what two shapes are together: lengths of 1 are stretched.
pub(super) fn together(left: &Dims, right: &Dims) -> Done<Dims> {
    if left == right {
        return Ok(*left);
    }
    let (long, short) = if left.len() >= right.len() { (left, right) } else { (right, left) };
    let mut lengths = [0; RANK_MAX];
    let more = long.len() - short.len();
    for (at, length) in long.iter().enumerate() {
        let other = at.checked_sub(more).map_or(1, |at| short[at]);
        lengths[at] = match (*length, other) {
            (same, other) if same == other => same,
            (1, other) => other,
            (length, 1) => length,
            _ => return Err(format!("the shapes {left:?} and {right:?} do not fit together")),
        };
    }
    Dims::of(&lengths[..long.len()])
}

/// The strides of an array that is stretched to a shape.
pub(super) fn stretched(from: &Dims, to: &Dims) -> Strides {
    let (own, more) = (from.strides(), to.len() - from.len());
    std::array::from_fn(|at| match at.checked_sub(more) {
        Some(at) if at < from.len() && from[at] != 1 => own[at],
        _ => 0,
    })
}

/// An array with the shape that it has.
pub(super) type Shaped<'a, T> = (&'a Dims, &'a [T]);

/// What a function makes of each pair of elements.
#[inline]
pub(super) fn pairs<A, B, C>(
    (left_dims, left): Shaped<'_, A>,
    (right_dims, right): Shaped<'_, B>,
    (dims, out): (&Dims, &mut [C]),
    function: impl Fn(&A, &B) -> C,
) {
    if left_dims == right_dims {
        return out.iter_mut().zip(left.iter().zip(right)).for_each(|(out, (a, b))| *out = function(a, b));
    }
    if let ([b], true) = (right, left.len() == out.len()) {
        return out.iter_mut().zip(left).for_each(|(out, a)| *out = function(a, b));
    }
    if let ([a], true) = (left, right.len() == out.len()) {
        return out.iter_mut().zip(right).for_each(|(out, b)| *out = function(a, b));
    }
    let Some((&width, outer)) = dims.split_last() else { return };
    let strides = [dims.strides(), stretched(left_dims, dims), stretched(right_dims, dims)];
    let [_, left_stride, right_stride] = strides.map(|strides| strides[outer.len()]);
    walk(outer, &strides, |[at, a, b]| {
        let out = &mut out[at..at + width];
        match (left_stride, right_stride) {
            (0, 0) => out.fill_with(|| function(&left[a], &right[b])),
            (0, _) => out.iter_mut().zip(&right[b..]).for_each(|(out, b)| *out = function(&left[a], b)),
            (_, 0) => out.iter_mut().zip(&left[a..]).for_each(|(out, a)| *out = function(a, &right[b])),
            _ => out.iter_mut().zip(left[a..].iter().zip(&right[b..])).for_each(|(out, (a, b))| *out = function(a, b)),
        }
    });
}

/// Copies elements from places that are some strides apart.
pub(super) fn gathered<T: Clone>(dims: &Dims, from: &[T], strides: &Strides, out: &mut [T]) {
    let Some((&width, outer)) = dims.split_last() else { return out.clone_from_slice(&from[..1]) };
    let (own, stride) = (dims.strides(), strides[outer.len()]);
    walk(outer, &[own, *strides], |[at, place]| {
        let out = &mut out[at..at + width];
        if stride == 1 {
            out.clone_from_slice(&from[place..place + width]);
        } else if stride == 0 {
            out.fill(from[place].clone());
        } else {
            out.iter_mut().zip(from[place..].iter().step_by(stride)).for_each(|(out, from)| out.clone_from(from));
        }
    });
}
