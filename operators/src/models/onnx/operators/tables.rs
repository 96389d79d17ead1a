//! What the classical set does with columns before a model sees them.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::node::{Kernel, Node};
use super::super::value::{Data, Dims, Done, Value, for_any};
use super::linear::{rows_of, singles};

pub(super) fn scaler(node: &Node<'_>) -> Done<Kernel> {
    let (offsets, scales) = (node.floats("offset").to_vec(), node.floats("scale").to_vec());
    if offsets.is_empty() || scales.is_empty() {
        return Err("it has no offsets or no scales".to_owned());
    }
    Ok(Box::new(move |inputs, out| {
        let input = inputs.get(0)?;
        let columns = input.dims.last().copied().unwrap_or(1);
        if [&offsets, &scales].into_iter().any(|of| of.len() != 1 && of.len() != columns) {
            return Err(format!("it scales {} columns, and not {columns}", scales.len()));
        }
        let values = singles(input)?;
        let out = out[0].shaped::<f32>(input.dims);
        for (at, (out, x)) in out.iter_mut().zip(values).enumerate() {
            let column = at % columns;
            *out = (x - offsets[column % offsets.len()]) * scales[column % scales.len()];
        }
        Ok(())
    }))
}

pub(super) fn normalizer(node: &Node<'_>) -> Done<Kernel> {
    let size: fn(&[f32]) -> f32 = match node.text("norm", "MAX") {
        "MAX" => |row| row.iter().copied().fold(f32::NEG_INFINITY, f32::max),
        "L1" => |row| row.iter().map(|x| x.abs()).sum(),
        "L2" => |row| row.iter().map(|x| x * x).sum::<f32>().sqrt(),
        other => return Err(format!("its norm `{other}` is not known")),
    };
    Ok(Box::new(move |inputs, out| {
        let input = inputs.get(0)?;
        let columns = input.dims.last().copied().unwrap_or(1).max(1);
        let values = singles(input)?;
        let out = out[0].shaped::<f32>(input.dims);
        for (row, out) in values.chunks_exact(columns).zip(out.chunks_exact_mut(columns)) {
            let size = size(row);
            out.iter_mut().zip(row).for_each(|(out, x)| *out = if size == 0.0 { *x } else { x / size });
        }
        Ok(())
    }))
}

pub(super) fn binarizer(node: &Node<'_>) -> Done<Kernel> {
    let threshold = node.float("threshold", 0.0);
    Ok(Box::new(move |inputs, out| {
        let input = inputs.get(0)?;
        let values = singles(input)?;
        let out = out[0].shaped::<f32>(input.dims);
        out.iter_mut().zip(values).for_each(|(out, x)| *out = f32::from(u8::from(x > threshold)));
        Ok(())
    }))
}

/// In the place of what is missing.
fn put<T: Copy>(values: &[T], out: &mut [T], columns: usize, by: &[T], is_missing: impl Fn(T) -> bool) -> Done {
    if by.len() != 1 && by.len() != columns {
        return Err(format!("it has values for {} columns, and not for {columns}", by.len()));
    }
    for (at, (out, x)) in out.iter_mut().zip(values).enumerate() {
        *out = if is_missing(*x) { by[at % columns % by.len()] } else { *x };
    }
    Ok(())
}

/// Puts something in the place of what is missing.
pub(super) fn imputer(node: &Node<'_>) -> Done<Kernel> {
    let (floats, wholes) = (node.floats("imputed_value_floats").to_vec(), node.ints("imputed_value_int64s").to_vec());
    let (missing, missing_whole) = (node.float("replaced_value_float", 0.0), node.int("replaced_value_int64", 0));
    Ok(Box::new(move |inputs, out| {
        let input = inputs.get(0)?;
        let columns = input.dims.last().copied().unwrap_or(1).max(1);
        match &input.data {
            Data::I64(values) => put(values, out[0].shaped(input.dims), columns, &wholes, |x| x == missing_whole),
            Data::F32(values) => {
                let is_missing = |x: f32| x == missing || (missing.is_nan() && x.is_nan());
                put(values, out[0].shaped(input.dims), columns, &floats, is_missing)
            }
            Data::F64(values) => {
                let by: Vec<f64> = floats.iter().map(|value| f64::from(*value)).collect();
                let is_missing = |x: f64| x == f64::from(missing) || (missing.is_nan() && x.is_nan());
                put(values, out[0].shaped(input.dims), columns, &by, is_missing)
            }
            _ => Err(format!("it takes numbers, and not {}", input.kind())),
        }
    }))
}

/// What is equal where a table is looked up in: numbers by their bits, but for the two zeros.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Whole(i64),
    Bits(u64),
    Text(Arc<str>),
}

impl Key {
    fn of_float(value: f64) -> Self {
        // All that are no number are one.
        Self::Bits(if value.is_nan() { f64::NAN } else { value + 0.0 }.to_bits())
    }
}

/// The keys that the elements of a value are.
fn keys(value: &Value) -> Vec<Key> {
    match &value.data {
        Data::F32(values) => values.iter().map(|value| Key::of_float(f64::from(*value))).collect(),
        Data::F64(values) => values.iter().map(|value| Key::of_float(*value)).collect(),
        Data::I64(values) => values.iter().map(|value| Key::Whole(*value)).collect(),
        Data::Bool(values) => values.iter().map(|value| Key::Whole(i64::from(*value))).collect(),
        Data::Text(values) => values.iter().map(|value| Key::Text(value.clone())).collect(),
    }
}

pub(super) fn one_hot(node: &Node<'_>) -> Done<Kernel> {
    let (texts, wholes) = (node.texts("cats_strings")?, node.ints("cats_int64s"));
    let takes_others = node.int("zeros", 1) != 0;
    let categories = if texts.is_empty() { Value::row(wholes.to_vec())? } else { Value::row(texts)? };
    let count = categories.dims[0];
    let places: HashMap<Key, usize> = keys(&categories).into_iter().zip(0..).collect();
    Ok(Box::new(move |inputs, out| {
        let input = inputs.get(0)?;
        let dims = Dims::of(&[&*input.dims, &[count]].concat())?;
        let given = match &input.data {
            // Whole numbers may come as others.
            Data::F32(values) => values.iter().map(|value| Key::Whole(*value as i64)).collect(),
            Data::F64(values) => values.iter().map(|value| Key::Whole(*value as i64)).collect(),
            _ => keys(input),
        };
        let out = out[0].shaped::<f32>(dims);
        out.fill(0.0);
        for (at, key) in given.iter().enumerate() {
            match places.get(key) {
                Some(place) => out[at * count + place] = 1.0,
                None if takes_others => {}
                None => return Err(format!("there is no category for {key:?}")),
            }
        }
        Ok(())
    }))
}

/// A table from keys to values, and what is said where there is no key.
fn table(keys_given: &Value, values: Value, otherwise: Value) -> Done<Kernel> {
    let keys_given = keys(keys_given);
    if keys_given.len() != values.dims.elements() {
        return Err("it has not as many values as keys".to_owned());
    }
    let mut places = HashMap::with_capacity(keys_given.len());
    for (at, key) in keys_given.into_iter().enumerate() {
        places.entry(key).or_insert(at);
    }
    Ok(Box::new(move |inputs, out| {
        let input = inputs.get(0)?;
        let given = keys(input);
        for_any!(values, T => {
            let (values, otherwise) = (values.as_of::<T>()?, &otherwise.as_of::<T>()?[0]);
            for (out, key) in out[0].shaped::<T>(input.dims).iter_mut().zip(&given) {
                out.clone_from(places.get(key).map_or(otherwise, |at| &values[*at]));
            }
        });
        Ok(())
    }))
}

pub(super) fn label_encoder(node: &Node<'_>) -> Done<Kernel> {
    let listed = |side: &str| -> Done<Option<Value>> {
        let [texts, wholes, floats, tensor] =
            ["strings", "int64s", "floats", "tensor"].map(|kind| format!("{side}_{kind}"));
        if let Some(value) = node.tensor(&tensor)? {
            return Ok(Some(value));
        }
        if node.has(&texts) {
            return Value::row(node.texts(&texts)?).map(Some);
        }
        if node.has(&wholes) {
            return Value::row(node.ints(&wholes).to_vec()).map(Some);
        }
        node.has(&floats).then(|| Value::row(node.floats(&floats).to_vec())).transpose()
    };
    // The first version has classes only, which are numbered.
    if node.has("classes_strings") {
        let classes = Value::row(node.texts("classes_strings")?)?;
        let numbers = Value::row((0..classes.dims[0] as i64).collect::<Vec<_>>())?;
        return table(&classes, numbers, Value::row(vec![node.int("default_int64", -1)])?);
    }
    let (Some(keys), Some(values)) = (listed("keys")?, listed("values")?) else {
        return Err("it lists no keys or no values".to_owned());
    };
    let otherwise = match (node.tensor("default_tensor")?, &values.data) {
        (Some(value), _) => value,
        (None, Data::Text(_)) => Value::row(vec![Arc::<str>::from(node.text("default_string", "_Unused"))])?,
        (None, Data::I64(_)) => Value::row(vec![node.int("default_int64", -1)])?,
        (None, Data::F32(_)) => Value::row(vec![node.float("default_float", -0.0)])?,
        (None, Data::F64(_)) => Value::row(vec![-0.0_f64])?,
        (None, Data::Bool(_)) => Value::row(vec![false])?,
    };
    if otherwise.dims.elements() != 1 || otherwise.kind() != values.kind() {
        return Err("what it says otherwise is not one value of the same type".to_owned());
    }
    table(&keys, values, otherwise)
}

/// From texts to whole numbers, or back.
pub(super) fn category_mapper(node: &Node<'_>) -> Done<Kernel> {
    let (texts, wholes) = (Value::row(node.texts("cats_strings")?)?, Value::row(node.ints("cats_int64s").to_vec())?);
    let otherwise = Value::row(vec![Arc::<str>::from(node.text("default_string", "_Unused"))])?;
    let back = table(&wholes, texts.clone(), otherwise)?;
    let there = table(&texts, wholes, Value::row(vec![node.int("default_int64", -1)])?)?;
    Ok(Box::new(move |inputs, out| match &inputs.get(0)?.data {
        Data::Text(_) => there(inputs, out),
        _ => back(inputs, out),
    }))
}

/// Columns side by side, in single precision.
pub(super) fn vectorizer(_: &Node<'_>) -> Done<Kernel> {
    Ok(Box::new(|inputs, out| {
        let parts = inputs.all().map(|input| rows_of(input?)).collect::<Done<Vec<_>>>()?;
        let rows = parts.first().map_or(0, |(_, rows, _)| *rows);
        if parts.iter().any(|(_, other, _)| *other != rows) {
            return Err("its columns are not of the same rows".to_owned());
        }
        let width = parts.iter().map(|(_, _, columns)| columns).sum();
        let out = out[0].shaped::<f32>(Dims::of(&[rows, width])?);
        let mut from = 0;
        for (values, _, columns) in &parts {
            for (at, value) in values.iter().enumerate() {
                out[at / columns * width + from + at % columns] = *value as f32;
            }
            from += columns;
        }
        Ok(())
    }))
}

/// Some columns, by their numbers.
pub(super) fn extractor(_: &Node<'_>) -> Done<Kernel> {
    Ok(Box::new(|inputs, out| {
        let (input, places) = (inputs.get(0)?, inputs.get(1)?.integers()?);
        let Some((&width, outer)) = input.dims.split_last() else {
            return Err("it takes rows".to_owned());
        };
        let places = places.iter().map(|place| usize::try_from(*place).ok().filter(|place| *place < width));
        let places: Vec<usize> =
            places.collect::<Option<_>>().ok_or_else(|| format!("it takes a column that is not among {width}"))?;
        let rows: usize = outer.iter().product();
        // A row of values is as many rows of one where one is taken: so it is in ONNX's own runtime.
        let lengths = if outer.is_empty() { vec![1, places.len()] } else { [outer, &[places.len()]].concat() };
        let dims = Dims::of(&lengths)?;
        for_any!(input, T => {
            let values = input.as_of::<T>()?;
            let out = out[0].shaped::<T>(dims);
            for (at, out) in out.iter_mut().enumerate().take(rows * places.len()) {
                out.clone_from(&values[at / places.len() * width + places[at % places.len()]]);
            }
        });
        Ok(())
    }))
}
