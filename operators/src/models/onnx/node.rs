//! A node of a graph, as its operator reads it.

use std::sync::Arc;

use super::proto;
use super::value::{Done, Value, text};

/// What an operator does: from its inputs to its outputs, whose buffers it uses again.
pub(super) type Kernel = Box<dyn Fn(&Inputs<'_>, &mut [Value]) -> Done + Send + Sync>;

/// Where a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum At {
    /// Among the constants.
    Constant(u32),
    /// Among the slots.
    Slot(u32),
    /// Nowhere: an input that was left out.
    Nowhere,
}

/// The inputs of an operator.
pub(super) struct Inputs<'a> {
    pub(super) at: &'a [At],
    pub(super) constants: &'a [Value],
    pub(super) slots: &'a [Value],
}

impl<'a> Inputs<'a> {
    /// How many there are, those among them that were left out.
    pub(super) fn len(&self) -> usize {
        self.at.len()
    }

    /// One that may be left out.
    pub(super) fn maybe(&self, at: usize) -> Option<&'a Value> {
        match *self.at.get(at)? {
            At::Constant(at) => Some(&self.constants[at as usize]),
            At::Slot(at) => Some(&self.slots[at as usize]),
            At::Nowhere => None,
        }
    }

    /// One that is needed.
    pub(super) fn get(&self, at: usize) -> Done<&'a Value> {
        self.maybe(at).ok_or_else(|| format!("its input {at} is missing"))
    }

    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = Done<&'a Value>> + '_ {
        (0..self.len()).map(|at| self.get(at))
    }
}

/// A node.
pub(super) struct Node<'a> {
    pub(super) proto: &'a proto::Node,
    /// The version of its set of operators.
    pub(super) version: i64,
    /// Where its inputs are.
    pub(super) at: &'a [At],
    pub(super) constants: &'a [Value],
}

impl Node<'_> {
    fn attribute(&self, name: &str) -> Option<&proto::Attribute> {
        self.proto.attribute.iter().find(|attribute| attribute.name == name)
    }

    /// An input, if it is constant.
    pub(super) fn constant(&self, at: usize) -> Option<&Value> {
        match self.at.get(at)? {
            At::Constant(at) => Some(&self.constants[*at as usize]),
            _ => None,
        }
    }

    /// Whether it has an input that is not left out.
    pub(super) fn has_input(&self, at: usize) -> bool {
        self.at.get(at).is_some_and(|at| *at != At::Nowhere)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.attribute(name).is_some()
    }

    pub(super) fn maybe_int(&self, name: &str) -> Option<i64> {
        self.attribute(name).map(|attribute| attribute.i.unwrap_or_default())
    }

    pub(super) fn int(&self, name: &str, otherwise: i64) -> i64 {
        self.maybe_int(name).unwrap_or(otherwise)
    }

    pub(super) fn maybe_float(&self, name: &str) -> Option<f32> {
        self.attribute(name).map(|attribute| attribute.f.unwrap_or_default())
    }

    pub(super) fn float(&self, name: &str, otherwise: f32) -> f32 {
        self.maybe_float(name).unwrap_or(otherwise)
    }

    pub(super) fn maybe_text(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(self.attribute(name)?.s.as_deref().unwrap_or_default()).ok()
    }

    pub(super) fn text<'b>(&'b self, name: &str, otherwise: &'b str) -> &'b str {
        self.maybe_text(name).unwrap_or(otherwise)
    }

    pub(super) fn ints(&self, name: &str) -> &[i64] {
        self.attribute(name).map_or(&[], |attribute| &attribute.ints)
    }

    pub(super) fn floats(&self, name: &str) -> &[f32] {
        self.attribute(name).map_or(&[], |attribute| &attribute.floats)
    }

    pub(super) fn texts(&self, name: &str) -> Done<Vec<Arc<str>>> {
        self.attribute(name).map_or(&[][..], |attribute| &attribute.strings).iter().map(|bytes| text(bytes)).collect()
    }

    pub(super) fn tensor(&self, name: &str) -> Done<Option<Value>> {
        let read = |tensor| Value::read(tensor).map_err(|why| format!("its attribute `{name}` cannot be read: {why}"));
        self.attribute(name).and_then(|attribute| attribute.t.as_ref()).map(read).transpose()
    }

    /// Whole numbers that newer versions of an operator take as an input, and older ones as an attribute.
    pub(super) fn listed(&self, name: &str) -> Option<Vec<i64>> {
        self.has(name).then(|| self.ints(name).to_vec())
    }
}
