//! From one type to another.

use std::sync::Arc;

use super::super::node::{Kernel, Node};
use super::super::proto;
use super::super::value::{Data, Dims, Done, Element, Value};

/// The types that a cast can be to.
#[derive(Clone, Copy)]
enum Target {
    Single,
    /// Half precision, kept in single.
    Half(fn(f32) -> f32),
    Double,
    /// Whole numbers of so many bits, with a sign or without.
    Whole(u32, bool),
    Bool,
    Text,
}

pub(super) fn cast(node: &Node<'_>) -> Done<Kernel> {
    let to = node.int("to", 0);
    // The cast of the classical set names its type by a word.
    let target = match (node.maybe_text("to"), i32::try_from(to).unwrap_or_default()) {
        (Some("TO_FLOAT"), _) | (_, proto::FLOAT) => Target::Single,
        (Some("TO_INT64"), _) | (_, proto::INT64) => Target::Whole(64, true),
        (Some("TO_STRING"), _) | (_, proto::TEXT) => Target::Text,
        (_, proto::DOUBLE) => Target::Double,
        (_, proto::BOOL) => Target::Bool,
        (_, proto::INT32) => Target::Whole(32, true),
        (_, proto::INT16) => Target::Whole(16, true),
        (_, proto::INT8) => Target::Whole(8, true),
        (_, proto::UINT8) => Target::Whole(8, false),
        (_, proto::UINT16) => Target::Whole(16, false),
        (_, proto::UINT32) => Target::Whole(32, false),
        (_, proto::UINT64) => Target::Whole(64, false),
        (_, proto::BFLOAT16) => Target::Half(to_brain),
        (_, proto::FLOAT16) => Target::Half(to_half),
        _ => return Err(format!("it casts to type {to}, which is not known")),
    };
    Ok(Box::new(move |inputs, out| cast_to(inputs.get(0)?, target, &mut out[0])))
}

pub(super) fn cast_like(_: &Node<'_>) -> Done<Kernel> {
    Ok(Box::new(|inputs, out| {
        let target = match &inputs.get(1)?.data {
            Data::F32(_) => Target::Single,
            Data::F64(_) => Target::Double,
            Data::I64(_) => Target::Whole(64, true),
            Data::Bool(_) => Target::Bool,
            Data::Text(_) => Target::Text,
        };
        cast_to(inputs.get(0)?, target, &mut out[0])
    }))
}

/// To half precision, the nearest, of two equally near the one whose last bit is 0.
pub(crate) fn to_half(value: f32) -> f32 {
    if !value.is_finite() || value == 0.0 {
        return value;
    }
    // Numbers below 2^-14 are whole multiples of 2^-24; others have eleven digits.
    let exponent = (value.to_bits() >> 23 & 255) as i32 - 127;
    let unit = 2.0_f64.powi(exponent.max(-14) - 10);
    let rounded = (f64::from(value) / unit).round_ties_even() * unit;
    if rounded.abs() > 65504.0 { f32::INFINITY.copysign(value) } else { rounded as f32 }
}

/// To the upper half of single precision, in the same way.
pub(crate) fn to_brain(value: f32) -> f32 {
    if value.is_nan() {
        return value;
    }
    let bits = value.to_bits();
    f32::from_bits(bits.wrapping_add(0x7fff + (bits >> 16 & 1)) & 0xffff_0000)
}

/// A whole number in so many bits.
fn wrapped(value: i64, bits: u32, is_signed: bool) -> i64 {
    let shift = 64 - bits;
    if is_signed { value << shift >> shift } else { ((value as u64) << shift >> shift) as i64 }
}

fn cast_to(input: &Value, target: Target, out: &mut Value) -> Done {
    fn each<A, B: Element>(input: &[A], dims: Dims, out: &mut Value, to: impl Fn(&A) -> B) {
        out.shaped::<B>(dims).iter_mut().zip(input).for_each(|(out, x)| *out = to(x));
    }
    let dims = input.dims;
    let no_number = |text: &Arc<str>| format!("`{text}` is no number");
    match (&input.data, target) {
        (Data::F32(x), Target::Single) => each(x, dims, out, |x| *x),
        (Data::F64(x), Target::Single) => each(x, dims, out, |x| *x as f32),
        (Data::I64(x), Target::Single) => each(x, dims, out, |x| *x as f32),
        (Data::Bool(x), Target::Single) => each(x, dims, out, |x| f32::from(*x)),
        (Data::F32(x), Target::Double) => each(x, dims, out, |x| f64::from(*x)),
        (Data::F64(x), Target::Double) => each(x, dims, out, |x| *x),
        (Data::I64(x), Target::Double) => each(x, dims, out, |x| *x as f64),
        (Data::Bool(x), Target::Double) => each(x, dims, out, |x| f64::from(*x)),
        (Data::F32(x), Target::Whole(bits, sign)) => each(x, dims, out, |x| wrapped(*x as i64, bits, sign)),
        (Data::F64(x), Target::Whole(bits, sign)) => each(x, dims, out, |x| wrapped(*x as i64, bits, sign)),
        (Data::I64(x), Target::Whole(bits, sign)) => each(x, dims, out, |x| wrapped(*x, bits, sign)),
        (Data::Bool(x), Target::Whole(..)) => each(x, dims, out, |x| i64::from(*x)),
        (Data::F32(x), Target::Bool) => each(x, dims, out, |x| *x != 0.0),
        (Data::F64(x), Target::Bool) => each(x, dims, out, |x| *x != 0.0),
        (Data::I64(x), Target::Bool) => each(x, dims, out, |x| *x != 0),
        (Data::Bool(x), Target::Bool) => each(x, dims, out, |x| *x),
        (Data::I64(x), Target::Text) => each(x, dims, out, |x| Arc::<str>::from(x.to_string())),
        (Data::Bool(x), Target::Text) => each(x, dims, out, |x| Arc::<str>::from(if *x { "1" } else { "0" })),
        (Data::F32(x), Target::Text) => each(x, dims, out, |x| Arc::<str>::from(x.to_string())),
        (Data::F64(x), Target::Text) => each(x, dims, out, |x| Arc::<str>::from(x.to_string())),
        (Data::Text(x), Target::Text) => each(x, dims, out, Arc::clone),
        (_, Target::Half(round)) => {
            cast_to(input, Target::Single, out)?;
            let Data::F32(values) = &mut out.data else { return Ok(()) };
            values.iter_mut().for_each(|value| *value = round(*value));
        }
        (Data::Text(x), Target::Whole(bits, sign)) => {
            let numbers: Vec<i64> =
                x.iter().map(|x| x.trim().parse().map_err(|_| no_number(x))).collect::<Done<_>>()?;
            each(&numbers, dims, out, |x| wrapped(*x, bits, sign));
        }
        (Data::Text(x), target) => {
            let numbers: Vec<f64> =
                x.iter().map(|x| x.trim().parse().map_err(|_| no_number(x))).collect::<Done<_>>()?;
            return cast_to(&Value::new(dims, numbers), target, out);
        }
    }
    Ok(())
}

/// Small whole numbers as what they stand for: less a zero, times a scale, of all or along an axis.
pub(super) fn dequantize(node: &Node<'_>) -> Done<Kernel> {
    let axis = node.int("axis", 1);
    if node.int("block_size", 0) != 0 {
        return Err("its numbers are in blocks, which are not known here".to_owned());
    }
    Ok(Box::new(move |inputs, out| {
        let (input, scale) = (inputs.get(0)?, inputs.get(1)?);
        let (values, scales) = (input.integers()?, scale.as_of::<f32>()?);
        let zeros = inputs.maybe(2).map(Value::integers).transpose()?;
        let inner = if scales.len() == 1 {
            1
        } else {
            let axis = input.dims.axis(axis)?;
            if scales.len() != input.dims[axis] {
                return Err(format!("it has {} scales for {:?}", scales.len(), input.dims));
            }
            input.dims.around(axis).2
        };
        if scales.is_empty() || zeros.is_some_and(|zeros| zeros.len() != scales.len()) {
            return Err("it has not as many zeros as scales".to_owned());
        }
        let out = out[0].shaped::<f32>(input.dims);
        for (at, (out, value)) in out.iter_mut().zip(values).enumerate() {
            let at = at / inner.max(1) % scales.len();
            *out = (value.wrapping_sub(zeros.map_or(0, |zeros| zeros[at]))) as f32 * scales[at];
        }
        Ok(())
    }))
}
