//! Tensors of the Open Inference Protocol, version 2, and the rows that they make.
//!
//! A tensor is a column: of shape `[rows]` or `[rows, 1]`. A value that is missing is `null` in JSON, or not a number in binary
//! data.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use arrow::datatypes::{DataType, SchemaRef};
use millstream_connectors::formats::{Cell, timestamp as instant};
use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, SeqAccess, Visitor};

/// A tensor as it is sent.
#[derive(Debug, serde::Deserialize)]
pub(super) struct Tensor<'a> {
    #[serde(borrow)]
    pub(super) name: Cow<'a, str>,
    pub(super) shape: Shape,
    #[serde(borrow)]
    pub(super) datatype: Cow<'a, str>,
    #[serde(default, borrow)]
    pub(super) data: Values<'a>,
    #[serde(default)]
    pub(super) parameters: TensorParameters,
}

#[derive(Debug, Default, serde::Deserialize)]
pub(super) struct TensorParameters {
    binary_data_size: Option<usize>,
}

/// How long a tensor is in each dimension.
#[derive(Debug)]
pub(super) enum Shape {
    /// `[rows]` or `[rows, 1]`.
    Column(usize),
    /// Of anything else.
    Other(Vec<u64>),
}

/// Values one after the other; where there is one, as for most who ask, nothing is allocated.
#[derive(Debug)]
pub(super) enum Values<'a> {
    One(Cell<'a>),
    Many(Vec<Cell<'a>>),
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

impl Shape {
    pub(super) fn of(dimensions: &[u64]) -> Self {
        match dimensions {
            [rows] | [rows, 1] => Self::Column(usize::try_from(*rows).unwrap_or(usize::MAX)),
            other => Self::Other(other.to_vec()),
        }
    }
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Dimensions;
        impl<'de> Visitor<'de> for Dimensions {
            type Value = Shape;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a shape")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Shape, A::Error> {
                let (mut first, mut count, mut others) = ([0; 2], 0, Vec::new());
                while let Some(dimension) = items.next_element()? {
                    match first.get_mut(count) {
                        Some(place) => *place = dimension,
                        None if others.is_empty() => others = vec![first[0], first[1], dimension],
                        None => others.push(dimension),
                    }
                    count += 1;
                }
                Ok(if others.is_empty() { Shape::of(&first[..count]) } else { Shape::Other(others) })
            }
        }
        deserializer.deserialize_seq(Dimensions)
    }
}

impl Default for Values<'_> {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl<'a> FromIterator<Cell<'a>> for Values<'a> {
    fn from_iter<I: IntoIterator<Item = Cell<'a>>>(cells: I) -> Self {
        let mut values = Self::default();
        cells.into_iter().for_each(|cell| values.push(cell));
        values
    }
}

impl<'a> Values<'a> {
    fn push(&mut self, cell: Cell<'a>) {
        match self {
            Self::Many(cells) if cells.capacity() == 0 => *self = Self::One(cell),
            Self::Many(cells) => cells.push(cell),
            Self::One(first) => {
                let mut cells = Vec::with_capacity(8);
                cells.push(std::mem::replace(first, Cell::Missing));
                cells.push(cell);
                *self = Self::Many(cells);
            }
        }
    }

    fn as_slice(&self) -> &[Cell<'a>] {
        match self {
            Self::One(cell) => std::slice::from_ref(cell),
            Self::Many(cells) => cells,
        }
    }

    fn as_mut_slice(&mut self) -> &mut [Cell<'a>] {
        match self {
            Self::One(cell) => std::slice::from_mut(cell),
            Self::Many(cells) => cells,
        }
    }
}

impl<'a, 'de: 'a> Deserialize<'de> for Values<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut values = Values::default();
        Flat(&mut values).deserialize(deserializer)?;
        Ok(values)
    }
}

/// Appends a value, or all that are in lists, of any depth.
struct Flat<'v, 'a>(&'v mut Values<'a>);

impl<'de: 'a, 'a> DeserializeSeed<'de> for Flat<'_, 'a> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de: 'a, 'a> Visitor<'de> for Flat<'_, 'a> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("numbers, texts, true, false, null, or lists of them")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(Flat(&mut *self.0))?.is_some() {}
        Ok(())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<(), E> {
        self.0.push(Cell::float(value));
        Ok(())
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<(), E> {
        self.0.push(Cell::Int(value));
        Ok(())
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<(), E> {
        self.0.push(unsigned(value));
        Ok(())
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<(), E> {
        self.0.push(Cell::Bool(value));
        Ok(())
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        self.0.push(Cell::Missing);
        Ok(())
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<(), E> {
        self.0.push(Cell::Text(Cow::Borrowed(text)));
        Ok(())
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<(), E> {
        self.0.push(Cell::Text(Cow::Owned(text.to_owned())));
        Ok(())
    }
}

pub(super) fn unsigned<'a>(value: u64) -> Cell<'a> {
    i64::try_from(value).map_or(Cell::UInt(value), Cell::Int)
}

impl<'a> Tensor<'a> {
    /// How many rows it has.
    fn rows(&self) -> Result<usize, String> {
        match &self.shape {
            Shape::Column(rows) => Ok(*rows),
            Shape::Other(shape) => {
                Err(format!("input `{}` has the shape {shape:?}: a column is [rows] or [rows, 1]", self.name))
            }
        }
    }

    /// Its values, `rows` of them, of a column's type; binary ones are taken from the front of `binary`.
    fn column(self, kind: &DataType, rows: usize, binary: &mut &'a [u8]) -> Result<Values<'a>, String> {
        let Self { name, datatype, data: mut values, parameters, .. } = self;
        if datatype != "BYTES" && width(&datatype).is_none() {
            return Err(format!("input `{name}` has the datatype {datatype}, which is not known here"));
        }
        if let Some(size) = parameters.binary_data_size {
            let (bytes, rest) = binary
                .split_at_checked(size)
                .ok_or_else(|| format!("input `{name}`: there are less than {size} bytes left"))?;
            *binary = rest;
            values = from_binary(&datatype, bytes).map_err(|why| format!("input `{name}`: {why}"))?;
        }
        let cells = values.as_mut_slice();
        if cells.len() != rows {
            return Err(format!("input `{name}` has {} values for {rows} rows", cells.len()));
        }
        for cell in cells {
            if !fit(cell, kind).ok_or_else(|| format!("`{name}` is a column of {kind}, which cannot be asked with"))? {
                return Err(format!("input `{name}`: {} is no {}", Shown(cell), datatype_of(kind)));
            }
        }
        Ok(values)
    }
}

/// Makes a value one of this type; whether that can be. `None` where nothing can be of this type.
fn fit(cell: &mut Cell<'_>, kind: &DataType) -> Option<bool> {
    let fitting = match kind {
        DataType::Float64 if matches!(cell, Cell::Float(_)) => return Some(true),
        DataType::Int64 if matches!(cell, Cell::Int(_)) => return Some(true),
        DataType::Utf8 => return Some(matches!(cell, Cell::Text(_) | Cell::Missing)),
        DataType::Float64 => float(cell).map(Cell::Float),
        DataType::Int64 => integer(cell).map(Cell::Int),
        DataType::Boolean => boolean(cell).map(Cell::Bool),
        DataType::Timestamp(..) => timestamp(cell).map(Cell::Timestamp),
        _ => return None,
    };
    if *cell == Cell::Missing {
        return Some(true);
    }
    Some(fitting.map(|fitting| *cell = fitting).is_some())
}

fn float(cell: &Cell<'_>) -> Option<f64> {
    match *cell {
        Cell::Float(value) => Some(value),
        Cell::Int(value) => Some(value as f64),
        Cell::UInt(value) => Some(value as f64),
        Cell::Bool(value) => Some(f64::from(value)),
        _ => None,
    }
}

fn integer(cell: &Cell<'_>) -> Option<i64> {
    match *cell {
        Cell::Int(value) => Some(value),
        Cell::Float(value) => (value.fract() == 0.0 && value.abs() < 2_f64.powi(53)).then_some(value as i64),
        Cell::Bool(value) => Some(i64::from(value)),
        _ => None,
    }
}

fn boolean(cell: &Cell<'_>) -> Option<bool> {
    match integer(cell) {
        Some(0) => Some(false),
        Some(1) => Some(true),
        _ => None,
    }
}

/// Milliseconds since 1970, or RFC 3339.
fn timestamp(cell: &Cell<'_>) -> Option<i64> {
    match cell {
        Cell::Int(ms) => Some(*ms),
        Cell::Text(text) => instant::parse(text.as_bytes()),
        _ => None,
    }
}

/// A value as it is told in a message.
struct Shown<'c, 'a>(&'c Cell<'a>);

impl fmt::Display for Shown<'_, '_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Cell::Missing => formatter.write_str("null"),
            Cell::Int(value) | Cell::Timestamp(value) => write!(formatter, "{value}"),
            Cell::UInt(value) => write!(formatter, "{value}"),
            Cell::Float(value) => write!(formatter, "{value}"),
            Cell::Bool(value) => write!(formatter, "{value}"),
            Cell::Text(text) => write!(formatter, "{text:?}"),
        }
    }
}

fn width(datatype: &str) -> Option<usize> {
    WIDTHS.iter().find(|(known, _)| *known == datatype).map(|(_, width)| *width)
}

/// Little-endian values, one after the other; texts have their length in four bytes before them.
pub(super) fn from_binary<'a>(datatype: &str, bytes: &'a [u8]) -> Result<Values<'a>, String> {
    let Some(width) = width(datatype) else {
        let (mut rest, mut values) = (bytes, Values::default());
        while !rest.is_empty() {
            let text = rest.split_first_chunk::<4>().and_then(|(length, tail)| {
                let (text, tail) = tail.split_at_checked(u32::from_le_bytes(*length) as usize)?;
                rest = tail;
                std::str::from_utf8(text).ok()
            });
            values.push(Cell::Text(Cow::Borrowed(text.ok_or("a text is cut short, or is not UTF-8")?)));
        }
        return Ok(values);
    };
    if !bytes.len().is_multiple_of(width) {
        return Err(format!("{} bytes hold no whole number of {datatype}", bytes.len()));
    }
    let number = |bytes: &[u8]| {
        let mut wide = [0; 8];
        wide[..width].copy_from_slice(bytes);
        let bits = u64::from_le_bytes(wide);
        let shift = 64 - 8 * width as u32;
        match datatype {
            "BOOL" => Cell::Bool(bits != 0),
            "FP32" => Cell::float(f64::from(f32::from_bits(bits as u32))),
            "FP64" => Cell::float(f64::from_bits(bits)),
            _ if datatype.starts_with('U') => unsigned(bits),
            _ => Cell::Int((bits << shift).cast_signed() >> shift),
        }
    };
    Ok(bytes.chunks_exact(width).map(number).collect())
}

/// The columns that may be sent.
pub(super) struct Columns {
    pub(super) schema: SchemaRef,
    by_name: HashMap<String, usize>,
}

impl Columns {
    pub(super) fn new(schema: SchemaRef) -> Self {
        let by_name = schema.fields().iter().enumerate().map(|(at, field)| (field.name().clone(), at)).collect();
        Self { schema, by_name }
    }

    /// Where a column is; most send them in their order, so the guess is right.
    fn find(&self, name: &str, guess: usize) -> Result<usize, String> {
        let fields = self.schema.fields();
        if fields.get(guess).is_some_and(|field| field.name() == name) {
            return Ok(guess);
        }
        self.by_name.get(name).copied().ok_or_else(|| {
            let names: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
            format!("there is no input `{name}`; there are {}", names.join(", "))
        })
    }
}

/// Rows as they are sent, by column; columns that are not sent are missing.
#[derive(Debug)]
pub(super) struct Rows<'a> {
    columns: Vec<Option<Values<'a>>>,
    pub(super) count: usize,
}

impl<'a> Rows<'a> {
    /// The rows that tensors make.
    pub(super) fn of(inputs: Vec<Tensor<'a>>, columns: &Columns, binary: &'a [u8]) -> Result<Self, String> {
        let count = inputs.first().map_or(Ok(0), Tensor::rows)?;
        if count == 0 {
            return Err("there are no rows".to_owned());
        }
        let mut binary = binary;
        let mut found: Vec<Option<Values<'a>>> = columns.schema.fields().iter().map(|_| None).collect();
        for (guess, tensor) in inputs.into_iter().enumerate() {
            let at = columns.find(&tensor.name, guess)?;
            let rows = tensor.rows()?;
            if rows != count {
                return Err(format!("input `{}` has {rows} rows, and another {count}", tensor.name));
            }
            if found[at].is_some() {
                return Err(format!("input `{}` is there twice", tensor.name));
            }
            found[at] = Some(tensor.column(columns.schema.field(at).data_type(), count, &mut binary)?);
        }
        if binary.is_empty() {
            Ok(Self { columns: found, count })
        } else {
            Err(format!("{} bytes belong to no input", binary.len()))
        }
    }

    /// A row's values in the columns' order.
    pub(super) fn row(&self, row: usize) -> impl Iterator<Item = Cell<'_>> {
        self.columns.iter().map(move |values| match values {
            Some(values) => values.as_slice()[row].borrowed(),
            None => Cell::Missing,
        })
    }
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
    use std::sync::Arc;

    use arrow::datatypes::{Field, Schema, TimeUnit};
    use serde_json::{Value, json};

    use super::*;

    fn columns() -> Columns {
        let field = |name: &str, kind| Field::new(name, kind, true);
        Columns::new(Arc::new(Schema::new(vec![
            field("at", DataType::Timestamp(TimeUnit::Millisecond, None)),
            field("text", DataType::Utf8),
            field("float", DataType::Float64),
            field("int", DataType::Int64),
            field("bool", DataType::Boolean),
        ])))
    }

    fn read(inputs: &Value, binary: &[u8]) -> Result<String, String> {
        let text = inputs.to_string();
        let inputs: Vec<Tensor<'_>> = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let rows = Rows::of(inputs, &columns(), binary)?;
        let show = |row| rows.row(row).map(|cell| Shown(&cell).to_string()).collect::<Vec<_>>().join(" ");
        Ok((0..rows.count).map(show).collect::<Vec<_>>().join("; "))
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
        let wanted = "1767639600000 \"ü\" 1.5 -3 true; 1000 \"b\" null 4 false";
        assert_eq!(read(&inputs, b"").as_deref(), Ok(wanted));
    }

    #[test]
    fn binary_data_is_taken_piece_by_piece() {
        let mut binary = Vec::new();
        binary.extend([1.5_f32, f32::NAN].map(f32::to_le_bytes).as_flattened());
        binary.extend([-3_i16, 300].map(i16::to_le_bytes).as_flattened());
        binary.extend(b"\x02\0\0\0ab\0\0\0\0");
        let tensor = |name: &str, datatype: &str, size: usize| json!({"name": name, "shape": [2], "datatype": datatype, "parameters": {"binary_data_size": size}});
        let inputs = json!([tensor("float", "FP32", 8), tensor("int", "INT16", 4), tensor("text", "BYTES", 10)]);
        let wanted = "null \"ab\" 1.5 -3 null; null \"\" null 300 null";
        assert_eq!(read(&inputs, &binary).as_deref(), Ok(wanted));
        for cut in 0..binary.len() {
            assert!(read(&inputs, &binary[..cut]).is_err(), "cut at {cut}");
        }
        binary.push(0);
        assert_eq!(read(&inputs, &binary), Err("1 bytes belong to no input".to_owned()));
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
            (json!([tensor("int", json!([1]), "UINT64", json!([u64::MAX]))]), "18446744073709551615 is no INT64"),
            (json!([tensor("float", json!([1]), "FP64", json!([{"a": 1}]))]), "lists of them"),
            (json!([tensor("float", json!([]), "FP64", json!([]))]), "shape []"),
            (json!([tensor("float", json!([1, 1, 1, 2]), "FP64", json!([1, 2]))]), "shape [1, 1, 1, 2]"),
            (json!([tensor("float", json!([-1]), "FP64", json!([1]))]), "invalid value: integer `-1`"),
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
            let refused = read(&inputs, b"").expect_err("it does not fit");
            assert!(refused.contains(why), "{inputs}: {refused}");
        }
    }
}
