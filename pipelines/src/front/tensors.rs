//! Tensors of the Open Inference Protocol, version 2, and Arrow's columns.
//!
//! A tensor is a column: of shape `[rows]` or `[rows, 1]`. A value that is missing is `null` in JSON, or not a number in binary
//! data.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray,
    new_null_array,
};
use arrow::datatypes::{DataType, SchemaRef};
use millstream_connectors::formats::timestamp as instant;
use serde::Deserialize;
use serde_json::{Value, json};

/// A tensor as it is sent.
#[derive(Debug, Deserialize)]
pub(super) struct Tensor {
    pub(super) name: String,
    shape: Vec<u64>,
    datatype: String,
    #[serde(default)]
    data: Value,
    #[serde(default)]
    parameters: TensorParameters,
}

#[derive(Debug, Default, Deserialize)]
struct TensorParameters {
    binary_data_size: Option<usize>,
}

/// The numbers of bytes of the datatypes that have one.
const WIDTHS: [(&str, usize); 11] = [
    ("BOOL", 1),
    ("UINT8", 1),
    ("UINT16", 2),
    ("UINT32", 4),
    ("UINT64", 8),
    ("INT8", 1),
    ("INT16", 2),
    ("INT32", 4),
    ("INT64", 8),
    ("FP32", 4),
    ("FP64", 8),
];

impl Tensor {
    /// How many rows it has.
    pub(super) fn rows(&self) -> Result<usize, String> {
        match self.shape.as_slice() {
            [rows] | [rows, 1] => Ok(*rows as usize),
            shape => Err(format!("input `{}` has the shape {shape:?}: a column is [rows] or [rows, 1]", self.name)),
        }
    }

    /// Its values, `rows` of them, as JSON; binary ones are taken from the front of `binary`.
    fn values(self, rows: usize, binary: &mut &[u8]) -> Result<Vec<Value>, String> {
        let Self { name, datatype, data, parameters, .. } = self;
        if datatype != "BYTES" && !WIDTHS.iter().any(|(known, _)| *known == datatype) {
            return Err(format!("input `{name}` has the datatype {datatype}, which is not known here"));
        }
        let mut values = Vec::with_capacity(rows.min(1 << 16));
        if let Some(size) = parameters.binary_data_size {
            let (bytes, rest) = binary
                .split_at_checked(size)
                .ok_or_else(|| format!("input `{name}`: there are less than {size} bytes left"))?;
            *binary = rest;
            values = from_binary(&datatype, bytes).map_err(|why| format!("input `{name}`: {why}"))?;
        } else {
            flatten(data, &mut values);
        }
        if values.len() == rows {
            return Ok(values);
        }
        Err(format!("input `{name}` has {} values for {rows} rows", values.len()))
    }

    /// A column of this type.
    pub(super) fn column(self, kind: &DataType, rows: usize, binary: &mut &[u8]) -> Result<ArrayRef, String> {
        let name = self.name.clone();
        let values = self.values(rows, binary)?;
        let wrong = |value: &Value| format!("input `{name}`: {value} is no {}", datatype_of(kind));
        macro_rules! collect {
            ($array:ty, $of:expr) => {
                values
                    .iter()
                    .map(
                        |value| {
                            if value.is_null() { Ok(None) } else { $of(value).map(Some).ok_or_else(|| wrong(value)) }
                        },
                    )
                    .collect::<Result<$array, String>>()
                    .map(|array| Arc::new(array) as ArrayRef)
            };
        }
        match kind {
            DataType::Float64 => collect!(Float64Array, float),
            DataType::Int64 => collect!(Int64Array, integer),
            DataType::Boolean => collect!(BooleanArray, boolean),
            DataType::Utf8 => collect!(StringArray, |value: &Value| value.as_str().map(str::to_owned)),
            DataType::Timestamp(..) => collect!(TimestampMillisecondArray, timestamp),
            other => Err(format!("`{name}` is a column of {other}, which cannot be asked with")),
        }
    }
}

fn float(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_bool().map(f64::from))
}

fn integer(value: &Value) -> Option<i64> {
    let whole = |number: f64| (number.fract() == 0.0 && number.abs() < 2_f64.powi(53)).then_some(number as i64);
    value.as_i64().or_else(|| value.as_f64().and_then(whole)).or_else(|| value.as_bool().map(i64::from))
}

fn boolean(value: &Value) -> Option<bool> {
    value.as_bool().or_else(|| integer(value).filter(|number| matches!(number, 0 | 1)).map(|number| number == 1))
}

/// Milliseconds since 1970, or RFC 3339.
fn timestamp(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str().and_then(|text| instant::parse(text.as_bytes())))
}

fn flatten(value: Value, into: &mut Vec<Value>) {
    match value {
        Value::Array(items) => items.into_iter().for_each(|item| flatten(item, into)),
        value => into.push(value),
    }
}

/// Little-endian values, one after the other; texts have their length in four bytes before them.
fn from_binary(datatype: &str, bytes: &[u8]) -> Result<Vec<Value>, String> {
    if datatype == "BYTES" {
        let (mut rest, mut values) = (bytes, Vec::new());
        while !rest.is_empty() {
            let text = rest.split_first_chunk::<4>().and_then(|(length, tail)| {
                let (text, tail) = tail.split_at_checked(u32::from_le_bytes(*length) as usize)?;
                rest = tail;
                std::str::from_utf8(text).ok()
            });
            values.push(json!(text.ok_or("a text is cut short, or is not UTF-8")?));
        }
        return Ok(values);
    }
    let width = WIDTHS.iter().find(|(known, _)| *known == datatype).map_or(1, |(_, width)| *width);
    if !bytes.len().is_multiple_of(width) {
        return Err(format!("{} bytes hold no whole number of {datatype}", bytes.len()));
    }
    let number = |bytes: &[u8]| {
        let mut wide = [0; 8];
        wide[..width].copy_from_slice(bytes);
        let unsigned = u64::from_le_bytes(wide);
        let shift = 64 - 8 * width as u32;
        match datatype {
            "BOOL" => json!(unsigned != 0),
            "FP32" => json!(f64::from(f32::from_bits(unsigned as u32))),
            "FP64" => json!(f64::from_bits(unsigned)),
            _ if datatype.starts_with('U') => json!(unsigned),
            _ => json!((unsigned << shift).cast_signed() >> shift),
        }
    };
    Ok(bytes.chunks_exact(width).map(number).collect())
}

/// The rows that tensors make: columns that are not sent are missing.
pub(super) fn rows(
    inputs: Vec<Tensor>,
    columns: &SchemaRef,
    binary: &[u8],
) -> Result<(Vec<Option<ArrayRef>>, usize), String> {
    let rows = inputs.first().map_or(Ok(0), Tensor::rows)?;
    if rows == 0 {
        return Err("there are no rows".to_owned());
    }
    let mut binary = binary;
    let mut arrays = vec![None; columns.fields().len()];
    for tensor in inputs {
        let name = tensor.name.clone();
        let Ok(at) = columns.index_of(&name) else {
            let names: Vec<&str> = columns.fields().iter().map(|field| field.name().as_str()).collect();
            return Err(format!("there is no input `{name}`; there are {}", names.join(", ")));
        };
        if tensor.rows()? != rows {
            return Err(format!("input `{name}` has {} rows, and another {rows}", tensor.rows()?));
        }
        if arrays[at].is_some() {
            return Err(format!("input `{name}` is there twice"));
        }
        arrays[at] = Some(tensor.column(columns.field(at).data_type(), rows, &mut binary)?);
    }
    if binary.is_empty() { Ok((arrays, rows)) } else { Err(format!("{} bytes belong to no input", binary.len())) }
}

/// A batch of these columns; where there is none, all its values are missing.
pub(super) fn batch(columns: &SchemaRef, arrays: Vec<Option<ArrayRef>>, rows: usize) -> Result<RecordBatch, String> {
    let fields = columns.fields().iter().zip(arrays);
    let arrays =
        fields.map(|(field, array)| array.unwrap_or_else(|| new_null_array(field.data_type(), rows))).collect();
    RecordBatch::try_new(columns.clone(), arrays).map_err(|error| error.to_string())
}

/// What a type of column is called.
pub(super) fn datatype_of(kind: &DataType) -> &'static str {
    match kind {
        DataType::Boolean => "BOOL",
        DataType::Float64 => "FP64",
        DataType::Int64 | DataType::Timestamp(..) => "INT64",
        _ => "BYTES",
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{Field, Schema, TimeUnit};

    use super::*;

    fn columns() -> SchemaRef {
        let field = |name: &str, kind| Field::new(name, kind, true);
        Arc::new(Schema::new(vec![
            field("at", DataType::Timestamp(TimeUnit::Millisecond, None)),
            field("text", DataType::Utf8),
            field("float", DataType::Float64),
            field("int", DataType::Int64),
            field("bool", DataType::Boolean),
        ]))
    }

    fn read(inputs: Value, binary: &[u8]) -> Result<String, String> {
        let inputs: Vec<Tensor> = serde_json::from_value(inputs).map_err(|error| error.to_string())?;
        let (arrays, rows) = rows(inputs, &columns(), binary)?;
        let batch = batch(&columns(), arrays, rows)?;
        let show = |row| {
            let cell =
                |at| arrow::util::display::array_value_to_string(batch.column(at), row).expect("it can be shown");
            (0..5).map(cell).collect::<Vec<_>>().join(" ")
        };
        Ok((0..rows).map(show).collect::<Vec<_>>().join("; "))
    }

    #[test]
    fn tensors_are_columns() {
        let inputs = json!([
            {"name": "float", "shape": [2, 1], "datatype": "FP32", "data": [[1.5], [null]]},
            {"name": "int", "shape": [2], "datatype": "INT32", "data": [-3, 4.0]},
            {"name": "bool", "shape": [2], "datatype": "BOOL", "data": [true, 0]},
            {"name": "text", "shape": [2], "datatype": "BYTES", "data": ["ü", "b"]},
            {"name": "at", "shape": [2], "datatype": "BYTES", "data": ["2026-01-05T19:00:00Z", 1000]},
        ]);
        let wanted = "2026-01-05T19:00:00 ü 1.5 -3 true; 1970-01-01T00:00:01 b  4 false";
        assert_eq!(read(inputs, b"").as_deref(), Ok(wanted));
    }

    #[test]
    fn binary_data_is_taken_piece_by_piece() {
        let mut binary = Vec::new();
        binary.extend([1.5_f32, f32::NAN].map(f32::to_le_bytes).as_flattened());
        binary.extend([-3_i16, 300].map(i16::to_le_bytes).as_flattened());
        binary.extend(b"\x02\0\0\0ab\0\0\0\0");
        let tensor = |name: &str, datatype: &str, size: usize| json!({"name": name, "shape": [2], "datatype": datatype, "parameters": {"binary_data_size": size}});
        let inputs = json!([tensor("float", "FP32", 8), tensor("int", "INT16", 4), tensor("text", "BYTES", 10)]);
        assert_eq!(read(inputs.clone(), &binary).as_deref(), Ok(" ab 1.5 -3 ;    300 "));
        for cut in 0..binary.len() {
            assert!(read(inputs.clone(), &binary[..cut]).is_err(), "cut at {cut}");
        }
        binary.push(0);
        assert_eq!(read(inputs, &binary), Err("1 bytes belong to no input".to_owned()));
    }

    #[test]
    fn what_does_not_fit_is_told() {
        let tensor = |name: &str, shape: Value, datatype: &str, data: Value| json!({"name": name, "shape": shape, "datatype": datatype, "data": data});
        for (inputs, why) in [
            (json!([]), "no rows"),
            (json!([tensor("float", json!([0]), "FP64", json!([]))]), "no rows"),
            (json!([tensor("float", json!([1, 2]), "FP64", json!([1, 2]))]), "shape [1, 2]"),
            (json!([tensor("float", json!([2]), "FP64", json!([1]))]), "1 values for 2 rows"),
            (json!([tensor("float", json!([1]), "FP64", json!(["x"]))]), "\"x\" is no FP64"),
            (json!([tensor("int", json!([1]), "FP64", json!([1.5]))]), "1.5 is no INT64"),
            (json!([tensor("bool", json!([1]), "INT8", json!([2]))]), "2 is no BOOL"),
            (json!([tensor("nope", json!([1]), "FP64", json!([1]))]), "there are at, text, float, int, bool"),
            (json!([tensor("float", json!([1]), "FP16", json!([1]))]), "FP16, which is not known"),
            (
                json!([
                    tensor("float", json!([1]), "FP64", json!([1])),
                    tensor("float", json!([1]), "FP64", json!([1]))
                ]),
                "twice",
            ),
            (
                json!([
                    tensor("float", json!([1]), "FP64", json!([1])),
                    tensor("int", json!([2]), "INT64", json!([1, 2]))
                ]),
                "2 rows, and another 1",
            ),
        ] {
            let refused = read(inputs.clone(), b"").expect_err("it does not fit");
            assert!(refused.contains(why), "{inputs}: {refused}");
        }
    }
}
