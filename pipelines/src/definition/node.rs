//! A definition as a tree that knows where everything stands.

use serde_json::{Number, Value};

use super::secret::{Reference, Secrets};

/// Where something stands in the text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// The byte after the last.
    pub end: usize,
    /// Line of the first byte, from 1.
    pub line: usize,
    /// Column of the first byte in characters, from 1.
    pub column: usize,
}

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Where.
    pub span: Span,
    /// What.
    pub data: Data,
    /// Whether the checks found nothing wrong with the form of this very node (its children have their own).
    pub sound: bool,
}

/// What a node holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// `null`, `~` or nothing at all.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A finite number.
    Number(Number),
    /// Text.
    Text(String),
    /// A secret that is kept elsewhere; it counts as text.
    Reference(Reference),
    /// A list.
    List(Vec<Node>),
    /// A map, in the order of the text; keys are unique.
    Map(Vec<Entry>),
}

/// A key with its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The key as written, without quotes.
    pub key: String,
    /// Where the key stands.
    pub key_span: Span,
    /// The value.
    pub value: Node,
}

impl Node {
    /// A sound node.
    pub fn new(span: Span, data: Data) -> Self {
        Self { span, data, sound: true }
    }

    /// The entries of a map; of anything else none.
    pub fn entries(&self) -> &[Entry] {
        match &self.data {
            Data::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The items of a list; of anything else none.
    pub fn items(&self) -> &[Self] {
        match &self.data {
            Data::List(items) => items,
            _ => &[],
        }
    }

    /// The entry of a key.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().find(|entry| entry.key == key)
    }

    /// The value of a key; a null counts as absent.
    pub fn get(&self, key: &str) -> Option<&Self> {
        self.entry(key).map(|entry| &entry.value).filter(|value| value.data != Data::Null)
    }

    /// The text, where it is text.
    pub fn text(&self) -> Option<&str> {
        match &self.data {
            Data::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Calls `look` with this node and all below it.
    pub fn visit<'a>(&'a self, look: &mut impl FnMut(&'a Self)) {
        look(self);
        self.children().for_each(|child| child.visit(look));
    }

    fn children(&self) -> impl Iterator<Item = &Self> {
        self.items().iter().chain(self.entries().iter().map(|entry| &entry.value))
    }

    /// How many values there are, this one included.
    pub(super) fn size(&self) -> usize {
        1 + self.children().map(Self::size).sum::<usize>()
    }

    /// How many values are nested in one another, this one included.
    pub(super) fn depth(&self) -> usize {
        1 + self.children().map(Self::depth).max().unwrap_or(0)
    }

    /// Whether nothing is wrong with the form of this node and of all below it.
    pub fn is_sound(&self) -> bool {
        self.sound && self.children().all(Self::is_sound)
    }

    /// What the node is, in the words of an error message.
    pub fn kind(&self) -> &'static str {
        match &self.data {
            Data::Null => "nothing",
            Data::Bool(_) => "true or false",
            Data::Number(number) if number.is_f64() => "a number with a fraction",
            Data::Number(_) => "a whole number",
            Data::Text(_) | Data::Reference(_) => "text",
            Data::List(_) => "a list",
            Data::Map(_) => "a map",
        }
    }

    /// The node as JSON, with the secrets that are known in place of their references.
    pub fn to_value(&self, secrets: &Secrets) -> Value {
        match &self.data {
            Data::Null => Value::Null,
            Data::Bool(value) => Value::Bool(*value),
            Data::Number(number) => Value::Number(number.clone()),
            Data::Text(text) => Value::String(text.clone()),
            Data::Reference(reference) => Value::String(secrets.value(reference)),
            Data::List(items) => Value::Array(items.iter().map(|item| item.to_value(secrets)).collect()),
            Data::Map(entries) => {
                Value::Object(entries.iter().map(|entry| (entry.key.clone(), entry.value.to_value(secrets))).collect())
            }
        }
    }

    /// Follows `path` as far as it goes: a path to a key that is missing ends at its parent.
    /// Gives what to point at (a scalar itself, but the key of a collection) and the node.
    pub fn locate(&self, path: &[String]) -> (Span, &Self) {
        let mut at = (self.span, self);
        for part in path {
            let node = at.1;
            let next = match &node.data {
                Data::Map(_) => node.entry(part).map(|entry| (entry.mark(), &entry.value)),
                Data::List(items) => {
                    part.parse().ok().and_then(|index: usize| items.get(index)).map(|item| (item.span, item))
                }
                _ => None,
            };
            match next {
                Some(next) => at = next,
                None => break,
            }
        }
        at
    }
}

impl Entry {
    /// What to point at when something is wrong with the value: the value if it is a scalar, else the key.
    pub fn mark(&self) -> Span {
        match self.value.data {
            Data::List(_) | Data::Map(_) | Data::Null => self.key_span,
            _ => self.value.span,
        }
    }
}
