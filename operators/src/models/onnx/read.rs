//! A file as messages, if it is none that would take more memory than a model may.

use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use super::proto;
use super::value::Done;

/// The largest file.
const BYTES_MAX: usize = 1 << 29;
/// The largest number of messages, texts and lists in it: each takes some hundred bytes of memory, and two of the file.
const PARTS_MAX: usize = 1 << 20;

/// Which message is being looked through.
#[derive(Clone, Copy)]
enum Level {
    Model,
    Graph,
    Node,
    Attribute,
    /// What an input or output is, and the messages in it.
    Info,
    Type,
    TensorType,
    Shape,
    /// A tensor, or what has only texts in it.
    Leaf,
}

impl Level {
    /// What message the parts of a field are; none where they are bytes.
    fn below(self, field: u32) -> Option<Self> {
        Some(match (self, field) {
            (Self::Model, 7) => Self::Graph,
            (Self::Graph, 1) => Self::Node,
            (Self::Graph, 11 | 12) => Self::Info,
            (Self::Info, 2) => Self::Type,
            (Self::Type, 1) => Self::TensorType,
            (Self::TensorType, 2) => Self::Shape,
            (Self::Node, 5) => Self::Attribute,
            (Self::Model, 8 | 14) | (Self::Graph | Self::Attribute, 5) | (Self::Shape, 1) => Self::Leaf,
            _ => return None,
        })
    }
}

/// How many parts there are.
fn count(mut bytes: &[u8], level: Level, parts: &mut usize) -> Done {
    let damaged = |_| "it is no ONNX file, or damaged".to_owned();
    while !bytes.is_empty() {
        let (field, kind) = decode_key(&mut bytes).map_err(damaged)?;
        if kind != WireType::LengthDelimited {
            skip_field(kind, field, &mut bytes, DecodeContext::default()).map_err(damaged)?;
            continue;
        }
        let length = decode_varint(&mut bytes).map_err(damaged)?;
        let length = usize::try_from(length).ok().filter(|length| *length <= bytes.len());
        let (part, rest) = bytes.split_at(length.ok_or("it is no ONNX file, or cut short")?);
        bytes = rest;
        *parts += 1;
        if *parts > PARTS_MAX {
            return Err(format!("it has more than {PARTS_MAX} nodes, attributes, tensors and texts"));
        }
        if let Some(level) = level.below(field) {
            count(part, level, parts)?;
        }
    }
    Ok(())
}

/// The messages of a file.
pub(super) fn read(file: &[u8]) -> Done<proto::Model> {
    if file.len() > BYTES_MAX {
        return Err(format!("it has {} bytes, and {BYTES_MAX} at most are read", file.len()));
    }
    count(file, Level::Model, &mut 0)?;
    let model = proto::Model::decode(file).map_err(|error| format!("it is no ONNX file, or damaged: {error}"))?;
    if model.graph.is_none() {
        return Err("it is no ONNX file: it has no graph".to_owned());
    }
    Ok(model)
}
