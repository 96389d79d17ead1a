//! Operators that move elements, and compute nothing.

use std::sync::Arc;

use super::super::node::{Inputs, Kernel, Node};
use super::super::value::{Data, Dims, Done, Value, axis_of, for_any, for_numbers};
use super::functions::Number;
use super::walk::{gathered, stretched, together};

pub(super) fn identity(_: &Node<'_>) -> Done<Kernel> {
    Ok(Box::new(|inputs, out| {
        let input = inputs.get(0)?;
        out[0].copy_as(input, input.dims)?;
        // The mask of a dropout: nothing is left out.
        out[1..].iter_mut().for_each(|mask| mask.shaped::<bool>(input.dims).fill(true));
        Ok(())
    }))
}

pub(super) fn concat(node: &Node<'_>) -> Done<Kernel> {
    let axis = node.maybe_int("axis").ok_or("it has no `axis`")?;
    Ok(Box::new(move |inputs, out| {
        let first = inputs.get(0)?;
        let axis = first.dims.axis(axis)?;
        let mut length = 0;
        for input in inputs.all() {
            let dims = input?.dims;
            if dims.len() != first.dims.len() || dims.with(axis, 1)? != first.dims.with(axis, 1)? {
                return Err(format!("{:?} and {dims:?} do not lie side by side", first.dims));
            }
            length += dims[axis];
        }
        let dims = first.dims.with(axis, length)?;
        for_any!(first, T => {
            let out = out[0].shaped::<T>(dims);
            let (outer, _, inner) = dims.around(axis);
            let mut from = 0;
            for input in inputs.all() {
                let input = input?;
                let (values, width) = (input.as_of::<T>()?, input.dims[axis] * inner);
                if width == 1 && outer > 0 {
                    // Columns of numbers, as there are for each feature.
                    out[from..].iter_mut().step_by(length * inner).zip(values).for_each(|(out, x)| out.clone_from(x));
                } else if width > 0 {
                    for (values, out) in values.chunks_exact(width).zip(out.chunks_exact_mut(length * inner)) {
                        out[from..from + width].clone_from_slice(values);
                    }
                }
                from += width;
            }
        });
        Ok(())
    }))
}

/// A part of a value along an axis.
fn part(input: &Value, axis: usize, from: usize, length: usize, out: &mut Value) -> Done {
    let (_, width, inner) = input.dims.around(axis);
    let dims = input.dims.with(axis, length)?;
    for_any!(input, T => {
        let out = out.shaped::<T>(dims);
        if out.is_empty() {
            return Ok(());
        }
        let rows = input.as_of::<T>()?.chunks_exact(width * inner);
        for (row, out) in rows.zip(out.chunks_exact_mut(length * inner)) {
            out.clone_from_slice(&row[from * inner..(from + length) * inner]);
        }
    });
    Ok(())
}

pub(super) fn split(node: &Node<'_>) -> Done<Kernel> {
    let (axis, listed) = (node.int("axis", 0), node.listed("split"));
    Ok(Box::new(move |inputs, out| {
        let input = inputs.get(0)?;
        let axis = input.dims.axis(axis)?;
        let lengths = match inputs.maybe(1) {
            Some(lengths) => Some(lengths.integers()?),
            None => listed.as_deref(),
        };
        let (whole, parts) = (input.dims[axis], out.len());
        let even = whole.div_ceil(parts);
        let mut from = 0;
        for (at, out) in out.iter_mut().enumerate() {
            let length = match lengths {
                Some(lengths) => lengths.get(at).and_then(|length| usize::try_from(*length).ok()),
                None => Some(even.min(whole - from)),
            };
            let length = length.filter(|length| *length <= whole - from);
            let length = length.ok_or_else(|| format!("{whole} cannot be split so"))?;
            part(input, axis, from, length, out)?;
            from += length;
        }
        if from == whole { Ok(()) } else { Err(format!("its parts are not all of {whole}")) }
    }))
}

pub(super) fn slice(node: &Node<'_>) -> Done<Kernel> {
    let listed = ["starts", "ends", "axes"].map(|name| node.listed(name));
    let is_old = node.version < 10;
    Ok(Box::new(move |inputs, out| {
        let input = inputs.get(0)?;
        let given = |at: usize| -> Done<Option<&[i64]>> {
            if is_old {
                return Ok(listed.get(at).and_then(Option::as_deref));
            }
            inputs.maybe(at + 1).map(Value::integers).transpose()
        };
        let (Some(starts), Some(ends)) = (given(0)?, given(1)?) else {
            return Err("it does not say from where to where".to_owned());
        };
        let (axes, steps) = (given(2)?, given(3)?);
        let mut dims = input.dims;
        let (mut from, mut strides) = (0, input.dims.strides().map(|stride| stride as i64));
        for (at, (start, end)) in starts.iter().zip(ends).enumerate() {
            let lacking = || "it lists too few axes or steps".to_owned();
            let axis = axes.map_or(Ok(at as i64), |axes| axes.get(at).copied().ok_or_else(lacking))?;
            let step = steps.map_or(Ok(1), |steps| steps.get(at).copied().ok_or_else(lacking))?;
            let axis = input.dims.axis(axis)?;
            let (first, count) = range_of(*start, *end, step, input.dims[axis] as i64)?;
            dims = dims.with(axis, count)?;
            from += first * input.dims.strides()[axis] as i64;
            strides[axis] = strides[axis].saturating_mul(step);
        }
        for_any!(input, T => {
            let out = out[0].shaped::<T>(dims);
            if !out.is_empty() {
                strided(&dims, input.as_of::<T>()?, (from, &strides), out);
            }
        });
        Ok(())
    }))
}

/// The first place of a slice of an axis of so many, and how many there are.
fn range_of(start: i64, end: i64, step: i64, length: i64) -> Done<(i64, usize)> {
    let from_front = |place: i64| if place < 0 { place.saturating_add(length) } else { place };
    let (start, end) = (from_front(start), from_front(end));
    match step {
        0 => Err("its step is 0".to_owned()),
        1.. => {
            let (start, end) = (start.clamp(0, length), end.clamp(0, length));
            let apart = (end - start).max(0);
            Ok((start, (apart / step + i64::from(apart % step != 0)) as usize))
        }
        _ => {
            let (start, end) = (start.clamp(-1, length - 1), end.clamp(-1, length - 1));
            let (apart, step) = ((start - end).max(0), step.unsigned_abs().min(i64::MAX as u64) as i64);
            Ok((start, (apart / step + i64::from(apart % step != 0)) as usize))
        }
    }
}

/// Elements that are some strides apart, which may lead backwards.
fn strided<T: Clone>(dims: &Dims, from: &[T], (first, strides): (i64, &[i64]), out: &mut [T]) {
    let mut places = vec![0; dims.len()];
    let mut at = first;
    for out in out {
        out.clone_from(&from[at as usize]);
        for axis in (0..dims.len()).rev() {
            places[axis] += 1;
            // A step may be longer than everything: then there is nothing to step to.
            at = at.wrapping_add(strides[axis]);
            if places[axis] < dims[axis] {
                break;
            }
            at = at.wrapping_sub(strides[axis].wrapping_mul(dims[axis] as i64));
            places[axis] = 0;
        }
    }
}

/// A place along an axis of so many, which is counted from behind where it is negative.
fn place(index: i64, length: usize) -> Done<usize> {
    axis_of(index, length).map_err(|_| format!("there is no {index} among {length}"))
}

pub(super) fn gather(node: &Node<'_>) -> Done<Kernel> {
    let axis = node.int("axis", 0);
    Ok(Box::new(move |inputs, out| {
        let (table, indices) = (inputs.get(0)?, inputs.get(1)?);
        let axis = table.dims.axis(axis)?;
        let (outer, length, inner) = table.dims.around(axis);
        let lengths = [&table.dims[..axis], &indices.dims, &table.dims[axis + 1..]].concat();
        let dims = Dims::of(&lengths)?;
        let indices = indices.integers()?;
        for_any!(table, T => {
            let values = table.as_of::<T>()?;
            let out = out[0].shaped::<T>(dims);
            if inner == 0 {
                return Ok(());
            }
            let mut parts = out.chunks_exact_mut(inner);
            for (outer, index) in (0..outer).flat_map(|outer| indices.iter().map(move |index| (outer, *index))) {
                let from = (outer * length + place(index, length)?) * inner;
                let Some(part) = parts.next() else { break };
                part.clone_from_slice(&values[from..from + inner]);
            }
        });
        Ok(())
    }))
}

pub(super) fn gather_elements(node: &Node<'_>) -> Done<Kernel> {
    let axis = node.int("axis", 0);
    Ok(Box::new(move |inputs, out| {
        let (table, indices) = (inputs.get(0)?, inputs.get(1)?);
        let axis = table.dims.axis(axis)?;
        let fits = |at: usize| at == axis || indices.dims[at] <= table.dims[at];
        if indices.dims.len() != table.dims.len() || !(0..table.dims.len()).all(fits) {
            return Err(format!("{:?} are no places of {:?}", indices.dims, table.dims));
        }
        let (own, strides) = (indices.dims.strides(), table.dims.strides());
        let given = indices.integers()?;
        for_any!(table, T => {
            let values = table.as_of::<T>()?;
            let out = out[0].shaped::<T>(indices.dims);
            for (at, (out, index)) in out.iter_mut().zip(given).enumerate() {
                let coordinate = |d: usize| at / own[d] % indices.dims[d];
                let mut from = place(*index, table.dims[axis])? * strides[axis];
                from += (0..own.len()).take(indices.dims.len()).filter(|d| *d != axis)
                    .map(|d| coordinate(d) * strides[d]).sum::<usize>();
                out.clone_from(&values[from]);
            }
        });
        Ok(())
    }))
}

pub(super) fn reshape(node: &Node<'_>) -> Done<Kernel> {
    let (takes_zero, listed) = (node.int("allowzero", 0) != 0, node.listed("shape"));
    Ok(Box::new(move |inputs, out| {
        let input = inputs.get(0)?;
        let wanted = match &listed {
            Some(listed) => listed.as_slice(),
            None => inputs.get(1)?.integers()?,
        };
        let mut lengths = Vec::with_capacity(wanted.len());
        for (at, length) in wanted.iter().enumerate() {
            lengths.push(match *length {
                0 if !takes_zero => *input.dims.get(at).ok_or("it keeps a dimension that is not there")?,
                -1 => 1,
                length => usize::try_from(length).map_err(|_| format!("{length} is no length"))?,
            });
        }
        let known = Dims::of(&lengths)?.elements();
        let open: Vec<usize> = (0..wanted.len()).filter(|at| wanted[*at] == -1).collect();
        match open[..] {
            [] => {}
            [at] if known > 0 => lengths[at] = input.dims.elements() / known,
            _ => return Err(format!("{:?} cannot be reshaped to {wanted:?}", input.dims)),
        }
        out[0].copy_as(input, Dims::of(&lengths)?)
    }))
}

pub(super) fn flatten(node: &Node<'_>) -> Done<Kernel> {
    let axis = node.int("axis", 1);
    Ok(Box::new(move |inputs, out| {
        let input = inputs.get(0)?;
        let rank = input.dims.len();
        let axis = if axis == rank as i64 { rank } else { input.dims.axis(axis)? };
        let [rows, columns] = [&input.dims[..axis], &input.dims[axis..]].map(|part| part.iter().product());
        out[0].copy_as(input, Dims::of(&[rows, columns])?)
    }))
}

/// Axes, from an input or a setting.
fn axes<'a>(inputs: &Inputs<'a>, listed: Option<&'a [i64]>) -> Done<Option<&'a [i64]>> {
    inputs.maybe(1).map_or(Ok(listed), |axes| axes.integers().map(Some))
}

pub(super) fn squeeze(node: &Node<'_>) -> Done<Kernel> {
    let listed = node.listed("axes");
    Ok(Box::new(move |inputs, out| {
        let input = inputs.get(0)?;
        let mut drops: Vec<bool> = input.dims.iter().map(|length| *length == 1).collect();
        if let Some(axes) = axes(inputs, listed.as_deref())? {
            drops.fill(false);
            for axis in axes {
                let axis = input.dims.axis(*axis)?;
                if input.dims[axis] != 1 {
                    return Err(format!("axis {axis} of {:?} is not of length 1", input.dims));
                }
                drops[axis] = true;
            }
        }
        let kept: Vec<usize> = input.dims.iter().zip(drops).filter(|(_, drops)| !drops).map(|(len, _)| *len).collect();
        out[0].copy_as(input, Dims::of(&kept)?)
    }))
}

pub(super) fn unsqueeze(node: &Node<'_>) -> Done<Kernel> {
    let listed = node.listed("axes");
    Ok(Box::new(move |inputs, out| {
        let input = inputs.get(0)?;
        let axes = axes(inputs, listed.as_deref())?.ok_or("it names no axes")?;
        let rank = input.dims.len() + axes.len();
        let mut is_new = vec![false; rank];
        for axis in axes {
            let axis = axis_of(*axis, rank)?;
            if std::mem::replace(&mut is_new[axis], true) {
                return Err("it names an axis twice".to_owned());
            }
        }
        let mut own = input.dims.iter();
        let lengths: Vec<usize> =
            is_new.iter().map(|is_new| if *is_new { 1 } else { own.next().copied().unwrap_or(1) }).collect();
        out[0].copy_as(input, Dims::of(&lengths)?)
    }))
}

pub(super) fn transpose(node: &Node<'_>) -> Done<Kernel> {
    let order = node.listed("perm");
    Ok(Box::new(move |inputs, out| {
        let input = inputs.get(0)?;
        let rank = input.dims.len();
        let order: Vec<usize> = match &order {
            Some(order) => order.iter().map(|axis| input.dims.axis(*axis)).collect::<Done<_>>()?,
            None => (0..rank).rev().collect(),
        };
        if (0..rank).any(|axis| !order.contains(&axis)) || order.len() != rank {
            return Err(format!("{order:?} is no order of {rank} axes"));
        }
        let lengths: Vec<usize> = order.iter().map(|axis| input.dims[*axis]).collect();
        let (dims, own) = (Dims::of(&lengths)?, input.dims.strides());
        let strides = std::array::from_fn(|at| order.get(at).map_or(0, |axis| own[*axis]));
        for_any!(input, T => {
            let out = out[0].shaped::<T>(dims);
            if !out.is_empty() {
                gathered(&dims, input.as_of::<T>()?, &strides, out);
            }
        });
        Ok(())
    }))
}

/// As large as a shape says, where there is one of each.
fn stretch(input: &Value, dims: Dims, out: &mut Value) -> Done {
    for_any!(input, T => {
        let out = out.shaped::<T>(dims);
        if !out.is_empty() {
            gathered(&dims, input.as_of::<T>()?, &stretched(&input.dims, &dims), out);
        }
    });
    Ok(())
}

pub(super) fn expand(_: &Node<'_>) -> Done<Kernel> {
    Ok(Box::new(|inputs, out| {
        let input = inputs.get(0)?;
        let dims = together(&input.dims, &Dims::signed(inputs.get(1)?.integers()?)?)?;
        stretch(input, dims, &mut out[0])
    }))
}

pub(super) fn tile(_: &Node<'_>) -> Done<Kernel> {
    Ok(Box::new(|inputs, out| {
        let input = inputs.get(0)?;
        let repeats = Dims::signed(inputs.get(1)?.integers()?)?;
        if repeats.len() != input.dims.len() {
            return Err(format!("{repeats:?} does not say how often {:?} is repeated", input.dims));
        }
        // Each axis as two: its repetitions, and itself.
        let (mut wide, mut own, mut lengths) = (Vec::new(), Vec::new(), Vec::new());
        for (length, repeats) in input.dims.iter().zip(repeats.iter()) {
            wide.extend([*repeats, *length]);
            own.extend([1, *length]);
            lengths.push(repeats.saturating_mul(*length));
        }
        let dims = Dims::of(&lengths)?;
        let value = Value { dims: Dims::of(&own)?, data: input.data.clone() };
        stretch(&value, Dims::of(&wide)?, &mut out[0])?;
        out[0].dims = dims;
        Ok(())
    }))
}

pub(super) fn shape(node: &Node<'_>) -> Done<Kernel> {
    let (start, end) = (node.int("start", 0), node.int("end", i64::MAX));
    Ok(Box::new(move |inputs, out| {
        let dims = inputs.get(0)?.dims;
        let (first, count) = range_of(start, end, 1, dims.len() as i64)?;
        let lengths = out[0].shaped::<i64>(Dims::of(&[count])?);
        lengths.iter_mut().zip(&dims[first as usize..]).for_each(|(out, length)| *out = *length as i64);
        Ok(())
    }))
}

pub(super) fn size(_: &Node<'_>) -> Done<Kernel> {
    Ok(Box::new(|inputs, out| {
        out[0].shaped::<i64>(Dims::scalar())[0] = inputs.get(0)?.dims.elements() as i64;
        Ok(())
    }))
}

pub(super) fn constant(node: &Node<'_>) -> Done<Kernel> {
    let value = if let Some(value) = node.tensor("value")? {
        value
    } else if let Some(value) = node.maybe_float("value_float") {
        Value::new(Dims::scalar(), vec![value])
    } else if let Some(value) = node.maybe_int("value_int") {
        Value::new(Dims::scalar(), vec![value])
    } else if node.has("value_floats") {
        Value::row(node.floats("value_floats").to_vec())?
    } else if node.has("value_ints") {
        Value::row(node.ints("value_ints").to_vec())?
    } else if node.has("value_strings") {
        Value::row(node.texts("value_strings")?)?
    } else if let Some(value) = node.maybe_text("value_string") {
        Value::new(Dims::scalar(), vec![Arc::<str>::from(value)])
    } else {
        return Err("it says no value".to_owned());
    };
    Ok(Box::new(move |_, out| out[0].copy_as(&value, value.dims)))
}

pub(super) fn constant_of_shape(node: &Node<'_>) -> Done<Kernel> {
    let value = node.tensor("value")?.map_or_else(|| Value::row(vec![0.0_f32]), Ok)?;
    if value.dims.elements() != 1 {
        return Err("its value is not one number".to_owned());
    }
    Ok(Box::new(move |inputs, out| {
        let dims = Dims::signed(inputs.get(0)?.integers()?)?;
        for_any!(value, T => {
            let one = value.as_of::<T>()?;
            out[0].shaped::<T>(dims).iter_mut().for_each(|out| out.clone_from(&one[0]));
        });
        Ok(())
    }))
}

pub(super) fn range(_: &Node<'_>) -> Done<Kernel> {
    Ok(Box::new(|inputs, out| {
        let bounds = [inputs.get(0)?, inputs.get(1)?, inputs.get(2)?];
        let first = bounds[0];
        for_numbers!(first, T => {
            let one = |value: &Value| Ok::<_, String>(value.as_of::<T>()?.first().map_or(0.0, |value| value.wide()));
            let [start, end, step] = [one(bounds[0])?, one(bounds[1])?, one(bounds[2])?];
            let count = ((end - start) / step).ceil();
            if !count.is_finite() {
                return Err("it never ends".to_owned());
            }
            // A cast takes what is too large for the largest.
            let out = out[0].shaped::<T>(Dims::of(&[count.max(0.0) as usize])?);
            out.iter_mut().enumerate().for_each(|(at, out)| *out = T::of(start + at as f64 * step));
            Ok(())
        })
    }))
}
