//! Values in a graph: arrays of one type, whose buffers are used again from run to run.

use std::ops::Deref;
use std::sync::Arc;

use super::proto;

/// The largest number of dimensions.
pub(super) const RANK_MAX: usize = 8;
/// The largest number of elements of a value.
pub(super) const ELEMENTS_MAX: usize = 1 << 25;

/// What came out, or why nothing did.
pub(super) type Done<T = ()> = Result<T, String>;

/// The lengths of a value in each direction, the slowest first.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Dims {
    rank: usize,
    of: [usize; RANK_MAX],
}

impl Dims {
    /// Of these lengths, if they are few enough and there are not too many elements.
    pub(super) fn of(lengths: &[usize]) -> Done<Self> {
        if lengths.len() > RANK_MAX {
            return Err(format!("it has {} dimensions, and {RANK_MAX} at most are taken", lengths.len()));
        }
        // Lengths beside a zero count, too: parts of a shape are multiplied elsewhere.
        let product = lengths.iter().try_fold(1_usize, |product, length| product.checked_mul((*length).max(1)));
        if product.is_none_or(|elements| elements > ELEMENTS_MAX) {
            return Err(format!("its shape {lengths:?} has more than {ELEMENTS_MAX} elements"));
        }
        let mut of = [0; RANK_MAX];
        of[..lengths.len()].copy_from_slice(lengths);
        Ok(Self { rank: lengths.len(), of })
    }

    /// The same of whole numbers from a file.
    pub(super) fn signed(lengths: &[i64]) -> Done<Self> {
        let lengths: Option<Vec<usize>> = lengths.iter().map(|length| usize::try_from(*length).ok()).collect();
        Self::of(&lengths.ok_or("it has a negative length")?)
    }

    /// One number.
    pub(super) fn scalar() -> Self {
        Self::default()
    }

    /// How many elements there are.
    pub(super) fn elements(&self) -> usize {
        self.iter().product()
    }

    /// How far apart in memory elements are that are neighbours in each direction.
    pub(super) fn strides(&self) -> [usize; RANK_MAX] {
        let (mut strides, mut stride) = ([0; RANK_MAX], 1);
        for at in (0..self.rank).rev() {
            strides[at] = stride;
            stride *= self.of[at];
        }
        strides
    }

    /// An axis, which is counted from behind where it is negative.
    pub(super) fn axis(&self, axis: i64) -> Done<usize> {
        axis_of(axis, self.rank)
    }

    /// How many elements lie before an axis, along it, and behind it.
    pub(super) fn around(&self, axis: usize) -> (usize, usize, usize) {
        (self[..axis].iter().product(), self[axis], self[axis + 1..].iter().product())
    }

    /// The same with another length of an axis.
    pub(super) fn with(&self, axis: usize, length: usize) -> Done<Self> {
        let mut other = *self;
        other.of[axis] = length;
        Self::of(&other)
    }
}

impl Deref for Dims {
    type Target = [usize];

    fn deref(&self) -> &[usize] {
        &self.of[..self.rank]
    }
}

impl std::fmt::Debug for Dims {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        (**self).fmt(formatter)
    }
}

/// An axis of so many, which is counted from behind where it is negative.
pub(super) fn axis_of(axis: i64, rank: usize) -> Done<usize> {
    let from_front = if axis < 0 { axis + rank as i64 } else { axis };
    let found = usize::try_from(from_front).ok().filter(|axis| *axis < rank);
    found.ok_or_else(|| format!("there is no axis {axis} of {rank}"))
}

/// The elements. All whole numbers are wide ones; those of half precision are of single precision here.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Data {
    F32(Vec<f32>),
    F64(Vec<f64>),
    I64(Vec<i64>),
    Bool(Vec<bool>),
    Text(Vec<Arc<str>>),
}

/// What elements can be.
pub(super) trait Element: Clone + Default + PartialEq + 'static {
    fn slice(data: &Data) -> Option<&[Self]>;

    /// A buffer of this type: the one that is there, or a new one.
    fn buffer(data: &mut Data) -> &mut Vec<Self>;

    fn data(values: Vec<Self>) -> Data;
}

macro_rules! element {
    ($type:ty, $kind:ident) => {
        impl Element for $type {
            fn slice(data: &Data) -> Option<&[Self]> {
                if let Data::$kind(values) = data { Some(values) } else { None }
            }

            fn buffer(data: &mut Data) -> &mut Vec<Self> {
                if !matches!(data, Data::$kind(_)) {
                    *data = Data::$kind(Vec::new());
                }
                let Data::$kind(values) = data else { unreachable!("it has just become one") };
                values
            }

            fn data(values: Vec<Self>) -> Data {
                Data::$kind(values)
            }
        }
    };
}

element!(f32, F32);
element!(f64, F64);
element!(i64, I64);
element!(bool, Bool);
element!(Arc<str>, Text);

/// Does the same for elements of any type.
macro_rules! for_any {
    ($value:expr, $type:ident => $body:expr) => {
        match &$value.data {
            Data::F32(_) => {
                type $type = f32;
                $body
            }
            Data::F64(_) => {
                type $type = f64;
                $body
            }
            Data::I64(_) => {
                type $type = i64;
                $body
            }
            Data::Bool(_) => {
                type $type = bool;
                $body
            }
            Data::Text(_) => {
                type $type = std::sync::Arc<str>;
                $body
            }
        }
    };
}

/// Does the same for numbers of any type.
macro_rules! for_numbers {
    ($value:expr, $type:ident => $body:expr) => {
        match &$value.data {
            Data::F32(_) => {
                type $type = f32;
                $body
            }
            Data::F64(_) => {
                type $type = f64;
                $body
            }
            Data::I64(_) => {
                type $type = i64;
                $body
            }
            _ => Err(format!("it takes numbers, and not {}", $value.kind())),
        }
    };
}

/// Does the same for numbers of single or double precision.
macro_rules! for_floats {
    ($value:expr, $type:ident => $body:expr) => {
        match &$value.data {
            Data::F32(_) => {
                type $type = f32;
                $body
            }
            Data::F64(_) => {
                type $type = f64;
                $body
            }
            _ => Err(format!("it takes float or double, and not {}", $value.kind())),
        }
    };
}

pub(super) use {for_any, for_floats, for_numbers};

/// An array.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Value {
    pub(super) dims: Dims,
    pub(super) data: Data,
}

impl Default for Value {
    /// None at all.
    fn default() -> Self {
        Self { dims: Dims { rank: 1, of: [0; RANK_MAX] }, data: Data::F32(Vec::new()) }
    }
}

impl Value {
    /// Of these elements, as many as the lengths say.
    pub(super) fn new<T: Element>(dims: Dims, values: Vec<T>) -> Self {
        Self { dims, data: T::data(values) }
    }

    /// A row of elements.
    pub(super) fn row<T: Element>(values: Vec<T>) -> Done<Self> {
        Ok(Self { dims: Dims::of(&[values.len()])?, data: T::data(values) })
    }

    /// The elements, which have to be of this type.
    pub(super) fn as_of<T: Element>(&self) -> Done<&[T]> {
        T::slice(&self.data).ok_or_else(|| {
            let wanted = Self::new::<T>(Dims::default(), Vec::new());
            format!("it takes {} here, and not {}", wanted.kind(), self.kind())
        })
    }

    /// Makes it an array of this shape, to be filled: what is in it is anything.
    pub(super) fn shaped<T: Element>(&mut self, dims: Dims) -> &mut [T] {
        self.dims = dims;
        let buffer = T::buffer(&mut self.data);
        buffer.resize(dims.elements(), T::default());
        buffer
    }

    /// Makes it a copy, of another shape.
    pub(super) fn copy_as(&mut self, other: &Self, dims: Dims) -> Done {
        if dims.elements() != other.dims.elements() {
            return Err(format!("{:?} cannot be reshaped to {dims:?}", other.dims));
        }
        for_any!(other, T => self.shaped::<T>(dims).clone_from_slice(other.as_of::<T>()?));
        Ok(())
    }

    /// Its type as ONNX calls it.
    pub(super) fn kind(&self) -> &'static str {
        match &self.data {
            Data::F32(_) => "float",
            Data::F64(_) => "double",
            Data::I64(_) => "int64",
            Data::Bool(_) => "bool",
            Data::Text(_) => "string",
        }
    }

    /// Whole numbers: of a shape, or axes.
    pub(super) fn integers(&self) -> Done<&[i64]> {
        self.as_of::<i64>()
    }

    /// One whole number.
    pub(super) fn integer(&self) -> Done<i64> {
        match self.integers()? {
            [one] => Ok(*one),
            several => Err(format!("it takes one number here, and not {}", several.len())),
        }
    }

    /// The numbers in double precision.
    pub(super) fn doubles(&self) -> Done<Vec<f64>> {
        Ok(match &self.data {
            Data::F32(values) => values.iter().map(|value| f64::from(*value)).collect(),
            Data::F64(values) => values.clone(),
            Data::I64(values) => values.iter().map(|value| *value as f64).collect(),
            Data::Bool(values) => values.iter().map(|value| f64::from(*value)).collect(),
            Data::Text(_) => return Err("it takes numbers, and not string".to_owned()),
        })
    }

    /// From a file.
    pub(super) fn read(tensor: &proto::Tensor) -> Done<Self> {
        if tensor.data_location == proto::EXTERNAL {
            return Err("its numbers are in another file; export it as one file".to_owned());
        }
        let dims = Dims::signed(&tensor.dims)?;
        let data = elements(tensor)?;
        let value = Self { dims, data };
        let count = for_any!(value, T => value.as_of::<T>()?.len());
        if count != dims.elements() {
            return Err(format!("its shape is {dims:?}, and it has {count} elements"));
        }
        Ok(value)
    }
}

/// Numbers of `N` bytes each.
fn raw<const N: usize, T>(bytes: &[u8], of: impl Fn([u8; N]) -> T) -> Done<Vec<T>> {
    let (chunks, rest) = bytes.as_chunks::<N>();
    if rest.is_empty() {
        Ok(chunks.iter().map(|chunk| of(*chunk)).collect())
    } else {
        Err("it is cut short".to_owned())
    }
}

/// A number of half precision, by its bits: exact in single precision.
pub(super) fn half(bits: u16) -> f32 {
    let (sign, exponent, fraction) = (u32::from(bits >> 15) << 31, u32::from(bits >> 10) & 31, u32::from(bits) & 1023);
    match exponent {
        // Fractions of 2^-24.
        0 => f32::from_bits(sign | (fraction as f32 * 2.0_f32.powi(-24)).to_bits()),
        31 => f32::from_bits(sign | 0x7f80_0000 | fraction << 13),
        _ => f32::from_bits(sign | (exponent + 112) << 23 | fraction << 13),
    }
}

/// The elements of a file's tensor, in whichever field they are.
fn elements(tensor: &proto::Tensor) -> Done<Data> {
    let bytes = &tensor.raw_data;
    let is_raw = !bytes.is_empty();
    let whole = |values: &dyn Fn() -> Done<Vec<i64>>| {
        let listed = || tensor.int32_data.iter().map(|value| i64::from(*value)).collect();
        Ok(Data::I64(if is_raw { values()? } else { listed() }))
    };
    let bits = |of: fn(u16) -> f32| {
        let listed = || tensor.int32_data.iter().map(|value| of(*value as u16)).collect();
        let raw = || raw(bytes, |bytes| of(u16::from_le_bytes(bytes)));
        Ok(Data::F32(if is_raw { raw()? } else { listed() }))
    };
    match tensor.data_type {
        proto::FLOAT if is_raw => raw(bytes, f32::from_le_bytes).map(Data::F32),
        proto::FLOAT => Ok(Data::F32(tensor.float_data.clone())),
        proto::DOUBLE if is_raw => raw(bytes, f64::from_le_bytes).map(Data::F64),
        proto::DOUBLE => Ok(Data::F64(tensor.double_data.clone())),
        proto::INT64 if is_raw => raw(bytes, i64::from_le_bytes).map(Data::I64),
        proto::INT64 => Ok(Data::I64(tensor.int64_data.clone())),
        proto::INT32 => whole(&|| raw(bytes, |bytes| i64::from(i32::from_le_bytes(bytes)))),
        proto::INT16 => whole(&|| raw(bytes, |bytes| i64::from(i16::from_le_bytes(bytes)))),
        proto::UINT16 => whole(&|| raw(bytes, |bytes| i64::from(u16::from_le_bytes(bytes)))),
        proto::INT8 => whole(&|| raw(bytes, |bytes| i64::from(i8::from_le_bytes(bytes)))),
        proto::UINT8 => whole(&|| raw(bytes, |bytes| i64::from(u8::from_le_bytes(bytes)))),
        proto::UINT32 | proto::UINT64 if !is_raw => {
            Ok(Data::I64(tensor.uint64_data.iter().map(|value| *value as i64).collect()))
        }
        proto::UINT32 => whole(&|| raw(bytes, |bytes| i64::from(u32::from_le_bytes(bytes)))),
        proto::UINT64 => whole(&|| raw(bytes, |bytes| u64::from_le_bytes(bytes) as i64)),
        proto::BOOL if is_raw => Ok(Data::Bool(bytes.iter().map(|byte| *byte != 0).collect())),
        proto::BOOL => Ok(Data::Bool(tensor.int32_data.iter().map(|value| *value != 0).collect())),
        proto::FLOAT16 => bits(half),
        proto::BFLOAT16 => bits(|bits| f32::from_bits(u32::from(bits) << 16)),
        proto::TEXT => tensor.string_data.iter().map(|bytes| text(bytes)).collect::<Done<_>>().map(Data::Text),
        other => Err(format!("its elements are of type {other}, which is not known")),
    }
}

/// A text from a file.
pub(super) fn text(bytes: &[u8]) -> Done<Arc<str>> {
    std::str::from_utf8(bytes).map(Arc::from).map_err(|_| "it holds a text that is not UTF-8".to_owned())
}
