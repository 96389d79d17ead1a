//! YAML into the tree. Only the plain part of YAML is taken: one document, text keys, no tags but `!!str`.
//! Aliases are expanded, within limits, so that a small file cannot become a large tree.

use std::collections::BTreeMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Tag};
use serde_json::Number;

use super::node::{Data, Entry, Node, Span};
use super::secret::Reference;
use crate::report::Finding;

/// A definition is written by people; anything larger is a mistake.
const BYTES_MAX: usize = 1 << 20;
/// How many values a definition may hold once its aliases are expanded.
const NODES_MAX: usize = 100_000;
/// How deep values may be nested.
const DEPTH_MAX: usize = 64;

/// The tree of `text` (a null where there is none), and all that is wrong with its form.
pub(super) fn parse(text: &str) -> (Node, Vec<Finding>) {
    if text.len() > BYTES_MAX {
        let message = format!("the definition has {} bytes, the limit is {BYTES_MAX}", text.len());
        let finding = Finding::error(Span { line: 1, column: 1, ..Span::default() }, "too-large", message);
        return (Node::new(Span::default(), Data::Null), vec![finding]);
    }
    let mut builder = Builder::new(text);
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let step = match event {
            Ok((event, span)) => builder.event(event, builder.span(span.start, span.end)),
            Err(error) => Err(builder.syntax(&error)),
        };
        if let Err(finding) = step {
            builder.findings.push(finding);
            break;
        }
    }
    let root = builder.root.unwrap_or_else(|| Node::new(Span { line: 1, column: 1, ..Span::default() }, Data::Null));
    (root, builder.findings)
}

/// A collection that has begun.
struct Open {
    anchor: usize,
    span: Span,
    data: Partial,
}

enum Partial {
    List(Vec<Node>),
    Map { entries: Vec<Entry>, key: Option<(String, Span)> },
}

struct Builder<'a> {
    text: &'a str,
    /// The byte of each character, and of the end: the parser counts characters.
    bytes: Vec<usize>,
    stack: Vec<Open>,
    anchors: BTreeMap<usize, (Node, usize)>,
    nodes: usize,
    root: Option<Node>,
    findings: Vec<Finding>,
}

impl<'a> Builder<'a> {
    fn new(text: &'a str) -> Self {
        let bytes = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
        let (stack, anchors, findings) = (Vec::new(), BTreeMap::new(), Vec::new());
        Self { text, bytes, stack, anchors, nodes: 0, root: None, findings }
    }

    fn span(&self, from: Marker, to: Marker) -> Span {
        let byte = |index: usize| self.bytes[index.min(self.bytes.len() - 1)];
        let start = byte(from.index());
        let end = byte(to.index()).max(start);
        let end = start + self.text[start..end].trim_end().len();
        Span { start, end, line: from.line(), column: from.col() + 1 }
    }

    fn syntax(&self, error: &ScanError) -> Finding {
        let mark = *error.marker();
        let span = self.span(mark, mark);
        let line_start = self.text[..span.start].rfind('\n').map_or(0, |end| end + 1);
        let indent = self.text[line_start..].bytes().take_while(|byte| *byte == b' ').count();
        if self.text[line_start + indent..].starts_with('\t') {
            let at = line_start + indent;
            let tab = Span { start: at, end: at + 1, line: span.line, column: indent + 1 };
            return Finding::error(tab, "tab", "a tab cannot indent").help("indent with spaces");
        }
        Finding::error(span, "syntax", format!("this is not valid YAML: {}", error.info()))
    }

    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), Finding> {
        match event {
            Event::DocumentStart(_) if self.root.is_some() => {
                Err(Finding::error(span, "several-documents", "a definition is one YAML document")
                    .help("put the second one into a file of its own"))
            }
            Event::Scalar(text, style, anchor, tag) => {
                let node = self.scalar(&text, style, tag.as_deref(), span)?;
                self.close(node, anchor, 1)
            }
            Event::SequenceStart(anchor, tag) => self.open(anchor, tag.as_deref(), span, Partial::List(Vec::new())),
            Event::MappingStart(anchor, tag) => {
                self.open(anchor, tag.as_deref(), span, Partial::Map { entries: Vec::new(), key: None })
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(span),
            Event::Alias(anchor) => match self.anchors.get(&anchor) {
                Some((node, size)) if self.nodes + size <= NODES_MAX => {
                    let (node, size) = (node.clone(), *size);
                    if self.stack.len() + node.depth() > DEPTH_MAX {
                        return Err(too_deep(span));
                    }
                    self.close(node, 0, size)
                }
                Some(_) => Err(too_many(span)),
                None => Err(Finding::error(span, "syntax", "an alias cannot stand inside of what it names")),
            },
            _ => Ok(()),
        }
    }

    fn open(&mut self, anchor: usize, tag: Option<&Tag>, span: Span, data: Partial) -> Result<(), Finding> {
        if let Some(tag) = tag {
            return Err(unknown_tag(tag, span));
        }
        if self.stack.len() >= DEPTH_MAX {
            return Err(too_deep(span));
        }
        if let Some(Open { data: Partial::Map { key: None, .. }, .. }) = self.stack.last() {
            return Err(Finding::error(span, "bad-key", "a key must be a single word or quoted text"));
        }
        self.stack.push(Open { anchor, span, data });
        Ok(())
    }

    fn end(&mut self, end: Span) -> Result<(), Finding> {
        let Some(open) = self.stack.pop() else { return Ok(()) };
        let to = end.end.max(open.span.start);
        let to = open.span.start + self.text[open.span.start..to].trim_end().len();
        let data = match open.data {
            Partial::List(items) => Data::List(items),
            Partial::Map { entries, .. } => Data::Map(self.unique(entries)),
        };
        self.close(Node::new(Span { end: to, ..open.span }, data), open.anchor, 1)
    }

    /// Keeps the first entry of each key.
    fn unique(&mut self, entries: Vec<Entry>) -> Vec<Entry> {
        let mut first: BTreeMap<String, usize> = BTreeMap::new();
        let (mut kept, findings) = (Vec::with_capacity(entries.len()), &mut self.findings);
        for entry in entries {
            if let Some(line) = first.get(&entry.key) {
                let message = format!("the key `{}` is given twice", entry.key);
                findings.push(
                    Finding::error(entry.key_span, "duplicate-key", message).help(format!("it is also in line {line}")),
                );
                continue;
            }
            first.insert(entry.key.clone(), entry.key_span.line);
            kept.push(entry);
        }
        kept
    }

    /// Puts a finished node where it belongs. `size` is how many values it newly brings.
    fn close(&mut self, node: Node, anchor: usize, size: usize) -> Result<(), Finding> {
        self.nodes += size;
        if anchor != 0 {
            // What is kept for aliases counts too: it takes as much memory.
            let size = node.size();
            self.nodes += size;
            self.anchors.insert(anchor, (node.clone(), size));
        }
        if self.nodes > NODES_MAX {
            return Err(too_many(node.span));
        }
        match self.stack.last_mut().map(|open| &mut open.data) {
            None => self.root = Some(node),
            Some(Partial::List(items)) => items.push(node),
            Some(Partial::Map { entries, key }) => match key.take() {
                Some((key, key_span)) => entries.push(Entry { key, key_span, value: node }),
                None => *key = Some(as_key(self.text, node)?),
            },
        }
        Ok(())
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, tag: Option<&Tag>, span: Span) -> Result<Node, Finding> {
        let plain = match tag {
            None => style == ScalarStyle::Plain,
            Some(tag) if tag.is_yaml_core_schema() && tag.suffix == "str" => false,
            Some(tag) => return Err(unknown_tag(tag, span)),
        };
        match resolve(text) {
            Plain::Data(data) if plain => return Ok(Node::new(span, data)),
            Plain::OutOfRange if plain => {
                let message = format!("`{text}` is no number that can be used here");
                return Err(Finding::error(span, "bad-number", message).help("put quotes around it if it is text"));
            }
            _ => {}
        }
        let data = match Reference::parse(text) {
            Ok(Some(reference)) => Data::Reference(reference),
            Ok(None) => Data::Text(text.to_owned()),
            Err((code, message, help)) => {
                self.findings.push(Finding::error(span, code, message).help(help));
                Data::Text(text.to_owned())
            }
        };
        Ok(Node::new(span, data))
    }
}

/// What a scalar without quotes is.
enum Plain {
    Data(Data),
    /// A number without a finite value.
    OutOfRange,
    Text,
}

/// Follows YAML's core schema.
fn resolve(text: &str) -> Plain {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Plain::Data(Data::Null),
        "true" | "True" | "TRUE" => return Plain::Data(Data::Bool(true)),
        "false" | "False" | "FALSE" => return Plain::Data(Data::Bool(false)),
        ".nan" | ".NaN" | ".NAN" | ".inf" | ".Inf" | ".INF" | "-.inf" | "-.Inf" | "-.INF" => return Plain::OutOfRange,
        _ => {}
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') || !digits.contains(|c: char| c.is_ascii_digit()) {
        return Plain::Text;
    }
    let unsigned = text.strip_prefix('+').unwrap_or(text);
    let whole = match text.get(..2) {
        Some("0x") => u64::from_str_radix(&text[2..], 16).ok().map(Number::from),
        Some("0o") => u64::from_str_radix(&text[2..], 8).ok().map(Number::from),
        _ => unsigned.parse::<u64>().map(Number::from).or_else(|_| unsigned.parse::<i64>().map(Number::from)).ok(),
    };
    match (whole, unsigned.parse::<f64>()) {
        (Some(number), _) => Plain::Data(Data::Number(number)),
        (None, Ok(number)) => {
            Number::from_f64(number).map_or(Plain::OutOfRange, |number| Plain::Data(Data::Number(number)))
        }
        (None, Err(_)) => Plain::Text,
    }
}

/// A key is the text that was written: `null` and `1` are names like any other.
fn as_key(text: &str, node: Node) -> Result<(String, Span), Finding> {
    let key = match node.data {
        Data::Text(key) => key,
        Data::Null | Data::Bool(_) | Data::Number(_) => text[node.span.start..node.span.end].to_owned(),
        _ => return Err(Finding::error(node.span, "bad-key", "a key must be a single word or quoted text")),
    };
    Ok((key, node.span))
}

fn unknown_tag(tag: &Tag, span: Span) -> Finding {
    Finding::error(span, "tag", format!("the tag `{tag}` has no meaning here")).help("leave it out")
}

fn too_deep(span: Span) -> Finding {
    Finding::error(span, "too-deep", format!("values are nested more than {DEPTH_MAX} deep"))
}

fn too_many(span: Span) -> Finding {
    Finding::error(span, "too-large", format!("the definition holds more than {NODES_MAX} values"))
        .help("aliases count with all that they stand for")
}
